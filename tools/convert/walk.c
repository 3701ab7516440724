/* walk: takes one or two models of one shape through forward's steps, layer by layer: all passages of both sides go through a layer
 * before the next begins, so that each needs a layer's weights at one time only. It owns what a passage keeps between layers; the
 * buffers of a pass are shared. It must not know how a layer is computed, nor what is measured. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tools/convert/certify.h"

/* Keys and values are wanted while their layer is worked, or while a later layer still reads them: the others share one place. */
static void share_places(model *m) {
    const arch *a = &m->arch;
    for (int g = 0; g < m->n_kv_groups; g++) m->kv_group[g].n_layers = 1;
    for (int l = 0; l < a->n_layers; l++) {
        layer *w = &m->layers[l];
        bool read_later = false;
        for (int j = l + 1; j < a->n_layers; j++) read_later |= a->kv_layer[j] == l;
        w->cross_slot = 0;
        if (!w->own_kv) w->kv_slot = m->layers[a->kv_layer[l]].kv_slot;
        else w->kv_slot = read_later ? m->kv_group[w->kv_group].n_layers++ : 0;
    }
    for (int l = 0; l < a->n_enc_layers; l++) m->enc_layers[l].kv_slot = 0;
}

/* ---- opening ---- */

static int open_cache(const walk *w, walk_side *s, err *e) {
    const model *m = s->model;
    int ctx = w->longest;
    s->kv = (kv_pool){ .n_groups = m->n_kv_groups, .n_kv_heads = m->arch.n_kv_heads, .head_dim = m->arch.head_dim,
                       .type = s->exact ? KV_F32 : KV_F16 };
    for (int i = 0; i < m->n_kv_groups; i++) s->kv.group[i].n_layers = m->kv_group[i].n_layers, s->kv.group[i].window = m->kv_group[i].window;
    s->enc_kv = (kv_pool){ .n_groups = m->arch.n_enc_layers ? 2 : 0, .n_kv_heads = m->arch.n_kv_heads,
                           .head_dim = m->arch.head_dim, .type = s->kv.type, .group = { { .n_layers = 1 }, { .n_layers = 1 } } };
    return kv_pool_init(&s->kv, w->n_passages, ctx, ctx, e) || kv_pool_init(&s->enc_kv, w->n_passages, ctx, ctx, e) ? -1 : 0;
}

static int take_floats(float **out, size_t n, err *e) {
    return n == 0 || (*out = alloc_aligned(n * sizeof(float))) ? 0 : fail_memory(e, n * sizeof(float), "a passage's state");
}

static int open_state(walk *w, walk_side *s, int i, err *e) {
    const passage *p = &w->p[i];
    walk_state *x = &s->state[i];
    const forward_ctx *f = &w->f;
    size_t rows = (size_t)max_int(p->n, p->n_enc), streams = f->streams ? (size_t)s->model->arch.n_streams * (size_t)f->max_rows * f->d_ld : 0;
    if (take_floats(&x->x, rows * f->d_ld, e) || take_floats(&x->streams, streams, e) || take_floats(&x->per_layer, rows * f->per_layer_ld, e) ||
        take_floats(&x->encoded, (size_t)p->n_enc * f->d_ld, e))
        return -1;
    return kv_seq_init(&x->kv, &s->kv, w->longest, e) || kv_seq_init(&x->enc, &s->enc_kv, w->longest, e) || kv_reserve(&x->kv, p->n, e) ||
                   kv_reserve(&x->enc, p->n_enc, e) ? -1 : 0;
}

static int open_side(walk *w, walk_side *s, err *e) {
    s->state = calloc((size_t)w->n_passages, sizeof *s->state);
    if (!s->state) return fail_memory(e, (size_t)w->n_passages * sizeof *s->state, "passages");
    if (open_cache(w, s, e)) return -1;
    for (int i = 0; i < w->n_passages; i++)
        if (open_state(w, s, i, e)) return -1;
    return 0;
}

int walk_open(walk *w, struct pool *workers, err *e) {
    forward_ctx *f = &w->f;
    carve c = { 0 };
    for (int i = 0; i < w->n_sides; i++) {
        model_choose_ropes(w->side[i].model, w->longest);
        if (model_expand_biases(w->side[i].model, w->longest, e)) return -1;
        share_places(w->side[i].model);
    }
    *f = (forward_ctx){ .model = w->side[0].model, .ops = { .k = kernels_get(), .pool = workers } };
    forward_layout(f, &c, w->longest, w->longest);
    void *base = mmap(NULL, w->scratch_bytes = c.used, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return fail_memory(e, c.used, "the buffers of a forward pass");
    w->scratch = base;
    c = (carve){ base, 0 };
    forward_layout(f, &c, w->longest, w->longest);
    for (int i = 0; i < w->n_sides; i++)
        if (open_side(w, &w->side[i], e)) return -1;
    return 0;
}

static void close_state(walk_state *x) {
    kv_seq_free(&x->kv);
    kv_seq_free(&x->enc);
    free_aligned(x->x);
    free_aligned(x->streams);
    free_aligned(x->per_layer);
    free_aligned(x->encoded);
}

void walk_close(walk *w) {
    for (int i = 0; i < w->n_sides; i++) {
        walk_side *s = &w->side[i];
        for (int j = 0; s->state && j < w->n_passages; j++) close_state(&s->state[j]);
        free(s->state);
        kv_pool_free(&s->kv);
        kv_pool_free(&s->enc_kv);
    }
    if (w->scratch) munmap(w->scratch, w->scratch_bytes);
}

/* ---- the steps ---- */

void walk_take(walk *w, int side, int i, bool encoder) {
    walk_side *s = &w->side[side];
    walk_state *x = &s->state[i];
    const passage *p = &w->p[i];
    forward_ctx *f = &w->f;
    f->model = s->model;
    f->ops.exact = s->exact;
    f->ops.before = s->before;
    f->ops.before_arg = s->arg;
    f->x = x->x;
    f->streams = x->streams;
    f->per_layer = x->per_layer;
    if (encoder) forward_take(f, &(span){ .seq = &x->enc, .tok = p->enc, .n = p->n_enc }, true);
    else forward_take(f, &(span){ .seq = &x->kv, .tok = p->tok, .n = p->n, .cross = p->n_enc ? &x->enc : NULL }, false);
}

/* What the decoder's layer reads of the encoder's text. */
static void store_cross(walk *w, int side, int i, int l) {
    walk_state *x = &w->side[side].state[i];
    x->enc.len = 0;
    walk_take(w, side, i, true);
    forward_cross(&w->f, x->encoded, l);
    x->enc.len = w->p[i].n_enc;
}

static void keep_hidden(walk *w, int side, int i, bool encoder) {
    walk_state *x = &w->side[side].state[i];
    const float *h = forward_leave(&w->f);
    float *to = encoder && w->p[i].n ? x->encoded : x->x;
    if (h != to) memmove(to, h, (size_t)w->f.m * w->f.d_ld * sizeof *h);
}

static int end_layer(walk *w, int l, err *e) {
    w->layer_done(w->arg, w, l, e);
    return e->code ? -1 : *w->stop ? fail(e, "interrupted") : 0;
}

/* All passages through one stack; its layers are counted from `before`. */
static int run_stack(walk *w, bool encoder, int n_layers, int before, err *e) {
    bool cross = !encoder && w->side[0].model->arch.n_enc_layers;
    for (int step = -1; step <= n_layers; step++) {
        for (int i = 0; i < w->n_passages; i++)
            for (int s = 0; s < w->n_sides; s++) {
                if (cross && step >= 0 && step < n_layers) store_cross(w, s, i, step);
                walk_take(w, s, i, encoder);
                if (step < 0) forward_enter(&w->f);
                else if (step == n_layers) keep_hidden(w, s, i, encoder);
                else forward_layer(&w->f, step);
            }
        if (step >= 0 && step < n_layers && end_layer(w, before + step, e)) return -1;
    }
    return 0;
}

int walk_run(walk *w, err *e) {
    const arch *a = &w->side[0].model->arch;
    if (a->n_enc_layers && run_stack(w, true, a->n_enc_layers, 0, e)) return -1;
    return a->n_layers && run_stack(w, false, a->n_layers, a->n_enc_layers, e) ? -1 : 0;
}
