/* math: functions of one element, and the operations on rows of a transformer that need no weights' layout.
 * Part of generic.inc.h. The polynomials are our own minimax fits (relative error of each below 4e-9 before rounding). */

/* e^(x - n ln 2), n the whole number nearest to x / ln 2. */
INLINE v16 v16_exp_fraction(v16 x, v16 n) {
    v16 r = v16_fnma(n, v16_set1(0x1.62e430p-1f), x);
    r = v16_fnma(n, v16_set1(-0x1.05c610p-29f), r);
    v16 p = v16_set1(0x1.6a1a6ep-10f);
    p = v16_fma(p, r, v16_set1(0x1.123fc6p-7f));
    p = v16_fma(p, r, v16_set1(0x1.555916p-5f));
    p = v16_fma(p, r, v16_set1(0x1.55548ap-3f));
    p = v16_fma(p, r, v16_set1(0x1.fffffcp-2f));
    return v16_add(v16_fma(p, v16_mul(r, r), r), v16_set1(1));
}

/* e^x: x = n ln 2 + r, |r| <= ln 2 / 2; e^r = 1 + r + r^2 P(r); then times 2^n in two steps, so that results below 2^-126
 * round once and results above f32's range become infinite. About 1 ulp. Beyond +-110 the result no longer changes. */
INLINE v16 v16_exp(v16 x) {
    const v16 magic = v16_set1(12582912.0f), magic127 = v16_set1(12582912.0f + 127); /* 1.5 * 2^23: adding rounds to an integer */
    x = v16_smaller(v16_set1(110), x);
    x = v16_larger(v16_set1(-110), x);
    v16 n = v16_sub(v16_fma(x, v16_set1(0x1.715476p+0f), magic), magic);
    v16 p = v16_exp_fraction(x, n);
    v16 half = v16_sub(v16_fma(n, v16_set1(0.5f), magic), magic);
    p = v16_mul(p, v16_shl23(v16_add(half, magic127)));
    return v16_mul(p, v16_shl23(v16_add(v16_sub(n, half), magic127)));
}

/* e^x of x <= 0 as attention uses it, with fewer operations: x = (n + f) ln 2, |f| <= 1/2; 2^f = 1 + f P(f), exactly 1 at 0; then times
 * 2^n. Error below 2.5e-7 + 1.5e-8 |x|. Below -87, where e^x would soon not be a normal number, it is 0, and one scaling is enough. */
INLINE v16 v16_exp_weight(v16 x) {
    const v16 log2e = v16_set1(0x1.715476p+0f), magic127 = v16_set1(12582912.0f + 127);
    v16 n127 = v16_fma(x, log2e, magic127), f = v16_fma(x, log2e, v16_sub(magic127, n127));
    v16 p = v16_set1(0x1.5bba14p-10f);
    p = v16_fma(p, f, v16_set1(0x1.3cea88p-7f));
    p = v16_fma(p, f, v16_set1(0x1.c6b752p-5f));
    p = v16_fma(p, f, v16_set1(0x1.ebf9bcp-3f));
    p = v16_fma(p, f, v16_set1(0x1.62e42ap-1f));
    p = v16_fma(p, f, v16_set1(1));
    return v16_if_gt(v16_set1(-87), x, v16_set1(0), v16_mul(p, v16_shl23(n127)));
}

/* tanh x: x + x^3 P(x^2) below 0.6, else 1 - 2 / (e^2|x| + 1) with the sign of x. About 2 ulp. */
INLINE v16 v16_tanh(v16 x) {
    v16 a = v16_abs(x), s = v16_mul(x, x), one = v16_set1(1);
    v16 p = v16_set1(-0x1.830be6p-8f);
    p = v16_fma(p, s, v16_set1(0x1.54e014p-6f));
    p = v16_fma(p, s, v16_set1(-0x1.b89ed8p-5f));
    p = v16_fma(p, s, v16_set1(0x1.1109dcp-3f));
    p = v16_fma(p, s, v16_set1(-0x1.55553ep-2f));
    v16 small = v16_fma(v16_mul(x, s), p, x);
    v16 large = v16_sub(one, v16_div(v16_set1(2), v16_add(v16_exp(v16_add(a, a)), one)));
    return v16_if_gt(a, v16_set1(0.6f), v16_copysign(large, x), small);
}

/* erf x: x + x P(x^2) below 1, else 1 - e^(-|x| Q(|x|)) with the sign of x, Q fitted to -log(erfc x) / x up to 4, where
 * erf rounds to 1. About 2 ulp. */
INLINE v16 v16_erf(v16 x) {
    v16 a = v16_abs(x), s = v16_mul(x, x);
    v16 p = v16_set1(0x1.4ae4c6p-14f);
    p = v16_fma(p, s, v16_set1(-0x1.a485e8p-11f));
    p = v16_fma(p, s, v16_set1(0x1.5419f4p-8f));
    p = v16_fma(p, s, v16_set1(-0x1.b7fbb4p-6f));
    p = v16_fma(p, s, v16_set1(0x1.ce2d20p-4f));
    p = v16_fma(p, s, v16_set1(-0x1.81273ep-2f));
    p = v16_fma(p, s, v16_set1(0x1.06eba8p-3f));
    v16 small = v16_fma(p, x, x);
    v16 t = v16_smaller(v16_set1(4), a);
    v16 q = v16_set1(0x1.08dbf8p-18f);
    q = v16_fma(q, t, v16_set1(-0x1.178cb2p-15f));
    q = v16_fma(q, t, v16_set1(-0x1.da1928p-14f));
    q = v16_fma(q, t, v16_set1(0x1.977016p-9f));
    q = v16_fma(q, t, v16_set1(-0x1.784fc8p-6f));
    q = v16_fma(q, t, v16_set1(0x1.b0526cp-4f));
    q = v16_fma(q, t, v16_set1(0x1.455d0ap-1f));
    q = v16_fma(q, t, v16_set1(0x1.20eaf0p+0f));
    v16 large = v16_sub(v16_set1(1), v16_exp(v16_sub(v16_set1(0), v16_mul(q, t))));
    return v16_if_gt(a, v16_set1(1), v16_copysign(large, x), small);
}

INLINE v16 v16_act(act_kind kind, v16 x) {
    v16 one = v16_set1(1), half = v16_mul(v16_set1(0.5f), x);
    switch (kind) {
    case ACT_SILU: return v16_div(x, v16_add(one, v16_exp(v16_sub(v16_set1(0), x))));
    case ACT_GELU_TANH: {
        v16 cube = v16_mul(v16_mul(x, x), x), u = v16_fma(v16_set1(0.044715f), cube, x);
        return v16_mul(half, v16_add(one, v16_tanh(v16_mul(v16_set1(0.797884561f), u))));
    }
    case ACT_GELU_ERF: return v16_mul(half, v16_add(one, v16_erf(v16_mul(x, v16_set1(0.707106781f)))));
    default: return v16_larger(v16_set1(0), x);
    }
}

static void act(act_kind kind, float *x, int n) {
    for (int i = 0; i < n; i += 16) v16_store_n(x + i, v16_act(kind, v16_load_n(x + i, n - i)), n - i);
}

static void glu(act_kind kind, float *y, const float *gate_up, int n) {
    for (int i = 0; i < n; i += 16)
        v16_store(y + i, v16_mul(v16_act(kind, v16_load(gate_up + 2 * (size_t)i)), v16_load(gate_up + 2 * (size_t)i + 16)));
}

static void rmsnorm(float *y, const float *x, const float *w, int n, float eps) {
    v16 sum = v16_set1(0);
    for (int i = 0; i < n; i += 16) {
        v16 v = v16_load_n(x + i, n - i);
        sum = v16_fma(v, v, sum);
    }
    v16 r = v16_set1(1 / sqrtf(v16_sum(sum) / (float)n + eps));
    for (int i = 0; i < n; i += 16) {
        v16 v = v16_mul(v16_load_n(x + i, n - i), r);
        v16_store_n(y + i, w ? v16_mul(v, v16_load_n(w + i, n - i)) : v, n - i);
    }
}

static void layernorm(float *y, const float *x, const float *w, const float *b, int n, float eps) {
    v16 sum = v16_set1(0), square = sum;
    for (int i = 0; i < n; i += 16) sum = v16_add(sum, v16_load_n(x + i, n - i));
    v16 mean = v16_set1(v16_sum(sum) / (float)n);
    for (int i = 0; i < n; i += 16) {
        v16 c = v16_sub(v16_load_n(x + i, n - i), mean);
        if (n - i < 16) { /* lanes past the end add nothing */
            float part[16];
            v16_store(part, c);
            c = v16_load_n(part, n - i);
        }
        square = v16_fma(c, c, square);
    }
    v16 r = v16_set1(1 / sqrtf(v16_sum(square) / (float)n + eps));
    for (int i = 0; i < n; i += 16) {
        v16 c = v16_mul(v16_sub(v16_load_n(x + i, n - i), mean), r), scale = w ? v16_load_n(w + i, n - i) : v16_set1(1);
        v16_store_n(y + i, b ? v16_fma(c, scale, v16_load_n(b + i, n - i)) : v16_mul(c, scale), n - i);
    }
}

static void rope(float *x, size_t ld, int n_heads, const float *cos, const float *sin, int n_freq) {
    for (int h = 0; h < n_heads; h++, x += ld)
        for (int i = 0; i < n_freq; i += 16) {
            int n = n_freq - i;
            v16 a = v16_load_n(x + i, n), b = v16_load_n(x + n_freq + i, n), c = v16_load_n(cos + i, n), s = v16_load_n(sin + i, n);
            v16_store_n(x + i, v16_fnma(b, s, v16_mul(a, c)), n);
            v16_store_n(x + n_freq + i, v16_fma(a, s, v16_mul(b, c)), n);
        }
}

static void add_scaled(float *x, const float *y, float scale, int n) {
    v16 s = v16_set1(scale);
    for (int i = 0; i < n; i += 16) v16_store_n(x + i, v16_fma(v16_load_n(y + i, n - i), s, v16_load_n(x + i, n - i)), n - i);
}

/* `rows` rows of x and `wide` times 16 columns stay in registers while all ranks pass. */
INLINE void add_ranks_block(float *x, size_t ldx, const float *y, size_t ldy, const float *s, size_t lds, int n_ranks, int rows, int wide) {
    v16 acc[4][4];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < wide; j++) acc[i][j] = v16_load(x + (size_t)i * ldx + 16 * j);
    for (int r = 0; r < n_ranks; r++)
        UNROLL for (int i = 0; i < rows; i++) {
            v16 scale = v16_set1(s[(size_t)i * lds + (size_t)r]);
            UNROLL for (int j = 0; j < wide; j++) acc[i][j] = v16_fma(v16_load(y + (size_t)r * ldy + 16 * j), scale, acc[i][j]);
        }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < wide; j++) v16_store(x + (size_t)i * ldx + 16 * j, acc[i][j]);
}

/* n columns of `rows` rows: `wide` times 16 at once as far as they go. */
#define ADD_RANKS(rows, wide)                                                                                                  \
    for (; j + 16 * (wide) <= n; j += 16 * (wide))                                                                             \
        add_ranks_block(x + (size_t)i * ldx + j, ldx, y + j, ldy, s + (size_t)i * lds, lds, n_ranks, rows, wide)
static void add_ranks(float *x, size_t ldx, int m, const float *y, size_t ldy, const float *s, size_t lds, int n_ranks, int n) {
    for (int i = 0, rows; i < m; i += rows) {
        int j = 0;
        rows = m - i < 4 ? 1 : 4;
        if (rows == 4) {
            ADD_RANKS(4, 2);
            ADD_RANKS(4, 1);
        } else {
            ADD_RANKS(1, 4);
            ADD_RANKS(1, 1);
        }
    }
}
#undef ADD_RANKS

static void scale_by(float *x, float s, int n) {
    for (int i = 0; i < n; i += 16) v16_store_n(x + i, v16_mul(v16_load_n(x + i, n - i), v16_set1(s)), n - i);
}

INLINE v16 v16_softcap(v16 x, float cap) { return v16_mul(v16_set1(cap), v16_tanh(v16_div(x, v16_set1(cap)))); }

static void softcap(float *x, float cap, int n) {
    for (int i = 0; i < n; i += 16) v16_store_n(x + i, v16_softcap(v16_load_n(x + i, n - i), cap), n - i);
}

static void softmax(float *x, int n) {
    v16 top = v16_set1(-INFINITY), sum = v16_set1(0);
    int whole = n / 16 * 16;
    for (int i = 0; i < whole; i += 16) top = v16_larger(v16_load(x + i), top);
    float max = v16_max(top);
    for (int i = whole; i < n; i++) max = x[i] > max ? x[i] : max; /* a NaN makes the sum NaN, and so all of x */
    for (int i = 0; i < n; i += 16) {
        v16_store_n(x + i, v16_exp(v16_sub(v16_load_n(x + i, n - i), v16_set1(max))), n - i);
        sum = v16_add(sum, v16_load_n(x + i, n - i));
    }
    v16 total = v16_set1(v16_sum(sum));
    for (int i = 0; i < n; i += 16) v16_store_n(x + i, v16_div(v16_load_n(x + i, n - i), total), n - i);
}

static float mean_square(const float *x, int n) {
    v16 sum = v16_set1(0);
    for (int i = 0; i < n; i += 16) {
        v16 v = v16_load_n(x + i, n - i);
        sum = v16_fma(v, v, sum);
    }
    return v16_sum(sum) / (float)n;
}

static void mul(float *x, const float *y, int n) {
    for (int i = 0; i < n; i += 16) v16_store_n(x + i, v16_mul(v16_load_n(x + i, n - i), v16_load_n(y + i, n - i)), n - i);
}

/* Lanes from n on are zeros: they must add nothing to the deviation. */
INLINE v16 first_lanes(v16 x, int n) {
    float part[16];
    if (n >= 16) return x;
    v16_store(part, x);
    return v16_load_n(part, n);
}

static void sparsify(float *gate_up, int n, float sparsity) {
    v16 sum = v16_set1(0), square = sum;
    for (int i = 0; i < n; i += 16) sum = v16_add(sum, v16_load_n(gate_up + 2 * (size_t)i, n - i));
    v16 mean = v16_set1(v16_sum(sum) / (float)n);
    for (int i = 0; i < n; i += 16) {
        v16 c = first_lanes(v16_sub(v16_load_n(gate_up + 2 * (size_t)i, n - i), mean), n - i);
        square = v16_fma(c, c, square);
    }
    v16 cutoff = v16_fma(v16_set1(sqrtf(v16_sum(square) / (float)n)), v16_set1(sparsity), mean);
    for (int i = 0; i < n; i += 16) {
        v16 x = v16_sub(v16_load_n(gate_up + 2 * (size_t)i, n - i), cutoff);
        v16_store_n(gate_up + 2 * (size_t)i, v16_larger(v16_set1(0), x), n - i);
    }
}
