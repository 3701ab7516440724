/* kv: pages of keys and values (kv.h). It owns the pages and their reference counts; it must not know what lies in them. */
#define _GNU_SOURCE
#include "runtime/kv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

const char *kv_type_name(kv_type type) { return type == KV_F16 ? "f16" : type == KV_F32 ? "f32" : "q8"; }

size_t kv_position_bytes(kv_type type, int head_dim) {
    return (kv_block_bytes(type, head_dim, false) + kv_block_bytes(type, head_dim, true)) / KV_PAGE;
}

size_t kv_page_bytes(const kv_pool *p, int n_layers) { return (size_t)n_layers * (size_t)p->n_kv_heads * p->head_bytes; }

/* The most pages that a sequence of ctx positions can hold of this group at once. */
static int pages_per_seq(const kv_group *g, int ctx, int max_batch) {
    int all = (ctx + KV_PAGE - 1) / KV_PAGE;
    if (!g->window) return all;
    int kept = (int)(((int64_t)g->window + max_batch) / KV_PAGE) + 3; /* ends need not fall on page borders; one copy of a shared page */
    return min_int(all + 1, kept);
}

static int group_init(kv_pool *p, kv_group *g, int n_seqs, int ctx, int max_batch, err *e) {
    g->page_bytes = kv_page_bytes(p, g->n_layers);
    uint64_t pages = (uint64_t)pages_per_seq(g, ctx, max_batch) * (uint64_t)n_seqs, bytes;
    if (pages > INT32_MAX || mul_overflows(pages, g->page_bytes, &bytes) || bytes > SIZE_MAX / 2)
        return fail_code(e, ERR_MEMORY, "a cache of %d x %d positions is too large: use a smaller --ctx", n_seqs, ctx);
    void *base = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return fail_code(e, ERR_MEMORY, "out of memory: the cache of %d x %d positions needs %llu bytes; use a smaller --ctx",
                         n_seqs, ctx, (unsigned long long)bytes);
#ifdef MADV_HUGEPAGE /* a head's part of a page is 4 small pages of the system's: their tables would be read with it. Little caches stay little */
    if (bytes >= 32 << 20) madvise(base, (size_t)bytes, MADV_HUGEPAGE);
#endif
    g->base = base;
    g->n_pages = g->n_free = (int)pages;
    g->refs = calloc(pages, sizeof *g->refs);
    g->free_page = calloc(pages, sizeof *g->free_page);
    if (!g->refs || !g->free_page) return fail_memory(e, pages * 8, "the cache's page lists");
    for (int i = 0; i < g->n_pages; i++) g->free_page[i] = g->n_pages - 1 - i;
    return 0;
}

int kv_pool_init(kv_pool *p, int n_seqs, int ctx, int max_batch, err *e) {
    p->k_bytes = kv_block_bytes(p->type, p->head_dim, false);
    p->head_bytes = p->k_bytes + kv_block_bytes(p->type, p->head_dim, true);
    for (int i = 0; i < p->n_groups; i++)
        if (group_init(p, &p->group[i], n_seqs, ctx, max_batch, e)) {
            kv_pool_free(p);
            return -1;
        }
    return 0;
}

void kv_pool_free(kv_pool *p) {
    for (int i = 0; i < p->n_groups; i++) {
        kv_group *g = &p->group[i];
        if (g->base) munmap(g->base, (size_t)g->n_pages * g->page_bytes);
        free(g->refs);
        free(g->free_page);
        g->base = NULL;
        g->refs = NULL;
        g->free_page = NULL;
    }
}

size_t kv_pool_bytes_used(const kv_pool *p) {
    size_t bytes = 0;
    for (int i = 0; i < p->n_groups; i++) bytes += (size_t)(p->group[i].n_pages - p->group[i].n_free) * p->group[i].page_bytes;
    return bytes;
}

static int page_index(const kv_group *g, const void *page) { return (int)((size_t)((const char *)page - g->base) / g->page_bytes); }

static void *page_take(kv_group *g) {
    int i = g->free_page[--g->n_free];
    g->refs[i] = 1;
    return g->base + (size_t)i * g->page_bytes;
}

static void page_drop(kv_group *g, const void **page) {
    if (!*page) return;
    int i = page_index(g, *page);
    if (--g->refs[i] == 0) g->free_page[g->n_free++] = i;
    *page = NULL;
}

int kv_seq_init(kv_seq *s, kv_pool *p, int ctx, err *e) {
    *s = (kv_seq){ .pool = p, .cap = (int)round_up((size_t)ctx, KV_PAGE) };
    for (int i = 0; i < p->n_groups; i++) {
        s->page[i] = calloc((size_t)s->cap / KV_PAGE + 1, sizeof *s->page[i]);
        if (!s->page[i]) {
            kv_seq_free(s);
            return fail_memory(e, (size_t)s->cap / KV_PAGE * sizeof(void *), "a sequence's page table");
        }
    }
    return 0;
}

void kv_seq_free(kv_seq *s) {
    if (!s->pool) return;
    for (int i = 0; i < s->pool->n_groups; i++) {
        for (int j = 0; s->page[i] && j < s->cap / KV_PAGE; j++) page_drop(&s->pool->group[i], &s->page[i][j]);
        free(s->page[i]);
    }
    *s = (kv_seq){ 0 };
}

static bool page_shared(const kv_group *g, const void *page) { return g->refs[page_index(g, page)] > 1; }

int kv_reserve(kv_seq *s, int n, err *e) {
    if (n > s->cap - s->len) return fail_code(e, ERR_CONTEXT, "%d positions do not fit in a context of %d", s->len + n, s->cap);
    int first = s->len / KV_PAGE, last = (s->len + n - 1) / KV_PAGE;
    bool partial = s->len % KV_PAGE != 0;
    for (int i = 0; i < s->pool->n_groups; i++) { /* give back what no later query sees */
        kv_group *g = &s->pool->group[i];
        for (int j = kv_first(g->window, s->len) / KV_PAGE - 1; j >= 0 && s->page[i][j]; j--) page_drop(g, &s->page[i][j]);
    }
    for (int i = 0; i < s->pool->n_groups && n > 0; i++) { /* all or nothing: count before taking */
        kv_group *g = &s->pool->group[i];
        int need = partial && page_shared(g, s->page[i][first]);
        for (int j = first; j <= last; j++) need += !s->page[i][j];
        if (need > g->n_free)
            return fail_code(e, ERR_MEMORY, "the cache is full: %d more pages of %d positions are needed, %d are "
                                            "free; use fewer sequences or a smaller context", need, KV_PAGE, g->n_free);
    }
    for (int i = 0; i < s->pool->n_groups && n > 0; i++) {
        kv_group *g = &s->pool->group[i];
        if (partial && page_shared(g, s->page[i][first])) { /* copy on write: the other owner keeps its own */
            void *copy = memcpy(page_take(g), s->page[i][first], g->page_bytes);
            page_drop(g, &s->page[i][first]);
            s->page[i][first] = copy;
        }
        for (int j = first; j <= last; j++)
            if (!s->page[i][j]) s->page[i][j] = page_take(g);
    }
    return 0;
}

/* Are all pages there that a query at position len would need? */
static bool window_whole(const kv_seq *s, int len) {
    for (int i = 0; i < s->pool->n_groups; i++)
        for (int j = kv_first(s->pool->group[i].window, len) / KV_PAGE; j * KV_PAGE < len; j++)
            if (!s->page[i][j]) return false;
    return true;
}

int kv_truncate(kv_seq *s, int len) {
    if (len >= s->len) return s->len;
    if (!window_whole(s, len)) len = 0;
    for (int i = 0; i < s->pool->n_groups; i++)
        for (int j = (len + KV_PAGE - 1) / KV_PAGE; j < s->cap / KV_PAGE; j++) page_drop(&s->pool->group[i], &s->page[i][j]);
    if (len == 0) /* pages before a window's start */
        for (int i = 0; i < s->pool->n_groups; i++)
            for (int j = 0; j < s->cap / KV_PAGE; j++) page_drop(&s->pool->group[i], &s->page[i][j]);
    return s->len = len;
}

void kv_drop_group(kv_seq *s, int group) {
    for (int j = 0; j < s->cap / KV_PAGE; j++) page_drop(&s->pool->group[group], &s->page[group][j]);
}

int kv_fork(kv_seq *dst, const kv_seq *src, err *e) {
    if (src->len > dst->cap) return fail_code(e, ERR_CONTEXT, "%d positions do not fit in a context of %d", src->len, dst->cap);
    kv_truncate(dst, 0);
    for (int i = 0; i < src->pool->n_groups; i++)
        for (int j = 0; j * KV_PAGE < src->len; j++) {
            const void *page = src->page[i][j];
            if (page) src->pool->group[i].refs[page_index(&src->pool->group[i], page)]++;
            dst->page[i][j] = page;
        }
    dst->len = src->len;
    return 0;
}

/* Zeros for the positions from slot on: what a page held for another text, or another sequence, is nobody's business. */
static void blank(const kv_pool *p, const kv_group *g, char *page, int slot, const float *zeros) {
    for (int i = 0; i < g->n_layers * p->n_kv_heads; i++) {
        char *k = page + (size_t)i * p->head_bytes;
        for (int t = slot; t < KV_PAGE; t++) kernels_get()->kv_store(p->type, k, k + p->k_bytes, t, zeros, zeros, p->head_dim);
    }
}

/* A copy of the page that is not full, without what is beyond the sequence's end; NULL when out of memory. */
static void *last_page(const kv_seq *s, const kv_group *g, const void *page) {
    char *copy = alloc_aligned(g->page_bytes);
    float *zeros = alloc_aligned((size_t)s->pool->head_dim * sizeof *zeros);
    if (copy && zeros) {
        memcpy(copy, page, g->page_bytes);
        blank(s->pool, g, copy, s->len % KV_PAGE, zeros);
    } else {
        free_aligned(copy);
        copy = NULL;
    }
    free_aligned(zeros);
    return copy;
}

int kv_save(const kv_seq *s, int group, FILE *f, hash64 *h, err *e) {
    const kv_group *g = &s->pool->group[group];
    for (int j = kv_first(g->window, s->len) / KV_PAGE; j * KV_PAGE < s->len; j++) {
        bool full = (j + 1) * KV_PAGE <= s->len;
        void *own = full ? NULL : last_page(s, g, s->page[group][j]);
        const void *page = full ? s->page[group][j] : own;
        if (!page) return fail_memory(e, g->page_bytes, "a page of the cache");
        hash_add(h, page, g->page_bytes);
        bool written = fwrite(page, 1, g->page_bytes, f) == g->page_bytes;
        free_aligned(own);
        if (!written) return fail(e, "saving the session failed: %s", strerror(errno));
    }
    return 0;
}

int kv_load(kv_seq *s, int group, int len, int *next, size_t most, FILE *f, hash64 *h, size_t *bytes, err *e) {
    kv_group *g = &s->pool->group[group];
    size_t before = *bytes;
    if (len < 0 || len > s->cap) return fail_code(e, ERR_CONTEXT, "a saved session of %d positions does not fit in a context of %d", len, s->cap);
    for (*next = max_int(*next, kv_first(g->window, len) / KV_PAGE); *next * KV_PAGE < len; ++*next) {
        if (*bytes - before >= most) return 0;
        if (!g->n_free) return fail_code(e, ERR_MEMORY, "the cache is full: a saved session of %d positions does not fit", len);
        void *page = page_take(g);
        s->page[group][*next] = page;
        if (fread(page, 1, g->page_bytes, f) != g->page_bytes) return fail(e, "the saved session is cut short");
        hash_add(h, page, g->page_bytes);
        *bytes += g->page_bytes;
    }
    return 1;
}
