/* template_text: strings of a rendering, and where each of their bytes came from. A string keeps the ranges of bytes that came out
 * of the caller's data; whatever makes new strings of old ones does it through a sink, which carries the ranges along. It must not
 * know filters or nodes. Characters are Python's (code points), spaces and cases too. */
#include <stdarg.h>

#include "tokenizer/template_parts.h"
#include "tokenizer/unicode.h"

/* ---- sinks ---- */

static void sink_room(struct run *r, struct sink *k, size_t n) {
    if (n < k->cap - k->n) return;
    size_t cap = k->cap ? k->cap : 64;
    while (cap - k->n <= n) cap *= 2; /* n is bounded by the arena's limit */
    char *p = take(r, cap);
    if (k->n) memcpy(p, k->p, k->n);
    k->p = p;
    k->cap = cap;
}

void mark(struct run *r, struct marks *m, size_t begin, size_t end) {
    if (begin == end) return;
    if (m->n && m->p[m->n - 1].end == begin) {
        m->p[m->n - 1].end = end;
        return;
    }
    if (m->n == m->cap) {
        size_t cap = m->cap ? m->cap * 2 : 4;
        text_range *p = take(r, cap * sizeof *p);
        if (m->n) memcpy(p, m->p, m->n * sizeof *p);
        m->p = p;
        m->cap = cap;
    }
    m->p[m->n++] = (text_range){ begin, end };
}

void sink_add(struct run *r, struct sink *k, const char *p, size_t n, bool user) {
    if (n > SIZE_MAX / 4) run_limit(r, "a text of %zu bytes", n);
    tick(r, n / 64);
    sink_room(r, k, n);
    if (n) memcpy(k->p + k->n, p, n);
    if (user) mark(r, &k->user, k->n, k->n + n);
    k->n += n;
}

void sink_str(struct run *r, struct sink *k, const char *s) { sink_add(r, k, s, strlen(s), false); }

void sink_fmt(struct run *r, struct sink *k, const char *fmt, ...) {
    char s[512]; /* for numbers and names; longer ones are cut */
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(s, sizeof s, fmt, args);
    va_end(args);
    sink_add(r, k, s, n < (int)sizeof s ? (size_t)n : sizeof s - 1, false);
}

void sink_char(struct run *r, struct sink *k, uint32_t c, bool user) {
    char s[4];
    sink_add(r, k, s, (size_t)utf8_encode(s, c), user);
}

void sink_part(struct run *r, struct sink *k, const struct text *s, size_t from, size_t to) {
    size_t at = k->n;
    if (from >= to) return;
    sink_add(r, k, s->p + from, to - from, false);
    for (size_t i = 0; i < s->n_user; i++) {
        size_t begin = s->user[i].begin > from ? s->user[i].begin : from, end = s->user[i].end < to ? s->user[i].end : to;
        if (begin < end) mark(r, &k->user, at + begin - from, at + end - from);
    }
    tick(r, s->n_user / 8);
}

void sink_text(struct run *r, struct sink *k, const struct text *s) { sink_part(r, k, s, 0, s->n); }

value sink_value(struct run *r, const struct sink *k) {
    struct text *s = take(r, sizeof *s);
    *s = (struct text){ .p = k->n ? k->p : "", .n = k->n, .chars = SIZE_MAX, .user = k->user.p, .n_user = k->user.n };
    return (value){ V_STRING, { .s = s } };
}

value string_of(struct run *r, const char *p) {
    struct text *s = take(r, sizeof *s);
    *s = (struct text){ .p = p, .n = strlen(p), .chars = SIZE_MAX };
    return (value){ V_STRING, { .s = s } };
}

value string_part(struct run *r, const struct text *s, size_t from, size_t to) {
    struct text *part = take(r, sizeof *part);
    if (to < from) to = from;
    *part = (struct text){ .p = s->p + from, .n = to - from, .chars = SIZE_MAX };
    size_t first = 0, last = s->n_user;
    while (first < last && s->user[first].end <= from) first++;
    while (last > first && s->user[last - 1].begin >= to) last--;
    part->n_user = last - first;
    if (!part->n_user) return (value){ V_STRING, { .s = part } };
    text_range *user = take(r, part->n_user * sizeof *user);
    for (size_t i = 0; i < part->n_user; i++) {
        text_range u = s->user[first + i];
        user[i] = (text_range){ (u.begin > from ? u.begin : from) - from, (u.end < to ? u.end : to) - from };
    }
    part->user = user;
    return (value){ V_STRING, { .s = part } };
}

/* ---- characters ---- */

size_t text_chars(struct text *s) {
    if (s->chars != SIZE_MAX) return s->chars;
    size_t chars = 0;
    for (size_t i = 0; i < s->n; i++) chars += ((uint8_t)s->p[i] & 0xc0) != 0x80;
    return s->chars = chars;
}

size_t text_byte(struct text *s, size_t character) {
    if (character >= text_chars(s)) return s->n;
    if (s->chars == s->n) return character;
    size_t at = 0;
    for (size_t i = 0; i < character; i++) at += (size_t)utf8_len(s->p[at]);
    return at;
}

bool text_user_at(const struct text *s, size_t byte) {
    size_t low = 0, high = s->n_user;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (s->user[mid].end <= byte) low = mid + 1;
        else high = mid;
    }
    return low < s->n_user && s->user[low].begin <= byte;
}

size_t text_find(const struct text *s, const struct text *what, size_t from) {
    if (from > s->n || what->n > s->n - from) return SIZE_MAX;
    if (!what->n) return from;
    for (const char *p = s->p + from, *end = s->p + s->n - what->n + 1; p < end; p++) {
        p = memchr(p, what->p[0], (size_t)(end - p));
        if (!p) return SIZE_MAX;
        if (memcmp(p, what->p, what->n) == 0) return (size_t)(p - s->p);
    }
    return SIZE_MAX;
}

bool text_is(const struct text *s, const char *literal) { return s->n == strlen(literal) && memcmp(s->p, literal, s->n) == 0; }

bool python_space(uint32_t c) { return uni_is_space(c) || (c >= 0x1c && c <= 0x1f); }

static bool to_strip(uint32_t c, const struct text *chars) {
    char s[4];
    if (!chars) return python_space(c);
    struct text one = { .p = s, .n = (size_t)utf8_encode(s, c) };
    return text_find(chars, &one, 0) != SIZE_MAX;
}

void text_strip(const struct text *s, const struct text *chars, bool left, bool right, size_t *from, size_t *to) {
    int len;
    *from = 0;
    *to = s->n;
    while (left && *from < *to && to_strip(utf8_next(s->p + *from, &len), chars)) *from += (size_t)len;
    while (right && *to > *from) {
        size_t at = *to - 1;
        while (at > *from && ((uint8_t)s->p[at] & 0xc0) == 0x80) at--;
        if (!to_strip(utf8_next(s->p + at, &len), chars)) return;
        *to = at;
    }
}

/* ---- escaping, as MarkupSafe does ---- */

value escaped(struct run *r, value v) {
    struct sink k = { 0 };
    if (v.type == V_STRING && v.s->markup) return v;
    const struct text *s = to_string(r, v, false).s;
    size_t from = 0;
    for (size_t i = 0; i < s->n; i++) {
        char c = s->p[i];
        const char *to = c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '\'' ? "&#39;" : c == '"' ? "&#34;" : NULL;
        if (!to) continue;
        sink_part(r, &k, s, from, i);
        sink_add(r, &k, to, strlen(to), text_user_at(s, i));
        from = i + 1;
    }
    sink_part(r, &k, s, from, s->n);
    v = sink_value(r, &k);
    v.s->markup = true;
    return v;
}

/* ---- case ---- */

/* Final sigma (Unicode 3.13, D136): behind a letter and before none; marks and the like count for neither. */
static bool ignorable(uint32_t c) {
    return uni_in(c, 1u << UNI_MN | 1u << UNI_ME | 1u << UNI_CF | 1u << UNI_LM | 1u << UNI_SK) ||
           (c < 0x80 && c && strchr("'.:^`", (int)c)) || c == 0xb7 || c == 0x2019;
}
static bool cased(uint32_t c) { return uni_in(c, 1u << UNI_LU | 1u << UNI_LL | 1u << UNI_LT); }

static bool final_sigma(const struct text *s, size_t at, size_t first, size_t to) {
    int len;
    size_t i = at;
    uint32_t c = 0;
    do {
        if (i == first) return false;
        for (i--; ((uint8_t)s->p[i] & 0xc0) == 0x80;) i--;
        c = utf8_next(s->p + i, &len);
    } while (ignorable(c));
    if (!cased(c)) return false;
    for (i = at + 2; i < to; i += (size_t)len) {
        c = utf8_next(s->p + i, &len);
        if (!ignorable(c)) return !cased(c);
    }
    return true;
}

void sink_case(struct run *r, struct sink *k, const struct text *s, size_t from, size_t to, enum text_case how) {
    int len, n;
    for (size_t i = from; i < to; i += (size_t)len) {
        uint32_t c = utf8_next(s->p + i, &len);
        bool user = text_user_at(s, i);
        enum text_case one = how == CASE_TITLE_FIRST && i > from ? CASE_LOWER : how;
        if (c < 0x80) {
            if (one == CASE_LOWER) c += c - 'A' < 26u ? 32 : 0;
            else c -= c - 'a' < 26u ? 32 : 0;
            sink_add(r, k, &(char){ (char)c }, 1, user);
        } else if (one == CASE_LOWER && c == 0x3a3) sink_char(r, k, final_sigma(s, i, 0, s->n) ? 0x3c2 : 0x3c3, user);
        else {
            const uint32_t *to_chars = one == CASE_LOWER ? uni_lower_of(c, &n) : uni_upper_of(c, one == CASE_TITLE_FIRST, &n);
            for (int m = 0; to_chars && m < n; m++) sink_char(r, k, to_chars[m], user);
            if (!to_chars) sink_char(r, k, c, user);
        }
    }
    tick(r, (to - from) / 8);
}

/* At least one character with case, and none of the other. */
bool text_is_case(const struct text *s, bool upper) {
    bool some = false;
    int len;
    for (size_t i = 0; i < s->n; i += (size_t)len) {
        uint32_t c = utf8_next(s->p + i, &len);
        if (!cased(c)) continue;
        if (uni_in(c, 1u << (upper ? UNI_LL : UNI_LU) | 1u << UNI_LT)) return false;
        some = true;
    }
    return some;
}
