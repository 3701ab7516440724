/* gguf_write: writes small GGUF files for tests, so that any key or tensor can be other than it should be. */
#ifndef QUERN_TEST_GGUF_WRITE_H
#define QUERN_TEST_GGUF_WRITE_H

#include "tests/test.h"
#include "weights/gguf.h"

typedef struct gguf_out {
    buf kv, table, data;
    uint64_t n_kv, n_tensors;
} gguf_out;

static inline void put_text(buf *b, const char *s, size_t n) {
    buf_u64(b, n);
    buf_add(b, s, n);
}

static inline void put_key(gguf_out *g, const char *key, gguf_kind kind) {
    put_text(&g->kv, key, strlen(key));
    buf_u32(&g->kv, kind);
    g->n_kv++;
}

static inline void put_u32(gguf_out *g, const char *key, uint32_t x) {
    put_key(g, key, GGUF_U32);
    buf_u32(&g->kv, x);
}

static inline void put_f32(gguf_out *g, const char *key, float x) {
    put_key(g, key, GGUF_F32);
    buf_add(&g->kv, &x, sizeof x);
}

static inline void put_bool(gguf_out *g, const char *key, bool x) {
    put_key(g, key, GGUF_BOOL);
    buf_byte(&g->kv, x);
}

static inline void put_string(gguf_out *g, const char *key, const char *text) {
    put_key(g, key, GGUF_STRING);
    put_text(&g->kv, text, strlen(text));
}

static inline void put_array(gguf_out *g, const char *key, gguf_kind item, uint64_t n) { /* its items follow */
    put_key(g, key, GGUF_ARRAY);
    buf_u32(&g->kv, item);
    buf_u64(&g->kv, n);
}

/* dims outermost first, as safetensors has them; k 0: a vector. Values are small and all different. */
static inline void put_tensor(gguf_out *g, const char *name, uint32_t type, uint64_t n, uint64_t k, size_t bytes) {
    put_text(&g->table, name, strlen(name));
    buf_u32(&g->table, k ? 2 : 1);
    if (k) buf_u64(&g->table, k);
    buf_u64(&g->table, n);
    buf_u32(&g->table, type);
    buf_u64(&g->table, g->data.n);
    for (size_t i = 0; i < bytes / 4; i++) {
        float x = (float)(i % 251) / 256 + 0.001f;
        if (type == 0) buf_add(&g->data, &x, 4);
        else buf_u32(&g->data, 0x11031222u * (uint32_t)(i + 1) & 0xbfbfbfbf); /* no exponent of all ones */
    }
    while (g->data.n % 32) buf_byte(&g->data, 0);
    g->n_tensors++;
}

static inline void put_f32_tensor(gguf_out *g, const char *name, uint64_t n, uint64_t k) {
    put_tensor(g, name, 0, n, k, (size_t)(n * (k ? k : 1) * 4));
}

static inline void gguf_out_free(gguf_out *g) {
    buf_free(&g->kv);
    buf_free(&g->table);
    buf_free(&g->data);
    *g = (gguf_out){ 0 };
}

/* The whole image; frees g. */
static inline void gguf_finish(gguf_out *g, buf *image) {
    image->n = 0;
    buf_add(image, "GGUF", 4);
    buf_u32(image, 3);
    buf_u64(image, g->n_tensors);
    buf_u64(image, g->n_kv);
    buf_add(image, g->kv.p, g->kv.n);
    buf_add(image, g->table.p, g->table.n);
    while (image->n % 32) buf_byte(image, 0);
    buf_add(image, g->data.p, g->data.n);
    assert_false(image->failed);
    gguf_out_free(g);
}

/* ---- a whole small model: one layer, width 32, two heads of 16, 16 tokens ---- */

static inline void put_words(gguf_out *g, const char *key, const char *const *words, size_t n) {
    put_array(g, key, GGUF_STRING, n);
    for (size_t i = 0; i < n; i++) put_text(&g->kv, words[i], strlen(words[i]));
}

static inline void small_vocabulary(gguf_out *g, const char *pre) {
    static const char *const tokens[] = { "a",   "b",    "c",      "ab",    "\xc4\xa0", "abc", "1", "2",
                                          "<s>", "</s>", "<user>", "[PAD]", "d",        "e",   "f", "g" };
    static const char *const merges[] = { "a b", "ab c" };
    put_string(g, "tokenizer.ggml.model", "gpt2");
    if (pre) put_string(g, "tokenizer.ggml.pre", pre);
    put_words(g, "tokenizer.ggml.tokens", tokens, 16);
    put_words(g, "tokenizer.ggml.merges", merges, 2);
    put_array(g, "tokenizer.ggml.token_type", GGUF_I32, 16);
    for (uint32_t i = 0; i < 16; i++) buf_u32(&g->kv, i == 8 || i == 9 ? 3 : i == 10 ? 4 : i == 11 ? 5 : 1);
    put_u32(g, "tokenizer.ggml.bos_token_id", 8);
    put_u32(g, "tokenizer.ggml.eos_token_id", 9);
    put_u32(g, "tokenizer.ggml.eot_token_id", 10);
    put_bool(g, "tokenizer.ggml.add_bos_token", true);
    put_string(g, "tokenizer.chat_template", "{{ x }}");
}

static inline void small_shape(gguf_out *g) {
    put_string(g, "general.architecture", "llama");
    put_u32(g, "llama.block_count", 1);
    put_u32(g, "llama.context_length", 256);
    put_u32(g, "llama.embedding_length", 32);
    put_u32(g, "llama.feed_forward_length", 64);
    put_u32(g, "llama.attention.head_count", 2);
    put_u32(g, "llama.rope.dimension_count", 16);
    put_f32(g, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
}

static inline void small_tensors(gguf_out *g) {
    put_f32_tensor(g, "token_embd.weight", 16, 32);
    put_f32_tensor(g, "blk.0.attn_norm.weight", 32, 0);
    put_tensor(g, "blk.0.attn_q.weight", 2, 32, 32, 32 * 18);
    put_tensor(g, "blk.0.attn_k.weight", 3, 32, 32, 32 * 20);
    put_tensor(g, "blk.0.attn_v.weight", 6, 32, 32, 32 * 22);
    put_tensor(g, "blk.0.attn_output.weight", 7, 32, 32, 32 * 24);
    put_f32_tensor(g, "blk.0.ffn_norm.weight", 32, 0);
    put_tensor(g, "blk.0.ffn_gate.weight", 8, 64, 32, 64 * 34);
    put_f32_tensor(g, "blk.0.ffn_up.weight", 64, 32);
    put_f32_tensor(g, "blk.0.ffn_down.weight", 32, 64);
    put_f32_tensor(g, "output_norm.weight", 32, 0);
}

#endif
