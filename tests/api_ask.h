/* api_ask: what tests of the server's dialects do over api_fakes.h: send a request, look at the reply and at the job that came of it. */
#ifndef QUERN_TEST_API_ASK_H
#define QUERN_TEST_API_ASK_H

#include "tests/api_fakes.h"
#include "tests/test.h"

static exchange x;

static inline void ask(const char *path, const char *body) {
    buf_free(&x.body);
    fake_ask(&x, "POST", path, body, strlen(body));
}

static inline void get(const char *method, const char *path) {
    buf_free(&x.body);
    fake_ask(&x, method, path, "", 0);
}

static inline const char *reply(void) {
    buf_byte(&x.body, 0);
    x.body.n--;
    return x.body.p;
}

static inline void has(const char *text) {
    if (!strstr(reply(), text)) fail_msg("expected %s in:\n%s", text, reply());
}

static inline void has_not(const char *text) {
    if (strstr(reply(), text)) fail_msg("did not expect %s in:\n%s", text, reply());
}

static inline job *accepted(void) {
    if (!fake.submitted) fail_msg("refused: %d %s", x.status, reply());
    return fake.submitted;
}

/* A whole answer of two tokens and what stays at the end. */
static inline void answer_with(job_end end, const char *stop) {
    fake_piece(0, 0, 559, "Once");
    fake_piece(0, 0, 560, "");
    fake_piece(0, 0, -1, " upon \"\xc3\xa9\"");
    fake_event((job_event){ .kind = EVENT_CHOICE_END, .end = end, .stop_string = stop });
    if (!fake.submitted) return;
    fake_event((job_event){ .kind = EVENT_END, .timings = { .n_prompt = 8, .n_cached = 3, .n_decoded = 2, .prompt = 0.5,
                                                            .decode = 0.25, .total = 1 } });
}

static inline void refused(int status, const char *code, const char *text) {
    if (fake.submitted) fail_msg("accepted");
    if (x.status != status) fail_msg("expected status %d, found %d: %s", status, x.status, reply());
    has(code);
    if (text) has(text);
    assert_true(x.ended);
    assert_int_equal(fake.held, 0);
}

static inline void drop(void) { /* a job that nobody works on */
    if (fake.submitted) fake_event((job_event){ .kind = EVENT_END });
    assert_int_equal(fake.held, 0);
}

#define MESSAGES "\"messages\":[{\"role\":\"user\",\"content\":\"Tell me a story\"}]"

static inline int open_fakes(void **state) {
    (void)state;
    err e = { 0 };
    if (!fake_open(&e)) return 0;
    fprintf(stderr, "%s\n", e.msg);
    return -1;
}

static inline int close_fakes(void **state) {
    (void)state;
    buf_free(&x.body);
    fake_close();
    return 0;
}

#endif
