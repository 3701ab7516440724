/* run, inspect and quality as a user meets them: output, exit status, and one clear line for every mistake. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include "tests/models.h"

static char model[800], out_path[512], err_path[512];

/* Runs a shell command line with its output in files; {bin}, {model} and {dir} stand for themselves. Returns the exit status. */
static int sh(const char *line) {
    buf command = { 0 };
    for (const char *p = line; *p; p++) {
        if (strncmp(p, "{bin}", 5) == 0) buf_str(&command, bin_dir()), p += 4;
        else if (strncmp(p, "{model}", 7) == 0) buf_str(&command, model), p += 6;
        else if (strncmp(p, "{dir}", 5) == 0) buf_str(&command, work_dir), p += 4;
        else buf_byte(&command, *p);
    }
    char *whole = malloc(command.n + 1200);
    sprintf(whole, "( %s ) >'%s' 2>'%s'", command.p, out_path, err_path);
    int status = system(whole);
    free(whole);
    buf_free(&command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static char *slurp(const char *path) {
    buf b = { 0 };
    err e = { 0 };
    must(read_file(path, 0, &b, &e), &e);
    return b.p;
}

static char *output(void) { return slurp(out_path); }

static char *output_of(const char *line) {
    int rc = sh(line);
    char *text = slurp(err_path);
    if (rc) fail_msg("%s: status %d, stderr: %s", line, rc, text);
    free(text);
    return output();
}

static void expect_failure(const char *line, int status, const char *mention) {
    int found = sh(line);
    char *text = slurp(err_path);
    size_t lines = 0;
    for (char *p = text; *p; p++) lines += *p == '\n';
    if (found != status || lines != 1 || !strstr(text, mention)) fail_msg("%s: status %d, stderr: %s", line, found, text);
    free(text);
}

static void test_generates(void **state) {
    (void)state;
    assert_int_equal(sh("{bin}/run {model} -p 'Once upon a time' -n 40 --temp 0"), 0);
    char *a = output(), *b, *stats = slurp(err_path);
    assert_int_equal(strncmp(a, "Once upon a time", 16), 0);
    assert_true(strlen(a) > 60);
    assert_true(strstr(stats, "prompt 5 tokens") && strstr(stats, "tok/s") && strstr(stats, "GB/s") && strstr(stats, "seed"));
    assert_int_equal(sh("printf 'Once upon a time' | {bin}/run {model} -p - -n 40 --temp 0 -t 2"), 0);
    b = output();
    assert_string_equal(b, a + 16); /* what was typed elsewhere is not echoed */
    free(b);
    assert_int_equal(sh("printf 'Once upon a time' > {dir}/p; {bin}/run {model} -f {dir}/p -n 40 --temp=0"), 0);
    b = output();
    assert_string_equal(b, a + 16);
    free(b);
    assert_int_equal(sh("{bin}/run {model} --ids '0 559 560 265 452' -n 40 --temp 0"), 0);
    b = output();
    assert_string_equal(b, a + 16);
    free(a);
    free(b);
    free(stats);
}

static void test_seed(void **state) {
    (void)state;
    assert_int_equal(sh("{bin}/run {model} -p 'One day' -n 30 --seed 5 --print-ids"), 0);
    char *a = output();
    assert_int_equal(sh("{bin}/run {model} -p 'One day' -n 30 --seed 5 --print-ids -t 1"), 0);
    char *b = output();
    assert_string_equal(a, b);
    free(b);
    assert_int_equal(sh("{bin}/run {model} -p 'One day' -n 30 --seed 6 --print-ids"), 0);
    b = output();
    assert_string_not_equal(a, b);
    free(a);
    free(b);
}

static void test_stop_and_eos(void **state) {
    (void)state;
    assert_int_equal(sh("{bin}/run {model} -p 'Once upon a time' -n 60 --temp 0 --no-echo"), 0);
    char *whole = output();
    char *dot = strchr(whole, '.');
    assert_non_null(dot);
    assert_int_equal(sh("{bin}/run {model} -p 'Once upon a time' -n 60 --temp 0 --no-echo --stop ' there was no such' --stop '. '"), 0);
    char *cut = output();
    assert_int_equal(strlen(cut), dot - whole);
    free(whole);
    free(cut);
    assert_int_equal(sh("{bin}/run {model} -p 'Once upon a time' -n 900 --temp 0 --print-ids"), 0);
    char *ended = output();
    assert_int_equal(sh("{bin}/run {model} -p 'Once upon a time' -n 900 --temp 0 --print-ids --ignore-eos"), 0);
    char *on = output();
    assert_true(strlen(on) > strlen(ended)); /* a story ends; told to ignore it, the model goes on */
    free(ended);
    free(on);
}

static void test_context_full(void **state) {
    (void)state;
    assert_int_equal(sh("{bin}/run {model} -p 'Once upon a time' -n -1 --temp 0 --ignore-eos --ctx 64 --print-ids"), 0);
    char *a = output(), *stats = slurp(err_path);
    int words = 1;
    for (char *p = a; *p; p++) words += *p == ' ';
    assert_int_equal(words, 64 - 5 + 1); /* the last one needs no position of its own */
    assert_true(strstr(stats, "context full") != NULL);
    free(a);
    free(stats);
    expect_failure("{bin}/run {model} -p 'Once upon a time, there was a boy' --ctx 4", 1,
                   "context_length_exceeded: 10 tokens are needed, the context holds 4");
}

static void test_dump_logits(void **state) {
    (void)state;
    assert_int_equal(sh("{bin}/run {model} --ids '0 1 2' -n 0 --dump-logits {dir}/l"), 0);
    char path[600];
    size_t n;
    snprintf(path, sizeof path, "%s/l", work_dir);
    float *x = read_floats(path, &n);
    assert_int_equal(n, 3 * 4096);
    free(x);
    char *out = output();
    assert_string_equal(out, "");
    free(out);
}

/* On a terminal both streams go to one place: what -v says may not stand in the middle of the text. */
static void test_said_first(void **state) {
    (void)state;
    char *said = output_of("{bin}/run {model} -p 'Once upon' -n 4 --temp 0 -v 2>&1");
    assert_non_null(strstr(said, "\nsampling: "));
    assert_non_null(strstr(said, "\nOnce upon a time"));
    assert_true(strstr(said, "sampling: ") < strstr(said, "Once upon"));
    free(said);
    said = output_of("{bin}/run {model} -p 'Once upon' -n 16 --temp 0 --explain --no-echo 2>&1");
    assert_non_null(strstr(said, "\nprompt: 1 pass, "));
    free(said);
}

static void test_vocabulary(void **state) {
    (void)state;
    assert_int_equal(sh("printf 'Once upon a time' | {bin}/run {model} --tokenize"), 0);
    char *a = output();
    assert_string_equal(a, "0 559 560 265 452\n");
    free(a);
    assert_int_equal(sh("printf 'Once upon a time' | {bin}/run {model} --tokenize --no-special | {bin}/run {model} --detokenize"), 0);
    a = output();
    assert_string_equal(a, "Once upon a time");
    free(a);
    assert_int_equal(sh("printf '{\"text\":\"Once upon a time\",\"add_special\":false}\\n\\n{\"bytes_hex\":\"4f6e6365\"}\\n"
                        "{\"ids\":[559,560]}\\n' | {bin}/run {model} --tokenize --jsonl"), 0);
    a = output();
    assert_string_equal(a, "[559,560,265,452]\n[0,559]\n{\"text\":\"Once upon\",\"bytes_hex\":\"4f6e63652075706f6e\"}\n");
    free(a);
    expect_failure("printf '{\"text\":1}' | {bin}/run {model} --tokenize --jsonl", 1, "line 1");
    expect_failure("printf '1 2 x' | {bin}/run {model} --detokenize", 1, "token ids");
    assert_int_equal(sh("printf '<|end|>' | {bin}/run {model} --tokenize --no-special --parse-special"), 0);
    a = output();
    assert_string_equal(a, "5\n");
    free(a);
}

static void test_interrupt(void **state) {
    (void)state;
    assert_int_equal(sh("timeout -s INT 0.5 {bin}/run {model} -p 'Once upon a time' -n -1 --ignore-eos >/dev/null; "
                        "i=0; while [ $i -lt 40 ]; do {bin}/run {model} -p 'Once upon a time' -n -1 --ignore-eos & p=$!; "
                        "sleep 0.0$((i % 10)); kill -INT $p; "
                        "wait $p; s=$?; [ $s = 130 ] || [ $s = 0 ] || exit 9; i=$((i + 4)); done"), 0);
}

static void test_mistakes(void **state) {
    (void)state;
    expect_failure("{bin}/run", 2, "model file");
    expect_failure("{bin}/run {model} </dev/null", 2, "prompt");
    expect_failure("{bin}/run {model} -p a -f b", 2, "only one");
    expect_failure("{bin}/run {model} -p a --no-such", 2, "--no-such");
    expect_failure("{bin}/run {model} -p a -n", 2, "value is missing");
    expect_failure("{bin}/run {model} -p a -n 1x", 2, "1x");
    expect_failure("{bin}/run {model} -p a -n -2", 2, "-n");
    expect_failure("{bin}/run {model} -p a --top-p 2", 1, "top-p");
    expect_failure("{bin}/run {model} -p a --stop ''", 2, "--stop");
    expect_failure("{bin}/run {model} -p a --kernels abacus", 1, "abacus");
    expect_failure("QUERN_KERNELS=abacus {bin}/run {model} -p a", 1, "abacus");
    expect_failure("{bin}/run {dir}/none.bin -p a", 1, "none.bin");
    expect_failure("{bin}/run {dir} -p a", 1, "quern-test");
    expect_failure("{bin}/run README.md -p a", 1, "README.md");
    expect_failure("{bin}/run {model} --ids '1 4096'", 1, "4096");
    expect_failure("{bin}/run {model} --ids ''", 1, "empty");
    expect_failure("{bin}/run {model} -f {dir}/none", 1, "none");
    expect_failure("{bin}/run {model} -p a -n 1 >/dev/full", 1, "stdout");
    expect_failure("{bin}/quality {model}", 2, "text");
    expect_failure("{bin}/quality {model} {dir}/none", 1, "none");
    expect_failure("{bin}/inspect {dir}/none.bin", 1, "none.bin");
    assert_int_equal(sh("{bin}/convert weights/pip-stories --vocab-only -o {dir}/vocab.bin"), 0);
    expect_failure("{bin}/run {dir}/vocab.bin -p hi", 1, "--vocab-only");
    assert_int_equal(sh("{bin}/convert tests/fixtures/golden/lora_llama --base tests/fixtures/golden/llama -o {dir}/adapter.bin"), 0);
    expect_failure("{bin}/run {dir}/adapter.bin --ids 1", 1, "--lora");
    assert_int_equal(sh("{bin}/inspect {dir}/adapter.bin --verify"), 0);
    char *shown = output();
    assert_true(strstr(shown, "adapter.rank") && strstr(shown, "lora_a") == NULL);
    free(shown);
    static const char *const programs[] = { "run", "convert", "inspect", "quality", "bench/model" };
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
        char line[128];
        snprintf(line, sizeof line, "{bin}/%s --help", programs[i]);
        assert_int_equal(sh(line), 0);
        snprintf(line, sizeof line, "{bin}/%s --version", programs[i]);
        assert_int_equal(sh(line), 0);
        char *v = output();
        assert_true(strstr(v, QUERN_VERSION) != NULL);
        free(v);
    }
}

static void test_no_tokenizer(void **state) {
    (void)state;
    char saved[800];
    snprintf(saved, sizeof saved, "%s", model);
    snprintf(model, sizeof model, "%s", converted("tests/fixtures/golden/llama", "q8"));
    expect_failure("{bin}/run {model} -p hello", 1, "no tokenizer");
    expect_failure("echo hello | {bin}/run {model} --tokenize", 1, "no tokenizer");
    assert_int_equal(sh("{bin}/run {model} --ids '5 6 7' -n 4 --temp 0 --ignore-eos"), 0); /* ids out where there is no text */
    char *a = output();
    int spaces = 0;
    for (char *p = a; *p; p++) spaces += *p == ' ';
    assert_int_equal(spaces, 3);
    free(a);
    snprintf(model, sizeof model, "%s", saved);
}

/* The encoder reads the prompt, the decoder begins by itself; an encoder alone gives embeddings and nothing else. */
static void test_encoders(void **state) {
    (void)state;
    char saved[800], line[600];
    snprintf(saved, sizeof saved, "%s", model);
    snprintf(model, sizeof model, "%s", converted("tests/fixtures/golden/t5", "f32"));
    buf text = { 0 };
    arena a = { 0 };
    json *j;
    err e = { 0 };
    ids in = { 0 }, greedy = { 0 };
    must(read_file("tests/fixtures/golden/t5/expected.json", 0, &text, &e), &e);
    must(json_parse(&a, text.p, text.n, &j, &e), &e);
    json_ids(json_get(j, "encoder_tokens"), &in);
    json_ids(json_get(j, "greedy"), &greedy);
    buf command = { 0 }, want = { 0 };
    buf_str(&command, "{bin}/run {model} --exact -n 32 --temp 0 --ignore-eos --print-ids --ids '");
    for (size_t i = 0; i < in.n; i++) buf_fmt(&command, "%d ", in.p[i]);
    buf_str(&command, "'");
    for (size_t i = 0; i < greedy.n; i++) buf_fmt(&want, "%s%d", i ? " " : "", greedy.p[i]);
    buf_str(&want, "\n");
    assert_int_equal(sh(command.p), 0);
    char *out = output();
    assert_string_equal(out, want.p);
    free(out);
    assert_int_equal(sh("{bin}/run {model} --ids '5 6 7' --decoder-ids '0 9 8' -n 0 --dump-logits {dir}/l"), 0);
    size_t n;
    snprintf(line, sizeof line, "%s/l", work_dir);
    free(read_floats(line, &n));
    assert_int_equal(n, 3 * 256);
    snprintf(model, sizeof model, "%s", converted("tests/fixtures/golden/bert", "f32"));
    assert_int_equal(sh("{bin}/run {model} --embed --ids '5 6 7'"), 0);
    out = output();
    arena b = { 0 };
    must(json_parse(&b, out, strlen(out), &j, &e), &e);
    assert_int_equal(j->n, 64);
    double square = 0, x;
    for (const json *v = j->child; v; v = v->next) assert_int_equal(json_num(v, &x), 0), square += x * x;
    assert_true(square > 0.99999 && square < 1.00001);
    expect_failure("{bin}/run {model} --ids '5 6 7'", 1, "encoder");
    expect_failure("{bin}/run {model} --embed --pooling sideways --ids '5 6 7'", 1, "sideways");
    snprintf(model, sizeof model, "%s", saved);
    expect_failure("{bin}/run {model} --embed -p hello", 1, "--pooling");
    assert_int_equal(sh("{bin}/run {model} --embed --pooling mean -p hello"), 0);
    expect_failure("{bin}/run {model} -p hello --decoder-ids 1", 1, "no encoder");
    free(out);
    buf_free(&text);
    buf_free(&command);
    buf_free(&want);
    ids_free(&in);
    ids_free(&greedy);
    arena_free(&a);
    arena_free(&b);
}

static int n_words(const char *text) {
    int n = 0;
    for (const char *p = text; *p; p++) n += *p != ' ' && *p != '\n' && (p[1] == ' ' || p[1] == '\n');
    return n;
}

static void expect_equal_runs(const char *one, const char *other) {
    char *a = output_of(one), *b = output_of(other);
    if (strcmp(a, b) != 0) fail_msg("%s: %s\n%s: %s", one, a, other, b);
    assert_true(strlen(a) > 1);
    free(a);
    free(b);
}

/* The text of a search is the text of its ids; nothing of the machine changes it; one beam is none. */
static void test_beams(void **state) {
    (void)state;
    expect_equal_runs("{bin}/run {model} -p 'One day' --no-echo --beams 3 -n 900",
                      "{bin}/run {model} -p 'One day' --beams 3 -n 900 --print-ids -t 1 | {bin}/run {model} --detokenize --no-special");
    char *stats, *a, *b;
    expect_equal_runs("{bin}/run {model} -p 'One day' --beams 4 -n 90 -t 1",
                      "{bin}/run {model} -p 'One day' --beams 4 -n 90 -t 2 --temp 0 --early-stopping false --length-penalty 1 --min-length 0");
    stats = slurp(err_path);
    assert_true(strstr(stats, "4 beams") && strstr(stats, "-n reached"));
    free(stats);
    expect_equal_runs("{bin}/run {model} -p 'One day' --beams 1 --temp 0 -n 90", "{bin}/run {model} -p 'One day' --temp 0 -n 90");
    a = output_of("{bin}/run {model} -p 'One day' --beams 4 -n -1 --ctx 64 --ignore-eos --print-ids");
    stats = slurp(err_path);
    assert_true(n_words(a) == 64 - 3 + 1 && strstr(stats, "context full"));
    free(stats);
    free(a);
    a = output_of("{bin}/run {model} -p 'Once upon a time' --no-echo --beams 4 -n 200 --stop 'zzz' --stop 'ed to' --early-stopping true -v");
    b = slurp(err_path);
    assert_true(a[0] && !strstr(a, "ed to") && strstr(b, "stop string") && strstr(b, "4 beams, length penalty 1, early stopping true"));
    free(a);
    free(b);
    int status = sh("timeout --preserve-status -s INT 0.5 {bin}/run {model} -p 'One day' --beams 8 -n -1 --ignore-eos --no-echo");
    assert_true(status == 130 || status == 0); /* a machine that is done by then */
    a = output();
    b = slurp(err_path);
    if (strstr(b, "8 beams |")) assert_true(strlen(a) > 0); /* interrupted within the search: the best so far */
    free(a);
    free(b);
    expect_failure("{bin}/run {model} -p a --beams 0", 2, "--beams");
    expect_failure("{bin}/run {model} -p a --beams 257", 2, "256");
    expect_failure("{bin}/run {model} -p a --beams 2 --temp 0.5", 2, "--temp");
    expect_failure("{bin}/run {model} -p a --beams 2 --top-k 5", 2, "--top-k");
    expect_failure("{bin}/run {model} -p a --beams 2 --early-stopping soon", 2, "soon");
    expect_failure("{bin}/run {model} -p a --length-penalty 2", 1, "--beams 2 or more");
    expect_failure("{bin}/run {model} -p a --beams 1 --early-stopping true", 1, "--beams 2 or more");
    expect_failure("{bin}/run {model} -p a --min-length -1", 1, "min-length");
    expect_failure("{bin}/run {model} -p a --no-repeat-ngram -1", 1, "no-repeat-ngram");
}

/* The demo checkpoint with another generation_config.json. */
static void convert_with(const char *generation_config) {
    buf line = { 0 };
    buf_str(&line, "rm -rf {dir}/own && mkdir {dir}/own && for f in config.json model.safetensors tokenizer.json tokenizer_config.json; do "
                   "ln -s \"$PWD/weights/pip-stories/$f\" {dir}/own/; done && printf '%s' '");
    buf_str(&line, generation_config);
    buf_str(&line, "' >{dir}/own/generation_config.json && {bin}/convert {dir}/own --force -o {dir}/own.bin");
    buf_byte(&line, 0);
    free(output_of(line.p));
    buf_free(&line);
}

/* What the checkpoint says of searching holds until the command line says otherwise. */
static void test_checkpoint_search(void **state) {
    (void)state;
    convert_with("{\"eos_token_id\":[1,5],\"num_beams\":3,\"length_penalty\":0.3,\"early_stopping\":true,"
                 "\"no_repeat_ngram_size\":3,\"min_new_tokens\":20}");
    expect_equal_runs("{bin}/run {dir}/own.bin -p 'One day' -n 60 -v",
                      "{bin}/run {model} -p 'One day' -n 60 --beams 3 --length-penalty 0.3 --early-stopping true "
                      "--no-repeat-ngram 3 --min-length 20");
    expect_equal_runs("{bin}/run {dir}/own.bin -p 'One day' -n 60 --beams 2 --length-penalty 2 --early-stopping "
                      "never --no-repeat-ngram 0 --min-length 0",
                      "{bin}/run {model} -p 'One day' -n 60 --beams 2 --length-penalty 2 --early-stopping never");
    expect_equal_runs("{bin}/run {dir}/own.bin -p 'One day' -n 60 --temp 0", "{bin}/run {model} -p 'One day' -n 60 --temp 0 --no-repeat-ngram 3");
    free(output_of("{bin}/run {dir}/own.bin -p 'One day' -n 3 --temp 0 -v"));
    char *said = slurp(err_path);
    assert_true(strstr(said, "3 beams are off") && strstr(said, "no run of 3 tokens") && strstr(said, "before 20 tokens"));
    free(said);
    char *plan = output_of("{bin}/run {dir}/own.bin --plan");
    assert_non_null(strstr(plan, "3 sessions"));
    free(plan);
    /* transformers' min_length counts the prompt, here 3 tokens */
    char *short_one = output_of("{bin}/run {model} -p 'One day' -n 900 --temp 0 --print-ids");
    int own = n_words(short_one);
    free(short_one);
    buf config = { 0 };
    buf_fmt(&config, "{\"eos_token_id\":[1,5],\"min_length\":%d}", own + 3 + 40);
    buf_byte(&config, 0);
    convert_with(config.p);
    config.n = 0;
    buf_fmt(&config, "{bin}/run {model} -p 'One day' -n 900 --temp 0 --print-ids --min-length %d", own + 40);
    buf_byte(&config, 0);
    expect_equal_runs("{bin}/run {dir}/own.bin -p 'One day' -n 900 --temp 0 --print-ids", config.p);
    char *long_one = output();
    assert_true(n_words(long_one) >= own + 40);
    free(long_one);
    buf_free(&config);
}

/* The most memory that a program had resident while it ran, in MB. */
static double peak_of(const char *const *args) {
    struct rusage usage;
    int status;
    pid_t child = fork();
    if (child == 0) {
        execv(args[0], (char *const *)(uintptr_t)args);
        _exit(127);
    }
    assert_true(child > 0 && wait4(child, &status, 0, &usage) == child && WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    return (double)usage.ru_maxrss * 1024 / 1e6;
}

/* --plan says it before: within 5 % of what a run with a full context takes. */
static void test_plan(void **state) {
    (void)state;
    assert_int_equal(sh("{bin}/run {model} --plan"), 0);
    char *out = output(), *at = strstr(out, "\npeak ");
    assert_non_null(at);
    double planned = strtod(at + 6, NULL);
    assert_true(strstr(out, "weights") && strstr(out, "cache") && strstr(out, "tokens/s"));
    free(out);
    expect_failure("{bin}/run {model} --plan -p hello", 2, "--plan");
    expect_failure("{bin}/run {model} -p hello --sessions 2", 2, "--sessions");
    expect_failure("{bin}/run {model} --plan --sessions 0", 2, "--sessions");
    assert_int_equal(sh("{bin}/run {model} --plan --sessions 10"), 0);
    out = output();
    assert_non_null(strstr(out, "10 sessions of 1024 positions"));
    free(out);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    buf ids_text = { 0 };
    for (int i = 0; i < 1024; i++) buf_fmt(&ids_text, "%d ", (i * 7919 + 13) % 4096);
    char program[300];
    snprintf(program, sizeof program, "%s/run", bin_dir());
    double peak = peak_of((const char *const[]){ program, model, "--ids", ids_text.p, "-n", "0", NULL });
    if (planned < 0.95 * peak || planned > 1.05 * peak) fail_msg("planned %.1f MB, measured %.1f MB", planned, peak);
    buf_free(&ids_text);
#else
    (void)planned;
    (void)peak_of;
#endif
}

static void expect_output(const char *line, const char *want) {
    if (sh(line)) fail_msg("%s: %s", line, slurp(err_path));
    char *out = output();
    if (strcmp(out, want)) fail_msg("%s: expected %s, found %s", line, want, out);
    free(out);
}

static void test_chat(void **state) {
    (void)state;
    expect_output("{bin}/run {model} --chat -p ' Hi <|end|>' --system Be --show-prompt -n 0",
                  "<|bos|><|system|>Be<|end|><|user|>Hi <|end|><|end|><|assistant|>\n0 2 1876 5 3 2991 227 34 98 422 98 36 5 4\n");
    expect_output("printf 'Hi <|end|>' | {bin}/run {model} --chat -p - --parse-special --show-prompt -n 0",
                  "<|bos|><|user|>Hi <|end|><|end|><|assistant|>\n0 3 2991 227 5 5 4\n");
    expect_output("{bin}/run {model} --ids '0 3 5' --show-prompt -n 0", "<|bos|><|user|><|end|>\n0 3 5\n");
    assert_int_equal(sh("{bin}/run {model} --chat -p 'Tell me a story' -n 20 --temp 0"), 0);
    char *a = output(), *b;
    assert_true(strlen(a) > 20 && !strstr(a, "Tell me"));
    assert_int_equal(sh("{bin}/run {model} -p '<|bos|><|user|>Tell me a story<|end|><|assistant|>' --parse-special --no-echo -n 20 --temp 0"), 0);
    b = output(); /* the same tokens, but for the BOS that a plain text gets of its own */
    assert_true(strlen(b) > 20);
    free(a);
    free(b);
    expect_failure("{bin}/run {model} --system x -p a", 2, "--chat");
    expect_failure("{bin}/run {model} --chat --ids 1", 2, "--chat");
    expect_failure("{bin}/run {model} --template x -p a", 2, "--template goes with");
    expect_failure("{bin}/run {model} --chat --template {dir}/none -p a", 1, "none");
    expect_failure("echo '{{ x }' > {dir}/t; {bin}/run {model} --chat --template {dir}/t -p a", 1, "line 1, column");
    expect_failure("echo '{{ raise_exception(\"No way.\") }}' > {dir}/t; {bin}/run {model} --chat --template {dir}/t -p a",
                   1, "refuses this chat: No way.");
    expect_failure("echo '{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}' > {dir}/t; "
                   "{bin}/run {model} --chat --template {dir}/t -p a", 1, "more than a template may use");
}

static void test_render(void **state) {
    (void)state;
    assert_int_equal(sh("echo '{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"add_generation_prompt\": true}' > {dir}/c.json"), 0);
    expect_output("{bin}/run {model} --render {dir}/c.json", "<|bos|><|user|>x<|end|><|assistant|>");
    expect_output("{bin}/run {model} --render - --print-ids < {dir}/c.json", "0 3 94 5 4\n");
    expect_output("cat {dir}/c.json {dir}/c.json | {bin}/run {model} --render - --jsonl",
                  "\"<|bos|><|user|>x<|end|><|assistant|>\"\n\"<|bos|><|user|>x<|end|><|assistant|>\"\n");
    expect_output("( echo '{\"messages\": []}'; echo 7; echo '{'; cat {dir}/c.json ) | {bin}/run {model} --render - --jsonl --print-ids",
                  "{\"error\":\"messages: expected at least one message\"}\n{\"error\":\"expected an object with \\\"messages\\\", "
                  "found a number\"}\n"
                  "{\"error\":\"not JSON: text ends inside an object or array at byte 1 (line 1)\"}\n[0,3,94,5,4]\n");
    expect_output("printf '{{ bos_token }}{{ messages[0].content }}{{ x }}' > {dir}/t; echo '{\"messages\": [{\"content\": \"a\"}], "
                  "\"kwargs\": {\"x\": 1}, \"bos_token\": \"B\"}' |"
                  " {bin}/run {model} --render - --template {dir}/t", "Ba1");
    expect_failure("{bin}/run {model} --render {dir}/none", 1, "none");
    expect_failure("{bin}/run {model} --render {dir}/c.json -p x", 2, "--render");
    expect_failure("{bin}/run {model} --render {dir}/c.json --chat", 2, "--chat");
    expect_failure("echo '{}' | {bin}/run {model} --render -", 1, "at least one message");
    expect_failure("{bin}/convert tests/fixtures/tokenizers/gpt2 --vocab-only -o {dir}/gpt2.bin --force 2>/dev/null && "
                   "{bin}/run {dir}/gpt2.bin --render {dir}/c.json", 1, "no chat template");
}

/* Proposals change no id; what they came to, and where the time went, is said. */
static void test_speculation(void **state) {
    (void)state;
    static const char *const ways[] = { "", "--lookup", "--draft {model}", "--lookup --draft {model} --explain" };
    char *plain = NULL;
    for (int i = 0; i < 4; i++) {
        char command[300];
        snprintf(command, sizeof command, "{bin}/run {model} -p 'One day, one day, one day' -n 60 --seed 3 --print-ids %s", ways[i]);
        assert_int_equal(sh(command), 0);
        char *got = output(), *said = slurp(err_path);
        if (!plain) plain = got;
        else assert_string_equal(got, plain);
        if ((strstr(said, "proposed tokens accepted") != NULL) != (i > 0)) fail_msg("%s: %s", ways[i], said);
        if ((strstr(said, "\nbound by ") != NULL) != (i == 3)) fail_msg("%s: %s", ways[i], said);
        if (got != plain) free(got);
        free(said);
    }
    free(plain);
    expect_failure("{bin}/run {model} -p x --lookup --beams 2", 2, "--beams");
    expect_failure("{bin}/run {model} -p x --draft nothing.bin", 1, "nothing.bin");
}

/* What everything fits changes nothing; what is complete is whole, and what is cut says so. */
static void test_grammars(void **state) {
    (void)state;
    static const char *const ways[] = { "", "--lookup", "--draft {model}" };
    assert_int_equal(sh("printf 'root ::= [\\\\x00-\\\\U0010ffff]*\\n' > {dir}/all.gbnf; printf 'root ::= \"yes\" | \"no\"\\n' > {dir}/yes.gbnf; "
                        "printf 'root ::= root | \"b\"\\n' > {dir}/bad.gbnf"), 0);
    assert_int_equal(sh("{bin}/run {model} -p 'Once upon a time' -n 40 --temp 0 --print-ids"), 0);
    char *plain = output(), line[400];
    for (size_t i = 0; i < 3; i++) {
        snprintf(line, sizeof line, "{bin}/run {model} -p 'Once upon a time' -n 40 --temp 0 --print-ids --grammar {dir}/all.gbnf %s", ways[i]);
        assert_int_equal(sh(line), 0);
        char *found = output();
        assert_string_equal(found, plain);
        free(found);
    }
    free(plain);
    assert_int_equal(sh("{bin}/run {model} -p 'Was it?' --no-echo --grammar {dir}/yes.gbnf"), 0);
    char *answer = output(), *log = slurp(err_path);
    assert_true(strcmp(answer, "yes") == 0 || strcmp(answer, "no") == 0);
    assert_non_null(strstr(log, "grammar complete"));
    free(answer);
    free(log);
    assert_int_equal(sh("{bin}/run {model} -p x --no-echo --json -n 3"), 0);
    log = slurp(err_path);
    assert_non_null(strstr(log, "-n reached"));
    free(log);
    assert_int_equal(sh("{bin}/run {model} -p x --no-echo --json-schema '{\"enum\":[[1, 2]]}'"), 0);
    answer = output();
    assert_true(answer[strspn(answer, " \n\t")] == '[' && strchr(answer, ']'));
    free(answer);
    expect_failure("{bin}/run {model} -p x --grammar {dir}/bad.gbnf", 1, "left recursion: root -> root");
    expect_failure("{bin}/run {model} -p x --json-schema '{\"not\":{}}'", 1, "#/not");
    expect_failure("{bin}/run {model} -p x --json-schema {dir}/missing.json", 1, "missing.json");
    expect_failure("{bin}/run {model} -p x --json --beams 2", 2, "--beams");
    expect_failure("{bin}/run {model} -p x --json --grammar {dir}/yes.gbnf", 2, "only one of");
}

/* Where the weights lie changes nothing. */
static void test_memory(void **state) {
    (void)state;
    static const char *const ways[] = { "", "--huge-pages", "--lock", "--lock --huge-pages" };
    char *plain = NULL;
    for (int i = 0; i < 4; i++) {
        char command[300];
        snprintf(command, sizeof command, "{bin}/run {model} -p 'One day' -n 20 --temp 0 --print-ids %s", ways[i]);
        assert_int_equal(sh(command), 0);
        char *got = output();
        if (!plain) plain = got;
        else assert_string_equal(got, plain);
        if (got != plain) free(got);
    }
    free(plain);
    if (geteuid() != 0) expect_failure("ulimit -l 64; {bin}/run {model} -p x --lock", 1, "this process may lock 0.1 MB"); /* root may lock anything */
    expect_failure("head -c 300000 {model} > {dir}/cut.bin; {bin}/run {dir}/cut.bin -p x --huge-pages", 1, "cut.bin");
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_generates), cmocka_unit_test(test_seed),
                                        cmocka_unit_test(test_stop_and_eos), cmocka_unit_test(test_context_full),
                                        cmocka_unit_test(test_dump_logits), cmocka_unit_test(test_said_first),
                                        cmocka_unit_test(test_vocabulary), cmocka_unit_test(test_interrupt),
                                        cmocka_unit_test(test_mistakes), cmocka_unit_test(test_no_tokenizer),
                                        cmocka_unit_test(test_encoders), cmocka_unit_test(test_plan),
                                        cmocka_unit_test(test_speculation), cmocka_unit_test(test_beams),
                                        cmocka_unit_test(test_checkpoint_search), cmocka_unit_test(test_chat),
                                        cmocka_unit_test(test_render), cmocka_unit_test(test_grammars),
                                        cmocka_unit_test(test_memory) };
    make_work_dir();
    snprintf(model, sizeof model, "%s", converted("weights/pip-stories", "q8"));
    snprintf(out_path, sizeof out_path, "%s/out", work_dir);
    snprintf(err_path, sizeof err_path, "%s/err", work_dir);
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    remove_work_dir();
    return rc;
}
