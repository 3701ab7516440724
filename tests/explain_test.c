/* explain: its bytes are those that the model and the cache must read, its times add up to the time that went by. */
#define _GNU_SOURCE
#include <string.h>
#include "runtime/explain.h"
#include "tests/models.h"

enum { PROMPT = 100, STEPS = 20 };

static engine *g;
static int32_t tok[PROMPT + STEPS];

static void test_totals(void **state) {
    (void)state;
    session *s = new_session(g);
    explain *x;
    err e = { 0 };
    uint64_t before, bytes, macs_before, macs, want = 0;
    must(session_sync(s, tok, PROMPT, &e), &e);
    must(explain_new(&x, g, &e), &e);
    engine_work(g, &before, &macs_before);
    double start = now_seconds();
    explain_begin(x);
    for (int i = 0; i < STEPS; i++) {
        must(engine_step(g, &(step){ s, tok + PROMPT + i, 1, NULL }, 1, &e), &e);
        want += engine_about(g)->decode_bytes + engine_kv_read_bytes(g, PROMPT + i);
    }
    explain_end(x);
    double took = 1e3 * (now_seconds() - start) / STEPS, said;
    engine_work(g, &bytes, &macs);
    assert_int_equal(bytes - before, want);
    assert_true(macs - macs_before > STEPS * (engine_about(g)->macs + engine_about(g)->macs_output));
    buf out = { 0 };
    explain_report(x, "decode", &(explain_limits){ 1e10, 1e11, 1e11 }, &out);
    char *at = strstr(out.p, " tokens, ");
    assert_non_null(at);
    said = strtod(at + 9, NULL);
    if (said > took * 1.001 + 0.001 || said < 0.9 * took) fail_msg("%.4f ms a pass said, %.4f measured", said, took);
    static const char *const parts[] = { "decode: 20 passes, 20 tokens", "\nqkv ", "\nattention ", "\nact ", "\nmlp ",
                                         "\noutput ", "\noutside ", "\nbound by ", "all 6 of them" };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strstr(out.p, parts[i])) fail_msg("no \"%s\" in\n%s", parts[i], out.p);
    buf_free(&out);
    explain_free(x);
    session_free(s);
}

/* The sentence names what the limits make of the same times. */
static void test_sentence(void **state) {
    (void)state;
    static const struct { explain_limits l; const char *says; } cases[] = {
        { { 1e6, 1e20, 1e20 }, "bound by memory" }, { { 1e20, 1e6, 1e6 }, "bound by arithmetic" }, { { 1e20, 1e20, 1e20 }, "bound by neither" } };
    session *s = new_session(g);
    explain *x;
    err e = { 0 };
    must(explain_new(&x, g, &e), &e);
    buf out = { 0 };
    explain_report(x, "nothing", &cases[0].l, &out);
    assert_int_equal(out.n, 0);
    explain_begin(x);
    must(session_sync(s, tok, PROMPT, &e), &e);
    explain_end(x);
    for (int i = 0; i < 3; i++) {
        out.n = 0;
        explain_report(x, "prompt", &cases[i].l, &out);
        if (!strstr(out.p, cases[i].says)) fail_msg("expected %s in\n%s", cases[i].says, out.p);
    }
    buf_free(&out);
    explain_free(x);
    session_free(s);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_totals), cmocka_unit_test(test_sentence) };
    make_work_dir();
    g = open_or_fail(converted("weights/pip-stories", "q8"), (engine_opts){ .threads = 2, .max_sessions = 2 });
    make_text(tok, PROMPT + STEPS, 4096, 4);
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    engine_close(g);
    remove_work_dir();
    return rc;
}
