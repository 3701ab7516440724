/* config: config.json and generation_config.json to the architecture's fields, with the defaults that transformers fills in
 * for keys that a checkpoint leaves out. Every refusal names the file, the key, what was expected and what was found. It must
 * not know tensors. */
#define _GNU_SOURCE
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/convert/families.h"

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

/* A list of one and the same number counts as this number: what could vary by layer, and does not. */
static const json *single(const json *j) {
    if (!j || j->type != JSON_ARRAY || !j->child) return j;
    for (const json *x = j->child; x; x = x->next)
        if (x->type != JSON_NUMBER || strcmp(x->s, j->child->s) != 0) return j;
    return j->child;
}

int config_int(const checkpoint *c, const char *key, int64_t min, int64_t max, double otherwise, int *out, err *e) {
    const json *j = single(json_get(c->config, key));
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

static int read_truth(const checkpoint *c, const config_key *k, int *out, err *e) {
    const json *j = json_get(c->config, k->key);
    if (!absent(j) && j->type != JSON_TRUE && j->type != JSON_FALSE)
        return fail(e, "%s: %s: expected true or false, found %.40s", c->config_path, k->key, shown(j));
    *out = absent(j) ? (int)k->otherwise : j->type == JSON_TRUE;
    return 0;
}

/* A number, or a list of them, one for each layer: the largest. */
static int read_largest(checkpoint *c, const config_key *k, int min, int max, int *out, err *e) {
    const json *list = json_get(c->config, k->key);
    if (absent(list) || list->type != JSON_ARRAY) return config_int(c, k->key, min, max, k->otherwise, out, e);
    *out = 0;
    for (const json *j = list->child; j; j = j->next) {
        int64_t v;
        if (json_int(j, &v) || v < min || v > max)
            return fail(e, "%s: %s: expected whole numbers from %d to %d, found %.40s", c->config_path, k->key, min, max, shown(j));
        *out = max_int(*out, (int)v);
    }
    return *out ? 0 : fail(e, "%s: %s: the list is empty", c->config_path, k->key);
}

static int read_whole(checkpoint *c, const config_key *k, int min, int max, int *out, err *e) {
    if (k->use == TRUTH) return read_truth(c, k, out, e);
    if (k->use == FIXED) return *out = (int)k->otherwise, 0;
    if (k->use == LARGEST) return read_largest(c, k, min, max, out, e);
    return config_int(c, k->key, min, max, k->use == WIDTHS ? fmin(k->otherwise * c->arch.d_model, max) : k->otherwise, out, e);
}

static int read_real(checkpoint *c, const config_key *k, double min, double max, float *out, err *e) {
    const json *j = k->use == FIXED ? NULL : json_get(c->config, k->key);
    double x = k->otherwise;
    bool over = k->use == INVERSE || k->use == INVERSE_ROOT;
    if (absent(j) && isnan(x))
        return fail(e, "%s: %s is missing; expected a number from %g to %g", c->config_path, k->key, min, max);
    if (!absent(j) && (json_num(j, &x) || !(x >= (over || k->use == ROOT ? 0 : min) && x <= max) || (over && x < 1e-6)))
        return fail(e, "%s: %s: expected a number %s %g to %g, found %.40s", c->config_path, k->key,
                    over ? "above 0, from" : "from", over ? 1e-6 : min, max, shown(j));
    *out = (float)(k->use == ROOT ? sqrt(x) : k->use == INVERSE ? 1 / x : k->use == INVERSE_ROOT ? 1 / sqrt(x) : x);
    return 0;
}

static int read_keys(checkpoint *c, err *e) {
    static const struct {
        size_t at;
        double min, max;
        bool real;
    } ranges[] = {
#define X(name, def, min, max, what) { offsetof(arch, name), min, max, false },
        ARCH_INTS(X)
#undef X
#define X(name, def, min, max, what) { offsetof(arch, name), min, max, true },
            ARCH_FLOATS(X)
#undef X
    };
    for (const config_key *k = c->family->keys; k->key; k++)
        for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
            void *out = (char *)&c->arch + k->at;
            if (ranges[i].at != k->at) continue;
            if (ranges[i].real ? read_real(c, k, ranges[i].min, ranges[i].max, out, e)
                               : read_whole(c, k, (int)ranges[i].min, (int)ranges[i].max, out, e))
                return -1;
        }
    return 0;
}

/* A value that the family's arithmetic here does not have. */
static int refuse_settings(const checkpoint *c, err *e) {
    for (const config_must *m = c->family->musts; m && m->key; m++) {
        const json *j = json_get(c->config, m->key);
        const char *value = absent(j) ? m->value : j->type == JSON_TRUE ? "true" : j->type == JSON_FALSE ? "false" : shown(j);
        if (strcmp(value, m->value) != 0)
            return fail(e, "%s: %s: %.40s is not supported by this version, only %s", c->config_path, m->key, value, m->value);
    }
    return 0;
}

/* ---- which family ---- */

static void list_families(buf *names) {
    for (int i = 0; family_at(i); i++) buf_fmt(names, "%s%s", names->n ? ", " : "", family_at(i)->model_type);
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
    for (int i = 0; family_at(i) && !c->family; i++)
        if (absent(type) ? has_class(family_at(i), classes) : json_is(type, family_at(i)->model_type)) c->family = family_at(i);
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

/* The text model's part of a multimodal config.json. */
static int enter_nested(checkpoint *c, err *e) {
    const char *name = c->family->nested;
    if (!name) return 0;
    const json *text = json_get(c->root, name);
    if (absent(text) || text->type != JSON_OBJECT)
        return fail(e, "%s: %s: expected an object, found %s", c->config_path, name, json_type_name(text));
    for (json *j = c->root->child; j; j = j->next)
        if (j == text) c->config = j;
    return 0;
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
    if (a->n_layers < 0) a->n_layers = a->n_enc_layers; /* T5: as many as the encoder has */
    if (a->n_kv_heads == 0) a->n_kv_heads = a->n_heads;
    if (a->n_heads % a->n_kv_heads)
        return fail(e, "%s: num_key_value_heads: %d does not divide num_attention_heads, %d", c->config_path, a->n_kv_heads,
                    a->n_heads);
    if (a->head_dim == 0) a->head_dim = c->family->head_dim;
    if (a->head_dim == 0 && (a->d_model % a->n_heads || a->d_model / a->n_heads > 4096))
        return fail(
            e,
            "%s: num_attention_heads: %d heads do not divide hidden_size %d into heads of at most 4096, and there is no head_dim",
            c->config_path, a->n_heads, a->d_model);
    if (a->head_dim == 0) a->head_dim = a->d_model / a->n_heads;
    if (c->family->rope[0].theta_key && a->head_dim % 2)
        return fail(e, "%s: head_dim: rotary embedding needs an even number, found %d", c->config_path, a->head_dim);
    if (a->attn_scale == 0) a->attn_scale = (float)(1 / sqrt(a->head_dim));
    return 0;
}

int config_activation(checkpoint *c, const char *key, const char *name, err *e) {
    static const struct {
        const char *name;
        act_kind kind;
    } known[] = { { "silu", ACT_SILU },
                  { "swish", ACT_SILU },
                  { "gelu", ACT_GELU_ERF },
                  { "gelu_new", ACT_GELU_TANH },
                  { "gelu_pytorch_tanh", ACT_GELU_TANH },
                  { "gelu_fast", ACT_GELU_TANH },
                  { "relu", ACT_RELU } };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0) return c->arch.act = (int)known[i].kind, 0;
    return fail(e, "%s: %s: unknown activation %.40s; known: silu, gelu, gelu_new, gelu_pytorch_tanh, relu", c->config_path, key,
                name);
}

static int read_activation(checkpoint *c, err *e) {
    const family *f = c->family;
    const char *key = f->act_key && !absent(json_get(c->config, f->act_key)) ? f->act_key
                      : f->act_key && !f->gelu_is_tanh                       ? f->act_key
                                                                             : "hidden_act";
    const json *j = json_get(c->config, key);
    const char *name = absent(j) ? f->act ? f->act : "silu" : shown(j);
    if (f->gelu_is_tanh && strcmp(name, "gelu") == 0) name = "gelu_pytorch_tanh";
    return config_activation(c, key, name, e);
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
    if (absent(j)) j = json_get(c->root, "bos_token_id");
    if (!absent(j) && json_int(j, &id) == 0 && id >= 0 && id < c->arch.n_vocab) c->arch.bos = (int)id;
}

static int read_early_stopping(checkpoint *c, err *e) {
    const json *j = json_get(c->generation, "early_stopping");
    if (absent(j)) return 0;
    if (j->type != JSON_TRUE && j->type != JSON_FALSE && !json_is(j, "never"))
        return fail(e, "%s: early_stopping: expected true, false or \"never\", found %.40s", c->generation_path, shown(j));
    c->arch.early_stopping = j->type == JSON_FALSE ? 0 : j->type == JSON_TRUE ? 1 : 2;
    return 0;
}

/* generation_config.json: only what it says itself; transformers' own defaults are not the checkpoint's. */
static int read_sampling(checkpoint *c, err *e) {
    static const struct {
        const char *key;
        size_t at;
        bool whole;
        double min, max;
    } keys[] = {
#define X(type, name, key, none, min, max) { key, offsetof(arch, name), _Generic((type)0, int: true, float: false), min, max },
        ARCH_SAMPLING(X)
#undef X
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json *j = keys[i].key ? json_get(c->generation, keys[i].key) : NULL;
        void *out = (char *)&c->arch + keys[i].at;
        double x;
        if (absent(j)) continue;
        if (json_num(j, &x) || !(x >= keys[i].min && x <= keys[i].max) || (keys[i].whole && x != floor(x)))
            return fail(e, "%s: %s: expected a %s from %g to %g, found %.40s", c->generation_path, keys[i].key,
                        keys[i].whole ? "whole number" : "number", keys[i].min, keys[i].max, shown(j));
        if (keys[i].whole) *(int *)out = (int)x;
        else *(float *)out = (float)x;
    }
    return read_early_stopping(c, e);
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

static int read_ropes(checkpoint *c, err *e) {
    arch *a = &c->arch;
    int positions = a->n_ctx;
    while (a->n_ropes < MAX_ROPES && c->family->rope[a->n_ropes].theta_key) {
        const rope_spec *spec = &c->family->rope[a->n_ropes];
        rope_freqs *r = &c->rope[a->n_ropes++];
        if (rope_load(c, spec, a->head_dim, positions, &c->mem, r, e)) return -1;
        if (r->ctx_long) a->rope_ctx = r->ctx_long;
        if (!spec->unscaled) a->n_ctx = r->n_ctx;
    }
    if (arch_vectors(a, &c->mem, e)) return -1;
    for (int i = 0; i < a->n_ropes; i++) {
        a->rope_factor[i] = c->rope[i].factor;
        a->rope_factor_long[i] = c->rope[i].factor_long;
    }
    for (int l = 0; l < a->n_layers && a->n_ropes == 0; l++) a->rope[l] = -1;
    return 0;
}

static int load_files(checkpoint *c, err *e) {
    if (c->config) return c->root = c->config, 0; /* made of a GGUF file's metadata */
    c->config_path = path_join(&c->mem, c->folder, "config.json");
    c->generation_path = path_join(&c->mem, c->folder, "generation_config.json");
    if (!c->config_path || !c->generation_path) return fail_memory(e, strlen(c->folder), "a path");
    if (!file_exists(c->config_path))
        return fail(e, "%s: is missing; expected a HuggingFace checkpoint: a folder with config.json and safetensors",
                    c->config_path);
    if (config_json(&c->mem, c->config_path, &c->root, e)) return -1;
    c->config = c->root;
    return file_exists(c->generation_path) ? config_json(&c->mem, c->generation_path, &c->generation, e) : 0;
}

static int read_tie(checkpoint *c, err *e) {
    const json *tie = json_get(c->config, "tie_word_embeddings");
    if (absent(tie)) tie = json_get(c->root, "tie_word_embeddings");
    if (!absent(tie) && tie->type != JSON_TRUE && tie->type != JSON_FALSE)
        return fail(e, "%s: tie_word_embeddings: expected true or false, found %.40s", c->config_path, shown(tie));
    c->tied = absent(tie) ? !c->family->untied : tie->type == JSON_TRUE;
    return 0;
}

int config_load(checkpoint *c, err *e) {
    arch_init(&c->arch);
    if (load_files(c, e) || find_family(c, e) || refuse_quantized(c, e) || enter_nested(c, e) || refuse_settings(c, e) ||
        read_keys(c, e) || read_heads(c, e) || read_activation(c, e) || read_tie(c, e) || read_ropes(c, e))
        return -1;
    if (c->family->special && c->family->special(c, e)) return -1;
    if (read_eos(c, c->generation, c->generation_path, e) || read_eos(c, c->root, c->config_path, e) ||
        read_eos(c, c->config, c->config_path, e) || read_sampling(c, e) || pooling_load(c, e))
        return -1;
    read_bos(c);
    read_name(c);
    err inner = { 0 };
    return arch_check(&c->arch, &inner) ? fail(e, "%s: %s", c->config_path, inner.msg) : 0;
}
