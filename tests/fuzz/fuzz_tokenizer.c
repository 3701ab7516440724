/* Fuzzer: tokenizer blobs, tokenizer.json, SentencePiece models and regular expressions. The first byte chooses which; what opens
 * must also encode, decode and write without a fault. Seeds lie in seeds/fuzz_tokenizer. */
#include "tokenizer/build.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(tokenizer *t, const char *text, size_t n) {
    ids v = { 0 };
    buf out = { 0 };
    err e = { 0 };
    detok d;
    tokenizer_encode(t, text, n, TOK_SPECIAL | TOK_PARSE_SPECIAL, &v, &e);
    tokenizer_encode(t, text, n, 0, &v, &e);
    for (int32_t id = -1; id < 64; id++) ids_add(&v, id);
    tokenizer_decode(t, v.p, v.n, true, &out, &e);
    if (!out.failed && out.n && !utf8_valid(out.p, out.n)) abort(); /* the header's promise */
    size_t whole = out.n;
    detok_begin(&d, t, true);
    for (size_t i = 0; i < v.n; i++) detok_token(&d, v.p[i], &out);
    detok_end(&d, &out);
    if (!out.failed && (out.n != 2 * whole || (whole && memcmp(out.p, out.p + whole, whole) != 0))) abort();
    tokenizer_id(t, text, n);
    tokenizer_free(t);
    ids_free(&v);
    buf_free(&out);
}

static void try_pattern(const char *p, size_t n) {
    static const char text[] = "Hello w\xc3\xb6rld 123\r\n\n  \xe4\xbd\xa0\xe5\xa5\xbd don't";
    struct regex_work w = { .steps = 100000 };
    regex *re;
    err e = { 0 };
    size_t at = 0, start, end;
    if (!regex_compile(&re, p, n, &e))
        while (regex_find(re, text, sizeof text - 1, at, &start, &end, &w) == 1) at = end;
    regex_free(re);
    regex_work_free(&w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char text[] = " Hello\xe2\x96\x81<s> don't 12345 \xff\xf0\x9f\x98\x80 e\xcc\x81 ab ab\n\n";
    struct build b = { .unk = -1, .bos = -1, .eos = -1 };
    tokenizer *t = NULL;
    err e = { 0 };
    if (!size) return 0;
    const char *p = (const char *)data + 1;
    size_t n = size - 1;
    switch (data[0] % 4) {
    case 0:
        tokenizer_open(&t, p, n, &e);
        break;
    case 1:
        if (!load_json(&b, p, n, &e)) build_finish(&b, &t, &e);
        break;
    case 2:
        if (!load_sentencepiece(&b, p, n, &e)) build_finish(&b, &t, &e);
        break;
    default:
        try_pattern(p, n);
    }
    build_free(&b);
    if (t) use(t, text, sizeof text - 1);
    return 0;
}
