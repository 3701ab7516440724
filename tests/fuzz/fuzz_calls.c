/* Fuzzer: any answer in every format, in pieces of any size: a reader gives whole calls whose arguments are JSON, whatever the pieces the same
 * parts, and loses nothing of a text without markers. */
#include <stdlib.h>
#include <string.h>

#include "tools/serve/calls.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct said {
    buf parts, arguments;
    bool open, exact;
} said;

static void take(void *arg, const answer_part *p) {
    said *s = arg;
    static int last = -1;
    if (!s->parts.n) last = -1;
    if (p->kind != last || p->kind == PART_CALL) buf_fmt(&s->parts, "\n%d:", p->kind);
    last = p->kind;
    buf_add(&s->parts, p->s, p->n);
    if (p->kind == PART_CALL) {
        if (s->open) abort();
        s->open = true;
        s->arguments.n = 0;
    } else if (p->kind == PART_ARGUMENTS) {
        if (!s->open) abort();
        buf_add(&s->arguments, p->s, p->n);
    } else if (p->kind == PART_CALL_END) {
        arena a = { .limit = 256 << 20 };
        json *j;
        if (!s->open) abort();
        s->open = false;
        if (!s->exact && (json_parse(&a, s->arguments.p, s->arguments.n, &j, NULL) || j->type != JSON_OBJECT)) abort();
        arena_free(&a);
    } else if (s->open) abort();
}

static void read_in(const call_format *f, think_state t, const char *text, size_t n, size_t piece, said *s) {
    static const char schema[] = "{\"properties\":{\"t\":{\"type\":\"string\"},\"n\":{\"type\":\"integer\"},"
                                 "\"x\":{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}}}";
    static call_tool tools[] = { { .name = "f" }, { .name = "weather" }, { .name = "note" } };
    static arena mem;
    json *parameters;
    if (!tools[2].parameters && json_parse(&mem, schema, sizeof schema - 1, &parameters, NULL) == 0) tools[2].parameters = parameters;
    answer_reader r;
    reader_opts o = { .format = f, .tools = tools, .n_tools = 3, .think = { "<think>", "</think>" }, .thinking = t, .take = take, .arg = s };
    reader_begin(&r, &o);
    for (size_t i = 0; i < n; i += piece) reader_feed(&r, text + i, n - i < piece ? n - i : piece, s->exact);
    reader_end(&r);
    if (s->open) abort();
    reader_free(&r);
}

/* The first byte chooses format and thinking, the second the size of the pieces. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    said a = { 0 }, b = { 0 }, c = { .exact = true };
    int n_formats = 0;
    if (size < 2 || size > 4096) return 0;
    while (call_formats[n_formats].name) n_formats++;
    int which = data[0] % (n_formats + 1);
    const call_format *f = which < n_formats ? &call_formats[which] : NULL;
    think_state t = (think_state)(data[0] / 16 % 3);
    const char *text = (const char *)data + 2;
    read_in(f, t, text, size - 2, size, &a);
    read_in(f, t, text, size - 2, 1 + data[1] % 32, &b);
    if (a.parts.n != b.parts.n || (a.parts.n && memcmp(a.parts.p, b.parts.p, a.parts.n))) abort();
    read_in(f, t, text, size - 2, 1 + data[1] % 32, &c); /* as if a grammar held, which it does not */
    buf_free(&a.parts), buf_free(&a.arguments);
    buf_free(&b.parts), buf_free(&b.arguments);
    buf_free(&c.parts), buf_free(&c.arguments);
    return 0;
}
