/* kind: is a file a model, an adapter, a tokenizer alone (kind.h)? Owns nothing: it reads a file's header and walks the keys of its records, as
 * weights/FORMAT.md has them, over a stream. It must not know what the records mean, nor believe any length. */
#define _GNU_SOURCE
#include "runtime/kind.h"

#include <string.h>

#include "runtime/files.h"
#include "weights/format.h"

enum { MOST_RECORDS = 4096 };

/* Is there an adapter's record among the n bytes of records, from where f stands? */
static bool has_adapter_key(FILE *f, uint64_t n) {
    static const char key[] = FORMAT_ADAPTER_KEY;
    for (int i = 0; i < MOST_RECORDS && n >= 8; i++) {
        struct {
            uint16_t key_n;
            uint8_t type, zero;
            uint32_t count;
        } head;
        char name[sizeof key] = "";
        if (fread(&head, sizeof head, 1, f) != 1) return false;
        uint64_t key_bytes = round_up(head.key_n, 8), values = round_up((uint64_t)head.count * (head.type == REC_BYTES ? 1 : 8), 8);
        if (key_bytes + values > n - 8) return false;
        size_t part = head.key_n < sizeof name ? head.key_n : sizeof name;
        if (fread(name, 1, part, f) != part) return false;
        if (head.key_n == sizeof key - 1 && memcmp(name, key, sizeof key - 1) == 0) return head.type == REC_I64;
        if (fseeko(f, (off_t)(key_bytes - part + values), SEEK_CUR)) return false;
        n -= 8 + key_bytes + values;
    }
    return false;
}

static file_kind kind_of(FILE *f) {
    file_header h;
    if (fread(&h, sizeof h, 1, f) != 1 || memcmp(h.magic, QUERN_MAGIC, sizeof h.magic)) return KIND_OTHER;
    if (h.records_at > h.file_bytes || h.records_bytes > h.file_bytes - h.records_at || h.file_bytes > INT64_MAX) return KIND_OTHER;
    if (fseeko(f, (off_t)h.records_at, SEEK_SET)) return KIND_OTHER;
    if (has_adapter_key(f, h.records_bytes)) return KIND_ADAPTER;
    return h.n_tensors ? KIND_MODEL : KIND_TOKENIZER;
}

file_kind file_kind_of(const char *path) {
    FILE *f = open_regular(path);
    file_kind kind = f ? kind_of(f) : KIND_OTHER;
    if (f) fclose(f);
    return kind;
}
