/* gguf: the metadata of a GGUF file as the config.json and generation_config.json that the rest of the converter reads, so that
 * one table of families serves both. It owns what llama.cpp means by its keys; a key that would change the model and is not
 * understood is refused by name. It must not know what the families do with it. */
#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/convert/convert.h"

enum { KEY_SIZE = 160 };

typedef struct writer {
    checkpoint *c;
    const gguf_arch *a;
    buf *out;
    bool *used; /* [n_values] */
    err *e;
} writer;

/* ---- values ---- */

/* ARCH.key, and notes that it was looked at. */
static const gguf_value *get(const writer *w, const char *key) {
    char full[KEY_SIZE];
    snprintf(full, sizeof full, "%s.%s", w->a->arch, key);
    const gguf_value *v = gguf_find(&w->c->gguf, full);
    if (v) w->used[v - w->c->gguf.values] = true;
    return v;
}

static void member(const writer *w, const char *name) { buf_fmt(w->out, "%s\"%s\":", w->out->n > 1 ? "," : "", name); }

/* The shortest decimal that is this float again: 0.01, not 0.00999999978, as a config.json would have it. */
static void add_float(buf *out, float x) {
    char text[40];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)x);
        if (strtof(text, NULL) == x) break;
    }
    buf_str(out, text);
}

static int bad_value(const writer *w, const gguf_value *v, const char *expected) {
    return fail(w->e, "%s: %s: expected %s, found %s", w->c->gguf.path, v->key, expected, gguf_kind_name(v));
}

/* An array with a value for each layer: all alike, or refused. */
static int check_alike(const writer *w, const gguf_value *v) {
    double first, x;
    if (v->kind != GGUF_ARRAY) return 0;
    if (!v->n || gguf_num(v, 0, &first)) return bad_value(w, v, "a number");
    for (uint64_t i = 1; i < v->n; i++)
        if (gguf_num(v, i, &x) || x != first)
            return fail(w->e, "%s: %s: differs from layer to layer, which is not supported for this architecture", w->c->gguf.path,
                        v->key);
    return 0;
}

static int add_value(const writer *w, const char *name, const gguf_value *v) {
    int64_t whole;
    double x;
    if (check_alike(w, v)) return -1;
    member(w, name);
    if (v->item == GGUF_BOOL && !gguf_int(v, 0, &whole)) buf_str(w->out, whole ? "true" : "false");
    else if (!gguf_int(v, 0, &whole)) buf_fmt(w->out, "%lld", (long long)whole);
    else if (gguf_num(v, 0, &x) || !isfinite(x)) return bad_value(w, v, "a finite number");
    else if (v->item == GGUF_F32) add_float(w->out, (float)x);
    else buf_fmt(w->out, "%.17g", x);
    return 0;
}

/* An array of whole numbers as a list. */
static int add_numbers(const writer *w, const char *name, const gguf_value *v) {
    member(w, name);
    for (uint64_t i = 0; i < v->n; i++) {
        int64_t x;
        if (gguf_int(v, i, &x)) return bad_value(w, v, "whole numbers");
        buf_fmt(w->out, "%s%lld", i ? "," : "[", (long long)x);
    }
    return buf_str(w->out, v->n ? "]" : "[]"), 0;
}

/* A number of the metadata; otherwise: where it is missing; NAN: it must be there. */
static int number(const writer *w, const char *key, double otherwise, double *out) {
    const gguf_value *v = get(w, key);
    *out = otherwise;
    if (!v) return isnan(otherwise) ? fail(w->e, "%s: %s.%s is missing", w->c->gguf.path, w->a->arch, key) : 0;
    if (check_alike(w, v)) return -1;
    return gguf_num(v, 0, out) || !isfinite(*out) ? bad_value(w, v, "a finite number") : 0;
}

/* A setting that only has one value here. */
static int must_be(const writer *w, const char *key, double only) {
    double x;
    if (number(w, key, only, &x)) return -1;
    return x == only ? 0 : fail(w->e, "%s: %s.%s is %g; only %g is supported", w->c->gguf.path, w->a->arch, key, x, only);
}

/* ---- shape ---- */

static int add_common(const writer *w) {
    static const struct gguf_key keys[] = { { "block_count", "num_hidden_layers" },
                                            { "embedding_length", "hidden_size" },
                                            { "feed_forward_length", "intermediate_size" },
                                            { "attention.head_count", "num_attention_heads" },
                                            { "context_length", "max_position_embeddings" } };
    double heads, kv;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const gguf_value *v = get(w, keys[i].gguf);
        if (!v) return fail(w->e, "%s: %s.%s is missing", w->c->gguf.path, w->a->arch, keys[i].gguf);
        bool list = w->a->flags & GGUF_WIDTHS && v->kind == GGUF_ARRAY && strcmp(keys[i].gguf, "feed_forward_length") == 0;
        if (list ? add_numbers(w, keys[i].config, v) : add_value(w, keys[i].config, v)) return -1;
    }
    if (number(w, "attention.head_count", NAN, &heads) || number(w, "attention.head_count_kv", heads, &kv)) return -1;
    member(w, "num_key_value_heads");
    buf_fmt(w->out, "%.0f", kv);
    for (const struct gguf_key *k = w->a->keys; k && k->gguf; k++) {
        const gguf_value *v = get(w, k->gguf);
        if (v && k->config && add_value(w, k->config, v)) return -1;
    }
    return 0;
}

/* head_dim, and how much of it is rotated. */
static int add_head(const writer *w, double *head, double *rotated) {
    double model, heads, value;
    if (number(w, "embedding_length", NAN, &model) || number(w, "attention.head_count", NAN, &heads)) return -1;
    if (number(w, "attention.key_length", heads > 0 ? floor(model / heads) : 0, head) ||
        number(w, "attention.value_length", *head, &value) || number(w, "rope.dimension_count", *head, rotated))
        return -1;
    if (!(*head >= 2 && *head <= 4096)) return fail(w->e, "%s: heads of %g dimensions: expected 2 to 4096", w->c->gguf.path, *head);
    if (value != *head)
        return fail(w->e, "%s: %s.attention.value_length is %g, key_length %g: they must be alike", w->c->gguf.path, w->a->arch,
                    value, *head);
    if (!(*rotated >= 2 && *rotated <= *head))
        return fail(w->e, "%s: %s.rope.dimension_count: expected 2 to %g, found %g", w->c->gguf.path, w->a->arch, *head, *rotated);
    member(w, "head_dim");
    buf_fmt(w->out, "%.0f", *head);
    member(w, "d_kv"); /* T5's name for it */
    return buf_fmt(w->out, "%.0f", *head), 0;
}

/* What no key says: from the tensors that are there. */
static int add_from_tensors(const writer *w) {
    const safetensors *s = &w->c->st;
    const st_tensor *embed = safetensors_find(s, "token_embd.weight");
    if (!embed || embed->n_dims != 2) return fail(w->e, "%s: has no matrix token_embd.weight", w->c->gguf.path);
    member(w, "vocab_size");
    buf_fmt(w->out, "%llu", (unsigned long long)embed->dims[0]);
    get(w, "vocab_size");
    static const struct {
        const char *name, *tensors[2]; /* true: the file has one of them */
        bool missing;                  /* true: it has not */
    } flags[] = { { "tie_word_embeddings", { "output.weight" }, true },
                  { "attention_bias", { "blk.0.attn_q.bias", "blk.0.attn_qkv.bias" }, false },
                  { "use_qkv_bias", { "blk.0.attn_q.bias" }, false },
                  { "use_bias", { "blk.0.attn_q.bias" }, false },
                  { "bias", { "blk.0.attn_qkv.bias" }, false },
                  { "mlp_bias", { "blk.0.ffn_up.bias" }, false },
                  { "use_qk_norm", { "blk.0.attn_q_norm.weight" }, false },
                  { "qk_layernorm", { "blk.0.attn_q_norm.weight" }, false },
                  { "use_parallel_residual", { "blk.0.ffn_norm.weight" }, true } };
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        const char *const *t = flags[i].tensors;
        bool there = safetensors_find(s, t[0]) || (t[1] && safetensors_find(s, t[1]));
        char quoted[64];
        snprintf(quoted, sizeof quoted, "\"%s\":", flags[i].name);
        if (w->out->failed || strstr(w->out->p, quoted)) continue; /* a key said it */
        member(w, flags[i].name);
        buf_str(w->out, there != flags[i].missing ? "true" : "false");
    }
    return 0;
}

/* A size that only a tensor's shape says. */
static void add_size_of(const writer *w, const char *name, const char *tensor) {
    const st_tensor *t = safetensors_find(&w->c->st, tensor);
    if (!t || t->n_dims != 2) return;
    member(w, name);
    buf_fmt(w->out, "%llu", (unsigned long long)t->dims[0]);
}

/* Layers without a router, where others have one, are dense. */
static int add_dense_layers(const writer *w) {
    double layers, experts;
    char name[64];
    int n = 0;
    if (number(w, "block_count", NAN, &layers) || number(w, "expert_count", 0, &experts)) return -1;
    if (experts == 0) return 0;
    member(w, "mlp_only_layers");
    buf_byte(w->out, '[');
    for (int l = 0; l < layers && l < 1024; l++) {
        snprintf(name, sizeof name, "blk.%d.ffn_gate_inp.weight", l);
        if (!safetensors_find(&w->c->st, name)) buf_fmt(w->out, "%s%d", n++ ? "," : "", l);
    }
    return buf_byte(w->out, ']'), 0;
}

/* Which layers have the window: a list, or how many there are between those that have none. */
static int add_windows(const writer *w) {
    const gguf_value *v = w->a->flags & GGUF_WINDOWS ? get(w, "attention.sliding_window_pattern") : NULL;
    if (!v) return 0;
    if (v->kind != GGUF_ARRAY) return add_value(w, "sliding_window_pattern", v);
    member(w, "layer_types");
    for (uint64_t i = 0; i < v->n; i++) {
        int64_t window;
        if (gguf_int(v, i, &window)) return bad_value(w, v, "an array of true and false");
        buf_fmt(w->out, "%s\"%s\"", i ? "," : "[", window ? "sliding_attention" : "full_attention");
    }
    return buf_str(w->out, v->n ? "]" : "[]"), 0;
}

/* gemma 3n's last layers read the keys and values of earlier ones: llama.cpp knows of 20 that have their own. */
static int add_shared_kv(const writer *w) {
    double layers, shared;
    if (strcmp(w->a->arch, "gemma3n") != 0) return 0;
    if (number(w, "block_count", NAN, &layers) || number(w, "attention.shared_kv_layers", fmax(layers - 20, 0), &shared)) return -1;
    member(w, "num_kv_shared_layers");
    return buf_fmt(w->out, "%.0f", shared), 0;
}

/* How many deviations above their mean gates must lie: what minus infinity means is that all pass. */
static int add_sparsity(const writer *w) {
    const gguf_value *v = get(w, "activation_sparsity_scale");
    double x;
    if (!v) return 0;
    member(w, "activation_sparsity_scale");
    for (uint64_t i = 0; i < v->n; i++) {
        if (gguf_num(v, i, &x) || isnan(x) || x > 100) return bad_value(w, v, "numbers up to 100");
        buf_str(w->out, i ? "," : "[");
        add_float(w->out, x < -100 ? 0 : (float)x);
    }
    return buf_str(w->out, v->n ? "]" : "[]"), 0;
}

/* gemma 2 and 3 scale by the head's dimension, but for their 27B, which scale by that of the width over the heads. */
static int add_query_scale(const writer *w) {
    double layers, model, heads, key;
    if (strcmp(w->a->arch, "gemma2") != 0 && strcmp(w->a->arch, "gemma3") != 0) return 0;
    if (number(w, "block_count", NAN, &layers) || number(w, "embedding_length", NAN, &model) ||
        number(w, "attention.head_count", NAN, &heads) || number(w, "attention.key_length", model / heads, &key))
        return -1;
    bool large = layers == (w->a->arch[5] == '2' ? 46 : 62);
    member(w, "query_pre_attn_scalar");
    buf_fmt(w->out, "%.17g", large ? model / heads : key);
    return 0;
}

/* ---- rotation ---- */

/* The factors that divide the frequencies, of a tensor; NULL and 0: there is no such tensor. */
static int read_factors(const writer *w, const char *name, double rotated, float **out) {
    const st_tensor *t = safetensors_find(&w->c->st, name);
    *out = NULL;
    if (!t) return 0;
    uint64_t n = (uint64_t)rotated / 2;
    if (t->n != n || t->type == ST_OTHER)
        return fail(w->e, "%s: tensor %s: expected %llu factors, found %llu of type %s", w->c->gguf.path, name,
                    (unsigned long long)n, (unsigned long long)t->n, t->dtype);
    *out = arena_alloc(&w->c->mem, (size_t)n * sizeof **out);
    if (!*out) return fail_memory(w->e, (size_t)n * sizeof **out, name);
    st_read(&w->c->st, t, 0, n, *out);
    for (uint64_t i = 0; i < n; i++)
        if (!((*out)[i] > 0 && (*out)[i] <= 1e9f))
            return fail(w->e, "%s: tensor %s: the factor at [%llu] is not above 0", w->c->gguf.path, name, (unsigned long long)i);
    return 0;
}

static void add_list(const writer *w, const char *name, const float *x, int n) {
    buf_fmt(w->out, ",\"%s\":[", name);
    for (int i = 0; i < n; i++) {
        if (i) buf_byte(w->out, ',');
        add_float(w->out, x[i]);
    }
    buf_byte(w->out, ']');
}

/* Are these the factors of Llama 3.1's scaling by `factor` from `original` positions (low 1, high 4)? */
static bool fits_llama3(const float *x, int n, double theta, double factor, double original) {
    for (int i = 0; i < n; i++) {
        double wave = 2 * 3.14159265358979323846 * pow(theta, (double)i / n), want = 1;
        double smooth = (original / wave - 1) / 3;
        if (wave > original) want = factor;
        else if (wave >= original / 4) want = 1 / ((1 - smooth) / factor + smooth);
        if (fabs(x[i] - want) > 4e-6 * want) return false;
    }
    return true;
}

/* rope_freqs.weight: what converters make of Llama 3.1's scaling. Where its numbers can be told from the factors, they are
 * written: then the frequencies are those of the original checkpoint to the bit. Else the factors as they are. */
static int add_factors(const writer *w, const float *x, int n, double theta, double ctx) {
    double factor = 1, original, known;
    for (int i = 0; i < n; i++) factor = fmax(factor, x[i]);
    if (number(w, "rope.scaling.original_context_length", 0, &known)) return -1;
    for (original = known ? known : 32; original <= 1 << 20; original *= 2)
        if (factor > 1 && fits_llama3(x, n, theta, factor, original)) {
            buf_str(w->out, ",\"rope_type\":\"llama3\",\"low_freq_factor\":1,\"high_freq_factor\":4,\"factor\":");
            add_float(w->out, (float)factor);
            return buf_fmt(w->out, ",\"original_max_position_embeddings\":%.0f", original), 0;
        }
    buf_str(w->out, ",\"rope_type\":\"longrope\",\"attention_factor\":1");
    add_list(w, "short_factor", x, n);
    add_list(w, "long_factor", x, n);
    return buf_fmt(w->out, ",\"original_max_position_embeddings\":%.0f", ctx), 0;
}

static int add_longrope(const writer *w, const float *brief, const float *far, int n, double original) {
    double attention;
    if (number(w, "rope.scaling.attn_factor", 0, &attention)) return -1;
    buf_str(w->out, ",\"rope_type\":\"longrope\"");
    if (attention > 0) buf_fmt(w->out, ",\"attention_factor\":%.9g", attention);
    add_list(w, "short_factor", brief, n);
    add_list(w, "long_factor", far, n);
    return buf_fmt(w->out, ",\"original_max_position_embeddings\":%.0f", original), 0;
}

static int add_linear(const writer *w, double factor) {
    if (must_be(w, "rope.scaling.attn_factor", 1)) return -1;
    if (factor == 1) return 0;
    buf_str(w->out, ",\"rope_type\":\"linear\",\"factor\":");
    add_float(w->out, (float)factor);
    return 0;
}

/* llama.cpp multiplies cos and sin by attn_factor (1 + 0.1 ln factor); the configuration has the product. */
static int add_yarn(const writer *w, double factor, double original) {
    double attention, second, fast, slow;
    if (number(w, "rope.scaling.attn_factor", 1, &attention) || number(w, "rope.scaling.yarn_attn_factor", 1, &second) ||
        number(w, "rope.scaling.yarn_beta_fast", 32, &fast) || number(w, "rope.scaling.yarn_beta_slow", 1, &slow) ||
        must_be(w, "rope.scaling.yarn_ext_factor", 1) || must_be(w, "rope.scaling.yarn_log_multiplier", 0))
        return -1;
    if (!(factor > 0) || !(original > 0))
        return fail(w->e, "%s: rope scaling yarn: needs %s.rope.scaling.factor and original_context_length above 0",
                    w->c->gguf.path, w->a->arch);
    buf_str(w->out, ",\"rope_type\":\"yarn\",\"factor\":");
    add_float(w->out, (float)factor);
    buf_fmt(w->out, ",\"beta_fast\":%.9g,\"beta_slow\":%.9g,\"original_max_position_embeddings\":%.0f", fast, slow, original);
    if (attention * second != 1)
        buf_fmt(w->out, ",\"attention_factor\":%.17g", attention * second * (factor > 1 ? 1 + 0.1 * log(factor) : 1));
    return 0;
}

/* The type's name; "none" where the file has none. */
static int scaling_type(const writer *w, char out[32]) {
    const gguf_value *v = get(w, "rope.scaling.type");
    const char *text = "none";
    size_t n = 4;
    if (v && gguf_text(v, &text, &n)) return bad_value(w, v, "a string");
    for (size_t i = 0; i < n; i++)
        if (text[i] < 'a' || text[i] > 'z') n = 0;
    snprintf(out, 32, "%.*s", (int)(n < 31 ? n : 31), text);
    return 0;
}

static int add_scaling(const writer *w, double rotated) {
    double theta, factor, old, original, ctx;
    float *freqs, *brief, *far;
    char type[32];
    int n = (int)(rotated / 2);
    if (scaling_type(w, type) || number(w, "rope.freq_base", 10000, &theta) || number(w, "rope.scale_linear", 1, &old) ||
        number(w, "rope.scaling.factor", old, &factor) || number(w, "context_length", NAN, &ctx) ||
        number(w, "rope.scaling.original_context_length", ctx, &original) ||
        read_factors(w, "rope_freqs.weight", rotated, &freqs) || read_factors(w, "rope_factors_short.weight", rotated, &brief) ||
        read_factors(w, "rope_factors_long.weight", rotated, &far))
        return -1;
    get(w, "rope.scaling.finetuned"); /* a remark */
    buf_str(w->out, "{\"rope_theta\":");
    add_float(w->out, (float)theta);
    bool none = strcmp(type, "none") == 0, linear = strcmp(type, "linear") == 0 || (none && factor != 1);
    if (!brief != !far) return fail(w->e, "%s: has only one of rope_factors_short and rope_factors_long", w->c->gguf.path);
    if ((freqs != NULL) + (brief != NULL) + linear + (strcmp(type, "yarn") == 0) > 1)
        return fail(w->e, "%s: rope scaling %s together with factors of frequencies is not supported", w->c->gguf.path, type);
    if (freqs && none) return add_factors(w, freqs, n, theta, ctx);
    if (brief && (none || strcmp(type, "longrope") == 0)) return add_longrope(w, brief, far, n, original);
    if (linear) return add_linear(w, factor);
    if (none) return must_be(w, "rope.scaling.attn_factor", 1);
    if (strcmp(type, "yarn") == 0) return add_yarn(w, factor, original);
    return fail(w->e, "%s: %s.rope.scaling.type: \"%s\" is not supported; known: none, linear, yarn, longrope with its factors",
                w->c->gguf.path, w->a->arch, type);
}

static int add_rope(const writer *w, double head, double rotated) {
    member(w, "rope_parameters");
    if (add_scaling(w, rotated)) return -1;
    if (rotated < head) buf_fmt(w->out, ",\"partial_rotary_factor\":%.17g", (rotated + 0.5) / head); /* rounded down there */
    return buf_byte(w->out, '}'), 0;
}

/* ---- tokens and sampling ---- */

static void add_ids(const writer *w) {
    static const char *const ends[] = { "eos", "eot", "eom" };
    char key[KEY_SIZE];
    int64_t id;
    if (!gguf_int(gguf_find(&w->c->gguf, "tokenizer.ggml.bos_token_id"), 0, &id))
        member(w, "bos_token_id"), buf_fmt(w->out, "%lld", (long long)id);
    member(w, "eos_token_id");
    int n = 0;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", ends[i]);
        if (gguf_int(gguf_find(&w->c->gguf, key), 0, &id)) continue;
        buf_fmt(w->out, "%s%lld", n++ ? "," : "[", (long long)id);
    }
    buf_str(w->out, n ? "]" : "null");
}

static int make_json(checkpoint *c, buf *text, json **out, err *e) {
    err inner = { 0 };
    buf_byte(text, '}');
    if (text->failed) return fail_memory(e, text->cap, "the metadata of a GGUF file");
    return json_parse(&c->mem, text->p, text->n, out, &inner) ? fail(e, "%s: its metadata: %s", c->gguf.path, inner.msg) : 0;
}

static int make_generation(checkpoint *c, err *e) {
    static const struct {
        const char *gguf, *name;
    } keys[] = { { "general.sampling.temp", "temperature" },
                 { "general.sampling.top_k", "top_k" },
                 { "general.sampling.top_p", "top_p" },
                 { "general.sampling.min_p", "min_p" },
                 { "general.sampling.penalty_repeat", "repetition_penalty" } };
    buf text = { 0 };
    writer w = { .c = c, .out = &text, .e = e };
    int rc = 0;
    buf_byte(&text, '{');
    for (size_t i = 0; i < sizeof keys / sizeof *keys && !rc; i++) {
        const gguf_value *v = gguf_find(&c->gguf, keys[i].gguf);
        if (v) rc = add_value(&w, keys[i].name, v);
    }
    if (!rc) rc = make_json(c, &text, &c->generation, e);
    buf_free(&text);
    return rc;
}

/* ---- what was not looked at ---- */

/* Keys of this architecture that nobody read: those of the attention and the rotation change the model, others are said. */
static int account(const writer *w) {
    static const char *const remarks[] = { "tensor_data_layout", "attention.layer_norm_epsilon",
                                           "attention.layer_norm_rms_epsilon", "pooling_type" };
    size_t n = strlen(w->a->arch);
    for (size_t i = 0; i < w->c->gguf.n_values; i++) {
        const gguf_value *v = &w->c->gguf.values[i];
        double x = 1;
        bool remark = false;
        if (w->used[i] || strncmp(v->key, w->a->arch, n) != 0 || v->key[n] != '.') continue;
        const char *key = v->key + n + 1;
        for (size_t j = 0; j < sizeof remarks / sizeof *remarks; j++) remark |= strcmp(key, remarks[j]) == 0;
        if (remark || (!gguf_num(v, 0, &x) && x == 0)) continue; /* zero: it is off */
        if (strncmp(key, "attention.", 10) == 0 || strncmp(key, "rope.", 5) == 0 || strstr(key, "_scale") ||
            strstr(key, "softcapping"))
            return fail(w->e, "%s: %.100s is not supported for this architecture; without it this would be another model",
                        w->c->gguf.path, v->key);
        warn(w->c, "%s: %.100s is not understood and has no effect", w->c->gguf.path, v->key);
    }
    return 0;
}

static void note_quantized(checkpoint *c) {
    for (size_t i = 0; i < c->st.n; i++)
        if (c->st.tensors[i].type >= ST_Q8_0 && c->st.tensors[i].type < ST_OTHER && c->st.tensors[i].n_dims > 1) {
            warn(c,
                 "%s: its weights are quantized already (%s is %s): what they lost stays lost; the original checkpoint is the "
                 "better source",
                 c->gguf.path, c->st.tensors[i].name, c->st.tensors[i].dtype);
            return;
        }
}

/* ---- the file ---- */

static int make_config(checkpoint *c, const gguf_arch *a, err *e) {
    buf text = { 0 };
    double head, rotated;
    writer w = { c, a, &text, calloc(c->gguf.n_values + 1, sizeof(bool)), e };
    if (!w.used) return fail_memory(e, c->gguf.n_values, "the metadata of a GGUF file");
    buf_fmt(&text, "{\"model_type\":\"%s\"", a->model_type);
    if (a->extra) buf_fmt(&text, ",%s", a->extra);
    int rc = add_common(&w) || add_head(&w, &head, &rotated) || add_rope(&w, head, rotated) || add_from_tensors(&w) ||
                     add_dense_layers(&w) || add_windows(&w) || add_shared_kv(&w) || add_sparsity(&w) ||
                     add_query_scale(&w) ||
                     must_be(&w, "attention.causal", a->flags & GGUF_ENCODER ? 0 : 1) || account(&w)
                 ? -1
                 : 0;
    add_size_of(&w, "laurel_rank", "blk.0.laurel_l.weight");
    add_size_of(&w, "vocab_size_per_layer_input", "per_layer_token_embd.weight");
    add_size_of(&w, "type_vocab_size", "token_types.weight");
    if (!rc) add_ids(&w);
    if (!rc) rc = make_json(c, &text, &c->config, e);
    buf_free(&text);
    free(w.used);
    return rc;
}

int gguf_load(checkpoint *c, const char *path, bool vocab_only, err *e) {
    if (gguf_open(&c->gguf, &c->st, path, e)) return -1;
    c->config_path = c->generation_path = c->gguf.path;
    if (vocab_only) return 0;
    const gguf_arch *a = gguf_arch_of(c, e);
    if (!a || make_config(c, a, e) || make_generation(c, e)) return -1;
    note_quantized(c);
    return gguf_rename(c, a, e);
}

int gguf_pooling(checkpoint *c, err *e) {
    static const int kinds[] = { 0, 2, 1, 3 }; /* none, the mean, the first, the last */
    char key[KEY_SIZE];
    const gguf_arch *a = gguf_arch_of(c, e);
    int64_t x = 0;
    if (!a) return -1;
    snprintf(key, sizeof key, "%s.pooling_type", a->arch);
    const gguf_value *v = gguf_find(&c->gguf, key);
    if (!v) return 0;
    if (gguf_int(v, 0, &x) || x < 0 || x > 3)
        return fail(e, "%s: %s: expected 0 to 3 (none, mean, first, last), found %lld", c->gguf.path, key, (long long)x);
    c->arch.pooling = kinds[x];
    c->arch.normalize = x != 0;
    if (x) warn(c, "%s: does not say whether embeddings are scaled to length 1: they are, as llama.cpp's programs do", c->gguf.path);
    return 0;
}

int gguf_in_folder(arena *mem, const char *folder, const char **out, err *e) {
    DIR *d = opendir(folder);
    char first[256] = "", second[256] = "";
    int n = 0;
    *out = NULL;
    for (struct dirent *f; d && (f = readdir(d));) {
        size_t len = strlen(f->d_name);
        if (len < 6 || strcmp(f->d_name + len - 5, ".gguf") != 0) continue;
        if (!*first || strcmp(f->d_name, first) < 0) {
            snprintf(second, sizeof second, "%s", first);
            snprintf(first, sizeof first, "%s", f->d_name);
        } else snprintf(second, sizeof second, "%s", f->d_name);
        n++;
    }
    if (d) closedir(d);
    if (n > 1)
        return fail(e, "%s: holds %d GGUF files, %s and %s%s: give the one that is meant", folder, n, first, second, n > 2 ? " among them" : "");
    if (n && !(*out = path_join(mem, folder, first))) return fail_memory(e, strlen(first), "a path");
    return 0;
}
