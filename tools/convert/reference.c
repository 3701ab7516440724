/* reference: the checkpoint as a model in f32, for forward to run like any other. Its file is an image in memory, which is address
 * space until something is read into it: vectors are at once, rows of tables before they are looked up, a matrix when a product
 * first needs it; older matrices go when there is no room. So memory holds a few matrices whatever the model's size.
 * It must not know how a layer is computed. */
#include <stdlib.h>
#include <string.h>

#include "tools/convert/certify.h"

static void *place(const reference *r, const char *name, uint64_t *at) {
    const file_tensor *t = file_find(&r->model.file, name);
    if (at) *at = t->at;
    return file_image_data(&r->model.file, t);
}

/* Vectors, and matrices that are computed: they are small, and read without a product. */
static int read_small(const reference *r, err *e) {
    for (int i = 0; i < r->plan->n; i++) {
        const output *o = &r->plan->outputs[i];
        if (o->vector && load_vector(r->c, o, place(r, o->name, NULL), e)) return -1;
        if (!o->vector && o->values &&
            load_panels(r->c, r->plan, o, r->pool, 0, (int)((o->n + PANEL - 1) / PANEL), place(r, o->name, NULL), e))
            return -1;
    }
    for (int i = 0; i < r->c->arch.n_ropes; i++)
        for (int j = 0; j < (r->c->rope[i].inv_long ? 2 : 1); j++) {
            char name[32];
            snprintf(name, sizeof name, "rope.%d%s", i, j ? ".long" : "");
            memcpy(place(r, name, NULL), j ? r->c->rope[i].inv_long : r->c->rope[i].inv_freq, (size_t)r->c->rope[i].n * sizeof(float));
        }
    return 0;
}

int reference_open(reference *r, const checkpoint *c, const plan *p, struct pool *workers, const file_writer *w, uint64_t budget, err *e) {
    *r = (reference){ .c = c, .plan = p, .pool = workers, .budget = budget };
    if (file_write_image(w, &r->model.file, e) || model_bind(&r->model, e)) return -1;
    if (read_small(r, e) == 0) return 0;
    reference_close(r);
    return -1;
}

void reference_close(reference *r) {
    if (r->model.file.map.p) model_close(&r->model);
    free(r->resident);
    *r = (reference){ 0 };
}

/* The output whose place holds byte `at` of the image: places follow one another as outputs do. */
static const output *output_at(const reference *r, uint64_t at, uint64_t *start) {
    int low = 0, high = r->plan->n - 1;
    const file_tensor *rows = r->model.file.tensors;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (rows[r->plan->outputs[middle].index].at <= at) low = middle;
        else high = middle - 1;
    }
    *start = rows[r->plan->outputs[low].index].at;
    return &r->plan->outputs[low];
}

static uint64_t offset_of(const reference *r, const mat *w) { return (uint64_t)((const uint8_t *)w->data - r->model.file.map.p); }

const output *reference_output(const reference *r, const mat *w) {
    uint64_t start;
    return output_at(r, offset_of(r, w), &start);
}

/* ---- matrices ---- */

static void drop_oldest(reference *r) {
    file_image_drop(&r->model.file, r->resident[0].at, r->resident[0].bytes, &r->failed);
    r->held -= r->resident[0].bytes;
    memmove(r->resident, r->resident + 1, (size_t)--r->n * sizeof *r->resident);
}

static int remember(reference *r, uint64_t at, uint64_t bytes) {
    while (r->n && r->held + bytes > r->budget) drop_oldest(r);
    if (r->n == r->cap) {
        int cap = r->cap ? 2 * r->cap : 64;
        struct resident *list = realloc(r->resident, (size_t)cap * sizeof *list);
        if (!list) return fail_memory(&r->failed, (size_t)cap * sizeof *list, "a list of matrices");
        r->resident = list;
        r->cap = cap;
    }
    r->resident[r->n++] = (struct resident){ at, bytes };
    r->held += bytes;
    return 0;
}

void reference_fetch(reference *r, const mat *w) {
    uint64_t at = offset_of(r, w), start, bytes = 0;
    const output *o = output_at(r, at, &start);
    matrix_bytes(W_F32, LAYOUT_ROWS, (uint64_t)w->n, (uint64_t)w->k, &bytes);
    for (int i = 0; i < r->n; i++)
        if (r->resident[i].at == at && r->resident[i].bytes == bytes) return;
    if (r->failed.code || remember(r, at, bytes)) return;
    int first = (int)((at - start) / panel_bytes(W_F32, w->k)), n = (w->n + PANEL - 1) / PANEL;
    load_panels(r->c, r->plan, o, r->pool, first, n, (float *)(uintptr_t)w->data, &r->failed);
}

void reference_release(reference *r) {
    while (r->n) drop_oldest(r);
}

/* ---- tables ---- */

static int by_number(const void *a, const void *b) {
    return (*(const int32_t *)a > *(const int32_t *)b) - (*(const int32_t *)a < *(const int32_t *)b);
}

/* Rows row[n] of a table, which are sorted here; of the others nothing is looked up. */
static void read_rows(reference *r, const mat *table, int32_t *row, int n) {
    size_t ld = round_up((size_t)table->k, GROUP);
    float *panel = alloc_aligned(PANEL * ld * sizeof *panel);
    if (!panel) fail_memory(&r->failed, PANEL * ld * sizeof *panel, "rows of a table");
    qsort(row, (size_t)n, sizeof *row, by_number);
    for (int i = 0, have = -1; i < n && !r->failed.code; i++) {
        int id = row[i];
        if (i && id == row[i - 1]) continue;
        if (id / PANEL != have) load_panels(r->c, r->plan, reference_output(r, table), r->pool, have = id / PANEL, 1, panel, &r->failed);
        memcpy((float *)(uintptr_t)table->data + (size_t)id * ld, panel + (size_t)(id % PANEL) * ld, ld * sizeof *panel);
    }
    free_aligned(panel);
}

/* The ids of all passages; rows beyond `limit` are row 0, as in forward. */
static void read_ids(reference *r, const mat *table, int limit, const passage *p, int n_passages, int32_t *row) {
    int n = 0;
    for (int i = 0; i < n_passages; i++) {
        for (int j = 0; j < p[i].n_enc; j++) row[n++] = p[i].enc[j] < limit ? p[i].enc[j] : 0;
        for (int j = 0; j < p[i].n; j++) row[n++] = p[i].tok[j] < limit ? p[i].tok[j] : 0;
    }
    read_rows(r, table, row, n);
}

int reference_tables(reference *r, const passage *p, int n_passages, err *e) {
    const model *m = &r->model;
    size_t n = 0;
    int longest = 0;
    for (int i = 0; i < n_passages; i++) {
        n += (size_t)p[i].n_enc + (size_t)p[i].n;
        longest = max_int(longest, max_int(p[i].n, p[i].n_enc));
    }
    int32_t *row = malloc((n + (size_t)longest) * sizeof *row);
    if (!row) return fail_memory(e, n * sizeof *row, "rows of a table");
    read_ids(r, &m->embed, m->arch.n_vocab, p, n_passages, row);
    if (m->per_layer_embed.data) read_ids(r, &m->per_layer_embed, m->arch.n_vocab_per_layer, p, n_passages, row);
    for (int i = 0; i < longest; i++) row[i] = i;
    if (m->pos_embed.data) read_rows(r, &m->pos_embed, row, longest);
    free(row);
    if (r->failed.code) *e = r->failed;
    return r->failed.code ? -1 : 0;
}
