/* Fuzzer: GGUF files, through everything that convert does with one before it writes: the reader, the metadata as a configuration,
 * names, the plan, every value of every tensor, the tokenizer. Seeds lie in seeds/fuzz_gguf. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/convert/plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

void warn(checkpoint *c, const char *fmt, ...) { /* main.c's, which is not linked here */
    (void)c;
    (void)fmt;
}

static void read_all(const safetensors *s) {
    float x[300];
    for (size_t i = 0; i < s->n; i++) {
        const st_tensor *t = &s->tensors[i];
        for (uint64_t at = 0; at < t->n && at < 1 << 20 && t->type != ST_OTHER; at += 300)
            st_read(s, t, at, t->n - at < 300 ? t->n - at : 300, x);
        st_drop(s, t, 0, t->n);
    }
}

static void use(checkpoint *c, const char *path, bool vocab_only) {
    plan p;
    tokenizer *t = NULL;
    ids v = { 0 };
    err e = { 0 };
    if (!gguf_load(c, path, vocab_only, &e)) {
        if (!vocab_only && !config_load(c, &e) && !plan_make(&p, c, W_F32, &e)) plan_free(&p);
        read_all(&c->st);
        err other = { 0 };
        if (!gguf_tokenizer(c, &t, &other) && t)
            tokenizer_encode(t, "Hello <s> 12\xff", 13, TOK_SPECIAL | TOK_PARSE_SPECIAL, &v, &other);
    }
    if (strchr(e.msg, '\n')) abort(); /* one line */
    if (t) tokenizer_free(t);
    ids_free(&v);
    safetensors_close(&c->st);
    buf_free(&c->warnings);
    arena_free(&c->mem);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char path[] = "/tmp/quern-fuzz-XXXXXX";
    static int fd = -1;
    if (fd < 0 && (fd = mkstemp(path)) < 0) abort();
    if (ftruncate(fd, 0) || pwrite(fd, data, size, 0) != (ssize_t)size) abort();
    for (int vocab_only = 0; vocab_only < 2; vocab_only++) use(&(checkpoint){ .folder = path }, path, vocab_only);
    return 0;
}
