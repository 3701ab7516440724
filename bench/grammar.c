/* bench/grammar: what a mask costs. A text is followed token by token under a grammar, twice: the first time every mask is new, the second time
 * only what depends on the text is. Processor time of this thread, so that other work on the machine counts little. It links the
 * grammar's headers alone; the tokenizer comes from a checkpoint's folder. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/options.h"
#include "runtime/schema.h"

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static const char person[] =
    "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"age\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":150},"
    "\"email\":{\"type\":\"string\",\"format\":\"email\"},\"born\":{\"type\":\"string\",\"format\":\"date\"},"
    "\"code\":{\"type\":\"string\",\"maxLength\":40},\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}},"
    "\"kind\":{\"enum\":[\"user\",\"admin\"]},\"friend\":{\"anyOf\":[{\"type\":\"null\"},{\"$ref\":\"#\"}]}},"
    "\"required\":[\"name\",\"age\"],\"additionalProperties\":false}";
static const char person_text[] =
    "{\n  \"name\": \"Ada Lovelace, Countess of King\",\n  \"age\": 36,\n  \"email\": \"ada@example.org\",\n  \"born\": \"1815-12-10\",\n"
    "  \"code\": \"Analytical Engine 42\",\n  \"tags\": [\"mathematics\", \"poetical science\", \"notes\"],\n  \"kind\": \"user\",\n"
    "  \"friend\": {\"name\": \"Charles Babbage\", \"age\": 79, \"tags\": [], \"friend\": null}\n}";
static const char any_text[] =
    "{\"title\": \"A report on grammars\", \"pages\": [1, 2, 3.5, -4e2], \"done\": true, \"author\": {\"name\": \"Somebody Else\", "
    "\"home\": {\"street\": \"12 Long Lane\\nBack Yard\", \"none\": null}}, \"words\": [\"some\", "
    "\"words that go on for a while, as prose does\", [\"deeper\", [\"and deeper\", {\"still\": \"yes\"}]]]}";

typedef struct figures {
    double first, warm, most, accept; /* microseconds a token */
    int n;
} figures;

/* One pass over the tokens: masks, and accepting. */
static int pass(grammar_state *s, const ids *tokens, float *row, int n_vocab, double *mask, double *accept, double *most, err *e) {
    if (grammar_state_reset(s, e)) return -1;
    *mask = *accept = *most = 0;
    for (size_t i = 0; i < tokens->n; i++) {
        memset(row, 0, (size_t)n_vocab * sizeof *row);
        double t0 = cpu_seconds();
        if (grammar_mask(s, row, n_vocab, e)) return -1;
        double t1 = cpu_seconds();
        if (row[tokens->p[i]] != 0) return fail(e, "the mask forbids token %zu of the text", i);
        if (grammar_accept(s, tokens->p[i], e)) return -1;
        double t2 = cpu_seconds();
        *mask += t1 - t0;
        *accept += t2 - t1;
        if (t1 - t0 > *most) *most = t1 - t0;
    }
    return grammar_may_end(s) ? 0 : fail(e, "the text is not whole");
}

static int measure(const tokenizer *t, const vocabulary *v, const char *schema, const char *text, figures *f, err *e) {
    grammar *g;
    grammar_state *s = NULL;
    ids tokens = { 0 };
    int n_vocab = tokenizer_size(t), rc = schema ? schema_compile(&g, v, schema, strlen(schema), e) : schema_any_object(&g, v, e);
    float *row = malloc((size_t)n_vocab * sizeof *row);
    double mask, accept, most;
    if (!rc && !row) rc = fail_memory(e, (size_t)n_vocab * sizeof *row, "a row of logits");
    if (!rc) rc = tokenizer_encode(t, text, strlen(text), 0, &tokens, e);
    if (!rc) rc = grammar_state_new(&s, g, NULL, 0, e);
    if (!rc) rc = pass(s, &tokens, row, n_vocab, &mask, &accept, &most, e);
    double scale = 1e6 / (double)(tokens.n ? tokens.n : 1);
    if (!rc) *f = (figures){ .first = mask * scale, .most = most * 1e6, .warm = 1e9, .n = (int)tokens.n };
    for (int round = 0; round < 3 && !rc; round++) { /* a new state, as another request has: only what is shared is warm */
        grammar_state_free(s);
        rc = grammar_state_new(&s, g, NULL, 0, e);
        if (!rc) rc = pass(s, &tokens, row, n_vocab, &mask, &accept, &most, e);
        if (!rc && mask * scale < f->warm) f->warm = mask * scale, f->accept = accept * scale;
    }
    if (!rc) {
        grammar_figures a = grammar_about(s);
        printf("  %zu states, %zu shared masks of %.1f MB, this text's own sets %.1f MB\n", a.states, a.masks,
               (double)a.mask_bytes / 1e6, (double)a.state_bytes / 1e6);
    }
    free(row);
    ids_free(&tokens);
    grammar_state_free(s);
    grammar_free(g);
    return rc;
}

/* ---- what could be dear ---- */

static void list_of(buf *b, int n, const char *before, const char *item, const char *after) {
    buf_str(b, before);
    for (int i = 0; i < n; i++) {
        if (i) buf_byte(b, ',');
        for (const char *p = item; *p; p++) *p == '#' ? buf_fmt(b, "%d", i) : buf_byte(b, *p);
    }
    buf_str(b, after);
}

static void enum_1000(buf *b) { list_of(b, 1000, "{\"enum\":[", "\"the value number # of many\"", "]}"); }

static void keys_300(buf *b) {
    list_of(b, 300, "{\"type\":\"object\",\"properties\":{", "\"key number #\":{\"type\":\"integer\"}", "},\"additionalProperties\":false}");
}

static void open_keys_300(buf *b) {
    list_of(b, 300, "{\"type\":\"object\",\"properties\":{", "\"key number #\":{\"type\":\"string\"}",
            "},\"additionalProperties\":{\"type\":\"integer\"}}");
}

static void any_of_60(buf *b) {
    static const char one[] = "{\"type\":\"object\",\"properties\":{\"kind\":{\"const\":\"k#\"},"
                              "\"v\":{\"type\":[\"string\",\"number\"],\"maxLength\":#}},"
                              "\"required\":[\"kind\",\"v\"],\"additionalProperties\":false}";
    list_of(b, 60, "{\"anyOf\":[", one, "]}");
}

static void any_of_patterns(buf *b) {
    list_of(b, 40, "{\"anyOf\":[", "{\"type\":\"string\",\"pattern\":\"^[a-z]{#}[^x]{0,60}[0-9]$\"}", "]}");
}

static void any_of_nested(buf *b) {
    buf_str(b, "{\"$defs\":{\"a\":");
    list_of(b, 8, "{\"anyOf\":[", "{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/a\"},\"minItems\":#}",
            ",{\"type\":\"string\"},{\"type\":\"number\"}]}},\"$ref\":\"#/$defs/a\"}");
    for (size_t i = 0; i + 8 < b->n; i++) /* the item's own # is a number, the reference's is none */
        if (memcmp(b->p + i, "\"$ref\":\"", 8) == 0 && b->p[i + 8] != '#') b->p[i + 8] = '#';
}

static void grammar_ambiguous(buf *b) {
    buf_str(b, "root ::= (word | phrase | [a-z ]{0,40})*\nword ::= [a-z]{1,20} \" \"?\nphrase ::= word{1,10}");
}

static void grammar_unicode(buf *b) {
    buf_str(b, "root ::= [^\\x00-\\x1f\"<>\\u2028\\u2029]{0,500} | [\\u4e00-\\u9fff\\u3040-\\u30ff\\uac00-\\ud7a3]{0,500} "
               "| [\\u0400-\\u04ff ]{0,500}");
}

static void pattern_500(buf *b) { buf_str(b, "{\"type\":\"string\",\"pattern\":\"^[A-Za-z0-9 ,.'-]{0,500}$\"}"); }
static void pattern_words(buf *b) { buf_str(b, "{\"type\":\"string\",\"pattern\":\"^(?:[A-Z][a-z]{1,30} ?){0,50}$\"}"); }
static void pattern_inside(buf *b) { buf_str(b, "{\"type\":\"string\",\"pattern\":\"a.{0,12}b\",\"maxLength\":300}"); }
static void pattern_wide(buf *b) { buf_str(b, "{\"type\":\"string\",\"pattern\":\"^[^\\\\u0000-\\\\u001f<>&\\\"]{0,500}$\"}"); }
static void length_5000(buf *b) { buf_str(b, "{\"type\":\"string\",\"minLength\":4000,\"maxLength\":5000}"); }

/* A way through: any of the tokens that are allowed, again and again. The dearest mask of those that were new. */
static int wander(grammar *g, int n_vocab, figures *f, err *e) {
    grammar_state *s;
    uint64_t seed = 1;
    float *row = malloc((size_t)n_vocab * sizeof *row);
    if (!row || grammar_state_new(&s, g, NULL, 0, e)) return free(row), fail_memory(e, (size_t)n_vocab * sizeof *row, "a row of logits");
    int rc = 0;
    *f = (figures){ 0 };
    for (int i = 0; i < 300 && !rc; i++) {
        if (grammar_done(s) || i % 60 == 59) rc = grammar_state_reset(s, e);
        memset(row, 0, (size_t)n_vocab * sizeof *row);
        double t0 = cpu_seconds();
        if (!rc) rc = grammar_mask(s, row, n_vocab, e);
        double t = (cpu_seconds() - t0) * 1e6;
        int32_t pick = -1, seen = 0;
        for (int32_t id = 0; id < n_vocab && !rc; id++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            if (row[id] == 0 && (seed >> 33) % (uint64_t)++seen == 0) pick = id;
        }
        if (!rc && pick < 0) { /* it may end here, and nothing else */
            rc = grammar_state_reset(s, e);
            continue;
        }
        if (!rc) rc = grammar_accept(s, pick, e);
        f->first += t;
        if (t > f->most) f->most = t;
        f->n++;
    }
    grammar_figures a = grammar_about(s);
    if (!rc) printf("%6zu states %5zu masks %6.1f MB", a.states, a.masks, (double)(a.mask_bytes + a.state_bytes) / 1e6);
    f->first /= f->n ? f->n : 1;
    grammar_state_free(s);
    free(row);
    return rc;
}

static int hard_cases(const vocabulary *v, int n_vocab, err *e) {
    static const struct { const char *name; void (*make)(buf *b); bool gbnf; } all[] = {
        { "enum of 1000 strings", enum_1000, false },
        { "object of 300 keys", keys_300, false },
        { "the same, open", open_keys_300, false },
        { "anyOf of 60 objects", any_of_60, false },
        { "anyOf of 40 patterns", any_of_patterns, false },
        { "anyOf in itself", any_of_nested, false },
        { "[class]{0,500}", pattern_500, false },
        { "(?:word ?){0,50}", pattern_words, false },
        { "a.{0,12}b, maxLength 300", pattern_inside, false },
        { "[^class]{0,500}", pattern_wide, false },
        { "length 4000 to 5000", length_5000, false },
        { "ambiguous words (GBNF)", grammar_ambiguous, true },
        { "Unicode classes (GBNF)", grammar_unicode, true },
    };
    int rc = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all && !rc; i++) {
        buf b = { 0 };
        grammar *g;
        figures f = { 0 };
        err why = { 0 };
        all[i].make(&b);
        double t0 = cpu_seconds();
        int made = all[i].gbnf ? grammar_compile(&g, v, b.p, b.n, &why) : schema_compile(&g, v, b.p, b.n, &why);
        double ms = (cpu_seconds() - t0) * 1e3;
        printf("%-26s compiled in %7.1f ms ", all[i].name, ms);
        if (made) printf(" refused: %s\n", why.msg);
        else if (!(rc = wander(g, n_vocab, &f, e))) printf("   mean %8.1f us   most %9.1f us\n", f.first, f.most);
        if (!made) grammar_free(g);
        buf_free(&b);
    }
    return rc;
}

static int run(const char *folder, err *e) {
    tokenizer *t = NULL;
    vocabulary *v = NULL;
    if (tokenizer_load(&t, folder, NULL, e)) return -1;
    if (!t) return fail(e, "%s: no tokenizer (tokenizer.json, tokenizer.model, vocab.json, ...); expected a checkpoint's folder", folder);
    double start = cpu_seconds();
    int rc = vocabulary_new(&v, t, e);
    if (!rc) printf("%d tokens; their trie made in %.0f ms\n", tokenizer_size(t), (cpu_seconds() - start) * 1e3);
    static const struct { const char *name, *schema, *text; } cases[] = { { "any object", NULL, any_text }, { "a schema", person, person_text } };
    for (int i = 0; i < 2 && !rc; i++) {
        figures f = { 0 };
        rc = measure(t, v, cases[i].schema, cases[i].text, &f, e);
        if (!rc)
            printf("%-10s %4d tokens   first %8.1f us (most %8.1f)   warm %7.1f us   accept %5.1f us\n", cases[i].name,
                   f.n, f.first, f.most, f.warm, f.accept);
    }
    if (!rc) rc = hard_cases(v, tokenizer_size(t), e);
    vocabulary_free(v);
    tokenizer_free(t);
    return rc;
}

int main(int argc, char **argv) {
    static const char about[] = "What the masks of grammars and schemas cost with a checkpoint's tokenizer, in "
                                "microseconds a token of one thread: of usual\n"
                                "texts, and of random ways through grammars that could be dear.";
    const program p = { "bench/grammar", "FOLDER", about, NULL, 0 };
    const char *folder = NULL;
    int n_words, rc = options_parse(&p, argc, argv, &folder, 1, &n_words);
    err e = { 0 };
    if (rc != OPTIONS_GO_ON) return rc;
    if (n_words != 1) return usage_error(&p, "expected a checkpoint's folder");
    if (run(folder, &e) == 0) return 0;
    fprintf(stderr, "bench/grammar: %s\n", e.msg);
    return 1;
}
