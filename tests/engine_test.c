/* engine: the promises about sameness, bit for bit. The logits of a text must not depend on how its prompt is cut, on the
 * number of threads, on who else is in the batch, on forks, on saving and loading, or on the kernel table. */
#define _GNU_SOURCE
#include <math.h>
#include "runtime/saved.h"
#include "tests/models.h"

enum { TEXT = 100 }; /* crosses a page border and, in the fixtures, several windows */

static const char *const cases[] = { "tests/fixtures/golden/llama3",   "tests/fixtures/golden/mistral",
                                     "tests/fixtures/golden/qwen2",    "tests/fixtures/golden/qwen3",
                                     "tests/fixtures/golden/llama_v5", "tests/fixtures/golden/gemma2",
                                     "tests/fixtures/golden/gemma3",   "tests/fixtures/golden/phi",
                                     "tests/fixtures/golden/gpt2",     "tests/fixtures/golden/mixtral",
                                     "tests/fixtures/golden/gemma3n",  "tests/fixtures/golden/t5_v11",
                                     "tests/fixtures/golden/gemma3n_mixed" };
enum { ALL_TYPES = 5 }; /* the first cases go in all types of weights, the others, for what a forward pass does beyond, in two */
static const char *const types[] = { "f32", "q8", "bf16", "q4" };

/* Tokens of a test's text: TEXT, or what the model has positions for. */
static int text_length(const engine *g) { return min_int(TEXT, engine_about(g)->ctx); }

/* A session that is ready for its decoder's tokens. */
static session *ready_session(engine *g) {
    session *s = new_session(g);
    int32_t text[40];
    err e = { 0 };
    if (!engine_about(g)->has_encoder || !engine_about(g)->has_decoder) return s;
    make_text(text, 40, engine_about(g)->n_vocab, 21);
    must(session_encode(s, text, 40, NULL, &e), &e);
    return s;
}

/* All rows of logits of a text, fed in pieces of `piece` tokens (0: at once). The caller frees. */
static float *rows_of(engine *g, const int32_t *tok, int n, int piece) {
    size_t ld = (size_t)engine_about(g)->logits_ld;
    float *rows = alloc_aligned((size_t)n * ld * sizeof *rows);
    session *s = ready_session(g);
    err e = { 0 };
    for (int at = 0, take; at < n; at += take) {
        take = piece && piece < n - at ? piece : n - at;
        must(engine_step(g, &(step){ s, tok + at, take, rows + (size_t)at * ld }, 1, &e), &e);
    }
    session_free(s);
    return rows;
}

static void same_rows(const char *what, const float *a, const float *b, size_t rows, const engine_info *i) {
    for (size_t r = 0; r < rows; r++)
        if (memcmp(a + r * (size_t)i->logits_ld, b + r * (size_t)i->logits_ld, (size_t)i->n_vocab * sizeof *a))
            fail_msg("%s: logits of position %zu differ (%s, %s)", what, r, i->name, i->kernels);
    assert_true(isfinite(a[0]));
}

typedef void check_fn(const char *path, engine_opts o, int32_t *tok, const float *want);

/* Runs a check for every case and type, as it is, with --exact and with a cache of int8. */
static void for_all(check_fn *check) {
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (size_t t = 0; t < (c < ALL_TYPES ? sizeof types / sizeof *types : 2); t++)
            for (int how = 0; how < 3; how++) {
                char path[800];
                snprintf(path, sizeof path, "%s", converted(cases[c], types[t]));
                engine_opts o = { .exact = how == 1, .cache_type = how == 2 ? "q8" : NULL, .threads = 1, .max_sessions = 8 };
                engine *g = open_or_fail(path, o);
                int32_t tok[TEXT];
                make_text(tok, TEXT, engine_about(g)->n_vocab, 1);
                float *want = rows_of(g, tok, text_length(g), 0);
                engine_close(g);
                check(path, o, tok, want);
                free_aligned(want);
            }
}

static void check_cuts(const char *path, engine_opts o, int32_t *tok, const float *want) {
    static const int pieces[] = { 1, 7, 64 }, max_rows[] = { 256, 24 };
    for (int threads = 1; threads <= 2; threads++)
        for (int m = 0; m < 2; m++) {
            o.threads = threads;
            o.max_rows = max_rows[m];
            engine *g = open_or_fail(path, o);
            float *rows = rows_of(g, tok, text_length(g), 0);
            same_rows(threads == 1 ? "at once" : "two threads", rows, want, (size_t)text_length(g), engine_about(g));
            free_aligned(rows);
            for (int p = 0; p < 3; p++) {
                rows = rows_of(g, tok, text_length(g), pieces[p]);
                same_rows("in pieces", rows, want, (size_t)text_length(g), engine_about(g));
                free_aligned(rows);
            }
            engine_close(g);
        }
}

static void test_cuts_and_threads(void **state) {
    (void)state;
    for_all(check_cuts);
}

/* Our text among five others of other lengths, each step a mixture of prompt pieces and single tokens. */
static void check_batch(const char *path, engine_opts o, int32_t *tok, const float *want) {
    o.threads = 2;
    engine *g = open_or_fail(path, o);
    const engine_info *i = engine_about(g);
    session *s[6];
    int32_t other[6][TEXT];
    int at[6] = { 0 }, n_text = text_length(g);
    size_t ld = (size_t)i->logits_ld;
    float *rows = alloc_aligned((size_t)n_text * ld * sizeof *rows);
    for (int k = 0; k < 6; k++) {
        s[k] = ready_session(g);
        make_text(other[k], TEXT, i->n_vocab, k + 2);
    }
    memcpy(other[3], tok, sizeof other[3]);
    for (int round = 0; at[3] < n_text; round++) {
        step steps[6];
        int n = 0;
        err e = { 0 };
        for (int k = 0; k < 6; k++) {
            int take = min_int((round * 5 + k * 3) % 4 == 0 ? 1 + (round + k) % 13 : 1, n_text - at[k]);
            if (take > 0) steps[n++] = (step){ s[k], other[k] + at[k], take, k == 3 ? rows + (size_t)at[3] * ld : NULL };
            at[k] += take;
        }
        must(engine_step(g, steps, n, &e), &e);
    }
    same_rows("among five others", rows, want, (size_t)n_text, i);
    for (int k = 0; k < 6; k++) session_free(s[k]);
    engine_close(g);
    free_aligned(rows);
}

static void test_batch(void **state) {
    (void)state;
    for_all(check_batch);
}

static void same_last(const char *what, const session *s, const float *want, const engine_info *i) {
    same_rows(what, session_logits(s), want, 1, i);
}

/* Fork in the middle of a page, diverge, come back; save and load; sync's common prefixes. */
static void check_histories(const char *path, engine_opts o, int32_t *tok, const float *want) {
    engine *g = open_or_fail(path, o), *g2 = open_or_fail(path, o);
    const engine_info *i = engine_about(g);
    size_t ld = (size_t)i->logits_ld;
    int n = text_length(g), most = n * 7 / 10, late = n * 17 / 20;
    const float *end = want + (size_t)(n - 1) * ld;
    session *a = ready_session(g), *b = ready_session(g), *c = ready_session(g2);
    int32_t other[TEXT];
    err e = { 0 };
    make_text(other, TEXT, i->n_vocab, 9);
    must(session_sync(a, tok, most, &e), &e);
    must(session_fork(b, a, &e), &e);
    same_last("fork", b, want + (size_t)(most - 1) * ld, i);
    must(engine_step(g, &(step){ a, other, n / 5, NULL }, 1, &e), &e); /* a goes elsewhere; b must not notice */
    must(session_sync(b, tok, n, &e), &e);
    same_last("forked and continued", b, end, i);
    must(session_sync(a, tok, n, &e), &e); /* rolls these back */
    same_last("rolled back and continued", a, end, i);
    must(session_sync(a, tok, n * 2 / 5, &e), &e); /* a prefix of what it holds: the last token's logits are computed again */
    same_last("shortened", a, want + (size_t)(n * 2 / 5 - 1) * ld, i);
    must(session_sync(a, tok, late, &e), &e);
    FILE *f = tmpfile();
    must(session_save(a, f, &e), &e);
    rewind(f);
    must(session_load(c, f, &e), &e);
    same_last("loaded", c, want + (size_t)(late - 1) * ld, i);
    assert_int_equal(session_len(c), late);
    must(session_sync(c, tok, n, &e), &e);
    same_last("loaded and continued", c, end, i);
    fclose(f);
    session_free(a);
    session_free(b);
    session_free(c);
    engine_close(g);
    engine_close(g2);
}

static void test_histories(void **state) {
    (void)state;
    for_all(check_histories);
}

/* All usable tables: the same bits for f32, q8 and q4; within a tolerance for bf16. */
static void check_tables(const char *path, engine_opts o, int32_t *tok, const float *want) {
    bool bf16 = strstr(path, "bf16") != NULL;
    (void)want;
    o.kernels = "scalar";
    engine *g = open_or_fail(path, o);
    const engine_info *i = engine_about(g);
    float *scalar = rows_of(g, tok, text_length(g), 0);
    for (const kernels *const *k = kernels_all(); *k; k++) {
        if (!kernels_usable(*k)) continue;
        o.kernels = (*k)->name;
        engine *h = open_or_fail(path, o);
        float *rows = rows_of(h, tok, text_length(h), 0);
        if (!bf16) same_rows("another table", rows, scalar, (size_t)text_length(h), engine_about(h));
        for (size_t n = 0; bf16 && n < (size_t)text_length(g) * (size_t)i->logits_ld; n++)
            assert_true(fabsf(rows[n] - scalar[n]) < 0.05f);
        free_aligned(rows);
        engine_close(h);
    }
    free_aligned(scalar);
    engine_close(g);
    err e = { 0 };
    must(kernels_init(NULL, &e), &e);
}

static void test_tables(void **state) {
    (void)state;
    for_all(check_tables);
}

/* One number for the demo model's logits that every table on every CPU must give; 700 positions, so that attention has two
 * segments. A change of the arithmetic's definitions changes it, on purpose and in one commit. */
static void test_demo_hash(void **state) {
    (void)state;
    static const struct {
        const char *type;
        bool exact;
        const char *cache;
        uint64_t hash;
    } want[] = { { "f32", true, NULL, 0xf02c5bc1d6f203e0ull },
                 { "q8", false, NULL, 0x8142b46684bfb5d2ull },
                 { "q8", true, NULL, 0xd9674416ce2de703ull },
                 { "q8", false, "q8", 0x0cc559dd07a7d118ull },
                 { "q4", false, NULL, 0xae17ff83b42db5b0ull },
                 { "q4", true, NULL, 0x478d44546f31f034ull } };
    enum { LONG = 700 };
    int32_t tok[LONG];
    make_text(tok, LONG, 4096, 5);
    for (size_t t = 0; t < sizeof want / sizeof *want; t++)
        for (const kernels *const *k = kernels_all(); *k; k++) {
            if (!kernels_usable(*k)) continue;
            engine *g = open_or_fail(converted("weights/pip-stories", want[t].type),
                                     (engine_opts){ .exact = want[t].exact, .cache_type = want[t].cache, .kernels = (*k)->name, .threads = 2 });
            const engine_info *i = engine_about(g);
            session *s = new_session(g);
            err e = { 0 };
            hash64 h;
            hash_begin(&h);
            must(session_sync(s, tok, LONG - 3, &e), &e); /* a prompt, then single steps */
            for (int n = LONG - 3; n <= LONG; n++) {
                must(session_sync(s, tok, n, &e), &e);
                hash_add(&h, session_logits(s), (size_t)i->n_vocab * sizeof(float));
            }
            if (hash_end(&h) != want[t].hash)
                fail_msg("demo %s%s%s with %s: hash %016llx, expected %016llx", want[t].type, want[t].exact ? " exact" : "",
                         want[t].cache ? ", cache of int8," : "",
                         i->kernels, (unsigned long long)hash_end(&h), (unsigned long long)want[t].hash);
            session_free(s);
            engine_close(g);
        }
    err e = { 0 };
    must(kernels_init(NULL, &e), &e);
}

static double anonymous_bytes(void) {
    char line[256];
    double kb = -1;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "RssAnon: %lf", &kb) == 1) break;
    if (f) fclose(f);
    return kb * 1024;
}

/* What engine_plan says before anything is computed is what sessions with full contexts take, for every type of cache. */
static void test_plan(void **state) {
    (void)state;
    enum { SESSIONS = 5, CTX = 512 };
    static const char *const caches[] = { "f16", "q8" };
    int32_t tok[CTX];
    make_text(tok, CTX, 4096, 3);
    for (int c = 0; c < 2; c++) {
        session *s[SESSIONS];
        err e = { 0 };
        double before = anonymous_bytes();
        if (before < 0) skip();
        engine *g = open_or_fail(converted("weights/pip-stories", "q8"),
                                 (engine_opts){ .max_sessions = SESSIONS, .ctx = CTX, .cache_type = caches[c], .threads = 2 });
        for (int i = 0; i < SESSIONS; i++) {
            s[i] = new_session(g);
            tok[0] = i; /* nothing shared */
            must(session_sync(s[i], tok, CTX, &e), &e);
        }
        engine_memory m = engine_plan(g);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        double took = anonymous_bytes() - before, planned = (double)(m.kv + m.scratch + m.tables);
        if (took > 1.05 * planned || took < 0.9 * planned) fail_msg("cache %s: planned %.0f bytes, took %.0f", caches[c], planned, took);
#else
        (void)m;
#endif
        for (int i = 0; i < SESSIONS; i++) session_free(s[i]);
        engine_close(g);
    }
}

/* What cannot be done is said, with numbers, and leaves the session as it was. */
static void test_refusals(void **state) {
    (void)state;
    char path[800];
    snprintf(path, sizeof path, "%s", converted(cases[0], "q8"));
    engine *g = open_or_fail(path, (engine_opts){ .ctx = 50, .threads = 1 });
    const engine_info *i = engine_about(g);
    session *s = new_session(g), *none;
    int32_t tok[TEXT];
    err e = { 0 };
    make_text(tok, TEXT, i->n_vocab, 1);
    must(session_sync(s, tok, 30, &e), &e);
    float first = session_logits(s)[0];
    assert_int_equal(session_sync(s, tok, 51, &e), -1);
    assert_int_equal(e.code, ERR_CONTEXT);
    assert_true(strstr(e.msg, "51") && strstr(e.msg, "50"));
    assert_int_equal(session_len(s), 30);
    assert_true(session_logits(s)[0] == first);
    e.code = 0;
    tok[10] = i->n_vocab;
    assert_int_equal(session_sync(s, tok, 30, &e), -1);
    assert_true(strstr(e.msg, "position 10") != NULL);
    e.code = 0;
    assert_int_equal(session_sync(s, tok, 0, &e), -1);
    e.code = 0;
    assert_int_equal(session_new(&none, g, &e), -1);
    atomic_bool stop = true;
    engine_set_stop(g, &stop);
    e.code = 0;
    make_text(tok, TEXT, i->n_vocab, 1);
    session_truncate(s, 0);
    assert_int_equal(session_sync(s, tok, 30, &e), -1);
    assert_int_equal(e.code, ERR_STOPPED);
    assert_int_equal(session_len(s), 0);
    assert_null(session_logits(s));
    session_free(s);
    engine_close(g);
    e.code = 0;
    assert_int_equal(engine_open(&g, &(engine_opts){ .path = path, .ctx = 1 << 20 }, &e), -1);
    e.code = 0;
    assert_int_equal(engine_open(&g, &(engine_opts){ .path = path, .kernels = "abacus" }, &e), -1);
    assert_true(strstr(e.msg, "abacus") && strstr(e.msg, "scalar"));
    e.code = 0;
    assert_int_equal(engine_open(&g, &(engine_opts){ .path = "no/such.bin" }, &e), -1);
}

/* ---- texts in pieces ---- */

/* Something else that the engine does between two pieces: a token, or where nothing is generated another text, in one go. */
static void do_other_work(engine *g, session *s) {
    const engine_info *i = engine_about(g);
    int32_t tok[30];
    float out[600];
    err e = { 0 };
    make_text(tok, 30, i->n_vocab, 40 + session_len(s));
    if (i->has_decoder) must(engine_step(g, &(step){ s, tok, 1 + session_len(s) % 3, NULL }, 1, &e), &e);
    else must(session_embed(s, tok, 30, 2, out, &e), &e);
}

/* Two texts, piece by piece, and others work in between. Returns the pieces of the first. */
static int take_turns(engine *g, session *s, session *t, session *other, int most) {
    int pieces = 0;
    double sum[2] = { 0 }, did;
    err e = { 0 };
    for (int more[2] = { 1, 1 }, round = 0; more[0] || more[1]; round++)
        for (int k = 0; k < 2; k++) {
            if (!more[k] || (k && more[0] && round % 4 > 1)) continue; /* and now and then only the others come between */
            more[k] = session_piece(k ? t : s, most, &did, &e);
            if (more[k] < 0) fail_msg("%s", e.msg);
            sum[k] += did;
            pieces += k == 0;
            do_other_work(g, other);
        }
    assert_true(fabs(sum[0] - TEXT) < 1e-6 || engine_about(g)->ctx < TEXT);
    return pieces;
}

static void check_embeddings(engine *g, int most, int want_pieces) {
    int n = text_length(g), d = engine_about(g)->d_embed;
    session *s = new_session(g), *t = new_session(g), *other = ready_session(g);
    int32_t tok[2][TEXT];
    float want[2][600], out[2][600];
    err e = { 0 };
    for (int k = 0; k < 2; k++) make_text(tok[k], n, engine_about(g)->n_vocab, 5 + k);
    for (int pooling = 1; pooling <= 3; pooling++) {
        must(session_embed(s, tok[0], n, pooling, want[0], &e), &e);
        must(session_embed(s, tok[1], n - 7, pooling, want[1], &e), &e);
        must(session_embed_begin(s, tok[0], n, pooling, out[0], &e), &e);
        must(session_embed_begin(t, tok[1], n - 7, pooling, out[1], &e), &e);
        assert_int_equal(take_turns(g, s, t, other, most), want_pieces);
        for (int k = 0; k < 2; k++)
            if (memcmp(out[k], want[k], (size_t)d * sizeof(float)))
                fail_msg("%s: the embedding of text %d, pooling %d, differs in pieces", engine_about(g)->name, k, pooling);
        assert_int_equal(session_len(s), 0);
        assert_memory_not_equal(want[0], want[1], (size_t)d * sizeof(float));
    }
    session_free(s);
    session_free(t);
    session_free(other);
    assert_int_equal(engine_kv_bytes(g), 0);
}

/* What the decoder makes of a text that its encoder read in pieces, and the encoder's output. */
static void check_encoding(engine *g, int want_pieces) {
    const engine_info *i = engine_about(g);
    size_t ld = round_up((size_t)i->d_model, 64);
    session *s = new_session(g), *t = new_session(g), *other = ready_session(g);
    float *hidden = alloc_aligned(2 * TEXT * ld * sizeof *hidden), *again = hidden + TEXT * ld;
    float *want = alloc_aligned((size_t)i->n_vocab * sizeof *want);
    int32_t tok[2][TEXT], start[5];
    err e = { 0 };
    for (int k = 0; k < 2; k++) make_text(tok[k], TEXT, i->n_vocab, 5 + k);
    make_text(start, 5, i->n_vocab, 9);
    must(session_encode(s, tok[0], TEXT, hidden, &e), &e);
    must(session_sync(s, start, 5, &e), &e);
    memcpy(want, session_logits(s), (size_t)i->n_vocab * sizeof *want);
    must(session_encode_begin(s, tok[0], TEXT, again, &e), &e);
    must(session_encode_begin(t, tok[1], TEXT - 30, NULL, &e), &e);
    assert_int_equal(take_turns(g, s, t, other, 1), want_pieces);
    must(session_sync(s, start, 5, &e), &e);
    assert_memory_equal(again, hidden, TEXT * ld * sizeof *hidden);
    assert_memory_equal(want, session_logits(s), (size_t)i->n_vocab * sizeof *want);
    free_aligned(hidden);
    free_aligned(want);
    session_free(s);
    session_free(t);
    session_free(other);
    assert_int_equal(engine_kv_bytes(g), 0);
}

/* What ends a text before its time leaves an empty session and takes no pages along. */
static void check_given_up(engine *g) {
    const engine_info *i = engine_about(g);
    session *s = new_session(g);
    int32_t tok[TEXT];
    float want[600], out[600];
    double did;
    err e = { 0 };
    atomic_bool stop = true;
    make_text(tok, TEXT, i->n_vocab, 5);
    assert_int_equal(session_piece(s, 10, &did, &e), -1);
    assert_non_null(strstr(e.msg, "no text has been begun"));
    e.code = 0;
    must(session_embed(s, tok, 20, 2, want, &e), &e);
    must(session_embed_begin(s, tok, 50, 2, out, &e), &e);
    assert_int_equal(session_piece(s, 10, &did, &e), 1);
    must(session_embed(s, tok, 20, 2, out, &e), &e); /* another begins */
    assert_memory_equal(out, want, (size_t)i->d_embed * sizeof(float));
    assert_int_equal(engine_kv_bytes(g), 0);
    must(session_embed_begin(s, tok, 50, 2, out, &e), &e);
    for (int pieces = 1; pieces >= 0; pieces--) {
        if (!pieces) must(session_embed_begin(s, tok, 50, 2, out, &e), &e);
        else assert_int_equal(session_piece(s, 10, &did, &e), 1);
        engine_set_stop(g, &stop);
        assert_int_equal(session_piece(s, 10, &did, &e), -1);
        assert_int_equal(e.code, ERR_STOPPED);
        e.code = 0;
        engine_set_stop(g, NULL);
        assert_int_equal(engine_kv_bytes(g), 0);
        assert_int_equal(session_len(s), 0);
    }
    must(session_embed_begin(s, tok, 50, 2, out, &e), &e);
    assert_int_equal(session_piece(s, 10, &did, &e), 1);
    session_free(s);
    assert_int_equal(engine_kv_bytes(g), 0);
}

/* A text in pieces gives the bits of one in one go, whatever the engine does in between. */
static void test_texts_in_pieces(void **state) {
    (void)state;
    static const struct { const char *model; int layers, crossed; } models[] = { { "bert", 3, 0 }, { "bert_dense", 2, 0 },
                                                                                 { "t5", 2, 2 }, { "t5_v11", 3, 2 },
                                                                                 { "llama3", 0, 0 }, { "mistral", 0, 0 }, { "gemma3n", 0, 0 } };
    for (size_t m = 0; m < sizeof models / sizeof *models; m++)
        for (int q8 = 0; q8 < 2; q8++) {
            char dir[200];
            snprintf(dir, sizeof dir, "tests/fixtures/golden/%s", models[m].model);
            engine *g = open_or_fail(converted(dir, q8 ? "q8" : "f32"), (engine_opts){ .threads = 1 + q8, .max_sessions = 3, .max_rows = 64 });
            int n = text_length(g), layers = models[m].layers;
            check_embeddings(g, 13, layers ? layers : (n + 12) / 13);
            if (models[m].crossed) check_encoding(g, layers + models[m].crossed);
            check_given_up(g);
            engine_close(g);
        }
}

/* A page at a time, with steps of another session in between: the same session. Given up half way, it leaves its pages to others. */
static void test_load_in_pieces(void **state) {
    (void)state;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        engine *g = open_or_fail(converted(cases[k], "q8"), (engine_opts){ .threads = 1, .max_sessions = 2 });
        const engine_info *i = engine_about(g);
        int n = min_int(TEXT, i->ctx - 20), pieces = 0, rc = 1;
        session *s = new_session(g), *t = new_session(g);
        int32_t tok[TEXT];
        err e = { 0 };
        make_text(tok, n, i->n_vocab, 3);
        if (i->has_encoder) must(session_encode(s, tok, n, NULL, &e), &e);
        must(session_sync(s, tok, n - 1, &e), &e);
        FILE *f = tmpfile();
        must(session_save(s, f, &e), &e);
        must(engine_step(g, &(step){ s, tok + n - 1, 1, NULL }, 1, &e), &e);
        float *want = malloc((size_t)i->n_vocab * sizeof *want);
        memcpy(want, session_logits(s), (size_t)i->n_vocab * sizeof *want);
        for (int round = 0; round < 3; round++) {
            rewind(f);
            must(session_load_begin(t, f, &e), &e);
            for (rc = 1, pieces = 0; rc == 1 && (round == 1 || pieces < 2); pieces++) {
                rc = session_load_piece(t, 1, &e);
                assert_int_equal(session_len(t), rc ? 0 : n - 1);
                session_truncate(s, n - 3);
                if (session_len(s) == n - 3) must(engine_step(g, &(step){ s, tok, 3, NULL }, 1, &e), &e);
            }
            if (round == 1) break;
            session_free(t); /* given up */
            t = new_session(g);
        }
        must(rc, &e);
        assert_true(pieces > 1);
        must(engine_step(g, &(step){ t, tok + n - 1, 1, NULL }, 1, &e), &e);
        if (memcmp(session_logits(t), want, (size_t)i->n_vocab * sizeof *want))
            fail_msg("%s: other logits after a session was loaded in pieces", cases[k]);
        fclose(f);
        free(want);
        session_free(s);
        session_free(t);
        engine_close(g);
    }
}

/* A damaged or foreign saved session is refused, at every byte. */
static void test_damaged_session(void **state) {
    (void)state;
    char path[800], other[800];
    snprintf(path, sizeof path, "%s", converted(cases[0], "q8"));
    snprintf(other, sizeof other, "%s", converted(cases[1], "q8"));
    engine *g = open_or_fail(path, (engine_opts){ .threads = 1, .max_sessions = 2 }),
           *g2 = open_or_fail(other, (engine_opts){ .threads = 1 });
    session *s = new_session(g), *t = new_session(g), *u = new_session(g2);
    int32_t tok[TEXT];
    err e = { 0 };
    make_text(tok, TEXT, engine_about(g)->n_vocab, 1);
    must(session_sync(s, tok, 10, &e), &e);
    char *bytes;
    size_t n;
    FILE *f = open_memstream(&bytes, &n);
    must(session_save(s, f, &e), &e);
    fclose(f);
    for (size_t at = 0; at < n; at += at < 600 ? 1 : 997) {
        bytes[at] ^= 0x10;
        FILE *in = fmemopen(bytes, n, "rb");
        err e2 = { 0 };
        if (session_load(t, in, &e2) == 0) fail_msg("a session with byte %zu flipped was accepted", at);
        assert_int_equal(session_len(t), 0);
        fclose(in);
        bytes[at] ^= 0x10;
        in = fmemopen(bytes, at ? at : 1, "rb");
        e2.code = 0;
        assert_int_equal(session_load(t, in, &e2), -1);
        fclose(in);
    }
    FILE *in = fmemopen(bytes, n, "rb");
    assert_int_equal(session_load(u, in, &e), -1);
    assert_true(strstr(e.msg, "another model") != NULL);
    fclose(in);
    free(bytes);
    session_free(s);
    session_free(t);
    session_free(u);
    engine_close(g);
    engine_close(g2);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_cuts_and_threads), cmocka_unit_test(test_batch),
                                        cmocka_unit_test(test_histories), cmocka_unit_test(test_tables),
                                        cmocka_unit_test(test_demo_hash), cmocka_unit_test(test_plan),
                                        cmocka_unit_test(test_refusals), cmocka_unit_test(test_texts_in_pieces),
                                        cmocka_unit_test(test_load_in_pieces), cmocka_unit_test(test_damaged_session) };
    make_work_dir();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    remove_work_dir();
    return rc;
}
