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
        return fail(e, "%s: layer_types: expected a list of %d, found %s of %u", c->config_path, c->arch.n_layers, json_type_name(types), types->n);
    int l = 0;
    for (const json *t = types->child; t; t = t->next, l++) {
        bool sliding = json_is(t, "sliding_attention");
        if (!sliding && !json_is(t, "full_attention"))
            return fail(e, "%s: layer_types: expected \"full_attention\" or \"sliding_attention\", found %.40s", c->config_path, t->s ? t->s : json_type_name(t));
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

#define L "{m}layers.{l}."
#define EMBED { "embed", DIM_MODEL, 0, NULL, { { "{m}embed_tokens.weight", DIM_VOCAB } } }
#define ATTN_NORM { "layers.{l}.attn_norm", DIM_NONE, 0, NULL, { { L "input_layernorm.weight", DIM_MODEL } } }
#define QKV                                                                                                                    \
    { "layers.{l}.qkv", DIM_MODEL, 0, NULL,                                                                                    \
      { { L "self_attn.q_proj.weight", DIM_Q }, { L "self_attn.k_proj.weight", DIM_KV }, { L "self_attn.v_proj.weight", DIM_KV } } }
#define QKV_BIAS(when)                                                                                                         \
    { "layers.{l}.qkv_bias", DIM_NONE, 0, when,                                                                                \
      { { L "self_attn.q_proj.bias", DIM_Q }, { L "self_attn.k_proj.bias", DIM_KV }, { L "self_attn.v_proj.bias", DIM_KV } } }
#define HEAD_NORMS                                                                                                             \
    { "layers.{l}.q_norm", DIM_NONE, 0, NULL, { { L "self_attn.q_norm.weight", DIM_HEAD } } },                                 \
        { "layers.{l}.k_norm", DIM_NONE, 0, NULL, { { L "self_attn.k_norm.weight", DIM_HEAD } } }
#define ATTN_OUT { "layers.{l}.attn_out", DIM_Q, 0, NULL, { { L "self_attn.o_proj.weight", DIM_MODEL } } }
#define ATTN_OUT_BIAS(when) { "layers.{l}.attn_out_bias", DIM_NONE, 0, when, { { L "self_attn.o_proj.bias", DIM_MODEL } } }
#define MLP_NORM { "layers.{l}.mlp_norm", DIM_NONE, 0, NULL, { { L "post_attention_layernorm.weight", DIM_MODEL } } }
#define GATE_UP                                                                                                                \
    { "layers.{l}.gate_up", DIM_MODEL, INTERLEAVED, NULL, { { L "mlp.gate_proj.weight", DIM_FF }, { L "mlp.up_proj.weight", DIM_FF } } }
#define DOWN { "layers.{l}.down", DIM_FF, 0, NULL, { { L "mlp.down_proj.weight", DIM_MODEL } } }
#define MLP_BIAS(when)                                                                                                         \
    { "layers.{l}.gate_up_bias", DIM_NONE, INTERLEAVED, when, { { L "mlp.gate_proj.bias", DIM_FF }, { L "mlp.up_proj.bias", DIM_FF } } }, \
        { "layers.{l}.down_bias", DIM_NONE, 0, when, { { L "mlp.down_proj.bias", DIM_MODEL } } }
#define FINAL_NORM { "final_norm", DIM_NONE, 0, NULL, { { "{m}norm.weight", DIM_MODEL } } }
#define OUTPUT { "output", DIM_MODEL, TIED, NULL, { { "lm_head.weight", DIM_VOCAB } } }
#define END { NULL, DIM_NONE, 0, NULL, { { NULL, DIM_NONE } } }

static const weight llama_weights[] = { EMBED, ATTN_NORM, QKV, QKV_BIAS("attention_bias"), ATTN_OUT, ATTN_OUT_BIAS("attention_bias"), MLP_NORM, GATE_UP, DOWN,
                                        MLP_BIAS("mlp_bias"), FINAL_NORM, OUTPUT, END };
static const weight mistral_weights[] = { EMBED, ATTN_NORM, QKV, ATTN_OUT, MLP_NORM, GATE_UP, DOWN, FINAL_NORM, OUTPUT, END };
static const weight qwen2_weights[] = { EMBED, ATTN_NORM, QKV, QKV_BIAS(NULL), ATTN_OUT, MLP_NORM, GATE_UP, DOWN, FINAL_NORM, OUTPUT, END };
static const weight qwen3_weights[] = { EMBED, ATTN_NORM, QKV, QKV_BIAS("attention_bias"), HEAD_NORMS, ATTN_OUT, ATTN_OUT_BIAS("attention_bias"), MLP_NORM, GATE_UP,
                                        DOWN, FINAL_NORM, OUTPUT, END };

/* ---- the table ---- */

static const char *const rotary_buffers[] = { "{m}layers.{l}.self_attn.rotary_emb.inv_freq", "{m}rotary_emb.inv_freq", NULL };
#define PREFIXES { "model.", "", "language_model.model.", "model.language_model." }

static const family llama = { "llama", { "LlamaForCausalLM", "LLaMAForCausalLM" }, PREFIXES, llama_keys, llama_weights, rotary_buffers, false, 0, "rms_norm_eps", NULL };
static const family mistral = { "mistral", { "MistralForCausalLM" }, PREFIXES, mistral_keys, mistral_weights, rotary_buffers, false, 0, "rms_norm_eps", mistral_layers };
static const family qwen2 = { "qwen2", { "Qwen2ForCausalLM" }, PREFIXES, qwen_keys, qwen2_weights, rotary_buffers, false, 0, "rms_norm_eps", qwen_layers };
static const family qwen3 = { "qwen3", { "Qwen3ForCausalLM" }, PREFIXES, qwen_keys, qwen3_weights, rotary_buffers, false, 128, "rms_norm_eps", qwen_layers };

const family *const *families_all(void) {
    static const family *const all[] = { &llama, &mistral, &qwen2, &qwen3, NULL };
    return all;
}
