/* ./serve itself, with the demo model: whole replies, streams and ./run say the same; many at once change nothing; clients that go; the end. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include "tests/models.h"
#include "tests/http_client.h"
#include "tests/unrelated_model.h"

static struct { pid_t pid; int port; char log[300]; const char *model; } server;

static int start_server(const char *more) {
    static int count;
    char command[12000], *line = NULL;
    buf text = { 0 };
    err e = { 0 };
    snprintf(server.log, sizeof server.log, "%s/serve-%d.log", work_dir, count++);
    snprintf(command, sizeof command, "exec '%s/serve' '%s' --port 0 --slots 4 %s 2>'%s'", bin_dir(), server.model, more, server.log);
    server.pid = fork();
    if (server.pid == 0) {
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 600 && !line; i++) {
        usleep(50000);
        buf_free(&text);
        if (read_file(server.log, 0, &text, &e) == 0 && text.n) line = strstr(text.p, "listening on http://127.0.0.1:");
    }
    if (!line) fail_msg("the server did not start: %s", text.n ? text.p : "");
    server.port = atoi(line + strlen("listening on http://127.0.0.1:"));
    buf_free(&text);
    return 0;
}

/* Its exit status. */
static int end_server(int sig) {
    int status = 0;
    if (!server.pid) return 0;
    if (sig) kill(server.pid, sig);
    waitpid(server.pid, &status, 0);
    server.pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/* The demo model as if its checkpoint had another family's template. */
static const char *const templates[] = { "qwen3", "qwen2.5", "llama3.1", "mistral-nemo", "xml", "deepseek", "deepseek-3.1",
                                         "function-gemma", "gemma4", "gemma-python", "mistral-named", "phi", "pythonic", "json" };
enum { PUBLISHED = 4 }; /* the others are shapes of our own */

static const char *with_template(const char *name) {
    static char path[900];
    char command[4000];
    snprintf(path, sizeof path, "%s/%s.bin", work_dir, name);
    snprintf(command, sizeof command,
             "mkdir -p '%s/%s' && cp weights/pip-stories/*.json weights/pip-stories/model.safetensors '%s/%s/' && "
             "sed -i 's/\"chat_template\"/\"no_template\"/' '%s/%s/tokenizer_config.json' && "
             "cp tests/fixtures/*_templates/%s.jinja '%s/%s/chat_template.jinja' && '%s/convert' '%s/%s' -o '%s' --force >/dev/null 2>&1",
             work_dir, name, work_dir, name, work_dir, name, name, work_dir, name, bin_dir(), work_dir, name, path);
    if (system(command)) fail_msg("%s", command);
    return path;
}

static int set_up(void **state) {
    (void)state;
    make_work_dir();
    static char path[800];
    snprintf(path, sizeof path, "%s", converted("weights/pip-stories", "q8"));
    server.model = path;
    static char more[(sizeof templates / sizeof *templates) * 600];
    for (size_t i = 0; i < sizeof templates / sizeof *templates; i++)
        snprintf(more + strlen(more), sizeof more - strlen(more), " '%s'", with_template(templates[i]));
    return start_server(more);
}

static int tear_down(void **state) {
    (void)state;
    int rc = end_server(SIGTERM);
    remove_work_dir();
    return rc;
}

static http_answer post(const char *path, const char *body, int status) {
    http_answer a;
    if (http_ask(server.port, "POST", path, body, &a)) fail_msg("no reply to %s", path);
    if (a.status != status) fail_msg("%s: expected %d, found %d: %s", path, status, a.status, a.body.p);
    return a;
}

static void get_into(const char *path, buf *out) {
    http_answer a;
    if (http_ask(server.port, "GET", path, "", &a)) fail_msg("no reply to %s", path);
    buf_add(out, a.body.p, a.body.n + 1);
    http_answer_free(&a);
}

/* The text of one key in every JSON object of a reply: an object, events or lines. */
static void texts_of(const char *p, const char *outer, const char *inner, buf *out) {
    while (*p) {
        const char *end = strchr(p, '\n');
        size_t n = end ? (size_t)(end - p) : strlen(p);
        const char *from = strncmp(p, "data: ", 6) ? p : p + 6;
        arena a = { 0 };
        json *j;
        if (*from == '{' && json_parse(&a, from, n - (size_t)(from - p), &j, NULL) == 0) {
            const json *o = json_get(j, outer);
            if (o && o->type == JSON_ARRAY) o = o->child;
            if (o && inner) {
                const json *delta = json_get(o, "delta"), *message = json_get(o, "message");
                o = json_get(delta ? delta : message ? message : o, inner);
            }
            if (o && o->type == JSON_STRING) buf_add(out, o->s, o->n);
        }
        arena_free(&a);
        p += n + (end != NULL);
    }
    buf_byte(out, 0);
}

static void run_text(const char *options, buf *out) {
    char command[1400], piece[512];
    snprintf(command, sizeof command, "'%s/run' '%s' %s 2>/dev/null", bin_dir(), server.model, options);
    FILE *f = popen(command, "r");
    if (!f) fail_msg("run did not start");
    for (size_t n; (n = fread(piece, 1, sizeof piece, f)) > 0;) buf_add(out, piece, n);
    assert_int_equal(pclose(f), 0);
    buf_byte(out, 0);
}

static void test_the_same_everywhere(void **state) {
    (void)state;
    static const struct { const char *path, *body, *outer, *inner, *run; } rows[] = {
        { "/completion", "{\"prompt\":\"Once upon a time\",\"n_predict\":40,\"seed\":5,\"min_p\":0", "content", NULL,
          "-p 'Once upon a time' --no-echo -n 40 --seed 5" },
        { "/v1/completions", "{\"prompt\":\"Once upon a time\",\"max_tokens\":40,\"seed\":5,\"top_k\":40", "choices",
          "text", "-p 'Once upon a time' --no-echo -n 40 --seed 5" },
        { "/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"A story of a cat\"}],\"max_tokens\":40,\"seed\":7,\"top_k\":40",
          "choices", "content",
          "--chat -p 'A story of a cat' -n 40 --seed 7" },
        { "/api/chat", "{\"model\":\"pip-stories-q8\",\"messages\":[{\"role\":\"user\",\"content\":\"A story of a cat\"}],"
                       "\"options\":{\"num_predict\":40,\"seed\":7}", "message", "content",
          "--chat -p 'A story of a cat' -n 40 --seed 7" },
        { "/api/generate", "{\"model\":\"pip-stories-q8\",\"prompt\":\"A story of a cat\",\"options\":{\"num_predict\":40,\"temperature\":0}",
          "response", NULL,
          "--chat -p 'A story of a cat' -n 40 --temp 0" },
        { "/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"A story of a cat\"}],\"temperature\":0,\"stop\":[\" cat\"]",
          "choices", "content",
          "--chat -p 'A story of a cat' -n 300 --temp 0 --stop ' cat'" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        buf want = { 0 };
        run_text(rows[i].run, &want);
        if (want.n < 10) fail_msg("run %s gave nothing", rows[i].run);
        for (int stream = 0; stream < 2; stream++) {
            char body[500];
            buf got = { 0 };
            snprintf(body, sizeof body, "%s,\"stream\":%s}", rows[i].body, stream ? "true" : "false");
            http_answer a = post(rows[i].path, body, 200);
            texts_of(a.body.p, rows[i].outer, rows[i].inner, &got);
            if (strcmp(got.p, want.p)) fail_msg("%s, stream %d:\n%s\nrun:\n%s\nin %s", rows[i].path, stream, got.p, want.p, a.body.p);
            buf_free(&got);
            http_answer_free(&a);
        }
        buf_free(&want);
    }
}

/* ---- many at once ---- */

static const char crowd_body[] = "{\"prompt\":\"The %s\",\"max_tokens\":30,\"seed\":%d,\"logprobs\":3,\"temperature\":0.9}";

typedef struct caller {
    pthread_t thread;
    int which;
    http_answer a;
    int rc;
} caller;

static void crowd_ask(caller *c) {
    static const char *const words[] = { "cat", "dog", "old man", "sea" };
    char body[200];
    snprintf(body, sizeof body, crowd_body, words[c->which % 4], c->which % 7);
    c->rc = http_ask(server.port, "POST", "/v1/completions", body, &c->a);
}

static void *crowd_thread(void *arg) { return crowd_ask(arg), NULL; }

/* From "choices" to what depends on time. */
static char *choices_of(http_answer *a) {
    char *from = a->body.p ? strstr(a->body.p, "\"choices\"") : NULL, *to = from ? strstr(from, ",\"usage\"") : NULL;
    if (!to) fail_msg("no choices in %s", a->body.p ? a->body.p : "nothing");
    *to = 0;
    return from;
}

/* A long text, embedded while others get their tokens: the numbers of ./run. */
static void embed_in_the_crowd(void) {
    enum { TIMES = 60 };
    char text[TIMES * 20] = "", body[sizeof text + 100], options[sizeof text + 100];
    buf want = { 0 };
    for (int i = 0; i < TIMES; i++) snprintf(text + strlen(text), sizeof text - strlen(text), "A cat and dog %d. ", i);
    snprintf(options, sizeof options, "--embed --pooling mean -p '%s'", text);
    run_text(options, &want);
    want.p[strcspn(want.p, "\n")] = 0;
    snprintf(body, sizeof body, "{\"input\":\"%s\",\"pooling\":\"mean\"}", text);
    http_answer a = post("/v1/embeddings", body, 200);
    if (strlen(want.p) < 1000 || !strstr(a.body.p, want.p)) fail_msg("another embedding than that of run: %.200s, %.200s", a.body.p, want.p);
    http_answer_free(&a);
    buf_free(&want);
}

static void test_a_crowd_changes_nothing(void **state) {
    (void)state;
    enum { N = 20 };
    caller c[N];
    for (int i = 0; i < N; i++) {
        c[i] = (caller){ .which = i };
        assert_int_equal(pthread_create(&c[i].thread, NULL, crowd_thread, &c[i]), 0);
    }
    embed_in_the_crowd();
    for (int i = 0; i < N; i++) pthread_join(c[i].thread, NULL);
    for (int i = 0; i < N; i++) {
        caller alone = { .which = i };
        crowd_ask(&alone);
        assert_int_equal(c[i].rc | alone.rc, 0);
        assert_string_equal(choices_of(&c[i].a), choices_of(&alone.a));
        http_answer_free(&c[i].a);
        http_answer_free(&alone.a);
    }
}

/* ---- structure: a model that knows nothing of it keeps to it ---- */

static void test_all_is_allowed(void **state) {
    (void)state;
    static const char body[] = "{\"model\":\"pip-stories-q8\",\"prompt\":\"Once upon a time\",\"n_predict\":120,\"temperature\":0%s}";
    char text[300];
    buf free_text = { 0 }, kept = { 0 };
    for (int i = 0; i < 2; i++) {
        snprintf(text, sizeof text, body, i ? ",\"grammar\":\"root ::= [^\\\\x00]*\"" : "");
        http_answer a = post("/completion", text, 200);
        texts_of(a.body.p, "content", NULL, i ? &kept : &free_text);
        http_answer_free(&a);
    }
    assert_string_equal(kept.p, free_text.p);
    assert_true(kept.n > 200);
    buf_free(&free_text);
    buf_free(&kept);
}

/* An object {"city": a short text, "days": 1 to 9 or missing}, and nothing else. */
static void check_arguments(const char *text, size_t n) {
    arena a = { 0 };
    json *j;
    int64_t days = 1;
    err e = { 0 };
    if (json_parse(&a, text, n, &j, &e)) fail_msg("%s: %.*s", e.msg, (int)n, text);
    const json *city = json_get(j, "city"), *d = json_get(j, "days");
    if (!city || city->type != JSON_STRING || j->n != 1u + (d != NULL) || (d && (json_int(d, &days) || days < 1 || days > 9)))
        fail_msg("%.*s", (int)n, text);
    arena_free(&a);
}

/* name(arguments) of every call of a reply, whole or streamed; what of it is whole is checked. */
static void calls_of(const char *p, bool whole_only, buf *out, buf *reason) {
    buf args = { 0 };
    while (*p) {
        const char *end = strchr(p, '\n'), *from = strncmp(p, "data: ", 6) ? p : p + 6;
        size_t n = end ? (size_t)(end - p) : strlen(p);
        arena a = { 0 };
        json *j;
        if (*from == '{' && json_parse(&a, from, n - (size_t)(from - p), &j, NULL) == 0) {
            const json *c = json_get(j, "choices") ? json_get(j, "choices")->child : NULL, *m = json_get(c, "message"),
                       *list = json_get(m ? m : json_get(c, "delta"), "tool_calls");
            const json *why = json_get(c, "finish_reason");
            if (why && why->type == JSON_STRING) buf_str(reason, why->s);
            for (const json *k = list ? list->child : NULL; k; k = k->next) {
                const json *f = json_get(k, "function"), *name = json_get(f, "name"), *v = json_get(f, "arguments");
                if (name && args.n) check_arguments(args.p, args.n);
                if (name) buf_fmt(out, " %s", name->s), args.n = 0;
                if (v) buf_add(out, v->s, v->n), buf_add(&args, v->s, v->n);
            }
        }
        arena_free(&a);
        p += n + (end != NULL);
    }
    if (args.n && whole_only) check_arguments(args.p, args.n);
    buf_byte(out, 0);
    buf_byte(reason, 0);
    buf_free(&args);
}

static void test_calls_always_validate(void **state) {
    (void)state;
    static const char body[] = "{\"model\":\"%s\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"max_tokens\":%d,"
                               "\"seed\":%d,\"temperature\":1.5,\"top_k\":0,\"stream\":%s,\"tool_choice\":\"required\",\"parallel_tool_calls\":%s,"
                               "\"chat_template_kwargs\":{\"enable_thinking\":false},\"tools\":[{\"type\":\"function\","
                               "\"function\":{\"name\":\"weather\",\"parameters\":{\"type\":\"object\",\"properties\":"
                               "{\"city\":{\"type\":\"string\",\"maxLength\":12},\"days\":{\"type\":\"integer\","
                               "\"minimum\":1,\"maximum\":9}},\"required\":[\"city\"],\"additionalProperties\":false}}}]}";
    int ended = 0;
    for (size_t i = 0; i < sizeof templates / sizeof *templates; i++)
        for (int seed = 0; seed < (i < PUBLISHED ? 12 : 3); seed++) {
            buf said[2] = { { 0 } }, why[2] = { { 0 } };
            for (int stream = 0; stream < 2; stream++) {
                char text[1200];
                snprintf(text, sizeof text, body, templates[i], seed % 3 ? 200 : 40, seed, stream ? "true" : "false", seed % 2 ? "true" : "false");
                http_answer a = post("/v1/chat/completions", text, 200);
                calls_of(a.body.p, strstr(a.body.p, "\"finish_reason\":\"tool_calls\"") != NULL, &said[stream], &why[stream]);
                if (strcmp(why[stream].p, "tool_calls") && strcmp(why[stream].p, "length")) fail_msg("%s", a.body.p);
                if (strcmp(why[stream].p, "tool_calls") == 0 && said[stream].n < 10) fail_msg("no call in %s", a.body.p);
                http_answer_free(&a);
            }
            ended += strcmp(why[0].p, "tool_calls") == 0;
            if (strcmp(said[0].p, said[1].p) || strcmp(why[0].p, why[1].p))
                fail_msg("%s, seed %d:\n%s %s\n%s %s", templates[i], seed, said[0].p, why[0].p, said[1].p, why[1].p);
            for (int k = 0; k < 2; k++) buf_free(&said[k]), buf_free(&why[k]);
        }
    if (ended < 30) fail_msg("only %d answers ended", ended);
}

/* Its history with calls and results goes through the template; without a required call the model writes what it likes. */
static void test_history_with_calls(void **state) {
    (void)state;
    static const char body[] = "{\"model\":\"%s\",\"max_tokens\":5,\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\","
                               "\"content\":\"\",\"tool_calls\":[{\"id\":\"abcdefghi\",\"type\":\"function\","
                               "\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\":1}\"}}]},{\"role\":\"tool\","
                               "\"tool_call_id\":\"abcdefghi\",\"content\":\"2\"}],"
                               "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\"}}}]}";
    for (size_t i = 0; i < sizeof templates / sizeof *templates; i++) {
        char text[900];
        snprintf(text, sizeof text, body, templates[i]);
        http_answer a = post("/v1/chat/completions", text, 200);
        if (!strstr(a.body.p, "\"content\":\"") || strstr(a.body.p, "warnings")) fail_msg("%s: %s", templates[i], a.body.p);
        http_answer_free(&a);
    }
}

/* ---- errors, and clients that go ---- */

static void test_errors(void **state) {
    (void)state;
    buf long_body = { 0 };
    buf_str(&long_body, "{\"model\":\"pip-stories-q8\",\"prompt\":\"");
    for (int i = 0; i < 3000; i++) buf_str(&long_body, "story ");
    buf_str(&long_body, "\"}");
    buf_byte(&long_body, 0);
    static const char *const paths[] = { "/v1/completions", "/api/generate", "/completion" };
    for (int i = 0; i < 3; i++) {
        http_answer a = post(paths[i], long_body.p, 400);
        if (!strstr(a.body.p, "\"n_ctx\":1024")) fail_msg("%s", a.body.p);
        http_answer_free(&a);
    }
    buf_free(&long_body);
    http_answer a = post("/v1/chat/completions", "{\"model\":\"other\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}", 404);
    http_answer_free(&a);
    a = post("/v1/completions", "{\"prompt\":\"a\",\"ignore_eos\":true,\"max_tokens\":1000,\"timeout_ms\":40,\"n\":4}", 200);
    if (!strstr(a.body.p, "\"ended\":\"deadline\"")) fail_msg("%s", a.body.p);
    http_answer_free(&a);
}

static long metric(const char *name) {
    buf text = { 0 };
    get_into("/metrics", &text);
    const char *at = strstr(text.p, name);
    long v = at ? atol(at + strlen(name)) : -1;
    buf_free(&text);
    return v;
}

static void wait_metric(const char *name, long v) {
    double until = now_seconds() + 120;
    while (metric(name) != v)
        if (now_seconds() > until) fail_msg("%s is %ld, expected %ld", name, metric(name), v);
        else usleep(10000);
}

static void test_a_client_that_goes(void **state) {
    (void)state;
    static const char name[] = "quern_jobs_total{code=\"cancelled\"}";
    long before = metric(name);
    for (int i = 0; i < 6; i++) { /* more than there are slots: some are queued when they go */
        int fd = http_dial(server.port);
        http_send(fd, "POST", "/v1/completions", "{\"prompt\":\"a\",\"ignore_eos\":true,\"max_tokens\":1000,\"n\":4,\"stream\":true}");
        if (i % 2) usleep(5000);
        close(fd);
    }
    wait_metric(name, before + 6);
    wait_metric("\nllamacpp:requests_processing", 0);
    http_answer a = post("/v1/completions", "{\"prompt\":\"a\"}", 200);
    http_answer_free(&a);
}

/* 200 long prompts, left while they are worked on: most of them are never begun, and who asked beside them gets what he would alone. */
static void test_gone_inside_a_prompt(void **state) {
    (void)state;
    static const char cancelled[] = "quern_jobs_total{code=\"cancelled\"}", processing[] = "\nllamacpp:requests_processing",
                      tokens[] = "\nllamacpp:prompt_tokens_total";
    enum { PROMPTS = 200, LENGTH = 900 };
    buf body = { 0 };
    buf_str(&body, "{\"max_tokens\":1,\"prompt\":[");
    for (int p = 0; p < PROMPTS; p++)
        for (int i = 0; i < LENGTH; i++) buf_fmt(&body, "%s%d%s", i ? "," : p ? ",[" : "[", 10 + (p * 37 + i * 11) % 400, i == LENGTH - 1 ? "]" : "");
    buf_str(&body, "]}");
    buf_byte(&body, 0);
    caller alone = { .which = 3 }, beside = { .which = 3 };
    crowd_ask(&alone);
    long jobs = metric(cancelled), before = metric(tokens);
    int fd = http_dial(server.port);
    http_send(fd, "POST", "/v1/completions", body.p);
    wait_metric(processing, 1);
    assert_int_equal(pthread_create(&beside.thread, NULL, crowd_thread, &beside), 0);
    for (double until = now_seconds() + 20; metric(tokens) < before + LENGTH && now_seconds() < until;) usleep(1000); /* inside */
    close(fd);
    wait_metric(cancelled, jobs + 1);
    pthread_join(beside.thread, NULL);
    wait_metric(processing, 0);
    long done = metric(tokens) - before;
    if (done >= PROMPTS * LENGTH) fail_msg("all %ld tokens were worked on", done);
    assert_int_equal(alone.rc | beside.rc, 0);
    assert_string_equal(choices_of(&alone.a), choices_of(&beside.a));
    http_answer_free(&alone.a);
    http_answer_free(&beside.a);
    buf_free(&body);
}

/* ---- the end ---- */

static void test_a_busy_port(void **state) {
    (void)state;
    char command[1400], text[600] = "";
    snprintf(command, sizeof command, "'%s/serve' '%s' --port %d 2>&1", bin_dir(), server.model, server.port);
    FILE *f = popen(command, "r");
    size_t n = fread(text, 1, sizeof text - 1, f);
    text[n] = 0;
    int rc = pclose(f);
    char port[16];
    snprintf(port, sizeof port, "%d", server.port);
    if (!WIFEXITED(rc) || WEXITSTATUS(rc) != 1 || !strstr(text, port)) fail_msg("%d: %s", rc, text);
}

static void test_drain(void **state) {
    (void)state;
    static const char long_one[] = "{\"prompt\":\"a\",\"ignore_eos\":true,\"max_tokens\":900,\"n\":4,\"stream\":true,\"seed\":1}";
    http_answer a, late, health;
    int fd = http_dial(server.port);
    http_send(fd, "POST", "/v1/completions", long_one);
    for (double until = now_seconds() + 20; metric("\nllamacpp:requests_processing") != 1 && now_seconds() < until;) usleep(1000);
    kill(server.pid, SIGTERM);
    usleep(100000);
    assert_int_equal(http_ask(server.port, "GET", "/health", "", &health), 0);
    assert_int_equal(health.status, 503);
    assert_int_equal(http_ask(server.port, "POST", "/v1/completions", long_one, &late), 0);
    assert_int_equal(late.status, 503);
    if (!strstr(late.body.p, "shutting_down")) fail_msg("%s", late.body.p);
    assert_int_equal(http_hear(fd, &a), 0);
    close(fd);
    if (a.status != 200 || !strstr(a.body.p, "data: [DONE]") || strstr(a.body.p, "shutting_down")) fail_msg("%s", a.body.p);
    http_answer_free(&a);
    http_answer_free(&late);
    http_answer_free(&health);
    assert_int_equal(end_server(0), 0);
    /* No time to end: what is cut says so. */
    start_server("--drain 0 --log json");
    fd = http_dial(server.port);
    http_send(fd, "POST", "/v1/completions", long_one);
    for (double until = now_seconds() + 20; metric("\nllamacpp:requests_processing") != 1 && now_seconds() < until;) usleep(1000);
    kill(server.pid, SIGTERM);
    assert_int_equal(http_hear(fd, &a), 0);
    close(fd);
    if (!strstr(a.body.p, "\"shutting_down\"")) fail_msg("%d %s", a.status, a.body.p);
    http_answer_free(&a);
    assert_int_equal(end_server(0), 0);
    start_server(""); /* the terminal was closed: as SIGTERM */
    assert_int_equal(end_server(SIGHUP), 0);
}

static void test_usage(void **state) {
    (void)state;
    static const char *const wrong[] = { "--drain -1", "--max-connections -1", "--sse-ping-interval -1", "--max-delay -1",
                                         "--cache-type q3", "--slots 0" };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char command[1400];
        snprintf(command, sizeof command, "timeout 20 '%s/serve' '%s' --port 0 %s 2>/dev/null", bin_dir(), server.model, wrong[i]);
        int rc = system(command);
        if (!WIFEXITED(rc) || WEXITSTATUS(rc) != 2) fail_msg("%s: %d", wrong[i], rc);
    }
}

/* ---- drafts ---- */

enum { DRAFTED = 8 };

static const char *drafted_body(int k) {
    static const char *const more[] = { "\"temperature\":0", "\"temperature\":0.9,\"logprobs\":2",
                                        "\"temperature\":0,\"stop\":[\" the\"]", "\"n\":2,\"temperature\":1",
                                        "\"grammar\":\"root ::= [a-z ]{40} \\\".\\\"\",\"temperature\":0.7",
                                        "\"min_length\":40,\"temperature\":0", "\"lookup\":true,\"temperature\":0",
                                        "\"speculative.n_max\":2,\"temperature\":0,\"repeat_penalty\":1.1" };
    static char body[DRAFTED][400];
    snprintf(body[k], sizeof body[k], "{\"prompt\":\"Once upon a time there was a\",\"max_tokens\":80,\"seed\":%d,%s}", k, more[k]);
    return body[k];
}

static void *drafted_thread(void *arg) {
    caller *c = arg;
    c->rc = http_ask(server.port, "POST", "/v1/completions", drafted_body(c->which), &c->a);
    return NULL;
}

/* All kinds of requests together, twice; their choices, one a line. */
static void drafted_answers(const char *options, buf *out) {
    start_server(options);
    if (*options) { /* nothing is known of the draft yet: the first request tries it, whatever it is worth */
        http_answer a = post("/completion", "{\"prompt\":\"Once upon a time\",\"n_predict\":40,\"temperature\":0,\"ignore_eos\":true}", 200);
        if (!strstr(a.body.p, "\"draft_n\":")) fail_msg("no proposal was tried: %s", a.body.p);
        http_answer_free(&a);
    }
    for (int round = 0; round < 2; round++) {
        caller c[DRAFTED];
        for (int k = 0; k < DRAFTED; k++) {
            c[k] = (caller){ .which = k };
            drafted_body(k);
            assert_int_equal(pthread_create(&c[k].thread, NULL, drafted_thread, &c[k]), 0);
        }
        for (int k = 0; k < DRAFTED; k++) {
            pthread_join(c[k].thread, NULL);
            if (c[k].rc || c[k].a.status != 200) fail_msg("%d: %s", c[k].a.status, c[k].a.body.p);
            buf_fmt(out, "%s\n", choices_of(&c[k].a));
            http_answer_free(&c[k].a);
        }
    }
    buf_byte(out, 0);
}

/* f32 alone, with its q4 as a draft, and with a draft that is always wrong: the same answers. */
static void test_drafts(void **state) {
    (void)state;
    static char f32[800], options[2][1000];
    buf want = { 0 }, about = { 0 };
    const char *q8 = server.model;
    snprintf(options[0], sizeof options[0], "--draft '%s'", converted("weights/pip-stories", "q4"));
    snprintf(options[1], sizeof options[1], "'%s' --draft 'pip-stories-f32=%s'", q8, unrelated_model());
    snprintf(f32, sizeof f32, "%s", converted("weights/pip-stories", "f32"));
    server.model = f32;
    drafted_answers("", &want);
    assert_int_equal((long)metric("\nllamacpp:spec_decode_num_drafts_total") > 0, 1); /* of look-up */
    assert_int_equal(end_server(SIGTERM), 0);
    for (int i = 0; i < 2; i++) {
        buf got = { 0 };
        drafted_answers(options[i], &got);
        if (strcmp(got.p, want.p)) fail_msg("with %s:\n%s\nexpected\n%s", options[i], got.p, want.p);
        assert_true(metric("\nllamacpp:spec_decode_num_drafts_total") > 0);
        assert_true(metric("\nllamacpp:spec_decode_num_draft_tokens_total") >= metric("\nllamacpp:spec_decode_num_accepted_tokens_total"));
        about.n = 0;
        get_into("/api/ps", &about);
        if (!strstr(about.p, i ? "\"draft\":{\"name\":\"unrelated-q4\",\"memory\":" : "\"draft\":{\"name\":\"pip-stories-q4\",\"memory\":"))
            fail_msg("%s", about.p);
        assert_int_equal(end_server(SIGTERM), 0);
        buf_free(&got);
    }
    server.model = q8;
    buf_free(&want);
    buf_free(&about);
}

/* What is wrong with a draft is said at the start: the exit status, and a part of the line. */
static void test_draft_refusals(void **state) {
    (void)state;
    static const struct { const char *options, *part; int status; } rows[] = {
        { "--draft nothing.bin", "draft 'nothing.bin' of model 'pip-stories-q8': expected the name of a model here, or a file", 1 },
        { "--draft nobody=pip-stories-q8", "model 'nobody' not found; there is: pip-stories-q8", 1 },
        { "--draft pip-stories-q8", "cannot be its own draft", 1 },
        { "--draft a=b,c", "--draft: expected MODEL=DRAFT,MODEL=DRAFT, found \"a=b,c\"", 2 },
        { "--draft =b", "--draft: expected MODEL=DRAFT", 2 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char command[1400], text[900] = "";
        snprintf(command, sizeof command, "'%s/serve' '%s' --port 0 %s 2>&1", bin_dir(), server.model, rows[i].options);
        FILE *f = popen(command, "r");
        text[fread(text, 1, sizeof text - 1, f)] = 0;
        int rc = pclose(f);
        if (!WIFEXITED(rc) || WEXITSTATUS(rc) != rows[i].status || !strstr(text, rows[i].part)) fail_msg("%s: %d: %s", rows[i].options, rc, text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_same_everywhere), cmocka_unit_test(test_a_crowd_changes_nothing), cmocka_unit_test(test_all_is_allowed),
        cmocka_unit_test(test_calls_always_validate), cmocka_unit_test(test_history_with_calls),
        cmocka_unit_test(test_errors), cmocka_unit_test(test_a_client_that_goes), cmocka_unit_test(test_gone_inside_a_prompt),
        cmocka_unit_test(test_a_busy_port), cmocka_unit_test(test_drain), cmocka_unit_test(test_drafts),
        cmocka_unit_test(test_draft_refusals), cmocka_unit_test(test_usage),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
