/* gguf_vocab: the tokenizer.* keys of a GGUF file, gathered for the tokenizer. It checks that the lists are lists of the right
 * kind and length; what they mean is tokenizer/load_gguf.c's. */
#include <string.h>

#include "tokenizer/load_gguf.h"
#include "tools/convert/convert.h"

static const gguf_value *find(const checkpoint *c, const char *key) {
    char full[64];
    snprintf(full, sizeof full, "tokenizer.%s", key);
    return gguf_find(&c->gguf, full);
}

static int bad_value(const checkpoint *c, const gguf_value *v, const char *expected, err *e) {
    return fail(e, "%s: %s: expected %s, found %s", c->gguf.path, v->key, expected, gguf_kind_name(v));
}

static int string(const checkpoint *c, const char *key, gguf_string *out, err *e) {
    const gguf_value *v = find(c, key);
    return v && gguf_text(v, &out->p, &out->n) ? bad_value(c, v, "a string", e) : 0;
}

static int whole(const checkpoint *c, const char *key, int64_t *out, err *e) {
    const gguf_value *v = find(c, key);
    *out = -1;
    if (!v) return 0;
    if (v->kind == GGUF_ARRAY || gguf_int(v, 0, out) || *out < 0) return bad_value(c, v, "a whole number from 0", e);
    if (*out == UINT32_MAX) *out = -1; /* what converters write for none */
    return 0;
}

static int truth(const checkpoint *c, const char *key, int *out, err *e) {
    int64_t x;
    if (whole(c, key, &x, e)) return -1;
    *out = x < 0 ? -1 : x != 0;
    return 0;
}

static int strings(checkpoint *c, const char *key, const gguf_string **out, size_t *n, err *e) {
    const gguf_value *v = find(c, key);
    *n = 0;
    if (!v) return 0;
    if (v->kind != GGUF_ARRAY || v->item != GGUF_STRING) return bad_value(c, v, "an array of strings", e);
    gguf_string *list = arena_alloc(&c->mem, (size_t)(v->n + 1) * sizeof *list);
    if (!list) return fail_memory(e, (size_t)v->n * sizeof *list, "the tokens");
    size_t at = 0;
    while (gguf_next(v, &at, &list[*n].p, &list[*n].n)) ++*n;
    *out = list;
    return 0;
}

/* A number for each token: scores, types. */
static const gguf_value *per_token(const checkpoint *c, const char *key, size_t n, int *rc, err *e) {
    const gguf_value *v = find(c, key);
    double x;
    if (!v) return NULL;
    if (v->kind != GGUF_ARRAY || v->n != n || gguf_num(v, 0, &x)) {
        *rc = fail(e, "%s: %s: expected an array of %zu numbers, one for each token, found %s of %llu", c->gguf.path, v->key, n,
                   gguf_kind_name(v), (unsigned long long)v->n);
        return NULL;
    }
    return v;
}

static int numbers(checkpoint *c, gguf_vocabulary *out, err *e) {
    int rc = 0;
    const gguf_value *scores = per_token(c, "ggml.scores", out->n_tokens, &rc, e);
    const gguf_value *types = rc ? NULL : per_token(c, "ggml.token_type", out->n_tokens, &rc, e);
    double *score = scores ? arena_alloc(&c->mem, out->n_tokens * sizeof *score) : NULL;
    uint8_t *type = types ? arena_alloc(&c->mem, out->n_tokens) : NULL;
    if (rc || (scores && !score) || (types && !type)) return rc ? rc : fail_memory(e, out->n_tokens * sizeof *score, "the tokens");
    for (size_t i = 0; i < out->n_tokens; i++) {
        int64_t x = 0;
        if (score) gguf_num(scores, i, &score[i]);
        if (type) gguf_int(types, i, &x), type[i] = x > 0 && x < 256 ? (uint8_t)x : 0;
    }
    out->score = score;
    out->type = type;
    return 0;
}

/* SentencePiece's character map: bytes, written as numbers of either sign. */
static int charsmap(const checkpoint *c, gguf_string *out, err *e) {
    const gguf_value *v = find(c, "ggml.precompiled_charsmap");
    if (!v) return 0;
    if (v->kind != GGUF_ARRAY || (v->item != GGUF_U8 && v->item != GGUF_I8)) return bad_value(c, v, "an array of bytes", e);
    *out = (gguf_string){ (const char *)v->at, v->bytes };
    return 0;
}

int gguf_tokenizer(checkpoint *c, tokenizer **t, err *e) {
    gguf_vocabulary v = { .n_tokens = 0 };
    *t = NULL;
    if (string(c, "ggml.model", &v.model, e)) return -1;
    if (!v.model.p || (v.model.n == 4 && memcmp(v.model.p, "none", 4) == 0) ||
        (v.model.n == 8 && memcmp(v.model.p, "no_vocab", 8) == 0))
        return 0;
    if (string(c, "ggml.pre", &v.pre, e) || string(c, "chat_template", &v.chat_template, e) ||
        string(c, "chat_template.tool_use", &v.tool_template, e) ||
        strings(c, "ggml.tokens", &v.token, &v.n_tokens, e) || strings(c, "ggml.merges", &v.merge, &v.n_merges, e) ||
        numbers(c, &v, e) || charsmap(c, &v.charsmap, e) || whole(c, "ggml.cls_token_id", &v.cls, e) ||
        whole(c, "ggml.seperator_token_id", &v.sep, e) || whole(c, "ggml.bos_token_id", &v.bos, e) || whole(c, "ggml.eos_token_id", &v.eos, e) ||
        whole(c, "ggml.unknown_token_id", &v.unk, e) || truth(c, "ggml.add_bos_token", &v.add_bos, e) ||
        truth(c, "ggml.add_eos_token", &v.add_eos, e) || truth(c, "ggml.add_space_prefix", &v.add_space_prefix, e) ||
        truth(c, "ggml.remove_extra_whitespaces", &v.collapse_spaces, e))
        return -1;
    if (!v.pre.p && v.model.n == 4 && memcmp(v.model.p, "gpt2", 4) == 0)
        warn(c,
             "%s: does not say its pre-tokenizer (tokenizer.ggml.pre): words are cut as llama.cpp does by default, which may not "
             "be the "
             "model's way; --tokenizer takes the original checkpoint's tokenizer.json",
             c->gguf.path);
    err inner = { 0 };
    return tokenizer_from_gguf(t, &v, &inner) ? fail_code(e, inner.code, "%s: %s", c->gguf.path, inner.msg) : 0;
}
