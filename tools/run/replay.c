/* replay: --replay: the lines of a trace (serve --trace) computed once more and compared: the ids that are picked, and a hash of all logits they are
 * picked from. The order of things is that of the server's sequences. It must not know anything of the server but these lines. */
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/files.h"
#include "runtime/saved.h"
#include "tools/run/run.h"

typedef struct replay {
    run_opts *o;          /* a copy */
    engine *g;
    const engine_info *info;
    tokenizer *tok;
    session *s;
    int answers, searches, others; /* compared; beam searches passed over; lines of other models */
    int line;
} replay;

/* ---- reading a line ---- */

static double number(const json *o, const char *key) {
    double x = 0;
    const json *j = json_get(o, key);
    return j && json_num(j, &x) == 0 ? x : 0;
}

static int whole(const json *o, const char *key) { return (int)number(o, key); }

static const char *text(const json *o, const char *key) {
    const json *j = json_get(o, key);
    return j && j->type == JSON_STRING ? j->s : "";
}

static bool flag(const json *o, const char *key) {
    const json *j = json_get(o, key);
    return j && j->type == JSON_TRUE;
}

static int read_ids(const json *list, int n_vocab, ids *out, err *e) {
    int64_t id;
    for (const json *k = list ? list->child : NULL; k; k = k->next) {
        if (json_int(k, &id) || id < 0 || id >= n_vocab) return fail(e, "its ids are not all from 0 to %d", n_vocab - 1);
        ids_add(out, (int32_t)id);
    }
    return out->failed ? fail_memory(e, out->n * 4, "ids") : 0;
}

static int read_bias(const json *list, arena *mem, sample_opts *s, err *e) {
    if (!list || !list->n) return 0;
    logit_bias *b = arena_alloc(mem, list->n * sizeof *b);
    if (!b) return fail_memory(e, list->n * sizeof *b, "biases");
    for (const json *k = list->child; k; k = k->next) {
        int64_t id;
        double x = -INFINITY;
        if (!k->child || json_int(k->child, &id) || !k->child->next) return fail(e, "its logit_bias is no list of [id, bias]");
        if (k->child->next->type != JSON_FALSE && json_num(k->child->next, &x)) return fail(e, "its logit_bias is no list of [id, bias]");
        b[s->n_bias++] = (logit_bias){ (int32_t)id, (float)x };
    }
    s->bias = b;
    return 0;
}

static int read_sampling(const json *line, arena *mem, sample_opts *s, err *e) {
    *s = (sample_opts){ .temperature = (float)number(line, "temperature"), .top_k = whole(line, "top_k"),
                        .top_p = (float)number(line, "top_p"), .min_p = (float)number(line, "min_p"),
                        .typical_p = (float)number(line, "typical_p"), .repeat_penalty = (float)number(line, "repeat_penalty"),
                        .frequency_penalty = (float)number(line, "frequency_penalty"),
                        .presence_penalty = (float)number(line, "presence_penalty"),
                        .repeat_last_n = whole(line, "repeat_last_n"), .no_repeat_ngram = whole(line, "no_repeat_ngram_size"),
                        .min_length = whole(line, "min_length"), .seed = strtoull(text(line, "seed"), NULL, 10) };
    return read_bias(json_get(line, "logit_bias"), mem, s, e);
}

/* ---- one answer ---- */

static ends find_ends(const replay *r, const json *line) {
    if (flag(line, "ignore_eos")) return (ends){ .n = 0 };
    ends x = ends_of(r->info, r->tok);
    ends_add(&x, whole(line, "turn_end"));
    return x;
}

static int differs(const replay *r, const json *line, const json *choice, err *e, const char *fmt, ...) PRINTF_LIKE(5, 6);
static int differs(const replay *r, const json *line, const json *choice, err *e, const char *fmt, ...) {
    char what[200];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    return fail(e, "different: line %d, %s, prompt %d, choice %d: %s", r->line, text(line, "id"), whole(choice, "prompt"),
                whole(choice, "choice"), what);
}

/* Each token picked again, from logits computed again. pick NULL: a grammar had a say in it, and only the logits are compared. */
static int decode(replay *r, const json *line, const json *choice, ids *tokens, sampler *pick, const ids *want, const ends *over, err *e) {
    hash64 h;
    char hex[24];
    bool eos = strcmp(text(choice, "end"), "eos") == 0;
    hash_begin(&h);
    for (size_t i = 0; i < want->n + eos; i++) {
        if (session_sync(r->s, tokens->p, (int)tokens->n, e)) return -1;
        const float *logits = session_logits(r->s);
        hash_add(&h, logits, (size_t)r->info->n_vocab * sizeof *logits);
        int32_t id = pick ? sampler_pick(pick, logits) : i < want->n ? want->p[i] : over->id[0];
        if (i == want->n) {
            if (!ends_has(over, id)) return differs(r, line, choice, e, "token %zu is %d, the trace has an end", i, id);
            break;
        }
        if (id != want->p[i]) return differs(r, line, choice, e, "token %zu is %d, the trace has %d", i, id, want->p[i]);
        if (pick) sampler_accept(pick, id);
        ids_add(tokens, id);
        if (tokens->failed) return fail_memory(e, tokens->cap * 4, "tokens");
    }
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)hash_end(&h));
    const char *have = text(choice, "logits");
    if (strspn(have, "0") < strlen(have) && strcmp(hex, have))
        return differs(r, line, choice, e, "the same ids, but the hash of their logits is %s, the trace has %s", hex, have);
    return 0;
}

static int generate(replay *r, const json *line, const json *choice, const ids *prompt, err *e) {
    const engine_info *i = r->info;
    arena mem = { 0 };
    sample_opts rules;
    sampler *pick = NULL;
    ids tokens = { 0 }, want = { 0 };
    ends over = find_ends(r, line);
    int rc = read_sampling(line, &mem, &rules, e) || read_ids(json_get(choice, "ids"), i->n_vocab, &want, e) ? -1 : 0;
    if (!rc && i->has_encoder) {
        rc = session_encode(r->s, prompt->p, (int)prompt->n, NULL, e);
        ids_add(&tokens, i->decoder_start);
    } else for (size_t k = 0; k < prompt->n; k++) ids_add(&tokens, prompt->p[k]);
    rules.seed += (uint64_t)whole(choice, "choice");
    if (rules.min_length < 0) rules.min_length = choice_min_length(i, (int)tokens.n);
    rules.eos = over.id;
    rules.n_eos = over.n;
    if (!rc && !flag(line, "grammar")) rc = sampler_new(&pick, &rules, i->n_vocab, e);
    for (size_t k = 0; pick && k < tokens.n; k++) sampler_accept(pick, tokens.p[k]);
    if (pick) sampler_begin(pick);
    if (!rc) rc = decode(r, line, choice, &tokens, pick, &want, &over, e);
    sampler_free(pick);
    ids_free(&tokens);
    ids_free(&want);
    arena_free(&mem);
    return rc;
}

static int embed(replay *r, const json *line, const json *choice, const ids *prompt, err *e) {
    size_t n = (size_t)r->info->d_embed * sizeof(float);
    float *x = malloc(n);
    char hex[24];
    int rc = x ? session_embed(r->s, prompt->p, (int)prompt->n, whole(line, "pooling"), x, e) : fail_memory(e, n, "an embedding");
    if (!rc) snprintf(hex, sizeof hex, "%016llx", (unsigned long long)hash_bytes(x, n));
    if (!rc && strcmp(hex, text(choice, "embedding")))
        rc = differs(r, line, choice, e, "the embedding's hash is %s, the trace has %s", hex, text(choice, "embedding"));
    free(x);
    return rc;
}

/* ---- lines ---- */

static const json *nth(const json *list, int n) {
    const json *k = list ? list->child : NULL;
    while (k && n-- > 0) k = k->next;
    return k;
}

static int check_engine(replay *r, const json *line, err *e) {
    char key[24];
    snprintf(key, sizeof key, "%016llx", (unsigned long long)engine_cache_key(r->g));
    if (flag(line, "exact") != r->info->exact || strcmp(key, text(line, "cache_key")))
        return fail(e, "line %d, %s: computed with other adapters, another type of cache or another --exact: open the model as the server did",
                    r->line, text(line, "id"));
    return 0;
}

static int replay_line(replay *r, const json *line, err *e) {
    char digest[24];
    snprintf(digest, sizeof digest, "%016llx", (unsigned long long)r->info->hash);
    if (strcmp(digest, text(line, "digest"))) return r->others++, 0;
    if (check_engine(r, line, e)) return -1;
    const json *choices = json_get(line, "choices"), *prompts = json_get(line, "prompts");
    for (const json *c = choices ? choices->child : NULL; c; c = c->next) {
        ids prompt = { 0 };
        int rc = read_ids(nth(prompts, whole(c, "prompt")), r->info->n_vocab, &prompt, e);
        bool embeds = strcmp(text(line, "kind"), "embed") == 0, search = whole(line, "beams") > 1;
        if (!rc && search) r->searches++;
        else if (!rc) rc = embeds ? embed(r, line, c, &prompt, e) : generate(r, line, c, &prompt, e);
        r->answers += !rc && !search;
        ids_free(&prompt);
        if (rc) return rc;
    }
    return 0;
}

static int each_line(replay *r, const buf *in, int (*use)(replay *r, const json *line, err *e), err *e) {
    const char *p = in->p, *end = in->p + in->n;
    for (r->line = 1; p < end && !atomic_load(&run_stop); r->line++) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        size_t n = stop ? (size_t)(stop - p) : (size_t)(end - p);
        arena mem = { 0 };
        json *line;
        err why = { 0 };
        int rc = n && json_parse(&mem, p, n, &line, &why)
                         ? fail(e, "%s: line %d is %s (cut short when the server ended?)", r->o->replay, r->line, why.msg) : 0;
        if (!rc && n) rc = use(r, line, e);
        arena_free(&mem);
        if (rc) return rc;
        p += n + 1;
    }
    return 0;
}

static int widest(replay *r, const json *line, err *e) {
    (void)e;
    r->o->engine.ctx = max_int(r->o->engine.ctx, whole(line, "ctx"));
    return 0;
}

static int open_model(replay *r, err *e) {
    if (engine_open(&r->g, &r->o->engine, e)) return -1;
    r->info = engine_about(r->g);
    engine_set_stop(r->g, &run_stop);
    if (r->info->tokenizer_bytes && tokenizer_open(&r->tok, r->info->tokenizer, r->info->tokenizer_bytes, e)) return -1;
    return session_new(&r->s, r->g, e);
}

int run_replay(const run_opts *given, err *e) {
    run_opts o = *given;
    replay r = { .o = &o };
    buf in = { 0 };
    int rc = read_file(o.replay, 0, &in, e);
    if (!rc && !o.engine.ctx) rc = each_line(&r, &in, widest, e);
    if (!rc) rc = open_model(&r, e);
    if (!rc) rc = each_line(&r, &in, replay_line, e);
    if (!rc || (rc && e->code == ERR_STOPPED)) {
        printf("%d answer%s equal, bit for bit", r.answers, r.answers == 1 ? "" : "s");
        if (r.searches) printf("; %d of beam searches not compared", r.searches);
        if (r.others) printf("; %d line%s of other models", r.others, r.others == 1 ? "" : "s");
        printf("\n");
        rc = atomic_load(&run_stop) ? 130 : 0;
    }
    session_free(r.s);
    tokenizer_free(r.tok);
    if (r.g) engine_close(r.g);
    buf_free(&in);
    return rc;
}
