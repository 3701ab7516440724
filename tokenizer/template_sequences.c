/* template_sequences: the filters over lists and other things that can be iterated: map, select and their kin (made only when
 * their result is read, and read once, as there), sort, unique, groupby, join, ... It must not know how values are written. */
#include "tokenizer/template_sequences.h"

static bool given(value v) { return v.type != V_ABSENT && v.type != V_NONE; }
static bool flag(struct run *r, value v, bool otherwise) { return v.type == V_ABSENT ? otherwise : truth(r, v); }

/* ---- "a.b.0": an attribute of an attribute ---- */

/* One part from *at on: a name, or digits as a number. */
static value next_part(struct run *r, const struct text *path, size_t *at, size_t end) {
    size_t from = *at;
    int64_t i = 0;
    bool number = true;
    for (; *at < end && path->p[*at] != '.'; ++*at) {
        char c = path->p[*at];
        number = number && c >= '0' && c <= '9' && i < 1000000000;
        i = number ? i * 10 + (c - '0') : 0;
    }
    value v = number && *at > from ? int_value(i) : string_part(r, path, from, *at);
    ++*at;
    return v;
}

static value follow(struct run *r, value v, const struct text *path, size_t from, size_t end, value otherwise) {
    for (size_t at = from; at <= end;) {
        v = get_item(r, v, next_part(r, path, &at, end));
        if (v.type == V_UNDEFINED && given(otherwise)) v = otherwise;
    }
    return v;
}

/* attribute: a path, an index, or none: v itself. */
static value attribute_of(struct run *r, value v, value attribute, value otherwise) {
    if (!given(attribute)) return v;
    if (attribute.type == V_STRING) return follow(r, v, attribute.s, 0, attribute.s->n, otherwise);
    v = get_item(r, v, attribute);
    return v.type == V_UNDEFINED && given(otherwise) ? otherwise : v;
}

static value without_case(struct run *r, value v, bool case_sensitive) {
    if (case_sensitive || v.type != V_STRING) return v;
    struct sink k = { 0 };
    sink_case(r, &k, v.s, 0, v.s->n, CASE_LOWER);
    return sink_value(r, &k);
}

/* ---- made when read ---- */

static value lazy(struct run *r, value source, struct list (*make)(struct run *, struct iter *), const struct call *c, int how) {
    struct iter *it = take(r, sizeof *it);
    *it = (struct iter){ .make = make, .source = source, .call = c, .how = how };
    return (value){ V_ITER, { .iter = it } };
}

static value ready(struct run *r, struct list items) {
    struct iter *it = take(r, sizeof *it);
    it->items = items;
    return (value){ V_ITER, { .iter = it } };
}

static struct list no_items(void) { return (struct list){ NULL, 0 }; }

static value keyword(const struct call *c, const char *name) {
    for (int i = 0; i < c->n_kw; i++)
        if (text_is(c->kw[i].name, name)) return c->kw[i].v;
    return (value){ V_ABSENT, { 0 } };
}

static const struct filter *filter_named(struct run *r, value name) {
    struct text *s = want_text(r, name, "map");
    const struct filter *f = find_filter(s->p, s->n);
    if (!f) run_fail(r, "there is no filter \"%.*s\"", (int)(s->n < 60 ? s->n : 60), s->p);
    return f;
}

/* map("filter", arguments...), or map(attribute="a.b", default=x) */
static struct list make_map(struct run *r, struct iter *it) {
    const struct call *c = it->call;
    value attribute = keyword(c, "attribute"), otherwise = keyword(c, "default");
    bool by_attribute = !c->n && attribute.type != V_ABSENT;
    if (!truth(r, it->source)) return no_items();
    if (!by_attribute && !c->n) run_fail(r, "map requires a filter argument");
    if (by_attribute && c->n_kw > 1 + (otherwise.type != V_ABSENT)) run_fail(r, "map: got an unexpected keyword argument");
    const struct filter *f = by_attribute ? NULL : filter_named(r, c->p[0]);
    struct call rest = { c->p + 1, c->n - 1, c->kw, c->n_kw };
    struct list l = items_of(r, it->source);
    value *p = take(r, l.n * sizeof *p);
    for (size_t i = 0; i < l.n; i++) p[i] = f ? call_filter(r, f, l.p[i], &rest) : attribute_of(r, l.p[i], attribute, otherwise);
    return (struct list){ p, l.n };
}

static value filter_map(struct run *r, value v, const struct call *c) { return lazy(r, v, make_map, c, 0); }

enum { REJECT = 1, BY_ATTRIBUTE = 2 };

/* select("test", arguments...), selectattr("attribute", "test", arguments...) and their opposites */
static struct list make_select(struct run *r, struct iter *it) {
    const struct call *c = it->call;
    int off = it->how & BY_ATTRIBUTE ? 1 : 0;
    if (!truth(r, it->source)) return no_items();
    if (c->n < off) run_fail(r, "Missing parameter for attribute name");
    const struct test *t = NULL;
    if (c->n > off) {
        struct text *s = want_text(r, c->p[off], "select");
        t = find_test(s->p, s->n);
        if (!t) run_fail(r, "there is no test \"%.*s\"", (int)(s->n < 60 ? s->n : 60), s->p);
    }
    struct call rest = { c->p + off + 1, c->n - off - 1, c->kw, c->n_kw };
    struct list l = items_of(r, it->source);
    value *p = take(r, l.n * sizeof *p);
    size_t n = 0;
    for (size_t i = 0; i < l.n; i++) {
        value v = off ? attribute_of(r, l.p[i], c->p[0], NONE) : l.p[i];
        bool yes = t ? call_test(r, t, v, &rest) : truth(r, v);
        if (yes != (bool)(it->how & REJECT)) p[n++] = l.p[i];
    }
    return (struct list){ p, n };
}

static value filter_select(struct run *r, value v, const struct call *c) { return lazy(r, v, make_select, c, 0); }
static value filter_reject(struct run *r, value v, const struct call *c) { return lazy(r, v, make_select, c, REJECT); }
static value filter_selectattr(struct run *r, value v, const struct call *c) { return lazy(r, v, make_select, c, BY_ATTRIBUTE); }
static value filter_rejectattr(struct run *r, value v, const struct call *c) { return lazy(r, v, make_select, c, BY_ATTRIBUTE | REJECT); }

/* What a filter with plain parameters makes later: its arguments are kept. */
static value lazy_args(struct run *r, value v, struct list (*make)(struct run *, struct iter *), const value *arg, int n) {
    struct call *c = take(r, sizeof *c);
    c->p = take(r, (size_t)n * sizeof *c->p);
    memcpy(c->p, arg, (size_t)n * sizeof *c->p);
    c->n = n;
    return lazy(r, v, make, c, 0);
}

static struct list make_items(struct run *r, struct iter *it) {
    if (it->source.type == V_UNDEFINED) return no_items();
    if (it->source.type != V_DICT) run_fail(r, "Can only get item pairs from a mapping.");
    return items_of(r, call_value(r, get_attr(r, it->source, &(struct text){ .p = "items", .n = 5, .chars = 5 }), &(struct call){ 0 }));
}

static value filter_items(struct run *r, value v, const value *arg) { return lazy_args(r, v, make_items, arg, 0); }

static struct list make_unique(struct run *r, struct iter *it) {
    struct list l = items_of(r, it->source);
    struct dict *seen = new_dict(r);
    value *p = take(r, l.n * sizeof *p);
    size_t n = 0;
    for (size_t i = 0; i < l.n; i++) {
        value key = without_case(r, attribute_of(r, l.p[i], it->call->p[1], NONE), flag(r, it->call->p[0], false));
        if (dict_find(r, seen, key)) continue;
        dict_set(r, seen, key, NONE);
        p[n++] = l.p[i];
    }
    return (struct list){ p, n };
}

static value filter_unique(struct run *r, value v, const value *arg) { return lazy_args(r, v, make_unique, arg, 2); }

static value filled(struct run *r, const value *p, size_t n, size_t to, value fill) {
    value *q = take(r, to * sizeof *q);
    if (n) memcpy(q, p, n * sizeof *q);
    for (size_t i = n; i < to; i++) q[i] = fill;
    return list_value(r, V_LIST, q, to);
}

static struct list make_batch(struct run *r, struct iter *it) {
    struct list l = items_of(r, it->source);
    int64_t size = want_int(r, it->call->p[0], "batch");
    value fill = it->call->p[1];
    if (size > 1000000) run_limit(r, "a batch of over a million");
    size_t by = size > 0 ? (size_t)size : l.n ? l.n : 1, n = 0;
    value *p = take(r, (l.n / by + 1) * sizeof *p);
    for (size_t i = 0; i < l.n; i += by) {
        size_t len = l.n - i < by ? l.n - i : by;
        p[n++] = filled(r, l.p + i, len, len < by && given(fill) ? by : len, fill);
    }
    return (struct list){ p, n };
}

static value filter_batch(struct run *r, value v, const value *arg) { return lazy_args(r, v, make_batch, arg, 2); }

static struct list make_slices(struct run *r, struct iter *it) {
    struct list l = items_of(r, it->source);
    int64_t slices = want_int(r, it->call->p[0], "slice");
    if (slices == 0) run_fail(r, "integer division or modulo by zero");
    if (slices < 0) return no_items();
    if (slices > 1000000) run_limit(r, "over a million slices");
    size_t n = (size_t)slices, each = l.n / n, extra = l.n % n, at = 0;
    value *p = take(r, n * sizeof *p), fill = it->call->p[1];
    for (size_t i = 0; i < n; i++) {
        size_t len = each + (i < extra);
        p[i] = filled(r, l.p + at, len, len + (given(fill) && i >= extra), fill);
        at += len;
    }
    return (struct list){ p, n };
}

static value filter_slice(struct run *r, value v, const value *arg) { return lazy_args(r, v, make_slices, arg, 2); }

/* ---- sorting: merges, so that equal items keep their order ---- */

struct sorting { const struct list *keys; bool reverse; };

static bool comes_first(struct run *r, const struct sorting *s, value a, value b) {
    value x = s->keys->p[a.i], y = s->keys->p[b.i];
    return s->reverse ? order(r, y, x, "<") < 0 : order(r, x, y, "<") < 0;
}

static void merge(struct run *r, const struct sorting *s, value *p, value *work, size_t n) {
    if (n < 2) return;
    size_t half = n / 2, i = 0, k = half, at = 0;
    merge(r, s, p, work, half);
    merge(r, s, p + half, work, n - half);
    while (i < half && k < n) work[at++] = comes_first(r, s, p[k], p[i]) ? p[k++] : p[i++];
    while (i < half) work[at++] = p[i++];
    memcpy(p, work, at * sizeof *p);
}

value sort_values(struct run *r, struct list items, const struct list *keys, bool reverse) {
    value *index = take(r, items.n * sizeof *index), *work = take(r, items.n * sizeof *work);
    struct sorting s = { keys, reverse };
    for (size_t i = 0; i < items.n; i++) index[i] = int_value((int64_t)i);
    merge(r, &s, index, work, items.n);
    for (size_t i = 0; i < items.n; i++) work[i] = items.p[index[i].i];
    return list_value(r, V_LIST, work, items.n);
}

/* A sort's key: the attributes "a,b.c" as a list, or the value itself. */
static value sort_key(struct run *r, value v, value attribute, bool case_sensitive) {
    if (attribute.type != V_STRING) return without_case(r, attribute_of(r, v, attribute, NONE), case_sensitive);
    struct text *s = attribute.s;
    size_t n = 1, from = 0;
    for (size_t i = 0; i < s->n; i++) n += s->p[i] == ',';
    value *p = take(r, n * sizeof *p);
    for (size_t i = 0; i < n; i++) {
        size_t end = from;
        while (end < s->n && s->p[end] != ',') end++;
        p[i] = without_case(r, end > from ? follow(r, v, s, from, end, NONE) : get_item(r, v, string_of(r, "")), case_sensitive);
        from = end + 1;
    }
    return list_value(r, V_LIST, p, n);
}

/* reverse, case_sensitive, attribute */
static value filter_sort(struct run *r, value v, const value *arg) {
    struct list l = items_of(r, v);
    value *keys = take(r, l.n * sizeof *keys);
    for (size_t i = 0; i < l.n; i++) keys[i] = sort_key(r, l.p[i], arg[2], flag(r, arg[1], false));
    struct list by = { keys, l.n };
    return sort_values(r, l, &by, flag(r, arg[0], false));
}

/* case_sensitive, by, reverse */
static value filter_dictsort(struct run *r, value v, const value *arg) {
    bool by_value = arg[1].type == V_STRING && text_is(arg[1].s, "value");
    if (arg[1].type != V_ABSENT && !by_value && !(arg[1].type == V_STRING && text_is(arg[1].s, "key")))
        run_fail(r, "You can only sort by either \"key\" or \"value\"");
    if (v.type == V_UNDEFINED) fail_undefined(r, v);
    if (v.type != V_DICT) run_fail(r, "'%s' object has no attribute 'items'", type_name(v));
    struct list l = items_of(r, call_value(r, get_attr(r, v, &(struct text){ .p = "items", .n = 5, .chars = 5 }), &(struct call){ 0 }));
    value *keys = take(r, l.n * sizeof *keys);
    for (size_t i = 0; i < l.n; i++) keys[i] = without_case(r, l.p[i].list->p[by_value], flag(r, arg[0], false));
    struct list by = { keys, l.n };
    return sort_values(r, l, &by, flag(r, arg[2], false));
}

/* attribute, default, case_sensitive. Each group is a pair (key, list); its names grouper and list are not read. */
static value filter_groupby(struct run *r, value v, const value *arg) {
    struct list l = items_of(r, v);
    bool exact = flag(r, arg[2], false);
    value *keys = take(r, l.n * sizeof *keys), *groups = take(r, l.n * sizeof *groups);
    size_t n = 0;
    for (size_t i = 0; i < l.n; i++) keys[i] = without_case(r, attribute_of(r, l.p[i], arg[0], arg[1]), exact);
    struct list by = { keys, l.n }, sorted_keys = *sort_values(r, by, &by, false).list, sorted = *sort_values(r, l, &by, false).list;
    for (size_t from = 0, to; from < l.n; from = to) {
        for (to = from + 1; to < l.n && equal(r, sorted_keys.p[to], sorted_keys.p[from]);) to++;
        value *two = take(r, 2 * sizeof *two);
        two[0] = attribute_of(r, sorted.p[from], arg[0], arg[1]);
        two[1] = list_value(r, V_LIST, sorted.p + from, to - from);
        groups[n++] = list_value(r, V_TUPLE, two, 2);
    }
    return list_value(r, V_LIST, groups, n);
}

/* ---- one value out of many ---- */

static value extreme(struct run *r, value v, const value *arg, bool max) {
    struct list l = items_of(r, v);
    if (!l.n) return undefined_value(r, "No aggregated item, sequence was empty.", NULL, NONE);
    size_t best = 0;
    value key = { V_ABSENT, { 0 } };
    for (size_t i = 0; i < l.n; i++) {
        value k = without_case(r, attribute_of(r, l.p[i], arg[1], NONE), flag(r, arg[0], false));
        if (i && (max ? order(r, k, key, ">") != 1 : order(r, k, key, "<") >= 0)) continue;
        best = i;
        key = k;
    }
    return l.p[best];
}

static value filter_min(struct run *r, value v, const value *arg) { return extreme(r, v, arg, false); }
static value filter_max(struct run *r, value v, const value *arg) { return extreme(r, v, arg, true); }

static value filter_sum(struct run *r, value v, const value *arg) {
    value total = arg[1].type == V_ABSENT ? int_value(0) : arg[1];
    struct list l = items_of(r, v);
    if (total.type == V_STRING) run_fail(r, "sum() can't sum strings [use ''.join(seq) instead]");
    for (size_t i = 0; i < l.n; i++) total = binary(r, OP_ADD, total, attribute_of(r, l.p[i], arg[0], NONE));
    return total;
}

/* d, attribute */
static value filter_join(struct run *r, value v, const value *arg) {
    struct list l = items_of(r, v);
    struct sink k = { 0 };
    struct text *between = to_string(r, arg[0].type == V_ABSENT ? string_of(r, "") : arg[0], false).s;
    for (size_t i = 0; i < l.n; i++) {
        if (i) sink_text(r, &k, between);
        put_str(r, &k, attribute_of(r, l.p[i], arg[1], NONE));
        tick(r, 1);
    }
    return sink_value(r, &k);
}

static value filter_first(struct run *r, value v, const value *arg) {
    (void)arg;
    if (v.type == V_ITER) { /* the rest stays to be read */
        struct list l = items_of(r, v);
        if (l.n) v.iter->at -= l.n - 1;
        return l.n ? l.p[0] : undefined_value(r, "No first item, sequence was empty.", NULL, NONE);
    }
    if (v.type == V_STRING && v.s->n) return get_item(r, to_string(r, v, false), int_value(0));
    struct list l = items_of(r, v);
    return l.n ? l.p[0] : undefined_value(r, "No first item, sequence was empty.", NULL, NONE);
}

static void need_reversible(struct run *r, value v) {
    if (v.type == V_ITER) run_fail(r, "'%s' object is not reversible", type_name(v));
}

static value filter_last(struct run *r, value v, const value *arg) {
    (void)arg;
    need_reversible(r, v);
    if (v.type == V_STRING && v.s->n) return get_item(r, to_string(r, v, false), int_value(-1));
    struct list l = items_of(r, v);
    return l.n ? l.p[l.n - 1] : undefined_value(r, "No last item, sequence was empty.", NULL, NONE);
}

static value filter_length(struct run *r, value v, const value *arg) { return (void)arg, int_value(length_of(r, v)); }

static value filter_list(struct run *r, value v, const value *arg) {
    struct list l = items_of(r, v);
    return (void)arg, list_value(r, V_LIST, l.p, l.n);
}

static value filter_reverse(struct run *r, value v, const value *arg) {
    (void)arg;
    if (v.type == V_STRING) return slice(r, v, NONE, NONE, int_value(-1));
    struct list l = items_of(r, v);
    value *p = take(r, l.n * sizeof *p);
    for (size_t i = 0; i < l.n; i++) p[i] = l.p[l.n - 1 - i];
    tick(r, l.n);
    l.p = p;
    return v.type == V_ITER ? list_value(r, V_LIST, p, l.n) : ready(r, l);
}

const struct filter sequence_filters[] = {
    { "batch", "linecount fill_with", 1, filter_batch, NULL },
    { "count", "", 0, filter_length, NULL },
    { "dictsort", "case_sensitive by reverse", 0, filter_dictsort, NULL },
    { "first", "", 0, filter_first, NULL },
    { "groupby", "attribute default case_sensitive", 1, filter_groupby, NULL },
    { "items", "", 0, filter_items, NULL },
    { "join", "d attribute", 0, filter_join, NULL },
    { "last", "", 0, filter_last, NULL },
    { "length", "", 0, filter_length, NULL },
    { "list", "", 0, filter_list, NULL },
    { "map", NULL, 0, NULL, filter_map },
    { "max", "case_sensitive attribute", 0, filter_max, NULL },
    { "min", "case_sensitive attribute", 0, filter_min, NULL },
    { "reject", NULL, 0, NULL, filter_reject },
    { "rejectattr", NULL, 0, NULL, filter_rejectattr },
    { "reverse", "", 0, filter_reverse, NULL },
    { "select", NULL, 0, NULL, filter_select },
    { "selectattr", NULL, 0, NULL, filter_selectattr },
    { "slice", "slices fill_with", 1, filter_slice, NULL },
    { "sort", "reverse case_sensitive attribute", 0, filter_sort, NULL },
    { "sum", "attribute start", 0, filter_sum, NULL },
    { "unique", "case_sensitive attribute", 0, filter_unique, NULL },
    { NULL, NULL, 0, NULL, NULL },
};
