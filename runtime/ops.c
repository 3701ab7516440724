/* ops: cuts each operation into tasks for the pool (ops.h). The kernels define the result of every row and panel alone, so
 * no cut can change a bit; the choice here is only for speed. It must not know layers, files or instruction sets. */
#include "runtime/ops.h"

#include <math.h>
#include <string.h>

/* A worker's block of an MLP's inner product lies in the second cache: rows x panels of gates and ups. It has at least so many panels:
 * few of int8 activations, so that weights are unpacked seldom; more of f32 ones, which kernels may prepare once for some panels. */
enum { INNER_FLOATS = 1 << 16, INNER_LEAST_INT8 = 8, INNER_LEAST = 32 };

/* A partial result of attention, of a row and query head, as the kernel gives it: [pad16(hd)] values, max, sum. */
static size_t part_floats(int hd) { return round_up((size_t)hd, PANEL) + PANEL; }

/* Rows of one sequence that go through a KV head's pages together: so many that a segment is read from memory seldom, so few that
 * their results lie in the second cache. */
static int rows_at_once(int heads) { return max_int(1, 128 / heads); }

static void lay_int8(int8_rows *r, carve *c, size_t rows, size_t k) {
    r->q = carve_take(c, rows * k);
    r->scale = carve_take(c, rows * (k / GROUP) * sizeof(float));
    r->sum = carve_take(c, rows * (k / GROUP) * sizeof(int32_t));
}

void ops_layout(exec *x, carve *c, int max_rows, int max_k, int d, int d_ff, int n_heads, int n_kv_heads, int hd, int ctx) {
    size_t m = (size_t)max_rows;
    size_t part = part_floats(hd), workers = (size_t)pool_size(x->pool);
    int heads = n_heads / n_kv_heads;
    lay_int8(&x->plain, c, m, round_up((size_t)max_k, GROUP));
    lay_int8(&x->normed, c, m, round_up((size_t)d, GROUP));
    lay_int8(&x->inner, c, m, round_up((size_t)d_ff, GROUP));
    x->inner_worker = carve_take(c, workers * INNER_FLOATS * sizeof(float));
    /* Steps of few rows are cut by segment; at 4 tasks a worker enough rows keep everyone busy without. */
    size_t split_rows = (size_t)max_int(8, (int)((4 * workers + (size_t)n_kv_heads - 1) / (size_t)n_kv_heads)),
           segments = (size_t)ctx / ATTN_SEGMENT + 1;
    x->attn_part_floats = split_rows * (size_t)n_heads * segments * part;
    x->attn_part = carve_take(c, x->attn_part_floats * sizeof(float));
    x->max_queries = heads * rows_at_once(heads);
    x->attn_worker_floats = 2 * (size_t)x->max_queries * part; /* the result so far, and the next segment's */
    x->attn_worker = carve_take(c, workers * x->attn_worker_floats * sizeof(float));
    x->attn_query = carve_take(c, workers * (size_t)x->max_queries * sizeof *x->attn_query);
    x->attn_block = carve_take(c, (m + 1) * sizeof *x->attn_block);
    x->ranks = carve_take(c, m * (size_t)x->max_ranks * sizeof(float));
}

/* Tasks for n equal pieces of work of `cost` bytes or operations each: one if the whole is not worth waking anyone; else as many for
 * each worker, to even things out, but no smaller than TASK, beside which it costs little to take one. */
static int task_count(const exec *x, int n, double cost) {
    enum { WORTH = 1 << 15, TASK = 1 << 16, PER_WORKER = 8 };
    int workers = pool_size(x->pool);
    double all = (double)n * cost, each = all / workers / TASK;
    if (workers == 1 || all < WORTH) return 1;
    return min_int(n, workers * (each < 1 ? 1 : each < PER_WORKER ? (int)each : PER_WORKER));
}

static int cut(int n, int task, int n_tasks) { return (int)((int64_t)n * task / n_tasks); }

/* ---- matmul ---- */

acts ops_rows(const float *x, size_t ldx, int m, int k) { return (acts){ .m = m, .k = k, .x = x, .ldx = ldx }; }

static bool takes_int8(const exec *x, const mat *w) { return !x->exact && (w->type == W_Q8 || w->type == W_Q4); }

static acts with_int8(acts a, const int8_rows *r) {
    a.q = r->q;
    a.scale = r->scale;
    a.sum = r->sum;
    return a;
}

/* Row i's columns [first, first + n) to int8; first is a group's. */
static void to_int8(const exec *x, const acts *a, int i, int first, int n) {
    size_t groups = round_up((size_t)a->k, GROUP) / GROUP, at = (size_t)i * groups + (size_t)first / GROUP;
    x->k->quantize(a->x + (size_t)i * a->ldx + (size_t)first, n, a->q + at * GROUP, a->scale + at, a->sum + at);
}

static acts rows_from(const acts *a, int row, int n) {
    size_t groups = round_up((size_t)a->k, GROUP) / GROUP, at = (size_t)row * groups;
    acts part = *a;
    part.m = n;
    part.x += (size_t)row * a->ldx;
    if (!a->q) return part;
    part.q += at * GROUP;
    part.scale += at;
    part.sum += at;
    return part;
}

/* A product on its way: what its tasks read. */
typedef struct product {
    exec *x;
    const mat *w;
    acts a;
    float *y;
    size_t ldy;
    int n_tasks;
} product;

static void quantize_rows(void *arg, int task, int worker) {
    (void)worker;
    const product *t = arg;
    for (int i = cut(t->a.m, task, t->n_tasks); i < cut(t->a.m, task + 1, t->n_tasks); i++) to_int8(t->x, &t->a, i, 0, t->a.k);
}

/* a x of all the matrix's adapters, side by side. */
static void multiply_ranks(exec *x, const mat *w, const acts *a) {
    float *ranks = x->ranks;
    for (const lora *l = w->lora; l; ranks += round_up((size_t)l->a.n, PANEL), l = l->next) {
        ops_matmul(x, &l->a, a, ranks, (size_t)x->max_ranks);
        for (int i = 0; i < a->m && l->scale != 1; i++) x->k->scale(ranks + (size_t)i * (size_t)x->max_ranks, l->scale, l->a.n);
    }
}

/* All that comes before the tasks: the activations in the form that the matrix takes, and the inner side of its adapters. */
static product begin_product(exec *x, const mat *w, const acts *a, float *y, size_t ldy) {
    product t = { .x = x, .w = w, .a = *a, .y = y, .ldy = ldy };
    if (x->before) x->before(x->before_arg, w, a->x, a->ldx, a->m);
    if (takes_int8(x, w) && !a->q) {
        t.a = with_int8(*a, &x->plain);
        t.n_tasks = task_count(x, a->m, w->k);
        pool_run(x->pool, quantize_rows, &t, t.n_tasks);
    }
    x->bytes += mat_bytes(w);
    x->macs += (uint64_t)w->n * (uint64_t)w->k * (uint64_t)a->m;
    multiply_ranks(x, w, a);
    return t;
}

static int panels_of(const mat *w) { return (w->n + PANEL - 1) / PANEL; }

/* What a panel costs, for task_count. */
static double panel_cost(const product *t) { return (double)PANEL * t->w->k * (t->a.m < 4 ? 1 : t->a.m / 4.0); }

/* y[n][ldy] = rows [row, row + n) times panels [p0, p1), and what the adapters add: a block of panels at a time, so that its part
 * of b stays in the cache while all rows pass. */
static void multiply(const product *t, int row, int n, int p0, int p1, float *y, size_t ldy) {
    enum { BLOCK = 64 };
    const exec *x = t->x;
    mat part = mat_rows(t->w, p0 * PANEL, (p1 - p0) * PANEL);
    acts a = rows_from(&t->a, row, n);
    x->k->matmul[part.type][a.q != NULL](&part, &a, y, ldy, 0, p1 - p0);
    const float *ranks = x->ranks + (size_t)row * (size_t)x->max_ranks;
    for (const lora *l = t->w->lora; l; ranks += round_up((size_t)l->a.n, PANEL), l = l->next)
        for (int p = p0; p < p1; p += BLOCK)
            x->k->add_ranks(y + (size_t)(p - p0) * PANEL, ldy, n, l->b + (size_t)p * PANEL, l->ldb, ranks, (size_t)x->max_ranks, l->a.n,
                            min_int(BLOCK, p1 - p) * PANEL);
}

static void matmul_panels(void *arg, int task, int worker) {
    (void)worker;
    const product *t = arg;
    int p0 = cut(panels_of(t->w), task, t->n_tasks), p1 = cut(panels_of(t->w), task + 1, t->n_tasks);
    multiply(t, 0, t->a.m, p0, p1, t->y + (size_t)p0 * PANEL, t->ldy);
}

void ops_matmul(exec *x, const mat *w, const acts *a, float *y, size_t ldy) {
    if (a->m == 0) return;
    product t = begin_product(x, w, a, y, ldy);
    t.n_tasks = task_count(x, panels_of(w), panel_cost(&t));
    pool_run(x->pool, matmul_panels, &t, t.n_tasks);
}

/* Buffers are shared by matrices of different widths, so the padding is zeroed, not assumed. */
static void zero_tail(float *y, int n) { memset(y + n, 0, (round_up((size_t)n, GROUP) - (size_t)n) * sizeof *y); }

/* ---- the inner activations of an MLP ---- */

typedef struct inner_task {
    product in;     /* y: of the activations */
    acts out;       /* the same, as the next product reads them */
    bool gated;
    act_kind kind;
    int unit, block; /* columns: tasks are cut at units, and worked on in blocks of */
    int rows;        /* so many rows */
    int n_tasks;
} inner_task;

/* Columns [first, end) of rows [row, row + n): product, activation and int8, while they lie in the worker's cache. */
static void inner_block(const inner_task *t, float *work, int row, int n, int first, int end) {
    const kernels *k = t->in.x->k;
    int halves = t->gated ? 2 : 1, p0 = first / PANEL * halves, p1 = min_int(end / PANEL * halves, panels_of(t->in.w)),
        used = min_int(end, t->out.k) - first;
    float *y = t->in.y + (size_t)row * t->in.ldy + (size_t)first, *sums = t->gated ? work : y;
    size_t ld = t->gated ? (size_t)(halves * t->block) : t->in.ldy;
    multiply(&t->in, row, n, p0, p1, sums, ld);
    for (int i = 0; i < n; i++, y += t->in.ldy, sums += ld) {
        if (t->gated) k->glu(t->kind, y, sums, (int)round_up((size_t)used, PANEL));
        else k->act(t->kind, y, used);
        if (end >= t->out.k) zero_tail(y - first, t->out.k);
        if (t->out.q) to_int8(t->in.x, &t->out, row + i, first, used);
    }
}

static void inner_columns(void *arg, int task, int worker) {
    const inner_task *t = arg;
    const exec *x = t->in.x;
    float *work = x->inner_worker + (size_t)worker * INNER_FLOATS;
    int units = (t->out.k + t->unit - 1) / t->unit, end = cut(units, task + 1, t->n_tasks) * t->unit;
    for (int first = cut(units, task, t->n_tasks) * t->unit; first < end; first += t->block)
        for (int row = 0; row < t->out.m; row += t->rows)
            inner_block(t, work, row, min_int(t->rows, t->out.m - row), first, min_int(first + t->block, end));
}

/* A group of 64 columns is made int8 by the task that makes all of it; where there are too few groups to keep everyone busy, tasks are
 * cut finer and the next product makes the int8 itself. */
acts ops_inner(exec *x, const mat *w, bool gated, act_kind kind, const acts *a, const mat *reader, float *y, size_t ldy) {
    int groups = (reader->k + GROUP - 1) / GROUP, halves = gated ? 2 : 1;
    bool whole = groups >= 4 * pool_size(x->pool);
    inner_task t = { .out = ops_rows(y, ldy, a->m, reader->k), .gated = gated, .kind = kind, .unit = whole ? GROUP : PANEL };
    if (a->m == 0) return t.out;
    t.in = begin_product(x, w, a, y, ldy);
    t.block = max_int(INNER_FLOATS / 2 / a->m / GROUP * GROUP, (t.in.a.q ? INNER_LEAST_INT8 : INNER_LEAST) / 2 * PANEL);
    t.rows = INNER_FLOATS / 2 / t.block;
    if (whole && takes_int8(x, reader)) t.out = with_int8(t.out, &x->inner);
    t.n_tasks = task_count(x, (reader->k + t.unit - 1) / t.unit, panel_cost(&t.in) * halves * (t.unit / PANEL));
    pool_run(x->pool, inner_columns, &t, t.n_tasks);
    return t.out;
}

/* ---- row by row ---- */

typedef struct row_task {
    exec *x;
    float *y;
    const float *in, *w, *b;
    float *gates;
    acts out;
    size_t ldx, ldy;
    int m, n, n_tasks;
    float eps;
    act_kind kind;
    const mat *embed;
    const int32_t *tok;
    void (*row)(const struct row_task *t, int i);
} row_task;

static void run_rows(void *arg, int task, int worker) {
    (void)worker;
    row_task *t = arg;
    for (int i = cut(t->m, task, t->n_tasks); i < cut(t->m, task + 1, t->n_tasks); i++) {
        t->row(t, i);
        if (t->out.q) to_int8(t->x, &t->out, i, 0, t->n);
    }
}

static void rows(exec *x, row_task *t) {
    t->x = x;
    t->n_tasks = task_count(x, t->m, t->n);
    pool_run(x->pool, run_rows, t, t->n_tasks);
}

static void rmsnorm_row(const row_task *t, int i) { t->x->k->rmsnorm(t->y + (size_t)i * t->ldy, t->in + (size_t)i * t->ldx, t->w, t->n, t->eps); }
static void layernorm_row(const row_task *t, int i) {
    t->x->k->layernorm(t->y + (size_t)i * t->ldy, t->in + (size_t)i * t->ldx, t->w, t->b, t->n, t->eps);
}

static void sparse_glu_row(const row_task *t, int i) {
    float *gate_up = t->gates + (size_t)i * t->ldx, *y = t->y + (size_t)i * t->ldy;
    t->x->k->sparsify(gate_up, t->n, t->eps);
    t->x->k->glu(t->kind, y, gate_up, (int)round_up((size_t)t->n, PANEL));
    zero_tail(y, t->n);
}

static void act_row(const row_task *t, int i) {
    float *y = t->y + (size_t)i * t->ldy;
    t->x->k->act(t->kind, y, t->n);
    zero_tail(y, t->n);
}

static void add_row(const row_task *t, int i) { t->x->k->add(t->y + (size_t)i * t->ldy, t->in + (size_t)i * t->ldx, t->eps, t->n); }

static void embed_row(const row_task *t, int i) {
    float *y = t->y + (size_t)i * t->ldy;
    t->x->k->row_load(t->embed, t->tok[i], y);
    if (t->eps != 1) t->x->k->scale(y, t->eps, t->n);
}

acts ops_norm(exec *x, int kind, float *y, const float *in, size_t ld, int m, const float *w, const float *b, int n, float eps, const mat *reader) {
    row_task t = { .y = y, .in = in, .w = w, .b = b, .ldx = ld, .ldy = ld, .m = m, .n = n, .eps = eps, .out = ops_rows(y, ld, m, n),
                   .row = kind ? layernorm_row : rmsnorm_row };
    if (reader && takes_int8(x, reader)) t.out = with_int8(t.out, &x->normed);
    rows(x, &t);
    return t.out;
}

void ops_embed(exec *x, const mat *embed, const int32_t *tok, int m, float *y, size_t ld, float scale) {
    rows(x, &(row_task){ .y = y, .ldy = ld, .m = m, .n = embed->k, .embed = embed, .tok = tok, .eps = scale, .row = embed_row });
}

void ops_sparse_glu(exec *x, act_kind kind, float *y, size_t ldy, float *gate_up, size_t ldx, int m, int n, float sparsity) {
    rows(x, &(row_task){ .y = y, .gates = gate_up, .ldx = ldx, .ldy = ldy, .m = m, .n = n, .kind = kind, .eps = sparsity, .row = sparse_glu_row });
}

void ops_act(exec *x, act_kind kind, float *y, size_t ld, int m, int n) {
    rows(x, &(row_task){ .y = y, .ldy = ld, .m = m, .n = n, .kind = kind, .row = act_row });
}

/* The n_used largest of a row of weights, by repeated search: there are few. */
static void route_row(float *w, int n, int n_used, bool renorm, int *chosen) {
    float sum = 0;
    for (int j = 0; j < n_used; j++) {
        int best = -1;
        for (int i = 0; i < n; i++) {
            bool taken = false;
            for (int c = 0; c < j; c++) taken |= chosen[c] == i;
            if (!taken && (best < 0 || w[i] > w[best])) best = i;
        }
        chosen[j] = best;
    }
    for (int j = 1; j < n_used; j++) /* ascending, so that sums over experts have one order */
        for (int c = j; c > 0 && chosen[c - 1] > chosen[c]; c--) {
            int t = chosen[c];
            chosen[c] = chosen[c - 1];
            chosen[c - 1] = t;
        }
    for (int j = 0; j < n_used; j++) sum += w[chosen[j]];
    for (int j = 0; renorm && j < n_used; j++) w[chosen[j]] /= sum;
}

void ops_route(exec *x, float *route, size_t ld, int m, int n, int n_used, bool renorm, int *chosen) {
    for (int i = 0; i < m; i++) {
        x->k->softmax(route + (size_t)i * ld, n);
        route_row(route + (size_t)i * ld, n, n_used, renorm, chosen + (size_t)i * (size_t)n_used);
    }
}

static void scale_row(const row_task *t, int i) { t->x->k->scale(t->y + (size_t)i * t->ldy, t->eps, t->n); }

void ops_scale(exec *x, float *y, size_t ld, int m, int n, float s) {
    rows(x, &(row_task){ .y = y, .ldy = ld, .m = m, .n = n, .eps = s, .row = scale_row });
}

void ops_add(exec *x, float *y, const float *in, size_t ld, int m, int n, float scale) {
    rows(x, &(row_task){ .y = y, .in = in, .ldx = ld, .ldy = ld, .m = m, .n = n, .eps = scale, .row = add_row });
}

void ops_rope_table(exec *x, const float *inv_freq, int n_freq, float factor, const int *pos, int m, float *cos, float *sin) {
    (void)x;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n_freq; j++) {
            float *c = cos + (size_t)i * (size_t)n_freq + j, *s = sin + (size_t)i * (size_t)n_freq + j;
            sincos_exact((float)pos[i] * inv_freq[j], s, c); /* the angle is rounded to f32 first, as the reference does */
            *c *= factor;
            *s *= factor;
        }
}

void ops_pool(double *sum, const float *hidden, size_t ld, int first, int n, int d, int pooling) {
    for (int i = 0; i < n; i++) {
        const float *row = hidden + (size_t)i * ld;
        if (pooling == 1 && first + i > 0) return;
        for (int j = 0; j < d; j++) sum[j] = pooling == 2 ? (first + i > 0 ? sum[j] : 0) + row[j] : row[j];
    }
}

void ops_pooled(const double *sum, int n, int d, bool normalize, float *out) {
    double square = 0;
    for (int j = 0; j < d; j++) {
        out[j] = (float)(sum[j] / n);
        square += (double)out[j] * out[j];
    }
    for (int j = 0; normalize && square > 0 && j < d; j++) out[j] = (float)(out[j] / sqrt(square));
}

/* ---- attention ---- */

typedef struct append_task {
    exec *x;
    const qkv_rows *r;
    int n_tasks;
} append_task;

static void norm_heads(const kernels *k, float *x, const float *w, int n_heads, int hd, bool whole, float eps) {
    if (!w) return;
    if (whole) k->rmsnorm(x, x, w, n_heads * hd, eps);
    for (int h = 0; !whole && h < n_heads; h++) k->rmsnorm(x + (size_t)h * (size_t)hd, x + (size_t)h * (size_t)hd, w, hd, eps);
}

static void layernorm_heads(const kernels *k, float *x, const float *w, const float *b, int n_heads, int hd, bool own, float eps) {
    for (int h = 0; w && h < n_heads; h++) {
        size_t at = (size_t)h * (size_t)hd, from = own ? at : 0;
        k->layernorm(x + at, x + at, w + from, b ? b + from : NULL, hd, eps);
    }
}

static void norm_queries(const kernels *k, const qkv_rows *r, float *q) {
    if (r->norm_kind) layernorm_heads(k, q, r->q_norm, r->q_norm_bias, r->n_heads, r->hd, r->norm_whole, r->eps);
    else norm_heads(k, q, r->q_norm, r->n_heads, r->hd, r->norm_whole, r->eps);
}

static void norm_keys(const kernels *k, const qkv_rows *r, float *key) {
    if (r->norm_kind) layernorm_heads(k, key, r->k_norm, r->k_norm_bias, r->n_kv_heads, r->hd, r->norm_whole, r->eps);
    else norm_heads(k, key, r->k_norm, r->n_kv_heads, r->hd, r->norm_whole, r->eps);
}

static void append_row(const exec *x, const qkv_rows *r, int i) {
    const kernels *k = x->k;
    size_t hd = (size_t)r->hd;
    float *q = r->qkv + (size_t)i * r->ld, *key = q + r->k_at, *value = q + r->v_at;
    const float *c = r->n_freq ? r->cos + (size_t)i * (size_t)r->n_freq : NULL, *s = r->n_freq ? r->sin + (size_t)i * (size_t)r->n_freq : NULL;
    norm_queries(k, r, q);
    if (r->n_freq) k->rope(q, hd, r->n_heads, c, s, r->n_freq);
    k->scale(q, r->attn_scale, r->n_heads * r->hd);
    if (!r->store) return;
    norm_keys(k, r, key);
    norm_heads(k, value, r->v_norm, r->n_kv_heads, r->hd, false, r->eps);
    if (r->n_freq) k->rope(key, hd, r->n_kv_heads, c, s, r->n_freq);
    const kv_pool *p = r->seq[i]->pool;
    char *page = (char *)(uintptr_t)r->seq[i]->page[r->group][r->pos[i] / KV_PAGE];
    for (int h = 0; h < r->n_kv_heads; h++) {
        char *block = page + kv_block_at(p, r->slot, h);
        k->kv_store(p->type, block, block + p->k_bytes, r->pos[i] % KV_PAGE, key + (size_t)h * hd, value + (size_t)h * hd, r->hd);
    }
}

static void append_rows(void *arg, int task, int worker) {
    (void)worker;
    append_task *t = arg;
    for (int i = cut(t->r->m, task, t->n_tasks); i < cut(t->r->m, task + 1, t->n_tasks); i++) append_row(t->x, t->r, i);
}

void ops_rope_append(exec *x, const qkv_rows *r) {
    append_task t = { x, r, task_count(x, r->m, 4.0 * (r->n_heads + r->n_kv_heads) * r->hd) };
    pool_run(x->pool, append_rows, &t, t.n_tasks);
}

typedef struct attn_task {
    exec *x;
    const attn_rows *r;
    int heads, n_blocks, n_segments; /* query heads a KV head; blocks of rows; segments of the longest row */
    size_t ld;                       /* floats of a part */
} attn_task;

/* A row's segments of 512 positions: numbers first to last. */
static void row_segments(const attn_rows *r, int i, int *first, int *last) {
    *first = kv_first(r->window, r->pos[i]) / ATTN_SEGMENT;
    *last = (r->end[i] - 1) / ATTN_SEGMENT;
}

static void block_segments(const attn_rows *r, int begin, int end, int *first, int *last) {
    row_segments(r, begin, first, last);
    for (int i = begin + 1; i < end; i++) {
        int a, b;
        row_segments(r, i, &a, &b);
        *first = min_int(*first, a);
        *last = max_int(*last, b);
    }
}

/* Attention of rows [begin, end) of one sequence, where they see it, over one segment of a KV head. part(row, head) is where a
 * result goes: base + (row - begin) * row_floats + head * ld, or the other base if the row began in an earlier segment. */
static void attend_segment(const attn_task *t, int begin, int end, int kvh, int segment, attn_query *query, float *fresh, float *later,
                           size_t row_floats) {
    const attn_rows *r = t->r;
    const kv_pool *p = r->seq[begin]->pool;
    size_t k_at = kv_block_at(p, r->slot, kvh);
    attn_job job = { .query = query, .hd = r->hd, .page = r->seq[begin]->page[r->group], .k_at = k_at, .v_at = k_at + p->k_bytes,
                     .type = p->type, .softcap = r->softcap };
    for (int i = begin; i < end; i++) {
        int t0 = kv_first(r->window, r->pos[i]), t1 = min_int((segment + 1) * ATTN_SEGMENT, r->end[i]);
        float *out = (t0 / ATTN_SEGMENT < segment ? later : fresh) + (size_t)(i - begin) * row_floats;
        t0 = max_int(segment * ATTN_SEGMENT, t0);
        for (int h = kvh * t->heads; h < (kvh + 1) * t->heads && t0 < t1; h++, out += t->ld)
            query[job.n++] = (attn_query){ .q = r->q + (size_t)i * r->ldq + (size_t)h * (size_t)r->hd, .t0 = t0, .t1 = t1, .out = out,
                                           .bias = r->bias ? r->bias + (size_t)h * r->ld_bias + (size_t)(r->bias_zero - r->pos[i]) : NULL };
    }
    t->x->k->attention(&job);
}

static void finish(const attn_task *t, int i, int kvh, const float *part) {
    const attn_rows *r = t->r;
    for (int h = 0; h < t->heads; h++, part += t->ld) {
        float *y = r->y + (size_t)i * r->ldy + (size_t)(kvh * t->heads + h) * (size_t)r->hd;
        memcpy(y, part, (size_t)r->hd * sizeof *y);
        t->x->k->scale(y, 1 / part[t->ld - PANEL + 1], r->hd);
    }
}

static void merge(const attn_task *t, float *into, const float *next) {
    for (int h = 0; h < t->heads; h++) t->x->k->attn_merge(into + (size_t)h * t->ld, next + (size_t)h * t->ld, (int)t->ld - PANEL);
}

/* One block of rows and KV head, all segments in order: a segment's keys and values serve all rows from the cache. */
static void attend_whole(void *arg, int task, int worker) {
    const attn_task *t = arg;
    const attn_rows *r = t->r;
    exec *x = t->x;
    int block = task / r->n_kv_heads, kvh = task % r->n_kv_heads, begin = x->attn_block[block], end = x->attn_block[block + 1], first, last;
    size_t row_floats = (size_t)t->heads * t->ld;
    float *sofar = x->attn_worker + (size_t)worker * x->attn_worker_floats, *next = sofar + x->attn_worker_floats / 2;
    attn_query *query = x->attn_query + (size_t)worker * (size_t)x->max_queries;
    block_segments(r, begin, end, &first, &last);
    for (int s = first; s <= last; s++) {
        attend_segment(t, begin, end, kvh, s, query, sofar, next, row_floats);
        for (int i = begin; i < end; i++) {
            int a, b;
            row_segments(r, i, &a, &b);
            if (s > a && s <= b) merge(t, sofar + (size_t)(i - begin) * row_floats, next + (size_t)(i - begin) * row_floats);
        }
    }
    for (int i = begin; i < end; i++) finish(t, i, kvh, sofar + (size_t)(i - begin) * row_floats);
}

/* Parts of a step of few rows: [row][kv head][segment][head][ld]. */
static float *split_part(const attn_task *t, int i, int kvh, int s) {
    return t->x->attn_part + (((size_t)i * (size_t)t->r->n_kv_heads + (size_t)kvh) * (size_t)t->n_segments + (size_t)s) * (size_t)t->heads * t->ld;
}

static void attend_split(void *arg, int task, int worker) {
    const attn_task *t = arg;
    exec *x = t->x;
    int s = task % t->n_segments, kvh = task / t->n_segments % t->r->n_kv_heads, block = task / t->n_segments / t->r->n_kv_heads;
    int begin = x->attn_block[block], end = x->attn_block[block + 1], first, last;
    block_segments(t->r, begin, end, &first, &last);
    if (s < first || s > last) return;
    float *out = split_part(t, begin, kvh, s);
    attend_segment(t, begin, end, kvh, s, x->attn_query + (size_t)worker * (size_t)x->max_queries, out, out,
                   (size_t)(split_part(t, 1, 0, 0) - split_part(t, 0, 0, 0)));
}

static void merge_split(const attn_task *t, int i, int kvh) {
    int first, last;
    row_segments(t->r, i, &first, &last);
    float *sofar = split_part(t, i, kvh, first);
    for (int s = first + 1; s <= last; s++) merge(t, sofar, split_part(t, i, kvh, s));
    finish(t, i, kvh, sofar);
}

/* Neighbouring rows of one sequence, at most `most`, to a block. */
static int cut_blocks(const attn_rows *r, int most, int *block) {
    int n = 0;
    for (int i = 0; i < r->m; i++)
        if (n == 0 || r->seq[i] != r->seq[block[n - 1]] || i - block[n - 1] == most) block[n++] = i;
    block[n] = r->m;
    return n;
}

/* Cache bytes that rows of one sequence see, each position once. */
static uint64_t block_bytes(const attn_rows *r, int begin, int end) {
    int first = INT32_MAX, last = 0;
    for (int i = begin; i < end; i++) first = min_int(first, kv_first(r->window, r->pos[i])), last = max_int(last, r->end[i]);
    return (uint64_t)(last - first) * (uint64_t)r->n_kv_heads * kv_position_bytes(r->seq[begin]->pool->type, r->hd);
}

void ops_attention(exec *x, const attn_rows *r) {
    attn_task t = { .x = x, .r = r, .heads = r->n_heads / r->n_kv_heads, .ld = part_floats(r->hd), .n_segments = 1 };
    double positions = 0;
    for (int i = 0; i < r->m; i++) {
        t.n_segments = max_int(t.n_segments, (r->end[i] - 1) / ATTN_SEGMENT + 1);
        positions += r->end[i] - kv_first(r->window, r->pos[i]);
    }
    x->macs += (uint64_t)positions * 2 * (uint64_t)(r->n_heads * r->hd);
    t.n_blocks = cut_blocks(r, rows_at_once(t.heads), x->attn_block);
    for (int b = 0; b < t.n_blocks; b++) x->bytes += block_bytes(r, x->attn_block[b], x->attn_block[b + 1]);
    int n = t.n_blocks * r->n_kv_heads, workers = pool_size(x->pool);
    size_t parts = (size_t)r->m * (size_t)r->n_kv_heads * (size_t)t.n_segments * (size_t)t.heads * t.ld;
    if (n < 4 * workers && t.n_segments > 1 && workers > 1 && parts <= x->attn_part_floats) {
        pool_run(x->pool, attend_split, &t, n * t.n_segments);
        for (int i = 0; i < r->m * r->n_kv_heads; i++) merge_split(&t, i / r->n_kv_heads, i % r->n_kv_heads);
    } else if (positions * r->n_heads * r->hd < 1 << 16) {
        for (int i = 0; i < n; i++) attend_whole(&t, i, 0);
    } else
        pool_run(x->pool, attend_whole, &t, n);
}
