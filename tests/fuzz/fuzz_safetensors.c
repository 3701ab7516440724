/* fuzz: a checkpoint's weights from anyone. The input is model.safetensors of a folder; every tensor that the header lists is
 * read where it is of a type that can be. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "weights/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static char folder[64], file_path[96];

static void remove_folder(void) {
    unlink(file_path);
    rmdir(folder);
}

static void make_folder(void) {
    if (*folder) return;
    strcpy(folder, "/tmp/quern-fuzz-XXXXXX");
    if (!mkdtemp(folder)) abort();
    snprintf(file_path, sizeof file_path, "%s/model.safetensors", folder);
    atexit(remove_folder);
}

static void read_all(const safetensors *s) {
    float x[256];
    for (size_t i = 0; i < s->n; i++) {
        const st_tensor *t = &s->tensors[i];
        if (safetensors_find(s, t->name) != t) abort();
        for (uint64_t at = 0; t->type != ST_OTHER && at < t->n; at += 256) st_read(s, t, at, t->n - at < 256 ? t->n - at : 256, x);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    make_folder();
    FILE *f = fopen(file_path, "wb");
    if (!f || fwrite(data, 1, n, f) != n) abort();
    fclose(f);
    safetensors s;
    err e = { 0 };
    if (safetensors_open(&s, folder, &e) == 0) {
        read_all(&s);
        safetensors_close(&s);
    } else if (!e.code || strchr(e.msg, '\n')) abort();
    return 0;
}
