/* template_methods: the methods of strings, lists and dicts that a template may call, as Python's. The filters of the same names
 * share them. A method that changes its object exists for Python and is forbidden by the sandbox: unsafe_method knows those. */
#include "tokenizer/template_parts.h"
#include "tokenizer/unicode.h"

static bool given(value v) { return v.type != V_ABSENT; }
static bool given_some(value v) { return v.type != V_ABSENT && v.type != V_NONE; }

/* A string that came out of self: Markup if self is. */
static value like(value v, value self) {
    v.s->markup = self.s->markup;
    return v;
}

static value argument(struct run *r, value self, value v, const char *what) {
    want_text(r, v, what);
    return self.s->markup ? escaped(r, v) : v;
}

/* ---- parts of a string ---- */

static value strip_ends(struct run *r, value self, value chars, bool left, bool right) {
    size_t from, to;
    text_strip(self.s, given_some(chars) ? argument(r, self, chars, "strip").s : NULL, left, right, &from, &to);
    tick(r, (self.s->n - (to - from)) / 4);
    return like(string_part(r, self.s, from, to), self);
}

static value str_strip(struct run *r, value self, const value *arg) { return strip_ends(r, self, arg[0], true, true); }
static value str_lstrip(struct run *r, value self, const value *arg) { return strip_ends(r, self, arg[0], true, false); }
static value str_rstrip(struct run *r, value self, const value *arg) { return strip_ends(r, self, arg[0], false, true); }

struct parts { value *p; size_t n, cap; };

static void add_part(struct run *r, struct parts *l, value v) {
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 8;
        value *p = take(r, cap * sizeof *p);
        if (l->n) memcpy(p, l->p, l->n * sizeof *p);
        l->p = p;
        l->cap = cap;
    }
    tick(r, 1);
    l->p[l->n++] = v;
}

static void add_piece(struct run *r, struct parts *l, value self, size_t from, size_t to) {
    add_part(r, l, like(string_part(r, self.s, from, to), self));
}

static void split_spaces(struct run *r, value self, int64_t most, struct parts *l) {
    struct text *s = self.s;
    int len;
    for (size_t i = 0; i < s->n;) {
        if (python_space(utf8_next(s->p + i, &len))) {
            i += (size_t)len;
            continue;
        }
        size_t from = i;
        if (most >= 0 && (int64_t)l->n >= most) i = s->n; /* the rest, with the space at its end */
        while (i < s->n && !python_space(utf8_next(s->p + i, &len))) i += (size_t)len;
        add_piece(r, l, self, from, i);
    }
    tick(r, s->n / 8);
}

static void split_at(struct run *r, value self, const struct text *sep, int64_t most, struct parts *l) {
    size_t from = 0, at;
    if (!sep->n) run_fail(r, "empty separator");
    tick(r, self.s->n / 64);
    while ((most < 0 || (int64_t)l->n < most) && (at = text_find(self.s, sep, from)) != SIZE_MAX) {
        add_piece(r, l, self, from, at);
        from = at + sep->n;
    }
    add_piece(r, l, self, from, self.s->n);
}

static void reverse_parts(struct parts *l) {
    for (size_t i = 0; i < l->n / 2; i++) {
        value v = l->p[i];
        l->p[i] = l->p[l->n - 1 - i];
        l->p[l->n - 1 - i] = v;
    }
}

/* Where sep stands last in the first n bytes; SIZE_MAX: nowhere. */
static size_t find_last(const struct text *s, const struct text *sep, size_t n) {
    for (size_t i = n >= sep->n ? n - sep->n + 1 : 0; i-- > 0;)
        if (memcmp(s->p + i, sep->p, sep->n) == 0) return i;
    return SIZE_MAX;
}

static void rsplit_at(struct run *r, value self, const struct text *sep, int64_t most, struct parts *l) {
    size_t to = self.s->n, at;
    if (!sep->n) run_fail(r, "empty separator");
    tick(r, self.s->n / 16);
    while ((most < 0 || (int64_t)l->n < most) && (at = find_last(self.s, sep, to)) != SIZE_MAX) {
        add_piece(r, l, self, at + sep->n, to);
        to = at;
    }
    add_piece(r, l, self, 0, to);
    reverse_parts(l);
}

static void rsplit_spaces(struct run *r, value self, int64_t most, struct parts *l) {
    struct text *s = self.s;
    size_t to = s->n, left;
    int len;
    for (;;) {
        struct text head = { .p = s->p, .n = to };
        text_strip(&head, NULL, false, true, &left, &to);
        if (!to) break;
        size_t from = to;
        if (most >= 0 && (int64_t)l->n >= most) from = 0;
        else
            while (from) {
                size_t at = from - 1;
                while (((uint8_t)s->p[at] & 0xc0) == 0x80) at--;
                if (python_space(utf8_next(s->p + at, &len))) break;
                from = at;
            }
        add_piece(r, l, self, from, to);
        if (most >= 0 && (int64_t)l->n > most) break;
        to = from;
    }
    reverse_parts(l);
    tick(r, s->n / 8);
}

static value str_split(struct run *r, value self, const value *arg) {
    struct parts l = { 0 };
    int64_t most = given(arg[1]) ? want_int(r, arg[1], "split") : -1;
    if (given_some(arg[0])) split_at(r, self, want_text(r, arg[0], "split"), most, &l);
    else split_spaces(r, self, most, &l);
    return list_value(r, V_LIST, l.p, l.n);
}

static value str_rsplit(struct run *r, value self, const value *arg) {
    struct parts l = { 0 };
    int64_t most = given(arg[1]) ? want_int(r, arg[1], "rsplit") : -1;
    if (given_some(arg[0])) rsplit_at(r, self, want_text(r, arg[0], "rsplit"), most, &l);
    else rsplit_spaces(r, self, most, &l);
    return list_value(r, V_LIST, l.p, l.n);
}

static bool line_end(uint32_t c) { return (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029; }

static value str_splitlines(struct run *r, value self, const value *arg) {
    bool keep = given(arg[0]) && truth(r, arg[0]);
    struct parts l = { 0 };
    struct text *s = self.s;
    int len;
    for (size_t i = 0, from = 0; i < s->n; from = i) {
        while (i < s->n && !line_end(utf8_next(s->p + i, &len))) i += (size_t)len;
        size_t to = i;
        if (i < s->n) i += s->p[i] == '\r' && i + 1 < s->n && s->p[i + 1] == '\n' ? 2 : (size_t)len;
        add_piece(r, &l, self, from, keep ? i : to);
    }
    tick(r, s->n / 16);
    return list_value(r, V_LIST, l.p, l.n);
}

static value three(struct run *r, value self, size_t to, size_t from) {
    struct parts l = { 0 };
    add_piece(r, &l, self, 0, to);
    add_piece(r, &l, self, to, from);
    add_piece(r, &l, self, from, self.s->n);
    return list_value(r, V_TUPLE, l.p, l.n);
}

static value str_partition(struct run *r, value self, const value *arg) {
    struct text *sep = argument(r, self, arg[0], "partition").s;
    if (!sep->n) run_fail(r, "empty separator");
    size_t at = text_find(self.s, sep, 0);
    return at == SIZE_MAX ? three(r, self, self.s->n, self.s->n) : three(r, self, at, at + sep->n);
}

static value str_rpartition(struct run *r, value self, const value *arg) {
    struct text *sep = argument(r, self, arg[0], "rpartition").s;
    if (!sep->n) run_fail(r, "empty separator");
    size_t at = find_last(self.s, sep, self.s->n);
    return at == SIZE_MAX ? three(r, self, 0, 0) : three(r, self, at, at + sep->n);
}

/* ---- looking into a string ---- */

/* The bytes that [start:end] of the string covers, and where they begin; SIZE_MAX: start lies behind the end. */
static struct text window(struct run *r, value self, value start, value end, size_t *from) {
    value_type t = given_some(start) ? start.type : V_NONE;
    value part = slice(r, self, given(start) ? start : NONE, given(end) ? end : NONE, NONE),
          front = slice(r, self, NONE, given(start) ? start : NONE, NONE);
    *from = t == V_NONE ? 0 : front.s->n;
    int64_t n = (int64_t)text_chars(self.s), stop = given_some(end) && end.type == V_INT ? (end.i < 0 ? end.i + n : end.i) : n;
    if (t == V_INT && (start.i > n || (start.i >= 0 ? start.i : start.i + n) > (stop < 0 ? 0 : stop))) *from = SIZE_MAX;
    return *part.s;
}

static bool affix(struct run *r, value self, value what, const value *arg, bool front) {
    size_t from;
    if (what.type == V_TUPLE) {
        for (size_t i = 0; i < what.list->n; i++)
            if (affix(r, self, what.list->p[i], arg, front)) return true;
        return false;
    }
    struct text *w = want_text(r, what, front ? "startswith" : "endswith"), s = window(r, self, arg[1], arg[2], &from);
    return from != SIZE_MAX && w->n <= s.n && memcmp(s.p + (front ? 0 : s.n - w->n), w->p, w->n) == 0;
}

static value str_startswith(struct run *r, value self, const value *arg) { return bool_value(affix(r, self, arg[0], arg, true)); }
static value str_endswith(struct run *r, value self, const value *arg) { return bool_value(affix(r, self, arg[0], arg, false)); }

static int64_t index_in(struct run *r, value self, const value *arg, bool last, const char *what) {
    size_t from;
    struct text *w = want_text(r, arg[0], what), s = window(r, self, arg[1], arg[2], &from);
    size_t at = from == SIZE_MAX ? SIZE_MAX : last ? find_last(&s, w, s.n) : text_find(&s, w, 0);
    tick(r, s.n / 16);
    if (at == SIZE_MAX) return -1;
    struct text before = { .p = self.s->p, .n = from + at, .chars = SIZE_MAX };
    return (int64_t)text_chars(&before);
}

static value str_find(struct run *r, value self, const value *arg) { return int_value(index_in(r, self, arg, false, "find")); }
static value str_rfind(struct run *r, value self, const value *arg) { return int_value(index_in(r, self, arg, true, "rfind")); }

static value must_find(struct run *r, int64_t at) {
    if (at < 0) run_fail(r, "substring not found");
    return int_value(at);
}

static value str_index(struct run *r, value self, const value *arg) { return must_find(r, index_in(r, self, arg, false, "index")); }
static value str_rindex(struct run *r, value self, const value *arg) { return must_find(r, index_in(r, self, arg, true, "rindex")); }

static value str_count(struct run *r, value self, const value *arg) {
    size_t from, at = 0;
    struct text *w = want_text(r, arg[0], "count"), s = window(r, self, arg[1], arg[2], &from);
    int64_t n = 0;
    tick(r, s.n / 32);
    if (from == SIZE_MAX) return int_value(0);
    if (!w->n) return int_value((int64_t)text_chars(&s) + 1);
    for (; (at = text_find(&s, w, at)) != SIZE_MAX; at += w->n) n++;
    return int_value(n);
}

/* ---- new strings ---- */

static value replaced(struct run *r, value self, struct text *old, struct text *new, int64_t most) {
    struct sink k = { 0 };
    struct text *s = self.s;
    size_t from = 0, at;
    tick(r, s->n / 64);
    for (size_t look = 0; most != 0 && (at = text_find(s, old, look)) != SIZE_MAX; most--) {
        size_t to = at + old->n;
        if (!old->n && at < s->n) to = at + (size_t)utf8_len(s->p[at]); /* between characters */
        tick(r, 1);
        sink_part(r, &k, s, from, at);
        sink_text(r, &k, new);
        from = old->n ? to : at;
        look = to;
        if (!old->n && at == s->n) break;
    }
    sink_part(r, &k, s, from, s->n);
    return like(sink_value(r, &k), self);
}

static value str_replace(struct run *r, value self, const value *arg) {
    int64_t most = given(arg[2]) ? want_int(r, arg[2], "replace") : -1;
    return replaced(r, self, argument(r, self, arg[0], "replace").s, argument(r, self, arg[1], "replace").s, most);
}

static value cased(struct run *r, value self, enum text_case how) {
    struct sink k = { 0 };
    sink_case(r, &k, self.s, 0, self.s->n, how);
    return like(sink_value(r, &k), self);
}

static value str_upper(struct run *r, value self, const value *arg) { return (void)arg, cased(r, self, CASE_UPPER); }
static value str_lower(struct run *r, value self, const value *arg) { return (void)arg, cased(r, self, CASE_LOWER); }
static value str_capitalize(struct run *r, value self, const value *arg) { return (void)arg, cased(r, self, CASE_TITLE_FIRST); }

static bool has_case(uint32_t c) { return uni_in(c, 1u << UNI_LU | 1u << UNI_LL | 1u << UNI_LT); }

static value str_title(struct run *r, value self, const value *arg) {
    struct sink k = { 0 };
    struct text *s = self.s;
    int len;
    (void)arg;
    for (size_t i = 0; i < s->n;) {
        size_t from = i;
        while (i < s->n && has_case(utf8_next(s->p + i, &len))) i += (size_t)len;
        sink_case(r, &k, s, from, i, CASE_TITLE_FIRST);
        from = i;
        while (i < s->n && !has_case(utf8_next(s->p + i, &len))) i += (size_t)len;
        sink_part(r, &k, s, from, i);
    }
    return like(sink_value(r, &k), self);
}

static value str_swapcase(struct run *r, value self, const value *arg) {
    struct sink k = { 0 };
    struct text *s = self.s;
    int len;
    (void)arg;
    for (size_t i = 0; i < s->n; i += (size_t)len) {
        uint32_t c = utf8_next(s->p + i, &len);
        sink_case(r, &k, s, i, i + (size_t)len, uni_in(c, 1u << UNI_LL) ? CASE_UPPER : CASE_LOWER);
    }
    return like(sink_value(r, &k), self);
}

/* At least so many characters, the text at the left (-1), in the middle (0) or at the right (1). */
static value padded(struct run *r, value self, const value *arg, int where) {
    struct sink k = { 0 };
    struct text *fill = given(arg[1]) ? want_text(r, arg[1], "the fill character") : string_of(r, " ").s;
    int64_t width = want_int(r, arg[0], "the width"), n = (int64_t)text_chars(self.s), room = width > n ? width - n : 0;
    if (text_chars(fill) != 1) run_fail(r, "The fill character must be exactly one character long");
    if ((uint64_t)room > r->o.max_memory) run_limit(r, "a text of %lld characters", (long long)width);
    int64_t left = where < 0 ? 0 : where > 0 ? room : room / 2 + (room & width & 1);
    for (int64_t i = 0; i < left; i++) sink_text(r, &k, fill);
    sink_text(r, &k, self.s);
    for (int64_t i = left; i < room; i++) sink_text(r, &k, fill);
    tick(r, (size_t)room / 4);
    return like(sink_value(r, &k), self);
}

static value str_ljust(struct run *r, value self, const value *arg) { return padded(r, self, arg, -1); }
static value str_rjust(struct run *r, value self, const value *arg) { return padded(r, self, arg, 1); }
static value str_center(struct run *r, value self, const value *arg) { return padded(r, self, arg, 0); }

static value str_zfill(struct run *r, value self, const value *arg) {
    size_t sign = self.s->n && (self.s->p[0] == '-' || self.s->p[0] == '+');
    struct sink k = { 0 };
    int64_t room = want_int(r, arg[0], "zfill") - (int64_t)text_chars(self.s);
    if (room > 0 && (uint64_t)room > r->o.max_memory) run_limit(r, "a text of %lld characters", (long long)room);
    sink_part(r, &k, self.s, 0, sign);
    for (int64_t i = 0; i < room; i++) sink_str(r, &k, "0");
    sink_part(r, &k, self.s, sign, self.s->n);
    tick(r, room > 0 ? (size_t)room / 4 : 0);
    return like(sink_value(r, &k), self);
}

static value str_expandtabs(struct run *r, value self, const value *arg) {
    int64_t size = given(arg[0]) ? want_int(r, arg[0], "expandtabs") : 8, column = 0;
    struct sink k = { 0 };
    struct text *s = self.s;
    if (size > 1000) run_limit(r, "tabs of over 1000 characters");
    for (size_t i = 0; i < s->n; i++) {
        if (s->p[i] != '\t') {
            sink_part(r, &k, s, i, i + 1);
            column += ((uint8_t)s->p[i] & 0xc0) != 0x80;
            if (s->p[i] == '\n' || s->p[i] == '\r') column = 0;
            continue;
        }
        int64_t room = size > 0 ? size - column % size : 0;
        column += room;
        while (room-- > 0) sink_add(r, &k, " ", 1, text_user_at(s, i));
    }
    tick(r, s->n / 4);
    return like(sink_value(r, &k), self);
}

static value str_join(struct run *r, value self, const value *arg) {
    struct list l = items_of(r, arg[0]);
    struct sink k = { 0 };
    for (size_t i = 0; i < l.n; i++) {
        if (l.p[i].type == V_UNDEFINED || l.p[i].type != V_STRING)
            run_fail(r, "sequence item %zu: expected str instance, %s found", i, type_name(l.p[i]));
        tick(r, 1);
        if (i) sink_text(r, &k, self.s);
        sink_text(r, &k, self.s->markup ? escaped(r, l.p[i]).s : l.p[i].s);
    }
    return like(sink_value(r, &k), self);
}

static value cut_affix(struct run *r, value self, struct text *w, bool front) {
    struct text *s = self.s;
    bool has = w->n <= s->n && memcmp(s->p + (front ? 0 : s->n - w->n), w->p, w->n) == 0;
    return like(string_part(r, s, has && front ? w->n : 0, has && !front ? s->n - w->n : s->n), self);
}

static value str_removeprefix(struct run *r, value self, const value *arg) {
    return cut_affix(r, self, argument(r, self, arg[0], "removeprefix").s, true);
}
static value str_removesuffix(struct run *r, value self, const value *arg) {
    return cut_affix(r, self, argument(r, self, arg[0], "removesuffix").s, false);
}

/* ---- kinds of characters ---- */

enum { LETTERS = 1u << UNI_LU | 1u << UNI_LL | 1u << UNI_LT | 1u << UNI_LM | 1u << UNI_LO };
static bool is_alpha(uint32_t c) { return uni_in(c, LETTERS); }
static bool is_decimal(uint32_t c) { return uni_in(c, 1u << UNI_ND); }
static bool is_superscript(uint32_t c) {
    return c == 0xb2 || c == 0xb3 || c == 0xb9 || c == 0x2070 || (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089);
}
static bool is_digit(uint32_t c) { return is_decimal(c) || is_superscript(c) || (c >= 0x2460 && c <= 0x2468) || (c >= 0x2776 && c <= 0x277e); }
static bool is_numeric(uint32_t c) { return uni_in(c, 1u << UNI_ND | 1u << UNI_NL | 1u << UNI_NO); }
static bool is_alnum(uint32_t c) { return is_alpha(c) || is_numeric(c); }
static bool is_ascii(uint32_t c) { return c < 0x80; }

static value all_are(struct run *r, value self, bool (*is)(uint32_t), bool empty) {
    int len;
    tick(r, self.s->n / 8);
    for (size_t i = 0; i < self.s->n; i += (size_t)len)
        if (!is(utf8_next(self.s->p + i, &len))) return bool_value(false);
    return bool_value(empty || self.s->n);
}

static value str_isalpha(struct run *r, value self, const value *arg) { return (void)arg, all_are(r, self, is_alpha, false); }
static value str_isdecimal(struct run *r, value self, const value *arg) { return (void)arg, all_are(r, self, is_decimal, false); }
static value str_isdigit(struct run *r, value self, const value *arg) { return (void)arg, all_are(r, self, is_digit, false); }
static value str_isnumeric(struct run *r, value self, const value *arg) { return (void)arg, all_are(r, self, is_numeric, false); }
static value str_isalnum(struct run *r, value self, const value *arg) { return (void)arg, all_are(r, self, is_alnum, false); }
static value str_isascii(struct run *r, value self, const value *arg) { return (void)arg, all_are(r, self, is_ascii, true); }
static value str_isspace(struct run *r, value self, const value *arg) { return (void)arg, all_are(r, self, python_space, false); }

static value str_isupper(struct run *r, value self, const value *arg) {
    return (void)arg, tick(r, self.s->n / 8), bool_value(text_is_case(self.s, true));
}
static value str_islower(struct run *r, value self, const value *arg) {
    return (void)arg, tick(r, self.s->n / 8), bool_value(text_is_case(self.s, false));
}

static value str_istitle(struct run *r, value self, const value *arg) {
    bool some = false, inside = false;
    int len;
    (void)arg;
    tick(r, self.s->n / 8);
    for (size_t i = 0; i < self.s->n; i += (size_t)len) {
        uint32_t c = utf8_next(self.s->p + i, &len);
        bool now = has_case(c), up = now && !uni_in(c, 1u << UNI_LL);
        if (now && up == inside) return bool_value(false);
        some |= now;
        inside = now;
    }
    return bool_value(some);
}

/* ---- lists and dicts ---- */

static value list_count(struct run *r, value self, const value *arg) {
    int64_t n = 0;
    for (size_t i = 0; i < self.list->n; i++) n += equal(r, self.list->p[i], arg[0]);
    return int_value(n);
}

static value list_index(struct run *r, value self, const value *arg) {
    for (size_t i = 0; i < self.list->n; i++)
        if (equal(r, self.list->p[i], arg[0])) return int_value((int64_t)i);
    run_fail(r, "the value is not in the list");
}

static value copy(struct run *r, value self, const value *arg) { return (void)r, (void)arg, self; }

static value view_of(struct run *r, value self, int which) {
    struct view *w = take(r, sizeof *w);
    *w = (struct view){ self.dict, which };
    return (value){ V_VIEW, { .view = w } };
}

static value dict_keys(struct run *r, value self, const value *arg) { return (void)arg, view_of(r, self, VIEW_KEYS); }
static value dict_values(struct run *r, value self, const value *arg) { return (void)arg, view_of(r, self, VIEW_VALUES); }
static value dict_items(struct run *r, value self, const value *arg) { return (void)arg, view_of(r, self, VIEW_ITEMS); }

static value dict_get(struct run *r, value self, const value *arg) {
    const struct pair *p = dict_find(r, self.dict, arg[0]);
    return p ? p->v : given(arg[1]) ? arg[1] : NONE;
}

static value cycler_next(struct run *r, value self, const value *arg) {
    (void)r, (void)arg;
    value v = self.cycler->items.p[self.cycler->at];
    self.cycler->at = (self.cycler->at + 1) % self.cycler->items.n;
    return v;
}

static value cycler_reset(struct run *r, value self, const value *arg) { return (void)r, (void)arg, self.cycler->at = 0, NONE; }

/* ---- tables ---- */

static const struct method_row str_rows[] = {
    { "capitalize", "", 0, str_capitalize, NULL },
    { "center", "width fillchar /", 1, str_center, NULL },
    { "count", "sub start end /", 1, str_count, NULL },
    { "endswith", "suffix start end /", 1, str_endswith, NULL },
    { "expandtabs", "tabsize", 0, str_expandtabs, NULL },
    { "find", "sub start end /", 1, str_find, NULL },
    { "format", NULL, 0, NULL, brace_format },
    { "index", "sub start end /", 1, str_index, NULL },
    { "isalnum", "", 0, str_isalnum, NULL },
    { "isalpha", "", 0, str_isalpha, NULL },
    { "isascii", "", 0, str_isascii, NULL },
    { "isdecimal", "", 0, str_isdecimal, NULL },
    { "isdigit", "", 0, str_isdigit, NULL },
    { "islower", "", 0, str_islower, NULL },
    { "isnumeric", "", 0, str_isnumeric, NULL },
    { "isspace", "", 0, str_isspace, NULL },
    { "istitle", "", 0, str_istitle, NULL },
    { "isupper", "", 0, str_isupper, NULL },
    { "join", "iterable /", 1, str_join, NULL },
    { "ljust", "width fillchar /", 1, str_ljust, NULL },
    { "lower", "", 0, str_lower, NULL },
    { "lstrip", "chars /", 0, str_lstrip, NULL },
    { "partition", "sep /", 1, str_partition, NULL },
    { "removeprefix", "prefix /", 1, str_removeprefix, NULL },
    { "removesuffix", "suffix /", 1, str_removesuffix, NULL },
    { "replace", "old new count /", 2, str_replace, NULL },
    { "rfind", "sub start end /", 1, str_rfind, NULL },
    { "rindex", "sub start end /", 1, str_rindex, NULL },
    { "rjust", "width fillchar /", 1, str_rjust, NULL },
    { "rpartition", "sep /", 1, str_rpartition, NULL },
    { "rsplit", "sep maxsplit", 0, str_rsplit, NULL },
    { "rstrip", "chars /", 0, str_rstrip, NULL },
    { "split", "sep maxsplit", 0, str_split, NULL },
    { "splitlines", "keepends", 0, str_splitlines, NULL },
    { "startswith", "prefix start end /", 1, str_startswith, NULL },
    { "strip", "chars /", 0, str_strip, NULL },
    { "swapcase", "", 0, str_swapcase, NULL },
    { "title", "", 0, str_title, NULL },
    { "upper", "", 0, str_upper, NULL },
    { "zfill", "width /", 1, str_zfill, NULL },
};
static const struct method_row list_rows[] = {
    { "count", "value /", 1, list_count, NULL },
    { "index", "value /", 1, list_index, NULL },
    { "copy", "", 0, copy, NULL }, /* a tuple has none: see find_method */
};
static const struct method_row dict_rows[] = {
    { "get", "key default /", 1, dict_get, NULL },
    { "items", "", 0, dict_items, NULL },
    { "keys", "", 0, dict_keys, NULL },
    { "values", "", 0, dict_values, NULL },
    { "copy", "", 0, copy, NULL },
};
static const struct method_row loop_rows[] = { { "cycle", NULL, 0, NULL, loop_cycle }, { "changed", NULL, 0, NULL, loop_changed } };
static const struct method_row cycler_rows[] = { { "next", "", 0, cycler_next, NULL }, { "reset", "", 0, cycler_reset, NULL } };

const struct method_row *find_method(value v, const struct text *name) {
    const struct { value_type type; const struct method_row *rows; size_t n; } tables[] = {
        { V_STRING, str_rows, sizeof str_rows / sizeof *str_rows }, { V_LIST, list_rows, 3 }, { V_TUPLE, list_rows, 2 },
        { V_DICT, dict_rows, sizeof dict_rows / sizeof *dict_rows }, { V_LOOP, loop_rows, 2 }, { V_CYCLER, cycler_rows, 2 },
    };
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        for (size_t k = 0; tables[i].type == v.type && k < tables[i].n; k++)
            if (text_is(name, tables[i].rows[k].name)) return tables[i].rows + k;
    return NULL;
}

bool unsafe_method(value v, const struct text *name) {
    static const char *const of_list[] = { "append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort", NULL };
    static const char *const of_dict[] = { "clear", "pop", "popitem", "setdefault", "update", NULL };
    static const char *const none[] = { NULL };
    for (const char *const *w = v.type == V_LIST ? of_list : v.type == V_DICT ? of_dict : none; *w; w++)
        if (text_is(name, *w)) return true;
    return name->n > 4 && memcmp(name->p, "__", 2) == 0 && memcmp(name->p + name->n - 2, "__", 2) == 0 && v.type != V_NAMESPACE && v.type != V_LOOP;
}
