/* ./serve under many clients at once, some of them rude: slow readers, kills in mid-stream, half-open sockets, bodies of random bytes. Nothing is
 * lost, nothing crossed (each text is compared with that of the same request alone), memory stays flat, /health answers at once. A few seconds
 * here; `make soak` gives it 200 clients for a minute (QUERN_LOAD_SECONDS, QUERN_LOAD_CLIENTS) and the limits that the server promises. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include "tests/serve_site.h"

enum { QUESTIONS = 12, MOST_CLIENTS = 1000, MOST_HEALTH = 200000 };

static struct {
    int seconds, clients;
    bool strict;
    char body[QUESTIONS][300];
    buf want[QUESTIONS];
    atomic_bool stop;
    atomic_int whole, slow, killed, half, noise, full, wrong, lost;
    double health[MOST_HEALTH];
    int n_health;
    pthread_mutex_t lock;
    char first[2000]; /* the first thing that went wrong */
} load = { .seconds = 4, .clients = 40, .lock = PTHREAD_MUTEX_INITIALIZER };

static void went_wrong(atomic_int *kind, const char *what, const char *detail) {
    pthread_mutex_lock(&load.lock);
    if (!load.first[0]) snprintf(load.first, sizeof load.first, "%s: %.1900s", what, detail);
    pthread_mutex_unlock(&load.lock);
    atomic_fetch_add(kind, 1);
}

/* The text of a stream's events. */
static void stream_text(const char *p, buf *out) {
    for (const char *end; *p; p = end + 1) {
        if (!(end = strchr(p, '\n'))) break;
        arena a = { 0 };
        json *j;
        if (strncmp(p, "data: {", 7) == 0 && json_parse(&a, p + 6, (size_t)(end - p) - 6, &j, NULL) == 0) {
            const json *text = json_get(j, "content");
            if (text && text->type == JSON_STRING) buf_add(out, text->s, text->n);
        }
        arena_free(&a);
    }
    buf_byte(out, 0);
}

static void check(int which, const buf *in) {
    http_answer a = { 0 };
    buf text = { 0 };
    char *gap = in->n ? strstr(in->p, "\r\n\r\n") : NULL;
    int status = gap ? atoi(in->p + 9) : 0;
    if (gap && strstr(in->p, "chunked")) http_unchunk(gap + 4, in->n - (size_t)(gap + 4 - in->p), &a.body);
    buf_byte(&a.body, 0);
    if (status == 200) stream_text(a.body.p, &text);
    if (status == 503 && strstr(in->p, "queue_full")) atomic_fetch_add(&load.full, 1);
    else if (status != 200) went_wrong(&load.lost, "no answer", in->n ? in->p : "nothing came");
    else if (!strstr(a.body.p, "\"stop\":true") || strcmp(text.p, load.want[which].p)) went_wrong(&load.wrong, "another text", a.body.p);
    buf_free(&text);
    http_answer_free(&a);
}

static void read_stream_at(int fd, int which, bool slow) {
    buf in = { 0 };
    char piece[4096];
    for (ssize_t n; (n = recv(fd, piece, slow ? 512 : sizeof piece, 0)) > 0;) {
        buf_add(&in, piece, (size_t)n);
        if (slow) usleep(20000);
    }
    buf_byte(&in, 0);
    in.n--;
    check(which, &in);
    buf_free(&in);
    atomic_fetch_add(slow ? &load.slow : &load.whole, 1);
}

static void reset(int fd) { /* a kill, not a farewell */
    struct linger now = { .l_onoff = 1 };
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

static void send_noise(int fd, unsigned *seed) {
    char body[600];
    buf b = { 0 };
    size_t n = 1 + (size_t)rand_r(seed) % sizeof body;
    for (size_t i = 0; i < n; i++) body[i] = (char)rand_r(seed);
    buf_fmt(&b, "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n", n);
    buf_add(&b, body, n);
    if (send(fd, b.p, b.n, MSG_NOSIGNAL) < 0) {}
    buf_free(&b);
    http_answer a;
    if (http_hear(fd, &a) || a.status != 400) went_wrong(&load.lost, "random bytes", a.head.p ? a.head.p : "no answer");
    http_answer_free(&a);
    atomic_fetch_add(&load.noise, 1);
}

static void *client(void *arg) {
    unsigned seed = 1 + (unsigned)(size_t)arg;
    while (!atomic_load(&load.stop)) {
        int fd = http_dial(site.port), kind = rand_r(&seed) % 20, which = rand_r(&seed) % QUESTIONS;
        char piece[256];
        if (fd < 0) {
            went_wrong(&load.lost, "connect", strerror(errno));
            usleep(10000);
            continue;
        }
        if (kind == 0) send_noise(fd, &seed);
        else if (kind == 1) { /* half a request, then silence */
            if (send(fd, "POST /completion HTTP/1.1\r\nContent-Le", 37, MSG_NOSIGNAL) < 0) {}
            usleep(300000);
            atomic_fetch_add(&load.half, 1);
        } else {
            http_send(fd, "POST", "/completion", load.body[which]);
            if (kind >= 6) read_stream_at(fd, which, false);
            else if (kind >= 4) read_stream_at(fd, which, true);
            else {
                if (kind == 2 && recv(fd, piece, sizeof piece, 0) < 0) {}
                reset(fd);
                atomic_fetch_add(&load.killed, 1);
            }
        }
        close(fd);
    }
    return NULL;
}

static void *ask_health(void *arg) {
    (void)arg;
    while (!atomic_load(&load.stop) && load.n_health < MOST_HEALTH) {
        http_answer a;
        double start = now_seconds();
        if (http_ask(site.port, "GET", "/health", "", &a) || a.status != 200) went_wrong(&load.lost, "/health", "no answer");
        load.health[load.n_health++] = now_seconds() - start;
        http_answer_free(&a);
        usleep(5000);
    }
    return NULL;
}

static double resident(void) {
    char path[64];
    long all, pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)site.pid);
    FILE *f = fopen(path, "r");
    if (f && fscanf(f, "%ld %ld", &all, &pages) != 2) pages = 0;
    if (f) fclose(f);
    return (double)pages * (double)sysconf(_SC_PAGESIZE) / 1e6;
}

static int by_value(const void *a, const void *b) { return *(const double *)a < *(const double *)b ? -1 : *(const double *)a > *(const double *)b; }

static int set_up(void **state) {
    (void)state;
    site_open();
    if (getenv("QUERN_LOAD_SECONDS")) load.seconds = atoi(getenv("QUERN_LOAD_SECONDS")), load.strict = true;
    if (getenv("QUERN_LOAD_CLIENTS")) load.clients = min_int(atoi(getenv("QUERN_LOAD_CLIENTS")), MOST_CLIENTS);
    site_start("--slots 8 --ctx 512");
    return 0;
}

static void ask_alone(void) {
    static const char *const words[] = { "cat", "dog", "old man", "sea", "boat", "tree" };
    for (int i = 0; i < QUESTIONS; i++) {
        snprintf(load.body[i], sizeof load.body[i], "{\"prompt\":\"One day the %s\",\"n_predict\":%d,\"seed\":%d,"
                                                    "\"stream\":true,\"ignore_eos\":true}", words[i % 6], 20 + 5 * i, i);
        http_answer a = site_post("/completion", load.body[i], 200);
        stream_text(a.body.p, &load.want[i]);
        http_answer_free(&a);
        assert_true(load.want[i].n > 20);
    }
}

static void test_crowd(void **state) {
    (void)state;
    static pthread_t thread[MOST_CLIENTS + 1];
    ask_alone();
    for (int i = 0; i < load.clients; i++) assert_int_equal(pthread_create(&thread[i], NULL, client, (void *)(size_t)i), 0);
    assert_int_equal(pthread_create(&thread[load.clients], NULL, ask_health, NULL), 0);
    usleep((useconds_t)load.seconds * 1000000 / 3);
    double warm = resident();
    usleep((useconds_t)load.seconds * 1000000 / 3 * 2);
    double end = resident();
    atomic_store(&load.stop, true);
    for (int i = 0; i <= load.clients; i++) pthread_join(thread[i], NULL);
    qsort(load.health, (size_t)load.n_health, sizeof *load.health, by_value);
    double p99 = load.health[load.n_health * 99 / 100] * 1e3;
    print_message("%d clients, %d s: %d whole, %d slow, %d killed, %d half open, %d of noise; %d told the queue "
                  "is full; %d wrong, %d lost; /health p50 %.2f ms, p99 %.2f ms of %d; "
                  "resident %.2f MB when warm, %.2f MB at the end\n", load.clients, load.seconds, load.whole, load.slow,
                  load.killed, load.half, load.noise, load.full, load.wrong, load.lost,
                  load.health[load.n_health / 2] * 1e3, p99, load.n_health, warm, end);
    if (load.first[0]) fail_msg("%s", load.first);
    assert_true(load.whole > 0 && load.killed > 0);
    if (end > warm * (load.strict ? 1.02 : 1.2)) fail_msg("%.2f MB have become %.2f", warm, end);
    if (p99 > (load.strict ? 20 : 1000)) fail_msg("/health took %.1f ms", p99);
    site_wait_metric("llamacpp:requests_processing", 0);
    site_wait_metric("llamacpp:requests_deferred", 0);
}

/* From the closing of a socket to the end of its job. */
static double time_cancel(int fd) {
    long before = site_metric("quern_jobs_total{code=\"cancelled\"}");
    double start = now_seconds();
    close(fd);
    while (site_metric("quern_jobs_total{code=\"cancelled\"}") == before && now_seconds() < start + 20) usleep(1000);
    return (now_seconds() - start) * 1e3;
}

static void test_cancel(void **state) {
    (void)state;
    static const char long_one[] = "{\"prompt\":\"a\",\"n_predict\":450,\"ignore_eos\":true,\"stream\":true,\"n_cmpl\":100}";
    int busy = http_dial(site.port), fd = http_dial(site.port);
    double queued, decoding;
    http_send(busy, "POST", "/completion", long_one);
    site_wait_metric("llamacpp:requests_processing", 1);
    http_send(fd, "POST", "/completion", long_one); /* of the same user: it waits */
    site_wait_metric("llamacpp:requests_deferred", 1);
    queued = time_cancel(fd);
    decoding = time_cancel(busy);
    print_message("cancelled: queued after %.1f ms, decoding after %.1f ms\n", queued, decoding);
    double most = load.strict ? 200 : 5000;
    assert_true(queued < most && decoding < most);
    site_wait_metric("llamacpp:requests_processing", 0);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_crowd), cmocka_unit_test(test_cancel) };
    return cmocka_run_group_tests(tests, set_up, site_close);
}
