/* ./serve's keeping and telling: the cache on disk, also after kill -9 and with damaged files; slots; fallbacks; answers given again; pings in
 * silent streams; a trace that ./run computes again, bit for bit; adapters set for all. */
#define _GNU_SOURCE
#include <dirent.h>
#include <pthread.h>
#include <sys/resource.h>
#include "tests/serve_site.h"

static const char question[] = "{\"prompt\":\"Once upon a time there was a little girl who lived in a small house "
                               "near the forest. She liked to play with her dog and her cat every "
                               "day\",\"max_tokens\":24,\"seed\":5,\"logprobs\":2,\"stream\":false}";
static char folder[300];

static int set_up(void **state) {
    (void)state;
    site_open();
    snprintf(folder, sizeof folder, "%s/kv", work_dir);
    return 0;
}

static void start_with_disk(const char *more) {
    char options[600];
    snprintf(options, sizeof options, "--slots 4 --kv-dir '%s' %s", folder, more);
    site_start(options);
}

static char *choices_of(http_answer *a) {
    char *from = strstr(a->body.p, "\"choices\""), *to = from ? strstr(from, ",\"usage\"") : NULL;
    if (!to) fail_msg("no choices in %s", a->body.p);
    *to = 0;
    return from;
}

static int cached_of(const http_answer *a) {
    const char *at = strstr(a->body.p, "\"cached_tokens\":");
    return at ? atoi(at + 16) : -1;
}

/* Flips a byte in every file of the cache; how many there are. */
static int damage(long at) {
    int n = 0;
    DIR *d = opendir(folder);
    for (struct dirent *x; d && (x = readdir(d));) {
        char path[700];
        size_t k = strlen(x->d_name);
        if (k < 3 || strcmp(x->d_name + k - 3, ".kv")) continue;
        snprintf(path, sizeof path, "%s/%s", folder, x->d_name);
        FILE *f = fopen(path, "r+b");
        fseek(f, at, at < 0 ? SEEK_END : SEEK_SET);
        int byte = fgetc(f);
        fseek(f, -1, SEEK_CUR);
        fputc(byte ^ 1, f);
        fclose(f);
        n++;
    }
    if (d) closedir(d);
    return n;
}

static void assert_logged(const char *what, bool there) {
    buf text = { 0 };
    site_log(&text);
    if ((strstr(text.p, what) != NULL) != there) fail_msg("expected %s\"%s\" in the log:\n%s", there ? "" : "no ", what, text.p);
    buf_free(&text);
}

/* ---- the disk ---- */

static void test_killed_and_warm(void **state) {
    (void)state;
    start_with_disk("");
    http_answer first = site_post("/v1/completions", question, 200), again;
    assert_int_equal(cached_of(&first), 0);
    char *want = choices_of(&first);
    site_wait_metric("quern_kv_disk_saved_total", 1);
    assert_int_equal(site_end(SIGKILL), 1000 + SIGKILL);

    start_with_disk("");
    again = site_post("/v1/completions", question, 200);
    if (cached_of(&again) < 20) fail_msg("%d tokens came from the disk", cached_of(&again));
    assert_string_equal(choices_of(&again), want);
    http_answer_free(&again);
    assert_int_equal(site_metric("quern_kv_disk_loaded_total"), 1);
    assert_logged("dropped", false);
    site_end(SIGKILL);

    long places[] = { 3, 60, 9000, -3 }; /* the head, the tokens, pages, the hash */
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        assert_true(damage(places[i]) >= 1);
        start_with_disk("");
        again = site_post("/v1/completions", question, 200);
        assert_int_equal(cached_of(&again), 0);
        assert_string_equal(choices_of(&again), want);
        http_answer_free(&again);
        assert_logged("dropped", true);
        site_wait_metric("quern_kv_disk_saved_total", 1); /* and it is there anew */
        assert_int_equal(site_end(SIGTERM), 0);
    }
    http_answer_free(&first);
}

static void put_file(const char *name) {
    char path[700];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs("of somebody else", f);
    fclose(f);
}

static bool has_file(const char *name) {
    char path[700];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return access(path, F_OK) == 0;
}

/* A folder that other things lie in, too: only what has a name of ours is read, and removed. */
static void test_files_of_others(void **state) {
    (void)state;
    static const char *const theirs[] = { "notes.kv", "mail.tmp", "0123456789abcdef-0123456789abcdeX.kv",
                                          "0123456789abcdef-0123456789abcdef.kv.old" };
    static const char *const left[] = { "0123456789abcdef-0123456789abcdef.kv", "0123456789abcdef-0123456789abcdee.kv.tmp", "king.slot.tmp" };
    start_with_disk("");
    assert_int_equal(site_end(SIGTERM), 0);
    for (size_t i = 0; i < sizeof theirs / sizeof *theirs; i++) put_file(theirs[i]);
    for (size_t i = 0; i < sizeof left / sizeof *left; i++) put_file(left[i]);
    start_with_disk("");
    for (size_t i = 0; i < sizeof theirs / sizeof *theirs; i++)
        if (!has_file(theirs[i])) fail_msg("%s is gone", theirs[i]);
    for (size_t i = 0; i < sizeof left / sizeof *left; i++)
        if (has_file(left[i])) fail_msg("%s is still there", left[i]);
    assert_int_equal(site_end(SIGTERM), 0);
}

static void copy_model(const char *to, const char *how) {
    char command[1200];
    snprintf(command, sizeof command, "cp '%s' '%s/new' && %s '%s/new' '%s'", site.model, work_dir, how, work_dir, to);
    assert_int_equal(system(command), 0);
}

/* A file that is cut while it is mapped: those who were using it are told, the server lives, and a whole file serves again. */
static void test_file_cut_in_use(void **state) {
    (void)state;
    static const char body[] = "{\"prompt\":\"a\",\"max_tokens\":400,\"ignore_eos\":true,\"n\":8,\"stream\":true}";
    static char path[600];
    char command[700];
    const char *model = site.model;
    snprintf(path, sizeof path, "%s/cut.bin", work_dir);
    copy_model(path, "mv");
    site.model = path;
    site_start("");
    for (int round = 0; round < 2; round++) {
        http_answer a = { 0 };
        int fd = http_dial(site.port);
        http_send(fd, "POST", "/v1/completions", body);
        char first[200];
        assert_true(recv(fd, first, sizeof first, MSG_PEEK) > 0); /* it streams */
        assert_int_equal(truncate(path, round ? 0 : 300000), 0);
        if (http_hear(fd, &a)) fail_msg("the stream broke off");
        if (!strstr(a.body.p, "became shorter") || !strstr(a.body.p, "[DONE]")) fail_msg("%.300s", a.body.p + (a.body.n > 300 ? a.body.n - 300 : 0));
        http_answer_free(&a);
        close(fd);
        a = site_post("/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":2}", 500);
        http_answer_free(&a);
        site.model = model;
        copy_model(path, "mv");
        a = site_post("/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":2}", 200);
        http_answer_free(&a);
    }
    assert_int_equal(site_end(SIGTERM), 0);
    snprintf(command, sizeof command, "rm '%s'", path);
    assert_int_equal(system(command), 0);
}

static void ask_story(int i, int n) {
    static const char *const words[] = { "cat", "dog", "boat", "tree", "king", "bird", "fish", "hill", "lamp", "door" };
    char body[600];
    snprintf(body, sizeof body, "{\"prompt\":\"The %s and the %s went to the %s, where the %s of the %s was waiting "
                                "for them with a big %s and a small %s\",\"max_tokens\":%d,\"seed\":1}", words[i % 10],
             words[i / 10 % 10], words[(i + 3) % 10], words[(i + 5) % 10], words[(i * 7 + 1) % 10], words[(i + 2) % 10], words[(i + 8) % 10], n);
    http_answer a = site_post("/v1/completions", body, 200);
    http_answer_free(&a);
}

/* More conversations than memory keeps: those that had to go come from the disk; its bound is kept. */
static void test_evicted_from_memory(void **state) {
    (void)state;
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
    start_with_disk("--kv-disk 2M"); /* room for about nine of them */
    for (int i = 0; i < 8; i++) {
        ask_story(i, 8);
        site_wait_metric("quern_kv_disk_saved_total", i + 1);
    }
    ask_story(2, 8); /* of four sessions in memory it is gone */
    assert_int_equal(site_metric("quern_kv_disk_loaded_total"), 1);
    double until = now_seconds() + 60;
    for (int i = 10; i < 30 || !site_metric("quern_kv_disk_evicted_total"); i++) { /* a slow disk does not keep all of them */
        if (now_seconds() > until) fail_msg("nothing had to go from the disk");
        ask_story(i, 8);
        usleep(20000);
        if (site_metric("quern_kv_disk_bytes") > 2 << 20) fail_msg("%ld bytes on disk", site_metric("quern_kv_disk_bytes"));
    }
    assert_int_equal(site_end(SIGTERM), 0);
    start_with_disk("--kv-disk 1M"); /* a smaller bound */
    if (site_metric("quern_kv_disk_bytes") > 1 << 20) fail_msg("%ld bytes on disk", site_metric("quern_kv_disk_bytes"));
    snprintf(command, sizeof command, "'%s/serve' '%s' --port 0 --kv-dir '%s' 2>&1 | grep -q 'in use by another server'",
             bin_dir(), site.model, folder);
    assert_int_equal(system(command), 0);
    assert_int_equal(site_end(SIGTERM), 0);
}

static void test_slots(void **state) {
    (void)state;
    static const char body[] = "{\"prompt\":\"Tell me about the old king and his four clever daughters\",\"n_predict\":9,\"seed\":3}";
    start_with_disk("--slots 1");
    http_answer a = site_post("/completion", body, 200);
    http_answer_free(&a);
    a = site_post("/slots/0?action=save", "{\"filename\":\"king\"}", 200);
    if (!strstr(a.body.p, "\"n_saved\":") || !strstr(a.body.p, "\"save_ms\":")) fail_msg("%s", a.body.p);
    http_answer_free(&a);
    a = site_post("/slots/0?action=erase", "", 200);
    if (!strstr(a.body.p, "\"n_erased\":") || strstr(a.body.p, "\"n_erased\":0")) fail_msg("%s", a.body.p);
    http_answer_free(&a);
    a = site_post("/slots/0?action=restore", "{\"filename\":\"king\"}", 200);
    if (!strstr(a.body.p, "\"n_restored\":")) fail_msg("%s", a.body.p);
    http_answer_free(&a);
    a = site_post("/completion", body, 200);
    if (strstr(a.body.p, "\"cache_n\":0,")) fail_msg("%s", a.body.p);
    http_answer_free(&a);
    static const struct { const char *path, *body; } wrong[] = {
        { "/slots/0?action=save", "{\"filename\":\"../x\"}" }, { "/slots/0?action=save", "{\"filename\":\".x\"}" },
        { "/slots/0?action=restore", "{\"filename\":\"other\"}" }, { "/slots/7?action=save", "{\"filename\":\"x\"}" },
        { "/slots/x?action=save", "{\"filename\":\"x\"}" }, { "/slots/0?action=eat", "{}" }, { "/slots/0?action=save", "{}" } };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        a = site_post(wrong[i].path, wrong[i].body, 400);
        http_answer_free(&a);
    }
    assert_int_equal(site_end(SIGTERM), 0);
    site_start("");
    a = site_post("/slots/0?action=save", "{\"filename\":\"king\"}", 501);
    http_answer_free(&a);
    assert_int_equal(site_end(SIGTERM), 0);
}

/* ---- who stands in, and what was asked before ---- */

static void test_fallback(void **state) {
    (void)state;
    char broken[400], options[900];
    snprintf(broken, sizeof broken, "%s/broken.bin", work_dir);
    FILE *f = fopen(broken, "wb");
    fputs("this is no model", f);
    fclose(f);
    snprintf(options, sizeof options, "'%s' --fallback big=none,pip-stories-q8 --fallback broken=pip-stories-q8 --alias large=big", broken);
    site_start(options);
    static const struct { const char *asked, *from, *code; } rows[] = { { "big", "big", "model_not_found" }, { "large", "big", "model_not_found" },
                                                                        { "broken:latest", "broken:latest", "cannot_be_opened" } };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int stream = 0; stream < 2; stream++) {
            char body[300], want[200];
            snprintf(body, sizeof body, "{\"model\":\"%s\",\"stream\":%s,\"messages\":[{\"role\":\"user\",\"content\":\"A cat\"}],"
                                        "\"options\":{\"num_predict\":4}}", rows[i].asked, stream ? "true" : "false");
            snprintf(want, sizeof want, "\"fallback\":{\"asked\":\"%s\",\"used\":\"pip-stories-q8\",\"code\":\"%s\",\"why\":\"",
                     rows[i].from, rows[i].code);
            http_answer a = site_post("/api/chat", body, 200);
            if (!strstr(a.body.p, want) || !strstr(a.body.p, "\"model\":\"pip-stories-q8\"")) fail_msg("expected %s in %s", want, a.body.p);
            http_answer_free(&a);
        }
    http_answer a = site_post("/api/chat", "{\"model\":\"other\",\"messages\":[{\"role\":\"user\",\"content\":\"A cat\"}]}", 404);
    http_answer_free(&a);
    a = site_post("/v1/completions", "{\"model\":\"big\",\"prompt\":\"a\",\"temperature\":9}", 400); /* not for a request's own mistakes */
    http_answer_free(&a);
    assert_int_equal(site_end(SIGTERM), 0);
}

static void test_asked_before(void **state) {
    (void)state;
    site_start("--response-cache 1M");
    static const struct { const char *path, *body; bool again; } rows[] = {
        { "/v1/completions", "{\"prompt\":\"The cat\",\"max_tokens\":9,\"seed\":3,\"logprobs\":1}", true },
        { "/v1/completions", "{\"prompt\":\"The cat\",\"max_tokens\":9,\"seed\":3,\"logprobs\":1,\"stream\":true}", true },
        { "/v1/completions", "{\"prompt\":[\"The cat\",\"The dog\"],\"n\":2,\"max_tokens\":9,\"temperature\":0}", true },
        { "/api/generate", "{\"model\":\"pip-stories-q8\",\"prompt\":\"The cat\",\"options\":{\"num_predict\":9,\"temperature\":0}}", true },
        { "/v1/completions", "{\"prompt\":\"The cat\",\"max_tokens\":9}", false },
        { "/completion", "{\"prompt\":\"The cat\",\"n_predict\":9,\"seed\":-1}", false },
        /* cut: not its own end */
        { "/v1/completions", "{\"prompt\":\"The cat\",\"max_tokens\":900,\"ignore_eos\":true,\"seed\":4,\"timeout_ms\":1}", false },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int k = 0; k < 3; k++) {
            http_answer a;
            assert_int_equal(http_ask(site.port, "POST", rows[i].path, rows[i].body, &a), 0);
            bool said = strstr(a.body.p, "\"cached\":true") && strstr(a.head.p, "X-Quern-Cached: true");
            if (said != (k && rows[i].again)) fail_msg("%s, time %d: %s\n%s", rows[i].body, k, a.head.p, a.body.p);
            http_answer_free(&a);
        }
    http_answer one = site_post("/v1/completions", rows[0].body, 200),
                other = site_post("/v1/completions", "{\"prompt\":\"The cat\",\"max_tokens\":9,\"seed\":3,\"logprobs\":1 }", 200);
    assert_true(strstr(one.body.p, "\"cached\":true") && !strstr(other.body.p, "\"cached\":true"));
    assert_string_equal(choices_of(&one), choices_of(&other)); /* what is given again is what would be computed */
    http_answer_free(&one);
    http_answer_free(&other);
    assert_int_equal(site_end(SIGTERM), 0);
}

/* ---- signs of life ---- */

static void test_pings(void **state) {
    (void)state;
    site_start("--slots 1 --sse-ping-interval 1");
    int fd = http_dial(site.port), waits[2];
    /* keeps the one slot */
    http_send(fd, "POST", "/completion", "{\"prompt\":\"a\",\"n_predict\":900,\"ignore_eos\":true,\"stream\":true,\"n_cmpl\":60}");
    usleep(300000);
    waits[0] = http_dial(site.port);
    http_send(waits[0], "POST", "/completion", "{\"prompt\":\"b\",\"n_predict\":2,\"stream\":true}");
    waits[1] = http_dial(site.port);
    http_send(waits[1], "POST", "/api/generate", "{\"model\":\"pip-stories-q8\",\"prompt\":\"b\",\"options\":{\"num_predict\":2}}");
    usleep(3200000);
    char bytes[2][4096];
    for (int i = 0; i < 2; i++) {
        ssize_t n = recv(waits[i], bytes[i], sizeof bytes[i] - 1, MSG_DONTWAIT);
        bytes[i][n > 0 ? n : 0] = 0;
    }
    close(fd); /* the slot is free */
    if (!strstr(bytes[0], "200 OK") || !strstr(bytes[0], "\r\n:\n\n")) fail_msg("no comment: %s", bytes[0]);
    if (!strstr(bytes[1], "\"response\":\"\",\"done\":false}\n")) fail_msg("no empty object: %s", bytes[1]);
    for (int i = 0; i < 2; i++) {
        buf rest = { 0 };
        buf_str(&rest, bytes[i]);
        for (ssize_t n; (n = recv(waits[i], bytes[i], sizeof bytes[i], 0)) > 0;) buf_add(&rest, bytes[i], (size_t)n);
        buf_byte(&rest, 0);
        if (!strstr(rest.p, i ? "\"done\":true" : "\"stop\":true") || strstr(rest.p, "\n\n{")) fail_msg("%s", rest.p);
        buf_free(&rest);
        close(waits[i]);
    }
    assert_int_equal(site_end(SIGTERM), 0);
}

/* ---- the trace ---- */

/* What ./run says to it; its exit status. */
static int replay(const char *trace, buf *out) {
    char command[1600], piece[512];
    buf_free(out);
    snprintf(command, sizeof command, "'%s/run' '%s' --replay '%s' 2>&1", bin_dir(), site.model, trace);
    FILE *f = popen(command, "r");
    for (size_t n; (n = fread(piece, 1, sizeof piece, f)) > 0;) buf_add(out, piece, n);
    buf_byte(out, 0);
    int rc = pclose(f);
    return WIFEXITED(rc) ? WEXITSTATUS(rc) : -1;
}

static void test_trace(void **state) {
    (void)state;
    char trace[300], options[400];
    buf text = { 0 }, said = { 0 };
    err e = { 0 };
    snprintf(trace, sizeof trace, "%s/trace", work_dir);
    snprintf(options, sizeof options, "--slots 4 --trace '%s'", trace);
    site_start(options);
    static const struct { const char *path, *body; } rows[] = {
        { "/v1/completions", "{\"prompt\":\"The cat\",\"max_tokens\":30,\"logprobs\":1,\"n\":3}" },
        { "/v1/completions", "{\"prompt\":[\"The dog\",\"A boat\"],\"max_tokens\":20,\"seed\":7,\"frequency_penalty\":0.5,"
                             "\"logit_bias\":{\"20\":-100},\"lookup\":true}" },
        { "/api/chat", "{\"model\":\"pip-stories-q8\",\"messages\":[{\"role\":\"user\",\"content\":\"A story of a cat\"}],"
                       "\"options\":{\"seed\":7,\"stop\":[\" cat\"]}}" },
        { "/completion", "{\"prompt\":\"One day\",\"n_predict\":300,\"temperature\":0,\"repeat_penalty\":1.2,\"stream\":true}" },
        { "/v1/completions", "{\"prompt\":\"The cat\",\"max_tokens\":900,\"ignore_eos\":true,\"timeout_ms\":60}" },
        { "/v1/completions", "{\"prompt\":\"The cat\",\"max_tokens\":8,\"num_beams\":2,\"top_k\":0}" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        http_answer a;
        assert_int_equal(http_ask(site.port, "POST", rows[i].path, rows[i].body, &a), 0);
        if (a.status != 200 && a.status != 504) fail_msg("%d %s", a.status, a.body.p);
        http_answer_free(&a);
    }
    assert_int_equal(site_end(SIGTERM), 0);
    if (replay(trace, &said) || !strstr(said.p, "8 answers equal, bit for bit; 1 of beam searches not compared")) fail_msg("%s", said.p);
    /* Another id, another seed, another hash: each is seen. */
    static const char *const marks[] = { "\"ids\":[", "\"temperature\":0.", "\"logits\":\"" };
    for (int i = 0; i < 3; i++) {
        buf_free(&text);
        assert_int_equal(read_file(trace, 0, &text, &e), 0);
        char *at = strstr(text.p, marks[i]) + strlen(marks[i]);
        *at = *at == '1' ? '2' : '1';
        char other[320];
        snprintf(other, sizeof other, "%s-%d", trace, i);
        FILE *f = fopen(other, "wb");
        fwrite(text.p, 1, text.n, f);
        fclose(f);
        if (replay(other, &said) != 1 || !strstr(said.p, "different: line 1")) fail_msg("%s: %s", marks[i], said.p);
    }
    buf_free(&text);
    buf_free(&said);
}

static void *save_often(void *arg) {
    for (int i = 0; i < 40; i++) {
        http_answer a;
        if (!http_ask(site.port, "POST", "/slots/0?action=save", "{\"filename\":\"same\"}", &a)) http_answer_free(&a);
    }
    return arg;
}

static long bytes_of_folder(void) {
    long sum = 0;
    DIR *d = opendir(folder);
    for (struct dirent *x; d && (x = readdir(d));) {
        char path[700];
        snprintf(path, sizeof path, "%s/%s", folder, x->d_name);
        sum += (long)file_bytes(path);
    }
    if (d) closedir(d);
    return sum;
}

/* One name saved by many at a time: a whole file in the end, and its bytes are counted once. */
static void test_saves_at_once(void **state) {
    (void)state;
    pthread_t thread[4];
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", folder); /* the story may lie there */
    assert_int_equal(system(command), 0);
    start_with_disk("--slots 1");
    ask_story(3, 8);
    site_wait_metric("quern_kv_disk_saved_total", 1);
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&thread[i], NULL, save_often, NULL), 0);
    for (int i = 0; i < 4; i++) pthread_join(thread[i], NULL);
    assert_int_equal(site_metric("quern_kv_disk_bytes"), bytes_of_folder());
    http_answer a = site_post("/slots/0?action=restore", "{\"filename\":\"same\"}", 200);
    http_answer_free(&a);
    assert_int_equal(site_end(SIGTERM), 0);
}

/* One --ctx for models of all sizes: a smaller one gets its own. */
static void test_context_bound(void **state) {
    (void)state;
    site_start("--ctx 50000");
    http_answer a = site_post("/api/show", "{\"model\":\"pip-stories-q8\"}", 200);
    if (!strstr(a.body.p, "\"context_length\":1024")) fail_msg("%s", a.body.p);
    http_answer_free(&a);
    assert_int_equal(site_end(SIGTERM), 0);
    assert_logged("--ctx 50000 is more", true);
}

/* Few files allowed: connections leave some for models and logs. */
static void test_few_files(void **state) {
    (void)state;
    struct rlimit before, small;
    int fd[60];
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    small = (struct rlimit){ .rlim_cur = 48, .rlim_max = before.rlim_max };
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &small), 0);
    site_start("");
    setrlimit(RLIMIT_NOFILE, &before);
    static const char asks[] = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 29\r\n\r\n"
                               "{\"prompt\":\"a\",\"max_tokens\":2}";
    for (int i = 0; i < 60; i++) {
        fd[i] = http_dial(site.port);
        if (i == 0) assert_int_equal(send(fd[0], asks, 9, MSG_NOSIGNAL), 9); /* who has asked for nothing may have to go */
    }
    usleep(200000);
    http_answer a;
    assert_int_equal(send(fd[0], asks + 9, sizeof asks - 10, MSG_NOSIGNAL), sizeof asks - 10);
    assert_int_equal(http_hear(fd[0], &a), 0);
    if (a.status != 200) fail_msg("%d %s", a.status, a.body.p);
    http_answer_free(&a);
    for (int i = 0; i < 60; i++) close(fd[i]);
    assert_int_equal(site_end(SIGTERM), 0);
}

/* A disk that is full: requests are answered, what lies there stays whole, and the log says so. */
static void test_full_disk(void **state) {
    (void)state;
    char trace[300], options[800];
    buf said = { 0 };
    struct rlimit before, small;
    snprintf(trace, sizeof trace, "%s/small-trace", work_dir);
    snprintf(options, sizeof options, "--slots 4 --trace '%s' --kv-dir '%s' --log none", trace, folder);
    snprintf(options + strlen(options), sizeof options - strlen(options), " --response-cache 1M");
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = (struct rlimit){ .rlim_cur = 5000, .rlim_max = before.rlim_max };
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    site_start(options);
    setrlimit(RLIMIT_FSIZE, &before);
    for (int i = 0; i < 12; i++) ask_story(i, 40);
    http_answer a = site_post("/slots/0?action=save", "{\"filename\":\"king\"}", 507);
    if (!strstr(a.body.p, "disk_full")) fail_msg("%s", a.body.p);
    http_answer_free(&a);
    assert_int_equal(site_end(SIGTERM), 0);
    assert_logged("a request is missing from it", true);
    if (replay(trace, &said) || !strstr(said.p, "answers equal, bit for bit")) fail_msg("%s", said.p);
    buf_free(&said);
}

/* ---- adapters ---- */

#define GOLDEN "tests/fixtures/golden/"

/* The ids and log-probabilities of an answer. */
static void take_probabilities(const http_answer *a, char out[6000]) {
    const char *from = strstr(a->body.p, "\"completion_probabilities\""), *to = from ? strstr(from, "]}],") : NULL;
    if (!to) fail_msg("%d %s", a->status, a->body.p);
    snprintf(out, 6000, "%.*s", (int)(to - from), from);
}

/* The caller frees nothing: the text is in one of a few places. */
static const char *answered(const char *more) {
    static char place[4][6000];
    static int turn;
    char body[400];
    snprintf(body, sizeof body, "{\"prompt\":[5,9,14,3,77,30,2,41],\"n_predict\":12,\"n_probs\":1,\"temperature\":0,\"ignore_eos\":true%s}", more);
    http_answer a = site_post("/completion", body, 200);
    char *to = place[turn++ % 4];
    take_probabilities(&a, to);
    http_answer_free(&a);
    return to;
}

static void set_adapters(const char *path, const char *body, int status, const char *says) {
    http_answer a = site_post(path, body, status);
    if (!strstr(a.body.p, says)) fail_msg("%s: expected %s in %s", body, says, a.body.p);
    http_answer_free(&a);
}

static void listed(const char *path, const char *want) {
    http_answer a;
    assert_int_equal(http_ask(site.port, "GET", path, "", &a), 0);
    if (a.status != 200 || !strstr(a.body.p, want)) fail_msg("expected %s in %s", want, a.body.p);
    http_answer_free(&a);
}

static void start_with_adapters(void) {
    char command[4000], base[800];
    static char first[400];
    snprintf(first, sizeof first, "%s/adapted/a-base.bin", work_dir);
    snprintf(base, sizeof base, "%s", converted(GOLDEN "llama", "f32"));
    snprintf(command, sizeof command, "mkdir -p '%s/adapted' && cp '%s' '%s' && '%s/convert' " GOLDEN "lora_llama --base "
             GOLDEN "llama -o '%s/adapted/one.lora' --force 2>/dev/null && cp '%s/adapted/one.lora' '%s/adapted/two.lora'",
             work_dir, base, first, bin_dir(), work_dir, work_dir, work_dir);
    assert_int_equal(system(command), 0);
    char options[1300];
    snprintf(options, sizeof options, "'%s/adapted/one.lora' '%s/adapted/two.lora' '%s' --slots 1", work_dir, work_dir, site.model);
    const char *model = site.model;
    site.model = first; /* the first: it is meant where no name is given */
    site_start(options);
    site.model = model;
}

/* Set for all, named by number, by name: the same bits; nothing set: those of the model alone. */
static void test_default_adapters(void **state) {
    (void)state;
    start_with_adapters();
    listed("/lora-adapters", "[{\"id\":0,\"name\":\"one\",\"path\":\"");
    char plain[6000], half[6000], both[6000];
    snprintf(plain, sizeof plain, "%s", answered(""));
    snprintf(half, sizeof half, "%s", answered(",\"lora\":[{\"name\":\"two\",\"scale\":0.5}]"));
    snprintf(both, sizeof both, "%s", answered(",\"lora\":[{\"id\":0,\"scale\":0.25},{\"id\":1,\"scale\":0.5}]"));
    if (!strcmp(plain, half) || !strcmp(half, both)) fail_msg("an adapter changes nothing: %s", plain);
    assert_string_equal(answered(",\"lora\":[{\"id\":1,\"scale\":0.5}]"), half);
    assert_string_equal(answered(",\"lora\":[{\"id\":1,\"scale\":0.5},{\"id\":0,\"scale\":0}]"), half);
    set_adapters("/lora-adapters", "[{\"id\":1,\"scale\":0.5}]", 200, "{\"success\":true}");
    listed("/lora-adapters", "\"scale\":0},{\"id\":1,\"name\":\"two\"");
    listed("/lora-adapters", "\"scale\":0.5}]");
    listed("/lora-adapters?model=pip-stories-q8", "two.lora\",\"scale\":0}]"); /* another model has its own */
    assert_string_equal(answered(""), half);
    assert_string_equal(answered(",\"lora\":[]"), plain);
    assert_string_equal(answered(",\"lora\":null"), half);
    assert_string_equal(answered(",\"lora\":[{\"id\":1,\"scale\":0.5},{\"id\":0,\"scale\":0.25}]"),
                        answered(",\"lora\":[{\"id\":1,\"scale\":0.5},{\"id\":0,\"scale\":0.25}]"));
    http_answer a = site_post("/v1/completions", "{\"model\":\"pip-stories-q8\",\"prompt\":\"The cat\",\"max_tokens\":4}", 200);
    http_answer_free(&a);
    static const struct { const char *body, *says; } wrong[] = {
        { "[{\"id\":2,\"scale\":1}]", "id 2: expected 0 to 1" }, { "[{\"id\":-1,\"scale\":1}]", "id -1" },
        { "[{\"id\":\"x\",\"scale\":1}]", "id a string" }, { "[{\"id\":0}]", "scale is missing" },
        { "[{\"id\":0,\"scale\":\"x\"}]", "scale of" }, { "[{\"id\":0,\"scale\":1e9}]", "-1000 to 1000" },
        { "{\"id\":0}", "is an object, expected [" }, { "[0]", "expected [{" }, { "[{\"id\":0", "the body is" },
        { "", "missing request body" }, { "[{\"id\":0,\"scale\":1},{\"name\":\"one\",\"scale\":1}]", "named twice" },
        { "[{\"name\":\"three\",\"scale\":1}]", "'three' not found" },
        { "[{\"name\":\"three\",\"scale\":0}]", "'three' not found" },
        { "[{\"name\":\"../one\",\"scale\":1}]", "no file name" } };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) set_adapters("/lora-adapters", wrong[i].body, 400, wrong[i].says);
    /* it is of another shape: said now, not by each request */
    set_adapters("/lora-adapters?model=pip-stories-q8", "[{\"id\":0,\"scale\":1}]", 400, "one.lora");
    set_adapters("/lora-adapters?model=none", "[]", 404, "not found");
    assert_string_equal(answered(""), half); /* what was refused changed nothing */
    set_adapters("/lora-adapters", "[{\"id\":0,\"scale\":0.25},{\"id\":1,\"scale\":0.5}]", 200, "success");
    assert_string_equal(answered(""), both);
    set_adapters("/lora-adapters", "[]", 200, "success");
    assert_string_equal(answered(""), plain);
    assert_int_equal(site_end(SIGTERM), 0);
}

/* Adapters, and files of a tokenizer alone, that end in .bin in a folder of models are no models: not listed, and who asks for one is told. */
static void test_adapter_among_models(void **state) {
    (void)state;
    static const struct { const char *method, *path, *body; int status; const char *says; } asked[] = {
        { "GET", "/v1/models", "", 200, "\"id\":\"base\"" }, { "GET", "/api/tags", "", 200, "\"base:latest\"" },
        { "GET", "/lora-adapters", "", 200, "\"name\":\"tuned\"" },
        { "POST", "/v1/completions", "{\"model\":\"tuned\",\"prompt\":[5,9]}", 400,
          "model 'tuned' is a LoRA adapter, no model: ask for its model, and name it there: \\\"lora\\\": [{\\\"name\\\": \\\"tuned\\\"" },
        { "POST", "/api/generate", "{\"model\":\"tuned.bin\",\"prompt\":\"x\"}", 400, "is a LoRA adapter" },
        { "POST", "/completion", "{\"model\":\"words\",\"prompt\":\"x\"}", 400, "holds a tokenizer alone" },
        { "POST", "/api/show", "{\"model\":\"tuned\"}", 400, "is a LoRA adapter" }, { "GET", "/v1/models/tuned", "", 404, "is a LoRA adapter" },
        { "POST", "/api/pull", "{\"model\":\"tuned\"}", 400, "is a LoRA adapter" },
        { "POST", "/v1/completions", "{\"model\":\"base\",\"prompt\":[5,9],\"max_tokens\":2,\"lora\":[{\"name\":\"tuned\",\"scale\":0.5}]}",
          200, "\"completion_tokens\":2" },
        { "POST", "/v1/completions", "{\"prompt\":[5,9],\"max_tokens\":2}", 200, "\"model\":\"base\"" } };
    char command[4000], models[400];
    const char *model = site.model;
    snprintf(models, sizeof models, "%s/mixed", work_dir);
    snprintf(command, sizeof command, "mkdir -p '%s' && cp '%s' '%s/base.bin' && '%s/convert' " GOLDEN "lora_llama --base " GOLDEN
             "llama -o '%s/tuned.bin' 2>/dev/null && '%s/convert' weights/pip-stories --vocab-only -o '%s/words.bin' 2>/dev/null",
             models, converted(GOLDEN "llama", "f32"), models, bin_dir(), models, bin_dir(), models);
    assert_int_equal(system(command), 0);
    site.model = models;
    site_start("--slots 1");
    site.model = model;
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        http_answer a;
        assert_int_equal(http_ask(site.port, asked[i].method, asked[i].path, asked[i].body, &a), 0);
        if (a.status != asked[i].status || !strstr(a.body.p, asked[i].says))
            fail_msg("%s %s: expected %d and %s, found %d: %s", asked[i].path, asked[i].body, asked[i].status, asked[i].says, a.status, a.body.p);
        if (i < 2 && (strstr(a.body.p, "tuned") || strstr(a.body.p, "words"))) fail_msg("%s: %s", asked[i].path, a.body.p);
        http_answer_free(&a);
    }
    snprintf(command, sizeof command, "mv '%s/base.bin' '%s/kept' && mv '%s/tuned.bin' '%s/other.bin' && mv '%s/kept' '%s/tuned.bin'",
             models, models, models, models, models, models);
    assert_int_equal(system(command), 0); /* what a name stands for may change */
    http_answer a = site_post("/v1/completions", "{\"model\":\"tuned\",\"prompt\":[5,9],\"max_tokens\":2}", 200);
    http_answer_free(&a);
    a = site_post("/v1/completions", "{\"model\":\"other\",\"prompt\":[5,9],\"max_tokens\":2}", 400);
    http_answer_free(&a);
    assert_int_equal(site_end(SIGTERM), 0);
}

static int n_answered(const int *fd, int n) {
    int answered = 0;
    char byte;
    for (int i = 0; i < n; i++) answered += recv(fd[i], &byte, 1, MSG_DONTWAIT | MSG_PEEK) > 0;
    return answered;
}

/* Long texts fill the workers, and more of them wait: lists, figures and what has no path are there at once all the same. */
static void test_light_requests(void **state) {
    (void)state;
    enum { HEAVY = 9, BYTES = 6 << 20 };
    static const struct { const char *path; int status; } light[] = {
        { "/v1/models", 200 }, { "/v1/models/pip-stories-q8", 200 }, { "/slots", 200 }, { "/api/tags", 200 }, { "/api/ps", 200 },
        { "/api/version", 200 }, { "/metrics", 200 }, { "/health", 200 },
        { "/", 200 }, { "/none", 404 } };
    site_start("");
    http_answer a;
    for (size_t i = 0; i < sizeof light / sizeof *light; i++) { /* what is looked into once, is */
        assert_int_equal(http_ask(site.port, "GET", light[i].path, "", &a), 0);
        http_answer_free(&a);
    }
    int fd[HEAVY];
    buf body = { 0 };
    buf_str(&body, "{\"content\":\"");
    for (int i = 0; body.n < BYTES; i++) buf_fmt(&body, "the %d wolves' dens, ", i * 7919);
    buf_str(&body, "\"}");
    buf_byte(&body, 0);
    for (int i = 0; i < HEAVY; i++) http_send(fd[i] = http_dial(site.port), "POST", "/tokenize", body.p);
    double all = 0;
    int rounds = 0;
    for (; n_answered(fd, HEAVY) < HEAVY - 3; rounds++) /* as long as there is one more than workers */
        for (size_t i = 0; i < sizeof light / sizeof *light; i++) {
            double start = now_seconds();
            assert_int_equal(http_ask(site.port, "GET", light[i].path, "", &a), 0);
            all += now_seconds() - start;
            if (a.status != light[i].status) fail_msg("%s: %d", light[i].path, a.status);
            http_answer_free(&a);
        }
    for (int i = 0; i < HEAVY; i++) {
        assert_int_equal(http_hear(fd[i], &a), 0);
        assert_int_equal(a.status, 200);
        http_answer_free(&a);
        close(fd[i]);
    }
    buf_free(&body);
    double mean = all / (rounds * (double)(sizeof light / sizeof *light)); /* the longest is the machine's: more threads than cores */
    printf("light requests beside heavy ones: %d rounds, %.2f ms each\n", rounds, mean * 1e3);
    if (rounds < 3 || mean > 0.05) fail_msg("%d rounds of light requests while others were tokenised, %.3f s each", rounds, mean);
    assert_int_equal(site_end(SIGTERM), 0);
}

/* A request that waits in the queue while the adapters are changed gets what was set when it came. */
static void test_adapters_in_flight(void **state) {
    (void)state;
    static const char waiting[] = "{\"prompt\":[5,9,14,3,77,30,2,41],\"n_predict\":12,\"n_probs\":1,\"temperature\":0,\"ignore_eos\":true}";
    start_with_adapters();
    set_adapters("/lora-adapters", "[{\"id\":0,\"scale\":0.5}]", 200, "success");
    char want[6000], got[6000];
    snprintf(want, sizeof want, "%s", answered(""));
    int busy = http_dial(site.port), fd = http_dial(site.port);
    http_send(busy, "POST", "/completion", "{\"prompt\":[[1,2],[1,3],[1,4],[1,5],[1,6],[1,7],[1,8],[1,9]],\"n_predict\":120,"
                                           "\"ignore_eos\":true,\"n_cmpl\":128}");
    site_wait_metric("llamacpp:requests_processing", 1);
    http_send(fd, "POST", "/completion", waiting);
    site_wait_metric("llamacpp:requests_deferred", 1);
    set_adapters("/lora-adapters", "[{\"id\":1,\"scale\":-3}]", 200, "success");
    close(busy);
    http_answer a;
    assert_int_equal(http_hear(fd, &a), 0);
    close(fd);
    take_probabilities(&a, got);
    assert_string_equal(got, want);
    if (!strcmp(answered(""), want)) fail_msg("the new scales change nothing");
    http_answer_free(&a);
    assert_int_equal(site_end(SIGTERM), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_killed_and_warm), cmocka_unit_test(test_files_of_others), cmocka_unit_test(test_file_cut_in_use),
        cmocka_unit_test(test_evicted_from_memory), cmocka_unit_test(test_slots), cmocka_unit_test(test_saves_at_once),
        cmocka_unit_test(test_fallback), cmocka_unit_test(test_asked_before), cmocka_unit_test(test_pings), cmocka_unit_test(test_trace),
        cmocka_unit_test(test_full_disk), cmocka_unit_test(test_few_files), cmocka_unit_test(test_context_bound),
        cmocka_unit_test(test_default_adapters), cmocka_unit_test(test_adapter_among_models), cmocka_unit_test(test_light_requests),
        cmocka_unit_test(test_adapters_in_flight),
    };
    return cmocka_run_group_tests(tests, set_up, site_close);
}
