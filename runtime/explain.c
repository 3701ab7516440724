/* explain: adds up times between taps (explain.h). Its idea: a tap comes after each named step, so the time since the one before
 * is that step's, and the engine's running totals say what it read and computed. It must not know how a step is computed. */
#include "runtime/explain.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_STEPS = 48 };

typedef struct step_time {
    const char *name; /* as the forward pass spells it: its own constant */
    double seconds;
    uint64_t bytes, macs;
} step_time;

struct explain {
    engine *g;
    step_time step[MOST_STEPS]; /* in the order in which they first came */
    int n_steps;
    double *layer;              /* [n_layers] seconds */
    double outside, last;       /* seconds between passes; when the last tap came */
    int64_t passes, tokens;
    uint64_t bytes, macs;       /* totals at the last tap */
};

int explain_new(explain **out, engine *g, err *e) {
    explain *x = calloc(1, sizeof *x);
    double *layer = calloc((size_t)engine_about(g)->n_layers + 1, sizeof *layer);
    if (x && layer) {
        x->g = g;
        x->layer = layer;
        *out = x;
        return 0;
    }
    free(x);
    free(layer);
    *out = NULL;
    return fail_memory(e, sizeof *x, "the table of --explain");
}

void explain_free(explain *x) {
    if (!x) return;
    free(x->layer);
    free(x);
}

static step_time *step_named(explain *x, const char *name) {
    for (int i = 0; i < x->n_steps; i++)
        if (strcmp(x->step[i].name, name) == 0) return &x->step[i];
    if (x->n_steps == MOST_STEPS) return &x->step[MOST_STEPS - 1];
    x->step[x->n_steps].name = name;
    return &x->step[x->n_steps++];
}

static void take(void *arg, const char *name, int l, const float *rows, int m, size_t ld, int n) {
    (void)rows, (void)ld, (void)n;
    explain *x = arg;
    double now = now_seconds(), seconds = now - x->last;
    uint64_t bytes, macs;
    engine_work(x->g, &bytes, &macs);
    if (strcmp(name, "start") == 0) {
        x->outside += seconds;
        x->passes++;
        x->tokens += m;
    } else {
        step_time *s = step_named(x, name);
        s->seconds += seconds;
        s->bytes += bytes - x->bytes;
        s->macs += macs - x->macs;
        if (l >= 0 && l < engine_about(x->g)->n_layers) x->layer[l] += seconds;
    }
    x->bytes = bytes;
    x->macs = macs;
    x->last = now_seconds();
}

void explain_begin(explain *x) {
    engine_work(x->g, &x->bytes, &x->macs);
    x->last = now_seconds();
    engine_set_tap(x->g, take, x);
}

void explain_end(explain *x) {
    if (x->passes) x->outside += now_seconds() - x->last;
    engine_set_tap(x->g, NULL, NULL);
}

explain_limits explain_measure(engine *g) {
    const engine_info *i = engine_about(g);
    engine_peaks p = engine_measure_peaks(g, 0.15);
    bool int8 = !i->exact && i->type[0] == 'q';
    return (explain_limits){ .read = engine_read_rate(g, 0.1), .matrix_ops = int8 ? p.int8 : strcmp(i->type, "bf16") == 0 ? p.bf16 : p.f32,
                             .attention_ops = strcmp(engine_plan(g).kv_type, "q8") == 0 ? p.int8 : p.f32 };
}

typedef struct shares {
    double read, ops; /* of the limits */
} shares;

static shares shares_of(const step_time *s, const explain_limits *l) {
    double peak = strcmp(s->name, "attention") == 0 ? l->attention_ops : l->matrix_ops;
    return (shares){ (double)s->bytes / s->seconds / l->read, 2 * (double)s->macs / s->seconds / peak };
}

static void add_row(const explain *x, const step_time *s, double total, const explain_limits *l, buf *out) {
    double n = (double)x->passes;
    shares share = shares_of(s, l);
    buf_fmt(out, "%-14s %9.3f %5.1f %%", s->name, 1e3 * s->seconds / n, 100 * s->seconds / total);
    if (s->bytes) buf_fmt(out, " %9.2f %7.1f %4.0f %%", (double)s->bytes / n / 1e6, (double)s->bytes / s->seconds / 1e9, 100 * share.read);
    if (s->macs) buf_fmt(out, " %9.1f %4.0f %%", 2 * (double)s->macs / s->seconds / 1e9, 100 * share.ops);
    buf_str(out, "\n");
}

/* A step below this share of both limits waits for something else: for its own small size, and for joins. */
static const double NEAR = 0.25;

static void add_sentence(const explain *x, double total, const explain_limits *l, buf *out) {
    double memory = 0, arithmetic = 0, read = 0, ops = 0;
    for (int i = 0; i < x->n_steps; i++) {
        const step_time *s = &x->step[i];
        if (s->seconds <= 0) continue;
        shares share = shares_of(s, l);
        if (share.read >= share.ops && share.read >= NEAR) memory += s->seconds, read += share.read * s->seconds;
        else if (share.ops >= NEAR) arithmetic += s->seconds, ops += share.ops * s->seconds;
    }
    double rest = total - memory - arithmetic;
    if (memory >= arithmetic && memory >= rest)
        buf_fmt(out, "bound by memory: %.0f %% of the time goes into steps that read at %.0f %% of the %.1f GB/s that this machine gives\n",
                100 * memory / total, 100 * read / memory, l->read / 1e9);
    else if (arithmetic >= rest)
        buf_fmt(out, "bound by arithmetic: %.0f %% of the time goes into steps that compute at %.0f %% of this machine's peak\n",
                100 * arithmetic / total, 100 * ops / arithmetic);
    else
        buf_fmt(out, "bound by neither memory nor arithmetic: %.0f %% of the time goes into steps too small for "
                     "them, and into the joins between threads and passes\n",
                100 * rest / total);
}

void explain_report(const explain *x, const char *what, const explain_limits *l, buf *out) {
    double inside = 0, total = 0, fastest = 0, slowest = 0, layers = 0;
    int n_layers = engine_about(x->g)->n_layers;
    if (x->passes == 0) return;
    for (int i = 0; i < x->n_steps; i++) inside += x->step[i].seconds;
    for (int i = 0; i < n_layers; i++) {
        layers += x->layer[i];
        if (i == 0 || x->layer[i] < fastest) fastest = x->layer[i];
        if (x->layer[i] > slowest) slowest = x->layer[i];
    }
    total = inside + x->outside;
    double n = (double)x->passes;
    buf_fmt(out, "%s: %lld pass%s, %lld token%s, %.3f ms a pass\n", what, (long long)x->passes, x->passes == 1 ? "" : "es", (long long)x->tokens,
            x->tokens == 1 ? "" : "s", 1e3 * total / n);
    buf_fmt(out, "%-14s %9s %7s %9s %7s %6s %9s %6s\n", "step", "ms", "share", "MB", "GB/s", "limit", "Gop/s", "limit");
    for (int i = 0; i < x->n_steps; i++)
        if (x->step[i].seconds > 0) add_row(x, &x->step[i], total, l, out);
    buf_fmt(out, "%-14s %9.3f %5.1f %%\n", "outside", 1e3 * x->outside / n, 100 * x->outside / total);
    if (n_layers)
        buf_fmt(out, "a layer takes %.3f ms (%.3f to %.3f), all %d of them %.0f %% of the time\n", 1e3 * layers / n / n_layers, 1e3 * fastest / n,
                1e3 * slowest / n, n_layers, 100 * layers / total);
    add_sentence(x, total, l, out);
}
