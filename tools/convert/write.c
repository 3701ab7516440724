/* write: a model file, in order: its tensors declared, the text's statistics where one is given, the tensors packed, all read back,
 * measured against the checkpoint, the certificate added, and only then the file's name. It must not know how any of it is done. */
#include <string.h>
#include <unistd.h>

#include "runtime/pool.h"
#include "tools/convert/certify.h"
#include "tools/convert/lora.h"

/* Matrices of the reference that stay while several passages go through a layer: most layers fit. A single one needs each once. */
enum { KEEP_BYTES = 1 << 30 };

int write_ropes(const checkpoint *c, file_writer *w, int first, err *e) {
    for (int i = 0; i < c->arch.n_ropes; i++) {
        const rope_freqs *r = &c->rope[i];
        size_t n = round_up((size_t)r->n, GROUP);
        float *x = alloc_aligned(n * sizeof *x);
        if (!x) return fail_memory(e, n * sizeof *x, "RoPE tables");
        int rc = 0;
        for (int j = 0; j < (r->inv_long ? 2 : 1) && !rc; j++) {
            memcpy(x, j ? r->inv_long : r->inv_freq, (size_t)r->n * sizeof *x);
            rc = file_write_data(w, first++, x, n * sizeof *x, e);
        }
        free_aligned(x);
        if (rc) return -1;
    }
    return 0;
}

/* RoPE tables first, then the tensors as they are used. */
int declare(const checkpoint *c, plan *p, file_writer *w, err *e) {
    for (int i = 0; i < c->arch.n_ropes; i++)
        for (int j = 0; j < (c->rope[i].inv_long ? 2 : 1); j++) {
            char name[32];
            snprintf(name, sizeof name, "rope.%d%s", i, j ? ".long" : "");
            if (file_write_tensor(w, name, W_F32, 1, (uint64_t)c->rope[i].n, 0, e) < 0) return -1;
        }
    for (int i = 0; i < p->n; i++) {
        output *o = &p->outputs[i];
        o->index = file_write_tensor(w, o->name, o->type, o->vector ? 1 : 2, o->n, o->vector ? 0 : o->k, e);
        if (o->index < 0 || (o->looked_up && file_write_plain(w, o->index, e))) return -1;
    }
    return p->tied && file_write_tied(w, "output", p->outputs[p->embed].index, e) < 0 ? -1 : 0;
}

typedef struct job {
    checkpoint *c;
    plan *p;
    const buf *tokenizer;
    const write_opts *o;
    pool *pool;
    file_writer *w;
    passages passages;
    reference ref;
    bool measured, progress;
    certificate *cert;
    err *e;
} job;

static void make_records(const job *j, buf *records) {
    arch_write(&j->c->arch, records);
    for (int i = 0; j->o->merged && i < j->o->merged->n; i++) {
        char key[32];
        snprintf(key, sizeof key, "info.merged.%d", i);
        record_add_bytes(records, key, j->o->merged->p[i], strlen(j->o->merged->p[i]));
    }
    if (j->o->slice) record_add_bytes(records, "info.matformer", j->o->slice, strlen(j->o->slice));
    if (j->measured) certificate_write(j->cert, records);
}

static int begin(job *j) {
    buf records = { 0 };
    if (j->measured) certificate_begin(j->cert, &j->c->arch, &j->passages); /* zeros: its size stays */
    make_records(j, &records);
    int rc = declare(j->c, j->p, j->w, j->e) || file_write_begin(j->w, &records, j->tokenizer->p, j->tokenizer->n, j->e) ? -1 : 0;
    buf_free(&records);
    return rc;
}

static int write_tensors(job *j) {
    pack_opts pack = { j->pool, j->o->verbose, j->progress, j->o->stop };
    if (j->o->calibrate && calibrate(&j->ref, j->p, &j->c->mem, &j->passages, j->o->stop, j->progress, j->e)) return -1;
    return write_ropes(j->c, j->w, 0, j->e) || pack_all(j->c, j->p, j->w, &pack, j->e) ? -1 : 0;
}

static int add_certificate(job *j) {
    buf records = { 0 };
    char warning[CERTIFY_WARNING];
    if (certify(&j->ref, file_write_temporary(j->w), &j->passages, j->o->stop, j->progress, j->cert, warning, j->e)) return -1;
    if (*warning) warn(j->c, "%s", warning);
    make_records(j, &records);
    int rc = file_write_records(j->w, &records, j->e);
    buf_free(&records);
    return rc;
}

static int run(job *j) {
    if (j->measured && (kernels_init(NULL, j->e) || passages_make(&j->passages, &j->c->arch, j->tokenizer, j->o->calibrate, j->e))) return -1;
    if (file_write_open(&j->w, j->o->output, j->o->force, j->e) || begin(j)) return -1;
    if (j->measured && reference_open(&j->ref, j->c, j->p, j->pool, j->w, j->passages.n > 1 ? KEEP_BYTES : 0, j->e)) return -1;
    if (write_tensors(j) || file_write_settle(j->w, j->e) || (j->measured && add_certificate(j))) return -1;
    return *j->o->stop ? fail(j->e, "interrupted") : 0;
}

static bool quantised(const plan *p) {
    for (int i = 0; i < p->n; i++)
        if (p->outputs[i].type == W_Q8 || p->outputs[i].type == W_Q4) return true;
    return false;
}

int write_model(checkpoint *c, plan *p, const buf *blob, const write_opts *o, uint64_t *bytes, certificate *cert, err *e) {
    job j = { .c = c, .p = p, .tokenizer = blob, .o = o, .cert = cert, .e = e, .measured = o->verify || o->calibrate || quantised(p),
              .progress = !o->verbose && isatty(STDERR_FILENO) };
    *cert = (certificate){ 0 };
    int rc = pool_new(&j.pool, o->threads, e);
    if (!rc) rc = run(&j);
    if (!rc) {
        *bytes = file_write_total(j.w);
        rc = file_write_end(&j.w, e);
    }
    if (j.w) file_write_abort(&j.w);
    reference_close(&j.ref);
    passages_free(&j.passages);
    if (j.pool) pool_free(j.pool);
    return rc;
}
