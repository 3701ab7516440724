/* Fuzzer: regular expressions and texts. The bytes up to the first newline are the pattern, the rest is the text.
 * Whatever they are, the work is bounded by the steps allowed, what is found lies inside the text and moves on, and finding goes
 * the same way twice. Seeds lie in seeds/fuzz_regex. */
#include "tokenizer/regex.h"
#include "tokenizer/unicode.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { STEPS = 200000 };

/* All matches of a text one after another; a number that depends on each of them. */
static uint64_t find_all(const regex *re, const char *s, size_t n, bool *stopped) {
    struct regex_work w = { .steps = STEPS };
    size_t at = 0, start = 0, end = 0;
    uint64_t sum = 0;
    int found;
    while ((found = regex_find(re, s, n, at, &start, &end, &w)) == 1) {
        if (start < at || end <= start || end > n) abort();
        if ((start < n && ((uint8_t)s[start] & 0xc0) == 0x80) || (end < n && ((uint8_t)s[end] & 0xc0) == 0x80)) abort();
        sum = sum * 31 + start * 7 + end;
        at = end;
    }
    if (w.steps > STEPS) abort();
    *stopped = found < 0;
    regex_work_free(&w);
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *p = (const char *)data, *newline = size ? memchr(p, '\n', size) : NULL;
    size_t n = newline ? (size_t)(newline - p) : size;
    buf text = { 0 };
    regex *re;
    err e = { 0 };
    bool first, second;
    if (regex_compile(&re, p, n, &e)) {
        if (!e.code || re) abort();
        return 0;
    }
    if (newline) utf8_sanitise(newline + 1, size - n - 1, &text);
    if (text.n && find_all(re, text.p, text.n, &first) != find_all(re, text.p, text.n, &second)) abort();
    regex_free(re);
    buf_free(&text);
    return 0;
}
