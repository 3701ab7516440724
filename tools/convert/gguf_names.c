/* gguf_names: the table of llama.cpp's architectures and of their tensors' names. A new architecture is a row, with the names and
 * keys in which it differs from llama. It owns what differs in the tensors' layout: rows of q and k interleaved for another way
 * of rotating, norms stored as 1 + w, transposed matrices, experts in one tensor; all of it is undone where values are read. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/convert/convert.h"

enum { NAME_SIZE = 320, MAX_EXPERTS = 4096 };

#define L "model.layers.{l}."
#define B "blk.{l}."
static const gguf_name common[] = {
    { "token_embd", "model.embed_tokens", 0 },
    { "output_norm", "model.norm", GGUF_NORM },
    { "output", "lm_head", 0 },
    { B "attn_norm", L "input_layernorm", GGUF_NORM },
    { B "attn_q", L "self_attn.q_proj", GGUF_Q },
    { B "attn_k", L "self_attn.k_proj", GGUF_K },
    { B "attn_v", L "self_attn.v_proj", 0 },
    { B "attn_qkv", L "self_attn.qkv_proj", 0 },
    { B "attn_output", L "self_attn.o_proj", 0 },
    { B "attn_q_norm", L "self_attn.q_norm", GGUF_NORM },
    { B "attn_k_norm", L "self_attn.k_norm", GGUF_NORM },
    { B "ffn_norm", L "post_attention_layernorm", GGUF_NORM },
    { B "ffn_gate", L "mlp.gate_proj", 0 },
    { B "ffn_up", L "mlp.up_proj", 0 },
    { B "ffn_down", L "mlp.down_proj", 0 },
    { B "ffn_gate_inp", L "mlp.gate", 0 },
    { B "ffn_gate_exps", L "mlp.experts.{e}.gate_proj", 0 },
    { B "ffn_up_exps", L "mlp.experts.{e}.up_proj", 0 },
    { B "ffn_down_exps", L "mlp.experts.{e}.down_proj", 0 },
    { B "ffn_gate_inp_shexp", L "mlp.shared_expert_gate", GGUF_ROW },
    { B "ffn_gate_shexp", L "mlp.shared_expert.gate_proj", 0 },
    { B "ffn_up_shexp", L "mlp.shared_expert.up_proj", 0 },
    { B "ffn_down_shexp", L "mlp.shared_expert.down_proj", 0 },
    { "rope_freqs", NULL, 0 }, /* in the configuration already */
    { "rope_factors_short", NULL, 0 },
    { "rope_factors_long", NULL, 0 },
    { B "attn_rot_embd", NULL, 0 },
    { NULL, NULL, 0 } };

static const gguf_name mixtral_names[] = {
    { B "ffn_gate_inp", L "block_sparse_moe.gate", 0 },
    { B "ffn_gate_exps", L "block_sparse_moe.experts.{e}.w1", 0 },
    { B "ffn_down_exps", L "block_sparse_moe.experts.{e}.w2", 0 },
    { B "ffn_up_exps", L "block_sparse_moe.experts.{e}.w3", 0 },
    { NULL, NULL, 0 } };

static const gguf_name norms_around[] = { /* gemma2, gemma3 */
    { B "post_attention_norm", L "post_attention_layernorm", GGUF_NORM },
    { B "ffn_norm", L "pre_feedforward_layernorm", GGUF_NORM },
    { B "post_ffw_norm", L "post_feedforward_layernorm", GGUF_NORM },
    { NULL, NULL, 0 } };

static const gguf_name norms_behind[] = { /* olmo2 */
    { B "post_attention_norm", L "post_attention_layernorm", GGUF_NORM },
    { B "post_ffw_norm", L "post_feedforward_layernorm", GGUF_NORM },
    { NULL, NULL, 0 } };

static const gguf_name phi2_names[] = {
    { "output_norm", "model.final_layernorm", 0 },
    { B "attn_output", L "self_attn.dense", 0 },
    { B "ffn_up", L "mlp.fc1", 0 },
    { B "ffn_down", L "mlp.fc2", 0 },
    { NULL, NULL, 0 } };

static const gguf_name phi3_names[] = { { B "ffn_up", L "mlp.gate_up_proj", 0 }, { NULL, NULL, 0 } };

#define H "transformer.h.{l}."
static const gguf_name gpt2_names[] = {
    { "token_embd", "transformer.wte", 0 },
    { "position_embd", "transformer.wpe", 0 },
    { "output_norm", "transformer.ln_f", 0 },
    { B "attn_norm", H "ln_1", 0 },
    { B "attn_qkv", H "attn.c_attn", GGUF_TRANSPOSED },
    { B "attn_output", H "attn.c_proj", GGUF_TRANSPOSED },
    { B "ffn_norm", H "ln_2", 0 },
    { B "ffn_up", H "mlp.c_fc", GGUF_TRANSPOSED },
    { B "ffn_down", H "mlp.c_proj", GGUF_TRANSPOSED },
    { NULL, NULL, 0 } };

#define X "gpt_neox.layers.{l}."
static const gguf_name neox_names[] = {
    { "token_embd", "gpt_neox.embed_in", 0 },
    { "output_norm", "gpt_neox.final_layer_norm", 0 },
    { "output", "embed_out", 0 },
    { B "attn_norm", X "input_layernorm", 0 },
    { B "attn_qkv", X "attention.query_key_value", GGUF_GROUPS },
    { B "attn_output", X "attention.dense", 0 },
    { B "ffn_norm", X "post_attention_layernorm", 0 },
    { B "ffn_up", X "mlp.dense_h_to_4h", 0 },
    { B "ffn_down", X "mlp.dense_4h_to_h", 0 },
    { NULL, NULL, 0 } };

#define FALCON_NAMES                                                                                                               \
    { "token_embd", "transformer.word_embeddings", 0 }, { "output_norm", "transformer.ln_f", 0 },                                  \
        { B "attn_qkv", H "self_attention.query_key_value", GGUF_GROUPS }, { B "attn_output", H "self_attention.dense", 0 },       \
        { B "ffn_up", H "mlp.dense_h_to_4h", 0 }, { B "ffn_down", H "mlp.dense_4h_to_h", 0 }, { NULL, NULL, 0 }
static const gguf_name falcon_names[] = { { B "attn_norm", H "ln_mlp", 0 }, { B "attn_norm_2", H "ln_attn", 0 }, FALCON_NAMES };
static const gguf_name falcon_old_names[] = { { B "attn_norm", H "input_layernorm", 0 }, FALCON_NAMES };

static const gguf_name stablelm_names[] = {
    { B "attn_q_norm", L "self_attn.q_layernorm.norms.{e}", 0 },
    { B "attn_k_norm", L "self_attn.k_layernorm.norms.{e}", 0 },
    { NULL, NULL, 0 } };

static const gguf_name starcoder2_names[] = {
    { B "ffn_up", L "mlp.c_fc", 0 }, { B "ffn_down", L "mlp.c_proj", 0 }, { NULL, NULL, 0 } };

static const gguf_name gemma3n_names[] = {
    { "altup_proj", "model.altup_projections.{e}", 0 },
    { "altup_unembd_proj", "model.altup_unembed_projections.{e}", 0 },
    { "per_layer_token_embd", "model.embed_tokens_per_layer", 0 },
    { "per_layer_model_proj", "model.per_layer_model_projection", 0 },
    { "per_layer_proj_norm", "model.per_layer_projection_norm", 0 },
    { B "post_attention_norm", L "post_attention_layernorm", 0 },
    { B "ffn_norm", L "pre_feedforward_layernorm", 0 },
    { B "post_ffw_norm", L "post_feedforward_layernorm", 0 },
    { B "inp_gate", L "per_layer_input_gate", 0 },
    { B "proj", L "per_layer_projection", 0 },
    { B "post_norm", L "post_per_layer_input_norm", 0 },
    { B "altup_correct_coef", L "altup.correction_coefs", 0 },
    { B "altup_correct_scale", L "altup.correct_output_scale", GGUF_BARE },
    { B "altup_predict_coef", L "altup.prediction_coefs", 0 },
    { B "altup_router", L "altup.modality_router", 0 },
    { B "altup_router_norm", L "altup.router_norm", 0 },
    { B "laurel_l", L "laurel.linear_left", 0 },
    { B "laurel_r", L "laurel.linear_right", 0 },
    { B "laurel_post_norm", L "laurel.post_laurel_norm", 0 },
    { NULL, NULL, 0 } };

#define E "enc.blk.{l}."
#define D "dec.blk.{l}."
#define TE "encoder.block.{l}.layer."
#define TD "decoder.block.{l}.layer."
#define T5_NAMES(up)                                                                                                               \
    { "token_embd", "shared", 0 }, { "enc.output_norm", "encoder.final_layer_norm", 0 },                                           \
        { "dec.output_norm", "decoder.final_layer_norm", 0 }, { E "attn_norm", TE "0.layer_norm", 0 },                             \
        { E "attn_q", TE "0.SelfAttention.q", 0 }, { E "attn_k", TE "0.SelfAttention.k", 0 },                                      \
        { E "attn_v", TE "0.SelfAttention.v", 0 }, { E "attn_o", TE "0.SelfAttention.o", 0 },                                      \
        { E "attn_rel_b", TE "0.SelfAttention.relative_attention_bias", 0 }, { E "ffn_norm", TE "1.layer_norm", 0 },               \
        { E "ffn_gate", TE "1.DenseReluDense.wi_0", 0 }, { E "ffn_up", TE "1.DenseReluDense." up, 0 },                             \
        { E "ffn_down", TE "1.DenseReluDense.wo", 0 }, { D "attn_norm", TD "0.layer_norm", 0 },                                    \
        { D "attn_q", TD "0.SelfAttention.q", 0 }, { D "attn_k", TD "0.SelfAttention.k", 0 },                                      \
        { D "attn_v", TD "0.SelfAttention.v", 0 }, { D "attn_o", TD "0.SelfAttention.o", 0 },                                      \
        { D "attn_rel_b", TD "0.SelfAttention.relative_attention_bias", 0 }, { D "cross_attn_norm", TD "1.layer_norm", 0 },        \
        { D "cross_attn_q", TD "1.EncDecAttention.q", 0 }, { D "cross_attn_k", TD "1.EncDecAttention.k", 0 },                      \
        { D "cross_attn_v", TD "1.EncDecAttention.v", 0 }, { D "cross_attn_o", TD "1.EncDecAttention.o", 0 },                      \
        { D "cross_attn_rel_b", NULL, 0 }, { D "ffn_norm", TD "2.layer_norm", 0 },                                                 \
        { D "ffn_gate", TD "2.DenseReluDense.wi_0", 0 }, { D "ffn_up", TD "2.DenseReluDense." up, 0 },                             \
        { D "ffn_down", TD "2.DenseReluDense.wo", 0 }, { NULL, NULL, 0 }
static const gguf_name t5_names[] = { T5_NAMES("wi") };
static const gguf_name t5_gated_names[] = { T5_NAMES("wi_1") };

#define R "encoder.layer.{l}."
static const gguf_name bert_names[] = {
    { "token_embd", "embeddings.word_embeddings", 0 },
    { "position_embd", "embeddings.position_embeddings", 0 },
    { "token_types", "embeddings.token_type_embeddings", 0 },
    { "token_embd_norm", "embeddings.LayerNorm", 0 },
    { B "attn_q", R "attention.self.query", 0 },
    { B "attn_k", R "attention.self.key", 0 },
    { B "attn_v", R "attention.self.value", 0 },
    { B "attn_output", R "attention.output.dense", 0 },
    { B "attn_output_norm", R "attention.output.LayerNorm", 0 },
    { B "ffn_up", R "intermediate.dense", 0 },
    { B "ffn_down", R "output.dense", 0 },
    { B "layer_output_norm", R "output.LayerNorm", 0 },
    { NULL, NULL, 0 } };

#define WINDOW { "attention.sliding_window", "sliding_window" }
#define RMS_EPS { "attention.layer_norm_rms_epsilon", "rms_norm_eps" }
#define EXPERTS { "expert_used_count", "num_experts_per_tok" }
static const struct gguf_key rms_keys[] = { RMS_EPS, { NULL, NULL } };
static const struct gguf_key window_keys[] = { RMS_EPS, WINDOW, { NULL, NULL } };
static const struct gguf_key mixtral_keys[] = { RMS_EPS, { "expert_count", "num_local_experts" }, EXPERTS, { NULL, NULL } };
static const struct gguf_key moe_keys[] = {
    RMS_EPS, { "expert_count", "num_experts" }, EXPERTS, { "expert_feed_forward_length", "moe_intermediate_size" },
    { "expert_shared_feed_forward_length", "shared_expert_intermediate_size" }, { NULL, NULL } };
static const struct gguf_key gemma_keys[] = {
    RMS_EPS, WINDOW, { "attn_logit_softcapping", "attn_logit_softcapping" }, { "final_logit_softcapping", "final_logit_softcapping" },
    { "rope.freq_base_swa", "rope_local_base_freq" }, { NULL, NULL } };
static const struct gguf_key granite_keys[] = {
    RMS_EPS, { "embedding_scale", "embedding_multiplier" }, { "residual_scale", "residual_multiplier" },
    { "attention.scale", "attention_multiplier" }, { "logit_scale", "logits_scaling" }, { NULL, NULL } };
#define LAYER_EPS { "attention.layer_norm_epsilon", "layer_norm_eps" }
static const struct gguf_key layer_keys[] = { LAYER_EPS, { NULL, NULL } };
static const struct gguf_key neox_keys[] = { LAYER_EPS, { "use_parallel_residual", "use_parallel_residual" }, { NULL, NULL } };
static const struct gguf_key stablelm_keys[] = { LAYER_EPS, { "use_parallel_residual", NULL }, { NULL, NULL } };
static const struct gguf_key falcon_keys[] = {
    { "attention.layer_norm_epsilon", "layer_norm_epsilon" }, { "feed_forward_length", "ffn_hidden_size" },
    { "attention.head_count_kv", "num_kv_heads" }, { NULL, NULL } };
static const struct gguf_key cohere_keys[] = { LAYER_EPS, { "logit_scale", "logit_scale" }, { NULL, NULL } };
static const struct gguf_key starcoder2_keys[] = { { "attention.layer_norm_epsilon", "norm_epsilon" }, { NULL, NULL } };
static const struct gguf_key gemma3n_keys[] = {
    RMS_EPS, WINDOW, { "final_logit_softcapping", "final_logit_softcapping" }, { "rope.freq_base_swa", "rope_local_base_freq" },
    { "altup.num_inputs", "altup_num_inputs" }, { "altup.active_idx", "altup_active_idx" },
    { "embedding_length_per_layer_input", "hidden_size_per_layer_input" }, { NULL, NULL } };
static const struct gguf_key t5_keys[] = {
    { "block_count", "num_layers" }, { "decoder_block_count", "num_decoder_layers" }, { "embedding_length", "d_model" },
    { "attention.head_count", "num_heads" }, { "feed_forward_length", "d_ff" },
    { "context_length", "n_positions" }, { "attention.layer_norm_rms_epsilon", "layer_norm_epsilon" },
    { "attention.relative_buckets_count", "relative_attention_num_buckets" },
    { "decoder_start_token_id", "decoder_start_token_id" }, { NULL, NULL } };
static const struct gguf_key gpt2_keys[] = {
    { "block_count", "n_layer" }, { "embedding_length", "n_embd" }, { "attention.head_count", "n_head" },
    { "feed_forward_length", "n_inner" }, { "context_length", "n_positions" },
    { "attention.layer_norm_epsilon", "layer_norm_epsilon" }, { NULL, NULL } };

/* Of rows with the same name the first whose marker is in the file counts. */
static const gguf_arch archs[] = {
    { "llama", "mixtral", "expert_count", GGUF_INTERLEAVED, mixtral_names, mixtral_keys, NULL },
    { "llama", "mistral", "attention.sliding_window", GGUF_INTERLEAVED, NULL, window_keys, NULL },
    { "llama", "llama", NULL, GGUF_INTERLEAVED, NULL, rms_keys, NULL },
    { "qwen2", "qwen2", NULL, 0, NULL, rms_keys, NULL },
    { "qwen3", "qwen3", NULL, 0, NULL, rms_keys, NULL },
    { "qwen2moe", "qwen2_moe", NULL, 0, NULL, moe_keys, "\"norm_topk_prob\":false" },
    { "qwen3moe", "qwen3_moe", NULL, 0, NULL, moe_keys, "\"norm_topk_prob\":true" },
    { "gemma", "gemma", NULL, GGUF_NORMS_PLUS_ONE, NULL, gemma_keys, "\"hidden_activation\":\"gelu_pytorch_tanh\"" },
    { "gemma2", "gemma2", NULL, GGUF_NORMS_PLUS_ONE, norms_around, gemma_keys, "\"hidden_activation\":\"gelu_pytorch_tanh\"" },
    { "gemma3", "gemma3_text", NULL, GGUF_NORMS_PLUS_ONE | GGUF_WINDOWS, norms_around, gemma_keys,
      "\"hidden_activation\":\"gelu_pytorch_tanh\"" },
    { "gemma3n", "gemma3n_text", NULL, GGUF_WINDOWS | GGUF_WIDTHS, gemma3n_names, gemma3n_keys, "\"hidden_activation\":\"gelu_pytorch_tanh\"" },
    { "phi2", "phi", NULL, 0, phi2_names, layer_keys, "\"hidden_act\":\"gelu_new\"" },
    { "phi3", "phi3", NULL, 0, phi3_names, window_keys, NULL },
    { "gpt2", "gpt2", NULL, 0, gpt2_names, gpt2_keys, "\"activation_function\":\"gelu_new\"" },
    { "olmo2", "olmo2", NULL, 0, norms_behind, rms_keys, NULL },
    { "granite", "granite", NULL, GGUF_INTERLEAVED, NULL, granite_keys, NULL },
    { "olmo", "olmo", NULL, GGUF_INTERLEAVED, NULL, layer_keys, NULL },
    { "smollm3", "smollm3", NULL, GGUF_INTERLEAVED, NULL, rms_keys, NULL },
    { "command-r", "cohere", NULL, 0, NULL, cohere_keys, NULL },
    { "stablelm", "stablelm", NULL, 0, stablelm_names, stablelm_keys, NULL },
    { "starcoder2", "starcoder2", NULL, 0, starcoder2_names, starcoder2_keys, NULL },
    { "gptneox", "gpt_neox", NULL, 0, neox_names, neox_keys, "\"hidden_act\":\"gelu\"" },
    { "falcon", "falcon", "blk.0.attn_norm_2.weight", 0, falcon_names, falcon_keys, "\"new_decoder_architecture\":true" },
    { "falcon", "falcon", NULL, 0, falcon_old_names, falcon_keys,
      "\"new_decoder_architecture\":true,\"num_ln_in_parallel_attn\":1" },
    { "t5", "t5", "enc.blk.0.ffn_gate.weight", 0, t5_gated_names, t5_keys, "\"feed_forward_proj\":\"gated-gelu\"" },
    { "t5", "t5", NULL, 0, t5_names, t5_keys, "\"feed_forward_proj\":\"relu\"" },
    { "bert", "bert", NULL, GGUF_ENCODER, bert_names, layer_keys, "\"hidden_act\":\"gelu\"" },
};
enum { N_ARCHS = sizeof archs / sizeof *archs };

static int unknown_arch(const gguf *g, const char *name, err *e) {
    buf known = { 0 };
    for (int i = 0; i < N_ARCHS; i++)
        if (!i || strcmp(archs[i].arch, archs[i - 1].arch) != 0) buf_fmt(&known, "%s%s", known.n ? ", " : "", archs[i].arch);
    int rc = fail(e, "%s: general.architecture: \"%s\" is not known; known: %s", g->path, name, known.p ? known.p : "");
    buf_free(&known);
    return rc;
}

const gguf_arch *gguf_arch_of(const checkpoint *c, err *e) {
    const gguf *g = &c->gguf;
    const gguf_value *v = gguf_find(g, "general.architecture");
    const char *text;
    char name[64], key[NAME_SIZE];
    size_t n;
    if (gguf_text(v, &text, &n))
        return fail(e, "%s: general.architecture: expected a string, found %s", g->path, gguf_kind_name(v)), NULL;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] <= ' ' || (unsigned char)text[i] >= 0x7f) n = 0; /* no name to show */
    snprintf(name, sizeof name, "%.*s", (int)(n < 60 ? n : 60), text);
    for (int i = 0; i < N_ARCHS; i++) {
        int64_t x = 0;
        if (strcmp(archs[i].arch, name) != 0) continue;
        if (!archs[i].marker || safetensors_find(&c->st, archs[i].marker)) return &archs[i];
        snprintf(key, sizeof key, "%s.%s", name, archs[i].marker);
        if (!gguf_int(gguf_find(g, key), 0, &x) && x > 0) return &archs[i];
    }
    return unknown_arch(g, name, e), NULL;
}

/* ---- renaming ---- */

/* Does name, without .weight or .bias, fit the pattern? *l: the layer's digits, *suffix: what is behind. */
static bool fits(const char *pattern, const char *name, char layer[12], const char **suffix) {
    layer[0] = 0;
    for (; *pattern; pattern++) {
        if (strncmp(pattern, "{l}", 3) == 0) {
            size_t digits = strspn(name, "0123456789");
            if (!digits || digits > 9) return false;
            memcpy(layer, name, digits);
            layer[digits] = 0;
            name += digits;
            pattern += 2;
        } else if (*pattern != *name++) return false;
    }
    *suffix = name;
    return strcmp(name, ".weight") == 0 || strcmp(name, ".bias") == 0;
}

static const gguf_name *find_name(const gguf_arch *a, const char *name, char layer[12], const char **suffix) {
    const gguf_name *lists[] = { a->own, common };
    for (int i = 0; i < 2; i++)
        for (const gguf_name *n = lists[i]; n && n->gguf; n++)
            if (fits(n->gguf, name, layer, suffix)) return n;
    return NULL;
}

static const char *new_name(checkpoint *c, const char *pattern, const char *layer, uint64_t expert, const char *suffix, err *e) {
    char out[NAME_SIZE];
    size_t at = 0;
    for (const char *p = pattern; *p && at + 1 < sizeof out;) {
        int n;
        if (strncmp(p, "{l}", 3) == 0) n = snprintf(out + at, sizeof out - at, "%s", layer), p += 3;
        else if (strncmp(p, "{e}", 3) == 0) n = snprintf(out + at, sizeof out - at, "%llu", (unsigned long long)expert), p += 3;
        else n = snprintf(out + at, sizeof out - at, "%c", *p++);
        at += (size_t)n;
    }
    if (at < sizeof out) snprintf(out + at, sizeof out - at, "%s", suffix);
    const char *copy = arena_copy(&c->st.mem, out, strlen(out));
    if (!copy) fail_memory(e, strlen(out), "a name");
    return copy;
}

/* Queries, keys and values in one: by key and value again. */
static int note_groups(const checkpoint *c, const gguf_name *n, st_tensor *t, const char *suffix, err *e) {
    int heads, kv, head;
    if (config_int(c, "num_attention_heads", 1, 4096, NAN, &heads, e) ||
        config_int(c, "num_key_value_heads", 1, 4096, NAN, &kv, e) || config_int(c, "head_dim", 1, 4096, NAN, &head, e))
        return -1;
    if (heads % kv || t->dims[0] != (uint64_t)(heads + 2 * kv) * (uint64_t)head)
        return fail(e, "%s: tensor %s%s: its %llu rows are not %d heads of queries and %d of keys and values, of %d each", c->gguf.path,
                    n->gguf, suffix, (unsigned long long)t->dims[0], heads, kv, head);
    t->head = (uint32_t)head;
    t->group = (uint32_t)(heads / kv);
    return 0;
}

/* How the file's layout differs from HuggingFace's. */
static int note_layout(const checkpoint *c, const gguf_arch *a, const gguf_name *n, st_tensor *t, const char *suffix, err *e) {
    int heads = 1;
    if ((a->flags & GGUF_NORMS_PLUS_ONE) && (n->flags & GGUF_NORM)) t->plus = -1;
    if ((n->flags & GGUF_ROW) && t->n_dims == 1) {
        t->n_dims = 2;
        t->dims[1] = t->dims[0];
        t->dims[0] = 1;
    }
    if ((n->flags & GGUF_TRANSPOSED) && t->n_dims == 2) {
        uint64_t rows = t->dims[0];
        t->dims[0] = t->dims[1];
        t->dims[1] = rows;
        t->transposed = true;
    }
    if (n->flags & GGUF_GROUPS) return note_groups(c, n, t, suffix, e);
    if (!(a->flags & GGUF_INTERLEAVED) || !(n->flags & (GGUF_Q | GGUF_K))) return 0;
    if (config_int(c, n->flags & GGUF_Q ? "num_attention_heads" : "num_key_value_heads", 1, 4096, NAN, &heads, e)) return -1;
    if (t->dims[0] % (2 * (uint64_t)heads) || t->dims[0] / (uint64_t)heads > UINT32_MAX)
        return fail(e, "%s: tensor %s%s: its %llu rows are not %d heads of an even size", c->gguf.path, n->gguf, suffix,
                    (unsigned long long)t->dims[0], heads);
    t->head = (uint32_t)(t->dims[0] / (uint64_t)heads);
    return 0;
}

static int add_tensor(st_tensor **list, size_t *n, size_t *cap, const st_tensor *t, err *e) {
    if (*n == *cap) {
        size_t more = *cap ? 2 * *cap : 512;
        st_tensor *p = realloc(*list, more * sizeof *p);
        if (!p) return fail_memory(e, more * sizeof *p, "the list of tensors");
        *list = p;
        *cap = more;
    }
    (*list)[(*n)++] = *t;
    return 0;
}

/* One tensor of the file becomes none, one, or one for each expert. */
static int rename_one(checkpoint *c, const gguf_arch *a, const st_tensor *from, st_tensor **list, size_t *n, size_t *cap, err *e) {
    char layer[12];
    const char *suffix = "";
    const gguf_name *known = find_name(a, from->name, layer, &suffix);
    st_tensor t = *from;
    if (!known) return add_tensor(list, n, cap, &t, e);
    if (!known->name) return 0;
    uint64_t experts = 1;
    if (strstr(known->name, "{e}")) {
        if (t.n_dims < 2 || t.n_dims > 3 || t.dims[0] > MAX_EXPERTS)
            return fail(e, "%s: tensor %s: expected 3 dimensions, of at most %d experts", c->gguf.path, from->name, MAX_EXPERTS);
        experts = t.dims[0];
        t.n_dims--;
        memmove(t.dims, t.dims + 1, (size_t)t.n_dims * sizeof *t.dims);
        t.n /= experts;
        t.bytes /= experts;
    }
    for (uint64_t x = 0; x < experts; x++) {
        st_tensor one = t;
        one.at += x * t.bytes;
        one.name = new_name(c, known->name, layer, x, known->flags & GGUF_BARE ? "" : suffix, e);
        if (!one.name || note_layout(c, a, known, &one, suffix, e) || add_tensor(list, n, cap, &one, e)) return -1;
    }
    return 0;
}

int gguf_rename(checkpoint *c, const gguf_arch *a, err *e) {
    st_tensor *list = NULL;
    size_t n = 0, cap = 0;
    for (size_t i = 0; i < c->st.n; i++)
        if (rename_one(c, a, &c->st.tensors[i], &list, &n, &cap, e)) {
            free(list);
            return -1;
        }
    free(c->st.tensors);
    c->st.tensors = list;
    c->st.n = n;
    c->st.cap = cap;
    return safetensors_sort(&c->st, e);
}
