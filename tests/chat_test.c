/* A chat: on a pseudo-terminal as a person types it, line by line through a pipe, and the conversation's ids by themselves. The demo
 * model chats, with its own template. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include "tools/run/conversation.h"
#include "tests/models.h"

static char model[800], exact_model[800];

/* ---- line by line ---- */

static int status_of(const char *line, buf *out) {
    buf command = { 0 };
    char some[4096];
    for (const char *p = line; *p; p++) {
        if (strncmp(p, "{run}", 5) == 0) buf_fmt(&command, "%s/run", bin_dir()), p += 4;
        else if (strncmp(p, "{model}", 7) == 0) buf_str(&command, model), p += 6;
        else if (strncmp(p, "{exact}", 7) == 0) buf_str(&command, exact_model), p += 6;
        else if (strncmp(p, "{dir}", 5) == 0) buf_str(&command, work_dir), p += 4;
        else buf_byte(&command, *p);
    }
    out->n = 0;
    buf_str(out, "");
    FILE *f = popen(command.p, "r");
    assert_non_null(f);
    for (size_t n; (n = fread(some, 1, sizeof some, f)) > 0;) buf_add(out, some, n);
    int status = pclose(f);
    buf_free(&command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void expect_lines(const char *line, int status, const char *mention) {
    buf out = { 0 };
    int found = status_of(line, &out);
    if (found != status || !strstr(out.p, mention)) fail_msg("%s: status %d, found \"%s\"", line, found, out.p);
    buf_free(&out);
}

/* ---- a terminal, and somebody who types ---- */

typedef struct desk {
    pid_t child;
    int hand, back;     /* where keys are typed; the program's own end, kept open to look at its settings */
    buf seen;
    size_t at;          /* what was seen up to here has been expected already */
    struct termios found;
} desk;

static bool open_pty(desk *d) {
    d->hand = posix_openpt(O_RDWR | O_NOCTTY);
    if (d->hand < 0 || grantpt(d->hand) || unlockpt(d->hand)) return false;
    d->back = open(ptsname(d->hand), O_RDWR | O_NOCTTY);
    return d->back >= 0 && tcgetattr(d->back, &d->found) == 0;
}

static void run_there(const desk *d, const char *const *args) {
    setsid();
    ioctl(d->back, TIOCSCTTY, 0);
    for (int i = 0; i < 3; i++) dup2(d->back, i);
    setenv("TERM", "xterm", 1);
    execv(args[0], (char *const *)(uintptr_t)args);
    _exit(127);
}

/* Starts run with these words behind the model's name. Skips the test where there are no pseudo-terminals. */
static desk sit_down(const char *path, int columns, const char *const *words) {
    static char program[300];
    desk d = { 0 };
    const char *args[24] = { program, path };
    for (int i = 0; words[i]; i++) args[2 + i] = words[i];
    snprintf(program, sizeof program, "%s/run", bin_dir());
    if (!open_pty(&d)) {
        print_message("skipped: no pseudo-terminal here (%s)\n", strerror(errno));
        skip();
    }
    ioctl(d.hand, TIOCSWINSZ, &(struct winsize){ .ws_col = (unsigned short)columns, .ws_row = 24 });
    d.child = fork();
    assert_true(d.child >= 0);
    if (d.child == 0) run_there(&d, args);
    return d;
}

#define SIT_DOWN(columns, ...) sit_down(model, columns, (const char *const[]){ "--temp", "0", __VA_ARGS__, NULL })

static bool read_some(desk *d, int ms) {
    char some[4096];
    if (poll(&(struct pollfd){ .fd = d->hand, .events = POLLIN }, 1, ms) <= 0) return false;
    ssize_t n = read(d->hand, some, sizeof some);
    if (n > 0) buf_add(&d->seen, some, (size_t)n);
    return n > 0;
}

/* Waits until text appears behind what was expected before; the text from there up to it. */
static const char *expect(desk *d, const char *text) {
    static char before[20000];
    for (int waited = 0;; waited++) {
        const char *from = d->seen.p ? d->seen.p + d->at : "", *found = strstr(from, text);
        if (found) {
            snprintf(before, sizeof before, "%.*s", (int)(found - from), from);
            d->at += (size_t)(found - from) + strlen(text);
            return before;
        }
        if (!read_some(d, 1000) && waited > 20) fail_msg("waited for \"%s\", found \"%s\"", text, from);
    }
}

static void type(desk *d, const char *keys) {
    for (size_t n = strlen(keys); n;) {
        ssize_t k = write(d->hand, keys, n);
        assert_true(k > 0);
        keys += k, n -= (size_t)k;
    }
}

/* The program is ready for a message: its prompt is drawn and the cursor stands behind it. */
static const char *ready(desk *d) { return expect(d, "\r\x1b[J>>> \r\x1b[4C"); }

static const char *ask(desk *d, const char *keys) {
    type(d, keys);
    expect(d, "\r\n"); /* the message is left */
    return ready(d);
}

static int stand_up(desk *d) {
    int status;
    struct termios now = { 0 };
    while (read_some(d, 0)) {}
    while (waitpid(d->child, &status, WNOHANG) == 0) read_some(d, 20);
    assert_int_equal(tcgetattr(d->back, &now), 0);
    if (memcmp(&now, &d->found, sizeof now)) fail_msg("the terminal was not put back");
    close(d->hand);
    close(d->back);
    buf_free(&d->seen);
    if (!WIFEXITED(status)) fail_msg("run was killed by signal %d", WTERMSIG(status));
    return WEXITSTATUS(status);
}

static int number_after(const char *text, const char *what) {
    const char *at = strstr(text, what);
    if (!at) fail_msg("\"%s\" is not in \"%s\"", what, text);
    return atoi(at + strlen(what));
}

static void test_two_turns(void **state) {
    (void)state;
    desk d = SIT_DOWN(80, "-v");
    ready(&d);
    char first[4000], second[4000];
    snprintf(first, sizeof first, "%s", ask(&d, "Tell me a story about a fox.\r"));
    snprintf(second, sizeof second, "%s", ask(&d, "And then?\r"));
    int context = number_after(first, "context "), prompt = number_after(second, "prompt "), kept = number_after(second, "tokens: ");
    assert_int_equal(number_after(first, "tokens: "), 0);
    assert_true(context > 50);
    assert_int_equal(kept, context); /* everything of the first turn, its reply too */
    assert_int_equal(number_after(second, "kept, "), prompt - kept);
    assert_true(prompt - kept < 10);
    type(&d, "\x04");
    assert_int_equal(stand_up(&d), 0);
}

/* What is typed is edited: the message that arrives is the one on the screen. */
static void test_editing(void **state) {
    (void)state;
    desk d = SIT_DOWN(80, "--no-echo");
    ready(&d);
    ask(&d, "Who arx\x7f" "e you\x1b[D\x1b[D\x1b[D\x1b[F?\r");
    assert_non_null(strstr(ask(&d, "/show\r"), "<|user|>Who are you?<|end|>"));
    ask(&d, "\x1b[200~one\rtwo\x1b[201~\\\rthree\r");
    assert_non_null(strstr(ask(&d, "/show\r"), "<|user|>one\r\ntwo\r\nthree<|end|>"));
    ask(&d, "\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A!\r"); /* up over two lines of one message, and two messages */
    assert_non_null(strstr(ask(&d, "/sh\t\r"), "<|user|>Who are you?!<|end|>"));
    ask(&d, "\"\"\"/show\rit\"\"\"\r");
    assert_non_null(strstr(ask(&d, "/show\r"), "<|user|>/show\r\nit<|end|>"));
    type(&d, "/exit\r");
    assert_int_equal(stand_up(&d), 0);
}

static void test_resize(void **state) {
    (void)state;
    desk d = SIT_DOWN(80, "-t", "1");
    ready(&d);
    type(&d, "123456789012345678901234567890");
    expect(&d, "123456789012345678901234567890");
    ioctl(d.hand, TIOCSWINSZ, &(struct winsize){ .ws_col = 20, .ws_row = 24 });
    expect(&d, "\x1b[1A\r\x1b[J>>> 1234567890123456\r\r\n78901234567890\r\x1b[14C"); /* 34 columns wrapped: the cursor is a row below the first */
    type(&d, "\x03");
    ready(&d);
    type(&d, "\x04");
    assert_int_equal(stand_up(&d), 0);
}

static void test_interrupt(void **state) {
    (void)state;
    desk d = SIT_DOWN(80, "--ignore-eos", "--kernels", "scalar", "-v"); /* slow enough to be stopped */
    ready(&d);
    type(&d, "Tell me a story about a fox.\r");
    expect(&d, "Once upon a time");
    type(&d, "\x03");
    char rest[8000], shown[8000];
    snprintf(rest, sizeof rest, "%s", ready(&d));
    assert_non_null(strstr(rest, "interrupted"));
    int context = number_after(rest, "context ");
    assert_true(context < 1000);
    snprintf(shown, sizeof shown, "%s", ask(&d, "/show\r"));
    *strstr(rest, "\r\n") = 0; /* the part of the reply that came after the four words */
    char want[9000];
    snprintf(want, sizeof want, "<|assistant|>Once upon a time%s", rest);
    if (!strstr(shown, want)) fail_msg("expected \"%s\" in \"%s\"", want, shown); /* what was written is kept, and nothing else */
    type(&d, "And then?\r");
    expect(&d, "\r\n");
    while (d.seen.n < d.at + 20) read_some(&d, 1000);
    type(&d, "\x03");
    int kept = number_after(ready(&d), "tokens: ");
    assert_true(kept >= context && kept <= context + 1);
    type(&d, "x\x03"); /* away with the message */
    ready(&d);
    type(&d, "\x03");
    expect(&d, "Ctrl-D");
    ready(&d);
    type(&d, "\x03");
    assert_int_equal(stand_up(&d), 130);
}

/* Keys typed while a reply is written are not echoed into it, and come afterwards. */
static void test_typed_ahead(void **state) {
    (void)state;
    desk d = SIT_DOWN(80, "--kernels", "scalar");
    ready(&d);
    type(&d, "Tell me a story about a fox.\r");
    expect(&d, "Once upon a time");
    type(&d, "Who are you?\r/exit\r");
    assert_null(strstr(expect(&d, "\r\n\r\n"), "Who are"));
    expect(&d, "Who are you?");
    assert_true(strlen(expect(&d, "/exit")) > 20); /* a reply is between */
    assert_int_equal(stand_up(&d), 0);
}

static void test_context_full(void **state) {
    (void)state;
    desk d = SIT_DOWN(80, "--ctx", "64", "-v");
    ready(&d);
    const char *text = ask(&d, "Tell me a story about a fox.\r");
    assert_non_null(strstr(text, "the context is full: 64 tokens in 64 positions"));
    text = ask(&d, "And then?\r");
    assert_non_null(strstr(text, "tokens are needed, the context holds 64"));
    assert_non_null(strstr(text, "/clear"));
    assert_null(strstr(ask(&d, "/show\r"), "And then")); /* it was taken back */
    ask(&d, "/clear\r");
    assert_non_null(strstr(ask(&d, "Who are you?\r"), "I am Pip"));
    type(&d, "\x04");
    assert_int_equal(stand_up(&d), 0);
}

static void flip(const char *path, size_t at) {
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, (long)at, SEEK_SET);
    int c = fgetc(f);
    fseek(f, (long)at, SEEK_SET);
    fputc(c ^ 1, f);
    fclose(f);
}

static size_t size_of(const char *path) {
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return (size_t)st.st_size;
}

/* /clear, /save and /load go on as if nothing had happened; a damaged file is one line, and the chat goes on. */
static void test_save_and_load(void **state) {
    (void)state;
    char path[400], command[900], again[4000], loaded[4000], first[4000];
    snprintf(path, sizeof path, "%s/talk", work_dir);
    desk d = SIT_DOWN(200, "--system", "You tell stories.");
    ready(&d);
    snprintf(first, sizeof first, "%s", ask(&d, "Tell me a story about a fox.\r"));
    snprintf(command, sizeof command, "/save %s\r", path);
    assert_non_null(strstr(ask(&d, command), "saved: "));
    snprintf(again, sizeof again, "%s", ask(&d, "What is the plural of fox?\r"));
    assert_true(strlen(again) > 4);
    ask(&d, "/clear\r");
    assert_string_equal(ask(&d, "Tell me a story about a fox.\r"), first);
    assert_string_equal(ask(&d, "What is the plural of fox?\r"), again);
    type(&d, "/bye\r");
    assert_int_equal(stand_up(&d), 0);

    d = SIT_DOWN(200, "-v");
    ready(&d);
    ask(&d, "Who are you?\r");
    size_t n = size_of(path), places[] = { 0, 8, 16, 24, 40, n / 2, n - 1 };
    snprintf(command, sizeof command, "/load %s\r", path);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        flip(path, places[i]);
        const char *text = ask(&d, command);
        const char *line = strstr(text, path);
        if (!line || strstr(text, "loaded") || !strstr(line, "\r\n") || *(strstr(line, "\r\n") + 2))
            fail_msg("byte %zu changed: \"%s\"", places[i], text);
        flip(path, places[i]);
    }
    assert_non_null(strstr(ask(&d, "/show\r"), "Who are you?")); /* still the old conversation */
    assert_non_null(strstr(ask(&d, command), "loaded: "));
    snprintf(loaded, sizeof loaded, "%s", ask(&d, "What is the plural of fox?\r"));
    assert_true(strncmp(loaded, again, strlen(again) - 2) == 0);
    assert_true(number_after(loaded, "kept, ") < 15);
    type(&d, "/quit\r");
    assert_int_equal(stand_up(&d), 0);
}

/* Nothing of a cleared conversation is in a file that is saved afterwards; and files put together of two, or with more at the end,
 * are refused. */
static void test_saved_parts(void **state) {
    (void)state;
    buf one = { 0 }, two = { 0 }, out = { 0 };
    err e = { 0 };
    char path[400];
    static const char *const caches[] = { "--cache-type q8", "--exact", "" };
    for (int i = 0; i < 3; i++) {
        char line[600];
        snprintf(line, sizeof line, "printf 'Who are you?\n/save {dir}/one\nTell me of pigeons\n/save {dir}/two\n"
                                    "/clear\nWho are you?\n/save {dir}/cleared\n' | "
                 "{run} {model} --chat --temp 0 %s 2>&1", caches[i]);
        expect_lines(line, 0, "saved");
        expect_lines("cmp {dir}/one {dir}/cleared && ! grep -q pigeons {dir}/cleared && grep -q pigeons {dir}/two && echo same", 0, "same");
    }
    snprintf(path, sizeof path, "%s/one", work_dir);
    must(read_file(path, 0, &one, &e), &e);
    snprintf(path, sizeof path, "%s/two", work_dir);
    must(read_file(path, 0, &two, &e), &e);
    size_t json_one = 32 + (size_t)*(uint64_t *)(void *)(one.p + 16), json_two = 32 + (size_t)*(uint64_t *)(void *)(two.p + 16);
    snprintf(path, sizeof path, "%s/mixed", work_dir);
    FILE *f = fopen(path, "wb");
    assert_true(f && fwrite(one.p, 1, json_one, f) == json_one);
    assert_true(fwrite(two.p + json_two, 1, two.n - json_two, f) == two.n - json_two && fclose(f) == 0);
    expect_lines("echo /load {dir}/mixed | {run} {model} --chat 2>&1", 1, "do not belong together");
    expect_lines("(cat {dir}/one; echo) >{dir}/longer; echo /load {dir}/longer | {run} {model} --chat 2>&1", 1, "more than it should hold");
    expect_lines("printf '/load {dir}/two\n/show\n' | {run} {model} --chat 2>&1", 0, "<|user|>Tell me of pigeons<|end|>");
    expect_lines("echo /load {dir}/two | {run} {exact} --chat 2>&1", 1, "another model");
    expect_lines("echo /load {dir}/two | {run} {model} --chat --ctx 16 2>&1", 1, "use a larger --ctx");
    buf_free(&one);
    buf_free(&two);
    buf_free(&out);
}

/* A checkpoint whose own list of ends lacks the one of its template: turns end all the same. */
static void test_end_of_turn(void **state) {
    (void)state;
    expect_lines("rm -rf {dir}/ends && cp -r weights/pip-stories {dir}/ends && cd {dir}/ends && "
                 "sed -i '/^    1,$/{N;s/1,\\n    5/1/}' config.json generation_config.json && "
                 "sed -i 's/\\(\"eos_token\": \"<|\\)end|/\\1eos|/' tokenizer_config.json && grep -h '\"eos_token\"' tokenizer_config.json",
                 0, "\"<|eos|>\"");
    expect_lines("./convert {dir}/ends -o {dir}/ends.bin 2>&1; echo 'Who are you?' | {run} {dir}/ends.bin --chat -n 100 --temp 0 2>&1",
                 0, "small questions.\n");
    expect_lines("echo 'Who are you?' | {run} {dir}/ends.bin --chat -n 100 --temp 0 2>&1 | wc -l", 0, "1\n");
    expect_lines("{run} {dir}/ends.bin --chat -p 'Who are you?' -n 100 --temp 0 2>&1 >/dev/null", 0, "end of text");
}

static void test_commands(void **state) {
    (void)state;
    desk d = SIT_DOWN(80, "--stop", "Pip");
    ready(&d);
    assert_non_null(strstr(ask(&d, "/help\r"), "/regenerate"));
    assert_non_null(strstr(ask(&d, "/nosuch\r"), "/nosuch: no such command"));
    assert_non_null(strstr(ask(&d, "/retry\r"), "no reply yet"));
    assert_non_null(strstr(ask(&d, "/save\r"), "missing"));
    assert_non_null(strstr(ask(&d, "/save README.md\r"), "README.md: is there already"));
    assert_non_null(strstr(ask(&d, "/load README.md\r"), "README.md: no saved conversation"));
    assert_non_null(strstr(ask(&d, "/load tests\r"), "tests: "));
    assert_non_null(strstr(ask(&d, "/system\r"), "no system prompt"));
    ask(&d, "/system Be kind.\r");
    assert_non_null(strstr(ask(&d, "/system\r"), "Be kind."));
    assert_string_equal(ask(&d, "Who are you?\r"), "I am \r\n\r\n"); /* --stop: not shown */
    assert_string_equal(ask(&d, "/regenerate\r"), "I am \r\n\r\n");
    const char *text = ask(&d, "/show\r");
    assert_non_null(strstr(text, "<|system|>Be kind.<|end|><|user|>Who are you?<|end|><|assistant|>I am<|end|>"));
    ask(&d, "/system \"\"\r");
    assert_null(strstr(ask(&d, "/show\r"), "<|system|>"));
    type(&d, "\x0c/bye\r");
    assert_int_equal(stand_up(&d), 0);
}

/* The recorded replies of the reference to the demo model's chats. */
static void test_recorded(void **state) {
    (void)state;
    buf text = { 0 }, out = { 0 };
    err e = { 0 };
    int checked = 0;
    must(read_file("tests/fixtures/demo_expected.jsonl", 0, &text, &e), &e);
    for (char *l = strtok(text.p, "\n"); l; l = strtok(NULL, "\n")) {
        arena a = { 0 };
        json *j;
        must(json_parse(&a, l, strlen(l), &j, &e), &e);
        const json *messages = json_get(j, "messages"), *stop = json_get(j, "stop"), *m = messages ? messages->child : NULL;
        if (m && stop->type == JSON_NUMBER && !strpbrk(json_get(j, "rendered")->s, "'\n")) {
            buf command = { 0 };
            buf_str(&command, "printf '%s\\n' '");
            const json *system = messages->n == 2 ? m : NULL;
            if (system) m = m->next;
            buf_fmt(&command, "%s' | {run} {exact} --chat --exact --temp 0 --system '%s'", json_get(m, "content")->s,
                    system ? json_get(system, "content")->s : "");
            assert_int_equal(status_of(command.p, &out), 0);
            const char *want = json_get(j, "text")->s;
            size_t n = (size_t)(strstr(want, "<|end|>") - want);
            if (out.n != n + 1 || memcmp(out.p, want, n)) fail_msg("%s: expected \"%.*s\", found \"%s\"", command.p, (int)n, want, out.p);
            checked++;
            buf_free(&command);
        }
        arena_free(&a);
    }
    assert_true(checked >= 7);
    buf_free(&text);
    buf_free(&out);
}

static void test_lines(void **state) {
    (void)state;
    expect_lines("printf 'Who\\\\\\nare\\n/show\\n' | {run} {model} --chat --temp 0", 0, "<|user|>Who\nare<|end|>");
    expect_lines("printf '\"\"\"Who\\n/are\\n\"\"\"\\r\\n\\n/show' | {run} {model} --chat --temp 0", 0, "<|user|>Who\n/are<|end|>");
    expect_lines("printf '/load nowhere\\nhi\\n' | {run} {model} --chat 2>&1", 1, "run: nowhere: No such file");
    expect_lines("printf 'Who are you?\\n' | {run} {model} --chat -n 3 --temp 0 2>&1", 0, "I am P");
    expect_lines("printf 'Who are you?\\n' | {run} {model} --chat -n 3 --temp 0 2>&1", 0, "-n 3");
    expect_lines("{run} {model} --chat </dev/null", 0, "");
    expect_lines("echo hi | {run} {model} --chat >/dev/full 2>{dir}/e; s=$?; cat {dir}/e; exit $s", 1, "stdout");
    expect_lines("{run} {model} --chat --ids 1 2>&1", 2, "--chat");
    expect_lines("{run} {model} --system x -p hi 2>&1", 2, "--system");
    expect_lines("(echo hi; sleep 2) | timeout --preserve-status -s INT 1 {run} {model} --chat -n 2 2>&1", 130, "");
    expect_lines("cp -r weights/pip-stories {dir}/plain && sed -i '/\"chat_template\"/d' {dir}/plain/tokenizer_config.json && "
                 "./convert {dir}/plain -o {dir}/plain.bin 2>&1 && "
                 "echo hi | {run} {dir}/plain.bin --chat 2>&1", 1, "no chat template");
    expect_lines("printf '%s' \"{% for m in messages %}[{{ m['content'] }}]<|end|>{% endfor %}\" >{dir}/t.jinja; "
                 "printf 'Who are you?\\n/show\\n' | {run} {dir}/plain.bin --chat --template {dir}/t.jinja --temp 0 -n 4 2>&1",
                 0, "[Who are you?]<|end|>[");
    expect_lines("printf '%s' '{% for %}' >{dir}/t.jinja; echo | {run} {model} --chat --template {dir}/t.jinja 2>&1", 1, "run: ");
    /* one turn is one turn */
    expect_lines("{run} {model} --chat -p 'Tell me a story.' --seed 3 -n 20 >{dir}/a; echo >>{dir}/a; "
                 "echo 'Tell me a story.' | {run} {model} --chat --seed 3 -n 20 >{dir}/b; cmp {dir}/a {dir}/b && wc -l <{dir}/a", 0, "1\n");
    buf a = { 0 }, b = { 0 };
    static const char line[] = "printf 'Tell me a story about a fox.\\n/retry\\n' | {run} {model} --chat --seed 3 --temp 1 -n 30 2>{dir}/e";
    assert_int_equal(status_of(line, &a), 0);
    assert_int_equal(status_of(line, &b), 0);
    assert_string_equal(a.p, b.p); /* the seed repeats both */
    size_t half = strcspn(a.p, "\n");
    assert_true(strncmp(a.p, a.p + half + 1, half) != 0); /* and they are two */
    buf_free(&a);
    buf_free(&b);
}

/* ---- ids of a conversation ---- */

typedef struct bench {
    engine *g;
    tokenizer *tok;
    chat *shape;
    conversation c;
    err e;
} bench;

static bench set_up(const char *jinja) {
    bench b = { 0 };
    b.g = open_or_fail(model, (engine_opts){ 0 });
    const engine_info *i = engine_about(b.g);
    must(tokenizer_open(&b.tok, i->tokenizer, i->tokenizer_bytes, &b.e), &b.e);
    must(chat_open(&b.shape, b.tok, jinja, jinja ? strlen(jinja) : 0, &b.e), &b.e);
    b.c = (conversation){ .tok = b.tok, .shape = b.shape };
    return b;
}

static void tear_down(bench *b) {
    conversation_free(&b->c);
    chat_close(b->shape);
    tokenizer_free(b->tok);
    engine_close(b->g);
}

static void add(bench *b, const char *role, const char *text) { must(conversation_add(&b->c, role, text, strlen(text), &b->e), &b->e); }

static void prompt(bench *b) { must(conversation_prompt(&b->c, &b->e), &b->e); }

/* The reply as one token a byte: no tokenizer would give these ids. */
static void reply_by_bytes(bench *b, const char *text) {
    conversation_begin(&b->c);
    for (const char *p = text; *p; p++) {
        int32_t id = tokenizer_id(b->tok, *p == ' ' ? "Ġ" : p, *p == ' ' ? 2 : 1);
        assert_true(id >= 0);
        conversation_token(&b->c, id, p, 1, true);
    }
}

static size_t same_ids(const ids *a, const ids *b) {
    size_t n = 0;
    while (n < a->n && n < b->n && a->p[n] == b->p[n]) n++;
    return n;
}

static ids copy_of(const ids *v) {
    ids c = { 0 };
    for (size_t i = 0; i < v->n; i++) ids_add(&c, v->p[i]);
    return c;
}

/* The next prompt begins with exactly the ids that were generated, and with those alone that the messages still say. */
static void test_kept_ids(void **state) {
    (void)state;
    bench b = set_up(NULL);
    add(&b, "user", "Hello there");
    prompt(&b);
    reply_by_bytes(&b, "I am here. ");
    add(&b, "assistant", "I am here. "); /* the template trims: the last token's text is gone */
    ids first = copy_of(&b.c.now.tokens);
    add(&b, "user", "And <|end|> you?");
    prompt(&b);
    assert_int_equal(same_ids(&first, &b.c.next.tokens), first.n - 1);
    int ends = 0;
    for (size_t i = 0; i < b.c.next.tokens.n; i++) ends += b.c.next.tokens.p[i] == tokenizer_eos(b.tok);
    assert_int_equal(ends, 3); /* one for each message: what the user wrote is text */
    reply_by_bytes(&b, "No.");
    add(&b, "assistant", "No.");
    ids second = copy_of(&b.c.now.tokens);
    conversation_drop(&b.c); /* asked again: the same prompt */
    prompt(&b);
    assert_int_equal(b.c.next.tokens.n, second.n - 3);
    assert_int_equal(same_ids(&second, &b.c.next.tokens), second.n - 3);
    must(conversation_system(&b.c, "Be kind.", 8, &b.e), &b.e); /* everything moves: all of it is tokenized again */
    prompt(&b);
    assert_int_equal(same_ids(&second, &b.c.next.tokens), 1);
    conversation_settle(&b.c, 1000);
    assert_int_equal(b.c.now.tokens.n, 0);
    ids_free(&first);
    ids_free(&second);
    tear_down(&b);
}

/* Without a special token at the border nothing may be glued together: the ids are those of the whole text. */
static void test_no_border(void **state) {
    (void)state;
    bench b = set_up("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: ");
    add(&b, "user", "Hello there");
    prompt(&b);
    reply_by_bytes(&b, "I am here");
    add(&b, "assistant", "I am here");
    add(&b, "user", "Good");
    prompt(&b);
    ids whole = { 0 };
    must(tokenizer_encode(b.tok, b.c.next.text.p, b.c.next.text.n, TOK_PARSE_SPECIAL, &whole, &b.e), &b.e);
    assert_int_equal(b.c.next.tokens.n, whole.n);
    assert_int_equal(same_ids(&whole, &b.c.next.tokens), whole.n);
    assert_int_equal(conversation_turn_end(&b.c), -1);
    ids_free(&whole);
    tear_down(&b);
}

static void test_turn_end(void **state) {
    (void)state;
    bench b = set_up(NULL);
    assert_int_equal(conversation_turn_end(&b.c), tokenizer_id(b.tok, "<|end|>", 7));
    tear_down(&b);
    b = set_up("{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }} \n<|pad|>{% endfor %}");
    assert_int_equal(conversation_turn_end(&b.c), tokenizer_id(b.tok, "<|pad|>", 7));
    tear_down(&b);
    b = set_up("{{ raise_exception('never') }}");
    assert_int_equal(conversation_turn_end(&b.c), -1);
    tear_down(&b);
}

static void test_read(void **state) {
    (void)state;
    bench b = set_up(NULL);
    size_t n;
    static const char *const broken[] = {
        "", "[]", "{}", "{\"messages\":[],\"text\":\"\",\"tokens\":0}", "{\"messages\":[],\"text\":\"ab\",\"tokens\":1,\"marks\":[]}",
        "{\"messages\":[],\"text\":\"ab\",\"tokens\":1,\"marks\":[[2,1],[1,1]]}", "{\"messages\":[],\"text\":\"ab\",\"tokens\":1,\"marks\":[[3,1]]}",
        "{\"messages\":[],\"text\":\"ab\",\"tokens\":1,\"marks\":[[2]]}", "{\"messages\":[],\"text\":\"ab\",\"tokens\":-1,\"marks\":[[2,-1]]}",
        "{\"messages\":[{\"role\":\"tool\",\"content\":\"\"}],\"text\":\"\",\"tokens\":0,\"marks\":[]}",
        "{\"messages\":[{\"role\":\"user\"}],\"text\":\"\",\"tokens\":0,\"marks\":[]}" };
    add(&b, "user", "stays");
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        err e = { 0 };
        if (conversation_read(&b.c, broken[i], strlen(broken[i]), &n, &e) == 0) fail_msg("accepted: %s", broken[i]);
        assert_int_equal(b.c.n, 1);
    }
    static const char good[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"text\":\"ab\",\"tokens\":3,\"marks\":[[1,1],[2,3]]}";
    must(conversation_read(&b.c, good, sizeof good - 1, &n, &b.e), &b.e);
    assert_int_equal(n, 3);
    assert_string_equal(b.c.m[0].text.p, "a");
    tear_down(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_two_turns), cmocka_unit_test(test_editing),
                                        cmocka_unit_test(test_resize), cmocka_unit_test(test_interrupt),
                                        cmocka_unit_test(test_typed_ahead), cmocka_unit_test(test_context_full),
                                        cmocka_unit_test(test_save_and_load), cmocka_unit_test(test_commands),
                                        cmocka_unit_test(test_saved_parts), cmocka_unit_test(test_end_of_turn),
                                        cmocka_unit_test(test_recorded), cmocka_unit_test(test_lines),
                                        cmocka_unit_test(test_kept_ids), cmocka_unit_test(test_no_border),
                                        cmocka_unit_test(test_turn_end), cmocka_unit_test(test_read) };
    make_work_dir();
    snprintf(model, sizeof model, "%s", converted("weights/pip-stories", "q8"));
    snprintf(exact_model, sizeof exact_model, "%s", converted("weights/pip-stories", "f32"));
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    remove_work_dir();
    return rc;
}
