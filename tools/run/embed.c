/* embed: a text's embedding, as one JSON array on stdout. */
#include <errno.h>
#include <string.h>

#include "tools/run/run.h"

/* As engine.h numbers them; 0: the checkpoint's own. */
static int pooling_of(const char *name, int *pooling, err *e) {
    static const char *const names[] = { "", "first", "mean", "last" };
    *pooling = 0;
    for (int i = 1; name && i < 4; i++)
        if (strcmp(name, names[i]) == 0) *pooling = i;
    return name && *pooling == 0 ? fail_code(e, ERR_INPUT, "--pooling: expected first, mean or last, found \"%.40s\"", name) : 0;
}

static int print_vector(const float *x, int n, err *e) {
    buf out = { 0 };
    for (int i = 0; i < n; i++) buf_fmt(&out, "%s%.9g", i ? "," : "[", (double)x[i]);
    buf_str(&out, "]\n");
    int rc = out.failed ? fail_memory(e, out.cap, "the output") : 0;
    if (!rc && (fwrite(out.p, 1, out.n, stdout) != out.n || fflush(stdout))) rc = fail(e, "writing to stdout failed: %s", strerror(errno));
    buf_free(&out);
    return rc;
}

static int embed(const run_opts *o, engine *g, const tokenizer *t, session *s, err *e) {
    const engine_info *i = engine_about(g);
    ids tokens = { 0 };
    int pooling, rc = pooling_of(o->pooling, &pooling, e);
    float *x = alloc_aligned((size_t)i->d_embed * sizeof *x);
    if (!x && !rc) rc = fail_memory(e, (size_t)i->d_embed * sizeof *x, "an embedding");
    if (!rc) rc = run_prompt_tokens(o, t, NULL, &tokens, e);
    if (!rc && tokens.n > INT32_MAX) rc = fail_code(e, ERR_CONTEXT, "context_length_exceeded: %zu tokens, the context holds %d", tokens.n, i->ctx);
    if (!rc) rc = session_embed(s, tokens.p, (int)tokens.n, pooling, x, e);
    if (!rc) rc = print_vector(x, i->d_embed, e);
    free_aligned(x);
    ids_free(&tokens);
    return rc;
}

int run_embed(const run_opts *o, err *e) {
    engine *g;
    session *s = NULL;
    tokenizer *t = NULL;
    if (engine_open(&g, &o->engine, e)) return -1;
    const engine_info *i = engine_about(g);
    int rc = i->tokenizer_bytes ? tokenizer_open(&t, i->tokenizer, i->tokenizer_bytes, e) : 0;
    if (!rc) rc = session_new(&s, g, e);
    if (!rc) rc = embed(o, g, t, s, e);
    session_free(s);
    tokenizer_free(t);
    engine_close(g);
    return rc;
}
