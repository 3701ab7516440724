/* unicode: UTF-8 repair, normalization forms and lower case over the tables of unicode_tables.c.
 * It owns no memory but the caller's buffers, and knows nothing of tokens.
 * Its one idea: text that normalization cannot change is copied in runs; only the rest is taken apart and put together. */
#include "tokenizer/unicode.h"

#include <stdlib.h>
#include <string.h>

/* ---- UTF-8 ---- */

static size_t ascii_run(const char *s, size_t n) {
    size_t i = 0;
    for (uint64_t w; i + 8 <= n; i += 8) {
        memcpy(&w, s + i, 8);
        if (w & 0x8080808080808080ull) break;
    }
    while (i < n && !(s[i] & 0x80)) i++;
    return i;
}

bool utf8_valid(const char *s, size_t n) {
    for (size_t i = 0; (i += ascii_run(s + i, n - i)) < n;) {
        int len;
        if (utf8_decode(s + i, n - i, &len) < 0) return false;
        i += (size_t)len;
    }
    return true;
}

void buf_char(buf *out, uint32_t c) {
    char s[4];
    buf_add(out, s, (size_t)utf8_encode(s, c));
}

/* Copies, giving one sign for each ill-formed stretch: a byte, or (whole) the longest beginning of a character. */
static void repair(const char *s, size_t n, bool whole, const char sign[3], buf *out) {
    size_t from = 0;
    for (size_t i = 0; i < n;) {
        int len;
        if (!(s[i] & 0x80)) i += ascii_run(s + i, n - i);
        else if (utf8_decode(s + i, n - i, &len) >= 0) i += (size_t)len;
        else {
            buf_add(out, s + from, i - from);
            buf_add(out, sign, 3);
            size_t bad = 1;
            for (size_t k = 2; whole && k <= 3 && i + k <= n; k++)
                if (utf8_incomplete_tail(s + i, k) == k) bad = k;
            from = i += bad;
        }
    }
    buf_add(out, s + from, n - from);
}

void utf8_sanitise(const char *s, size_t n, buf *out) { repair(s, n, false, "\xef\xbf\xbd", out); }
void utf8_mark(const char *s, size_t n, buf *out) { repair(s, n, false, UTF8_ILL_FORMED, out); }
void utf8_lossy(const char *s, size_t n, buf *out) { repair(s, n, true, "\xef\xbf\xbd", out); }

void utf8_escape(const char *s, size_t n, buf *out) {
    for (size_t i = 0; i < n;) {
        int len = 1;
        if (!(s[i] & 0x80)) buf_add(out, s + i, (size_t)(len = (int)ascii_run(s + i, n - i)));
        else if (utf8_decode(s + i, n - i, &len) >= 0) buf_add(out, s + i, (size_t)len);
        else {
            uint8_t b = (uint8_t)s[i], three[] = { 0xed, (uint8_t)(0xb0 | b >> 6), (uint8_t)(0x80 | (b & 0x3f)) };
            buf_add(out, three, 3);
        }
        i += (size_t)len;
    }
}

void utf8_unescape(const char *s, size_t n, buf *out) {
    size_t from = 0;
    for (size_t i = 0; i + 3 <= n; i++) {
        if ((uint8_t)s[i] != 0xed || ((uint8_t)s[i + 1] & 0xfe) != 0xb2) continue;
        buf_add(out, s + from, i - from);
        buf_byte(out, ((uint8_t)s[i + 1] & 3) << 6 | ((uint8_t)s[i + 2] & 0x3f));
        i += 2;
        from = i + 1;
    }
    buf_add(out, s + from, n - from);
}

/* ---- tables ---- */

static const struct uni_map *map_find(const struct uni_map *m, int n, uint32_t c) {
    for (int low = 0, high = n - 1; low <= high;) {
        int mid = (low + high) / 2;
        if (m[mid].from == c) return m + mid;
        if (m[mid].from < c) low = mid + 1;
        else high = mid - 1;
    }
    return NULL;
}

static int class_of(uint32_t c) {
    for (int low = 0, high = uni_n_classes - 1; low <= high;) {
        int mid = (low + high) / 2;
        if (c < uni_classes[mid].first) high = mid - 1;
        else if (c > uni_classes[mid].last) low = mid + 1;
        else return uni_classes[mid].ccc;
    }
    return 0;
}

/* ---- Hangul syllables (The Unicode Standard, section 3.12) ---- */
enum {
    S_BASE = 0xac00,
    L_BASE = 0x1100,
    V_BASE = 0x1161,
    T_BASE = 0x11a7,
    L_COUNT = 19,
    V_COUNT = 21,
    T_COUNT = 28,
    S_COUNT = L_COUNT * V_COUNT * T_COUNT
};

static uint32_t compose_pair(uint32_t a, uint32_t b) {
    if (a - L_BASE < L_COUNT && b - V_BASE < V_COUNT) return S_BASE + ((a - L_BASE) * V_COUNT + (b - V_BASE)) * T_COUNT;
    if (a - S_BASE < S_COUNT && (a - S_BASE) % T_COUNT == 0 && b > T_BASE && b < T_BASE + T_COUNT) return a + (b - T_BASE);
    for (int low = 0, high = uni_n_pairs - 1; low <= high;) {
        int mid = (low + high) / 2;
        const struct uni_pair *p = uni_pairs + mid;
        if (p->a == a && p->b == b) return p->joined;
        if (p->a < a || (p->a == a && p->b < b)) low = mid + 1;
        else high = mid - 1;
    }
    return 0;
}

/* ---- normalization: one starter and what follows it at a time ---- */

struct mark {
    uint32_t c;
    int ccc;
};
struct cluster {
    struct mark *p; /* decomposed characters: a starter (or none, at the beginning), then non-starters */
    size_t n, cap;
    struct mark few[32];
    bool failed;
};

static void cluster_add(struct cluster *k, uint32_t c, int ccc) {
    if (k->n == k->cap) {
        struct mark *p = realloc(k->p == k->few ? NULL : k->p, k->cap * 2 * sizeof *p);
        if (!p) {
            k->failed = true;
            return;
        }
        if (k->p == k->few) memcpy(p, k->few, sizeof k->few);
        k->p = p;
        k->cap *= 2;
    }
    k->p[k->n++] = (struct mark){ c, ccc };
}

/* Canonical ordering: a stable sort of the non-starters by class. Counting keeps a hostile run of marks linear. */
static void cluster_sort(struct cluster *k, size_t from) {
    struct mark *p = k->p + from;
    size_t n = k->n - from, count[256] = { 0 };
    if (n <= 16) {
        for (size_t i = 1; i < n; i++)
            for (size_t j = i; j && p[j - 1].ccc > p[j].ccc; j--) {
                struct mark t = p[j];
                p[j] = p[j - 1];
                p[j - 1] = t;
            }
        return;
    }
    struct mark *copy = malloc(n * sizeof *copy);
    if (!copy) {
        k->failed = true;
        return;
    }
    memcpy(copy, p, n * sizeof *copy);
    for (size_t i = 0; i < n; i++) count[p[i].ccc]++;
    for (size_t i = 0, at = 0; i < 256; i++) {
        size_t c = count[i];
        count[i] = at;
        at += c;
    }
    for (size_t i = 0; i < n; i++) p[count[copy[i].ccc]++] = copy[i];
    free(copy);
}

/* Joins what can be joined to the starter p[0] (UAX 15: not over a mark of the same or a higher class). */
static void cluster_compose(struct cluster *k) {
    struct mark *p = k->p;
    size_t kept = 1;
    int last = 0; /* class of the last one kept behind the starter, 0: none */
    for (size_t i = 1; i < k->n; i++) {
        uint32_t joined = (kept == 1 || last < p[i].ccc) ? compose_pair(p[0].c, p[i].c) : 0;
        if (joined) p[0].c = joined;
        else {
            last = p[i].ccc;
            p[kept++] = p[i];
        }
    }
    k->n = kept;
}

static void cluster_settle(struct cluster *k, int form) {
    if (!k->n) return;
    size_t from = k->p[0].ccc ? 0 : 1;
    cluster_sort(k, from);
    if ((form & UNI_COMPOSE) && from) cluster_compose(k);
}

static void cluster_emit(struct cluster *k, buf *out) {
    for (size_t i = 0; i < k->n; i++) buf_char(out, k->p[i].c);
    k->n = 0;
}

/* A decomposed character. A starter begins the next cluster, unless it joins the starter before it. */
static void put(struct cluster *k, uint32_t c, int form, buf *out) {
    int ccc = uni_of(c) & UNI_NORM ? class_of(c) : 0;
    if (!ccc && k->n) {
        cluster_settle(k, form);
        uint32_t joined = (form & UNI_COMPOSE) && k->n == 1 && !k->p[0].ccc ? compose_pair(k->p[0].c, c) : 0;
        if (joined) {
            k->p[0].c = joined;
            return;
        }
        cluster_emit(k, out);
    }
    cluster_add(k, c, ccc);
}

static void decompose(struct cluster *k, uint32_t c, int form, buf *out) {
    if (c - S_BASE < S_COUNT) {
        uint32_t s = c - S_BASE, t = s % T_COUNT;
        put(k, L_BASE + s / (V_COUNT * T_COUNT), form, out);
        put(k, V_BASE + s % (V_COUNT * T_COUNT) / T_COUNT, form, out);
        if (t) put(k, T_BASE + t, form, out);
        return;
    }
    const struct uni_map *m = form & UNI_COMPAT ? map_find(uni_nfkd, uni_nfkd_n, c) : NULL;
    if (!m && (uni_of(c) & UNI_NORM)) m = map_find(uni_nfd, uni_nfd_n, c);
    if (!m) put(k, c, form, out);
    else
        for (int i = 0; i < m->n; i++) put(k, uni_pool[m->at + i], form, out);
}

/* The bytes from s on that no form of this kind changes and that touch nothing behind them: below U+00A0 nothing decomposes,
 * below U+0300 nothing changes under NFC. The last character is left out: a mark may follow it. */
static size_t quiet_run(const char *s, size_t n, int form) {
    size_t i = 0, last = 0;
    while (i < n) {
        if (form != UNI_COMPOSE && (s[i] & 0x80)) break;
        int len;
        uint32_t c = utf8_next(s + i, &len);
        if (c >= 0x300 && ((uni_of(c) & UNI_NORM) || c - S_BASE < S_COUNT)) break;
        last = i;
        i += (size_t)len;
    }
    return i == n ? n : last;
}

void uni_normalize(const char *s, size_t n, int form, buf *out) {
    struct cluster k = { .cap = sizeof k.few / sizeof *k.few };
    k.p = k.few;
    for (size_t i = 0; i < n && !k.failed;) {
        size_t quiet = k.n ? 0 : quiet_run(s + i, n - i, form);
        if (quiet) {
            buf_add(out, s + i, quiet);
            i += quiet;
            continue;
        }
        /* a cluster: until a quiet character begins the next one */
        do {
            int len;
            decompose(&k, utf8_next(s + i, &len), form, out);
            i += (size_t)len;
        } while (i < n && (s[i] & 0x80) && !k.failed);
        cluster_settle(&k, form); /* an ASCII character joins nothing before it */
        cluster_emit(&k, out);
    }
    out->failed |= k.failed;
    if (k.p != k.few) free(k.p);
}

const uint32_t *uni_lower_of(uint32_t c, int *n) {
    const struct uni_map *m = map_find(uni_lower, uni_lower_n, c);
    if (m) *n = m->n;
    return m ? uni_pool + m->at : NULL;
}

const uint32_t *uni_upper_of(uint32_t c, bool title, int *n) {
    const struct uni_map *m = title ? map_find(uni_title, uni_title_n, c) : NULL;
    if (!m) m = map_find(uni_upper, uni_upper_n, c);
    if (m) *n = m->n;
    return m ? uni_case_pool + m->at : NULL;
}

void uni_lowercase(const char *s, size_t n, buf *out) {
    for (size_t i = 0; i < n;) {
        int len, k;
        uint32_t c = utf8_next(s + i, &len);
        i += (size_t)len;
        if (c < 0x80) buf_byte(out, c >= 'A' && c <= 'Z' ? (int)c + 32 : (int)c);
        else {
            const uint32_t *to = uni_lower_of(c, &k);
            for (int j = 0; to && j < k; j++) buf_char(out, to[j]);
            if (!to) buf_char(out, c);
        }
    }
}
