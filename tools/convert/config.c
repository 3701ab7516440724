/* config: config.json and generation_config.json to the architecture's fields, with the defaults that transformers fills in
 * for keys that a checkpoint leaves out. Every refusal names the file, the key, what was expected and what was found. It must
 * not know tensors. */
#define _GNU_SOURCE
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/convert/convert.h"

enum { JSON_LIMIT = 64 << 20 };

int config_json(arena *mem, const char *path, json **root, err *e) {
    buf text = { 0 };
    err inner = { 0 };
    int rc = read_file(path, JSON_LIMIT, &text, e);
    if (!rc && lfs_pointer(text.p, text.n))
        rc = fail(e, "%s: is a git-LFS pointer, not the file itself; fetch it with `git lfs pull`", path);
    if (!rc && text.n == 0) rc = fail(e, "%s: is empty; fetch it again", path);
    if (!rc && json_parse(mem, text.p, text.n, root, &inner)) rc = fail_code(e, inner.code, "%s: %s", path, inner.msg);
    if (!rc && (*root)->type != JSON_OBJECT) rc = fail(e, "%s: expected a JSON object, found %s", path, json_type_name(*root));
    buf_free(&text);
    return rc;
}

/* ---- values ---- */

static bool absent(const json *j) { return !j || j->type == JSON_NULL; }

/* What a message shows of a value that does not fit. */
static const char *shown(const json *j) { return j && j->s ? j->s : json_type_name(j); }

bool config_true(const checkpoint *c, const char *key) {
    const json *j = json_get(c->config, key);
    return j && j->type == JSON_TRUE;
}

int config_int(const checkpoint *c, const char *key, int64_t min, int64_t max, double otherwise, int *out, err *e) {
    const json *j = json_get(c->config, key);
    int64_t v;
    if (absent(j) && !isnan(otherwise)) return *out = (int)otherwise, 0;
    if (absent(j))
        return fail(e, "%s: %s is missing; expected a whole number from %lld to %lld", c->config_path, key, (long long)min,
                    (long long)max);
    if (json_int(j, &v) || v < min || v > max)
        return fail(e, "%s: %s: expected a whole number from %lld to %lld, found %s%.40s", c->config_path, key, (long long)min,
                    (long long)max, j->type == JSON_STRING ? "the string " : "", shown(j));
    return *out = (int)v, 0;
}

static int read_keys(checkpoint *c, err *e) {
    static const struct { size_t at; int min, max; } ranges[] = {
#define X(name, def, min, max, what) { offsetof(arch, name), min, max },
        ARCH_INTS(X)
#undef X
    };
    for (const config_key *k = c->family->keys; k->key; k++)
        for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
            if (ranges[i].at == k->at &&
                config_int(c, k->key, ranges[i].min, ranges[i].max, k->otherwise, (int *)(void *)((char *)&c->arch + k->at), e))
                return -1;
    return 0;
}

/* ---- which family ---- */

static void list_families(buf *names) {
    for (const family *const *f = families_all(); *f; f++) buf_fmt(names, "%s%s", names->n ? ", " : "", (*f)->model_type);
}

static bool has_class(const family *f, const json *architectures) {
    for (const json *name = architectures ? architectures->child : NULL; name; name = name->next)
        for (size_t i = 0; i < sizeof f->classes / sizeof *f->classes && f->classes[i]; i++)
            if (json_is(name, f->classes[i])) return true;
    return false;
}

static int find_family(checkpoint *c, err *e) {
    const json *type = json_get(c->config, "model_type"), *classes = json_get(c->config, "architectures");
    const char *class_name =
        classes && classes->type == JSON_ARRAY && classes->child && classes->child->type == JSON_STRING ? classes->child->s : NULL;
    if (absent(type) && !class_name)
        return fail(e, "%s: neither model_type nor architectures says what the model is", c->config_path);
    for (const family *const *f = families_all(); *f && !c->family; f++)
        if (absent(type) ? has_class(*f, classes) : json_is(type, (*f)->model_type)) c->family = *f;
    buf names = { 0 };
    list_families(&names);
    int rc = 0;
    if (!c->family)
        rc = fail(e, "%s: unknown architecture: model_type %.60s, class %.60s; known model types: %s", c->config_path, shown(type),
                  class_name ? class_name : "missing", names.p ? names.p : "");
    else if (class_name && !has_class(c->family, classes))
        rc = fail(e, "%s: architectures says %.60s, expected %s for model_type %s", c->config_path, class_name,
                  c->family->classes[0], c->family->model_type);
    buf_free(&names);
    return rc;
}

/* Packed weights look like other tensors or none: never guess. */
static int refuse_quantized(const checkpoint *c, err *e) {
    static const char *const keys[] = { "quantization_config", "compression_config" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json *q = json_get(c->config, keys[i]), *method = json_get(q, "quant_method");
        if (!absent(q))
            return fail(e, "%s: %s: the weights are quantized already (%.40s); convert the original checkpoint and choose --type",
                        c->config_path, keys[i], method && method->s ? method->s : "method not named");
    }
    return 0;
}

/* ---- fields with rules of their own ---- */

static int read_heads(checkpoint *c, err *e) {
    arch *a = &c->arch;
    if (config_int(c, "num_key_value_heads", 1, 4096, a->n_heads, &a->n_kv_heads, e)) return -1;
    if (a->n_heads % a->n_kv_heads)
        return fail(e, "%s: num_key_value_heads: %d does not divide num_attention_heads, %d", c->config_path, a->n_kv_heads,
                    a->n_heads);
    if (absent(json_get(c->config, "head_dim")) && !c->family->head_dim &&
        (a->d_model % a->n_heads || a->d_model / a->n_heads > 4096))
        return fail(
            e,
            "%s: num_attention_heads: %d heads do not divide hidden_size %d into heads of at most 4096, and there is no head_dim",
            c->config_path, a->n_heads, a->d_model);
    if (config_int(c, "head_dim", 1, 4096, c->family->head_dim ? c->family->head_dim : a->d_model / a->n_heads, &a->head_dim, e))
        return -1;
    if (a->head_dim % 2)
        return fail(e, "%s: head_dim: rotary embedding needs an even number, found %d", c->config_path, a->head_dim);
    a->attn_scale = (float)(1 / sqrt(a->head_dim));
    return 0;
}

static int read_eps(checkpoint *c, err *e) {
    const json *j = json_get(c->config, c->family->eps_key);
    double eps = 1e-6; /* transformers, for every family here */
    if (!absent(j) && (json_num(j, &eps) || !(eps >= 0 && eps <= 1)))
        return fail(e, "%s: %s: expected a number from 0 to 1, found %.40s", c->config_path, c->family->eps_key, shown(j));
    c->arch.norm_eps = (float)eps;
    return 0;
}

static int read_activation(checkpoint *c, err *e) {
    static const struct { const char *name; act_kind kind;
    } known[] = { { "silu", ACT_SILU },
                  { "swish", ACT_SILU },
                  { "gelu", ACT_GELU_ERF },
                  { "gelu_new", ACT_GELU_TANH },
                  { "gelu_pytorch_tanh", ACT_GELU_TANH },
                  { "gelu_fast", ACT_GELU_TANH },
                  { "relu", ACT_RELU } };
    const json *j = json_get(c->config, "hidden_act");
    c->arch.act = ACT_SILU;
    if (absent(j)) return 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (json_is(j, known[i].name)) return c->arch.act = (int)known[i].kind, 0;
    return fail(e, "%s: hidden_act: unknown activation %.40s; known: silu, gelu, gelu_new, gelu_pytorch_tanh, relu", c->config_path,
                shown(j));
}

/* Ids that are already there are not added again; one that no token has cannot be generated either. */
static int add_eos(checkpoint *c, const json *j, const char *path, err *e) {
    int64_t id;
    if (json_int(j, &id)) return fail(e, "%s: eos_token_id: expected a token id or a list of them, found %.40s", path, shown(j));
    if (id < 0 || id >= c->arch.n_vocab)
        return warn(c, "%s: eos_token_id %lld is not below vocab_size %d and is left out", path, (long long)id, c->arch.n_vocab), 0;
    for (int i = 0; i < c->arch.n_eos; i++)
        if (c->arch.eos[i] == id) return 0;
    if (c->arch.n_eos == MAX_EOS) return fail(e, "%s: eos_token_id: more than %d ids", path, MAX_EOS);
    c->arch.eos[c->arch.n_eos++] = (int)id;
    return 0;
}

static int read_eos(checkpoint *c, const json *root, const char *path, err *e) {
    const json *j = json_get(root, "eos_token_id");
    if (absent(j)) return 0;
    if (j->type != JSON_ARRAY) return add_eos(c, j, path, e);
    for (const json *id = j->child; id; id = id->next)
        if (add_eos(c, id, path, e)) return -1;
    return 0;
}

static void read_bos(checkpoint *c) {
    int64_t id;
    const json *j = json_get(c->config, "bos_token_id");
    if (!absent(j) && json_int(j, &id) == 0 && id >= 0 && id < c->arch.n_vocab) c->arch.bos = (int)id;
}

/* generation_config.json: only what it says itself; transformers' own defaults are not the checkpoint's. */
static int read_sampling(checkpoint *c, err *e) {
    arch *a = &c->arch;
    const struct { const char *key; float *out;
    } keys[] = { { "temperature", &a->temperature },
                 { "top_p", &a->top_p },
                 { "min_p", &a->min_p },
                 { "repetition_penalty", &a->repeat_penalty } };
    double x;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json *j = json_get(c->generation, keys[i].key);
        if (absent(j)) continue;
        if (json_num(j, &x) || !(x >= 0 && x <= 1e6))
            return fail(e, "%s: %s: expected a number from 0, found %.40s", c->generation_path, keys[i].key, shown(j));
        *keys[i].out = (float)x;
    }
    const json *k = json_get(c->generation, "top_k");
    if (absent(k)) return 0;
    if (json_num(k, &x) || !(x >= 0 && x <= 1e6) || x != floor(x))
        return fail(e, "%s: top_k: expected a whole number from 0, found %.40s", c->generation_path, shown(k));
    a->top_k = (int)x;
    return 0;
}

/* The folder's own name; bytes that are no plain text become question marks. */
static void read_name(checkpoint *c) {
    char *full = realpath(c->folder, NULL), *slash = full ? strrchr(full, '/') : NULL;
    const char *name = slash ? slash + 1 : c->folder;
    size_t n = strlen(name), at = 0;
    for (size_t i = 0; i < n;) {
        int len;
        bool plain = utf8_decode(name + i, n - i, &len) >= ' ' && name[i] != 0x7f;
        if (at + (size_t)len >= sizeof c->arch.name) break;
        if (plain) memcpy(c->arch.name + at, name + i, (size_t)len);
        else memset(c->arch.name + at, '?', (size_t)len);
        at += (size_t)len;
        i += (size_t)len;
    }
    free(full);
    snprintf(c->arch.family, sizeof c->arch.family, "%s", c->family->model_type);
}

static int read_rope(checkpoint *c, err *e) {
    arch *a = &c->arch;
    rope_freqs *r = &c->rope[0];
    if (rope_load(c, a->head_dim, a->n_ctx, &c->mem, r, e)) return -1;
    a->n_ropes = 1;
    a->rope_ctx = r->ctx_long;
    a->n_ctx = r->n_ctx;
    if (arch_vectors(a, &c->mem, e)) return -1;
    a->rope_factor[0] = r->factor;
    a->rope_factor_long[0] = r->factor_long;
    return 0;
}

static int load_files(checkpoint *c, err *e) {
    if (c->config) return 0; /* made of a GGUF file's metadata */
    c->config_path = path_join(&c->mem, c->folder, "config.json");
    c->generation_path = path_join(&c->mem, c->folder, "generation_config.json");
    if (!c->config_path || !c->generation_path) return fail_memory(e, strlen(c->folder), "a path");
    if (!file_exists(c->config_path))
        return fail(e, "%s: is missing; expected a HuggingFace checkpoint: a folder with config.json and safetensors",
                    c->config_path);
    if (config_json(&c->mem, c->config_path, &c->config, e)) return -1;
    return file_exists(c->generation_path) ? config_json(&c->mem, c->generation_path, &c->generation, e) : 0;
}

int config_load(checkpoint *c, err *e) {
    arch_init(&c->arch);
    if (load_files(c, e) || find_family(c, e) || refuse_quantized(c, e) || read_keys(c, e) || read_heads(c, e) || read_eps(c, e) ||
        read_activation(c, e) || read_rope(c, e))
        return -1;
    if (c->family->layers && c->family->layers(c, e)) return -1;
    if (read_eos(c, c->generation, c->generation_path, e) || read_eos(c, c->config, c->config_path, e) || read_sampling(c, e))
        return -1;
    read_bos(c);
    read_name(c);
    const json *tie = json_get(c->config, "tie_word_embeddings");
    c->tied = absent(tie) ? c->family->tied : tie->type == JSON_TRUE;
    err inner = { 0 };
    return arch_check(&c->arch, &inner) ? fail(e, "%s: %s", c->config_path, inner.msg) : 0;
}
