/* normalize: the rules that change a text before it is cut into words. Owns no state: text goes back and forth between two
 * buffers of the caller, rule by rule. It must not know tokens. */
#include "tokenizer/parts.h"

int replace_all(const struct rule *r, struct slice s, buf *out, struct regex_work *w, err *e) {
    size_t at = 0, start, end;
    int found;
    w->steps += 65536 + 512 * (uint64_t)s.n;
    while ((found = regex_find(r->re, s.p, s.n, at, &start, &end, w)) == 1) {
        buf_add(out, s.p + at, start - at);
        buf_add(out, r->b.p, r->b.n);
        at = end;
    }
    buf_add(out, s.p + at, s.n - at);
    if (found < 0 && !w->failed) return fail_code(e, ERR_INPUT, "the tokenizer's replacement pattern takes too long on this text");
    return w->failed ? fail_memory(e, s.n, "normalizing a text") : 0;
}

static struct slice strip(struct slice s, int sides) {
    int len;
    while ((sides & 1) && s.n && uni_is_space(utf8_next(s.p, &len))) s.p += len, s.n -= (size_t)len;
    while ((sides & 2) && s.n) {
        size_t k = s.n - 1;
        while (((uint8_t)s.p[k] & 0xc0) == 0x80) k--;
        if (!uni_is_space(utf8_next(s.p + k, &len))) break;
        s.n = k;
    }
    return s;
}

static bool is_cjk(uint32_t c) {
    return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) || (c >= 0x20000 && c <= 0x2a6df) ||
           (c >= 0x2a700 && c <= 0x2b73f) || (c >= 0x2b740 && c <= 0x2b81f) || (c >= 0x2b920 && c <= 0x2ceaf) ||
           (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
}

/* Chinese characters become words of their own. */
static void part_chinese(struct slice s, buf *out) {
    for (size_t i = 0; i < s.n;) {
        int len;
        bool alone = is_cjk(utf8_next(s.p + i, &len));
        if (alone) buf_byte(out, ' ');
        buf_add(out, s.p + i, (size_t)len);
        if (alone) buf_byte(out, ' ');
        i += (size_t)len;
    }
}

/* ---- SentencePiece (its normalizer.cc) ---- */

/* The longest key of the precompiled map at s: its replacement and *len, or n = SIZE_MAX. The map is u32 bytes of a trie (a double
 * array as in darts-clone), the trie, and NUL-ended replacements; any bytes may stand there, so each step is checked. */
static struct slice charsmap_find(struct slice map, struct slice s, size_t *len) {
    struct slice none = { NULL, SIZE_MAX };
    uint32_t bytes, unit;
    if (map.n < 8) return none;
    memcpy(&bytes, map.p, 4);
    if (bytes > map.n - 4) return none;
    size_t units = bytes / 4, at = 0, value = SIZE_MAX;
    const char *trie = map.p + 4;
    for (size_t i = 0; i <= s.n && at < units; i++) {
        memcpy(&unit, trie + 4 * at, 4);
        if (i && (unit & 0x800000ffu) != (uint8_t)s.p[i - 1]) break;
        at ^= (size_t)(unit >> 10) << ((unit & 0x200u) >> 6);
        if (i && (unit >> 8 & 1) && at < units) {
            memcpy(&unit, trie + 4 * at, 4);
            value = unit & 0x7fffffffu;
            *len = i;
        }
        if (i < s.n) at ^= (uint8_t)s.p[i];
    }
    if (value >= map.n - 4 - bytes || (*len < s.n && ((uint8_t)s.p[*len] & 0xc0) == 0x80)) return none;
    const char *text = trie + bytes + value;
    const char *end = memchr(text, 0, (size_t)(map.p + map.n - text));
    if (!end) return none;
    struct slice to = { text, (size_t)(end - text) };
    return utf8_valid(to.p, to.n) ? to : none;
}

/* The next piece of the text, normalized; *len bytes of it are used up. */
static struct slice prefix_of(const tokenizer *t, struct slice s, size_t *len) {
    if (t->user.n && matcher_at(&t->user, s.p, s.n, len) >= 0) return (struct slice){ s.p, *len };
    struct slice to =
        t->h.section[SEC_CHARSMAP].bytes ? charsmap_find(section(t, SEC_CHARSMAP), s, len) : (struct slice){ NULL, SIZE_MAX };
    if (to.n != SIZE_MAX) return to;
    *len = (size_t)utf8_len(s.p[0]);
    return (struct slice){ s.p, *len };
}

static void sentencepiece(const tokenizer *t, int how, struct slice s, buf *out) {
    const char *space = how & SP_ESCAPE ? "\xe2\x96\x81" : " ";
    size_t len, space_n = strlen(space), begin = out->n;
    for (struct slice to; (how & SP_COLLAPSE) && s.n && (to = prefix_of(t, s, &len)).n == 1 && to.p[0] == ' '; s.p += len)
        s.n -= len;
    if (!s.n) return;
    if ((how & SP_PREFIX) && !(how & SP_SUFFIX)) buf_str(out, space);
    bool was_space = how & SP_COLLAPSE;
    for (; s.n; s.p += len, s.n -= len) {
        struct slice to = prefix_of(t, s, &len);
        while (was_space && to.n && *to.p == ' ') to.p++, to.n--;
        for (size_t i = 0; i < to.n; i++) {
            if (to.p[i] == ' ') buf_add(out, space, space_n);
            else buf_byte(out, (uint8_t)to.p[i]);
        }
        if (to.n) was_space = (how & SP_COLLAPSE) && to.p[to.n - 1] == ' ';
    }
    while ((how & SP_COLLAPSE) && !out->failed && out->n >= begin + space_n &&
           memcmp(out->p + out->n - space_n, space, space_n) == 0)
        out->n -= space_n;
    if ((how & SP_PREFIX) && (how & SP_SUFFIX)) buf_str(out, space);
}

static int apply(const tokenizer *t, const struct rule *r, struct slice s, buf *out, struct regex_work *w, err *e) {
    switch (r->op) {
    case RULE_NORMALIZE:
        uni_normalize(s.p, s.n, r->x, out);
        break;
    case RULE_LOWERCASE:
        uni_lowercase(s.p, s.n, out);
        break;
    case RULE_REPLACE:
        return replace_all(r, s, out, w, e);
    case RULE_PREPEND:
        if (s.n) buf_add(out, r->a.p, r->a.n);
        buf_add(out, s.p, s.n);
        break;
    case RULE_SENTENCEPIECE:
        sentencepiece(t, r->x, s, out);
        break;
    default:
        part_chinese(s, out);
    }
    return 0;
}

int normalize(const tokenizer *t, struct slice *s, buf work[2], struct regex_work *w, err *e) {
    for (size_t i = 0, k = 0; i < t->normalizers.n; i++) {
        const struct rule *r = t->normalizers.p + i;
        if (r->op == RULE_STRIP) {
            *s = strip(*s, r->x);
            continue;
        }
        buf *out = work + k;
        k = !k;
        out->n = 0;
        if (apply(t, r, *s, out, w, e)) return -1;
        if (out->failed) return fail_memory(e, s->n, "normalizing a text");
        *s = (struct slice){ out->p ? out->p : "", out->n };
    }
    return 0;
}
