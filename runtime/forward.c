/* forward: the transformer, written once, over spans of tokens.
 *
 * Rows of all spans stand one below the other: everything but attention treats a row by itself, so a prompt's chunk, a decode
 * step and a batch of many sequences are the same arithmetic. An operation happens if and only if its tensor is in the file.
 * It must not know threads, files, instruction sets, quantisation formats or the names of model families.
 * The equations: Vaswani et al. 2017 (attention), Zhang and Sennrich 2019 (RMSNorm), Su et al. 2021 (RoPE), Shazeer 2020
 * (gated MLP), Ainslie et al. 2023 (grouped queries), Jiang et al. 2023 (sliding window), Shazeer et al. 2017 (experts). */
#include "runtime/forward.h"

#include <math.h>
#include <string.h>

/* The widest inner dimension of the side paths: per-layer embeddings and LAuReL. */
static size_t side_width(const model *m) {
    size_t width = (size_t)m->arch.d_per_layer;
    for (int l = 0; l < m->arch.n_layers; l++)
        if ((size_t)m->layers[l].laurel_left.n > width) width = (size_t)m->layers[l].laurel_left.n;
    return width;
}

/* Are there layers whose gates become sparse? That takes all gates of a row at once. */
static bool has_sparse(const model *m) {
    bool has = false;
    for (int l = 0; l < m->arch.n_layers; l++) has |= m->layers[l].sparsity != 0;
    return has;
}

static void lay_side_paths(forward_ctx *f, carve *c, size_t rows) {
    const arch *a = &f->model->arch;
    f->side_ld = round_up(side_width(f->model), GROUP);
    f->per_layer_ld = round_up((size_t)a->n_layers * (size_t)a->d_per_layer, GROUP);
    f->coef_ld = round_up((size_t)(a->n_streams * a->n_streams), GROUP);
    f->side = carve_take(c, rows * f->side_ld * sizeof(float));
    f->per_layer = carve_take(c, rows * f->per_layer_ld * sizeof(float));
    f->own = carve_take(c, f->per_layer_ld * sizeof(float));
    if (a->n_streams == 1) return;
    f->coefs = carve_take(c, 2 * rows * f->coef_ld * sizeof(float));
    f->streams = carve_take(c, (size_t)a->n_streams * rows * f->d_ld * sizeof(float));
    f->predicted = carve_take(c, (size_t)a->n_streams * rows * f->d_ld * sizeof(float));
}

void forward_layout(forward_ctx *f, carve *c, int max_rows, int ctx) {
    const model *m = f->model;
    const arch *a = &m->arch;
    size_t rows = (size_t)max_rows, width = (size_t)a->n_heads * (size_t)a->head_dim;
    int d_ff = max_int(max_int(a->d_ff, a->d_expert), a->d_shared);
    int max_k = max_int(max_int(a->d_model, d_ff), max_int((int)width, (int)side_width(m)));
    for (int i = 0; i < m->n_dense; i++) max_k = max_int(max_k, m->dense[i].k);
    f->max_rows = max_rows;
    f->ctx = ctx;
    f->d_ld = round_up((size_t)a->d_model, GROUP);
    f->qkv_ld = (size_t)(m->q_rows + 2 * m->kv_rows);
    f->att_ld = round_up(width, GROUP);
    f->gate_up_ld = 2 * round_up((size_t)d_ff, PANEL);
    f->ff_ld = round_up((size_t)d_ff, GROUP);
    f->route_ld = round_up((size_t)a->n_experts, PANEL);
    f->vocab_ld = round_up((size_t)a->n_vocab, PANEL);
    f->max_freq = 0;
    for (int i = 0; i < a->n_ropes; i++) f->max_freq = max_int(f->max_freq, m->ropes[i].n_freq);
    f->x = carve_take(c, rows * f->d_ld * sizeof(float));
    f->h = carve_take(c, rows * f->d_ld * sizeof(float));
    f->block = carve_take(c, rows * f->d_ld * sizeof(float));
    f->qkv = carve_take(c, rows * f->qkv_ld * sizeof(float));
    f->att = carve_take(c, rows * f->att_ld * sizeof(float));
    if (has_sparse(m)) f->gate_up = carve_take(c, rows * f->gate_up_ld * sizeof(float));
    f->ff = carve_take(c, rows * f->ff_ld * sizeof(float));
    lay_side_paths(f, c, rows);
    if (a->n_experts) {
        f->route = carve_take(c, rows * f->route_ld * sizeof(float));
        f->gathered = carve_take(c, rows * f->d_ld * sizeof(float));
        f->expert_out = carve_take(c, rows * f->d_ld * sizeof(float));
        f->chosen = carve_take(c, rows * (size_t)a->n_used * sizeof *f->chosen);
        f->expert_row = carve_take(c, rows * sizeof *f->expert_row);
    }
    f->cos = carve_take(c, (size_t)a->n_ropes * rows * (size_t)f->max_freq * sizeof(float));
    f->sin = carve_take(c, (size_t)a->n_ropes * rows * (size_t)f->max_freq * sizeof(float));
    f->tok = carve_take(c, rows * sizeof *f->tok);
    f->pos = carve_take(c, rows * sizeof *f->pos);
    f->end = carve_take(c, rows * sizeof *f->end);
    f->cross_end = carve_take(c, rows * sizeof *f->cross_end);
    f->cross = carve_take(c, rows * sizeof *f->cross);
    f->wanted = carve_take(c, rows * sizeof *f->wanted);
    f->seq = carve_take(c, rows * sizeof *f->seq);
    ops_layout(&f->ops, c, max_rows, max_k, a->d_model, d_ff, a->n_heads, a->n_kv_heads, a->head_dim, ctx);
}

static void tap(const forward_ctx *f, const char *name, int l, const float *x, int m, size_t ld, int n) {
    if (f->tap) f->tap(f->tap_arg, name, l, x, m, ld, n);
}

/* Spans to rows: token, position and sequence of each, and which rows' results are wanted. Returns the number of rows. */
static int gather(forward_ctx *f, const span *spans, int n_spans, int *n_wanted) {
    int m = 0;
    *n_wanted = 0;
    for (int s = 0; s < n_spans; s++)
        for (int i = 0; i < spans[s].n; i++, m++) {
            f->tok[m] = spans[s].tok[i];
            f->pos[m] = spans[s].seq->len + i;
            f->end[m] = f->pos[m] + 1;
            f->seq[m] = spans[s].seq;
            f->cross[m] = spans[s].cross;
            f->cross_end[m] = spans[s].cross ? spans[s].cross->len : 0;
            if (spans[s].out >= OUT_ALL || (spans[s].out == OUT_LAST && i == spans[s].n - 1)) f->wanted[(*n_wanted)++] = m;
        }
    return m;
}

static float *rope_rows(const forward_ctx *f, float *table, int i) { return table + (size_t)i * (size_t)f->max_rows * (size_t)f->max_freq; }

/* The angles are the same in every layer: once a batch, for each table. */
static void rope_tables(forward_ctx *f, int m) {
    for (int i = 0; i < f->model->arch.n_ropes; i++) {
        const rope_table *r = &f->model->ropes[i];
        ops_rope_table(&f->ops, r->inv_freq, r->n_freq, r->factor, f->pos, m, rope_rows(f, f->cos, i), rope_rows(f, f->sin, i));
    }
}

static float *stream(const forward_ctx *f, float *streams, int i) { return streams + (size_t)i * (size_t)f->max_rows * f->d_ld; }

/* Only the wanted rows go on, and of h: nothing after the last layer's keys and values needs the others. */
static acts keep_wanted(forward_ctx *f, const acts *h, int n_wanted) {
    for (int i = 0; i < n_wanted; i++) {
        size_t from = (size_t)f->wanted[i], to = (size_t)i;
        if (from == to) continue;
        memcpy(f->x + to * f->d_ld, f->x + from * f->d_ld, f->d_ld * sizeof *f->x);
        memcpy(f->h + to * f->d_ld, f->h + from * f->d_ld, f->d_ld * sizeof *f->h);
        memcpy(f->qkv + to * f->qkv_ld, f->qkv + from * f->qkv_ld, (size_t)f->model->q_rows * sizeof *f->qkv);
        memcpy(f->per_layer + to * f->per_layer_ld, f->per_layer + from * f->per_layer_ld, f->per_layer_ld * sizeof *f->per_layer);
        for (int k = 0; f->streams && k < f->model->arch.n_streams; k++)
            memcpy(stream(f, f->predicted, k) + to * f->d_ld, stream(f, f->predicted, k) + from * f->d_ld, f->d_ld * sizeof *f->x);
        f->pos[to] = f->pos[from];
        f->end[to] = f->end[from];
        f->seq[to] = f->seq[from];
        f->cross[to] = f->cross[from];
        f->cross_end[to] = f->cross_end[from];
    }
    return n_wanted == h->m ? *h : ops_rows(h->x, h->ldx, n_wanted, h->k); /* its int8 stays where it was */
}

/* to[m] = the norm of from[m] where the file has one; returns the rows to go on with: to, or from itself. */
static const float *norm(forward_ctx *f, const norm_weights *w, float *to, const float *from, const char *name, int l, int m) {
    const arch *a = &f->model->arch;
    if (!w->w) return from;
    ops_norm(&f->ops, a->norm, to, from, f->d_ld, m, w->w, w->b, a->d_model, a->norm_eps, NULL);
    tap(f, name, l, to, m, f->d_ld, a->d_model);
    return to;
}

static acts model_rows(const forward_ctx *f, const float *x, int m) { return ops_rows(x, f->d_ld, m, f->model->arch.d_model); }

/* The residual stream as a block's first matrix, `reader`, takes it: through the norm where the file has one. */
static acts enter_block(forward_ctx *f, const norm_weights *w, const mat *reader, const char *name, int l, int m) {
    const arch *a = &f->model->arch;
    if (!w->w) return model_rows(f, f->x, m);
    acts h = ops_norm(&f->ops, a->norm, f->h, f->x, f->d_ld, m, w->w, w->b, a->d_model, a->norm_eps, reader);
    tap(f, name, l, f->h, m, f->d_ld, a->d_model);
    return h;
}

/* q, k, v of the normed rows h: norms of heads, rotation, and k and v appended to the pages. */
static void project_qkv(forward_ctx *f, const layer *w, int l, const acts *h) {
    const model *mo = f->model;
    const arch *a = &mo->arch;
    const int m = h->m;
    ops_matmul(&f->ops, &w->qkv, h, f->qkv, f->qkv_ld);
    tap(f, "qkv", l, f->qkv, m, f->qkv_ld, (int)f->qkv_ld);
    bool rotates = w->rope >= 0;
    ops_rope_append(&f->ops, &(qkv_rows){ .qkv = f->qkv, .ld = f->qkv_ld, .m = m, .n_heads = a->n_heads,
                                         .n_kv_heads = a->n_kv_heads, .hd = a->head_dim,
                                         .k_at = mo->q_rows, .v_at = mo->q_rows + mo->kv_rows,
                                         .q_norm = w->q_norm, .k_norm = w->k_norm, .q_norm_bias = w->q_norm_bias, .k_norm_bias = w->k_norm_bias,
                                         .norm_kind = a->norm, .norm_whole = w->qk_norm_whole, .v_norm = w->v_norm,
                                         .eps = a->norm_eps, .attn_scale = a->attn_scale, .cos = rotates ? rope_rows(f, f->cos, w->rope) : NULL,
                                         .sin = rotates ? rope_rows(f, f->sin, w->rope) : NULL, .n_freq = rotates ? mo->ropes[w->rope].n_freq : 0,
                                         .seq = f->seq, .pos = f->pos, .group = w->kv_group, .slot = w->kv_slot, .store = w->own_kv });
    tap(f, "rope", l, f->qkv, m, f->qkv_ld, (int)f->qkv_ld);
}

/* block[m] = attention of the queries in qkv over a sequence's pages, through the matrix `out`. */
static void attend(forward_ctx *f, const attn_rows *over, const mat *out, int l) {
    const arch *a = &f->model->arch;
    attn_rows r = *over;
    r.q = f->qkv;
    r.ldq = f->qkv_ld;
    r.y = f->att;
    r.ldy = f->att_ld;
    r.n_heads = a->n_heads;
    r.n_kv_heads = a->n_kv_heads;
    r.hd = a->head_dim;
    r.softcap = a->attn_softcap;
    r.pos = f->pos;
    ops_attention(&f->ops, &r);
    tap(f, "attention", l, f->att, r.m, f->att_ld, a->n_heads * a->head_dim);
    acts att = ops_rows(f->att, f->att_ld, r.m, out->k);
    ops_matmul(&f->ops, out, &att, f->block, f->d_ld);
    tap(f, "attn_out", l, f->block, r.m, f->d_ld, a->d_model);
}

/* Attention of the text so far over itself; of the encoder over all of its text. */
static void self_attention(forward_ctx *f, const layer *w, const bias_table *bias, int l, int m) {
    attend(f, &(attn_rows){ .m = m, .window = w->window, .seq = f->seq, .end = f->end, .group = w->kv_group, .slot = w->kv_slot,
                            .bias = bias->expanded, .ld_bias = 2 * (size_t)f->ctx, .bias_zero = f->ctx }, &w->attn_out, l);
}

/* Attention over the encoder's output. */
static void cross_attention(forward_ctx *f, const layer *w, int l, const acts *h) {
    const arch *a = &f->model->arch;
    const int m = h->m;
    ops_matmul(&f->ops, &w->cross_q, h, f->qkv, f->qkv_ld);
    ops_rope_append(&f->ops, &(qkv_rows){ .qkv = f->qkv, .ld = f->qkv_ld, .m = m, .n_heads = a->n_heads, .hd = a->head_dim,
                                          .attn_scale = a->attn_scale });
    attend(f, &(attn_rows){ .m = m, .seq = f->cross, .end = f->cross_end, .group = 1, .slot = w->cross_slot }, &w->cross_out, l);
}

/* The inner activations of an MLP, gated or not. */
static acts inner(forward_ctx *f, const mlp_weights *w, int l, float sparsity, const acts *in) {
    const act_kind kind = (act_kind)f->model->arch.act;
    if (sparsity == 0) return ops_inner(&f->ops, w->gate_up.data ? &w->gate_up : &w->up, w->gate_up.data, kind, in, &w->down, f->ff, f->ff_ld);
    ops_matmul(&f->ops, &w->gate_up, in, f->gate_up, f->gate_up_ld);
    tap(f, "gate_up", l, f->gate_up, in->m, f->gate_up_ld, w->gate_up.n);
    ops_sparse_glu(&f->ops, kind, f->ff, f->ff_ld, f->gate_up, f->gate_up_ld, in->m, w->down.k, sparsity);
    return ops_rows(f->ff, f->ff_ld, in->m, w->down.k);
}

/* out[m] = MLP of in[m]. */
static void mlp(forward_ctx *f, const mlp_weights *w, int l, float sparsity, const acts *in, float *out) {
    acts ff = inner(f, w, l, sparsity, in);
    tap(f, "act", l, f->ff, ff.m, f->ff_ld, w->down.k);
    ops_matmul(&f->ops, &w->down, &ff, out, f->d_ld);
}

/* block[m] = the chosen experts' outputs, each times its weight, added in the order of the experts' numbers; plus the shared
 * expert's, times its gate. Each expert sees its rows together, so its weights are read once. */
static void experts(forward_ctx *f, const layer *w, int l, const acts *in) {
    const arch *a = &f->model->arch;
    const int m = in->m;
    ops_matmul(&f->ops, &w->router, in, f->route, f->route_ld);
    tap(f, "router", l, f->route, m, f->route_ld, a->n_experts);
    ops_route(&f->ops, f->route, f->route_ld, m, a->n_experts, a->n_used, a->renorm, f->chosen);
    memset(f->block, 0, (size_t)m * f->d_ld * sizeof *f->block);
    for (int e = 0; e < a->n_experts; e++) {
        int n = 0;
        for (int i = 0; i < m * a->n_used; i++)
            if (f->chosen[i] == e) f->expert_row[n++] = i / a->n_used;
        if (n == 0) continue;
        for (int i = 0; i < n; i++) memcpy(f->gathered + (size_t)i * f->d_ld, in->x + (size_t)f->expert_row[i] * f->d_ld, f->d_ld * sizeof *in->x);
        acts its = model_rows(f, f->gathered, n);
        mlp(f, &w->experts[e], l, 0, &its, f->expert_out);
        for (int i = 0; i < n; i++) {
            size_t row = (size_t)f->expert_row[i];
            f->ops.k->add(f->block + row * f->d_ld, f->expert_out + (size_t)i * f->d_ld, f->route[row * f->route_ld + (size_t)e], a->d_model);
        }
    }
    if (!w->shared.down.data) return;
    mlp(f, &w->shared, l, 0, in, f->expert_out);
    if (w->shared_gate.data) ops_matmul(&f->ops, &w->shared_gate, in, f->gathered, f->d_ld);
    for (int i = 0; i < m; i++) {
        float gate[16] = { f->gathered[(size_t)i * f->d_ld], 0 };
        if (w->shared_gate.data) f->ops.k->softmax(gate, 2); /* of (g, 0): the sigmoid of g */
        f->ops.k->add(f->block + (size_t)i * f->d_ld, f->expert_out + (size_t)i * f->d_ld, w->shared_gate.data ? gate[0] : 1, a->d_model);
    }
}

static void feed_forward(forward_ctx *f, const layer *w, int l, const acts *in) {
    if (w->router.data) experts(f, w, l, in);
    else mlp(f, &w->mlp, l, w->sparsity, in, f->block);
    tap(f, "mlp", l, f->block, in->m, f->d_ld, f->model->arch.d_model);
}

/* The residual stream as feed_forward takes it. Of a mixture each expert reads rows of its own, but the shared one reads all. */
static acts enter_feed_forward(forward_ctx *f, const layer *w, int l, int m) {
    const mlp_weights *all = w->router.data ? &w->shared : &w->mlp;
    return enter_block(f, &w->mlp_norm, all->gate_up.data ? &all->gate_up : &all->up, "mlp_norm", l, m);
}

/* The residual stream takes what a block adds, normed before the sum or after it where the file has a norm for it. */
static void add_block(forward_ctx *f, const norm_weights *post, const norm_weights *sum, int l, int m) {
    const arch *a = &f->model->arch;
    norm(f, post, f->block, f->block, "post_norm", l, m);
    ops_add(&f->ops, f->x, f->block, f->d_ld, m, a->d_model, a->residual_scale);
    norm(f, sum, f->x, f->x, "sum_norm", l, m);
    tap(f, "residual", l, f->x, m, f->d_ld, a->d_model);
}

/* ---- the side paths of Gemma 3n's kind: low-rank residuals, several streams, per-layer embeddings ---- */

/* x = (x + h + norm(right(left(h)))) / sqrt 2, h the input of attention, x the stream with attention's output. */
static void add_laurel(forward_ctx *f, const layer *w, int l, const acts *h) {
    int d = f->model->arch.d_model, m = h->m;
    acts left = ops_rows(f->side, f->side_ld, m, w->laurel_right.k);
    ops_matmul(&f->ops, &w->laurel_left, h, f->side, f->side_ld);
    ops_matmul(&f->ops, &w->laurel_right, &left, f->block, f->d_ld);
    norm(f, &w->laurel_norm, f->block, f->block, "laurel_norm", l, m);
    ops_add(&f->ops, f->x, h->x, f->d_ld, m, d, 1);
    ops_add(&f->ops, f->x, f->block, f->d_ld, m, d, 1);
    ops_scale(&f->ops, f->x, f->d_ld, m, d, 0.70710678f);
    tap(f, "laurel", l, f->x, m, f->d_ld, d);
}

/* coefs[m] = w of tanh(router of x): how much of each stream goes where. */
static void stream_coefs(forward_ctx *f, const layer *w, const mat *coefs, const float *x, int l, int m) {
    float *routed = f->coefs + (size_t)f->max_rows * f->coef_ld;
    acts h = model_rows(f, norm(f, &w->altup.router_norm, f->h, x, "altup_norm", l, m), m), r = ops_rows(routed, f->coef_ld, m, coefs->k);
    ops_matmul(&f->ops, &w->altup.router, &h, routed, f->coef_ld);
    for (int i = 0; i < m; i++) f->ops.k->softcap(routed + (size_t)i * f->coef_ld, 1, f->model->arch.n_streams); /* cap 1: tanh */
    ops_matmul(&f->ops, coefs, &r, f->coefs, f->coef_ld);
}

/* Before a layer: each stream plus a mixture of all; the layer works on the prediction of stream 0. */
static void predict_streams(forward_ctx *f, const layer *w, int l, int m) {
    int n = f->model->arch.n_streams, d = f->model->arch.d_model;
    stream_coefs(f, w, &w->altup.predict, stream(f, f->streams, 0), l, m);
    for (int k = 0; k < n; k++)
        for (int i = 0; i < m; i++) {
            float *to = stream(f, f->predicted, k) + (size_t)i * f->d_ld;
            memcpy(to, stream(f, f->streams, k) + (size_t)i * f->d_ld, f->d_ld * sizeof *to);
            for (int j = 0; j < n; j++)
                f->ops.k->add(to, stream(f, f->streams, j) + (size_t)i * f->d_ld, f->coefs[(size_t)i * f->coef_ld + (size_t)(k * n + j)], d);
        }
    memcpy(f->x, f->predicted, (size_t)m * f->d_ld * sizeof *f->x);
}

/* After a layer: what it changed in stream 0 corrects all streams. */
static void correct_streams(forward_ctx *f, const layer *w, int l, int m) {
    int n = f->model->arch.n_streams, d = f->model->arch.d_model;
    stream_coefs(f, w, &w->altup.correct, f->x, l, m);
    ops_add(&f->ops, f->x, f->predicted, f->d_ld, m, d, -1); /* the innovation */
    for (int k = 0; k < n; k++) {
        memcpy(stream(f, f->streams, k), stream(f, f->predicted, k), (size_t)m * f->d_ld * sizeof *f->x);
        for (int i = 0; i < m; i++)
            f->ops.k->add(stream(f, f->streams, k) + (size_t)i * f->d_ld, f->x + (size_t)i * f->d_ld,
                          f->coefs[(size_t)i * f->coef_ld + (size_t)k], d);
    }
    tap(f, "corrected", l, f->streams, m, f->d_ld, d);
}

/* The layer's own embedding of each token, gated by stream 0, into the other streams. */
static void add_per_layer(forward_ctx *f, const layer *w, int l, int m) {
    const arch *a = &f->model->arch;
    size_t p = (size_t)a->d_per_layer;
    memcpy(f->h, f->streams, (size_t)m * f->d_ld * sizeof *f->h);
    for (int i = 0; w->altup.scale.w && i < m; i++) f->ops.k->mul(f->h + (size_t)i * f->d_ld, w->altup.scale.w, a->d_model);
    acts h = model_rows(f, f->h, m), side = ops_rows(f->side, f->side_ld, m, a->d_per_layer);
    ops_matmul(&f->ops, &w->per_layer_gate, &h, f->side, f->side_ld);
    ops_act(&f->ops, (act_kind)a->act, f->side, f->side_ld, m, a->d_per_layer);
    for (int i = 0; i < m; i++)
        f->ops.k->mul(f->side + (size_t)i * f->side_ld, f->per_layer + (size_t)i * f->per_layer_ld + (size_t)l * p, a->d_per_layer);
    ops_matmul(&f->ops, &w->per_layer_out, &side, f->block, f->d_ld);
    norm(f, &w->per_layer_norm, f->block, f->block, "per_layer_norm", l, m);
    for (int k = 1; k < a->n_streams; k++) ops_add(&f->ops, stream(f, f->streams, k), f->block, f->d_ld, m, a->d_model, 1);
    tap(f, "per_layer", l, f->block, m, f->d_ld, a->d_model);
}

/* row times a number that gives it the root mean square of like. */
static void match_magnitude(const forward_ctx *f, float *row, const float *like) {
    int d = f->model->arch.d_model;
    float want = f->ops.k->mean_square(like, d), have = f->ops.k->mean_square(row, d);
    f->ops.k->scale(row, sqrtf(want) / sqrtf(have > 1e-5f ? have : 1e-5f), d);
}

/* The embedding in x, through a matrix each, becomes the streams. */
static void open_streams(forward_ctx *f, int m) {
    acts x = model_rows(f, f->x, m);
    memcpy(f->streams, f->x, (size_t)m * f->d_ld * sizeof *f->x);
    for (int k = 1; k < f->model->arch.n_streams; k++) {
        ops_matmul(&f->ops, &f->model->stream_in[k], &x, stream(f, f->streams, k), f->d_ld);
        for (int i = 0; i < m; i++) match_magnitude(f, stream(f, f->streams, k) + (size_t)i * f->d_ld, f->x + (size_t)i * f->d_ld);
    }
}

/* And back: x = the mean of all streams. */
static void close_streams(forward_ctx *f, int m) {
    int n = f->model->arch.n_streams, d = f->model->arch.d_model;
    memcpy(f->x, f->streams, (size_t)m * f->d_ld * sizeof *f->x);
    for (int k = 1; k < n; k++) {
        acts from = model_rows(f, stream(f, f->streams, k), m);
        ops_matmul(&f->ops, &f->model->stream_out[k], &from, f->block, f->d_ld);
        for (int i = 0; i < m; i++) match_magnitude(f, f->block + (size_t)i * f->d_ld, f->streams + (size_t)i * f->d_ld);
        ops_add(&f->ops, f->x, f->block, f->d_ld, m, d, 1);
    }
    ops_scale(&f->ops, f->x, f->d_ld, m, d, 1 / (float)n);
}

/* per_layer[m] = (norm(projection of the embedding) + the tokens' own rows) / sqrt 2, for all layers at once. */
static void per_layer_inputs(forward_ctx *f, int m) {
    const model *mo = f->model;
    const arch *a = &mo->arch;
    int p = a->d_per_layer, wide = a->n_layers * p;
    acts x = model_rows(f, f->x, m);
    ops_matmul(&f->ops, &mo->per_layer_proj, &x, f->per_layer, f->per_layer_ld);
    ops_scale(&f->ops, f->per_layer, f->per_layer_ld, m, wide, 1 / sqrtf((float)a->d_model));
    for (int i = 0; i < m; i++) {
        float *row = f->per_layer + (size_t)i * f->per_layer_ld;
        for (int l = 0; l < a->n_layers; l++)
            f->ops.k->rmsnorm(row + (size_t)l * (size_t)p, row + (size_t)l * (size_t)p, mo->per_layer_norm, p, a->norm_eps);
        f->ops.k->row_load(&mo->per_layer_embed, f->tok[i] < a->n_vocab_per_layer ? f->tok[i] : 0, f->own);
        model_forget_rows(mo, &mo->per_layer_embed);
        f->ops.k->add(row, f->own, a->per_layer_scale, wide);
    }
    ops_scale(&f->ops, f->per_layer, f->per_layer_ld, m, wide, 0.70710678f);
}

/* The layers that a text goes through, and what is of all of them. */
typedef struct stack {
    const layer *layers;
    int n;
    const bias_table *bias;
} stack;

static stack decoder_of(const model *m) { return (stack){ m->layers, m->arch.n_layers, &m->rel_bias }; }
static stack encoder_of(const model *m) { return (stack){ m->enc_layers, m->arch.n_enc_layers, &m->enc_rel_bias }; }

/* Layers [first, end) of a stack over m rows; after its last x holds the wanted rows. Returns how many, or -1 when stopped. */
static int forward_layers(forward_ctx *f, stack s, int first, int end, int m, int n_wanted) {
    const arch *a = &f->model->arch;
    static const norm_weights none;
    for (int l = first; l < end; l++) {
        const layer *w = &s.layers[l];
        if (f->stop && atomic_load_explicit(f->stop, memory_order_relaxed)) return -1;
        if (w->altup.router.data) predict_streams(f, w, l, m);
        acts h = enter_block(f, &w->attn_norm, &w->qkv, "attn_norm", l, m);
        project_qkv(f, w, l, &h);
        if (l == s.n - 1) h = keep_wanted(f, &h, n_wanted), m = h.m;
        if (m == 0) break;
        self_attention(f, w, s.bias, l, m);
        if (a->parallel && w->mlp_norm.w) h = enter_feed_forward(f, w, l, m); /* of the stream before the sum */
        add_block(f, &w->attn_post_norm, &w->attn_sum_norm, l, m);
        if (w->laurel_left.data) add_laurel(f, w, l, &h);
        if (w->cross_q.data) {
            h = enter_block(f, &w->cross_norm, &w->cross_q, "cross_norm", l, m);
            cross_attention(f, w, l, &h);
            add_block(f, &none, &none, l, m);
        }
        if (!a->parallel) h = enter_feed_forward(f, w, l, m);
        feed_forward(f, w, l, &h);
        add_block(f, &w->mlp_post_norm, &w->mlp_sum_norm, l, m);
        if (w->altup.router.data) correct_streams(f, w, l, m);
        if (w->per_layer_gate.data) add_per_layer(f, w, l, m);
    }
    return m;
}

void forward_logits(forward_ctx *f, const float *hidden, int m, int first, int n, float *dst, size_t ld) {
    const arch *a = &f->model->arch;
    mat part = mat_rows(&f->model->output, first, n);
    acts rows = model_rows(f, hidden, m);
    ops_matmul(&f->ops, &part, &rows, dst, ld);
    for (int i = 0; i < m; i++) {
        float *row = dst + (size_t)i * ld;
        if (a->logit_scale != 1) f->ops.k->scale(row, a->logit_scale, n);
        if (a->logit_softcap > 0) f->ops.k->softcap(row, a->logit_softcap, n);
    }
}

/* Wanted rows stand in span order; spans whose dst follow one another share one product, so that weights are read once. */
static void write_out(forward_ctx *f, const span *spans, int n_spans) {
    const float *h = f->h;
    for (int s = 0; s < n_spans;) {
        int m = 0, next = s;
        for (; next < n_spans; next++) {
            int rows = spans[next].out == OUT_NONE ? 0 : spans[next].out == OUT_LAST ? min_int(spans[next].n, 1) : spans[next].n;
            bool joins = rows == 0 || spans[next].dst == spans[s].dst + (size_t)m * f->vocab_ld;
            if (next > s && !joins) break;
            m += rows;
        }
        if (m) forward_logits(f, h, m, 0, f->model->arch.n_vocab, spans[s].dst, f->vocab_ld);
        h += (size_t)m * f->d_ld;
        s = next;
    }
}

/* to[m] = rows of a table, times scale; of one that is not kept in memory a few at a time. */
static void look_up(forward_ctx *f, const mat *table, const int32_t *rows, int m, float *to, float scale) {
    int few = model_lone_table(f->model, table) ? 8 : m;
    for (int i = 0; i < m; i += few) {
        ops_embed(&f->ops, table, rows + i, min_int(few, m - i), to + (size_t)i * f->d_ld, f->d_ld, scale);
        model_forget_rows(f->model, table);
    }
}

/* Token and position embeddings into x. */
static void embed(forward_ctx *f, int m) {
    const model *mo = f->model;
    look_up(f, &mo->embed, f->tok, m, f->x, mo->arch.embed_scale);
    if (mo->pos_embed.data) {
        look_up(f, &mo->pos_embed, f->pos, m, f->h, 1);
        ops_add(&f->ops, f->x, f->h, f->d_ld, m, mo->arch.d_model, 1);
    }
    norm(f, &mo->embed_norm, f->x, f->x, "embed_norm", -1, m);
    tap(f, "embed", -1, f->x, m, f->d_ld, mo->arch.d_model);
}

/* A decoder's rows before its first layer, and after its last: h. */
static void enter(forward_ctx *f, int m) {
    embed(f, m);
    if (f->model->per_layer_embed.data) per_layer_inputs(f, m);
    if (f->streams) open_streams(f, m);
}

static const float *leave(forward_ctx *f, int m) {
    if (f->streams) close_streams(f, m);
    return norm(f, &f->model->final_norm, f->h, f->x, "final_norm", f->model->arch.n_layers, m);
}

static bool run_spans(forward_ctx *f, const span *spans, int n_spans) {
    int n_layers = f->model->arch.n_layers, n_wanted, m = gather(f, spans, n_spans, &n_wanted);
    tap(f, "start", -1, f->x, m, f->d_ld, 0);
    enter(f, m);
    rope_tables(f, m);
    m = forward_layers(f, decoder_of(f->model), 0, n_layers, m, n_wanted);
    if (m < 0) return false;
    leave(f, m);
    write_out(f, spans, n_spans);
    tap(f, "output", n_layers, f->x, m, f->d_ld, 0);
    for (int s = 0; s < n_spans; s++) kv_advance(spans[s].seq, spans[s].n);
    return true;
}

/* Keys and values of the encoder's output for one decoder layer's cross attention. */
static void store_cross(forward_ctx *f, const float *h, int m, int l) {
    const model *mo = f->model;
    const arch *a = &mo->arch;
    const layer *w = &mo->layers[l];
    acts rows = model_rows(f, h, m);
    ops_matmul(&f->ops, &w->cross_kv, &rows, f->qkv, f->qkv_ld);
    ops_rope_append(&f->ops, &(qkv_rows){ .qkv = f->qkv, .ld = f->qkv_ld, .m = m, .n_kv_heads = a->n_kv_heads, .hd = a->head_dim,
                                          .k_at = 0, .v_at = mo->kv_rows,
                                         .attn_scale = 1, .seq = f->seq, .pos = f->pos, .group = 1, .slot = w->cross_slot, .store = true });
}

/* The rows of an encoder's text: each sees all of it. */
static int gather_whole(forward_ctx *f, const span *s) {
    int n_wanted, m = gather(f, s, 1, &n_wanted);
    for (int i = 0; i < m; i++) f->end[i] = s->seq->len + s->n;
    return m;
}

static const float *leave_encoder(forward_ctx *f, int m) {
    return norm(f, &f->model->enc_final_norm, f->h, f->x, "enc_norm", f->model->arch.n_enc_layers, m);
}

bool forward(forward_ctx *f, const span *spans, int n_spans) {
    alloc_guard(true);
    bool done = run_spans(f, spans, n_spans);
    alloc_guard(false);
    return done;
}

/* ---- in steps ---- */

void forward_take(forward_ctx *f, const span *s, bool encoder) {
    span all = *s;
    int n_wanted;
    all.out = OUT_ALL;
    f->encoder = encoder;
    f->m = encoder ? gather_whole(f, &all) : gather(f, &all, 1, &n_wanted);
    rope_tables(f, f->m);
}

void forward_enter(forward_ctx *f) {
    if (f->encoder) embed(f, f->m);
    else enter(f, f->m);
}

bool forward_layer(forward_ctx *f, int l) {
    return forward_layers(f, f->encoder ? encoder_of(f->model) : decoder_of(f->model), l, l + 1, f->m, f->m) >= 0;
}

const float *forward_leave(forward_ctx *f) { return f->encoder ? leave_encoder(f, f->m) : leave(f, f->m); }

void forward_cross(forward_ctx *f, const float *hidden, int l) { store_cross(f, hidden, f->m, l); }
