/* Fuzzer: any body to every path that reads one, and for what is accepted the events of a short answer, whole and streamed. Every request gets
 * exactly one reply, what is held is given back, and a reply that says it is JSON is JSON. */
#include "tests/api_fakes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_json(const exchange *x) {
    arena a = { 0 };
    json *j;
    if (x->whole && x->body.n && strncmp(x->type, "application/json", 16) == 0 && json_parse(&a, x->body.p, x->body.n, &j, NULL)) abort();
    arena_free(&a);
}

static void play(int how) {
    job *j = fake.submitted;
    job_failure f = { .code = JOB_NOT_FINITE, .msg = "no", .phase = "decode" };
    for (int p = 0; p < j->n_prompts && p < 3; p++)
        for (int c = 0; c < j->n && c < 3; c++) {
            float v[4] = { 1, 2, 3, 4 };
            if (j->kind == JOB_EMBED) fake_event((job_event){ .kind = EVENT_EMBEDDING, .prompt = p, .embedding = v, .n_embedding = 4 });
            if (j->kind != JOB_GENERATE) continue;
            fake_piece(p, c, 559, fake.m.calls ? "<think>a</think> <tool_call>{\"name\":\"f\",\"arg" : "Once");
            fake_piece(p, c, 560, fake.m.calls ? "uments\":{\"a\":1}}</tool_" : "");
            fake_piece(p, c, -1, fake.m.calls ? "call>\n<tool_call>{}" : "\"\n");
            if (how != 1) fake_event((job_event){ .kind = EVENT_CHOICE_END, .prompt = p, .choice = c, .end = how == 2 ? END_SHUTDOWN : END_LENGTH });
        }
    if (how == 1) fake_event((job_event){ .kind = EVENT_FAILED, .failure = &f });
    else fake_event((job_event){ .kind = EVENT_END, .timings = { .n_prompt = 3, .n_decoded = 2 } });
}

/* QUERN_FUZZ_DIALECT=openai, ollama, anthropic or native: only the paths of that one. */
static bool is_asked(const endpoint *p) {
    static const char *const names[] = { [DIALECT_OPENAI] = "openai", [DIALECT_OLLAMA] = "ollama",
                                         [DIALECT_ANTHROPIC] = "anthropic", [DIALECT_NATIVE] = "native" };
    const char *only = getenv("QUERN_FUZZ_DIALECT");
    return p->fields && (!only || strcmp(only, names[p->dialect]) == 0);
}

/* The first byte chooses the path and how the answer goes; the rest is the body. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static bool open;
    err e = { 0 };
    if (!open && fake_open(&e)) abort(); /* run it where weights/pip-stories lies */
    open = true;
    if (!size) return 0;
    int n = 0, which = data[0] / 4;
    for (int i = 0; i < endpoints_n; i++) n += is_asked(&endpoints[i]);
    if (!n) abort(); /* no dialect of that name */
    which %= n;
    const endpoint *p = endpoints;
    while (!is_asked(p) || which--) p++;
    char *body = malloc(size);
    if (!body) return 0;
    memcpy(body, data + 1, size - 1);
    body[size - 1] = 0;
    exchange x = { 0 };
    fake.s.strict = data[0] & 1;
    fake.m.calls = size % 2 ? call_format_of("tools <tool_call> arguments", 27) : NULL;
    fake.m.think = size % 2 ? think_marks_of("</think>", 8) : (think_marks){ 0 };
    fake_ask(&x, p->method, p->path, body, size - 1);
    if (fake.submitted) play(data[0] & 3);
    if (!x.ended || fake.held) abort();
    check_json(&x);
    buf_free(&x.body);
    free(body);
    return 0;
}
