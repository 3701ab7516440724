/* The server's HTTP and its workers under load: many clients at once, bytes without sense, memory, figures of speed. */
#define _GNU_SOURCE
#include "tests/http_site.h"

static void two_hundred(void **state) {
    (void)state;
    enum { N = 200 };
    site *s = open_site((http_opts){ 0 });
    client *c = calloc(N, sizeof *c);
    answer a = { 0 };
    char text[100];
    for (int i = 0; i < N; i++) c[i] = dial(s);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < N; i++) {
            snprintf(text, sizeof text, i % 2 ? GET("/stream?%d") : GET("/%d"), i + round);
            say(&c[i], text);
        }
        for (int i = 0; i < N; i++) {
            if (!hear(&c[i], &a)) fail_msg("client %d: no whole answer", i);
            snprintf(text, sizeof text, "GET /%d  127.0.0.1 -", i + round);
            if (i % 2 == 0) assert_string_equal(a.body.p, text);
            size_t lines = 0;
            for (size_t k = 0; k < a.body.n; k++) lines += a.body.p[k] == '\n';
            assert_int_equal(lines, i % 2 ? i + round : 0);
        }
    }
    assert_int_equal(http_about(s->h).open, N);
    for (int i = 0; i < N; i++) hang_up(&c[i]);
    free(c);
    buf_free(&a.body);
    close_site(s);
}

static uint64_t draw(uint64_t *s) { /* xorshift64 */
    *s ^= *s << 13, *s ^= *s >> 7;
    return *s ^= *s << 17;
}

static long resident_pages(void) {
    long size, pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%ld %ld", &size, &pages) != 2) pages = 0;
    if (f) fclose(f);
    return pages;
}

/* Bytes without sense, requests that are cut off, clients that go at any time: the others are served, and memory does not grow. */
static void random_clients(void **state) {
    (void)state;
    site *s = open_site((http_opts){ .header_timeout = 1, .body_timeout = 1 });
    static const char *const starts[] = { "", "", POST("/echo", 3000), "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
                                         GET("/stream?50"), "GET / HTTP/1.1\r\nX:" };
    uint64_t r = 99;
    long warm = 0;
    answer a = { 0 };
    for (int i = 0; i < 3000 / SLOW; i++) {
        char bytes[2000];
        client c = dial(s);
        const char *start = starts[draw(&r) % 6];
        send(c.fd, start, strlen(start), MSG_NOSIGNAL);
        size_t n = draw(&r) % sizeof bytes;
        for (size_t k = 0; k < n; k++) bytes[k] = (char)draw(&r);
        if (n & 1) send(c.fd, bytes, n, MSG_NOSIGNAL);
        if (n & 2) shutdown(c.fd, SHUT_WR);
        if (n & 4) reset_on_close(&c);
        if ((n & 8) && (n & 2)) while (more(&c)) {}
        hang_up(&c);
        if (i % 100 == 0) {
            c = dial(s);
            say(&c, POST("/echo", 5) "still");
            expect(&c, &a, 200, "still");
            hang_up(&c);
        }
        if (i == 1000) warm = resident_pages();
    }
    long grown = (resident_pages() - warm) * (sysconf(_SC_PAGESIZE) / 1024);
    if (SLOW == 1) print_message("2000 connections more: %ld KiB more memory\n", grown);
    assert_true(SLOW > 1 || grown < 1024);
    buf_free(&a.body);
    close_site(s);
}

typedef struct load {
    const site *s;
    int n;
    double *seconds;
} load;

static void *load_client(void *arg) {
    load *l = arg;
    client c = dial(l->s);
    answer a = { 0 };
    for (int i = 0; i < l->n; i++) {
        double t = now_seconds();
        say(&c, POST("/echo", 5) "hello");
        expect(&c, &a, 200, "hello");
        l->seconds[i] = now_seconds() - t;
        c.in.n = c.at = 0;
    }
    hang_up(&c);
    buf_free(&a.body);
    return NULL;
}

/* 200 streams that one thread writes to, piece after piece, as a scheduler does; every client reads every byte. */
static void *read_streams(void *arg) {
    client *c = arg;
    answer a = { 0 };
    for (int i = 0; i < 200; i++) {
        if (!hear(&c[i], &a)) fail_msg("stream %d was cut", i);
        assert_int_equal(a.body.n, 3000 / SLOW * 20);
    }
    buf_free(&a.body);
    return NULL;
}

static void many_streams(void **state) {
    (void)state;
    site *s = open_site((http_opts){ 0 });
    client c[200];
    exchange *x[200];
    pthread_t reader;
    for (int i = 0; i < 200; i++) {
        c[i] = dial(s);
        say(&c[i], GET("/late"));
        x[i] = wait_held(s);
        exchange_begin(x[i], 200, "text/plain", "");
    }
    pthread_create(&reader, NULL, read_streams, c);
    double before = now_seconds();
    for (int k = 0; k < 3000 / SLOW; k++)
        for (int i = 0; i < 200; i++) exchange_write(x[i], "data: 0123456789ab\n\n", 20);
    double seconds = now_seconds() - before;
    for (int i = 0; i < 200; i++) exchange_end(x[i]);
    pthread_join(reader, NULL);
    print_message("200 streams: %.2f us for each of %d writes\n", seconds * 1e6 / (3000 / SLOW * 200), 3000 / SLOW * 200);
    for (int i = 0; i < 200; i++) hang_up(&c[i]);
    close_site(s);
}

static int by_size(const void *a, const void *b) { return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b); }

static void speed(void **state) {
    (void)state;
    enum { CLIENTS = 8 };
    int n = 5000 / SLOW;
    site *s = open_site((http_opts){ 0 });
    double *seconds = calloc((size_t)n * CLIENTS, sizeof *seconds);
    pthread_t thread[CLIENTS];
    load l[CLIENTS];
    double before = now_seconds();
    for (int i = 0; i < CLIENTS; i++) {
        l[i] = (load){ .s = s, .n = n, .seconds = seconds + (size_t)n * (size_t)i };
        pthread_create(&thread[i], NULL, load_client, &l[i]);
    }
    for (int i = 0; i < CLIENTS; i++) pthread_join(thread[i], NULL);
    double rate = n * CLIENTS / (now_seconds() - before);
    qsort(seconds, (size_t)n * CLIENTS, sizeof *seconds, by_size);
    print_message("echo, %d connections: %.0f requests/s, p50 %.2f ms, p99 %.2f ms\n", CLIENTS, rate, seconds[n * CLIENTS / 2] * 1e3,
                  seconds[n * CLIENTS / 100 * 99] * 1e3);
    assert_int_equal(http_about(s->h).requests, n * CLIENTS);
    assert_true(rate > 200);
    free(seconds);
    close_site(s);
}

typedef struct count_task {
    work_task task;
    atomic_int *done;
} count_task;

static void count(work_task *t) { atomic_fetch_add(((count_task *)t)->done, 1); }

static void workers(void **state) {
    (void)state;
    enum { N = 10000 };
    work *w;
    err e = { 0 };
    atomic_int done = 0;
    count_task *task = calloc(N, sizeof *task);
    assert_int_equal(work_start(&w, 0, &e), -1);
    assert_non_null(strstr(e.msg, "found 0"));
    e = (err){ 0 };
    assert_int_equal(work_start(&w, 4, &e), 0);
    for (int i = 0; i < N; i++) {
        task[i] = (count_task){ { .run = count }, &done };
        work_post(w, &task[i].task);
    }
    work_stop(w); /* runs what is queued */
    assert_int_equal(atomic_load(&done), N);
    free(task);
}

int main(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, pulse, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(workers, no_stall), cmocka_unit_test_setup(two_hundred, no_stall),
        cmocka_unit_test_setup(random_clients, no_stall), cmocka_unit_test_setup(many_streams, no_stall),
        cmocka_unit_test_setup(speed, no_stall),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
