/* Fuzzer: JSON. What parses must be a tree of the promised shape, and what is written of it must parse to the same again. */
#include <stdlib.h>
#include <string.h>

#include "tokenizer/unicode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_out(const json *j, int depth, buf *out) {
    if (depth > JSON_MAX_DEPTH) abort();
    switch (j->type) {
    case JSON_NULL: buf_str(out, "null"); break;
    case JSON_FALSE: buf_str(out, "false"); break;
    case JSON_TRUE: buf_str(out, "true"); break;
    case JSON_NUMBER: buf_add(out, j->s, j->n); break;
    case JSON_STRING:
        if (j->n && !utf8_valid(j->s, j->n)) abort();
        if (j->s[j->n]) abort();
        buf_json(out, j->s, j->n);
        break;
    default: {
        uint32_t n = 0;
        buf_byte(out, j->type == JSON_ARRAY ? '[' : '{');
        for (const json *k = j->child; k; k = k->next, n++) {
            if (n) buf_byte(out, ',');
            if (j->type == JSON_OBJECT) {
                if (k->key[k->key_n] || (k->key_n && !utf8_valid(k->key, k->key_n))) abort();
                buf_json(out, k->key, k->key_n);
                buf_byte(out, ':');
            }
            write_out(k, depth + 1, out);
        }
        if (n != j->n) abort();
        buf_byte(out, j->type == JSON_ARRAY ? ']' : '}');
    }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    arena a = { 0 }, b = { 0 };
    json *j, *again;
    buf one = { 0 }, two = { 0 };
    err e = { 0 };
    int64_t i;
    double x;
    if (json_parse(&a, (const char *)data, size, &j, &e) == 0) {
        json_int(j, &i);
        json_num(j, &x);
        json_get(j, "a");
        write_out(j, 0, &one);
        if (!one.failed && (json_parse(&b, one.p, one.n, &again, &e) != 0)) abort();
        if (!one.failed) write_out(again, 0, &two);
        if (!one.failed && !two.failed && (one.n != two.n || memcmp(one.p, two.p, one.n) != 0)) abort();
    } else if (!e.code) abort();
    buf_free(&one);
    buf_free(&two);
    arena_free(&a);
    arena_free(&b);
    return 0;
}
