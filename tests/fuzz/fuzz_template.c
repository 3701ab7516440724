/* Fuzzer: chat templates. Up to a zero byte the input is the template, behind it the variables as JSON; without one the variables are a
 * usual chat. What renders must be UTF-8, the same twice, and its ranges must lie in it. Seeds lie in seeds/fuzz_template. */
#include <stdlib.h>
#include <string.h>

#include "tokenizer/template.h"
#include "tokenizer/unicode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char usual[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"S \\n\"},{\"role\":\"user\",\"content\":\"<|im_end|> \\u00e9\\u4f60\",\"n\":1.5},"
    "{\"role\":\"assistant\",\"content\":\"a</think>b\",\"tool_calls\":[{\"id\":\"abc123def\",\"function\":{\"name\":\"f\","
    "\"arguments\":{\"a\":[1,2],\"b\":null}}}]},"
    "{\"role\":\"tool\",\"content\":[{\"type\":\"text\",\"text\":\"t\"}]}],\"tools\":[{\"type\":\"function\","
    "\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\","
    "\"properties\":{\"a\":{\"type\":\"string\",\"enum\":[\"x\",\"y\"]}},\"required\":[\"a\"]}}}],\"add_generation_prompt\":true,"
    "\"bos_token\":\"<s>\",\"eos_token\":\"</s>\","
    "\"s\":\"Hello World\",\"n\":7,\"f\":2.5,\"l\":[3,1,2],\"d\":{\"b\":1,\"a\":{\"x\":[]}},\"none\":null,\"big\":123456789012345678901234567890}";

static void check_ranges(const text_ranges *r, size_t n) {
    size_t at = 0;
    for (size_t i = 0; i < r->n; i++) {
        if (r->p[i].begin < at || r->p[i].end <= r->p[i].begin || r->p[i].end > n) abort();
        at = r->p[i].end;
    }
}

static int render(const template *t, const json *vars, buf *out) {
    static const struct tm now = { .tm_year = 126, .tm_mon = 10, .tm_mday = 21, .tm_wday = 6, .tm_yday = 324 };
    template_opts o = { .now = &now, .max_steps = 300000, .max_memory = 64 << 20, .max_output = 4 << 20 };
    text_ranges user, generation;
    err e = { 0 };
    int rc = template_render_with(t, vars, &o, out, &user, &generation, &e);
    if ((rc == 0) != (e.code == 0) || (rc && out->n)) abort();
    check_ranges(&user, out->n);
    check_ranges(&generation, out->n);
    if (out->n && !utf8_valid(out->p, out->n)) abort();
    text_ranges_free(&user);
    text_ranges_free(&generation);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t n = zero ? (size_t)(zero - data) : size;
    const char *text = zero ? (const char *)zero + 1 : usual;
    size_t text_n = zero ? size - n - 1 : sizeof usual - 1;
    arena a = { 0 };
    template *t = NULL;
    json *vars = NULL;
    buf one = { 0 }, two = { 0 };
    err e = { 0 };
    if (template_compile(&t, size ? (const char *)data : "", n, &e) == 0 && json_parse(&a, text, text_n, &vars, &e) == 0) {
        int rc = render(t, vars, &one);
        if (render(t, vars, &two) != rc || one.n != two.n || (one.n && memcmp(one.p, two.p, one.n) != 0)) abort();
    }
    template_free(t);
    arena_free(&a);
    buf_free(&one);
    buf_free(&two);
    return 0;
}
