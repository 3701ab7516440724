/* bench/grammar: what a mask costs. A text is followed token by token under a grammar, twice: the first time every mask is new, the second time
 * only what depends on the text is. Processor time of this thread, so that other work on the machine counts little. It links the
 * grammar's headers alone; the tokenizer comes from a model file (convert --vocab-only) or a checkpoint's folder. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/schema.h"

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static const char person[] =
    "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"age\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":150},\"email\":{\"type\":\"string\",\"format\":\"email\"},"
    "\"born\":{\"type\":\"string\",\"format\":\"date\"},\"code\":{\"type\":\"string\",\"maxLength\":40},\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}},\"kind\":{\"enum\":[\"user\",\"admin\"]},"
    "\"friend\":{\"anyOf\":[{\"type\":\"null\"},{\"$ref\":\"#\"}]}},\"required\":[\"name\",\"age\"],\"additionalProperties\":false}";
static const char person_text[] =
    "{\n  \"name\": \"Ada Lovelace, Countess of King\",\n  \"age\": 36,\n  \"email\": \"ada@example.org\",\n  \"born\": \"1815-12-10\",\n  \"code\": \"Analytical Engine 42\",\n  \"tags\": [\"mathematics\", \"poetical science\", \"notes\"],\n"
    "  \"kind\": \"user\",\n  \"friend\": {\"name\": \"Charles Babbage\", \"age\": 79, \"tags\": [], \"friend\": null}\n}";
static const char any_text[] =
    "{\"title\": \"A report on grammars\", \"pages\": [1, 2, 3.5, -4e2], \"done\": true, \"author\": {\"name\": \"Somebody Else\", \"home\": {\"street\": \"12 Long Lane\\nBack Yard\", \"none\": null}}, "
    "\"words\": [\"some\", \"words that go on for a while, as prose does\", [\"deeper\", [\"and deeper\", {\"still\": \"yes\"}]]]}";

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
        printf("  %zu states, %zu shared masks of %.1f MB, this text's own sets %.1f MB\n", a.states, a.masks, (double)a.mask_bytes / 1e6, (double)a.state_bytes / 1e6);
    }
    free(row);
    ids_free(&tokens);
    grammar_state_free(s);
    grammar_free(g);
    return rc;
}

int main(int argc, char **argv) {
    err e = { 0 };
    tokenizer *t;
    vocabulary *v;
    if (argc != 2 || argv[1][0] == '-') {
        printf("usage: bench/grammar FOLDER    the cost of masks with the tokenizer of a checkpoint's folder, in microseconds a token\n");
        return argc == 2 && strcmp(argv[1], "--help") == 0 ? 0 : 2;
    }
    if (tokenizer_load(&t, argv[1], NULL, &e) || !t) {
        fprintf(stderr, "grammar: %s\n", e.code ? e.msg : "this folder has no tokenizer");
        return 1;
    }
    double start = cpu_seconds();
    int rc = vocabulary_new(&v, t, &e);
    if (!rc) printf("%d tokens; their trie made in %.0f ms\n", tokenizer_size(t), (cpu_seconds() - start) * 1e3);
    static const struct { const char *name, *schema, *text; } cases[] = { { "any object", NULL, any_text }, { "a schema", person, person_text } };
    for (int i = 0; i < 2 && !rc; i++) {
        figures f;
        rc = measure(t, v, cases[i].schema, cases[i].text, &f, &e);
        if (!rc) printf("%-10s %4d tokens   first %8.1f us (most %8.1f)   warm %7.1f us   accept %5.1f us\n", cases[i].name, f.n, f.first, f.most, f.warm, f.accept);
    }
    if (rc) fprintf(stderr, "grammar: %s\n", e.msg);
    vocabulary_free(v);
    tokenizer_free(t);
    return rc != 0;
}
