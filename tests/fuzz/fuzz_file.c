/* fuzz: a model file from anyone. The input is the file; its head is given the right hash and its size, so that the checks
 * behind these are reached. What opens must be safe to read in full, and be of the kind that its header alone told. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/arch.h"
#include "runtime/kind.h"
#include "weights/certificate.h"
#include "weights/layout.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* A corpus file is the head without the long padding before the data: what is cut there is put back. */
static uint8_t *whole_file(const uint8_t *data, size_t n, size_t *size) {
    file_header h;
    memcpy(&h, data, sizeof h);
    bool pad = h.data_at > n && h.data_at <= FORMAT_DATA_ALIGN;
    *size = n + (pad ? (size_t)h.data_at : 0);
    uint8_t *p = calloc(1, *size);
    if (!p) return NULL;
    memcpy(p, data, n);
    h.file_bytes = *size;
    if (h.data_at >= sizeof h && h.data_at <= *size) {
        memcpy(p, &h, sizeof h);
        h.meta_hash = meta_hash(p, h.data_at);
    }
    memcpy(p, &h, sizeof h);
    return p;
}

/* The kind of a file that opened, by all of its records. */
static file_kind kind_of(const file *f) {
    const int64_t *version;
    if (record_i64(f, FORMAT_ADAPTER_KEY, &version) >= 0) return KIND_ADAPTER;
    return f->n_tensors ? KIND_MODEL : KIND_TOKENIZER;
}

static void use(const file *f) {
    err e = { 0 };
    arena mem = { 0 };
    arch a;
    static certificate c;
    (void)arch_read(&a, f, &mem, &e);
    if (certificate_read(&c, f, &e) > 0 && (c.n_layers < 0 || c.n_layers > CERTIFICATE_LAYERS || c.text.flips > c.text.rows)) abort();
    (void)file_verify(f, &e, NULL, NULL);
    for (uint32_t i = 0; i < f->n_tensors; i++)
        if (file_find(f, f->tensors[i].name) != &f->tensors[i]) abort();
    arena_free(&mem);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    size_t size = n;
    uint8_t *p = n >= sizeof(file_header) ? whole_file(data, n, &size) : NULL;
    int fd = memfd_create("model", MFD_CLOEXEC);
    char path[64];
    if (fd < 0 || write(fd, p ? p : data, size) != (ssize_t)size) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    file f;
    err e = { 0 };
    file_kind kind = file_kind_of(path); /* of what does not open, too: any answer, but an answer */
    if (file_open(&f, path, &e) == 0) {
        if (kind != kind_of(&f)) abort();
        use(&f);
        file_close(&f);
    } else if (!e.code || strchr(e.msg, '\n')) abort();
    close(fd);
    free(p);
    return 0;
}
