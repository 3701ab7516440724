/* kv: the cache of keys and values, as pages of 64 positions with reference counts.
 * A group is the layers that keep the same positions: all of full attention, or one window width. A page holds 64 positions
 * of all layers of its group: [layer of the group][kv head][K block | V block] (kernels.h draws the blocks). Prefix
 * sharing, fork, rollback and sliding windows are edits of page tables. It knows no tokens and no arithmetic. */
#ifndef QUERN_KV_H
#define QUERN_KV_H

#include "kernels/kernels.h"

enum { KV_MAX_GROUPS = 8 };

typedef struct kv_group {
    int window;        /* 0: all positions are kept */
    int n_layers;
    size_t page_bytes;
    char *base;        /* the group's pages, one reserved range of addresses: memory is used as pages are touched */
    uint32_t *refs;    /* [n_pages] */
    int *free_page;    /* [n_free] a stack */
    int n_pages, n_free;
} kv_group;

typedef struct kv_pool {
    kv_group group[KV_MAX_GROUPS];
    int n_groups, n_kv_heads, head_dim;
    kv_type type;
    size_t k_bytes, head_bytes; /* of one head's K block, and of K and V together, in a page */
} kv_pool;

/* One sequence's positions. Pages are borrowed from the pool until kv_seq_free. */
typedef struct kv_seq {
    kv_pool *pool;
    int len, cap;                      /* positions held; the most that page tables have room for */
    const void **page[KV_MAX_GROUPS];  /* [cap / 64] NULL: never filled, or slid out of the window */
} kv_seq;

const char *kv_type_name(kv_type type); /* "f16", "f32", "q8" */
size_t kv_position_bytes(kv_type type, int head_dim); /* of one layer and head */
size_t kv_page_bytes(const kv_pool *p, int n_layers);
/* n_groups, window and n_layers of each, type, n_kv_heads and head_dim are set; pages for n_seqs sequences of ctx positions
 * are reserved (window groups: for the window and one batch of max_batch more). */
int kv_pool_init(kv_pool *p, int n_seqs, int ctx, int max_batch, err *e);
void kv_pool_free(kv_pool *p);
size_t kv_pool_bytes_used(const kv_pool *p); /* pages in use, in bytes */

int kv_seq_init(kv_seq *s, kv_pool *p, int ctx, err *e);
void kv_seq_free(kv_seq *s);

/* Makes room for n more positions: pages that slid out of every window are given back, a shared last page is copied, new
 * ones are taken. The only thing here that can fail; on failure the sequence is as before. */
int kv_reserve(kv_seq *s, int n, err *e);
static inline void kv_advance(kv_seq *s, int n) { s->len += n; }
/* Forgets all positions from len on. Where a window already gave back what position len would need, everything goes.
 * Returns the length kept: len or 0. */
int kv_truncate(kv_seq *s, int len);
void kv_drop_group(kv_seq *s, int group); /* gives back all pages of a group that is not read any more */
int kv_fork(kv_seq *dst, const kv_seq *src, err *e); /* dst (initialised, same pool) becomes a copy that shares all pages */

/* Byte offset of a layer's head's K block in its group's page; the V block stands p->k_bytes further. */
static inline size_t kv_block_at(const kv_pool *p, int layer_in_group, int head) {
    return ((size_t)layer_in_group * (size_t)p->n_kv_heads + (size_t)head) * p->head_bytes;
}
/* First position that a query at pos sees. */
static inline int kv_first(int window, int pos) { return window && pos >= window ? pos - window + 1 : 0; }

/* Save and load: the pages that a sequence holds of one group, in order. kv_load adds len positions' pages to a sequence without
 * any in this group, and leaves s->len alone; about `most` bytes at a time: *next is the page to go on with, 0 at first, and *bytes grows. 1: all
 * are there, 0: there are more. */
int kv_save(const kv_seq *s, int group, FILE *f, hash64 *h, err *e);
int kv_load(kv_seq *s, int group, int len, int *next, size_t most, FILE *f, hash64 *h, size_t *bytes, err *e);

#endif
