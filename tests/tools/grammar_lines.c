/* grammar_lines: one {"schema": ... or "grammar": ..., "texts": [...], "draws": N, "seed": S, "most": TOKENS} a line in; out a line with
 * {"error": ...} or {"accepts": [...], "drawn": [[text, whole], ...]}: which texts are allowed, and N random ones. For tests/tools/schema_diff.py. */
#define _GNU_SOURCE
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/schema.h"
#include "tests/byte_vocabulary.h"

enum { EOS = 320, IDS };

static vocabulary *v;
static uint64_t state;

static uint32_t any(uint32_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

static void make_vocabulary(void) {
    static const char *const words[] = { "{\"", "\":", "\": ", ", \"", "\",", "\"}", "\"]", "[\"", "}}", "]}", "},", "],", "true", "false",
                                         "null", "\": \"", "\",\"", "10", "12", "00", "0.", ".5", "-1", "the", "\xc3\xa9", "\xf0\x9f\x98\x80",
                                         "\\n", "\\\"", "\\\\", "\\u00", "[[", "{}", "[]", "\n  ", "\": [", "\": {\"", "ab",
                                         "foo", "bar", "type", "kind", "2024-", "-02", "T1", ":3", "Z\"", "@a", "://", "1,", "2]" };
    v = byte_vocabulary(words, (int)(sizeof words / sizeof *words), IDS);
}

static bool accepts(grammar *g, const json *text) {
    grammar_state *s;
    err e = { 0 };
    if (grammar_state_new(&s, g, NULL, 0, &e)) abort();
    bool good = grammar_accept_bytes(s, text->s, text->n, &e) == 0 && grammar_may_end(s);
    grammar_state_free(s);
    return good;
}

/* A token that may come; the end, quotes and brackets oftener than the rest, so that texts end. */
static int32_t draw(const float *row) {
    static const char close[] = "\"}],";
    if (!isinf(row[EOS]) && any(2)) return EOS;
    for (int i = 0; i < 4; i++)
        if (!isinf(row[(int)close[i]]) && any(8) == 0) return close[i];
    int32_t found[IDS], n = 0;
    for (int32_t i = 0; i < IDS; i++)
        if (!isinf(row[i]) && (i < 0x80 || i >= BYTE_TOKENS || any(20) == 0)) found[n++] = i;
    for (int32_t i = 0; i < IDS && n == 0; i++)
        if (!isinf(row[i])) found[n++] = i;
    return n ? found[any((uint32_t)n)] : -1;
}

static bool draw_text(grammar *g, int most, buf *out) {
    static float row[IDS];
    grammar_state *s;
    int32_t eos = EOS;
    err e = { 0 };
    size_t n;
    if (grammar_state_new(&s, g, &eos, 1, &e)) abort();
    for (int i = 0; i < most && !grammar_done(s); i++) {
        memset(row, 0, sizeof row);
        if (grammar_mask(s, row, IDS, &e)) break;
        int32_t id = draw(row);
        if (id < 0) {
            fprintf(stderr, "nothing may come after: %.*s\n", (int)out->n, out->p ? out->p : "");
            abort();
        }
        if (grammar_accept(s, id, &e)) {
            fprintf(stderr, "what the mask allows is refused: %s\n", e.msg);
            abort();
        }
        const char *p = vocabulary_bytes(v, id, &n);
        buf_add(out, p, n);
    }
    bool whole = grammar_done(s);
    grammar_state_free(s);
    return whole;
}

static int64_t number(const json *line, const char *key, int64_t otherwise) {
    int64_t x;
    return json_int(json_get(line, key), &x) ? otherwise : x;
}

static void answer(const json *line) {
    const json *schema = json_get(line, "schema"), *text = json_get(line, "grammar"), *texts = json_get(line, "texts");
    grammar *g;
    err e = { 0 };
    buf out = { 0 };
    int rc = schema ? schema_compile(&g, v, schema->s, schema->n, &e) : grammar_compile(&g, v, text->s, text->n, &e);
    if (rc) {
        buf_str(&out, "{\"error\":");
        buf_json(&out, e.msg, strlen(e.msg));
    } else {
        buf_str(&out, "{\"accepts\":[");
        for (const json *t = texts ? texts->child : NULL; t; t = t->next) buf_fmt(&out, "%s%s", accepts(g, t) ? "true" : "false", t->next ? "," : "");
        buf_str(&out, "],\"drawn\":[");
        state = (uint64_t)number(line, "seed", 1);
        for (int64_t i = 0, n = number(line, "draws", 0); i < n; i++) {
            buf drawn = { 0 };
            bool whole = draw_text(g, (int)number(line, "most", 400), &drawn);
            buf_str(&out, i ? ",[" : "[");
            buf_json(&out, drawn.p ? drawn.p : "", drawn.n);
            buf_str(&out, whole ? ",true]" : ",false]");
            buf_free(&drawn);
        }
        buf_byte(&out, ']');
        grammar_free(g);
    }
    buf_str(&out, "}\n");
    fwrite(out.p, 1, out.n, stdout);
    fflush(stdout);
    buf_free(&out);
}

int main(void) {
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    make_vocabulary();
    while ((n = getline(&line, &cap, stdin)) > 0) {
        arena a = { 0 };
        json *j;
        err e = { 0 };
        if (json_parse(&a, line, (size_t)n, &j, &e)) fprintf(stderr, "%s\n", e.msg), exit(1);
        answer(j);
        arena_free(&a);
    }
    free(line);
    vocabulary_free(v);
    return 0;
}
