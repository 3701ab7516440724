/* families: the table of model families, one row each: keys of config.json, names of tensors, what must not be set. It owns
 * what is particular to a family's names; what varies by layer is in layers.c. A new family is a new row.
 * The names and defaults are those of transformers' configuration and modeling files of each family. */
#include <math.h>
#include <string.h>

#include "tools/convert/families.h"

#pragma GCC diagnostic ignored "-Wmissing-field-initializers" /* in these tables, what a row does not say is 0 */

int dim_value(const checkpoint *c, dim_kind d, int l) {
    const arch *a = &c->arch;
    int ff = l >= 0 && l < a->n_layers && a->ff[l] ? a->ff[l] : a->d_ff;
    int q = a->n_heads * a->head_dim, kv = a->n_kv_heads * a->head_dim;
    switch (d) {
    case DIM_MODEL: return a->d_model;
    case DIM_FF: return ff;
    case DIM_FF2: return 2 * ff;
    case DIM_VOCAB: return a->n_vocab;
    case DIM_Q: return q;
    case DIM_KV: return kv;
    case DIM_QK: return q + kv;
    case DIM_QKV: return q + 2 * kv;
    case DIM_HEAD: return a->head_dim;
    case DIM_HEADS: return a->n_heads;
    case DIM_CTX: return a->n_ctx;
    case DIM_EXPERTS: return a->n_experts;
    case DIM_EXPERT: return a->d_expert;
    case DIM_SHARED: return a->d_shared;
    case DIM_STREAMS: return a->n_streams;
    case DIM_STREAMS2: return a->n_streams * a->n_streams;
    case DIM_LAUREL: return c->laurel_rank;
    case DIM_PER_LAYER: return a->d_per_layer;
    case DIM_ALL_PER_LAYER: return a->n_layers * a->d_per_layer;
    case DIM_VOCAB_PER_LAYER: return a->n_vocab_per_layer;
    case DIM_TYPES: return c->n_types;
    case DIM_BUCKETS: return c->n_buckets;
    case DIM_ONE:
    case DIM_NONE: break;
    }
    return 1;
}

int dim_source(const checkpoint *c, dim_kind d, int l) {
    if (c->slice.n_layers && d == DIM_FF) return c->slice.ff[l];
    if (c->slice.n_layers && d == DIM_ALL_PER_LAYER) return c->slice.n_layers * c->arch.d_per_layer;
    return dim_value(c, d, l);
}

/* ---- keys ---- */

#define AT(name) offsetof(arch, name)
#define SHAPE                                                                                                                      \
    { "num_hidden_layers", AT(n_layers), NAN }, { "hidden_size", AT(d_model), NAN }, { "num_attention_heads", AT(n_heads), NAN },  \
        { "intermediate_size", AT(d_ff), NAN }, { "vocab_size", AT(n_vocab), NAN }
#define HEADS { "num_key_value_heads", AT(n_kv_heads), 0 },                                                                        \
    { "head_dim", AT(head_dim), 0 } /* 0: as many as heads; d_model / n_heads */
#define POSITIONS(n) { "max_position_embeddings", AT(n_ctx), n }
#define RMS_EPS(x) { "rms_norm_eps", AT(norm_eps), x }
#define LAYER_NORM(key, x) { key, AT(norm_eps), x }, { "", AT(norm), 1, FIXED }
#define GEMMA_KEYS HEADS, RMS_EPS(1e-6), { "hidden_size", AT(embed_scale), NAN, ROOT }
#define SOFTCAPS(scores, logits)                                                                                                   \
    { "attn_logit_softcapping", AT(attn_softcap), scores }, { "final_logit_softcapping", AT(logit_softcap), logits }
#define QUERY_SCALE(x) { "query_pre_attn_scalar", AT(attn_scale), x, INVERSE_ROOT }
#define EXPERTS(key, n, used, inner) { key, AT(n_experts), n }, { "num_experts_per_tok", AT(n_used), used },                       \
    { "moe_intermediate_size", AT(d_expert), inner }
#define LAST { NULL, 0, 0 }

static const config_key llama_keys[] = { SHAPE, HEADS, POSITIONS(2048), RMS_EPS(1e-6), LAST };
static const config_key mistral_keys[] = { SHAPE, HEADS, POSITIONS(131072), RMS_EPS(1e-6), LAST };
static const config_key qwen_keys[] = { SHAPE, HEADS, POSITIONS(32768), RMS_EPS(1e-6), LAST };
static const config_key gemma_keys[] = { SHAPE, GEMMA_KEYS, POSITIONS(8192), LAST };
static const config_key gemma2_keys[] = { SHAPE, GEMMA_KEYS, POSITIONS(8192), SOFTCAPS(50, 30), QUERY_SCALE(256), LAST };
/* A multimodal config.json leaves out what transformers' text configuration has as its default. */
static const config_key gemma3_keys[] = {
    { "num_hidden_layers", AT(n_layers), 26 }, { "hidden_size", AT(d_model), 2304 }, { "num_attention_heads", AT(n_heads), 8 },
    { "num_key_value_heads", AT(n_kv_heads), 4 }, { "head_dim", AT(head_dim), 256 }, { "intermediate_size", AT(d_ff), 9216 },
    { "vocab_size", AT(n_vocab), 262208 }, POSITIONS(131072), RMS_EPS(1e-6), { "hidden_size", AT(embed_scale), 2304, ROOT },
    SOFTCAPS(0, 0), QUERY_SCALE(256), LAST };
static const config_key gemma3n_keys[] = {
    { "num_hidden_layers", AT(n_layers), 35 }, { "hidden_size", AT(d_model), 2048 }, { "num_attention_heads", AT(n_heads), 8 },
    { "num_key_value_heads", AT(n_kv_heads), 2 }, { "head_dim", AT(head_dim), 256 }, { "intermediate_size", AT(d_ff), 16384, LARGEST },
    { "vocab_size", AT(n_vocab), 262400 }, POSITIONS(32768), RMS_EPS(1e-6), { "hidden_size", AT(embed_scale), 2048, ROOT },
    { "final_logit_softcapping", AT(logit_softcap), 30 }, { "", AT(attn_scale), 1, FIXED },
    { "altup_num_inputs", AT(n_streams), 4 }, { "hidden_size_per_layer_input", AT(d_per_layer), 256 },
    { "hidden_size_per_layer_input", AT(per_layer_scale), 256, ROOT },
    { "vocab_size_per_layer_input", AT(n_vocab_per_layer), 262144 }, LAST };
static const config_key phi_keys[] = {
    SHAPE, HEADS, POSITIONS(2048), LAYER_NORM("layer_norm_eps", 1e-5), { "", AT(parallel), 1, FIXED }, LAST };
static const config_key phi3_keys[] = { SHAPE, HEADS, POSITIONS(4096), RMS_EPS(1e-5), LAST };
static const config_key gpt2_keys[] = {
    { "n_layer", AT(n_layers), NAN }, { "n_embd", AT(d_model), NAN }, { "n_head", AT(n_heads), NAN },
    { "n_inner", AT(d_ff), 4, WIDTHS }, { "vocab_size", AT(n_vocab), NAN }, { "n_positions", AT(n_ctx), 1024 },
    LAYER_NORM("layer_norm_epsilon", 1e-5), LAST };
static const config_key neox_keys[] = {
    SHAPE, POSITIONS(2048), LAYER_NORM("layer_norm_eps", 1e-5), { "use_parallel_residual", AT(parallel), 1, TRUTH }, LAST };
static const config_key granite_keys[] = {
    SHAPE, HEADS, POSITIONS(2048), RMS_EPS(1e-6), { "embedding_multiplier", AT(embed_scale), 1 },
    { "residual_multiplier", AT(residual_scale), 1 }, { "attention_multiplier", AT(attn_scale), 1 },
    { "logits_scaling", AT(logit_scale), 1, INVERSE }, LAST };
static const config_key olmo_keys[] = { SHAPE, HEADS, POSITIONS(2048), LAYER_NORM("", 1e-5), LAST };
static const config_key olmo2_keys[] = { SHAPE, HEADS, POSITIONS(2048), RMS_EPS(1e-5), LAST };
static const config_key smollm3_keys[] = { SHAPE, HEADS, POSITIONS(32768), RMS_EPS(1e-6), LAST };
static const config_key mixtral_keys[] = {
    SHAPE, HEADS, POSITIONS(131072), RMS_EPS(1e-5), { "num_local_experts", AT(n_experts), 8 },
    { "num_experts_per_tok", AT(n_used), 2 }, { "intermediate_size", AT(d_expert), NAN }, { "", AT(renorm), 1, FIXED }, LAST };
static const config_key qwen2_moe_keys[] = {
    SHAPE, HEADS, POSITIONS(32768), RMS_EPS(1e-6), EXPERTS("num_experts", 60, 4, 1408),
    { "shared_expert_intermediate_size", AT(d_shared), 5632 }, { "norm_topk_prob", AT(renorm), 0, TRUTH }, LAST };
static const config_key qwen3_moe_keys[] = {
    SHAPE, HEADS, POSITIONS(32768), RMS_EPS(1e-6), EXPERTS("num_experts", 128, 8, 768), { "norm_topk_prob", AT(renorm), 0, TRUTH },
    LAST };
static const config_key t5_keys[] = {
    { "num_layers", AT(n_enc_layers), NAN }, { "num_decoder_layers", AT(n_layers), -1 }, { "d_model", AT(d_model), NAN },
    { "num_heads", AT(n_heads), NAN }, { "d_kv", AT(head_dim), 64 }, { "d_ff", AT(d_ff), NAN }, { "vocab_size", AT(n_vocab), NAN },
    { "n_positions", AT(n_ctx), 512 }, { "layer_norm_epsilon", AT(norm_eps), 1e-6 },
    { "decoder_start_token_id", AT(decoder_start), 0 }, { "", AT(attn_scale), 1, FIXED }, LAST };
static const config_key bert_keys[] = {
    { "num_hidden_layers", AT(n_enc_layers), NAN }, { "", AT(n_layers), 0, FIXED }, { "hidden_size", AT(d_model), NAN },
    { "num_attention_heads", AT(n_heads), NAN }, { "intermediate_size", AT(d_ff), NAN }, { "vocab_size", AT(n_vocab), NAN },
    POSITIONS(512), LAYER_NORM("layer_norm_eps", 1e-12), LAST };
static const config_key cohere_keys[] = {
    SHAPE, HEADS, POSITIONS(8192), LAYER_NORM("layer_norm_eps", 1e-5), { "", AT(parallel), 1, FIXED },
    { "logit_scale", AT(logit_scale), 0.0625 }, LAST };
static const config_key stablelm_keys[] = {
    SHAPE, HEADS, POSITIONS(4096), LAYER_NORM("layer_norm_eps", 1e-5), { "use_parallel_residual", AT(parallel), 0, TRUTH }, LAST };
static const config_key starcoder2_keys[] = { SHAPE, HEADS, POSITIONS(4096), LAYER_NORM("norm_epsilon", 1e-5), LAST };
static const config_key falcon_keys[] = {
    { "num_hidden_layers", AT(n_layers), NAN }, { "hidden_size", AT(d_model), NAN }, { "num_attention_heads", AT(n_heads), NAN },
    { "ffn_hidden_size", AT(d_ff), 4, WIDTHS }, { "vocab_size", AT(n_vocab), NAN }, { "num_kv_heads", AT(n_kv_heads), 0 },
    POSITIONS(2048), LAYER_NORM("layer_norm_epsilon", 1e-5), { "", AT(parallel), 1, FIXED }, LAST };

/* ---- what must not be set ---- */

static const config_must gpt2_musts[] = {
    { "scale_attn_by_inverse_layer_idx", "false" }, { "scale_attn_weights", "true" }, { "add_cross_attention", "false" },
    { NULL, NULL } };
static const config_must bert_musts[] = {
    { "position_embedding_type", "absolute" }, { "is_decoder", "false" }, { "add_cross_attention", "false" }, { NULL, NULL } };
static const config_must olmo_musts[] = { { "clip_qkv", "null" }, { NULL, NULL } };
static const config_must gemma3_musts[] = { { "use_bidirectional_attention", "false" }, { NULL, NULL } };
static const config_must gemma3n_musts[] = { { "altup_active_idx", "0" }, { NULL, NULL } };
static const config_must falcon_musts[] = { { "alibi", "false" }, { NULL, NULL } };

/* ---- tensors ---- */

#define L "{m}layers.{l}."
#define TO "layers.{l}."
#define ROW(name, k, flags, when, source, rows) { name, k, flags, when, { { source, rows } } }
#define VECTOR(name, rows, source) ROW(name, DIM_NONE, 0, NULL, source, rows)
#define VECTOR_1(name, rows, source) ROW(name, DIM_NONE, PLUS_ONE, NULL, source, rows)
#define NORM_BIAS(name, source) VECTOR(name, DIM_MODEL, source ".weight"), VECTOR(name "_bias", DIM_MODEL, source ".bias")
#define LINEAR(name, k, rows, source) ROW(name, k, 0, NULL, source ".weight", rows)
#define LINEAR_BIAS(name, k, rows, source) LINEAR(name, k, rows, source), VECTOR(name "_bias", rows, source ".bias")
#define THREE(what, a, b, c) { { a what, DIM_Q }, { b what, DIM_KV }, { c what, DIM_KV } }
#define FUSED(source) { { source, DIM_Q, DIM_QKV }, { source, DIM_KV, DIM_QKV, DIM_Q }, { source, DIM_KV, DIM_QKV, DIM_QK } }

#define EMBED LINEAR("embed", DIM_MODEL, DIM_VOCAB, "{m}embed_tokens")
#define ATTN_NORM VECTOR(TO "attn_norm", DIM_MODEL, L "input_layernorm.weight")
#define QKV_OF(flags) { TO "qkv", DIM_MODEL, flags, NULL,                                                                          \
    THREE(".weight", L "self_attn.q_proj", L "self_attn.k_proj", L "self_attn.v_proj") }
#define QKV QKV_OF(0)
#define QKV_BIAS(when) { TO "qkv_bias", DIM_NONE, 0, when,                                                                         \
    THREE(".bias", L "self_attn.q_proj", L "self_attn.k_proj", L "self_attn.v_proj") }
#define HEAD_NORMS VECTOR(TO "q_norm", DIM_HEAD, L "self_attn.q_norm.weight"),                                                     \
    VECTOR(TO "k_norm", DIM_HEAD, L "self_attn.k_norm.weight")
/* LayerNorm of each head: q_norm, or k_norm. */
#define HEAD_LAYER_NORM(name, flags, when, source, rows) ROW(TO name, DIM_NONE, flags, when, source, rows)
#define ATTN_OUT LINEAR(TO "attn_out", DIM_Q, DIM_MODEL, L "self_attn.o_proj")
#define ATTN_OUT_BIAS(when) ROW(TO "attn_out_bias", DIM_NONE, 0, when, L "self_attn.o_proj.bias", DIM_MODEL)
#define MLP_NORM VECTOR(TO "mlp_norm", DIM_MODEL, L "post_attention_layernorm.weight")
#define GATE_UP_OF(name, flags, d, gate, up) { name, DIM_MODEL, INTERLEAVED | (flags), NULL,                                       \
    { { gate ".weight", d }, { up ".weight", d } } }
#define MLP_OF(flags)                                                                                                              \
    GATE_UP_OF(TO "gate_up", flags, DIM_FF, L "mlp.gate_proj", L "mlp.up_proj"),                                                   \
    ROW(TO "down", DIM_FF, flags, NULL, L "mlp.down_proj.weight", DIM_MODEL)
#define MLP MLP_OF(0)
#define MLP_BIAS(when)                                                                                                             \
    { TO "gate_up_bias", DIM_NONE, INTERLEAVED, when, { { L "mlp.gate_proj.bias", DIM_FF }, { L "mlp.up_proj.bias", DIM_FF } } },  \
        ROW(TO "down_bias", DIM_NONE, 0, when, L "mlp.down_proj.bias", DIM_MODEL)
#define ROUTER(source) ROW(TO "router", DIM_MODEL, EXACT | IF_EXPERTS, NULL, source ".weight", DIM_EXPERTS)
#define EXPERT(gate, up, down)                                                                                                     \
    GATE_UP_OF(TO "experts.{e}.gate_up", IF_EXPERTS, DIM_EXPERT, gate, up),                                                        \
    ROW(TO "experts.{e}.down", DIM_EXPERT, IF_EXPERTS, NULL, down ".weight", DIM_MODEL)
#define FINAL_NORM VECTOR("final_norm", DIM_MODEL, "{m}norm.weight")
#define OUTPUT_OF(source) ROW("output", DIM_MODEL, TIED, NULL, source ".weight", DIM_VOCAB)
#define OUTPUT OUTPUT_OF("lm_head")
#define END { NULL, DIM_NONE, 0, NULL, { { NULL, DIM_NONE } } }

static const weight llama_weights[] = {
    EMBED, ATTN_NORM, QKV, QKV_BIAS("attention_bias"), ATTN_OUT, ATTN_OUT_BIAS("attention_bias"), MLP_NORM, MLP,
    MLP_BIAS("mlp_bias"), FINAL_NORM, OUTPUT, END };
static const weight mistral_weights[] = { EMBED, ATTN_NORM, QKV, ATTN_OUT, MLP_NORM, MLP, FINAL_NORM, OUTPUT, END };
static const weight qwen2_weights[] = { EMBED, ATTN_NORM, QKV, QKV_BIAS(NULL), ATTN_OUT, MLP_NORM, MLP, FINAL_NORM, OUTPUT, END };
static const weight qwen3_weights[] = {
    EMBED, ATTN_NORM, QKV, QKV_BIAS("attention_bias"), HEAD_NORMS, ATTN_OUT, ATTN_OUT_BIAS("attention_bias"), MLP_NORM, MLP,
    FINAL_NORM, OUTPUT, END };

#define GEMMA_NORM(to, from) VECTOR_1(TO to, DIM_MODEL, L from ".weight")
#define GEMMA_ATTENTION GEMMA_NORM("attn_norm", "input_layernorm"), QKV, QKV_BIAS("attention_bias"), ATTN_OUT,                     \
    ATTN_OUT_BIAS("attention_bias")
#define GEMMA_NORMS                                                                                                                \
    GEMMA_NORM("attn_post_norm", "post_attention_layernorm"), GEMMA_NORM("mlp_norm", "pre_feedforward_layernorm"),                 \
    GEMMA_NORM("mlp_post_norm", "post_feedforward_layernorm")
#define GEMMA_END VECTOR_1("final_norm", DIM_MODEL, "{m}norm.weight"), OUTPUT, END
static const weight gemma_weights[] = {
    EMBED, GEMMA_ATTENTION, GEMMA_NORM("mlp_norm", "post_attention_layernorm"), MLP, GEMMA_END };
static const weight gemma2_weights[] = { EMBED, GEMMA_ATTENTION, GEMMA_NORMS, MLP, GEMMA_END };
static const weight gemma3_weights[] = {
    EMBED, GEMMA_ATTENTION, VECTOR_1(TO "q_norm", DIM_HEAD, L "self_attn.q_norm.weight"),
    VECTOR_1(TO "k_norm", DIM_HEAD, L "self_attn.k_norm.weight"), GEMMA_NORMS, MLP, GEMMA_END };
static const weight gemma3n_weights[] = {
    EMBED,
    ROW("per_layer_embed", DIM_ALL_PER_LAYER, LOOKED_UP, NULL, "{m}embed_tokens_per_layer.weight", DIM_VOCAB_PER_LAYER),
    LINEAR("per_layer_proj", DIM_MODEL, DIM_ALL_PER_LAYER, "{m}per_layer_model_projection"),
    VECTOR("per_layer_norm", DIM_PER_LAYER, "{m}per_layer_projection_norm.weight"),
    LINEAR("stream_in.{s}", DIM_MODEL, DIM_MODEL, "{m}altup_projections.{s-1}"),
    ROW(TO "altup_norm", DIM_NONE, OVER_WIDTH, NULL, L "altup.router_norm.weight", DIM_MODEL),
    ROW(TO "altup_router", DIM_MODEL, EXACT, NULL, L "altup.modality_router.weight", DIM_STREAMS),
    ROW(TO "altup_predict", DIM_STREAMS, EXACT, NULL, L "altup.prediction_coefs.weight", DIM_STREAMS2),
    ATTN_NORM,
    QKV_OF(IF_OWN_KV),
    ROW(TO "qkv", DIM_MODEL, IF_OTHER_KV | PADDED, NULL, L "self_attn.q_proj.weight", DIM_Q),
    VECTOR(TO "q_norm", DIM_HEAD, L "self_attn.q_norm.weight"),
    ROW(TO "k_norm", DIM_NONE, IF_OWN_KV, NULL, L "self_attn.k_norm.weight", DIM_HEAD),
    ROW(TO "v_norm", DIM_NONE, IF_OWN_KV | ONES, NULL, "", DIM_HEAD),
    ATTN_OUT,
    VECTOR(TO "attn_post_norm", DIM_MODEL, L "post_attention_layernorm.weight"),
    LINEAR(TO "laurel_left", DIM_MODEL, DIM_LAUREL, L "laurel.linear_left"),
    LINEAR(TO "laurel_right", DIM_LAUREL, DIM_MODEL, L "laurel.linear_right"),
    VECTOR(TO "laurel_norm", DIM_MODEL, L "laurel.post_laurel_norm.weight"),
    VECTOR(TO "mlp_norm", DIM_MODEL, L "pre_feedforward_layernorm.weight"),
    MLP,
    VECTOR(TO "mlp_post_norm", DIM_MODEL, L "post_feedforward_layernorm.weight"),
    ROW(TO "altup_correct", DIM_STREAMS, EXACT, NULL, L "altup.correction_coefs.weight", DIM_STREAMS),
    ROW(TO "altup_correct_bias", DIM_NONE, ONES, NULL, "", DIM_STREAMS),
    ROW(TO "altup_scale", DIM_NONE, 0, "+altup_correct_scale", L "altup.correct_output_scale", DIM_MODEL),
    LINEAR(TO "per_layer_gate", DIM_MODEL, DIM_PER_LAYER, L "per_layer_input_gate"),
    LINEAR(TO "per_layer_out", DIM_PER_LAYER, DIM_MODEL, L "per_layer_projection"),
    VECTOR(TO "per_layer_norm", DIM_MODEL, L "post_per_layer_input_norm.weight"),
    LINEAR("stream_out.{s}", DIM_MODEL, DIM_MODEL, "{m}altup_unembed_projections.{s-1}"),
    FINAL_NORM, OUTPUT, END };

static const weight phi_weights[] = {
    EMBED, NORM_BIAS(TO "attn_norm", L "input_layernorm"), QKV, QKV_BIAS(NULL),
    HEAD_LAYER_NORM("q_norm", 0, "qk_layernorm", L "self_attn.q_layernorm.weight", DIM_HEAD),
    HEAD_LAYER_NORM("q_norm_bias", 0, "qk_layernorm", L "self_attn.q_layernorm.bias", DIM_HEAD),
    HEAD_LAYER_NORM("k_norm", 0, "qk_layernorm", L "self_attn.k_layernorm.weight", DIM_HEAD),
    HEAD_LAYER_NORM("k_norm_bias", 0, "qk_layernorm", L "self_attn.k_layernorm.bias", DIM_HEAD),
    LINEAR_BIAS(TO "attn_out", DIM_Q, DIM_MODEL, L "self_attn.dense"), LINEAR_BIAS(TO "up", DIM_MODEL, DIM_FF, L "mlp.fc1"),
    LINEAR_BIAS(TO "down", DIM_FF, DIM_MODEL, L "mlp.fc2"), NORM_BIAS("final_norm", "{m}final_layernorm"), OUTPUT,
    VECTOR("output_bias", DIM_VOCAB, "lm_head.bias"), END };
static const weight phi3_weights[] = {
    EMBED, ATTN_NORM, { TO "qkv", DIM_MODEL, 0, NULL, FUSED(L "self_attn.qkv_proj.weight") }, ATTN_OUT, MLP_NORM,
    { TO "gate_up", DIM_MODEL, INTERLEAVED, NULL,
      { { L "mlp.gate_up_proj.weight", DIM_FF, DIM_FF2 }, { L "mlp.gate_up_proj.weight", DIM_FF, DIM_FF2, DIM_FF } } },
    LINEAR(TO "down", DIM_FF, DIM_MODEL, L "mlp.down_proj"), FINAL_NORM, OUTPUT, END };

#define H "{m}h.{l}."
#define CONV1D(name, k, rows, source) ROW(name, k, TRANSPOSED, NULL, source ".weight", rows),                                      \
    VECTOR(name "_bias", rows, source ".bias")
static const weight gpt2_weights[] = {
    LINEAR("embed", DIM_MODEL, DIM_VOCAB, "{m}wte"), ROW("pos_embed", DIM_MODEL, EXACT, NULL, "{m}wpe.weight", DIM_CTX),
    NORM_BIAS(TO "attn_norm", H "ln_1"), { TO "qkv", DIM_MODEL, TRANSPOSED, NULL, FUSED(H "attn.c_attn.weight") },
    { TO "qkv_bias", DIM_NONE, 0, NULL, FUSED(H "attn.c_attn.bias") }, CONV1D(TO "attn_out", DIM_Q, DIM_MODEL, H "attn.c_proj"),
    NORM_BIAS(TO "mlp_norm", H "ln_2"), CONV1D(TO "up", DIM_MODEL, DIM_FF, H "mlp.c_fc"),
    CONV1D(TO "down", DIM_FF, DIM_MODEL, H "mlp.c_proj"), NORM_BIAS("final_norm", "{m}ln_f"), OUTPUT, END };
static const weight neox_weights[] = {
    LINEAR("embed", DIM_MODEL, DIM_VOCAB, "{m}embed_in"), NORM_BIAS(TO "attn_norm", L "input_layernorm"),
    { TO "qkv", DIM_MODEL, HEADWISE, NULL, FUSED(L "attention.query_key_value.weight") },
    { TO "qkv_bias", DIM_NONE, HEADWISE, "+attention_bias", FUSED(L "attention.query_key_value.bias") },
    LINEAR(TO "attn_out", DIM_Q, DIM_MODEL, L "attention.dense"),
    ROW(TO "attn_out_bias", DIM_NONE, 0, "+attention_bias", L "attention.dense.bias", DIM_MODEL),
    NORM_BIAS(TO "mlp_norm", L "post_attention_layernorm"), LINEAR_BIAS(TO "up", DIM_MODEL, DIM_FF, L "mlp.dense_h_to_4h"),
    LINEAR_BIAS(TO "down", DIM_FF, DIM_MODEL, L "mlp.dense_4h_to_h"), NORM_BIAS("final_norm", "{m}final_layer_norm"),
    OUTPUT_OF("embed_out"), END };
static const weight olmo_weights[] = {
    EMBED, ROW(TO "attn_norm", DIM_NONE, ONES, NULL, "", DIM_MODEL), QKV, QKV_BIAS("attention_bias"), ATTN_OUT,
    ATTN_OUT_BIAS("attention_bias"), ROW(TO "mlp_norm", DIM_NONE, ONES, NULL, "", DIM_MODEL), MLP,
    ROW("final_norm", DIM_NONE, ONES, NULL, "", DIM_MODEL), OUTPUT, END };
static const weight olmo2_weights[] = {
    EMBED, QKV, QKV_BIAS("attention_bias"), VECTOR(TO "q_norm", DIM_Q, L "self_attn.q_norm.weight"),
    VECTOR(TO "k_norm", DIM_KV, L "self_attn.k_norm.weight"), ATTN_OUT, ATTN_OUT_BIAS("attention_bias"),
    VECTOR(TO "attn_post_norm", DIM_MODEL, L "post_attention_layernorm.weight"), MLP,
    VECTOR(TO "mlp_post_norm", DIM_MODEL, L "post_feedforward_layernorm.weight"), FINAL_NORM, OUTPUT, END };
#define MIXTRAL_EXPERT L "block_sparse_moe.experts.{e}."
static const weight mixtral_weights[] = {
    EMBED, ATTN_NORM, QKV, ATTN_OUT, MLP_NORM, ROUTER(L "block_sparse_moe.gate"),
    EXPERT(MIXTRAL_EXPERT "w1", MIXTRAL_EXPERT "w3", MIXTRAL_EXPERT "w2"), FINAL_NORM, OUTPUT, END };
#define QWEN_EXPERT L "mlp.experts.{e}."
#define QWEN_MIXTURE MLP_NORM, MLP_OF(IF_DENSE), ROUTER(L "mlp.gate"),                                                             \
    EXPERT(QWEN_EXPERT "gate_proj", QWEN_EXPERT "up_proj", QWEN_EXPERT "down_proj")
static const weight qwen2_moe_weights[] = {
    EMBED, ATTN_NORM, QKV, QKV_BIAS("+qkv_bias"), ATTN_OUT, QWEN_MIXTURE,
    GATE_UP_OF(TO "shared.gate_up", IF_EXPERTS, DIM_SHARED, L "mlp.shared_expert.gate_proj", L "mlp.shared_expert.up_proj"),
    ROW(TO "shared.down", DIM_SHARED, IF_EXPERTS, NULL, L "mlp.shared_expert.down_proj.weight", DIM_MODEL),
    ROW(TO "shared_gate", DIM_MODEL, EXACT | IF_EXPERTS, NULL, L "mlp.shared_expert_gate.weight", DIM_ONE), FINAL_NORM, OUTPUT, END
};
static const weight qwen3_moe_weights[] = {
    EMBED, ATTN_NORM, QKV, QKV_BIAS("attention_bias"), HEAD_NORMS, ATTN_OUT, ATTN_OUT_BIAS("attention_bias"), QWEN_MIXTURE,
    FINAL_NORM, OUTPUT, END };

#define ENC "enc.{l}."
#define T5E "encoder.block.{l}.layer."
#define T5D "decoder.block.{l}.layer."
#define T5_SELF(to, from)                                                                                                          \
    VECTOR(to "attn_norm", DIM_MODEL, from "0.layer_norm.weight"),                                                                 \
        { to "qkv", DIM_MODEL, 0, NULL,                                                                                            \
        THREE(".weight", from "0.SelfAttention.q", from "0.SelfAttention.k", from "0.SelfAttention.v") },                          \
        LINEAR(to "attn_out", DIM_Q, DIM_MODEL, from "0.SelfAttention.o")
#define T5_MLP(to, from)                                                                                                           \
    VECTOR(to "mlp_norm", DIM_MODEL, from "layer_norm.weight"),                                                                    \
    ROW(to "up", DIM_MODEL, IF_UNGATED, NULL, from "DenseReluDense.wi.weight", DIM_FF),                                            \
        GATE_UP_OF(to "gate_up", IF_GATED, DIM_FF, from "DenseReluDense.wi_0", from "DenseReluDense.wi_1"),                        \
        LINEAR(to "down", DIM_FF, DIM_MODEL, from "DenseReluDense.wo")
#define T5_BIAS(name, flag, stack)                                                                                                 \
    ROW(name, DIM_HEADS, EXACT | (flag), NULL, stack ".block.0.layer.0.SelfAttention.relative_attention_bias.weight", DIM_BUCKETS)
static const weight t5_weights[] = {
    LINEAR("embed", DIM_MODEL, DIM_VOCAB, "shared"), T5_BIAS("enc.rel_bias", BIAS_BOTH, "encoder"),
    T5_BIAS("rel_bias", BIAS_BACK, "decoder"), T5_SELF(ENC, T5E), T5_MLP(ENC, T5E "1."),
    VECTOR("enc.final_norm", DIM_MODEL, "encoder.final_layer_norm.weight"), T5_SELF(TO, T5D),
    VECTOR(TO "cross_norm", DIM_MODEL, T5D "1.layer_norm.weight"),
    ROW(TO "cross_q", DIM_MODEL, PADDED, NULL, T5D "1.EncDecAttention.q.weight", DIM_Q),
    { TO "cross_kv", DIM_MODEL, 0, NULL,
      { { T5D "1.EncDecAttention.k.weight", DIM_KV }, { T5D "1.EncDecAttention.v.weight", DIM_KV } } },
    LINEAR(TO "cross_out", DIM_Q, DIM_MODEL, T5D "1.EncDecAttention.o"), T5_MLP(TO, T5D "2."),
    VECTOR("final_norm", DIM_MODEL, "decoder.final_layer_norm.weight"), OUTPUT, END };

#define BERT "{m}encoder.layer.{l}."
static const weight bert_weights[] = {
    LINEAR("embed", DIM_MODEL, DIM_VOCAB, "{m}embeddings.word_embeddings"),
    { "pos_embed", DIM_MODEL, EXACT | ADD_FIRST, NULL,
      { { "{m}embeddings.position_embeddings.weight", DIM_CTX }, { "{m}embeddings.token_type_embeddings.weight", DIM_TYPES } } },
    NORM_BIAS("embed_norm", "{m}embeddings.LayerNorm"),
    { ENC "qkv", DIM_MODEL, 0, NULL,
      THREE(".weight", BERT "attention.self.query", BERT "attention.self.key", BERT "attention.self.value") },
    { ENC "qkv_bias", DIM_NONE, 0, NULL,
      THREE(".bias", BERT "attention.self.query", BERT "attention.self.key", BERT "attention.self.value") },
    LINEAR_BIAS(ENC "attn_out", DIM_Q, DIM_MODEL, BERT "attention.output.dense"),
    NORM_BIAS(ENC "attn_sum_norm", BERT "attention.output.LayerNorm"),
    LINEAR_BIAS(ENC "up", DIM_MODEL, DIM_FF, BERT "intermediate.dense"),
    LINEAR_BIAS(ENC "down", DIM_FF, DIM_MODEL, BERT "output.dense"), NORM_BIAS(ENC "mlp_sum_norm", BERT "output.LayerNorm"), END };

static const weight cohere_weights[] = {
    EMBED, ATTN_NORM,
    { TO "qkv", DIM_MODEL, PAIRS, NULL, THREE(".weight", L "self_attn.q_proj", L "self_attn.k_proj", L "self_attn.v_proj") },
    { TO "qkv_bias", DIM_NONE, PAIRS, "attention_bias",
      THREE(".bias", L "self_attn.q_proj", L "self_attn.k_proj", L "self_attn.v_proj") },
    HEAD_LAYER_NORM("q_norm", PAIRS | FLAT, "use_qk_norm", L "self_attn.q_norm.weight", DIM_Q),
    HEAD_LAYER_NORM("k_norm", PAIRS | FLAT, "use_qk_norm", L "self_attn.k_norm.weight", DIM_KV),
    ATTN_OUT, ATTN_OUT_BIAS("attention_bias"), MLP, FINAL_NORM, OUTPUT, END };
static const weight stablelm_weights[] = {
    EMBED, NORM_BIAS(TO "attn_norm", L "input_layernorm"), QKV, QKV_BIAS("use_qkv_bias"),
    HEAD_LAYER_NORM("q_norm", BY_HEAD, "qk_layernorm", L "self_attn.q_layernorm.norms.{h}.weight", DIM_Q),
    HEAD_LAYER_NORM("k_norm", BY_HEAD, "qk_layernorm", L "self_attn.k_layernorm.norms.{h}.weight", DIM_KV), ATTN_OUT,
    ROW(TO "mlp_norm", DIM_NONE, 0, "!use_parallel_residual", L "post_attention_layernorm.weight", DIM_MODEL),
    ROW(TO "mlp_norm_bias", DIM_NONE, 0, "!use_parallel_residual", L "post_attention_layernorm.bias", DIM_MODEL), MLP,
    NORM_BIAS("final_norm", "{m}norm"), OUTPUT, END };
static const weight starcoder2_weights[] = {
    EMBED, NORM_BIAS(TO "attn_norm", L "input_layernorm"), QKV, QKV_BIAS("+use_bias"), ATTN_OUT, ATTN_OUT_BIAS("+use_bias"),
    NORM_BIAS(TO "mlp_norm", L "post_attention_layernorm"), LINEAR(TO "up", DIM_MODEL, DIM_FF, L "mlp.c_fc"),
    ROW(TO "up_bias", DIM_NONE, 0, "+use_bias", L "mlp.c_fc.bias", DIM_FF), LINEAR(TO "down", DIM_FF, DIM_MODEL, L "mlp.c_proj"),
    ROW(TO "down_bias", DIM_NONE, 0, "+use_bias", L "mlp.c_proj.bias", DIM_MODEL), NORM_BIAS("final_norm", "{m}norm"), OUTPUT, END
};
#define FALCON_NORM(name, flags, source) ROW(TO name, DIM_NONE, flags, NULL, H source ".weight", DIM_MODEL),                       \
    ROW(TO name "_bias", DIM_NONE, flags, NULL, H source ".bias", DIM_MODEL)
#define FALCON_BIAS(name, rows, source) ROW(TO name, DIM_NONE, 0, "bias", H source ".bias", rows)
static const weight falcon_weights[] = {
    LINEAR("embed", DIM_MODEL, DIM_VOCAB, "{m}word_embeddings"), FALCON_NORM("attn_norm", IF_TWO_NORMS, "ln_attn"),
    FALCON_NORM("attn_norm", IF_ONE_NORM, "input_layernorm"),
    { TO "qkv", DIM_MODEL, HEADWISE, NULL, FUSED(H "self_attention.query_key_value.weight") },
    { TO "qkv_bias", DIM_NONE, HEADWISE, "bias", FUSED(H "self_attention.query_key_value.bias") },
    LINEAR(TO "attn_out", DIM_Q, DIM_MODEL, H "self_attention.dense"),
    FALCON_BIAS("attn_out_bias", DIM_MODEL, "self_attention.dense"), FALCON_NORM("mlp_norm", IF_TWO_NORMS, "ln_mlp"),
    FALCON_NORM("mlp_norm", IF_SERIAL, "post_attention_layernorm"),
    LINEAR(TO "up", DIM_MODEL, DIM_FF, H "mlp.dense_h_to_4h"), FALCON_BIAS("up_bias", DIM_FF, "mlp.dense_h_to_4h"),
    LINEAR(TO "down", DIM_FF, DIM_MODEL, H "mlp.dense_4h_to_h"), FALCON_BIAS("down_bias", DIM_MODEL, "mlp.dense_4h_to_h"),
    NORM_BIAS("final_norm", "{m}ln_f"), OUTPUT, END };

/* ---- what a checkpoint may hold for no use, or for other uses ---- */

static const char *const rotary_buffers[] = { L "self_attn.rotary_emb.inv_freq", "{m}rotary_emb.inv_freq", NULL };
static const char *const gpt2_buffers[] = { H "attn.bias", H "attn.masked_bias", NULL };
static const char *const neox_buffers[] = {
    L "attention.bias", L "attention.masked_bias", L "attention.rotary_emb.inv_freq", NULL };
static const char *const gemma3n_unneeded[] = {
    L "self_attn.k_proj.weight", L "self_attn.v_proj.weight", L "self_attn.k_norm.weight", L "altup.correct_output_scale", NULL };
static const char *const t5_unneeded[] = {
    "encoder.embed_tokens.weight", "decoder.embed_tokens.weight",
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", NULL };
static const char *const bert_unneeded[] = { "{m}embeddings.position_ids", "{m}pooler.dense.weight", "{m}pooler.dense.bias", NULL };
static const char *const gemma_towers[] = {
    "vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.", "model.audio_tower.",
    "model.embed_vision.", "model.embed_audio.", NULL };

/* ---- the table ---- */

#define PREFIXES { "model.", "", "language_model.model.", "model.language_model." }
#define COMMON(keys_, weights_) .prefixes = PREFIXES, .keys = keys_, .weights = weights_, .unneeded = rotary_buffers
#define ROPE(base) .rope = { { "rope_theta", base } }
#define GEMMA3_ROPE                                                                                                                \
    .rope = { { "rope_theta", 1e6, .layer_type = "full_attention" },                                                               \
              { "rope_local_base_freq", 1e4, .layer_type = "sliding_attention", .unscaled = true } }
#define GEMMA3                                                                                                                     \
    COMMON(gemma3_keys, gemma3_weights), .musts = gemma3_musts, .act_key = "hidden_activation", .act = "gelu_pytorch_tanh",        \
        GEMMA3_ROPE, .special = layers_gemma3
#define GEMMA3N                                                                                                                    \
    .prefixes = PREFIXES, .keys = gemma3n_keys, .weights = gemma3n_weights, .unneeded = gemma3n_unneeded, .musts = gemma3n_musts,  \
        .act_key = "hidden_activation", .act = "gelu_pytorch_tanh", GEMMA3_ROPE, .special = layers_gemma3n, .matformer = true
#define NESTED .nested = "text_config", .aside = gemma_towers

static const family families[] = {
    { .model_type = "llama", .classes = { "LlamaForCausalLM", "LLaMAForCausalLM" }, COMMON(llama_keys, llama_weights),
      .untied = true, ROPE(1e4) },
    { .model_type = "mistral", .classes = { "MistralForCausalLM" }, COMMON(mistral_keys, mistral_weights), .untied = true,
      ROPE(1e4), .special = layers_mistral },
    { .model_type = "qwen2", .classes = { "Qwen2ForCausalLM" }, COMMON(qwen_keys, qwen2_weights), .untied = true, ROPE(1e4),
      .special = layers_qwen },
    { .model_type = "qwen3", .classes = { "Qwen3ForCausalLM" }, COMMON(qwen_keys, qwen3_weights), .untied = true, .head_dim = 128,
      ROPE(1e4), .special = layers_qwen },
    { .model_type = "qwen2_moe", .classes = { "Qwen2MoeForCausalLM" }, COMMON(qwen2_moe_keys, qwen2_moe_weights), .untied = true,
      ROPE(1e4), .special = layers_qwen2_moe },
    { .model_type = "qwen3_moe", .classes = { "Qwen3MoeForCausalLM" }, COMMON(qwen3_moe_keys, qwen3_moe_weights), .untied = true,
      ROPE(1e4), .special = layers_qwen3_moe },
    { .model_type = "mixtral", .classes = { "MixtralForCausalLM" }, COMMON(mixtral_keys, mixtral_weights), .untied = true,
      ROPE(1e6), .special = layers_window },
    { .model_type = "gemma", .classes = { "GemmaForCausalLM" }, COMMON(gemma_keys, gemma_weights), .head_dim = 256,
      .act_key = "hidden_activation", .act = "gelu_pytorch_tanh", .gelu_is_tanh = true, ROPE(1e4) },
    { .model_type = "gemma2", .classes = { "Gemma2ForCausalLM" }, COMMON(gemma2_keys, gemma2_weights), .head_dim = 256,
      .act_key = "hidden_activation", .act = "gelu_pytorch_tanh", ROPE(1e4), .special = layers_alternate },
    { .model_type = "gemma3_text", .classes = { "Gemma3ForCausalLM" }, GEMMA3 },
    { .model_type = "gemma3", .classes = { "Gemma3ForConditionalGeneration" }, NESTED, GEMMA3 },
    { .model_type = "gemma3n_text", .classes = { "Gemma3nForCausalLM" }, GEMMA3N },
    { .model_type = "gemma3n", .classes = { "Gemma3nForConditionalGeneration" }, NESTED, GEMMA3N },
    { .model_type = "phi", .classes = { "PhiForCausalLM" }, COMMON(phi_keys, phi_weights), .untied = true,
      .act = "gelu_new", .rope = { { "rope_theta", 1e4, .partial = 0.5 } } },
    { .model_type = "phi3", .classes = { "Phi3ForCausalLM" }, COMMON(phi3_keys, phi3_weights), .untied = true, ROPE(1e4),
      .special = layers_window },
    { .model_type = "gpt2", .classes = { "GPT2LMHeadModel" }, .prefixes = { "transformer.", "" }, .keys = gpt2_keys,
      .musts = gpt2_musts, .weights = gpt2_weights, .unneeded = gpt2_buffers, .act_key = "activation_function", .act = "gelu_new" },
    { .model_type = "gpt_neox", .classes = { "GPTNeoXForCausalLM" }, .prefixes = { "gpt_neox.", "" }, .keys = neox_keys,
      .weights = neox_weights, .unneeded = neox_buffers, .untied = true, .act = "gelu",
      .rope = { { "rotary_emb_base", 1e4, .partial_key = "rotary_pct", .partial = 0.25 } } },
    { .model_type = "olmo", .classes = { "OlmoForCausalLM" }, COMMON(olmo_keys, olmo_weights), .musts = olmo_musts, .untied = true,
      ROPE(1e4) },
    { .model_type = "olmo2", .classes = { "Olmo2ForCausalLM" }, COMMON(olmo2_keys, olmo2_weights), .untied = true, ROPE(1e4) },
    { .model_type = "granite", .classes = { "GraniteForCausalLM" }, COMMON(granite_keys, llama_weights), .untied = true,
      ROPE(1e4) },
    { .model_type = "smollm3", .classes = { "SmolLM3ForCausalLM" }, COMMON(smollm3_keys, llama_weights), ROPE(2e6),
      .special = layers_smollm3 },
    { .model_type = "cohere", .classes = { "CohereForCausalLM" }, COMMON(cohere_keys, cohere_weights), ROPE(1e4) },
    { .model_type = "stablelm", .classes = { "StableLmForCausalLM" }, COMMON(stablelm_keys, stablelm_weights),
      .untied = true, .rope = { { "rope_theta", 1e4, .partial = 0.25 } } },
    { .model_type = "starcoder2", .classes = { "Starcoder2ForCausalLM" }, COMMON(starcoder2_keys, starcoder2_weights),
      .act = "gelu_pytorch_tanh", ROPE(1e4), .special = layers_window },
    { .model_type = "falcon", .classes = { "FalconForCausalLM" }, .prefixes = { "transformer.", "" }, .keys = falcon_keys,
      .musts = falcon_musts, .weights = falcon_weights, .unneeded = gpt2_buffers, .act_key = "activation", .act = "gelu",
      ROPE(1e4), .special = layers_falcon },
    { .model_type = "t5", .classes = { "T5ForConditionalGeneration", "T5WithLMHeadModel" }, .prefixes = { "" }, .keys = t5_keys,
      .weights = t5_weights, .unneeded = t5_unneeded, .act_key = "", .special = layers_t5 },
    { .model_type = "bert", .classes = { "BertModel", "BertForMaskedLM", "BertForPreTraining" }, .prefixes = { "", "bert." },
      .keys = bert_keys, .musts = bert_musts, .weights = bert_weights, .unneeded = bert_unneeded, .act = "gelu",
      .special = layers_bert },
};
enum { N_FAMILIES = sizeof families / sizeof *families };

const family *family_at(int i) { return i < N_FAMILIES ? &families[i] : NULL; }

void families_print(FILE *out) {
    fprintf(out, "| model_type | classes |\n|---|---|\n");
    for (int i = 0; i < N_FAMILIES; i++) {
        fprintf(out, "| `%s` | ", families[i].model_type);
        for (int c = 0; c < MAX_CLASSES && families[i].classes[c]; c++) fprintf(out, "%s%s", c ? ", " : "", families[i].classes[c]);
        fprintf(out, " |\n");
    }
}
