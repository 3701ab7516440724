/* sample and stop: filters keep what their definitions say, seeds repeat, draws follow the distribution; stop strings are
 * found across any cut and never shown. */
#include <math.h>
#include "kernels/kernels.h"
#include "runtime/sample.h"
#include "runtime/stop.h"
#include "tests/test.h"

enum { N = 1000 };

static void make_logits(float *x, int n, uint32_t seed) {
    for (int i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(seed >> 8) / (float)(1 << 24) * 8 - 4;
    }
}

static int compare_down(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Draws many times; returns how many different tokens came, and their counts. */
static int draw_many(const sample_opts *o, const float *logits, int n, int draws, int *count) {
    sampler *s;
    err e = { 0 };
    int kinds = 0;
    assert_int_equal(sampler_new(&s, o, n, &e), 0);
    memset(count, 0, (size_t)n * sizeof *count);
    for (int i = 0; i < draws; i++) count[sampler_pick(s, logits)]++;
    for (int i = 0; i < n; i++) kinds += count[i] > 0;
    sampler_free(s);
    return kinds;
}

static sample_opts plain(void) {
    sample_opts o = sample_defaults();
    o.temperature = 1;
    o.top_k = 0;
    o.top_p = 1;
    o.seed = 7;
    return o;
}

static void test_filters(void **state) {
    (void)state;
    float logits[N];
    double p[N], sum = 0, mass = 0;
    int count[N];
    make_logits(logits, N, 3);
    for (int i = 0; i < N; i++) sum += p[i] = exp(logits[i]);
    for (int i = 0; i < N; i++) p[i] /= sum;
    double sorted[N];
    memcpy(sorted, p, sizeof p);
    qsort(sorted, N, sizeof *sorted, compare_down);

    sample_opts o = plain();
    o.top_k = 5;
    draw_many(&o, logits, N, 20000, count);
    for (int i = 0; i < N; i++) assert_int_equal(count[i] > 0, p[i] >= sorted[4]);

    o = plain();
    o.top_p = 0.05f; /* the fewest whose mass reaches it */
    int least = 0;
    while (mass < 0.05) mass += sorted[least++];
    draw_many(&o, logits, N, 100000, count);
    for (int i = 0; i < N; i++) assert_int_equal(count[i] > 0, p[i] >= sorted[least - 1]);

    o = plain();
    o.min_p = 0.95f;
    draw_many(&o, logits, N, 20000, count);
    for (int i = 0; i < N; i++) {
        if (count[i]) assert_true(p[i] >= 0.9499 * sorted[0]);
        else assert_true(p[i] <= 0.9501 * sorted[0]);
    }

    o = plain();
    o.typical_p = 0.02f; /* nearest to the entropy, not the likeliest */
    double h = 0, worst = 0, best_out = 1e9;
    for (int i = 0; i < N; i++) h -= p[i] * log(p[i]);
    draw_many(&o, logits, N, 20000, count);
    for (int i = 0; i < N; i++) {
        double far = fabs(-log(p[i]) - h);
        if (count[i] && far > worst) worst = far;
        if (!count[i] && far < best_out) best_out = far;
    }
    assert_true(worst <= best_out + 1e-9);
}

static void test_distribution(void **state) {
    (void)state;
    float logits[5] = { 0, 1, 2, -1, 0.5f };
    int count[5], draws = 200000;
    sample_opts o = plain();
    o.temperature = 0.7f;
    draw_many(&o, logits, 5, draws, count);
    double sum = 0, chi = 0;
    for (int i = 0; i < 5; i++) sum += exp(logits[i] / 0.7);
    for (int i = 0; i < 5; i++) {
        double want = draws * exp(logits[i] / 0.7) / sum;
        chi += (count[i] - want) * (count[i] - want) / want;
    }
    assert_true(chi < 25); /* 4 degrees of freedom: p = 5e-5, and the seed is fixed */
}

static void test_greedy_and_seeds(void **state) {
    (void)state;
    float logits[N];
    make_logits(logits, N, 9);
    logits[300] = logits[700] = 10;
    sample_opts o = plain();
    o.temperature = 0;
    int count[N];
    assert_int_equal(draw_many(&o, logits, N, 10, count), 1);
    assert_int_equal(count[300], 10); /* ties: the lower id */
    assert_int_equal(sample_argmax(logits, N), 300);
    o = sample_defaults();
    o.seed = 42;
    sampler *a, *b;
    err e = { 0 };
    make_logits(logits, N, 10);
    sampler_new(&a, &o, N, &e);
    sampler_new(&b, &o, N, &e);
    for (int i = 0; i < 100; i++) assert_int_equal(sampler_pick(a, logits), sampler_pick(b, logits));
    logits[5] = NAN;
    assert_int_equal(sampler_pick(a, logits), -1);
    assert_int_equal(sample_argmax(logits, N), -1);
    sampler_free(a);
    sampler_free(b);
}

static void test_penalties(void **state) {
    (void)state;
    float logits[4] = { 2, 1.9f, -5, -5 };
    sampler *s;
    err e = { 0 };
    sample_opts o = plain();
    o.temperature = 0;
    o.repeat_penalty = 1.1f;
    o.repeat_last_n = 2;
    assert_int_equal(sampler_new(&s, &o, 4, &e), 0);
    assert_int_equal(sampler_pick(s, logits), 0);
    sampler_accept(s, 0);
    assert_int_equal(sampler_pick(s, logits), 1); /* 2 / 1.1 < 1.9 */
    sampler_accept(s, 3);
    sampler_accept(s, 3); /* 0 is no longer recent */
    assert_int_equal(sampler_pick(s, logits), 0);
    sampler_free(s);
    o = plain();
    o.temperature = 0;
    o.presence_penalty = 0.05f;
    o.frequency_penalty = 0.03f;
    o.repeat_last_n = -1;
    assert_int_equal(sampler_new(&s, &o, 4, &e), 0);
    sampler_accept(s, 0);
    assert_int_equal(sampler_pick(s, logits), 0); /* 2 - 0.08 > 1.9 */
    sampler_accept(s, 0);
    assert_int_equal(sampler_pick(s, logits), 1); /* 2 - 0.11 */
    sampler_free(s);
    const logit_bias bias[] = { { 2, 100 }, { 0, -INFINITY } };
    o = plain();
    o.temperature = 0;
    o.bias = bias;
    o.n_bias = 2;
    assert_int_equal(sampler_new(&s, &o, 4, &e), 0);
    assert_int_equal(sampler_pick(s, logits), 2);
    sampler_free(s);
}

/* No run of tokens twice, whether in the prompt or across its end; runs that do not repeat stay. */
static void test_no_repeat_ngram(void **state) {
    (void)state;
    static const int32_t prompt[] = { 2, 5, 3, 1, 2, 4, 1, 2 };
    static const struct {
        int size;
        bool allowed[6];
    } cases[] = { { 0, { 1, 1, 1, 1, 1, 1 } }, { 1, { 1, 0, 0, 0, 0, 0 } }, { 2, { 1, 1, 1, 1, 0, 0 } },
                  { 3, { 1, 1, 1, 1, 0, 1 } }, { 4, { 1, 1, 1, 1, 1, 1 } }, { 9, { 1, 1, 1, 1, 1, 1 } } };
    const float logits[6] = { 0 };
    int count[6];
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        sampler *s;
        err e = { 0 };
        sample_opts o = plain();
        o.no_repeat_ngram = cases[c].size;
        assert_int_equal(sampler_new(&s, &o, 6, &e), 0);
        for (size_t i = 0; i < sizeof prompt / sizeof *prompt; i++) sampler_accept(s, prompt[i]);
        memset(count, 0, sizeof count);
        for (int i = 0; i < 600; i++) count[sampler_pick(s, logits)]++;
        for (int i = 0; i < 6; i++)
            if ((count[i] > 0) != cases[c].allowed[i]) fail_msg("n-grams of %d: token %d came %d times", cases[c].size, i, count[i]);
        sampler_free(s);
    }
    sample_opts o = plain(); /* greedy obeys too: 0 0 1 0 2 0 ..., each pair once; in the end none is left */
    o.temperature = 0;
    o.no_repeat_ngram = 2;
    sampler *s;
    err e = { 0 };
    bool seen[3][3] = { 0 };
    assert_int_equal(sampler_new(&s, &o, 3, &e), 0);
    sampler_accept(s, 0);
    int steps = 0;
    for (int32_t last = 0, id; (id = sampler_pick(s, logits)) >= 0; last = id, steps++) {
        assert_false(seen[last][id]);
        seen[last][id] = true;
        sampler_accept(s, id);
    }
    assert_true(steps > 3 && steps <= 9);
    sampler_free(s);
}

/* The end may not come before the answer has min_length tokens, whatever the prompt's length, even where nothing else is likely. */
static void test_min_length(void **state) {
    (void)state;
    const float logits[4] = { 0, 50, 49, 1 }, ends_only[4] = { -INFINITY, 50, 49, -INFINITY };
    const int32_t eos[] = { 1, 2, 77 };
    sample_opts o = plain();
    o.min_length = 3;
    o.eos = eos;
    o.n_eos = 3;
    for (int greedy = 0; greedy < 2; greedy++) {
        sampler *s;
        err e = { 0 };
        o.temperature = greedy ? 0 : 0.1f;
        assert_int_equal(sampler_new(&s, &o, 4, &e), 0);
        for (int i = 0; i < 5; i++) sampler_accept(s, 0);
        sampler_begin(s);
        assert_int_equal(sampler_pick(s, ends_only), -1); /* all that is left is forbidden */
        for (int i = 0; i < 3; i++) {
            for (int k = 0; k < 50; k++) assert_true(sampler_pick(s, logits) % 3 == 0);
            sampler_accept(s, 3);
        }
        assert_int_equal(sampler_pick(s, logits), 1);
        sampler_free(s);
    }
}

static void test_refusals(void **state) {
    (void)state;
    sampler *s;
    for (int i = 0; i < 8; i++) {
        sample_opts o = sample_defaults();
        if (i == 0) o.temperature = -1;
        if (i == 1) o.top_p = 1.5f;
        if (i == 2) o.min_p = NAN;
        if (i == 3) o.repeat_penalty = 0;
        if (i == 4) o.top_k = -1;
        const logit_bias bias = { 4, 1 };
        if (i == 5) o.bias = &bias, o.n_bias = 1;
        if (i == 6) o.no_repeat_ngram = -1;
        if (i == 7) o.min_length = -1;
        err e = { 0 };
        assert_int_equal(sampler_new(&s, &o, 4, &e), -1);
        assert_true(e.msg[0]);
    }
}

static void test_logprob(void **state) {
    (void)state;
    float logits[3] = { 1000, 1001, 999 };
    double sum = 0;
    for (int i = 0; i < 3; i++) sum += exp(sample_logprob(logits, 3, i));
    assert_true(fabs(sum - 1) < 1e-12);
    /* p = (3/4, 1/4), q = (1/2, 1/2): 3/4 ln 3/2 + 1/4 ln 1/2, whatever is added to all logits; of itself: nothing */
    float p[3] = { logf(3) + 50, 50, -INFINITY }, q[3] = { -7, -7, -40 };
    assert_true(fabs(sample_divergence(p, q, 3) - (0.75 * log(1.5) + 0.25 * log(0.5))) < 1e-5);
    assert_true(fabs(sample_divergence(p, p, 2)) < 1e-12);
}

/* Rows that come in pieces give what whole rows give, whatever the order of their maxima; a NaN is said. */
static void test_divergence_pieces(void **state) {
    (void)state;
    enum { COLUMNS = 100 };
    float p[COLUMNS], q[COLUMNS];
    for (int i = 0; i < COLUMNS; i++) p[i] = 40 * sinf((float)i * 1.7f), q[i] = p[i] + sinf((float)i * 5.3f);
    for (int i = 0; i < 10; i++) p[i] = -INFINITY; /* a piece without any */
    double zp = sample_logsumexp(p, COLUMNS), zq = sample_logsumexp(q, COLUMNS), want = 0;
    for (int i = 10; i < COLUMNS; i++) want += exp(p[i] - zp) * ((p[i] - zp) - (q[i] - zq));
    for (int piece = 1; piece <= COLUMNS; piece += 9) {
        divergence d = { 0 };
        for (int at = 0; at < COLUMNS; at += piece) divergence_add(&d, p + at, q + at, min_int(piece, COLUMNS - at));
        assert_true(fabs(divergence_kl(&d) - want) < 1e-9 && want > 0.01);
        assert_true(fabs(divergence_log_p(&d) - zp) < 1e-9 && fabs(divergence_log_q(&d) - zq) < 1e-9);
        assert_int_equal(d.best_p, sample_argmax(p, COLUMNS));
        assert_int_equal(d.best_q, sample_argmax(q, COLUMNS));
    }
    divergence d = { 0 };
    q[50] = NAN;
    divergence_add(&d, p, q, COLUMNS);
    assert_true(d.broken && isnan(divergence_kl(&d)));
}

static void test_stop(void **state) {
    (void)state;
    static const char *const stops[] = { "END", "ab\n\nab", "</s>" };
    static const struct { const char *text, *shown; bool found; } cases[] = {
        { "hello END more", "hello ", true }, { "hello EN", "hello EN", false }, { "EENDx", "E", true }, { "ab\n\nac ab\n\nab", "ab\n\nac ", true },
        { "ab\n\nab\n\nab", "", true }, { "<</s>", "<", true }, { "", "", false }, { "</s", "</s", false } };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (size_t piece = 1; piece < 6; piece++) {
            stop_filter s = { .stops = stops, .n = 3 };
            buf out = { 0 };
            bool found = false;
            size_t n = strlen(cases[c].text);
            for (size_t at = 0; at < n && !found; at += piece) found = stop_feed(&s, cases[c].text + at, n - at < piece ? n - at : piece, &out);
            if (!found) stop_end(&s, &out);
            buf_byte(&out, 0);
            assert_string_equal(out.p, cases[c].shown);
            assert_int_equal(found, cases[c].found);
            buf_free(&out);
            stop_free(&s);
        }
}

/* ---- large vocabularies: what is not walked must not be missed ---- */

enum { LARGE = 50257, DRAWS = 150 };

static const float *ranked;

static int by_rank(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return ranked[x] != ranked[y] ? (ranked[x] < ranked[y]) - (ranked[x] > ranked[y]) : x - y;
}

/* Ids in order, the likeliest first, equals by their number. */
static void rank(const float *logits, int32_t *id) {
    for (int i = 0; i < LARGE; i++) id[i] = i;
    ranked = logits;
    qsort(id, LARGE, sizeof *id, by_rank);
}

/* All draws are among the first `most`; where that is few, each of them comes. */
static void draws_from(const sample_opts *o, const float *logits, const int32_t *id, int most) {
    static int place[LARGE], count[LARGE];
    for (int i = 0; i < LARGE; i++) place[id[i]] = i;
    draw_many(o, logits, LARGE, DRAWS, count);
    for (int i = 0; i < LARGE; i++)
        if (count[i] && place[i] >= most) fail_msg("id %d, number %d in order, expected the first %d", i, place[i], most);
    for (int i = 0; most <= 8 && i < most; i++)
        if (!count[id[i]]) fail_msg("number %d, id %d, never came", i, id[i]);
}

static void test_large(void **state) {
    (void)state;
    static float logits[LARGE];
    static int32_t id[LARGE];
    static const int ks[] = { 2, 5, 40, 700, 785, 786, 787, 5000, LARGE - 1 };
    for (int round = 0; round < 3; round++) {
        make_logits(logits, LARGE, 70 + (uint32_t)round);
        if (round == 1) for (int i = 0; i < LARGE; i++) logits[i] = (float)(int)(logits[i] * 2); /* many equals, across blocks */
        if (round == 2) for (int i = 0; i < LARGE; i++) logits[i] = i % 9000 == 77 ? 1 : -INFINITY; /* few are allowed */
        rank(logits, id);
        int allowed = round == 2 ? 6 : LARGE;
        for (size_t k = 0; k < sizeof ks / sizeof *ks; k++) {
            sample_opts o = plain();
            o.top_k = ks[k];
            o.temperature = 100; /* all about as likely */
            draws_from(&o, logits, id, ks[k] < allowed ? ks[k] : allowed);
        }
        sample_opts o = plain();
        draws_from(&o, logits, id, allowed);
        o.temperature = 1e-30f;
        draws_from(&o, logits, id, round ? LARGE : 1);
        o = plain();
        o.top_p = 0.5f;
        double sum = 0, mass = 0;
        int most = 0;
        for (int i = 0; i < LARGE; i++) sum += exp(logits[i]);
        while (mass < 0.5 * sum) mass += exp(logits[id[most++]]);
        draws_from(&o, logits, id, most + (round != 2)); /* at the border the sums' rounding decides */
    }
    sample_opts o = plain();
    for (int i = 0; i < LARGE; i++) logits[i] = -INFINITY;
    sampler *s;
    err e = { 0 };
    assert_int_equal(sampler_new(&s, &o, LARGE, &e), 0);
    assert_int_equal(sampler_pick(s, logits), -1);
    logits[50000] = -3;
    for (int i = 0; i < 100; i++) assert_int_equal(sampler_pick(s, logits), 50000);
    sampler_free(s);
}

/* Draws from all tokens follow the distribution, in 50 lots of neighbours. */
static void test_large_distribution(void **state) {
    (void)state;
    enum { LOTS = 50, WIDTH = LARGE / LOTS + 1, MANY = 8000 };
    static float logits[LARGE];
    static int count[LARGE];
    make_logits(logits, LARGE, 5);
    sample_opts o = plain();
    o.temperature = 1.3f;
    draw_many(&o, logits, LARGE, MANY, count);
    double sum = 0, chi = 0, want[LOTS] = { 0 };
    int got[LOTS] = { 0 };
    for (int i = 0; i < LARGE; i++) sum += exp(logits[i] / 1.3), want[i / WIDTH] += exp(logits[i] / 1.3), got[i / WIDTH] += count[i];
    for (int i = 0; i < LOTS; i++) chi += (got[i] - MANY * want[i] / sum) * (got[i] - MANY * want[i] / sum) / (MANY * want[i] / sum);
    assert_true(chi < 100); /* 49 degrees of freedom: p = 2e-5, and the seed is fixed */
}

static int set_up(void **state) {
    (void)state;
    err e = { 0 };
    return kernels_init(NULL, &e);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_filters), cmocka_unit_test(test_distribution),
                                        cmocka_unit_test(test_greedy_and_seeds), cmocka_unit_test(test_penalties),
                                        cmocka_unit_test(test_refusals), cmocka_unit_test(test_logprob),
                                        cmocka_unit_test(test_stop), cmocka_unit_test(test_divergence_pieces),
                                        cmocka_unit_test(test_no_repeat_ngram), cmocka_unit_test(test_min_length),
                                        cmocka_unit_test(test_large), cmocka_unit_test(test_large_distribution) };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
