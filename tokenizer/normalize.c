/* normalize: the rules that change a text before it is cut into words. Owns no state: text goes back and forth between two
 * buffers of the caller, rule by rule. It must not know tokens. */
#include "tokenizer/encode.h"

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
    if (*len == 3 && memcmp(s.p, UTF8_ILL_FORMED, 3) == 0) return (struct slice){ "\xef\xbf\xbd", 3 };
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

/* The first key of the map that the text begins with. */
static struct slice charsmap_first(struct slice map, struct slice s) {
    for (size_t n = 1, len = 0; n <= s.n; n++) {
        struct slice to = charsmap_find(map, (struct slice){ s.p, n }, &len);
        if (to.n != SIZE_MAX) return to;
    }
    return (struct slice){ NULL, SIZE_MAX };
}

struct span {
    uint32_t first, last;
};

static bool in_spans(const struct span *p, size_t n, uint32_t c) {
    for (size_t i = 0; i < n; i++)
        if (c >= p[i].first && c <= p[i].last) return true;
    return false;
}

/* UAX 29, Extend and SpacingMark: marks but for some, and what is no mark, or none yet in the tables here (Unicode 17). */
static bool extends(uint32_t c) {
    static const struct span lone[] = { { 0x102b, 0x102c },  { 0x1038, 0x1038 }, { 0x1062, 0x1064 }, { 0x1067, 0x106d },
                                        { 0x1083, 0x1083 },  { 0x1087, 0x108c }, { 0x108f, 0x108f }, { 0x109a, 0x109c },
                                        { 0x1a61, 0x1a61 },  { 0x1a63, 0x1a64 }, { 0xaa7b, 0xaa7b }, { 0xaa7d, 0xaa7d },
                                        { 0x11720, 0x11721 } };
    static const struct span more[] = { { 0xe33, 0xe33 },     { 0xeb3, 0xeb3 },     { 0x1acf, 0x1add },   { 0x1ae0, 0x1aeb },
                                        { 0x200c, 0x200d },   { 0xff9e, 0xff9f },   { 0x10efa, 0x10efb }, { 0x11b60, 0x11b67 },
                                        { 0x1e6e3, 0x1e6e3 }, { 0x1e6e6, 0x1e6e6 }, { 0x1e6ee, 0x1e6ef }, { 0x1e6f5, 0x1e6f5 },
                                        { 0x1f3fb, 0x1f3ff }, { 0xe0020, 0xe007f } };
    if (c < 0x300) return false;
    return uni_is_mark(c) ? !in_spans(lone, sizeof lone / sizeof *lone, c) : in_spans(more, sizeof more / sizeof *more, c);
}

/* Does this character belong to the one before it, as graphemes go (UAX 29)? Enough of the rule for clusters under 6 bytes. */
static bool joins(uint32_t prior, uint32_t c) {
    static const struct span prepend[] = { { 0x600, 0x605 },     { 0x6dd, 0x6dd },     { 0x70f, 0x70f },     { 0x890, 0x891 },
                                           { 0x8e2, 0x8e2 },     { 0xd4e, 0xd4e },     { 0x110bd, 0x110bd }, { 0x110cd, 0x110cd },
                                           { 0x111c2, 0x111c3 }, { 0x113d1, 0x113d1 }, { 0x1193f, 0x1193f }, { 0x11941, 0x11941 },
                                           { 0x11a84, 0x11a89 }, { 0x11d46, 0x11d46 }, { 0x11f02, 0x11f02 } };
    static const uint32_t controls = 1u << UNI_CC | 1u << UNI_ZL | 1u << UNI_ZP | 1u << UNI_CF;
    if (prior == '\r') return c == '\n';
    if (prior >= 0x600 && in_spans(prepend, sizeof prepend / sizeof *prepend, prior)) return !uni_in(c, controls) || extends(c);
    return extends(c) && (!uni_in(prior, controls) || extends(prior));
}

/* HuggingFace's Precompiled: a short grapheme becomes what its first key says; of a longer one each character by itself. */
static void charsmap_graphemes(struct slice map, struct slice s, buf *out) {
    for (size_t i = 0, end; i < s.n; i = end) {
        int len, more;
        uint32_t prior = utf8_next(s.p + i, &len);
        for (end = i + (size_t)len; end < s.n && joins(prior, utf8_next(s.p + end, &more)); end += (size_t)more)
            prior = utf8_next(s.p + end, &more);
        struct slice whole = { s.p + i, end - i }, to = whole.n < 6 ? charsmap_first(map, whole) : (struct slice){ NULL, SIZE_MAX };
        if (to.n != SIZE_MAX) {
            buf_add(out, to.p, to.n);
            continue;
        }
        for (size_t k = i; k < end; k += (size_t)len) {
            struct slice one = { s.p + k, (size_t)(len = utf8_len(s.p[k])) };
            to = charsmap_first(map, one);
            if (to.n == SIZE_MAX) to = one;
            buf_add(out, to.p, to.n);
        }
    }
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
    case RULE_CHARSMAP:
        charsmap_graphemes(section(t, SEC_CHARSMAP), s, out);
        break;
    case RULE_BYTES:
        for (size_t i = 0; i < s.n; i++) buf_char(out, byte_to_char((uint8_t)s.p[i]));
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
