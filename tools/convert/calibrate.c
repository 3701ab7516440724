/* calibrate: the mean square of each input of each matrix over a text, computed from the checkpoint in f32. The expected squared
 * error of a product's outputs is the sum over inputs of (error of the weight)^2 times it, if inputs are uncorrelated; so it is
 * what the search of scales weights errors with. Each row is taken relative to its own size: what follows is normed again, and a
 * few rows, such as those of the first position, are so large that they would decide alone. It must not know which matrices a model
 * has: forward shows each before it is used. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/convert/certify.h"

/* What a text did not excite is not free of error: each input counts at least this share of its matrix's mean. */
static const float least_share = 0.01f;

typedef struct calibration {
    reference *r;
    plan *plan;
    arena *mem;
    float **sum;  /* [plan->n] [pad64(k)] sums of squares; NULL: never used */
    bool progress;
    err failed;
} calibration;

static void add_squares(calibration *k, const mat *w, const float *in, size_t ld, int m) {
    size_t i = (size_t)(reference_output(k->r, w) - k->plan->outputs), n = round_up((size_t)w->k, GROUP);
    if (!k->sum[i] && !(k->sum[i] = arena_alloc(k->mem, n * sizeof **k->sum))) {
        fail_memory(&k->failed, n * sizeof **k->sum, "statistics");
        return;
    }
    for (int row = 0; row < m; row++) {
        const float *x = in + (size_t)row * ld;
        float mean = 0;
        for (int j = 0; j < w->k; j++) mean += x[j] * x[j] / (float)w->k;
        for (int j = 0; j < w->k && mean > 0; j++) k->sum[i][j] += x[j] * x[j] / mean;
    }
}

static void before(void *arg, const mat *w, const float *in, size_t ld, int m) {
    calibration *k = arg;
    reference_fetch(k->r, w);
    add_squares(k, w, in, ld, m);
}

static void layer_done(void *arg, walk *w, int l, err *e) {
    calibration *k = arg;
    const arch *a = &w->side[0].model->arch;
    reference_release(k->r);
    if (k->r->failed.code) *e = k->r->failed;
    else if (k->failed.code) *e = k->failed;
    if (k->progress) fprintf(stderr, "\rcalibrating: layer %d of %d ", l + 1, a->n_layers + a->n_enc_layers);
}

/* A matrix whose sums are not finite keeps none: packing names the weight that is to blame. */
static void set_importance(const calibration *k, int i) {
    output *o = &k->plan->outputs[i];
    float *sum = k->sum[i], mean = 0;
    if (!sum) return;
    for (uint32_t j = 0; j < o->k; j++) mean += sum[j] / (float)o->k;
    for (uint32_t j = 0; j < o->k; j++) sum[j] += least_share * mean;
    o->importance = mean > 0 && mean < INFINITY ? sum : NULL;
}

static int run(calibration *k, walk *w, err *e) {
    model *m = w->side[0].model;
    if (walk_run(w, e)) return -1;
    for (int i = 0; i < w->n_passages && m->output.data; i++)
        add_squares(k, &m->output, w->side[0].state[i].x, w->f.d_ld, w->p[i].n);
    for (int i = 0; i < k->plan->n; i++) set_importance(k, i);
    return 0;
}

int calibrate(reference *r, plan *p, arena *mem, const passages *s, const volatile int *stop, bool progress, err *e) {
    calibration k = { .r = r, .plan = p, .mem = mem, .sum = calloc((size_t)p->n, sizeof *k.sum), .progress = progress };
    walk w = { .p = s->p + 1, .n_passages = s->n - 1, .longest = s->longest, .n_sides = 1, .stop = stop, .layer_done = layer_done, .arg = &k,
               .side = { { .model = &r->model, .exact = true, .before = before, .arg = &k } } };
    int rc = k.sum ? 0 : fail_memory(e, (size_t)p->n * sizeof *k.sum, "statistics");
    if (!rc) rc = reference_tables(r, w.p, w.n_passages, e) || walk_open(&w, r->pool, e) || run(&k, &w, e) ? -1 : 0;
    if (progress) fprintf(stderr, "\r%60s\r", "");
    walk_close(&w);
    free(k.sum);
    return rc;
}
