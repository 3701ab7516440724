/* Fuzzer: JSON schemas. What compiles gives a text, drawn by the input's hash: it must be JSON once it is whole, and if it never can be
 * whole that is a finding. Its strings alone, as they are, likewise. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/schema.h"
#include "tests/byte_vocabulary.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { EOS = 262, IDS };

static vocabulary *make_vocabulary(void) {
    static const char *const words[] = { "{\"", "\": \"", "\xc3\xa9", "\"}", "10" };
    static vocabulary *v;
    if (!v) v = byte_vocabulary(words, 5, IDS);
    return v;
}

static int32_t pick(const float *row, uint64_t *seed) {
    int32_t ids[IDS];
    uint32_t n = 0;
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    for (const char *c = "\"}],"; *c; c++)
        if (!isinf(row[(int)*c]) && *seed >> 61 == 0) return *c;
    for (int32_t i = 0; i < IDS; i++)
        if (!isinf(row[i])) ids[n++] = i;
    if (!n) abort();
    return ids[(uint32_t)(*seed >> 33) % n];
}

static void draw(grammar *g, uint64_t seed, bool raw) {
    static float row[IDS];
    int32_t eos = EOS;
    grammar_state *s;
    buf text = { 0 };
    err e = { 0 };
    size_t n;
    if (grammar_state_new(&s, g, &eos, 1, &e)) {
        if (!e.code) abort();
        return;
    }
    for (int i = 0; i < 80 && !grammar_done(s); i++) {
        memset(row, 0, sizeof row);
        if (grammar_mask(s, row, IDS, &e)) break;
        int32_t id = pick(row, &seed);
        if (grammar_accept(s, id, &e)) abort();
        const char *p = vocabulary_bytes(make_vocabulary(), id, &n);
        buf_add(&text, p, n);
    }
    if (grammar_done(s) && raw && memchr(text.p ? text.p : "", '<', text.n)) abort();
    if (grammar_done(s) && !raw) {
        arena a = { 0 };
        json *j;
        if (json_parse(&a, text.p, text.n, &j, &e) && !strstr(e.msg, "nested deeper")) abort();
        arena_free(&a);
    }
    buf_free(&text);
    grammar_state_free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    grammar *g;
    err e = { 0 };
    if (size > 4096) return 0;
    static const char gbnf[] = "root ::= v";
    int which;
    schema_rule text = { .name = "v", .schema = (const char *)data, .n = size, .raw = true };
    if (schema_compile(&g, make_vocabulary(), (const char *)data, size, &e)) return e.code ? 0 : (abort(), 0);
    draw(g, hash_bytes(data, size), false);
    grammar_free(g);
    if (schema_compile_within(&g, make_vocabulary(), gbnf, sizeof gbnf - 1, &text, 1, &which, &e)) return e.code ? 0 : (abort(), 0);
    draw(g, hash_bytes(data, size), true);
    grammar_free(g);
    return 0;
}
