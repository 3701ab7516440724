/* matcher: the longest of many texts that begins at a place. A sorted list, narrowed byte by byte; nothing to build but the order.
 * Also the byte-level alphabet, which several parts share. It knows nothing of what the texts mean. */
#include "tokenizer/parts.h"

#include <stdlib.h>

static int compare(const void *a, const void *b) {
    const struct slice *x = a, *y = b; /* the text is an entry's first member */
    int c = memcmp(x->p, y->p, x->n < y->n ? x->n : y->n);
    return c ? c : (x->n > y->n) - (x->n < y->n);
}

int matcher_build(struct matcher *m, arena *a, const struct slice *texts, const uint32_t *which, size_t n, err *e) {
    memset(m, 0, sizeof *m);
    m->p = arena_alloc(a, n * sizeof *m->p);
    if (!m->p) return fail_memory(e, n * sizeof *m->p, "the list of added tokens");
    for (size_t i = 0; i < n; i++)
        if (texts[i].n) {
            m->p[m->n].text = texts[i];
            m->p[m->n++].which = which[i];
        }
    if (m->n) qsort(m->p, m->n, sizeof *m->p, compare);
    for (size_t i = 0, b = 0; b <= 256; b++) {
        while (i < m->n && (uint8_t)m->p[i].text.p[0] < b) i++;
        m->from[b] = (uint32_t)i;
    }
    return 0;
}

/* The first of [low, high) whose byte at `depth` is at least `byte`. */
static size_t bound(const struct matcher *m, size_t low, size_t high, size_t depth, unsigned byte) {
    while (low < high) {
        size_t mid = (low + high) / 2;
        if ((uint8_t)m->p[mid].text.p[depth] < byte) low = mid + 1;
        else high = mid;
    }
    return low;
}

int64_t matcher_at(const struct matcher *m, const char *s, size_t n, size_t *len) {
    size_t low = m->from[(uint8_t)s[0]], high = m->from[(uint8_t)s[0] + 1];
    int64_t best = -1;
    for (size_t depth = 1; low < high; depth++) {
        for (; low < high && m->p[low].text.n == depth; low++) {
            if (*len != depth || best < 0) best = m->p[low].which; /* of equal texts the first */
            *len = depth;
        }
        if (depth == n) break;
        unsigned byte = (uint8_t)s[depth];
        low = bound(m, low, high, depth, byte);
        high = bound(m, low, high, depth, byte + 1);
    }
    return best;
}

/* GPT-2's alphabet: printable bytes stand for themselves, the others for U+0100 and up, in order. */
static bool printable(unsigned b) { return (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae; }

uint32_t byte_to_char(uint8_t b) {
    if (printable(b)) return b;
    return b <= 0x20 ? 0x100u + b : b <= 0xa0 ? 0x121u + (b - 0x7fu) : 0x143u;
}

int char_to_byte(uint32_t c) {
    if (c < 0x100) return printable(c) ? (int)c : -1;
    if (c <= 0x120) return (int)(c - 0x100);
    if (c <= 0x142) return (int)(c - 0x121 + 0x7f);
    return c == 0x143 ? 0xad : -1;
}

bool bytes_of_text(struct slice text, buf *out) {
    size_t had = out->n;
    for (size_t i = 0; i < text.n;) {
        int len, b = char_to_byte(utf8_next(text.p + i, &len));
        if (b < 0) return out->n = had, false;
        buf_byte(out, b);
        i += (size_t)len;
    }
    return true;
}
