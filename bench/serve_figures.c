/* serve_figures: what was measured, reply by reply: exact samples rather than buckets, so that a percentile is a time that really
 * occurred. It knows nothing of sockets or of how the figures are shown. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/serve.h"

const char *const load_kind_names[LOAD_KINDS] = { "ok", "refused", "connect", "closed", "status", "stream_error", "truncated", "timeout",
        "broken", "unfinished" };

void samples_add(samples *s, double seconds) {
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 1024;
        float *p = realloc(s->p, cap * sizeof *p);
        if (!p) {
            s->failed = true;
            return;
        }
        s->p = p;
        s->cap = cap;
    }
    s->p[s->n++] = (float)(seconds > 0 ? seconds : 0);
    s->sorted = false;
}

void samples_free(samples *s) {
    free(s->p);
    *s = (samples){ 0 };
}

static int compare(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

double samples_at(samples *s, double q) {
    if (!s->n) return 0;
    if (!s->sorted) qsort(s->p, s->n, sizeof *s->p, compare);
    s->sorted = true;
    double rank = ceil(q * (double)s->n);
    return (double)s->p[rank < 1 ? 0 : rank > (double)s->n ? s->n - 1 : (size_t)rank - 1];
}

double samples_mean(const samples *s) {
    double sum = 0;
    for (size_t i = 0; i < s->n; i++) sum += (double)s->p[i];
    return s->n ? sum / (double)s->n : 0;
}

second_row *figures_second(figures *f, double since_start) {
    static second_row lost; /* when memory ends: what is counted there is shown nowhere, and `failed` says so */
    int i = since_start < 0 ? 0 : since_start < MOST_SECONDS ? (int)since_start : MOST_SECONDS - 1;
    if (i >= f->cap_seconds) {
        int cap = max_int(i + 1, max_int(64, 2 * f->cap_seconds));
        second_row *p = realloc(f->seconds, (size_t)cap * sizeof *p);
        if (!p) {
            f->failed = true;
            return &lost;
        }
        memset(p + f->cap_seconds, 0, (size_t)(cap - f->cap_seconds) * sizeof *p);
        f->seconds = p;
        f->cap_seconds = cap;
    }
    f->n_seconds = max_int(f->n_seconds, i + 1);
    return &f->seconds[i];
}

static void count_tokens(figures *f, const reply *r) {
    f->pieces += r->pieces;
    f->tokens += r->tokens >= 0 ? r->tokens : r->pieces;
    f->uncounted += r->tokens < 0 && !r->kind;
    if (r->prompt_tokens > 0) f->prompt_tokens += r->prompt_tokens;
    if (r->cached > 0) f->cached += r->cached;
}

void figures_reply(figures *f, const reply *r, scene kind, double first, double whole) {
    f->requests++;
    f->kinds[r->kind]++;
    if (r->kind == LOAD_STATUS) f->status[r->status]++;
    if (r->kind && !*f->example[r->kind]) snprintf(f->example[r->kind], sizeof f->example[0], "%s", r->message);
    count_tokens(f, r);
    /* Times are those of good replies, for a refusal is quick and says nothing of speed, and of those that took too long, for
     * without them the slowest would be missing: they count with the time they were waited for. */
    if (r->kind && r->kind != LOAD_TIMEOUT) return;
    if (!r->kind) f->by_reason[strcmp(r->reason, "stop") == 0 ? 0 : strcmp(r->reason, "length") == 0 ? 1 : 2]++;
    if (!r->kind) f->empty += r->pieces == 0;
    samples_add(&f->whole[kind], whole);
    if (first < 0 && r->kind) first = whole;
    if (first >= 0) samples_add(&f->first[kind], first);
    samples_add(&f->whole[SCENE_MIXED], whole);
    if (first >= 0) samples_add(&f->first[SCENE_MIXED], first);
}

void figures_free(figures *f) {
    for (int i = 0; i < SCENES; i++) {
        samples_free(&f->first[i]);
        samples_free(&f->whole[i]);
    }
    samples_free(&f->between);
    samples_free(&f->late);
    free(f->seconds);
}
