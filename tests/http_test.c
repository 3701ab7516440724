/* The server's HTTP over real sockets on the loopback: replies, limits, timeouts, clients that are slow, rude or gone, the end. Each test has
 * a site of its own. */
#define _GNU_SOURCE
#include "tests/http_site.h"

/* ---- replies ---- */

static void keep_alive(void **state) {
    (void)state;
    site *s = open_site((http_opts){ 0 });
    client c = dial(s);
    answer a = { 0 };
    int day, year, hour;
    char name[10], month[10];
    for (int i = 0; i < 3; i++) {
        say(&c, POST("/echo", 5) "hello");
        expect(&c, &a, 200, "hello");
    }
    assert_non_null(strstr(a.head, "Server: quern/" QUERN_VERSION "\n"));
    assert_non_null(strstr(a.head, "Content-Type: text/plain\n"));
    assert_non_null(strstr(a.head, "Content-Length: 5\n"));
    assert_non_null(strstr(a.head, "X-Extra: yes\n"));
    assert_null(strstr(a.head, "Connection:"));
    assert_null(strstr(a.head, "Access-Control"));
    assert_int_equal(sscanf(strstr(a.head, "Date: "), "Date: %3s, %2d %3s %4d %2d:", name, &day, month, &year, &hour), 5);
    say(&c, "GET /a%20b?q=%20 HTTP/1.1\r\nhost: x\r\nX-TEST:  v \r\n\r\n");
    expect(&c, &a, 200, "GET /a b q=%20 127.0.0.1 v");
    say(&c, GET("/now"));
    expect(&c, &a, 200, "now");
    say(&c, GET("/empty") GET("/none"));
    expect(&c, &a, 204, NULL);
    assert_null(strstr(a.head, "Content-"));
    expect_error(&c, &a, 500, "internal_error");
    assert_int_equal(http_about(s->h).accepted, 1);
    assert_int_equal(http_about(s->h).requests, 7);
    hang_up(&c);
    buf_free(&a.body);
    close_site(s);
}

static void pipelined(void **state) {
    (void)state;
    site *s = open_site((http_opts){ 0 });
    client c = dial(s);
    answer a = { 0 };
    buf all = { 0 };
    char want[40];
    for (int i = 0; i < 300; i++) buf_fmt(&all, "%s /%d HTTP/1.1\r\nHost: x\r\n\r\n", "GET", i);
    buf_str(&all, GET("/hold") GET("/now") "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" GET("/never"));
    say_n(&c, all.p, all.n);
    for (int i = 0; i < 300; i++) {
        snprintf(want, sizeof want, "GET /%d  127.0.0.1 -", i);
        expect(&c, &a, 200, want);
    }
    exchange *x = wait_held(s);
    usleep(20000);
    assert_int_equal(http_about(s->h).requests, 301); /* the second waits until the first is answered */
    exchange_reply(x, 200, "text/plain", "", "held", 4);
    expect(&c, &a, 200, "held");
    expect(&c, &a, 200, "now");
    expect(&c, &a, 200, "GET /  127.0.0.1 -");
    assert_non_null(strstr(a.head, "Connection: close\n"));
    assert_true(closed(&c));
    hang_up(&c);
    buf_free(&all);
    buf_free(&a.body);
    close_site(s);
}

static void chunked_both_ways(void **state) {
    (void)state;
    site *s = open_site((http_opts){ 0 });
    client c = dial(s);
    answer a = { 0 };
    const char *request = "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;x=1\r\nhello\r\n6\r\n world\r\n0\r\nT: 1\r\n\r\n";
    for (const char *p = request; *p; p++) say_n(&c, p, 1); /* a packet each */
    expect(&c, &a, 200, "hello world");
    say(&c, GET("/stream?1000"));
    if (!hear(&c, &a)) fail_msg("no whole answer");
    assert_true(a.chunked);
    const char *p = a.body.p;
    char want[40];
    for (int i = 0; i < 1000; i++) {
        size_t n = (size_t)snprintf(want, sizeof want, "piece %d\n", i);
        assert_memory_equal(p, want, n);
        p += n;
    }
    assert_int_equal(*p, 0);
    say(&c, GET("/stream?0"));
    expect(&c, &a, 200, "");
    say(&c, "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_true(hear_head(&c, &a));
    assert_int_equal(a.status, 100);
    say(&c, "ok");
    expect(&c, &a, 200, "ok");
    hang_up(&c);
    buf_free(&a.body);
    close_site(s);
}

static void old_clients_and_head(void **state) {
    (void)state;
    site *s = open_site((http_opts){ 0 });
    client c = dial(s);
    answer a = { 0 };
    say(&c, "HEAD /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcHEAD /stream?3 HTTP/1.1\r\nHost: x\r\n\r\n" GET("/now"));
    assert_true(hear_head(&c, &a));
    assert_non_null(strstr(a.head, "Content-Length: 3\n"));
    assert_true(hear_head(&c, &a));
    assert_true(a.chunked);
    expect(&c, &a, 200, "now"); /* no byte of a body came between */
    say(&c, "GET /now HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    expect(&c, &a, 200, "now");
    assert_non_null(strstr(a.head, "Connection: keep-alive\n"));
    say(&c, "GET /now HTTP/1.0\r\n\r\n");
    expect(&c, &a, 200, "now");
    assert_non_null(strstr(a.head, "Connection: close\n"));
    assert_true(closed(&c));
    hang_up(&c);
    c = dial(s);
    say(&c, "GET /stream?2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    expect(&c, &a, 200, "piece 0\npiece 1\n");
    assert_false(a.chunked);
    assert_non_null(strstr(a.head, "Connection: close\n"));
    hang_up(&c);
    buf_free(&a.body);
    close_site(s);
}

static void cors(void **state) {
    (void)state;
    site *s = open_site((http_opts){ .cors = "https://example.org" });
    client c = dial(s);
    answer a = { 0 };
    say(&c, "OPTIONS /v1/x HTTP/1.1\r\nHost: x\r\nOrigin: https://example.org\r\nAccess-Control-Request-Headers: authorization, x-a\r\n\r\n");
    expect(&c, &a, 204, NULL);
    assert_non_null(strstr(a.head, "Access-Control-Allow-Origin: https://example.org\n"));
    assert_non_null(strstr(a.head, "Vary: Origin\n"));
    assert_non_null(strstr(a.head, "Access-Control-Allow-Headers: authorization, x-a\n"));
    assert_non_null(strstr(a.head, "Access-Control-Allow-Methods: GET, HEAD, POST, DELETE, OPTIONS\n"));
    assert_non_null(strstr(a.head, "Access-Control-Max-Age: 86400\n"));
    say(&c, GET("/now"));
    expect(&c, &a, 200, "now");
    assert_non_null(strstr(a.head, "Access-Control-Allow-Origin: https://example.org\n"));
    say(&c, "GET x HTTP/1.1\r\nHost: x\r\n\r\n"); /* errors, too: a page could not read them otherwise */
    expect_error(&c, &a, 400, "malformed_request");
    assert_non_null(strstr(a.head, "Access-Control-Allow-Origin"));
    hang_up(&c);
    close_site(s);
    s = open_site((http_opts){ 0 });
    c = dial(s);
    say(&c, "OPTIONS / HTTP/1.1\r\nHost: x\r\n\r\n");
    expect(&c, &a, 200, "OPTIONS /  127.0.0.1 -");
    hang_up(&c);
    buf_free(&a.body);
    close_site(s);
    err e = { 0 };
    assert_int_equal(http_listen(&(http *){ NULL }, &(http_opts){ .cors = "a\r\nb" }, &e), -1);
    assert_non_null(strstr(e.msg, "origin"));
}

/* ---- limits ---- */

static void refusals(void **state) {
    (void)state;
    site *s = open_site((http_opts){ .max_body = 100000, .max_header = 10000 });
    answer a = { 0 };
    buf big = { 0 };
    buf_fmt(&big, "GET /%09000d HTTP/1.1\r\n\r\n", 0);
    const struct { const char *bytes; int status; const char *code; } cases[] = {
        { "nonsense\r\n\r\n", 400, "malformed_request" }, { "GET / HTTP/2.0\r\n\r\n", 505, "version_not_supported" },
        { "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "transfer_encoding_not_supported" },
        { big.p, 414, "target_too_long" }, { "POST / HTTP/1.1\r\nHost: x\r\nExpect: x\r\n\r\n", 417, "expectation_failed" },
        { POST("/", 5) "helloGET\r\n", 0, "" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        client c = dial(s);
        say(&c, cases[i].bytes);
        if (!cases[i].status) expect(&c, &a, 200, "POST /  127.0.0.1 -");
        expect_error(&c, &a, cases[i].status ? cases[i].status : 400, cases[i].status ? cases[i].code : "malformed_request");
        hang_up(&c);
    }
    big.n = 0;
    buf_fmt(&big, "GET / HTTP/1.1\r\nHost: x\r\nX: %012000d\r\n\r\n", 0);
    client c = dial(s);
    say(&c, big.p);
    expect_error(&c, &a, 431, "headers_too_large");
    hang_up(&c);
    for (int chunks = 0; chunks < 2; chunks++) { /* who sends all of a large body before it listens hears why it was refused */
        c = dial(s);
        say(&c, chunks ? "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nF4240\r\n" : POST("/", 1000000));
        big.n = 0;
        buf_fmt(&big, "%01000000d", 0);
        say_n(&c, big.p, big.n);
        expect_error(&c, &a, 413, "body_too_large");
        hang_up(&c);
    }
    c = dial(s);
    say(&c, POST("/echo", 100000)); /* exactly the most */
    say_n(&c, big.p, 100000);
    expect(&c, &a, 200, NULL);
    assert_int_equal(a.body.n, 100000);
    hang_up(&c);
    assert_int_equal(http_about(s->h).refused, 9);
    buf_free(&big);
    buf_free(&a.body);
    close_site(s);
}

static void most_connections(void **state) {
    (void)state;
    site *s = open_site((http_opts){ .max_connections = 4 });
    client c[4], more_clients[3];
    answer a = { 0 };
    for (int i = 0; i < 4; i++) {
        c[i] = dial(s);
        say(&c[i], GET("/now"));
        expect(&c[i], &a, 200, "now");
        say(&c[i], "GET /now HT"); /* none is idle */
    }
    for (int i = 0; i < 3; i++) {
        more_clients[i] = dial(s);
        if (i) say(&more_clients[i], GET("/now"));
    }
    double before = now_seconds();
    for (int i = 0; i < 3; i++) {
        expect_error(&more_clients[i], &a, 503, "too_many_connections");
        assert_non_null(strstr(a.head, "Retry-After: "));
        hang_up(&more_clients[i]);
    }
    assert_true(now_seconds() - before < patience(0.5));
    hang_up(&c[0]);
    usleep(50000 * SLOW);
    c[0] = dial(s);
    say(&c[0], GET("/now"));
    expect(&c[0], &a, 200, "now");
    say(&c[0], "GET");
    client again = dial(s); /* the refused ones, now gone, have left no room */
    expect_error(&again, &a, 503, "too_many_connections");
    hang_up(&again);
    for (int i = 0; i < 4; i++) hang_up(&c[i]);
    buf_free(&a.body);
    close_site(s);
}

/* Who waits for nothing makes room for who asks: first who was idle longest, never who has begun to ask or waits for an answer. */
static void idle_makes_room(void **state) {
    (void)state;
    site *s = open_site((http_opts){ .max_connections = 5 });
    answer a = { 0 };
    client c[5], new_one[3];
    for (int i = 0; i < 5; i++) {
        c[i] = dial(s);
        say(&c[i], i == 0 ? GET("/late") : i == 1 ? "GET /now HTTP/1.1\r\nHo" : GET("/now"));
        if (i > 1) expect(&c[i], &a, 200, "now");
        usleep(20000); /* one after the other */
    }
    exchange *x = wait_held(s);
    usleep(1100000);
    for (int i = 0; i < 3; i++) {
        new_one[i] = dial(s);
        say(&new_one[i], GET("/now"));
        expect(&new_one[i], &a, 200, "now");
        say(&new_one[i], "G");
        for (int k = 2; k < 5; k++) /* those before are closed, those behind are not */
            if (k <= 2 + i) assert_true(closed(&c[k]));
            else if (recv(c[k].fd, &(char){ 0 }, 1, MSG_DONTWAIT | MSG_PEEK) >= 0) fail_msg("%d was closed for %d", k, i);
    }
    client last = dial(s); /* nobody is idle now */
    expect_error(&last, &a, 503, "too_many_connections");
    hang_up(&last);
    say(&c[1], "st: x\r\n\r\n");
    expect(&c[1], &a, 200, "now");
    exchange_reply(x, 200, "text/plain", "", "late", 4);
    expect(&c[0], &a, 200, "late");
    for (int i = 0; i < 5; i++) hang_up(&c[i]);
    for (int i = 0; i < 3; i++) hang_up(&new_one[i]);
    buf_free(&a.body);
    close_site(s);
}

/* When no file can be opened, the server waits without turning, and goes on afterwards. */
static void no_files_left(void **state) {
    (void)state;
    site *s = open_site((http_opts){ 0 });
    struct rlimit before, low;
    int taken[300], n = 0;
    answer a = { 0 };
    struct timespec t0, t1;
    clockid_t clock;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    low = before;
    low.rlim_cur = 256;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    while (n < 300 && (taken[n] = dup(0)) >= 0) n++;
    assert_true(n > 0 && n < 300);
    close(taken[--n]);
    client c = dial(s); /* takes the last one */
    say(&c, GET("/now"));
    assert_int_equal(pthread_getcpuclockid(s->thread, &clock), 0);
    clock_gettime(clock, &t0);
    usleep(400000);
    clock_gettime(clock, &t1);
    double busy = (double)(t1.tv_sec - t0.tv_sec) + 1e-9 * (double)(t1.tv_nsec - t0.tv_nsec);
    int accepted = (int)http_about(s->h).accepted;
    while (n) close(taken[--n]);
    setrlimit(RLIMIT_NOFILE, &before);
    assert_int_equal(accepted, 0);
    if (busy > 0.1) fail_msg("busy for %g of 0.4 s", busy);
    expect(&c, &a, 200, "now");
    hang_up(&c);
    buf_free(&a.body);
    close_site(s);
}

/* ---- time ---- */

/* Says this, then a blank every 50 ms, until the server closes; the seconds it took. */
static double dribble(site *s, const char *first, answer *a, int status) {
    client c = dial(s);
    double before = now_seconds();
    say(&c, first);
    for (int i = 0; i < 100; i++) {
        struct pollfd p = { .fd = c.fd, .events = POLLIN };
        if (poll(&p, 1, 50) > 0) break;
        if (*first && status) send(c.fd, "x", 1, MSG_NOSIGNAL);
    }
    double seconds = now_seconds() - before;
    if (status) expect_error(&c, a, status, "request_timeout");
    else assert_true(closed(&c));
    hang_up(&c);
    return seconds;
}

static void timeouts(void **state) {
    (void)state;
    site *s = open_site((http_opts){ .header_timeout = 0.3, .body_timeout = 0.2, .idle_timeout = 0.25 });
    answer a = { 0 };
    double t;
    t = dribble(s, "GET /", &a, 408); /* a byte now and then does not help */
    if (t < 0.25 || t > patience(1)) fail_msg("the head: %g s", t);
    t = dribble(s, POST("/", 1000), &a, 408);
    if (t < 0.15 || t > patience(1)) fail_msg("the body: %g s", t);
    t = dribble(s, "", &a, 0);
    if (t < 0.25 || t > patience(1)) fail_msg("nothing: %g s", t);
    client c = dial(s);
    for (int i = 0; i < 3; i++) {
        usleep(100000);
        say(&c, GET("/now"));
        expect(&c, &a, 200, "now");
    }
    double before = now_seconds();
    assert_true(closed(&c));
    t = now_seconds() - before;
    if (t < 0.2 || t > patience(1)) fail_msg("idle: %g s", t);
    hang_up(&c);
    c = dial(s); /* an answer may take its time */
    say(&c, GET("/late"));
    exchange *x = wait_held(s);
    usleep(600000);
    exchange_reply(x, 200, "text/plain", "", "late", 4);
    expect(&c, &a, 200, "late");
    hang_up(&c);
    buf_free(&a.body);
    close_site(s);
}

static void slow_reader(void **state) {
    (void)state;
    site *s = open_site((http_opts){ .write_timeout = 0.5 });
    client slow = dial(s), other = dial(s);
    answer a = { 0 };
    say(&slow, GET("/flood"));
    double worst = 0, before = now_seconds();
    while (now_seconds() - before < 0.3) { /* nobody else notices */
        double t = now_seconds();
        say(&other, GET("/now"));
        expect(&other, &a, 200, "now");
        worst = worst > now_seconds() - t ? worst : now_seconds() - t;
    }
    print_message("beside a client that does not read: worst %.1f ms\n", worst * 1000);
    assert_true(worst < patience(0.1));
    wait_for(&s->closed, 1, 3); /* write_timeout */
    assert_true(atomic_load(&s->closed_at) - before > 0.4);
    hang_up(&slow);
    slow = dial(s); /* but one that reads slowly gets everything */
    say(&slow, GET("/big"));
    assert_true(hear_head(&slow, &a));
    for (int i = 0; i < 8; i++) {
        usleep(100000);
        take(&slow, &a.body, (size_t)1 << 20);
    }
    assert_int_equal(a.body.n, (size_t)8 << 20);
    for (size_t i = 0; i < a.body.n; i++)
        if (a.body.p[i] != (char)('a' + i % 23)) fail_msg("byte %zu is wrong", i);
    hang_up(&slow);
    hang_up(&other);
    buf_free(&a.body);
    close_site(s);
}

/* ---- clients that go ---- */

/* A client that closes is noticed within 100 ms: before the answer, in the middle of a stream, by reset; also if it had said more. */
static void gone(void **state) {
    (void)state;
    site *s = open_site((http_opts){ 0 });
    answer a = { 0 };
    double worst = 0;
    for (int i = 0; i < 16; i++) {
        bool begun = i & 1, reset = i & 2, unread = i & 4, extra = i & 8;
        client c = dial(s);
        say(&c, extra ? GET("/hold") GET("/now") : GET("/hold"));
        exchange *x = wait_held(s);
        atomic_store(&s->closed, 0);
        if (begun) exchange_begin(x, 200, "text/plain", "");
        if (begun) exchange_write(x, "some", 4);
        if (begun && !unread) { /* to the last byte: otherwise closing would be a reset */
            assert_true(hear_head(&c, &a) && strcmp(line(&c), "4") == 0 && take(&c, &a.body, 6));
        } else {
            usleep(5000);
        }
        if (reset) reset_on_close(&c);
        assert_false(exchange_is_closed(x));
        double before = now_seconds();
        hang_up(&c);
        wait_for(&s->closed, 1, 1);
        double t = atomic_load(&s->closed_at) - before;
        worst = worst > t ? worst : t;
        assert_true(exchange_is_closed(x));
        exchange_write(x, "nothing happens", 15);
        assert_int_equal(exchange_pending(x), 0);
        exchange_on_close(x, on_closed, s); /* too late: told at once */
        wait_for(&s->closed, 2, 1);
        if (begun) exchange_end(x);
        else exchange_reply(x, 200, "text/plain", "", "for nobody", 10);
    }
    print_message("closing is seen within %.1f ms\n", worst * 1000);
    assert_true(worst < patience(0.1));
    client c = dial(s); /* closed before anybody has read the request */
    client other = dial(s);
    atomic_store(&s->closed, 0);
    say(&other, GET("/sleep"));
    usleep(50000 * SLOW);
    say(&c, GET("/hold"));
    hang_up(&c);
    exchange *x = wait_held(s);
    wait_for(&s->closed, 1, 1);
    exchange_end(x);
    expect(&other, &a, 200, "now");
    hang_up(&other);
    c = dial(s); /* taken back: never called */
    say(&c, GET("/hold"));
    x = wait_held(s);
    atomic_store(&s->closed, 0);
    exchange_on_close(x, NULL, NULL);
    hang_up(&c);
    for (int i = 0; i < 1000 * SLOW && !exchange_is_closed(x); i++) usleep(1000);
    assert_true(exchange_is_closed(x));
    exchange_end(x);
    assert_int_equal(atomic_load(&s->closed), 0);
    buf_free(&a.body);
    close_site(s);
}

/* A client that only stops writing gets its answer: at once, late, as a stream, with HTTP/1.0. */
static void half_closed(void **state) {
    (void)state;
    site *s = open_site((http_opts){ 0 });
    answer a = { 0 };
    for (int late = 0; late < 2; late++) {
        client c = dial(s);
        say(&c, GET("/late"));
        shutdown(c.fd, SHUT_WR);
        exchange *x = wait_held(s);
        if (late) usleep(50000);
        assert_false(exchange_is_closed(x));
        exchange_reply(x, 200, "text/plain", "", "late", 4);
        do assert_true(hear(&c, &a));
        while (a.status == 100);
        assert_string_equal(a.body.p, "late");
        assert_true(closed(&c));
        hang_up(&c);
    }
    client c = dial(s);
    say(&c, GET("/late"));
    exchange *x = wait_held(s);
    shutdown(c.fd, SHUT_WR);
    hear(&c, &a);
    assert_int_equal(a.status, 100); /* asked whether it still listens */
    exchange_begin(x, 200, "text/plain", "");
    exchange_write(x, "a", 1);
    usleep(50000);
    exchange_write(x, "b", 1);
    exchange_end(x);
    expect(&c, &a, 200, "ab");
    hang_up(&c);
    c = dial(s);
    say(&c, "GET /late HTTP/1.0\r\n\r\n");
    shutdown(c.fd, SHUT_WR);
    x = wait_held(s);
    usleep(50000);
    exchange_reply(x, 200, "text/plain", "", "old", 3);
    expect(&c, &a, 200, "old");
    hang_up(&c);
    c = dial(s);
    say(&c, "GET /l");
    shutdown(c.fd, SHUT_WR);
    expect_error(&c, &a, 400, "malformed_request");
    hang_up(&c);
    buf_free(&a.body);
    close_site(s);
}

/* Clients close at the same moment as their exchanges end, many times: nothing is called too late, nothing is lost. */
static void closing_races_ending(void **state) {
    (void)state;
    site *s = open_site((http_opts){ 0 });
    for (int i = 0; i < 400; i++) {
        client c = dial(s);
        say(&c, GET("/hold"));
        exchange *x = wait_held(s);
        if (i & 1) exchange_begin(x, 200, "text/plain", "");
        for (volatile int spin = i * 20; spin > 0; spin--) {}
        hang_up(&c);
        for (volatile int spin = (400 - i) * 20; spin > 0; spin--) {}
        if (i & 1) exchange_end(x);
        else exchange_reply(x, 200, "text/plain", "", "x", 1);
        int before = atomic_load(&s->closed);
        if (i % 50 == 0) usleep(2000);
        assert_int_equal(atomic_load(&s->closed), before);
    }
    close_site(s);
}

/* ---- the end ---- */

static void stop_drains(void **state) {
    (void)state;
    site *s = open_site((http_opts){ 0 });
    client busy = dial(s), stream = dial(s), idle = dial(s), partial = dial(s);
    answer a = { 0 };
    say(&busy, GET("/late"));
    exchange *x = wait_held(s);
    say(&stream, GET("/late"));
    exchange *y = wait_held(s);
    exchange_begin(y, 200, "text/plain", "");
    say(&idle, GET("/now"));
    expect(&idle, &a, 200, "now");
    say(&partial, "GET /n");
    usleep(20000 * SLOW);
    http_stop(s->h);
    assert_true(closed(&idle));
    expect_error(&partial, &a, 503, "shutting_down");
    client late = { .fd = socket(AF_INET, SOCK_STREAM, 0) };
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons((uint16_t)http_port(s->h)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    assert_int_equal(connect(late.fd, (struct sockaddr *)&at, sizeof at), -1);
    usleep(50000);
    exchange_reply(x, 200, "text/plain", "", "drained", 7);
    expect(&busy, &a, 200, "drained");
    assert_non_null(strstr(a.head, "Connection: close\n"));
    assert_true(closed(&busy));
    exchange_write(y, "drained", 7);
    exchange_end(y);
    expect(&stream, &a, 200, "drained");
    hang_up(&late), hang_up(&busy), hang_up(&stream), hang_up(&idle), hang_up(&partial);
    buf_free(&a.body);
    close_site(s);
}

/* Who had connected, and said something, before the stop is answered, even if nobody has looked at it until then. */
static void stop_is_fair(void **state) {
    (void)state;
    site *s = open_site((http_opts){ 0 });
    client first = dial(s), known = dial(s);
    answer a = { 0 };
    say(&known, GET("/now"));
    expect(&known, &a, 200, "now");
    say(&first, GET("/sleep"));
    usleep(50000 * SLOW);
    client fresh = dial(s);
    say(&known, GET("/known"));
    say(&fresh, GET("/fresh"));
    http_stop(s->h);
    expect(&first, &a, 200, "now");
    expect(&known, &a, 200, "GET /known  127.0.0.1 -");
    assert_true(closed(&known));
    expect(&fresh, &a, 200, "GET /fresh  127.0.0.1 -");
    hang_up(&first), hang_up(&known), hang_up(&fresh);
    buf_free(&a.body);
    close_site(s);
}

static void listen_errors(void **state) {
    (void)state;
    site *s = open_site((http_opts){ 0 });
    http *h;
    err e = { 0 };
    assert_int_equal(http_listen(&h, &(http_opts){ .port = http_port(s->h) }, &e), -1);
    assert_non_null(strstr(e.msg, "another program listens there"));
    e = (err){ 0 };
    assert_int_equal(http_listen(&h, &(http_opts){ .port = 70000 }, &e), -1);
    assert_non_null(strstr(e.msg, "70000"));
    e = (err){ 0 };
    assert_int_equal(http_listen(&h, &(http_opts){ .host = "no such host" }, &e), -1);
    assert_non_null(strstr(e.msg, "no such host"));
    close_site(s);
}

/* All workers are taken, and more requests wait: the light ones have their own. */
static void light_passes(void **state) {
    (void)state;
    enum { HEAVY = 8 };
    site *s = open_site((http_opts){ 0 });
    client heavy[HEAVY], c = dial(s);
    answer a = { 0 };
    atomic_store(&s->blocks, true);
    for (int i = 0; i < HEAVY; i++) {
        heavy[i] = dial(s);
        say(&heavy[i], GET("/block"));
    }
    usleep(20000);
    for (int i = 0; i < 20; i++) { /* for ever, if they had to wait */
        say(&c, GET("/light"));
        expect(&c, &a, 200, "GET /light  127.0.0.1 -");
    }
    char byte;
    for (int i = 0; i < HEAVY; i++) assert_int_equal(recv(heavy[i].fd, &byte, 1, MSG_DONTWAIT), -1);
    atomic_store(&s->blocks, false);
    for (int i = 0; i < HEAVY; i++) {
        expect(&heavy[i], &a, 200, "GET /block  127.0.0.1 -");
        hang_up(&heavy[i]);
    }
    hang_up(&c);
    buf_free(&a.body);
    close_site(s);
}

int main(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, pulse, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(keep_alive, no_stall), cmocka_unit_test_setup(pipelined, no_stall),
        cmocka_unit_test_setup(chunked_both_ways, no_stall), cmocka_unit_test_setup(old_clients_and_head, no_stall),
        cmocka_unit_test_setup(cors, no_stall), cmocka_unit_test_setup(refusals, no_stall),
        cmocka_unit_test_setup(most_connections, no_stall), cmocka_unit_test_setup(idle_makes_room, no_stall),
        cmocka_unit_test_setup(no_files_left, no_stall),
        cmocka_unit_test_setup(timeouts, no_stall), cmocka_unit_test_setup(slow_reader, no_stall),
        cmocka_unit_test_setup(gone, no_stall), cmocka_unit_test_setup(half_closed, no_stall),
        cmocka_unit_test_setup(closing_races_ending, no_stall), cmocka_unit_test_setup(stop_drains, no_stall),
        cmocka_unit_test_setup(listen_errors, no_stall), cmocka_unit_test_setup(stop_is_fair, no_stall),
        cmocka_unit_test_setup(light_passes, no_stall),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
