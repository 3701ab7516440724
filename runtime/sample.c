/* sample: owns the candidates of one draw, the tokens so far and the random state. Ties go to the lower id, sums run in
 * double in a fixed order, so that a seed always gives the same tokens. A vocabulary is walked as few times as can be, 16 or more at a time:
 * only what may be drawn becomes a candidate. It must not know where logits come from. */
#define _GNU_SOURCE
#include "runtime/sample.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/kernels.h"

typedef struct candidate {
    float logit;
    int32_t id;
    double p; /* softmax over the candidates so far; for typical: the key */
} candidate;

struct sampler {
    sample_opts o;
    int n_vocab;
    const kernels *k;
    candidate *c;       /* [n_vocab] */
    float *p;           /* [n_vocab] maxima of blocks, or probabilities of all tokens */
    float *row;         /* [n_vocab] the logits after what looks back; NULL: nothing does */
    int *count;         /* [n_vocab] */
    ids history;        /* kept where something looks back */
    int n_answer;       /* its last ones, since sampler_begin */
    uint64_t rng[4];
};

sample_opts sample_defaults(void) {
    return (sample_opts){ .temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .typical_p = 1, .repeat_penalty = 1, .repeat_last_n = 64 };
}

static int in_range(const char *name, double v, double low, double high, err *e) {
    if (v >= low && v <= high) return 0; /* a NaN is in no range */
    return fail_code(e, ERR_INPUT, "%s: expected %g to %g, found %g", name, low, high, v);
}

int sample_check(const sample_opts *o, err *e) {
    if (in_range("temperature", o->temperature, 0, 1000, e) || in_range("top-k", o->top_k, 0, INT32_MAX, e) || in_range("top-p", o->top_p, 0, 1, e) ||
        in_range("min-p", o->min_p, 0, 1, e) || in_range("typical", o->typical_p, 0, 1, e) ||
        in_range("repeat-penalty", o->repeat_penalty, 1e-3, 1000, e) ||
        in_range("frequency-penalty", o->frequency_penalty, -1000, 1000, e) || in_range("presence-penalty", o->presence_penalty, -1000, 1000, e) ||
        in_range("repeat-last-n", o->repeat_last_n, -1, 1 << 24, e) || in_range("no-repeat-ngram", o->no_repeat_ngram, 0, 1 << 24, e) ||
        in_range("min-length", o->min_length, 0, INT32_MAX, e))
        return -1;
    return 0;
}

uint64_t sample_random_seed(void) {
    uint64_t seed = 0;
    FILE *f = fopen("/dev/urandom", "rb");
    if (!f || fread(&seed, sizeof seed, 1, f) != 1) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        seed = (uint64_t)t.tv_nsec * 0x9E3779B97F4A7C15ull ^ (uint64_t)t.tv_sec ^ (uint64_t)getpid() << 32;
    }
    if (f) fclose(f);
    return seed & 0xffffffffu; /* short enough to be typed again */
}

/* splitmix64 fills, xoshiro256** draws (Blackman and Vigna 2018). */
static uint64_t splitmix(uint64_t *x) {
    uint64_t z = *x += 0x9E3779B97F4A7C15ull;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}

static uint64_t rotl(uint64_t x, int k) { return x << k | x >> (64 - k); }

static double draw(uint64_t s[4]) { /* [0, 1) */
    uint64_t r = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return (double)(r >> 11) * 0x1p-53;
}

/* ---- whole rows ---- */

static float largest(const float *x, int n) {
    float m[16], max = x[0];
    for (int l = 0; l < 16; l++) m[l] = x[0];
    int i = 0;
    for (; i + 16 <= n; i += 16)
        for (int l = 0; l < 16; l++) m[l] = x[i + l] > m[l] ? x[i + l] : m[l];
    for (int l = 0; l < 16; l++) max = m[l] > max ? m[l] : max;
    for (; i < n; i++) max = x[i] > max ? x[i] : max;
    return max;
}

static bool has_nan(const float *x, int n) {
    int nan = 0;
    for (int i = 0; i < n; i++) nan |= x[i] != x[i];
    return nan;
}

/* ---- what looks back ---- */

static bool penalises(const sample_opts *o) {
    return o->repeat_last_n != 0 && (o->repeat_penalty != 1 || o->frequency_penalty != 0 || o->presence_penalty != 0);
}

static bool looks_back(const sample_opts *o) { return penalises(o) || o->n_bias || o->no_repeat_ngram || (o->min_length && o->n_eos); }

static void penalise(const sample_opts *o, const int32_t *tok, int n, float *row, int n_vocab, int *count) {
    int first = o->repeat_last_n < 0 || o->repeat_last_n > n ? 0 : n - o->repeat_last_n;
    for (int i = first; i < n; i++)
        if (tok[i] >= 0 && tok[i] < n_vocab) count[tok[i]]++;
    for (int i = first; i < n; i++) {
        if (tok[i] < 0 || tok[i] >= n_vocab || !count[tok[i]]) continue;
        float *x = &row[tok[i]];
        *x = *x > 0 ? *x / o->repeat_penalty : *x * o->repeat_penalty;
        *x -= (float)count[tok[i]] * o->frequency_penalty + o->presence_penalty;
        count[tok[i]] = 0;
    }
}

/* What followed an earlier run of size - 1 tokens that is also the end so far would make a run of size that was there. */
static void forbid_ngrams(int size, const int32_t *tok, int n, float *row, int n_vocab) {
    const int32_t *end = tok + n - (size - 1);
    for (int i = 0; i + size <= n; i++) {
        int32_t next = tok[i + size - 1];
        if (next >= 0 && next < n_vocab && memcmp(tok + i, end, (size_t)(size - 1) * sizeof *tok) == 0) row[next] = -INFINITY;
    }
}

void sample_look_back(const sample_opts *o, const int32_t *tok, int n, int n_answer, float *row, int n_vocab, int *count) {
    if (penalises(o)) penalise(o, tok, n, row, n_vocab, count);
    for (int i = 0; i < o->n_bias; i++)
        if (o->bias[i].id >= 0 && o->bias[i].id < n_vocab) row[o->bias[i].id] += o->bias[i].bias;
    if (o->no_repeat_ngram > 0 && n >= o->no_repeat_ngram) forbid_ngrams(o->no_repeat_ngram, tok, n, row, n_vocab);
    for (int i = 0; i < o->n_eos && n_answer < o->min_length; i++)
        if (o->eos[i] >= 0 && o->eos[i] < n_vocab) row[o->eos[i]] = -INFINITY;
}

/* ---- the sampler ---- */

/* Copies what the options borrow. */
static int own_lists(sampler *s, const sample_opts *o) {
    logit_bias *bias = malloc((size_t)max_int(o->n_bias, 1) * sizeof *bias);
    int32_t *eos = malloc((size_t)max_int(o->n_eos, 1) * sizeof *eos);
    s->o.bias = bias;
    s->o.eos = eos;
    if (!bias || !eos) return -1;
    if (o->n_bias) memcpy(bias, o->bias, (size_t)o->n_bias * sizeof *bias);
    if (o->n_eos) memcpy(eos, o->eos, (size_t)o->n_eos * sizeof *eos);
    return 0;
}

int sampler_new(sampler **out, const sample_opts *o, int n_vocab, err *e) {
    *out = NULL;
    if (sample_check(o, e)) return -1;
    for (int i = 0; i < o->n_bias; i++)
        if (o->bias[i].id < 0 || o->bias[i].id >= n_vocab || isnan(o->bias[i].bias))
            return fail_code(e, ERR_INPUT, "logit-bias: id %d is not in the vocabulary of %d, or its bias is no number", o->bias[i].id, n_vocab);
    sampler *s = calloc(1, sizeof *s);
    if (!s) return fail_memory(e, sizeof *s, "a sampler");
    s->o = *o;
    s->n_vocab = n_vocab;
    s->k = kernels_get();
    s->c = malloc((size_t)n_vocab * sizeof *s->c);
    s->p = malloc((size_t)n_vocab * sizeof *s->p);
    if (looks_back(o)) {
        s->row = malloc((size_t)n_vocab * sizeof *s->row);
        s->count = calloc((size_t)n_vocab, sizeof *s->count);
    }
    if (own_lists(s, o) || !s->c || !s->p || (looks_back(o) && (!s->row || !s->count))) {
        sampler_free(s);
        return fail_memory(e, (size_t)n_vocab * (sizeof *s->c + sizeof *s->p), "a sampler");
    }
    uint64_t seed = o->seed;
    for (int i = 0; i < 4; i++) s->rng[i] = splitmix(&seed);
    *out = s;
    return 0;
}

void sampler_free(sampler *s) {
    if (!s) return;
    free(s->c);
    free(s->p);
    free(s->row);
    free(s->count);
    ids_free(&s->history);
    free((void *)(uintptr_t)s->o.bias);
    free((void *)(uintptr_t)s->o.eos);
    free(s);
}

void sampler_accept(sampler *s, int32_t id) {
    if (s->row) ids_add(&s->history, id);
    if (s->n_answer < INT32_MAX) s->n_answer++;
}

void sampler_begin(sampler *s) { s->n_answer = 0; }

/* ---- candidates ---- */

static bool before(const candidate *a, const candidate *b) { return a->logit > b->logit || (a->logit == b->logit && a->id < b->id); }

static void swap(candidate *a, candidate *b) {
    candidate t = *a;
    *a = *b;
    *b = t;
}

/* Moves the k first in order to the front, themselves unordered (Hoare's selection; the middle of three as pivot). */
static void select_top(candidate *c, int n, int k) {
    int low = 0, high = n - 1;
    while (low < high) {
        int mid = low + (high - low) / 2;
        if (before(&c[mid], &c[low])) swap(&c[mid], &c[low]);
        if (before(&c[high], &c[low])) swap(&c[high], &c[low]);
        if (before(&c[high], &c[mid])) swap(&c[high], &c[mid]);
        candidate pivot = c[mid];
        int i = low, j = high;
        while (i <= j) {
            while (before(&c[i], &pivot)) i++;
            while (before(&pivot, &c[j])) j--;
            if (i <= j) swap(&c[i++], &c[j--]);
        }
        if (k - 1 <= j) high = j;
        else if (k - 1 >= i) low = i;
        else return;
    }
}

/* Sets p of n candidates to their softmax. */
static void softmax(candidate *c, int n) {
    float max = c[0].logit;
    for (int i = 1; i < n; i++)
        if (c[i].logit > max) max = c[i].logit;
    double sum = 0;
    for (int i = 0; i < n; i++) sum += c[i].p = exp((double)c[i].logit - max);
    for (int i = 0; i < n; i++) c[i].p /= sum;
}

/* Less the largest first, so that no temperature is too small. */
static void temper(candidate *c, int n, float temperature) {
    float max = c[0].logit;
    for (int i = 1; i < n; i++)
        if (c[i].logit > max) max = c[i].logit;
    for (int i = 0; i < n; i++) c[i].logit = (c[i].logit - max) / temperature;
}

/* The order of a heap: likelier first, or (entropy >= 0) nearer to the entropy in information first. */
static bool nearer(const candidate *a, const candidate *b, double entropy) {
    if (entropy < 0) return before(a, b);
    double x = fabs(-log(a->p) - entropy), y = fabs(-log(b->p) - entropy);
    return x < y || (x == y && a->id < b->id);
}

static void sift(candidate *c, int i, int n, double entropy) {
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && nearer(&c[child + 1], &c[child], entropy)) child++;
        if (!nearer(&c[child], &c[i], entropy)) return;
        swap(&c[child], &c[i]);
    }
}

/* Keeps the fewest candidates, in the heap's order, whose probabilities reach p: a heap in place, popped to the end of the
 * array. Returns how many, moved to the front. entropy < 0: by likelihood (top-p), else by nearness to it (typical). */
static int keep_mass(candidate *c, int n, double p, double entropy) {
    double sum = 0;
    int kept = 0;
    for (int i = n / 2 - 1; i >= 0; i--) sift(c, i, n, entropy);
    while (kept < n && (kept == 0 || sum < p)) {
        int last = n - 1 - kept;
        sum += c[0].p;
        swap(&c[0], &c[last]);
        kept++;
        sift(c, 0, last, entropy);
    }
    for (int i = 0; i < kept / 2; i++) swap(&c[n - kept + i], &c[n - 1 - i]); /* best first */
    memmove(c, c + n - kept, (size_t)kept * sizeof *c);
    return kept;
}

static double entropy_of(const candidate *c, int n) {
    double h = 0;
    for (int i = 0; i < n; i++)
        if (c[i].p > 0) h -= c[i].p * log(c[i].p);
    return fmax(h, 0);
}

static int keep_min_p(candidate *c, int n, float min_p) {
    float max = c[0].logit;
    for (int i = 1; i < n; i++)
        if (c[i].logit > max) max = c[i].logit;
    float least = max + logf(min_p);
    int kept = 0;
    for (int i = 0; i < n; i++)
        if (c[i].logit >= least) c[kept++] = c[i];
    return kept;
}

enum { BLOCK = 64 };

/* The logits to choose from; NULL where one is NaN or memory for the history ran out. */
static const float *look(sampler *s, const float *logits) {
    if (has_nan(logits, s->n_vocab)) return NULL;
    if (!s->row) return logits;
    if (s->history.failed || s->history.n > INT32_MAX) return NULL;
    memcpy(s->row, logits, (size_t)s->n_vocab * sizeof *s->row);
    sample_look_back(&s->o, s->history.p, (int)s->history.n, s->n_answer, s->row, s->n_vocab, s->count);
    for (int i = 0; i < s->n_vocab; i++) s->row[i] = s->row[i] == s->row[i] ? s->row[i] : -INFINITY; /* inf - inf */
    return s->row;
}

/* Candidates are the tokens of [first, end) that are not forbidden, from `least` on; n there are already. */
static int gather(candidate *c, int n, const float *x, int first, int end, float least) {
    for (int i = first; i < end; i++)
        if (x[i] >= least && x[i] > -INFINITY) c[n++] = (candidate){ x[i], i, 0 };
    return n;
}

/* The k first in order. As k blocks have a maximum of at least t, so have k tokens: what is below t is not among them. */
static int gather_top(sampler *s, const float *x, int k) {
    int n_blocks = (s->n_vocab + BLOCK - 1) / BLOCK, n = 0;
    float least = -INFINITY;
    for (int b = 0; b < n_blocks; b++) {
        s->p[b] = largest(x + b * BLOCK, min_int(BLOCK, s->n_vocab - b * BLOCK));
        s->c[b] = (candidate){ s->p[b], b, 0 };
    }
    if (k < n_blocks) {
        select_top(s->c, n_blocks, k);
        least = s->c[0].logit;
        for (int i = 1; i < k; i++) least = fminf(least, s->c[i].logit);
    }
    for (int b = 0; b < n_blocks; b++)
        if (!(s->p[b] < least)) n = gather(s->c, n, x, b * BLOCK, min_int((b + 1) * BLOCK, s->n_vocab), least);
    if (k >= n) return n;
    select_top(s->c, n, k);
    return k;
}

/* For top-p over all tokens: their probabilities, and as candidates those that can be among the likeliest that reach p: of the others,
 * each below (1 - p) / n_vocab, all together are less than what is left over. */
static int gather_likely(sampler *s, const float *x) {
    float least = 0.99f * (1 - s->o.top_p) / (float)s->n_vocab;
    int n = 0;
    memcpy(s->p, x, (size_t)s->n_vocab * sizeof *s->p);
    s->k->softmax(s->p, s->n_vocab);
    for (int i = 0; i < s->n_vocab; i++)
        if (s->p[i] > least && x[i] > -INFINITY) s->c[n++] = (candidate){ x[i], i, s->p[i] };
    return n;
}

/* A draw from all tokens; best: the likeliest. */
static int32_t pick_any(sampler *s, const float *x, int32_t best) {
    int32_t last = best;
    for (int i = 0; i < s->n_vocab; i++) s->p[i] = (x[i] - x[best]) / s->o.temperature;
    s->k->softmax(s->p, s->n_vocab);
    double u = draw(s->rng), sum = 0;
    for (int i = 0; i < s->n_vocab; i++) {
        if (x[i] == -INFINITY || !(s->p[i] > 0)) continue;
        last = i;
        if ((sum += s->p[i]) > u) break;
    }
    return last;
}

int32_t sampler_pick(sampler *s, const float *logits) {
    const sample_opts *o = &s->o;
    candidate *c = s->c;
    const float *x = look(s, logits);
    if (!x) return -1;
    int best = sample_argmax(x, s->n_vocab);
    if (best < 0 || x[best] == -INFINITY) return -1;
    if (o->temperature == 0 || o->top_k == 1 || x[best] == INFINITY) return best;
    bool all = o->top_k <= 0 || o->top_k >= s->n_vocab, plain = all && o->typical_p >= 1, likely = plain && o->top_p < 1;
    if (plain && !likely && o->min_p <= 0) return pick_any(s, x, best);
    float least = plain && !likely ? x[best] + logf(o->min_p) : -INFINITY;
    int n = likely ? gather_likely(s, x) : all ? gather(c, 0, x, 0, s->n_vocab, least) : gather_top(s, x, o->top_k);
    if (o->typical_p < 1) {
        softmax(c, n);
        n = keep_mass(c, n, o->typical_p, entropy_of(c, n));
    }
    if (o->top_p < 1) {
        if (!likely) softmax(c, n);
        n = keep_mass(c, n, o->top_p, -1);
    }
    if (o->min_p > 0) n = keep_min_p(c, n, o->min_p);
    temper(c, n, o->temperature);
    softmax(c, n);
    double u = draw(s->rng), sum = 0;
    for (int i = 0; i < n - 1; i++)
        if ((sum += c[i].p) > u) return c[i].id;
    return c[n - 1].id;
}

double sample_logsumexp(const float *logits, int n) {
    float max = logits[0];
    for (int i = 1; i < n; i++)
        if (logits[i] > max) max = logits[i];
    double sum = 0;
    for (int i = 0; i < n; i++) sum += exp((double)logits[i] - max);
    return max + log(sum);
}

double sample_logprob(const float *logits, int n_vocab, int32_t id) { return logits[id] - sample_logsumexp(logits, n_vocab); }

/* A larger maximum rescales the sums so far. */
static void raise_max(double *max, double to, double *sum, double *dot) {
    if (to <= *max) return;
    double by = exp(*max - to);
    *max = to;
    *sum *= by;
    if (dot) *dot *= by;
}

void divergence_add(divergence *d, const float *p, const float *q, int n) {
    if (d->n == 0) d->max_p = d->max_q = -FLT_MAX, d->top_p = d->top_q = -INFINITY;
    for (int i = 0; i < n; i++) {
        d->broken |= !(p[i] < INFINITY) || !(q[i] < INFINITY);
        if (p[i] > d->top_p) d->top_p = p[i], d->best_p = d->n + i;
        if (q[i] > d->top_q) d->top_q = q[i], d->best_q = d->n + i;
    }
    d->n += n;
    if (d->broken) return;
    raise_max(&d->max_p, d->top_p, &d->sum_p, &d->dot);
    raise_max(&d->max_q, d->top_q, &d->sum_q, NULL);
    for (int i = 0; i < n; i++) {
        double lp = p[i] - d->max_p, e = lp > -700 ? exp(lp) : 0; /* below, exp is nothing, and a logit may be -infinity */
        d->sum_p += e;
        d->sum_q += exp(q[i] - d->max_q);
        if (e > 0) d->dot += e * ((double)p[i] - q[i]);
    }
}

double divergence_log_p(const divergence *d) { return d->broken ? NAN : d->max_p + log(d->sum_p); }
double divergence_log_q(const divergence *d) { return d->broken ? NAN : d->max_q + log(d->sum_q); }
double divergence_kl(const divergence *d) { return d->broken ? NAN : d->dot / d->sum_p - divergence_log_p(d) + divergence_log_q(d); }

double sample_divergence(const float *p, const float *q, int n) {
    divergence d = { 0 };
    divergence_add(&d, p, q, n);
    return divergence_kl(&d);
}

int32_t sample_argmax(const float *logits, int n) {
    if (has_nan(logits, n)) return -1;
    float max = largest(logits, n);
    for (int32_t i = 0;; i++)
        if (logits[i] == max) return i;
}
