/* certify: runs the passages through the checkpoint in f32 and through the file that was written of it, as run would (int8
 * activations, a cache of f16), and measures how far they are apart: hidden states after each layer, the output's distribution at
 * the end. The vocabulary is worked in blocks, so that neither the output matrix in f32 nor all logits are in memory at once.
 * It must not know families or how the file was packed. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/pool.h"
#include "runtime/sample.h"
#include "tools/convert/certify.h"

enum { REFERENCE, WRITTEN };
enum { OUTPUT_BYTES = 64 << 20, CHUNK = 128 }; /* of the output matrix in f32; rows of logits */

/* KL divergences in nats, and relative errors of an encoder's hidden states, that are said and that are refused. The random models
 * of the tests come to 2e-6 as f32, 2e-4 as bf16, 0.015 as q8 and 0.9 as q4, trained ones to less. Four bits can be too few for a
 * model that is converted well, so q4 is never refused for it. */
typedef struct bounds {
    double warn, refuse, warn_error, refuse_error;
} bounds;
static const bounds bounds_of[W_COUNT] = {
    [W_F32] = { 0.001, 0.1, 0.01, 0.1 },
    [W_BF16] = { 0.01, 0.3, 0.05, 0.3 },
    [W_Q8] = { 0.05, 0.5, 0.2, 0.7 },
    [W_Q4] = { 0.5, INFINITY, 0.5, INFINITY },
};

typedef struct certifier {
    reference *r;
    model written;
    certificate *out;
    const passages *s;
    walk walk;
    bool progress;
    char *warning;
    size_t warning_bytes;
} certifier;

/* ---- hidden states ---- */

typedef struct spread {
    double difference, reference; /* sums of squares */
} spread;

static void add_spread(spread *s, const float *ref, const float *x, int rows, size_t ld, int n) {
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < n; j++) {
            double a = ref[(size_t)i * ld + (size_t)j], d = x[(size_t)i * ld + (size_t)j] - a;
            s->difference += d * d;
            s->reference += a * a;
        }
}

static double relative(const spread *s) { return s->difference > 0 ? sqrt(s->difference / s->reference) : s->difference; }

/* Of the built-in prompt, on both sides: the streams where there are several. */
static double state_error(const walk *w, int rows, bool streams) {
    const walk_state *ref = &w->side[REFERENCE].state[0], *x = &w->side[WRITTEN].state[0];
    const arch *a = &w->side[REFERENCE].model->arch;
    size_t step = (size_t)w->f.max_rows * w->f.d_ld;
    spread s = { 0 };
    for (int k = 0; streams && k < a->n_streams; k++)
        add_spread(&s, ref->streams + (size_t)k * step, x->streams + (size_t)k * step, rows, w->f.d_ld, a->d_model);
    if (!streams) add_spread(&s, ref->x, x->x, rows, w->f.d_ld, a->d_model);
    return relative(&s);
}

static void layer_done(void *arg, walk *w, int l, err *e) {
    certifier *k = arg;
    const arch *a = &w->side[REFERENCE].model->arch;
    bool encoder = l < a->n_enc_layers;
    reference_release(k->r);
    drop_pages(&k->written.file.map, 0, k->written.file.map.n);
    if (k->r->failed.code) *e = k->r->failed;
    k->out->layers[l] = state_error(w, encoder ? w->p[0].n_enc : w->p[0].n, !encoder && a->n_streams > 1);
    if (k->progress) fprintf(stderr, "\rverifying: layer %d of %d ", l + 1, k->out->n_layers);
}

/* ---- the output ---- */

typedef struct row_score { /* of one row that has a next token */
    divergence d;
    int32_t next;
    float next_ref, next_written; /* its logits */
} row_score;

typedef struct scoring { /* a block of the vocabulary, a chunk of rows */
    certifier *k;
    row_score *row;
    float *ref, *written; /* [CHUNK][ld] */
    size_t ld;
    int first, n;         /* outputs */
} scoring;

static void score_row(void *arg, int task, int worker) {
    (void)worker;
    const scoring *x = arg;
    row_score *r = &x->row[task];
    const float *ref = x->ref + (size_t)task * x->ld, *written = x->written + (size_t)task * x->ld;
    divergence_add(&r->d, ref, written, x->n);
    if (r->next < x->first || r->next >= x->first + x->n) return;
    r->next_ref = ref[r->next - x->first];
    r->next_written = written[r->next - x->first];
}

static void score_passage(scoring *x, int i, row_score *rows) {
    walk *w = &x->k->walk;
    int n = passage_rows(&w->p[i]);
    for (int at = 0; at < n; at += CHUNK) {
        int m = min_int(CHUNK, n - at);
        for (int s = 0; s < 2; s++) {
            walk_take(w, s, i, false);
            forward_logits(&w->f, w->side[s].state[i].x + (size_t)at * w->f.d_ld, m, x->first, x->n, s == REFERENCE ? x->ref : x->written, x->ld);
        }
        x->row = rows + at;
        pool_run(x->k->r->pool, score_row, x, m);
    }
}

static int score_all(certifier *k, row_score *rows, err *e) {
    walk *w = &k->walk;
    const model *m = &k->r->model;
    int panels = (int)(OUTPUT_BYTES / panel_bytes(W_F32, m->output.k)), block = max_int(panels, 1) * PANEL;
    scoring x = { .k = k, .ld = (size_t)min_int(block, (int)round_up((size_t)m->output.n, PANEL)) };
    x.ref = alloc_aligned(CHUNK * x.ld * sizeof(float));
    x.written = alloc_aligned(CHUNK * x.ld * sizeof(float));
    if (!x.ref || !x.written) fail_memory(e, 2 * CHUNK * x.ld * sizeof(float), "rows of logits");
    for (x.first = 0; x.first < m->output.n && !e->code; x.first += block) {
        x.n = min_int(block, m->output.n - x.first);
        row_score *at = rows;
        for (int i = 0; i < w->n_passages; at += passage_rows(&w->p[i]), i++) score_passage(&x, i, at);
        reference_release(k->r);
        drop_pages(&k->written.file.map, 0, k->written.file.map.n);
        if (k->r->failed.code) *e = k->r->failed;
        else if (*w->stop) fail(e, "interrupted");
    }
    free_aligned(x.ref);
    free_aligned(x.written);
    return e->code ? -1 : 0;
}

static void sum_rows(const row_score *rows, int n, certificate_score *s, double *perplexity, double *perplexity_ref) {
    double nll = 0, nll_ref = 0, kl = 0;
    *s = (certificate_score){ .rows = n };
    for (int i = 0; i < n; i++) {
        const row_score *r = &rows[i];
        double one = divergence_kl(&r->d);
        kl += one;
        if (!(one <= s->kl_max)) s->kl_max = one;
        s->flips += r->d.best_p != r->d.best_q;
        nll_ref += divergence_log_p(&r->d) - r->next_ref;
        nll += divergence_log_q(&r->d) - r->next_written;
    }
    if (n == 0) return;
    s->kl = kl / n;
    *perplexity = exp(nll / n);
    *perplexity_ref = exp(nll_ref / n);
}

static int score(certifier *k, err *e) {
    walk *w = &k->walk;
    int n = 0, at = 0, fixed = passage_rows(&w->p[0]);
    double unused[2];
    for (int i = 0; i < w->n_passages; i++) n += passage_rows(&w->p[i]);
    if (n == 0 || !w->side[0].model->output.data) return 0;
    row_score *rows = calloc((size_t)n, sizeof *rows);
    if (!rows) return fail_memory(e, (size_t)n * sizeof *rows, "scores");
    for (int i = 0; i < w->n_passages; i++)
        for (int j = 1; j < w->p[i].n; j++) rows[at++].next = w->p[i].tok[j];
    int rc = score_all(k, rows, e);
    if (!rc) {
        sum_rows(rows, fixed, &k->out->fixed, &unused[0], &unused[1]);
        sum_rows(rows + fixed, n - fixed, &k->out->text, &k->out->perplexity, &k->out->perplexity_ref);
    }
    free(rows);
    return rc;
}

/* ---- the judgement ---- */

/* The first layer after which a side has values that are not finite, or -1. Only sums are at hand: an error that is not finite. */
static int first_broken(const certificate *c) {
    for (int l = 0; l < c->n_layers; l++)
        if (!isfinite(c->layers[l])) return l;
    return -1;
}

static bool finite_rows(const float *x, int rows, size_t ld, int n) {
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < n; j++)
            if (!isfinite(x[(size_t)i * ld + (size_t)j])) return false;
    return true;
}

static bool finite_at_end(const walk *w, int side) {
    const passage *p = &w->p[0];
    return finite_rows(w->side[side].state[0].x, p->n ? p->n : p->n_enc, w->f.d_ld, w->side[side].model->arch.d_model);
}

/* What is not this model any more is refused; a large loss is said. */
static int judge(certifier *k, err *e) {
    const certificate *c = k->out;
    int l = first_broken(c);
    wtype type = k->r->plan->type;
    const bounds *limit = &bounds_of[type];
    const char *folder = k->r->c->folder, *name = wtype_name(type);
    double kl = fmax(c->fixed.kl, c->text.kl);
    if (!finite_at_end(&k->walk, REFERENCE))
        return fail(e, "%s: the checkpoint itself computes values that are not finite, even in f32 (from layer "
                       "%d on): it is damaged, or its config.json does not fit its weights",
                    folder, l);
    if (l >= 0 || !isfinite(c->hidden) || !isfinite(c->fixed.kl) || !isfinite(c->text.kl))
        return fail(e, "%s as %s computes values that are not finite where the checkpoint's are finite (from layer %d on): take another --type",
                    folder, name, l);
    bool scored = c->fixed.rows + c->text.rows > 0;
    if (scored ? kl >= limit->refuse : c->hidden >= limit->refuse_error)
        return fail(e, "%s: what was written as %s is not this model any more: KL divergence %.3g nats a token, "
                       "error of the hidden states %.3g, expected below %g; %s",
                    folder, name, kl, c->hidden, scored ? limit->refuse : limit->refuse_error,
                    type == W_Q8 ? "--calibrate TEXT or --type bf16 may keep it; if not, the disk or the memory of this machine is at fault"
                                 : "the disk or the memory of this machine is at fault, or this program: try again");
    if (scored ? kl >= limit->warn : c->hidden >= limit->warn_error)
        snprintf(k->warning, k->warning_bytes, "%s loses much of this model: KL divergence %.3g nats a token, error of the hidden states %.3g; %s",
                 name, kl, c->hidden, type == W_Q4 ? "--calibrate TEXT may help, --type q8 will" : "take another --type");
    return 0;
}

/* ---- all of it ---- */

void certificate_begin(certificate *c, const arch *a, const passages *s) {
    *c = (certificate){ .by = "quern " QUERN_VERSION, .tokens = max_int(s->p[0].n_enc, s->p[0].n), .n_layers = a->n_enc_layers + a->n_layers,
                        .text_hash = s->text_hash, .text_tokens = s->text_tokens };
    memcpy(c->prompt, s->prompt, sizeof c->prompt);
}

static void before(void *arg, const mat *w, const float *in, size_t ld, int m) {
    (void)in, (void)ld, (void)m;
    reference_fetch(arg, w);
}

static int measure(certifier *k, const volatile int *stop, err *e) {
    walk *w = &k->walk;
    *w = (walk){ .p = k->s->p, .n_passages = k->s->n, .longest = k->s->longest, .n_sides = 2, .stop = stop, .layer_done = layer_done, .arg = k,
                 .side = { { .model = &k->r->model, .exact = true, .before = before, .arg = k->r }, { .model = &k->written } } };
    if (reference_tables(k->r, w->p, w->n_passages, e) || walk_open(w, k->r->pool, e) || walk_run(w, e)) return -1;
    const passage *p = &w->p[0];
    k->out->hidden = state_error(w, p->n ? p->n : p->n_enc, false);
    return score(k, e);
}

int certify(reference *r, const char *path, const passages *s, const volatile int *stop, bool progress, certificate *out,
            char warning[CERTIFY_WARNING], err *e) {
    certifier k = { .r = r, .out = out, .s = s, .progress = progress, .warning = warning, .warning_bytes = CERTIFY_WARNING };
    *warning = 0;
    certificate_begin(out, &r->model.arch, s);
    if (model_open(&k.written, path, false, e)) return -1;
    int rc = measure(&k, stop, e);
    if (!rc) rc = judge(&k, e);
    if (progress) fprintf(stderr, "\r%60s\r", "");
    walk_close(&k.walk);
    model_close(&k.written);
    return rc;
}
