/* ops: cuts each operation into tasks for the pool (ops.h). The kernels define the result of every row and panel alone, so
 * no cut can change a bit; the choice here is only for speed. It must not know layers, files or instruction sets. */
#include "runtime/ops.h"

#include <math.h>
#include <string.h>

/* A partial result of attention, of a row and query head, as the kernel gives it: [pad16(hd)] values, max, sum. */
static size_t part_floats(int hd) { return round_up((size_t)hd, PANEL) + PANEL; }

/* Rows of one sequence that go through a KV head's pages together: so many that a segment is read from memory seldom, so few that
 * their results lie in the second cache. */
static int rows_at_once(int heads) { return max_int(1, 128 / heads); }

void ops_layout(exec *x, carve *c, int max_rows, int max_k, int n_heads, int n_kv_heads, int hd, int ctx) {
    size_t kp = round_up((size_t)max_k, GROUP), groups = kp / GROUP, m = (size_t)max_rows;
    size_t part = part_floats(hd), workers = (size_t)pool_size(x->pool);
    int heads = n_heads / n_kv_heads;
    x->max_rows = max_rows;
    x->max_k = max_k;
    x->q = carve_take(c, m * kp);
    x->q_scale = carve_take(c, m * groups * sizeof(float));
    x->q_sum = carve_take(c, m * groups * sizeof(int32_t));
    /* Steps of few rows are cut by segment; at 4 tasks a worker enough rows keep everyone busy without. */
    size_t split_rows = (size_t)max_int(8, (int)((4 * workers + (size_t)n_kv_heads - 1) / (size_t)n_kv_heads)), segments = (size_t)ctx / ATTN_SEGMENT + 1;
    x->attn_part_floats = split_rows * (size_t)n_heads * segments * part;
    x->attn_part = carve_take(c, x->attn_part_floats * sizeof(float));
    x->max_queries = heads * rows_at_once(heads);
    x->attn_worker_floats = 2 * (size_t)x->max_queries * part; /* the result so far, and the next segment's */
    x->attn_worker = carve_take(c, workers * x->attn_worker_floats * sizeof(float));
    x->attn_query = carve_take(c, workers * (size_t)x->max_queries * sizeof *x->attn_query);
    x->attn_block = carve_take(c, (m + 1) * sizeof *x->attn_block);
    x->ranks = carve_take(c, m * round_up((size_t)x->max_rank, PANEL) * sizeof(float));
}

/* Tasks for n equal pieces of work of `cost` bytes or operations each: one if the whole is not worth waking anyone. */
static int task_count(const exec *x, int n, double cost) {
    enum { WORTH = 1 << 15, PER_WORKER = 8 };
    int workers = pool_size(x->pool);
    if (workers == 1 || (double)n * cost < WORTH) return 1;
    return min_int(n, workers * PER_WORKER);
}

static int cut(int n, int task, int n_tasks) { return (int)((int64_t)n * task / n_tasks); }

/* ---- matmul ---- */

typedef struct matmul_task {
    exec *x;
    const mat *w;
    const float *in;
    size_t ldx, ldy;
    float *y;
    acts a;
    int n_tasks;
} matmul_task;

static void quantize_rows(void *arg, int task, int worker) {
    (void)worker;
    matmul_task *t = arg;
    size_t kp = round_up((size_t)t->a.k, GROUP), groups = kp / GROUP;
    for (int i = cut(t->a.m, task, t->n_tasks); i < cut(t->a.m, task + 1, t->n_tasks); i++)
        t->x->k->quantize(t->in + (size_t)i * t->ldx, t->a.k, t->a.q + (size_t)i * kp, t->a.scale + (size_t)i * groups, t->a.sum + (size_t)i * groups);
}

static void matmul_panels(void *arg, int task, int worker) {
    (void)worker;
    matmul_task *t = arg;
    int panels = (t->w->n + PANEL - 1) / PANEL;
    t->x->k->matmul[t->w->type][t->a.q != NULL](t->w, &t->a, t->y, t->ldy, cut(panels, task, t->n_tasks), cut(panels, task + 1, t->n_tasks));
}

typedef struct lora_task {
    exec *x;
    const lora *w;
    float *y;
    size_t ldy, ld_ranks;
    int m, panels, n_tasks;
} lora_task;

/* A block of panels at a time, so that its part of b stays in the cache while all rows pass. */
static void add_ranks(void *arg, int task, int worker) {
    enum { BLOCK = 64 };
    (void)worker;
    const lora_task *t = arg;
    int end = cut(t->panels, task + 1, t->n_tasks);
    for (int p = cut(t->panels, task, t->n_tasks); p < end; p += BLOCK)
        t->x->k->add_ranks(t->y + (size_t)p * PANEL, t->ldy, t->m, t->w->b + (size_t)p * PANEL, t->w->ldb, t->x->ranks, t->ld_ranks,
                           t->w->a.n, min_int(BLOCK, end - p) * PANEL);
}

static void add_lora(exec *x, const lora *w, const float *in, size_t ldx, int m, float *y, size_t ldy, int n) {
    size_t ld = round_up((size_t)x->max_rank, PANEL);
    int panels = (n + PANEL - 1) / PANEL, ranks = w->a.n;
    ops_matmul(x, &w->a, in, ldx, m, x->ranks, ld);
    for (int i = 0; i < m && w->scale != 1; i++) x->k->scale(x->ranks + (size_t)i * ld, w->scale, ranks);
    lora_task t = { x, w, y, ldy, ld, m, panels, task_count(x, panels, (double)PANEL * ranks * m) };
    pool_run(x->pool, add_ranks, &t, t.n_tasks);
}

void ops_matmul(exec *x, const mat *w, const float *in, size_t ldx, int m, float *y, size_t ldy) {
    matmul_task t = { .x = x, .w = w, .in = in, .ldx = ldx, .ldy = ldy, .y = y, .a = { .m = m, .k = w->k, .x = in, .ldx = ldx } };
    if (m == 0) return;
    if (x->before) x->before(x->before_arg, w, in, ldx, m);
    if (!x->exact && (w->type == W_Q8 || w->type == W_Q4)) {
        t.a.q = x->q;
        t.a.scale = x->q_scale;
        t.a.sum = x->q_sum;
        t.n_tasks = task_count(x, m, w->k);
        pool_run(x->pool, quantize_rows, &t, t.n_tasks);
    }
    int panels = (w->n + PANEL - 1) / PANEL;
    x->bytes += mat_bytes(w);
    x->macs += (uint64_t)w->n * (uint64_t)w->k * (uint64_t)m;
    t.n_tasks = task_count(x, panels, (double)PANEL * w->k * (m < 4 ? 1 : m / 4.0));
    pool_run(x->pool, matmul_panels, &t, t.n_tasks);
    for (const lora *l = w->lora; l; l = l->next) add_lora(x, l, in, ldx, m, y, ldy, w->n);
}

/* ---- row by row ---- */

typedef struct row_task {
    exec *x;
    float *y;
    const float *in, *w, *b;
    size_t ldx, ldy;
    int m, n, used, n_tasks;
    float eps;
    act_kind kind;
    const mat *embed;
    const int32_t *tok;
    void (*row)(const struct row_task *t, int i);
} row_task;

static void run_rows(void *arg, int task, int worker) {
    (void)worker;
    row_task *t = arg;
    for (int i = cut(t->m, task, t->n_tasks); i < cut(t->m, task + 1, t->n_tasks); i++) t->row(t, i);
}

static void rows(exec *x, row_task *t) {
    t->x = x;
    t->n_tasks = task_count(x, t->m, t->n);
    pool_run(x->pool, run_rows, t, t->n_tasks);
}

static void rmsnorm_row(const row_task *t, int i) { t->x->k->rmsnorm(t->y + (size_t)i * t->ldy, t->in + (size_t)i * t->ldx, t->w, t->n, t->eps); }
static void layernorm_row(const row_task *t, int i) { t->x->k->layernorm(t->y + (size_t)i * t->ldy, t->in + (size_t)i * t->ldx, t->w, t->b, t->n, t->eps); }

/* Buffers are shared by matrices of different widths, so the padding is zeroed, not assumed. */
static void zero_tail(float *y, int n) { memset(y + n, 0, (round_up((size_t)n, GROUP) - (size_t)n) * sizeof *y); }

static void glu_row(const row_task *t, int i) {
    float *y = t->y + (size_t)i * t->ldy;
    t->x->k->glu(t->kind, y, t->in + (size_t)i * t->ldx, t->n);
    zero_tail(y, t->used);
}

static void sparsify_row(const row_task *t, int i) { t->x->k->sparsify(t->y + (size_t)i * t->ldy, t->n, t->eps); }

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

void ops_norm(exec *x, int kind, float *y, const float *in, size_t ld, int m, const float *w, const float *b, int n, float eps) {
    rows(x, &(row_task){ .y = y, .in = in, .w = w, .b = b, .ldx = ld, .ldy = ld, .m = m, .n = n, .eps = eps, .row = kind ? layernorm_row : rmsnorm_row });
}

void ops_embed(exec *x, const mat *embed, const int32_t *tok, int m, float *y, size_t ld, float scale) {
    rows(x, &(row_task){ .y = y, .ldy = ld, .m = m, .n = embed->k, .embed = embed, .tok = tok, .eps = scale, .row = embed_row });
}

void ops_glu(exec *x, act_kind kind, float *y, size_t ldy, const float *gate_up, size_t ldx, int m, int n, int used) {
    rows(x, &(row_task){ .y = y, .in = gate_up, .ldx = ldx, .ldy = ldy, .m = m, .n = n, .used = used, .kind = kind, .row = glu_row });
}

void ops_sparsify(exec *x, float *gate_up, size_t ld, int m, int n, float sparsity) {
    rows(x, &(row_task){ .y = gate_up, .ldy = ld, .m = m, .n = n, .eps = sparsity, .row = sparsify_row });
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

void ops_scale(exec *x, float *y, size_t ld, int m, int n, float s) { rows(x, &(row_task){ .y = y, .ldy = ld, .m = m, .n = n, .eps = s, .row = scale_row }); }

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
    attn_job job = { .query = query, .hd = r->hd, .page = r->seq[begin]->page[r->group], .k_at = k_at, .v_at = k_at + p->k_bytes, .type = p->type, .softcap = r->softcap };
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
