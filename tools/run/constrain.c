/* constrain: what an answer may be, from the command line: --grammar, --json, --json-schema. It owns the grammar and the row of logits that
 * is masked; the model's own row stays as it is, because speculation may come back to it. */
#include "tools/run/constrain.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/files.h"
#include "runtime/schema.h"

bool run_constrains(const run_opts *o) { return o->grammar || o->json || o->json_schema; }

static int open_schema(constraint *c, const char *text, err *e) {
    buf b = { 0 };
    bool inline_text = text[strspn(text, " \t\r\n")] == '{';
    if (inline_text) buf_str(&b, text);
    else if (read_file(text, GRAMMAR_MAX_TEXT, &b, e)) return -1;
    err inner = { 0 };
    int rc = b.failed ? fail_memory(e, strlen(text), "a JSON schema") : schema_compile(&c->g, c->v, b.p ? b.p : "", b.n, &inner);
    buf_free(&b);
    return rc && inner.code ? fail_code(e, inner.code, inline_text ? "%s%s" : "%s: %s", inline_text ? "" : text, inner.msg) : rc;
}

static int open_grammar(constraint *c, const char *path, err *e) {
    buf b = { 0 };
    if (read_file(path, GRAMMAR_MAX_TEXT, &b, e)) return -1;
    err inner = { 0 };
    int rc = grammar_compile(&c->g, c->v, b.p ? b.p : "", b.n, &inner);
    buf_free(&b);
    return rc ? fail_code(e, inner.code, "%s: %s", path, inner.msg) : 0;
}

int constraint_open(constraint *c, const run_opts *o, const tokenizer *t, int n_vocab, err *e) {
    *c = (constraint){ .n_vocab = n_vocab };
    if (!run_constrains(o)) return 0;
    if (!t) return fail(e, "%s has no tokenizer, and a grammar needs the text of each token; convert again with a tokenizer", o->model);
    if (vocabulary_new(&c->v, t, e)) return -1;
    size_t bytes = (size_t)n_vocab * sizeof *c->row;
    if (!(c->row = malloc(bytes))) return fail_memory(e, bytes, "a row of logits");
    if (o->grammar) return open_grammar(c, o->grammar, e);
    return o->json_schema ? open_schema(c, o->json_schema, e) : schema_any_object(&c->g, c->v, e);
}

int constraint_begin(constraint *c, const int32_t *eos, int n_eos, err *e) {
    if (!c->g) return 0;
    grammar_state_free(c->s);
    c->s = NULL;
    return grammar_state_new(&c->s, c->g, eos, n_eos, e);
}

const float *constraint_mask(constraint *c, const float *logits, err *e) {
    if (!c->s) return logits;
    memcpy(c->row, logits, (size_t)c->n_vocab * sizeof *logits);
    return grammar_mask(c->s, c->row, c->n_vocab, e) ? NULL : c->row;
}

int constraint_take(constraint *c, int32_t id, bool *done, err *e) {
    *done = false;
    if (!c->s) return 0;
    if (grammar_accept(c->s, id, e)) return -1;
    *done = grammar_done(c->s);
    return 0;
}

void constraint_close(constraint *c) {
    grammar_state_free(c->s);
    grammar_free(c->g);
    vocabulary_free(c->v);
    free(c->row);
    *c = (constraint){ 0 };
}
