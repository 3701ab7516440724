/* lora: what adapters add to the matrices of the file. The matrix of the file may be several of the base's side by side (q, k, v),
 * or panels of two in turn (gate, up), or rows in another order: its low-rank addition stacks the ranks of all that it is made of,
 * and rank r of one part has zeros where the rows of the others are. So the runtime needs to know nothing of this. */
#include "tools/convert/lora.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/lora.h"

/* The part of an output that is the first from its tensor: later ones of the same tensor share its ranks. */
static bool first_of_tensor(const output *o, int part) {
    for (int i = 0; i < part; i++)
        if (o->part[i].t == o->part[part].t) return false;
    return o->part[part].t != NULL;
}

static const peft_module *module_of(const peft *p, const checkpoint *c, const output *o, int part) {
    return first_of_tensor(o, part) ? p->by_target[o->part[part].t - c->st.tensors] : NULL;
}

static int check_finite(const peft *p, const st_tensor *t, const float *x, uint64_t n, uint64_t row, err *e) {
    for (uint64_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return fail(e, "%s: tensor %.200s: the weight at [%llu, %llu] is %s; the adapter is damaged: fetch it again",
                        p->st.shards[t->shard].path, t->name, (unsigned long long)row, (unsigned long long)i,
                        isnan(x[i]) ? "NaN" : "infinite");
    return 0;
}

/* The module's ranks from `rank` on: rows of a as they are, columns of b to where the output has the base's rows. */
static int add_module(low_rank *l, int rank, const peft *p, const peft_module *m, const output *o, float *row, err *e) {
    uint64_t r = m->a->dims[0];
    for (uint64_t i = 0; i < r; i++) {
        float *a = l->a + ((size_t)rank + i) * l->lda;
        st_read(&p->st, m->a, i * o->k, o->k, a);
        if (check_finite(p, m->a, a, o->k, i, e)) return -1;
    }
    for (uint32_t j = 0; j < o->n; j++) {
        uint32_t from;
        if (source_row(o, j, &from) != m->target) continue;
        st_read(&p->st, m->b, (uint64_t)from * r, r, row);
        if (check_finite(p, m->b, row, r, from, e)) return -1;
        for (uint64_t i = 0; i < r; i++) l->b[((size_t)rank + i) * l->ldb + j] = (float)((double)row[i] * m->scale);
    }
    return 0;
}

static int allocate(low_rank *l, const output *o, float **row, err *e) {
    size_t ranks = round_up((size_t)l->r, PANEL), bytes = ranks * sizeof(float);
    l->lda = round_up(o->k, GROUP);
    l->ldb = round_up(o->n, GROUP);
    l->a = alloc_aligned(bytes * l->lda);
    l->b = alloc_aligned(bytes * l->ldb);
    *row = alloc_aligned(bytes);
    return l->a && l->b && *row ? 0 : fail_memory(e, bytes * (l->lda + l->ldb + 1), "an adapter's matrices");
}

int low_rank_make(low_rank *l, const peft_list *list, const checkpoint *c, const output *o, err *e) {
    uint64_t ranks = 0;
    *l = (low_rank){ 0 };
    if (looked_up(o)) return 0;
    for (int i = 0; i < list->n; i++)
        for (int k = 0; k < o->n_parts; k++) {
            const peft_module *m = module_of(&list->p[i], c, o, k);
            ranks += m ? m->a->dims[0] : 0;
        }
    if (ranks > 1 << 20)
        return fail(e, "%s: the adapters' ranks at %s are %llu in sum, too many", c->folder, o->name, (unsigned long long)ranks);
    float *row = NULL;
    l->r = (int)ranks;
    int rc = ranks ? allocate(l, o, &row, e) : 0, at = 0;
    for (int i = 0; i < list->n && ranks; i++)
        for (int k = 0; k < o->n_parts && !rc; k++) {
            const peft_module *m = module_of(&list->p[i], c, o, k);
            if (!m) continue;
            rc = add_module(l, at, &list->p[i], m, o, row, e);
            at += (int)m->a->dims[0];
        }
    free_aligned(row);
    if (rc) low_rank_free(l);
    return rc;
}

/* The sum over the ranks first, then onto the weight, as PEFT merges. */
void low_rank_add(const low_rank *l, int panel, float *rows, uint32_t k) {
    size_t padded = round_up(k, GROUP);
    for (size_t i = 0; i < PANEL; i++) {
        const float *b = l->b + (size_t)panel * PANEL + i;
        float *x = rows + i * padded;
        for (size_t at = 0; at < padded; at += GROUP) {
            float sum[GROUP] = { 0 };
            for (int r = 0; r < l->r; r++)
                for (size_t j = 0; j < GROUP; j++) sum[j] += b[(size_t)r * l->ldb] * l->a[(size_t)r * l->lda + at + j];
            for (size_t j = 0; j < GROUP; j++) x[at + j] += sum[j];
        }
    }
}

void low_rank_free(low_rank *l) {
    free_aligned(l->a);
    free_aligned(l->b);
    *l = (low_rank){ 0 };
}

/* ---- the adapter file ---- */

/* Equal to lora_vectors_hash of a model file made of this base. */
int adapter_hash(const checkpoint *c, const plan *list, uint64_t *out, err *e) {
    hash64 h;
    hash_begin(&h);
    for (int i = 0; i < list->n; i++) {
        const output *o = &list->outputs[i];
        if (!o->vector) continue;
        size_t bytes = round_up(o->n, GROUP) * sizeof(float);
        float *x = alloc_aligned(bytes);
        int rc = x ? load_vector(c, o, x, e) : fail_memory(e, bytes, o->name);
        uint64_t sum = rc ? 0 : hash_bytes(x, bytes);
        free_aligned(x);
        if (rc) return -1;
        hash_add(&h, &sum, sizeof sum);
    }
    *out = hash_end(&h);
    return 0;
}

static int add_records(buf *b, const checkpoint *c, const peft *p, uint64_t hash, err *e) {
    const arch *a = &c->arch;
    int64_t version = LORA_VERSION, rank = p->rank, number = (int64_t)hash;
    double alpha = p->alpha, scale = p->alpha / (p->root ? sqrt((double)p->rank) : (double)p->rank);
    record_add_i64(b, LORA_KEY, &version, 1);
    record_add_i64(b, "adapter.rank", &rank, 1);
    record_add_f64(b, "adapter.alpha", &alpha, 1);
    record_add_f64(b, "adapter.scale", &scale, 1);
    record_add_i64(b, LORA_VECTORS_KEY, &number, 1);
    record_add_bytes(b, LORA_NAME_KEY, a->name, strlen(a->name));
#define X(name) number = a->name, record_add_i64(b, LORA_BASE_KEY #name, &number, 1);
    LORA_BASE(X)
#undef X
    return b->failed ? fail_memory(e, b->cap, "the records") : 0;
}

static int ranks_of(const peft *p, const checkpoint *c, const output *o) {
    int ranks = 0;
    for (int k = 0; k < o->n_parts && !looked_up(o); k++) {
        const peft_module *m = module_of(p, c, o, k);
        ranks += m ? (int)m->a->dims[0] : 0;
    }
    return ranks;
}

/* ---- whole tensors: each output that is made of one, as a model file would have it ---- */

static bool made_of(const checkpoint *c, const output *o) {
    bool yes = whole_is(c, o->added);
    for (int k = 0; k < o->n_parts; k++) yes |= whole_is(c, o->part[k].t);
    return yes;
}

/* A tensor that is in no output has no use, or a use that cannot be replaced in a model. */
static int account(checkpoint *c, const plan *list, const peft *p, err *e) {
    for (size_t i = 0; i < c->st.n; i++) {
        const st_tensor *t = &c->st.tensors[i];
        bool used = !whole_is(c, t);
        for (int j = 0; j < list->n && !used; j++) {
            const output *o = &list->outputs[j];
            if (o->of == t)
                return fail(e, "%s: %s cannot be replaced while a model runs; put it into the model with convert --merge", p->folder, t->name);
            used = o->added == t;
            for (int k = 0; k < o->n_parts; k++) used |= o->part[k].t == t;
        }
        if (!used && !(list->tied && peft_is_head(c, t->name)))
            warn(c, "%s: %.200s is not used by this model, and so is what the adapter has for it", p->folder, t->name);
    }
    return 0;
}

/* Declares them in the file and lists them in `whole`, which the caller frees. */
static int declare_whole(checkpoint *c, const plan *list, plan *whole, file_writer *w, err *e) {
    int embed = -1;
    if (!(whole->outputs = malloc((size_t)list->n * sizeof *whole->outputs + 1))) return fail_memory(e, (size_t)list->n, "a plan");
    for (int i = 0; i < list->n; i++) {
        output *o = &whole->outputs[whole->n];
        *o = list->outputs[i];
        if (!made_of(c, o)) continue;
        o->index = file_write_tensor(w, o->name, o->type, o->vector ? 1 : 2, o->n, o->vector ? 0 : o->k, e);
        if (o->index >= 0 && o->looked_up && file_write_plain(w, o->index, e)) return -1;
        if (o->index < 0) return -1;
        if (i == list->embed) embed = o->index;
        whole->n++;
    }
    return list->tied && embed >= 0 && file_write_tied(w, "output", embed, e) < 0 ? -1 : 0;
}

/* ---- the file ---- */

static int declare(const checkpoint *c, const plan *list, const peft *p, file_writer *w, int *first, err *e) {
    *first = -1;
    for (int i = 0; i < list->n; i++) {
        const output *o = &list->outputs[i];
        int r = ranks_of(p, c, o);
        char name[FORMAT_NAME + 8];
        if (!r) continue;
        snprintf(name, sizeof name, "%s.lora_a", o->name);
        int index = file_write_tensor(w, name, W_F32, 2, (uint64_t)r, o->k, e);
        if (index < 0) return -1;
        if (*first < 0) *first = index;
        snprintf(name, sizeof name, "%s.lora_b", o->name);
        if (file_write_tensor(w, name, W_F32, 2, (uint64_t)r, o->n, e) < 0) return -1;
    }
    return 0;
}

static int write_pairs(const checkpoint *c, const plan *list, peft *p, file_writer *w, int index, const volatile int *stop, err *e) {
    for (int i = 0; i < list->n; i++) {
        low_rank l;
        if (*stop) return fail(e, "interrupted");
        if (low_rank_make(&l, &(peft_list){ p, 1 }, c, &list->outputs[i], e)) return -1;
        if (!l.r) continue;
        size_t ranks = round_up((size_t)l.r, PANEL) * sizeof(float);
        int rc = file_write_data(w, index, l.a, ranks * l.lda, e) || file_write_data(w, index + 1, l.b, ranks * l.ldb, e);
        low_rank_free(&l);
        if (rc) return -1;
        index += 2;
    }
    return 0;
}

static int write_all(checkpoint *c, const plan *list, plan *whole, peft *p, file_writer *w, const buf *records, const pack_opts *o, err *e) {
    int first;
    if (declare_whole(c, list, whole, w, e) || declare(c, list, p, w, &first, e)) return -1;
    if (!whole->n && first < 0) return fail(e, "%s: nothing of this adapter is used by the model", p->folder);
    return file_write_begin(w, records, NULL, 0, e) || pack_all(c, whole, w, o, e) || write_pairs(c, list, p, w, first, o->stop, e) ? -1 : 0;
}

int adapter_write(checkpoint *c, plan *list, peft *p, uint64_t hash, const char *path, bool force, const pack_opts *o, err *e) {
    file_writer *w = NULL;
    buf records = { 0 };
    plan whole = { .embed = -1 };
    int rc = account(c, list, p, e) || add_records(&records, c, p, hash, e) || file_write_open(&w, path, force, e);
    if (!rc) rc = write_all(c, list, &whole, p, w, &records, o, e);
    uint64_t bytes = rc ? 0 : file_write_total(w);
    if (!rc) rc = file_write_end(&w, e);
    if (w) file_write_abort(&w);
    buf_free(&records);
    if (!rc) fprintf(stderr, "%s: adapter of %s, rank %d, alpha %g, %d modules", path, c->arch.name, p->rank, p->alpha, p->n);
    if (!rc && whole.n) fprintf(stderr, ", %d tensors replaced", whole.n);
    if (!rc) fprintf(stderr, ", %.1f MB\n", (double)bytes / 1e6);
    plan_free(&whole);
    return rc ? -1 : 0;
}
