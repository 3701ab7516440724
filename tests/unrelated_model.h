/* unrelated_model: a model of the demo's shapes and tokenizer that has nothing to do with it: a draft that is always wrong. */
#ifndef QUERN_TEST_UNRELATED_MODEL_H
#define QUERN_TEST_UNRELATED_MODEL_H

#include <string.h>

#include "tests/models.h"

/* A checkpoint with the demo's shapes and tokenizer, and other weights: what it says has nothing to do with what the demo says. */
static inline const char *unrelated_model(void) {
    char folder[300], file[320];
    snprintf(folder, sizeof folder, "%s/unrelated", work_dir);
    snprintf(file, sizeof file, "%s/model.safetensors", folder);
    char command[800];
    snprintf(command, sizeof command, "mkdir -p '%s' && cp weights/pip-stories/*.json '%s/'", folder, folder);
    if (system(command)) fail_msg("%s", command);
    buf b = { 0 };
    err e = { 0 };
    must(read_file("weights/pip-stories/model.safetensors", 0, &b, &e), &e);
    uint64_t head, seed = 99;
    memcpy(&head, b.p, 8);
    for (size_t i = 8 + (size_t)head; i + 1 < b.n; i += 2) { /* bf16: a sign, 2^-5 and some mantissa */
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        uint16_t v = (uint16_t)((seed >> 63) << 15 | 0x3d00 | (seed >> 40 & 0x7f));
        memcpy(b.p + i, &v, 2);
    }
    FILE *f = fopen(file, "wb");
    assert_int_equal(fwrite(b.p, 1, b.n, f), b.n);
    assert_int_equal(fclose(f), 0);
    buf_free(&b);
    return converted(folder, "q4");
}

#endif
