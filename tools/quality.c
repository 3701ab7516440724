/* quality: how well a model file predicts a text, and how far it is from another file of the same model.
 * The text's tokens (special tokens in it parsed, none added) are cut into blocks of --ctx; a last incomplete block is dropped;
 * in each block the tokens 2 to ctx are scored. Perplexity is exp of the mean negative log likelihood, its standard error comes
 * from the tokens' spread (as if independent). With --ref: mean Kullback-Leibler divergence KL(ref || model) a token, and how
 * often the likeliest token differs. It sees engine, sample, tokenizer and base. */
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "runtime/engine.h"
#include "runtime/files.h"
#include "runtime/options.h"
#include "runtime/sample.h"
#include "tokenizer/tokenizer.h"

enum { CHUNK = 64 }; /* rows of logits at a time: a block's would be half a gigabyte with a large vocabulary */

typedef struct side { /* one model file */
    engine *g;
    session *s;
    float *rows; /* [CHUNK][logits_ld] */
} side;

typedef struct moments {
    double sum, squares;
    long n;
} moments;

typedef struct scores {
    moments nll, ref_nll, kl;
    long flips;
} scores;

static void count(moments *m, double x) {
    m->sum += x;
    m->squares += x * x;
    m->n++;
}

static double mean(const moments *m) { return m->sum / (double)m->n; }

static double std_error(const moments *m) {
    double v = m->squares / (double)m->n - mean(m) * mean(m);
    return sqrt(fmax(v, 0) / (double)m->n);
}

static int open_side(side *x, const char *path, engine_opts o, err *e) {
    o.path = path;
    if (engine_open(&x->g, &o, e) || session_new(&x->s, x->g, e)) return -1;
    if (engine_about(x->g)->adapter_warning) fprintf(stderr, "quality: warning: %s\n", engine_about(x->g)->adapter_warning);
    size_t bytes = CHUNK * (size_t)engine_about(x->g)->logits_ld * sizeof(float);
    x->rows = alloc_aligned(bytes);
    return x->rows ? 0 : fail_memory(e, bytes, "rows of logits");
}

static void close_side(side *x) {
    free_aligned(x->rows);
    session_free(x->s);
    engine_close(x->g);
}

/* One block through both sides, a chunk of rows at a time. */
static int score_block(side *model, side *ref, const int32_t *tok, int ctx, scores *sc, err *e) {
    int n_vocab = engine_about(model->g)->n_vocab;
    size_t ld = (size_t)engine_about(model->g)->logits_ld;
    session_truncate(model->s, 0);
    if (ref->g) session_truncate(ref->s, 0);
    for (int at = 0; at < ctx - 1; at += CHUNK) {
        int n = min_int(CHUNK, ctx - 1 - at);
        if (engine_step(model->g, &(step){ model->s, tok + at, n, model->rows }, 1, e)) return -1;
        if (ref->g && engine_step(ref->g, &(step){ ref->s, tok + at, n, ref->rows }, 1, e)) return -1;
        for (int i = 0; i < n; i++) {
            const float *row = model->rows + (size_t)i * ld;
            if (sample_argmax(row, n_vocab) < 0) return fail(e, "the model's logits are not finite at token %d of a block", at + i);
            count(&sc->nll, -sample_logprob(row, n_vocab, tok[at + i + 1]));
            if (!ref->g) continue;
            const float *r = ref->rows + (size_t)i * ld;
            count(&sc->ref_nll, -sample_logprob(r, n_vocab, tok[at + i + 1]));
            count(&sc->kl, sample_divergence(r, row, n_vocab));
            sc->flips += sample_argmax(row, n_vocab) != sample_argmax(r, n_vocab);
        }
    }
    return 0;
}

static int load_ids(const side *x, const char *model, const char *text_path, bool add_special, ids *v, err *e) {
    const engine_info *i = engine_about(x->g);
    tokenizer *t;
    buf text = { 0 };
    if (!i->tokenizer_bytes) return fail(e, "%s has no tokenizer: perplexity of a text needs one", model);
    if (tokenizer_open(&t, i->tokenizer, i->tokenizer_bytes, e)) return -1;
    int rc = read_file(text_path, 0, &text, e);
    if (!rc) rc = tokenizer_encode(t, text.p, text.n, TOK_PARSE_SPECIAL | (add_special ? TOK_SPECIAL : 0), v, e);
    buf_free(&text);
    tokenizer_free(t);
    return rc;
}

static void print_scores(const scores *sc, const char *ref, double seconds, bool as_json) {
    double ppl = exp(mean(&sc->nll)), se = ppl * std_error(&sc->nll);
    if (as_json) {
        printf("{\"tokens\":%ld,\"perplexity\":%.6f,\"perplexity_se\":%.6f", sc->nll.n, ppl, se);
        if (ref)
            printf(",\"ref_perplexity\":%.6f,\"ratio\":%.6f,\"kl\":%.8f,\"kl_se\":%.8f,\"flips\":%ld", exp(mean(&sc->ref_nll)),
                   exp(mean(&sc->nll) - mean(&sc->ref_nll)), mean(&sc->kl), std_error(&sc->kl), sc->flips);
        printf(",\"seconds\":%.2f}\n", seconds);
        return;
    }
    printf("perplexity    %.4f +- %.4f  (%ld tokens scored, %.0f tok/s)\n", ppl, se, sc->nll.n, (double)sc->nll.n / seconds);
    if (!ref) return;
    printf("reference     %.4f  (%s)\nratio         %.5f\n", exp(mean(&sc->ref_nll)), ref, exp(mean(&sc->nll) - mean(&sc->ref_nll)));
    printf("KL divergence %.6f +- %.6f nats a token\ntop-1 flips   %.3f %% (%ld of %ld)\n", mean(&sc->kl), std_error(&sc->kl),
           100.0 * (double)sc->flips / (double)sc->kl.n, sc->flips, sc->kl.n);
}

static int measure(side *model, side *ref, const char *const *words, const char *ref_path, int ctx, bool add_special, bool as_json, err *e) {
    ids v = { 0 };
    scores sc = { 0 };
    int rc = load_ids(model, words[0], words[1], add_special, &v, e);
    long blocks = (long)(v.n / (size_t)ctx);
    if (!rc && !blocks)
        rc = fail_code(e, ERR_INPUT, "%s has %zu tokens, one block needs %d: give a longer text or a smaller --ctx", words[1], v.n, ctx);
    double start = now_seconds();
    for (long b = 0; b < blocks && !rc; b++) {
        rc = score_block(model, ref, v.p + b * ctx, ctx, &sc, e);
        if (isatty(2)) fprintf(stderr, "\rblock %ld of %ld, perplexity %.4f ", b + 1, blocks, exp(mean(&sc.nll)));
    }
    if (isatty(2)) fprintf(stderr, "\r%60s\r", "");
    if (!rc) print_scores(&sc, ref_path, now_seconds() - start, as_json);
    ids_free(&v);
    return rc;
}

int main(int argc, char **argv) {
    const char *words[2], *ref_path = NULL;
    engine_opts o = { .ctx = 512 };
    texts lora = { 0 }, ref_lora = { 0 };
    bool ref_exact = false, add_special = false, as_json = false;
    const option options[] = {
        { "--ref", NULL, OPT_TEXT, &ref_path, "MODEL2.bin", "compare with this file of the same model: KL divergence, top-1 flips", NULL },
        { "--ctx", "-c", OPT_INT, &o.ctx, "N", "tokens of a block (512)", NULL },
        { "--threads", "-t", OPT_INT, &o.threads, "N", "threads (physical cores this process may use)", NULL },
        { "--cache-type", NULL, OPT_TEXT, &o.cache_type, "TYPE", "of the keys and values kept, for MODEL: f16 or q8 (f16)", NULL },
        { "--lora", NULL, OPT_TEXTS, &lora, "FILE[:SCALE]", "an adapter of MODEL; may be given several times", NULL },
        { "--ref-lora", NULL, OPT_TEXTS, &ref_lora, "FILE[:SCALE]", "one of MODEL2", NULL },
        { "--exact", NULL, OPT_FLAG, &o.exact, NULL, "f32 activations and cache for MODEL", NULL },
        { "--ref-exact", NULL, OPT_FLAG, &ref_exact, NULL, "and for MODEL2", NULL },
        { "--kernels", NULL, OPT_TEXT, &o.kernels, "NAME", "kernel table", NULL },
        { "--add-special", NULL, OPT_FLAG, &add_special, NULL, "BOS at the beginning of the text, by the tokenizer's rule", NULL },
        { "--json", NULL, OPT_FLAG, &as_json, NULL, "one JSON object", NULL },
    };
    const program p = { "quality", "MODEL.bin TEXT [--ref MODEL2.bin]",
                        "Perplexity of a text, and the distance between two files of one model.", options,
                        sizeof options / sizeof *options };
    int n_words, rc = options_parse(&p, argc, argv, words, 2, &n_words);
    if (rc != OPTIONS_GO_ON) return rc;
    if (n_words != 2) return usage_error(&p, "expected a model file and a text file");
    if (ref_lora.n && !ref_path) return usage_error(&p, "--ref-lora goes with --ref");
    if (o.ctx < 2) return usage_error(&p, "--ctx: expected 2 or more, found %d", o.ctx);
    side model = { 0 }, ref = { 0 };
    engine_opts ro = o;
    ro.exact = ref_exact;
    ro.cache_type = NULL;
    arena mem = { 0 };
    err e = { 0 };
    rc = engine_take_adapters(&o, lora.p, lora.n, &mem, &e) || engine_take_adapters(&ro, ref_lora.p, ref_lora.n, &mem, &e) ||
         open_side(&model, words[0], o, &e);
    if (!rc && ref_path) rc = open_side(&ref, ref_path, ro, &e);
    if (!rc && ref_path && engine_about(ref.g)->n_vocab != engine_about(model.g)->n_vocab)
        rc = fail(&e, "%s has %d tokens, %s %d: they are not of one model", ref_path, engine_about(ref.g)->n_vocab,
                  words[0], engine_about(model.g)->n_vocab);
    if (!rc) rc = measure(&model, &ref, words, ref_path, o.ctx, add_special, as_json, &e);
    close_side(&ref);
    close_side(&model);
    arena_free(&mem);
    if (!rc) return 0;
    fprintf(stderr, "quality: %s\n", e.msg);
    return 1;
}
