/* taps: a developers' tool, built by `make taps`: runs a model over given ids and writes what every named step of the forward pass
 * computed, in f32 (--exact), for a comparison with the reference (tests/tools/taps_reference.py, which reads this). It owns the
 * file: for each step a line of JSON with its place, then m x n floats, little-endian, row after row. It knows no steps' names. */
#include <string.h>

#include "runtime/engine.h"
#include "runtime/options.h"

typedef struct recorder {
    FILE *out;
    const char *stack; /* "enc", "dec" */
    bool failed;
} recorder;

static void record_rows(recorder *r, const char *name, int layer, const float *x, int m, size_t ld, int n) {
    if (fprintf(r->out, "{\"stack\":\"%s\",\"layer\":%d,\"name\":\"%s\",\"m\":%d,\"n\":%d}\n", r->stack, layer, name, m, n) < 0)
        r->failed = true;
    for (int i = 0; i < m; i++)
        if (fwrite(x + (size_t)i * ld, sizeof *x, (size_t)n, r->out) != (size_t)n) r->failed = true;
}

static void on_tap(void *arg, const char *name, int layer, const float *x, int m, size_t ld, int n) {
    record_rows(arg, name, layer, x, m, ld, n);
}

/* The encoder over ids, where there is one; the decoder over the others. All logits are wanted, so no row is left out on the way. */
static int run_model(engine *g, recorder *r, const ids *tokens, const ids *decoder, err *e) {
    const engine_info *i = engine_about(g);
    const ids *text = i->has_encoder ? decoder : tokens;
    session *s;
    if (session_new(&s, g, e)) return -1;
    engine_set_tap(g, on_tap, r);
    r->stack = "enc";
    int rc = i->has_encoder ? session_encode(s, tokens->p, (int)tokens->n, NULL, e) : 0;
    r->stack = "dec";
    float *rows = alloc_aligned((text->n + 1) * (size_t)i->logits_ld * sizeof *rows);
    if (!rc && !rows) rc = fail_memory(e, text->n * (size_t)i->logits_ld * sizeof *rows, "logits");
    if (!rc && i->has_decoder && text->n) {
        rc = engine_step(g, &(step){ s, text->p, (int)text->n, rows }, 1, e);
        if (!rc) record_rows(r, "logits", i->n_layers, rows, (int)text->n, (size_t)i->logits_ld, i->n_vocab);
    }
    free_aligned(rows);
    session_free(s);
    if (!rc && r->failed) rc = fail(e, "writing failed");
    return rc;
}

int main(int argc, char **argv) {
    const char *path = NULL, *list = NULL, *decoder_list = "", *output = NULL;
    const option options[] = {
        { "--output", "-o", OPT_TEXT, &output, "FILE", "what to write", NULL },
        { "--ids", NULL, OPT_TEXT, &list, "IDS", "token ids", NULL },
        { "--decoder-ids", NULL, OPT_TEXT, &decoder_list, "IDS", "of the decoder, where --ids are the encoder's", NULL },
    };
    const program p = { "taps", "MODEL.bin --ids IDS -o FILE", "Writes what each step of a forward pass computes.", options,
                        sizeof options / sizeof *options };
    int n_words, rc = options_parse(&p, argc, argv, &path, 1, &n_words);
    if (rc != OPTIONS_GO_ON) return rc;
    if (n_words != 1 || !list || !output) return usage_error(&p, "expected a model file, --ids and --output");
    err e = { 0 };
    ids tokens = { 0 }, decoder = { 0 };
    engine *g = NULL;
    recorder r = { .out = fopen(output, "wb") };
    if (!r.out) fail(&e, "%s: cannot be written", output);
    if (!e.code && (ids_parse(&tokens, list, &e) || ids_parse(&decoder, decoder_list, &e))) rc = 1;
    int n = (int)(tokens.n > decoder.n ? tokens.n : decoder.n);
    if (!e.code && !engine_open(&g, &(engine_opts){ .path = path, .exact = true, .ctx = n, .max_rows = n }, &e))
        run_model(g, &r, &tokens, &decoder, &e);
    if (r.out && fclose(r.out) && !e.code) fail(&e, "%s: writing failed", output);
    engine_close(g);
    ids_free(&tokens);
    ids_free(&decoder);
    if (e.code) fprintf(stderr, "taps: %s\n", e.msg);
    return e.code ? 1 : 0;
}
