/* pack: reads the plan's tensors 16 rows at a time (a panel, or so many plain rows), packs them with all threads and streams them
 * into the file. Memory holds a batch of packed panels and one unpacked panel a worker, whatever the model's size: the checkpoint
 * is mapped, and let go once read. It must not know families or names.
 * A quantised tensor is read twice: its largest weight gives the exponent that its scales share. */
#define _GNU_SOURCE
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/pool.h"
#include "tools/convert/lora.h"

enum { BATCH_BYTES = 4 << 20, MAX_BATCH = 1024 };

/* A Gaussian loses about 0.09 of its size at q4. A tensor that loses this much has weights that 4 bits cannot hold. */
static const double q4_limit = 0.16;

typedef struct panel_result {
    uint32_t amax_bits; /* of the largest |w|, as an integer: NaN and infinity are above all numbers */
    double error, power;
} panel_result;

typedef struct packer {
    const checkpoint *c;
    file_writer *w;
    const pack_opts *o;
    const plan *list;
    pool *pool;
    float *rows;    /* [workers][16][pad64(k)] */
    uint8_t *batch; /* packed panels */
    size_t rows_bytes, batch_bytes;
    panel_result result[MAX_BATCH];
    uint64_t done, total; /* weights */
    double began, shown;
    const output *out; /* the tensor in work */
    low_rank added;    /* what adapters add to it */
    wtype type;
    int exponent, first; /* first panel of the batch */
    bool measure;        /* only amax */
    err *e;
} packer;

/* ---- rows ---- */

const st_tensor *source_row(const output *o, uint32_t r, uint32_t *row) {
    int p = 0;
    if (o->interleaved) {
        uint32_t panel = r / PANEL;
        p = (int)(panel % (uint32_t)o->n_parts);
        r = panel / (uint32_t)o->n_parts * PANEL + r % PANEL;
    } else {
        while (p < o->n_parts - 1 && r >= o->part[p].padded) r -= o->part[p++].padded;
    }
    const source_rows *part = &o->part[p];
    *row = r;
    if (r >= part->rows) return NULL;
    if (o->pairs && p < 2) { /* queries and keys: dimension i and half + i are the pair 2 i, 2 i + 1 of the source */
        uint32_t half = o->pairs / 2, i = r % o->pairs;
        r = r - i + (i < half ? 2 * i : 2 * (i - half) + 1);
    }
    uint32_t block = r / part->chunk;
    *row = part->first + (part->blocks ? (uint32_t)part->blocks[block] : block) * part->stride + r % part->chunk;
    return part->t;
}

/* The source's input that is input j of the output. */
static uint32_t source_input(const output *o, uint32_t j) {
    return (o->k_blocks ? (uint32_t)o->k_blocks[j / o->k_chunk] * o->k_chunk : j / o->k_chunk * o->k_chunk) + j % o->k_chunk;
}

/* n inputs of one row in f32; false: padding. */
static bool load_row(const checkpoint *c, const output *o, uint32_t r, float *x) {
    uint32_t row;
    if (o->values) return memcpy(x, o->values + (size_t)r * o->k, o->k * sizeof *x), true;
    const st_tensor *t = source_row(o, r, &row);
    if (!t) return false;
    for (uint32_t j = 0; j < o->k; j += o->k_chunk)
        st_read(&c->st, t, (uint64_t)row * o->k_source + source_input(o, j), o->k_chunk, x + j);
    return true;
}

/* A panel whose rows are columns of the source: 16 side by side, or fewer at the end. */
static void load_columns(const checkpoint *c, const output *o, uint32_t first, float *rows, size_t padded) {
    uint32_t column, n = 0, other;
    const st_tensor *t = source_row(o, first, &column);
    if (!t) return;
    while (n < PANEL && first + n < o->n && source_row(o, first + n, &other) && other == column + n) n++;
    for (uint32_t j = 0; j < o->k; j++) {
        float x[PANEL];
        st_read(&c->st, t, (uint64_t)j * t->dims[1] + column, n, x);
        for (uint32_t i = 0; i < n; i++) rows[i * padded + j] = x[i];
    }
}

/* rows[16][pad64(k)]: one panel in f32, padding zero. */
static void load_panel(const checkpoint *c, const output *o, int panel, float *rows) {
    size_t padded = round_up(o->k, GROUP);
    uint32_t first = (uint32_t)panel * PANEL;
    memset(rows, 0, PANEL * padded * sizeof *rows);
    if (o->columns) load_columns(c, o, first, rows, padded);
    for (uint32_t i = 0; i < PANEL && first + i < o->n && !o->columns; i++) {
        float *x = rows + i * padded;
        if (!load_row(c, o, first + i, x) || !o->added) continue;
        for (uint32_t j = 0; j < o->k; j++) {
            float more;
            st_read(&c->st, o->added, j, 1, &more);
            x[j] += more;
        }
    }
}

/* Lets the pages go that a batch has read: once all of it is read, because the kernel maps a page's neighbours with it. Sources
 * that are read across are let go as a whole, at the end. */
static void drop_panels(const checkpoint *c, const output *o, int first, int n) {
    uint32_t end = (uint32_t)min_int((first + n) * PANEL, (int)o->n);
    if (o->columns || o->values) return;
    for (uint32_t r = (uint32_t)first * PANEL, rows; r < end; r += rows) {
        uint32_t row, next;
        const st_tensor *t = source_row(o, r, &row);
        for (rows = 1; r + rows < end && source_row(o, r + rows, &next) == t && (!t || next == row + rows);) rows++;
        if (t) st_drop(&c->st, t, (uint64_t)row * o->k_source, (uint64_t)rows * o->k_source);
    }
}

static uint32_t largest(const float *x, size_t n) {
    uint32_t most = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &x[i], sizeof u);
        u &= 0x7fffffff;
        most = u > most ? u : most;
    }
    return most;
}

int load_vector(const checkpoint *c, const output *o, float *x, err *e) {
    for (uint32_t i = 0; i < o->n; i++) {
        uint32_t row = i;
        const st_tensor *t = o->values ? NULL : source_row(o, i, &row);
        if (o->values) x[i] = o->values[i];
        if (t) st_read(&c->st, t, row, 1, &x[i]);
        if (t) x[i] = x[i] * o->scale + o->offset;
        if (!isfinite(x[i]))
            return fail(e, "%s: tensor %s: the weight at [%u] is %s; the checkpoint is damaged: fetch it again",
                        t ? c->st.shards[t->shard].path : c->folder, t ? t->name : o->name, row, isnan(x[i]) ? "NaN" : "infinite");
    }
    return 0;
}

/* ---- panels ---- */

/* Bytes of 16 packed rows: a panel, or plain rows. */
static size_t packed_bytes(const packer *p) {
    int k = (int)p->out->k;
    return p->out->looked_up ? PANEL * plain_row_bytes(p->type, k) : panel_bytes(p->type, k);
}

static void pack_rows(const packer *p, const float *rows, uint8_t *to, panel_result *r) {
    int k = (int)p->out->k;
    if (!p->out->looked_up) pack_panel(p->type, rows, k, p->exponent, p->out->importance, to, &r->error, &r->power);
    for (size_t i = 0; p->out->looked_up && i < PANEL; i++)
        pack_plain_row(p->type, rows + i * round_up(p->out->k, GROUP), k, p->exponent, NULL, to + i * plain_row_bytes(p->type, k),
                       &r->error, &r->power);
}

static void do_panel(void *arg, int task, int worker) {
    packer *p = arg;
    const output *o = p->out;
    size_t floats = PANEL * round_up(o->k, GROUP);
    float *rows = p->rows + (size_t)worker * floats;
    panel_result *r = &p->result[task];
    *r = (panel_result){ 0 };
    load_panel(p->c, o, p->first + task, rows);
    if (p->added.r) low_rank_add(&p->added, p->first + task, rows, o->k);
    r->amax_bits = largest(rows, floats);
    if (!p->measure && r->amax_bits < 0x7f800000) pack_rows(p, rows, p->batch + (size_t)task * packed_bytes(p), r);
}

typedef struct loader {
    const checkpoint *c;
    const output *o;
    const low_rank *added;
    int first;
    float *to;
} loader;

static void fill_panel(void *arg, int task, int worker) {
    (void)worker;
    const loader *x = arg;
    float *rows = x->to + (size_t)task * PANEL * round_up(x->o->k, GROUP);
    load_panel(x->c, x->o, x->first + task, rows);
    if (x->added->r) low_rank_add(x->added, x->first + task, rows, x->o->k);
}

int load_panels(const checkpoint *c, const plan *p, const output *o, struct pool *workers, int first, int n, float *to, err *e) {
    low_rank added = { 0 };
    if (p->merge && low_rank_make(&added, p->merge, c, o, e)) return -1;
    pool_run(workers, fill_panel, &(loader){ c, o, &added, first, to }, n);
    drop_panels(c, o, first, n);
    if (o->columns) st_drop(&c->st, o->part[0].t, 0, o->part[0].t->n);
    low_rank_free(&added);
    return 0;
}

/* Names the first weight of a panel that is no number. */
static int refuse_value(packer *p, int panel) {
    const output *o = p->out;
    size_t padded = round_up(o->k, GROUP);
    load_panel(p->c, o, panel, p->rows);
    for (uint32_t i = 0; i < PANEL; i++)
        for (uint32_t j = 0; j < o->k; j++) {
            float x = p->rows[i * padded + j];
            uint32_t row = 0;
            if (isfinite(x)) continue;
            if (o->values)
                return fail(p->e, "%s: a weight of %s is %s; the checkpoint is damaged: fetch it again", p->c->folder, o->name,
                            isnan(x) ? "NaN" : "infinite");
            const st_tensor *t = source_row(o, (uint32_t)panel * PANEL + i, &row);
            return fail(p->e, "%s: tensor %s: the weight at [%u, %u] is %s; the checkpoint is damaged: fetch it again",
                        p->c->st.shards[t->shard].path, t->name, o->columns ? j : row, o->columns ? row : source_input(o, j),
                        isnan(x) ? "NaN" : "infinite");
        }
    if (p->added.r) return fail(p->e, "%s: %s with the adapter added is more than f32 can hold", p->c->folder, o->name);
    return fail(p->e, "%s: %s changed while it was read", p->c->folder, o->name);
}

static void show_progress(packer *p, bool last) {
    double now = now_seconds(), seconds = now - p->began, share = (double)p->done / (double)(p->total ? p->total : 1);
    if (!p->o->progress || (!last && now - p->shown < 0.1)) return;
    p->shown = now;
    char bar[31];
    memset(bar, '.', 30);
    memset(bar, '#', (size_t)(share * 30));
    bar[30] = 0;
    double left = share > 0 ? seconds / share - seconds : 0;
    fprintf(stderr, "\r[%s] %3.0f %%  %.0f M weights/s  %d:%02d left ", bar, share * 100,
            (double)p->done / 1e6 / (seconds > 0 ? seconds : 1), (int)left / 60, (int)left % 60);
    if (last) fprintf(stderr, "\r%78s\r", "");
    fflush(stderr);
}

/* Runs do_panel over all panels of the tensor, in batches; write: each batch goes into the file. */
static int run_panels(packer *p, bool write, panel_result *sum) {
    int n = (int)((p->out->n + PANEL - 1) / PANEL);
    size_t bytes = packed_bytes(p);
    int batch = (int)(BATCH_BYTES / bytes);
    batch = batch < pool_size(p->pool) ? pool_size(p->pool) : batch > MAX_BATCH ? MAX_BATCH : batch;
    *sum = (panel_result){ 0 };
    for (p->first = 0; p->first < n; p->first += batch) {
        int tasks = min_int(batch, n - p->first);
        pool_run(p->pool, do_panel, p, tasks);
        drop_panels(p->c, p->out, p->first, tasks);
        if (*p->o->stop) return fail(p->e, "interrupted");
        for (int i = 0; i < tasks; i++) {
            if (p->result[i].amax_bits >= 0x7f800000) return refuse_value(p, p->first + i);
            if (p->result[i].amax_bits > sum->amax_bits) sum->amax_bits = p->result[i].amax_bits;
            sum->error += p->result[i].error;
            sum->power += p->result[i].power;
        }
        if (!write) continue;
        if (file_write_data(p->w, p->out->index, p->batch, (size_t)tasks * bytes, p->e)) return -1;
        p->done += (uint64_t)tasks * PANEL * p->out->k;
        show_progress(p, false);
    }
    return 0;
}

/* Buffers only grow: a tensor's panel of k inputs for each worker, a batch of packed ones. */
static int make_room(packer *p) {
    size_t workers = (size_t)pool_size(p->pool), rows = workers * PANEL * round_up(p->out->k, GROUP) * sizeof(float);
    size_t one = panel_bytes(W_F32, (int)p->out->k), batch = one * workers > BATCH_BYTES ? one * workers : BATCH_BYTES;
    if (rows > p->rows_bytes) {
        free_aligned(p->rows);
        if (!(p->rows = alloc_aligned(p->rows_bytes = rows)))
            return p->rows_bytes = 0, fail_memory(p->e, rows, "a panel for each thread");
    }
    if (batch > p->batch_bytes) {
        free_aligned(p->batch);
        if (!(p->batch = alloc_aligned(p->batch_bytes = batch)))
            return p->batch_bytes = 0, fail_memory(p->e, batch, "packed panels");
    }
    return 0;
}

/* ---- tensors ---- */

static int find_exponent(packer *p) {
    panel_result sum;
    float amax;
    p->exponent = 0;
    if (p->type != W_Q4 && p->type != W_Q8) return 0;
    p->measure = true;
    int rc = run_panels(p, false, &sum);
    p->measure = false;
    if (rc) return -1;
    memcpy(&amax, &sum.amax_bits, sizeof amax);
    p->exponent = quant_exponent(p->type, amax);
    file_write_exponent(p->w, p->out->index, p->exponent);
    return 0;
}

static int pack_as(packer *p, wtype type, double *relative) {
    panel_result sum;
    p->type = type;
    if (make_room(p) || find_exponent(p) || run_panels(p, true, &sum)) return -1;
    *relative = sum.power > 0 ? sqrt(sum.error / sum.power) : 0;
    return 0;
}

static int pack_or_retype(packer *p, output *o, double *relative) {
    if (pack_as(p, o->type, relative)) return -1;
    if (o->type != W_Q4 || *relative <= q4_limit) return 0;
    if (p->o->verbose)
        fprintf(stderr, "%s: q4 would lose %.1f %% of it (root mean square); written as q8\n", o->name, *relative * 100);
    if (file_write_retype(p->w, o->index, W_Q8, p->e)) return -1;
    p->done -= (uint64_t)round_up(o->n, PANEL) * o->k;
    o->type = W_Q8;
    return pack_as(p, W_Q8, relative);
}

static int pack_matrix(packer *p, output *o, double *relative) {
    p->added = (low_rank){ 0 };
    int rc = p->list->merge && low_rank_make(&p->added, p->list->merge, p->c, o, p->e) ? -1 : pack_or_retype(p, o, relative);
    low_rank_free(&p->added);
    return rc;
}

static int pack_vector(packer *p, const output *o) {
    size_t n = round_up(o->n, GROUP);
    float *x = alloc_aligned(n * sizeof *x);
    if (!x) return fail_memory(p->e, n * sizeof *x, o->name);
    int rc = load_vector(p->c, o, x, p->e);
    if (!rc) rc = file_write_data(p->w, o->index, x, n * sizeof *x, p->e);
    free_aligned(x);
    return rc;
}

static uint64_t weights_of(const plan *p) {
    uint64_t sum = 0;
    for (int i = 0; i < p->n; i++) sum += p->outputs[i].vector ? 0 : (uint64_t)round_up(p->outputs[i].n, PANEL) * p->outputs[i].k;
    return sum;
}

/* bf16 holds a bf16 checkpoint as it is; of any other it rounds, and that is said. */
static void note_rounding(checkpoint *c, double worst, const char *name) {
    if (worst > 0)
        warn(c, "the checkpoint's weights are not bf16: rounded, by up to %.3f %% (%s); --type f32 keeps them", worst * 100, name);
}

int pack_all(checkpoint *c, plan *list, file_writer *w, const pack_opts *o, err *e) {
    packer *p = calloc(1, sizeof *p);
    if (!p) return fail_memory(e, sizeof *p, "the converter");
    *p = (packer){ .c = c, .w = w, .o = o, .list = list, .total = weights_of(list), .pool = o->pool, .began = now_seconds(), .e = e };
    int rc = 0;
    double worst = 0;
    const char *worst_name = "";
    for (int i = 0; i < list->n && !rc; i++) {
        output *out = &list->outputs[i];
        double relative = 0;
        p->out = out;
        rc = out->vector ? pack_vector(p, out) : pack_matrix(p, out, &relative);
        if (out->columns) st_drop(&c->st, out->part[0].t, 0, out->part[0].t->n); /* read across, so not let go row by row */
        if (out->type == W_BF16 && relative > worst) worst = relative, worst_name = out->name;
        if (!rc && o->verbose && !out->vector)
            fprintf(stderr, "%-28s %-4s [%u][%u]  error %.3f %%\n", out->name, wtype_name(out->type), out->n, out->k,
                    relative * 100);
    }
    show_progress(p, true);
    if (!rc) note_rounding(c, worst, worst_name);
    free_aligned(p->rows);
    free_aligned(p->batch);
    free(p);
    return rc;
}
