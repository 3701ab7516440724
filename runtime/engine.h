/* engine: a loaded model and its sessions. All that run, serve, quality and bench see of a model.
 *
 *   engine_open(&g, &(engine_opts){ .path = "model.bin" }, &e);
 *   session_new(&s, g, &e);
 *   session_sync(s, tokens, n, &e);                     the prompt; session_logits(s) are those after its last token
 *   session_sync(s, longer, n + 1, &e);                 one more: only what is new is computed
 *
 * An engine and its sessions belong to one thread at a time. Logits are the same bits whatever the batch, the cut of the
 * prompt, the cache's state and the number of threads. */
#ifndef QUERN_ENGINE_H
#define QUERN_ENGINE_H

#include <stdatomic.h>

#include "runtime/base.h"

typedef struct engine engine;
typedef struct session session;

typedef struct adapter {
    const char *path;
    float scale;          /* 0: it changes nothing */
} adapter;

typedef struct engine_opts {
    const char *path;
    const char *kernels;  /* a table's name; NULL: $QUERN_KERNELS, else the best */
    int threads;          /* 0: min(affinity, physical cores, cgroup quota) */
    int ctx;              /* positions a session can hold; 0: the model's own if the cache of all sessions fits in a quarter of memory, else less */
    bool ctx_at_most;     /* a larger ctx than the model's own is no mistake: it gets its own */
    int max_sessions;     /* 0: 1; -1: as many as the checkpoint's own num_beams */
    int max_rows;         /* most tokens of one forward pass; 0: a good default */
    bool vocab_only;      /* only engine_about's tokenizer is wanted: opens files made by convert --vocab-only too */
    bool exact;           /* f32 activations and f32 cache: for parity and for measuring what int8 activations cost */
    bool huge_pages;      /* a copy of the file in memory, on huge pages, in place of its mapping */
    bool lock;            /* all weights are read at once and stay in memory */
    const char *cache_type; /* "f16", or "q8": half the memory and exact integer attention; NULL: f16 */
    const adapter *adapters; /* [n_adapters] LoRA, applied in this order; read by engine_open only */
    int n_adapters;
} engine_opts;

/* Sets o->adapters from what a command line has, FILE or FILE:SCALE each; kept in the arena. */
int engine_take_adapters(engine_opts *o, const char *const *texts, int n, arena *mem, err *e);
int engine_check(const engine_opts *o, err *e); /* what would be wrong with o whatever the model; engine_open does it, too */
int engine_open(engine **g, const engine_opts *o, err *e);
void engine_close(engine *g); /* after all its sessions are freed */

typedef struct engine_info {
    const char *name, *family, *kernels;
    const char *type;            /* of the weights: that of the first layer's matrices, "q8" */
    char threads_reason[192], ctx_reason[160];
    int threads, ctx, model_ctx, n_vocab, n_layers, n_heads, n_kv_heads, d_model;
    bool exact;                  /* f32 activations and cache */
    int max_rows;                /* most tokens of one forward pass */
    int max_sessions;
    int logits_ld;               /* floats from one row of logits to the next */
    bool has_encoder, has_decoder; /* both: session_encode comes before the decoder's tokens */
    int decoder_start;           /* id that begins the decoder's text; -1: none */
    int pooling;                 /* of the checkpoint: 0 none, 1 first token, 2 mean, 3 last token */
    int d_embed;                 /* width of an embedding */
    int bos;                     /* of a file without a tokenizer; -1: none */
    const int *eos;              /* [n_eos] borrowed until engine_close */
    int n_eos;
    float temperature, top_p, min_p, repeat_penalty; /* the checkpoint's own; negative: none */
    int top_k;
    int num_beams, no_repeat_ngram, min_length, min_new_tokens; /* likewise, as transformers means them; 1, 0, 0, 0: none */
    int early_stopping;          /* of a beam search: 0 false, 1 true, 2 never */
    float length_penalty;        /* likewise; 1: none */
    const void *tokenizer;       /* the file's tokenizer blob, borrowed until engine_close; tokenizer_bytes 0: none */
    size_t tokenizer_bytes;
    uint64_t hash;               /* of the file's header, records, table and tokenizer: names its content */
    uint64_t file_bytes, decode_bytes; /* weights that one decode step reads */
    uint64_t macs, macs_output;  /* multiply-adds a token: all but the output matrix; the output matrix */
    int n_adapters;
    uint64_t adapter_bytes;      /* of them, in decode_bytes */
    const char *adapter_warning; /* an adapter was made for other weights of this architecture; NULL: none */
    uint64_t kv_bytes_position;  /* cache bytes a position of full attention */
    bool rope_long;
} engine_info;
const engine_info *engine_about(const engine *g);
bool engine_maps(const engine *g, const void *p); /* does this address lie in the mapping of its file? */
/* Memory by kind, known before anything is computed: what a run that fills its context comes to. */
typedef struct engine_memory {
    uint64_t weights;            /* the mapping of the file and its adapters; resident as far as it is read, and given back when others need it */
    uint64_t looked_up, looked_up_row; /* of weights: tables of which a token reads its rows and none is kept; bytes of these rows */
    uint64_t kv, kv_position;    /* pages of all sessions at full context; one more position of full attention */
    uint64_t scratch, tables;    /* buffers of a forward pass, and of texts between two layers; page tables and the like */
    uint64_t machine;            /* what the machine, or its cgroup, has */
    const char *kv_type;         /* "f16", "f32", "q8" */
} engine_memory;
engine_memory engine_plan(const engine *g);
size_t engine_kv_bytes(const engine *g); /* pages in use */
uint64_t engine_kv_read_bytes(const engine *g, int pos); /* cache bytes that a token at pos reads, itself included: windows see less */

/* Reads all weights of a decode step again and again for about so many seconds, on all threads: the bytes a second that this
 * machine gives just now for just these bytes. */
double engine_read_rate(engine *g, double seconds);
uint64_t engine_read_weights(engine *g); /* reads them once; how many bytes that is */
int engine_memory_rate(engine *g, double seconds, double *bytes_per_second, err *e); /* of memory itself, no weight is read */

/* When *stop becomes true, whatever is being computed ends within a layer and returns ERR_STOPPED; NULL: never. */
enum { ERR_STOPPED = 100, ERR_NOT_FINITE }; /* the second: logits that are no numbers, found by who picks tokens from them */
void engine_set_stop(engine *g, atomic_bool *stop);

/* What all forward passes so far read of weights and cache, and multiply-added in matrices and attention. */
void engine_work(const engine *g, uint64_t *bytes, uint64_t *macs);
/* Peaks of this machine with the engine's threads and kernels, operations a second (2 a multiply-add). */
typedef struct engine_peaks { double f32, int8, bf16; } engine_peaks;
engine_peaks engine_measure_peaks(engine *g, double seconds);

/* Called after each step of a forward pass (runtime/forward.h names them); for tests, bisection and runtime/explain. */
void engine_set_tap(engine *g, void (*tap)(void *arg, const char *name, int layer, const float *x, int m, size_t ld, int n), void *arg);

int session_new(session **s, engine *g, err *e);
void session_free(session *s);
int session_len(const session *s);                /* tokens held */
const int32_t *session_tokens(const session *s);  /* [session_len] borrowed until the next change */
const float *session_logits(const session *s);    /* [n_vocab] after the last token; NULL when there are none */

/* Makes the session hold exactly tok[0 .. n): keeps the longest common prefix and computes the rest. n >= 1. */
int session_sync(session *s, const int32_t *tok, int n, err *e);
/* The encoder's input: runs the encoder over it and empties the decoder's side. hidden: its output [n][pad64(d_model)], or NULL. */
int session_encode(session *s, const int32_t *tok, int n, float *hidden, err *e);
/* The embedding [d_embed] of a text: its hidden states pooled (pooling as in engine_info; 0: the checkpoint's own) and scaled
 * to length 1 where the checkpoint says so. The session is empty afterwards. */
int session_embed(session *s, const int32_t *tok, int n, int pooling, float *out, err *e);
/* Both in pieces, between which the engine may work on other sessions; the bits are the same. tok, hidden and out are borrowed, and nothing
 * else is done with this session (but freeing it, or beginning another text), until session_piece returns 0: done, or -1: failed, and the
 * session is empty. A piece is one layer of a text that is read both ways, else up to `most` tokens; *did: its share, in tokens. */
int session_encode_begin(session *s, const int32_t *tok, int n, float *hidden, err *e);
int session_embed_begin(session *s, const int32_t *tok, int n, int pooling, float *out, err *e);
int session_piece(session *s, int most, double *did, err *e); /* 1: there is more */
int session_truncate(session *s, int n); /* forgets from position n on; returns the length kept (n, or 0 behind a window) */
int session_fork(session *dst, const session *src, err *e); /* dst becomes a copy; pages are shared until one writes */

/* One step over many sessions (each at most once): appends tok[0 .. n) to each. logits NULL: only the last row is kept, as
 * session_logits; else all n rows [n][logits_ld] go there too. On failure every session holds the tokens it held
 * before (none, if a window already gave back what they need), and no logits. */
typedef struct step {
    session *s;
    const int32_t *tok;
    int n;
    float *logits;
} step;
int engine_step(engine *g, const step *steps, int n_steps, err *e);

#endif
