/* bench/model as a user meets it: its rows and limits as JSON, CSV, text and a picture, with tiny settings, and one clear line
 * for what it cannot do. How fast anything is, no test can say: that figures are finite and their shares finite, it can. */
#define _GNU_SOURCE
#include <math.h>
#include <sys/wait.h>
#include "tests/models.h"

static char model[800];

/* Runs bench/model on the demo model; stdout and stderr go to files of the work folder. Returns the exit status. */
static int bench(const char *file, const char *options) {
    char command[4000];
    snprintf(command, sizeof command, "'%s/bench/model' '%s' %s >'%s/out' 2>'%s/err'", bin_dir(), file, options, work_dir,
             work_dir);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* The caller frees. */
static char *written(const char *name) {
    char path[512];
    buf b = { 0 };
    err e = { 0 };
    snprintf(path, sizeof path, "%s/%s", work_dir, name);
    must(read_file(path, 0, &b, &e), &e);
    return b.p;
}

static void bench_or_fail(const char *options) {
    int status = bench(model, options);
    if (status) fail_msg("bench/model %s: status %d: %s", options, status, written("err"));
}

static double number(const json *object, const char *key) {
    double v;
    if (json_num(json_get(object, key), &v))
        fail_msg("%s: expected a number, found %s", key, json_type_name(json_get(object, key)));
    if (!isfinite(v)) fail_msg("%s: not finite", key);
    return v;
}

static double positive(const json *object, const char *key) {
    double v = number(object, key);
    if (!(v > 0)) fail_msg("%s: expected more than 0, found %g", key, v);
    return v;
}

static void is_text(const json *object, const char *key, const char *want) {
    const json *j = json_get(object, key);
    if (!j || j->type != JSON_STRING || j->n == 0) fail_msg("%s: expected a string, found %s", key, json_type_name(j));
    if (want) assert_string_equal(j->s, want);
}

static void check_row(const json *row, const char *test, int depth, int batch, const char *table) {
    is_text(row, "test", test);
    is_text(row, "kernels", table);
    assert_int_equal((int)number(row, "depth"), depth);
    assert_int_equal((int)number(row, "batch"), batch);
    assert_int_equal((int)number(row, "threads"), 2);
    positive(row, "tokens_per_s");
    positive(row, "gb_per_s");
    positive(row, "gflop_per_s");
    assert_true(number(row, "spread") >= 0);
    assert_true(positive(row, "share") < 100);
    const json *bound = json_get(row, "bound");
    assert_true(json_is(bound, "memory") || json_is(bound, "compute"));
}

static void test_json(void **state) {
    (void)state;
    arena a = { 0 };
    json *j;
    err e = { 0 };
    bench_or_fail("-p 16,24 -n 4 -r 2 --depth 32,0 --batch 1,3 -t 2 --json");
    char *text = written("out");
    must(json_parse(&a, text, strlen(text), &j, &e), &e);
    is_text(j, "version", QUERN_VERSION);
    is_text(j, "cpu", NULL);
    is_text(j, "model", "pip-stories");
    is_text(j, "type", "q8");
    is_text(j, "kernels", NULL);
    assert_true(positive(j, "cpu_share") < 1.2);
    assert_int_equal((int)number(j, "threads"), 2);
    static const char *const keys[] = { "read_gb_per_s", "weights_gb_per_s", "f32_gflop_per_s", "int8_gop_per_s",
                                        "bf16_gflop_per_s" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) positive(json_get(j, "limits"), keys[i]);
    static const struct {
        const char *test;
        int depth, batch;
    } want[] = { { "pp16", 0, 1 },  { "pp24", 0, 1 },  { "tg4", 0, 1 },  { "tg4", 0, 3 },
                 { "pp16", 32, 1 }, { "pp24", 32, 1 }, { "tg4", 32, 1 }, { "tg4", 32, 3 } };
    const json *row = json_get(j, "rows")->child;
    for (size_t i = 0; i < sizeof want / sizeof *want; i++, row = row->next) {
        assert_non_null(row);
        check_row(row, want[i].test, want[i].depth, want[i].batch, json_get(j, "kernels")->s);
    }
    assert_null(row);
    arena_free(&a);
    free(text);
}

/* What a row reads and computes follows from the model: 5.8 M weights of a byte each, read once a step, 2 operations each. */
static void test_amounts(void **state) {
    (void)state;
    arena a = { 0 };
    json *j;
    err e = { 0 };
    bench_or_fail("-p 0 -n 8 -r 1 --batch 1,4 --json --exact --kernels scalar -t 1");
    char *text = written("out");
    must(json_parse(&a, text, strlen(text), &j, &e), &e);
    is_text(j, "kernels", "scalar");
    double weights = positive(j, "decode_bytes");
    assert_true(weights > 5.5e6 && weights < 6.5e6);
    for (const json *row = json_get(j, "rows")->child; row; row = row->next) {
        double steps = positive(row, "tokens_per_s") / number(row, "batch"), bytes = positive(row, "gb_per_s") * 1e9 / steps;
        double ops = positive(row, "gflop_per_s") * 1e9 / positive(row, "tokens_per_s");
        assert_true(bytes >= weights && bytes < 1.05 * weights); /* 8 positions of cache are little beside them */
        assert_true(ops > 1.7 * weights && ops < 2.0 * weights); /* 8.25 bits a weight */
        if (number(row, "batch") > 1) assert_null(json_get(row, "share_of_reading_in_turns"));
        else assert_true(positive(row, "share_of_reading_in_turns") < 0.5); /* plain C computes far slower than it reads */
    }
    arena_free(&a);
    free(text);
}

static void test_csv(void **state) {
    (void)state;
    static const char header[] = "test,depth,batch,threads,kernels,tokens_per_s,spread,gb_per_s,gflop_per_s,share,bound,"
                                 "seconds,ratio_to_one_token,type,file\n";
    bench_or_fail("-p 16 -n 4 -r 1 --csv -t 1");
    char *text = written("out");
    assert_int_equal(strncmp(text, header, sizeof header - 1), 0);
    assert_int_equal(strncmp(text + sizeof header - 1, "pp16,0,1,1,", 11), 0);
    int lines = 0, commas = 0;
    for (const char *p = text; *p; p++) {
        lines += *p == '\n';
        commas += *p == ',';
    }
    assert_int_equal(lines, 3);
    assert_int_equal(commas, 3 * 14);
    free(text);
}

/* Every element that is opened is closed, in order; no figure that is none. */
static void check_svg(const char *text) {
    const char *open[16];
    size_t depth = 0, n = strlen(text);
    assert_int_equal(strncmp(text, "<svg", 4), 0);
    assert_string_equal(text + n - 7, "</svg>\n");
    assert_null(strstr(text, "nan"));
    assert_null(strstr(text, "inf"));
    for (const char *p = text; (p = strchr(p, '<')); p++) {
        const char *end = strchr(p, '>');
        assert_non_null(end);
        if (p[1] == '/') {
            assert_true(depth > 0);
            depth--;
            assert_int_equal(strncmp(open[depth] + 1, p + 2, (size_t)(end - p - 2)), 0);
        } else if (end[-1] != '/') {
            assert_true(depth < sizeof open / sizeof *open);
            open[depth++] = p;
        }
    }
    assert_int_equal(depth, 0);
}

static void test_text_and_svg(void **state) {
    (void)state;
    char options[600], part[600];
    snprintf(options, sizeof options, "-p 16 -n 4 -r 1 -d 0,32 -b 1,2 --svg '%s/speed.svg'", work_dir);
    snprintf(part, sizeof part, "%s/speed.svg.part", work_dir);
    bench_or_fail(options);
    char *text = written("out"), *svg = written("speed.svg");
    assert_true(strstr(text, "limits: memory is read at") && strstr(text, "pp16") && strstr(text, "tg4") &&
                strstr(text, "tok/s; you got"));
    check_svg(svg);
    assert_true(strstr(svg, "pip-stories") && strstr(svg, "batch 2") && strstr(svg, "prompt 16") &&
                strstr(svg, "tg4 depth 32 batch 2") && strstr(svg, "roofline") &&
                strstr(svg, "sequences at once") && strstr(svg, "tokens of context") && strstr(svg, "6  tg4 depth 32 batch 2"));
    assert_false(file_exists(part));
    free(text);
    free(svg);
}

/* ---- more rows: drafted tokens, fresh processes, several files and threads ---- */

static json *run_json(arena *a, const char *options) {
    json *j;
    err e = { 0 };
    bench_or_fail(options);
    char *text = written("out");
    must(json_parse(a, text, strlen(text), &j, &e), &e);
    free(text);
    return j;
}

/* The k-th row of a test. */
static const json *find_row(const json *j, const char *test, int k) {
    const json *row = json_get(j, "rows")->child;
    while (row && (!json_is(json_get(row, "test"), test) || k--)) row = row->next;
    if (!row) fail_msg("no row %s", test);
    return row;
}

static void test_verify(void **state) {
    (void)state;
    arena a = { 0 };
    json *j = run_json(&a, "-p 0 -n 4 -d 0,70 --draft-n 1,8 -r 3 -t 1 --exact --kernels scalar --json");
    for (int depth = 0; depth < 2; depth++) {
        const json *one = find_row(j, "verify1", depth), *eight = find_row(j, "verify8", depth);
        double ratio = positive(eight, "ratio_to_one_token"), single = positive(eight, "one_token_seconds");
        assert_int_equal((int)number(eight, "depth"), depth ? 70 : 0);
        /* Nine rows of plain C compute nine times as much, two rows twice: the ratio is of these two steps and not of others. */
        if (ratio < 4 || ratio > 20) fail_msg("verify8 takes %g times a step", ratio);
        assert_true(positive(one, "ratio_to_one_token") > 1.3 && positive(one, "ratio_to_one_token") < ratio);
        double rows = positive(eight, "tokens_per_s") * positive(eight, "seconds"); /* 8 and the token before them */
        assert_true(fabs(rows - 9) < 0.01);
        assert_true(fabs(ratio / (positive(eight, "seconds") / single) - 1) < 0.9);
    }
    arena_free(&a);
}

static void test_start(void **state) {
    (void)state;
    arena a = { 0 };
    char options[200] = "-p 0 -n 0 --start -r 2 -t 1 --json";
    json *j = run_json(&a, options);
    const json *warm = find_row(j, "start-warm", 0), *cold = find_row(j, "start-cold", 0);
    assert_null(cold->next);
    double kept = number(cold, "kept_in_memory");
    assert_true(kept >= 0 && kept <= 1);
    assert_true(positive(warm, "seconds") > 1e-4 && positive(warm, "seconds") < 60);
    assert_true(positive(cold, "seconds") < 60);
    bench_or_fail("-p 0 -n 0 --start -r 1");
    char *text = written("out");
    assert_non_null(strstr(text, "a fresh process has its first token"));
    assert_int_equal(strstr(text, "not quite cold") != NULL, kept >= 0.02);
    free(text);
    bench_or_fail("--first-token"); /* what it ran */
    text = written("out");
    assert_true(strlen(text) >= 2 && text[strlen(text) - 1] == '\n');
    free(text);
    arena_free(&a);
}

static void test_turns(void **state) {
    (void)state;
    arena a = { 0 };
    char options[1400], q4[800];
    snprintf(q4, sizeof q4, "%s", converted("weights/pip-stories", "q4"));
    snprintf(options, sizeof options, "'%s' -t 1,2 -p 8 -n 2 -r 3 --json", q4);
    json *j = run_json(&a, options);
    assert_int_equal((int)json_get(j, "subjects")->n, 4);
    assert_int_equal((int)json_get(j, "rows")->n, 8);
    for (int k = 0; k < 4; k++) { /* A B A B: both files with each number of threads */
        const json *row = find_row(j, "tg2", k);
        is_text(row, "type", k < 2 ? "q8" : "q4");
        is_text(row, "file", k < 2 ? model : q4);
        assert_int_equal((int)number(row, "threads"), 1 + k % 2);
        positive(row, "ratio_to_first");
    }
    assert_true(number(find_row(j, "tg2", 0), "ratio_to_first") == 1);
    snprintf(options, sizeof options, "'%s' -p 8 -n 2 -r 1 --svg '%s/two.svg'", q4, work_dir);
    bench_or_fail(options);
    char *text = written("out"), *svg = written("two.svg");
    assert_true(strstr(text, "of first  file\n") && strstr(text, "pip-stories-q8.bin\n") && strstr(text, "pip-stories-q4.bin: decode"));
    check_svg(svg);
    assert_true(strstr(svg, "A: pip-stories-q8.bin") && strstr(svg, "B: pip-stories-q4.bin"));
    free(text);
    free(svg);
    arena_free(&a);
}

/* One line on stderr, nothing on stdout, the status. */
static void refused(const char *file, const char *options, int status, const char *mention) {
    int found = bench(file, options), lines = 0;
    char *out = written("out"), *err_text = written("err");
    for (const char *p = err_text; *p; p++) lines += *p == '\n';
    if (found != status || lines != 1 || *out || !strstr(err_text, mention))
        fail_msg("bench/model %s: expected status %d and \"%s\", found status %d: %s%s", options, status, mention, found, err_text,
                 out);
    free(out);
    free(err_text);
}

static void test_refusals(void **state) {
    (void)state;
    refused("no/such.bin", "", 1, "no/such.bin");
    refused(model, "--depth 100000", 1, "100512");         /* what is needed */
    refused(model, "--depth 100000", 1, "this model has"); /* and what there is */
    refused(model, "-p 100 -d 50 --ctx 149", 1, "150, --ctx has 149");
    refused(model, "-p 16 -n 100 -d 50 --ctx 149", 1, "150, --ctx has 149");
    refused(model, "--kernels abacus", 1, "abacus");
    refused(model, "--svg no/such/folder/x.svg", 1, "no/such/folder/x.svg");
    refused(model, "-p -1", 2, "-p");
    refused(model, "-p 99999999999999999999", 2, "-p");
    refused(model, "-p 16,", 2, "-p");
    refused(model, "-p 16x", 2, "-p");
    refused(model, "-n -4", 2, "-n");
    refused(model, "-p 0 -n 0", 2, "nothing to measure");
    refused(model, "-r 0", 2, "-r");
    refused(model, "-t 100000", 2, "--threads");
    refused(model, "--depth 1,2,three", 2, "--depth");
    refused(model, "--batch 0", 2, "--batch");
    refused(model, "--json --csv", 2, "--csv");
    refused(model, "another.bin", 1, "another.bin");
    refused(model, "--start no/such.bin", 1, "no/such.bin");
    refused(model, "-p 0 -n 0 --draft-n 0", 2, "--draft-n");
    refused(model, "-p 0 -n 0 --draft-n 20 --ctx 20", 1, "21, --ctx has 20");
    refused(model, "-t 1,2 --first-token", 2, "--first-token");
    refused(model, "-t 1,1,1,1,1,1,1,1,1 x.bin", 2, "at most 16");
    refused(model, "--frobnicate", 2, "--frobnicate");
}

/* ---- --compare ---- */

static void put(const char *name, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", work_dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    assert_int_equal(fclose(f), 0);
}

/* A result as --json writes it, with rows that have what --compare reads. */
static void put_result(const char *name, const char *of, int threads, const char *rows) {
    char text[2000];
    snprintf(text, sizeof text,
             "{\"cpu\":\"c\",\"kernels\":\"k\",\"model\":\"%s\",\"type\":\"q8\",\"threads\":%d,\"repeats\":5,\"adapters\":0,\"rows\":[%s]}", of,
             threads, rows);
    put(name, text);
}

#define ROW(test, threads, speed, spread, share)                                                                                  \
    "{\"test\":\"" test "\",\"depth\":0,\"batch\":1,\"threads\":" threads ",\"tokens_per_s\":" speed ",\"spread\":" spread ",\"share\":" share "}"

/* Paths and what follows in one word: "bench/model a b --compare". */
static int compare_files(const char *x, const char *y) {
    char a[520], options[600];
    snprintf(a, sizeof a, "%s/%s", work_dir, x);
    snprintf(options, sizeof options, "'%s/%s' --compare", work_dir, y);
    return bench(a, options);
}

static void refused_pair(const char *x, const char *y, const char *mention) {
    char a[520], options[600];
    snprintf(a, sizeof a, "%s/%s", work_dir, x);
    snprintf(options, sizeof options, "'%s/%s' --compare", work_dir, y);
    refused(a, options, 1, mention);
}

static void test_compare(void **state) {
    (void)state;
    put_result("a.json", "m", 2,
               ROW("pp16", "2", "100", "0.05", "0.5") "," ROW("tg4", "2", "50", "0.1", "0.8") "," ROW("tg8", "2", "40", "0.01", "0.8"));
    put_result("b.json", "m", 2,
               ROW("tg4", "2", "52", "0.02", "0.6") "," ROW("pp16", "2", "150", "0.04", "0.52") "," ROW("pp32", "2", "9", "0", "0.1"));
    if (compare_files("a.json", "b.json")) fail_msg("%s", written("err"));
    char *text = written("out");
    const char *pp = strstr(text, "\npp16"), *tg = strstr(text, "\ntg4"), *lone = strstr(text, "\ntg8");
    assert_true(pp && tg && lone && pp < tg && tg < lone);
    assert_true(strstr(pp, " 1.500  faster ") && strstr(pp, " 1.500  faster ") < tg);        /* 50 % more, spread 5 and 4 % */
    assert_true(strstr(pp, " 1.040  within the spread\n") && strstr(pp, " 1.040 ") < tg);     /* its share: 4 % */
    assert_true(strstr(tg, " 1.040  within the spread ") && strstr(tg, " 0.750  slower\n")); /* of the share, 25 % less */
    assert_true(strstr(lone, "only before: 40.00 tok/s") && strstr(lone, "only after: 9.00 tok/s"));
    free(text);
    put_result("threads.json", "m", 1, ROW("pp16", "1", "100", "0.05", "0.5"));
    put_result("model.json", "other", 2, ROW("pp16", "2", "100", "0.05", "0.5"));
    put_result("none.json", "m", 2, ROW("pp17", "2", "100", "0.05", "0.5"));
    put_result("zero.json", "m", 2, ROW("pp16", "2", "0", "0.05", "0.5"));
    put_result("name.json", "m", 2, ROW("pp\\u001b[2J", "2", "1", "0.05", "0.5"));
    put("cut.json", "{\"cpu\":\"c\",\"rows\":[{\"te");
    put("foreign.json", "[{\"n_prompt\":512}]");
    put("empty.json", "");
    refused_pair("a.json", "threads.json", "run both with the same -t");
    refused_pair("a.json", "model.json", "measure the same model twice");
    refused_pair("a.json", "none.json", "no row of");
    refused_pair("a.json", "zero.json", "row 1: \"tokens_per_s\": expected a number above 0");
    refused_pair("a.json", "name.json", "\"test\": expected a short text");
    refused_pair("cut.json", "a.json", "not JSON");
    refused_pair("foreign.json", "a.json", "not what bench/model --json writes");
    refused_pair("empty.json", "a.json", "not JSON");
    refused_pair("a.json", "missing.json", "missing.json");
    refused(model, "--compare", 2, "two files");
    refused(model, "x --compare --json", 2, "measures nothing");
}

/* What it writes it reads. */
static void test_compare_own(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        bench_or_fail("-p 8 -n 2 -r 3 --draft-n 2 --json");
        char *text = written("out");
        put(i ? "y.json" : "x.json", text);
        free(text);
    }
    if (compare_files("x.json", "y.json")) fail_msg("%s", written("err"));
    char *text = written("out");
    assert_true(strstr(text, "\npp8 ") && strstr(text, "\ntg2 ") && strstr(text, "\nverify2 ") && !strstr(text, "only"));
    free(text);
}

/* bench/peers/compare.py, as far as it goes without the peer: kept figures, and what it refuses. */
static void test_peers(void **state) {
    (void)state;
    static const struct {
        const char *options, *peer, *mention;
        int status;
    } cases[] = {
        { "-t 2", "{\"threads\":2,\"pp\":8,\"tg\":2,\"batch\":1,\"depth\":0,\"pp_median\":10,\"tg_median\":5}", "of the rounds", 0 },
        { "-t 1", "{\"threads\":2,\"pp\":8,\"tg\":2,\"batch\":1,\"depth\":0,\"pp_median\":10,\"tg_median\":5}", "threads 1, the peer with 2", 1 },
        { "-t 2 -d 4", "{\"threads\":2,\"pp\":8,\"tg\":2,\"batch\":1,\"depth\":0,\"pp_median\":10}", "depth 4, the peer with 0", 1 },
        { "-t 2", "{\"threads\":2", "not figures of a peer", 1 },
        { "-t 2", "[1]", "not figures of a peer", 1 },
    };
    char command[3000];
    if (system("python3 -c '' >/dev/null 2>&1")) skip();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put("peer.json", cases[i].peer);
        snprintf(command, sizeof command, "python3 bench/peers/compare.py '%s' --bench '%s/bench/model' -p 8 -n 2 %s --peer-json '%s/peer.json' "
                 ">'%s/out' 2>&1",
                 model, bin_dir(), cases[i].options, work_dir, work_dir);
        int status = system(command);
        char *text = written("out");
        if (WEXITSTATUS(status) != cases[i].status || !strstr(text, cases[i].mention) || strstr(text, "Traceback"))
            fail_msg("case %zu: expected status %d and \"%s\", found status %d: %s", i, cases[i].status, cases[i].mention, WEXITSTATUS(status), text);
        free(text);
    }
}

/* bench/tokenizer: a row for the text and one for each hostile input, all of them figures. */
static void test_tokenizer(void **state) {
    char command[1400];
    arena a = { 0 };
    err e = { 0 };
    json *root;
    int texts = 0, ratios = 0;
    (void)state;
    snprintf(command, sizeof command, "'%s/bench/tokenizer' '%s' --text README.md --seconds 0.001 --json >'%s/out' 2>'%s/err'",
             bin_dir(), model, work_dir, work_dir);
    if (system(command)) fail_msg("bench/tokenizer: %s", written("err"));
    char *out = written("out");
    must(json_parse(&a, out, strlen(out), &root, &e), &e);
    for (const json *row = json_get(root, "rows")->child; row; row = row->next) {
        bool text = json_is(json_get(row, "test"), "text");
        is_text(row, "model", model);
        positive(row, text ? "mb_per_s" : "ns_per_byte_1m");
        if (!text) positive(row, "ratio");
        texts += text;
        ratios += !text;
    }
    assert_int_equal(texts, 1);
    assert_true(ratios >= 10);
    snprintf(command, sizeof command, "'%s/bench/tokenizer' no/such.bin 2>/dev/null", bin_dir());
    assert_int_not_equal(system(command), 0);
    free(out);
    arena_free(&a);
}

static int convert_demo(void **state) {
    (void)state;
    snprintf(model, sizeof model, "%s", converted("weights/pip-stories", "q8"));
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_json),     cmocka_unit_test(test_amounts),
                                        cmocka_unit_test(test_csv),      cmocka_unit_test(test_text_and_svg),
                                        cmocka_unit_test(test_refusals), cmocka_unit_test(test_tokenizer),
                                        cmocka_unit_test(test_verify),   cmocka_unit_test(test_start),
                                        cmocka_unit_test(test_turns),    cmocka_unit_test(test_compare),
                                        cmocka_unit_test(test_compare_own), cmocka_unit_test(test_peers) };
    make_work_dir();
    int rc = cmocka_run_group_tests(tests, convert_demo, NULL);
    remove_work_dir();
    return rc;
}
