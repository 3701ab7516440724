/* template_json: tojson, as Python's json.dumps with the settings that transformers gives it: nothing escaped for HTML, text kept
 * as it is. It must not know nodes or other filters. */
#include "tokenizer/template_parts.h"
#include "tokenizer/unicode.h"

struct dumper {
    struct run *r;
    struct sink *k;
    bool ascii, sort;
    const struct text *indent; /* NULL: on one line */
    const struct text *item_separator, *key_separator;
};

static void dump(struct dumper *d, value v, int level);

static void dump_text(struct dumper *d, const struct text *s) {
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    char code[16];
    int len;
    size_t plain = 0;
    sink_str(d->r, d->k, "\"");
    for (size_t i = 0; i < s->n; i += (size_t)len) {
        uint32_t c = utf8_next(s->p + i, &len);
        const char *f = c && c < 0x80 ? strchr(from, (int)c) : NULL;
        if (!f && c >= ' ' && (c < 0x7f || !d->ascii)) continue;
        if (f) snprintf(code, sizeof code, "\\%c", to[f - from]);
        else if (c < 0x10000) snprintf(code, sizeof code, "\\u%04x", (unsigned)c);
        else snprintf(code, sizeof code, "\\u%04x\\u%04x", (unsigned)(0xd800 + ((c - 0x10000) >> 10)), (unsigned)(0xdc00 + (c & 0x3ff)));
        sink_part(d->r, d->k, s, plain, i);
        sink_add(d->r, d->k, code, strlen(code), text_user_at(s, i));
        plain = i + (size_t)len;
    }
    sink_part(d->r, d->k, s, plain, s->n);
    sink_str(d->r, d->k, "\"");
}

static void dump_number(struct dumper *d, value v) {
    char number[40];
    if (v.type != V_FLOAT) {
        put_repr(d->r, d->k, v);
        return;
    }
    format_double(v.f, number);
    sink_str(d->r, d->k, v.f != v.f ? "NaN" : v.f - v.f == 0 ? number : v.f > 0 ? "Infinity" : "-Infinity");
}

static void new_line(struct dumper *d, int level) {
    if (!d->indent) return;
    sink_str(d->r, d->k, "\n");
    for (int i = 0; i < level; i++) sink_text(d->r, d->k, d->indent);
}

static void dump_list(struct dumper *d, struct list l, int level) {
    sink_str(d->r, d->k, "[");
    for (size_t i = 0; i < l.n; i++) {
        if (i) sink_text(d->r, d->k, d->item_separator);
        new_line(d, level + 1);
        dump(d, l.p[i], level + 1);
    }
    if (l.n) new_line(d, level);
    sink_str(d->r, d->k, "]");
}

static void dump_key(struct dumper *d, value key) {
    if (key.type == V_STRING) {
        dump_text(d, key.s);
        return;
    }
    if (key.type == V_UNDEFINED || key.type > V_FLOAT) run_fail(d->r, "keys must be str, int, float, bool or None, not %s", type_name(key));
    sink_str(d->r, d->k, "\"");
    dump(d, key, 0);
    sink_str(d->r, d->k, "\"");
}

static void dump_dict(struct dumper *d, const struct dict *m, int level) {
    value *order = take(d->r, m->n * sizeof *order), *keys = take(d->r, m->n * sizeof *keys);
    for (uint32_t i = 0; i < m->n; i++) order[i] = int_value(i), keys[i] = m->p[i].key;
    struct list by = { keys, m->n }, all = { order, m->n };
    if (d->sort) all = *sort_values(d->r, all, &by, false).list;
    sink_str(d->r, d->k, "{");
    for (size_t i = 0; i < all.n; i++) {
        const struct pair *p = m->p + all.p[i].i;
        if (i) sink_text(d->r, d->k, d->item_separator);
        new_line(d, level + 1);
        dump_key(d, p->key);
        sink_text(d->r, d->k, d->key_separator);
        dump(d, p->v, level + 1);
    }
    if (m->n) new_line(d, level);
    sink_str(d->r, d->k, "}");
}

static void dump(struct dumper *d, value v, int level) {
    tick(d->r, 1);
    enter(d->r);
    switch (v.type) {
    case V_NONE: sink_str(d->r, d->k, "null"); break;
    case V_BOOL: sink_str(d->r, d->k, v.b ? "true" : "false"); break;
    case V_INT:
    case V_BIG:
    case V_FLOAT: dump_number(d, v); break;
    case V_STRING: dump_text(d, v.s); break;
    case V_LIST:
    case V_TUPLE: dump_list(d, *v.list, level); break;
    case V_DICT: dump_dict(d, v.dict, level); break;
    default: run_fail(d->r, "Object of type %s is not JSON serializable", type_name(v));
    }
    d->r->depth--;
}

/* How far each level is moved: so many spaces, or a text. */
static const struct text *indent_of(struct run *r, value v) {
    if (v.type == V_ABSENT || v.type == V_NONE) return NULL;
    if (v.type == V_STRING) return v.s;
    int64_t n = want_int(r, v, "tojson's indent");
    if (n > 1000) run_limit(r, "an indent of over 1000 spaces");
    return binary(r, OP_MUL, string_of(r, " "), int_value(n)).s;
}

/* ensure_ascii, indent, separators, sort_keys */
value filter_tojson(struct run *r, value v, const value *arg) {
    struct sink k = { 0 };
    struct dumper d = { .r = r, .k = &k, .indent = indent_of(r, arg[1]), .key_separator = string_of(r, ": ").s };
    d.ascii = arg[0].type != V_ABSENT && truth(r, arg[0]);
    d.sort = arg[3].type != V_ABSENT && truth(r, arg[3]);
    d.item_separator = string_of(r, d.indent ? "," : ", ").s;
    if (arg[2].type != V_ABSENT && arg[2].type != V_NONE) {
        struct list two = items_of(r, arg[2]);
        if (two.n != 2) run_fail(r, "tojson's separators: expected two, found %zu", two.n);
        d.item_separator = want_text(r, two.p[0], "tojson's separators");
        d.key_separator = want_text(r, two.p[1], "tojson's separators");
    }
    dump(&d, v, 0);
    return sink_value(r, &k);
}
