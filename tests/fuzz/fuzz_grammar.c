/* Fuzzer: GBNF. Up to a zero byte the input is a grammar, behind it a text that is followed as far as it goes. What compiles gives masks that
 * agree with accepting; nothing that a mask allows leads into a dead end. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/grammar.h"
#include "tests/byte_vocabulary.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { EOS = 262, IDS };

static vocabulary *make_vocabulary(void) {
    static const char *const words[] = { "ab", "\": \"", "\xc3\xa9", "((", "a\"," };
    static vocabulary *v;
    if (!v) v = byte_vocabulary(words, 5, IDS);
    return v;
}

static void check_mask(grammar_state *s) {
    static float row[IDS];
    err e = { 0 };
    int allowed = 0;
    memset(row, 0, sizeof row);
    if (grammar_mask(s, row, IDS, &e)) {
        if (!e.code) abort();
        return;
    }
    for (int32_t id = 0; id < IDS; id++) {
        allowed += !isinf(row[id]);
        if (grammar_allows(s, id) != !isinf(row[id])) abort();
    }
    if (!allowed) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t n = zero ? (size_t)(zero - data) : size, at = n + 1;
    int32_t eos = EOS;
    grammar *g;
    grammar_state *s;
    err e = { 0 };
    if (n > 4096 || grammar_compile(&g, make_vocabulary(), (const char *)data, n, &e)) return n <= 4096 && !e.code ? abort(), 0 : 0;
    if (grammar_state_new(&s, g, &eos, 1, &e) == 0) {
        for (int steps = 0; steps < 24; steps++) {
            check_mask(s);
            if (at >= size || grammar_accept_bytes(s, (const char *)data + at, 1, &e)) break;
            at++;
        }
        grammar_state_free(s);
    } else if (!e.code) abort();
    grammar_free(g);
    return 0;
}
