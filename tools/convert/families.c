/* families: the table of model families, one row each: keys of config.json, names of tensors, what varies by layer. It owns
 * what is particular to a family; everything else in the converter only reads this. A new family is a new row. */
#include <math.h>
#include <string.h>

#include "tools/convert/convert.h"

int dim_value(const arch *a, dim_kind d) {
    switch (d) {
    case DIM_MODEL: return a->d_model;
    case DIM_FF: return a->d_ff;
    case DIM_VOCAB: return a->n_vocab;
    case DIM_Q: return a->n_heads * a->head_dim;
    case DIM_KV: return a->n_kv_heads * a->head_dim;
    case DIM_HEAD: return a->head_dim;
    case DIM_NONE: break;
    }
    return 1;
}

/* ---- windows ---- */

/* transformers: MistralConfig.sliding_window is 4096 where the key is missing; null means none. */
static int mistral_layers(checkpoint *c, err *e) {
    const json *j = json_get(c->config, "sliding_window");
    int window = 0;
    if ((!j || j->type != JSON_NULL) && config_int(c, "sliding_window", 1, 1 << 28, 4096, &window, e)) return -1;
    for (int l = 0; l < c->arch.n_layers; l++) c->arch.window[l] = window;
    return 0;
}

/* layer_types, where it stands, says it of each layer. */
static int windows_by_type(checkpoint *c, const json *types, int window, err *e) {
    if (types->type != JSON_ARRAY || types->n != (uint32_t)c->arch.n_layers)
        return fail(e, "%s: layer_types: expected a list of %d, found %s of %u", c->config_path, c->arch.n_layers,
                    json_type_name(types), types->n);
    int l = 0;
    for (const json *t = types->child; t; t = t->next, l++) {
        bool sliding = json_is(t, "sliding_attention");
        if (!sliding && !json_is(t, "full_attention"))
            return fail(e, "%s: layer_types: expected \"full_attention\" or \"sliding_attention\", found %.40s", c->config_path,
                        t->s ? t->s : json_type_name(t));
        c->arch.window[l] = sliding ? window : 0;
    }
    return 0;
}

/* transformers: without use_sliding_window no layer has a window; with it those from max_window_layers on. */
static int qwen_layers(checkpoint *c, err *e) {
    const json *j = json_get(c->config, "sliding_window"), *types = json_get(c->config, "layer_types");
    int window = 0, first = 0;
    bool none = !config_true(c, "use_sliding_window") || (j && j->type == JSON_NULL);
    if (!none && config_int(c, "sliding_window", 1, 1 << 28, 4096, &window, e)) return -1;
    if (types && types->type != JSON_NULL) return windows_by_type(c, types, window, e);
    if (none) return 0;
    if (config_int(c, "max_window_layers", 0, 1 << 20, 28, &first, e)) return -1;
    for (int l = first; l < c->arch.n_layers; l++) c->arch.window[l] = window;
    return 0;
}

/* ---- keys ---- */

#define KEYS(positions)                                                                                                        \
    { "num_hidden_layers", offsetof(arch, n_layers), NAN }, { "hidden_size", offsetof(arch, d_model), NAN },                   \
        { "num_attention_heads", offsetof(arch, n_heads), NAN }, { "intermediate_size", offsetof(arch, d_ff), NAN },           \
        { "vocab_size", offsetof(arch, n_vocab), NAN }, { "max_position_embeddings", offsetof(arch, n_ctx), positions },       \
        { NULL, 0, 0 }
static const config_key llama_keys[] = { KEYS(2048) };
static const config_key mistral_keys[] = { KEYS(131072) };
static const config_key qwen_keys[] = { KEYS(32768) };

/* ---- tensors ---- */

/* One part, or several that become one matrix. `when`: a key of config.json, or NULL. */
#define L "{m}layers.{l}."
#define ONE(name, k, when, source, rows) { name, k, 0, when, { { source, rows } } }
#define EMBED ONE("embed", DIM_MODEL, NULL, "{m}embed_tokens.weight", DIM_VOCAB)
#define ATTN_NORM ONE("layers.{l}.attn_norm", DIM_NONE, NULL, L "input_layernorm.weight", DIM_MODEL)
#define Q_K_V(what)                                                                                                                \
    { L "self_attn.q_proj." what, DIM_Q }, { L "self_attn.k_proj." what, DIM_KV }, { L "self_attn.v_proj." what, DIM_KV }
#define QKV { "layers.{l}.qkv", DIM_MODEL, 0, NULL, { Q_K_V("weight") } }
#define QKV_BIAS(when) { "layers.{l}.qkv_bias", DIM_NONE, 0, when, { Q_K_V("bias") } }
#define Q_NORM ONE("layers.{l}.q_norm", DIM_NONE, NULL, L "self_attn.q_norm.weight", DIM_HEAD)
#define K_NORM ONE("layers.{l}.k_norm", DIM_NONE, NULL, L "self_attn.k_norm.weight", DIM_HEAD)
#define ATTN_OUT ONE("layers.{l}.attn_out", DIM_Q, NULL, L "self_attn.o_proj.weight", DIM_MODEL)
#define ATTN_OUT_BIAS(when) ONE("layers.{l}.attn_out_bias", DIM_NONE, when, L "self_attn.o_proj.bias", DIM_MODEL)
#define MLP_NORM ONE("layers.{l}.mlp_norm", DIM_NONE, NULL, L "post_attention_layernorm.weight", DIM_MODEL)
#define G_U(what) { L "mlp.gate_proj." what, DIM_FF }, { L "mlp.up_proj." what, DIM_FF }
#define GATE_UP { "layers.{l}.gate_up", DIM_MODEL, INTERLEAVED, NULL, { G_U("weight") } }
#define GATE_UP_BIAS(when) { "layers.{l}.gate_up_bias", DIM_NONE, INTERLEAVED, when, { G_U("bias") } }
#define DOWN ONE("layers.{l}.down", DIM_FF, NULL, L "mlp.down_proj.weight", DIM_MODEL)
#define DOWN_BIAS(when) ONE("layers.{l}.down_bias", DIM_NONE, when, L "mlp.down_proj.bias", DIM_MODEL)
#define FINAL_NORM ONE("final_norm", DIM_NONE, NULL, "{m}norm.weight", DIM_MODEL)
#define OUTPUT { "output", DIM_MODEL, TIED, NULL, { { "lm_head.weight", DIM_VOCAB } } }
#define END { NULL, DIM_NONE, 0, NULL, { { NULL, DIM_NONE } } }

static const weight llama_weights[] = {
    EMBED, ATTN_NORM, QKV, QKV_BIAS("attention_bias"), ATTN_OUT, ATTN_OUT_BIAS("attention_bias"), MLP_NORM,
    GATE_UP, GATE_UP_BIAS("mlp_bias"), DOWN, DOWN_BIAS("mlp_bias"), FINAL_NORM, OUTPUT, END };
static const weight mistral_weights[] = { EMBED, ATTN_NORM, QKV, ATTN_OUT, MLP_NORM, GATE_UP, DOWN, FINAL_NORM, OUTPUT, END };
static const weight qwen2_weights[] = {
    EMBED, ATTN_NORM, QKV, QKV_BIAS(NULL), ATTN_OUT, MLP_NORM, GATE_UP, DOWN, FINAL_NORM, OUTPUT, END };
static const weight qwen3_weights[] = {
    EMBED, ATTN_NORM, QKV, QKV_BIAS("attention_bias"), Q_NORM, K_NORM, ATTN_OUT, ATTN_OUT_BIAS("attention_bias"), MLP_NORM,
    GATE_UP, DOWN, FINAL_NORM, OUTPUT, END };

/* ---- the table ---- */

static const char *const rotary_buffers[] = { "{m}layers.{l}.self_attn.rotary_emb.inv_freq", "{m}rotary_emb.inv_freq", NULL };

/* What all here have alike: names under "model.", or where a multimodal model keeps its language model. */
#define COMMON                                                                                                                     \
    .prefixes = { "model.", "", "language_model.model.", "model.language_model." }, .unneeded = rotary_buffers,                    \
    .eps_key = "rms_norm_eps"

static const family llama = {
    COMMON, .model_type = "llama", .classes = { "LlamaForCausalLM", "LLaMAForCausalLM" }, .keys = llama_keys,
    .weights = llama_weights };
static const family mistral = {
    COMMON, .model_type = "mistral", .classes = { "MistralForCausalLM" }, .keys = mistral_keys, .weights = mistral_weights,
    .layers = mistral_layers };
static const family qwen2 = {
    COMMON, .model_type = "qwen2", .classes = { "Qwen2ForCausalLM" }, .keys = qwen_keys, .weights = qwen2_weights,
    .layers = qwen_layers };
static const family qwen3 = {
    COMMON, .model_type = "qwen3", .classes = { "Qwen3ForCausalLM" }, .keys = qwen_keys, .weights = qwen3_weights,
    .layers = qwen_layers, .head_dim = 128 };

const family *const *families_all(void) {
    static const family *const all[] = { &llama, &mistral, &qwen2, &qwen3, NULL };
    return all;
}
