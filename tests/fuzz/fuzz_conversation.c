/* The JSON of a saved conversation, from anyone: refused, or read and written again to the same. */
#include <stdlib.h>

#include "tools/run/conversation.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    conversation c = { 0 };
    size_t n_tokens;
    err e = { 0 };
    if (conversation_read(&c, (const char *)data, n, &n_tokens, &e) == 0) {
        buf out = { 0 };
        size_t last = c.now.marks.n / sizeof(mark);
        if (last && ((mark *)(void *)c.now.marks.p)[last - 1].bytes != c.now.text.n) abort();
        conversation_put(&c, &out);
        conversation_clear(&c);
        buf_free(&out);
    } else if (!e.code) abort();
    conversation_free(&c);
    return 0;
}
