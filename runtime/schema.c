/* schema: a JSON Schema into a network of rules (schema.h). A rule stands for values that all of a set of schemas allow: $ref and allOf add to
 * the set, anyOf and oneOf make alternatives of it, and what is left is merged kind by kind. Rules are made when a value first needs them,
 * so recursion ends by itself. It must not know tokens. */
#include "runtime/schema.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/grammar_build.h"
#include "runtime/grammar_parse.h"
#include "runtime/schema_parts.h"

typedef struct all_of { /* schemas that all hold */
    const json **s;
    uint32_t n, rule;
} all_of;

typedef struct compiler {
    schema_doc d;
    net n;
    all_of *set; /* those that have a rule; the first n_made of them are written */
    uint32_t n_sets, cap_sets, n_made;
    uint32_t gathered, n_leaves; /* bounds */
    bool raw;                    /* strings as they are, and nothing else */
} compiler;

enum { MAX_GATHERED = 200000, MAX_SETS = 20000, MAX_PLAIN = 256, MAX_ITEMS = 10000 };

/* ---- sets ---- */

static int by_address(const void *a, const void *b) {
    uintptr_t x = (uintptr_t)*(const json *const *)a, y = (uintptr_t)*(const json *const *)b;
    return (x > y) - (x < y);
}

static bool allows_all(const json *s) { return s->type == JSON_TRUE || (s->type == JSON_OBJECT && s->n == 0); }

/* The rule of values that all of these schemas allow. */
static int rule_of(compiler *c, const json **s, uint32_t n, uint32_t *rule) {
    uint32_t kept = 0;
    const json **copy = arena_alloc(&c->d.mem, (n + 1) * sizeof *copy);
    if (!copy) return fail_memory(c->d.e, n * sizeof *copy, "a schema");
    for (uint32_t i = 0; i < n; i++)
        if (!allows_all(s[i])) copy[kept++] = s[i];
    if (kept > 1) qsort(copy, kept, sizeof *copy, by_address);
    for (uint32_t i = n = 0; i < kept; i++)
        if (!n || copy[n - 1] != copy[i]) copy[n++] = copy[i];
    for (uint32_t i = 0; i < c->n_sets; i++)
        if (c->set[i].n == n && (n == 0 || memcmp(c->set[i].s, copy, n * sizeof *copy) == 0)) return *rule = c->set[i].rule, 0;
    if (c->n_sets == MAX_SETS) return fail_code(c->d.e, ERR_INPUT, "JSON schema: over %d different combinations of its parts", MAX_SETS);
    if (c->n_sets == c->cap_sets) {
        uint32_t cap = 2 * c->cap_sets + 32;
        all_of *p = realloc(c->set, cap * sizeof *p);
        if (!p) return fail_memory(c->d.e, cap * sizeof *p, "a schema");
        c->set = p;
        c->cap_sets = cap;
    }
    *rule = net_add_rule(&c->n, "value", 5);
    c->set[c->n_sets++] = (all_of){ copy, n, *rule };
    return 0;
}

/* ---- leaves: schemas without choices, all of which hold ---- */

typedef struct leaf {
    const json *plain[MAX_PLAIN];
    const json *choice[MAX_PLAIN]; /* anyOf and oneOf still to be decided */
    uint32_t n, n_choices;
    bool never;
} leaf;

typedef struct leaves { /* pointers: each a copy */
    leaf **p;
    uint32_t n;
} leaves;

static int add_leaf(compiler *c, leaves *out, const leaf *x) {
    if (++c->n_leaves > 64 * SCHEMA_MAX_CHOICES || out->n >= SCHEMA_MAX_CHOICES)
        return schema_bad(&c->d, x->n ? x->plain[0] : c->d.root, NULL, "its alternatives multiply to over %d", SCHEMA_MAX_CHOICES);
    if ((out->n & (out->n - 1)) == 0) {
        leaf **more = realloc(out->p, (out->n ? 2 * (size_t)out->n : 1) * sizeof *more);
        if (!more) return fail_memory(c->d.e, out->n * sizeof *more, "a schema");
        out->p = more;
    }
    leaf *copy = malloc(sizeof *copy);
    if (!copy) return fail_memory(c->d.e, sizeof *copy, "a schema");
    *copy = *x;
    out->p[out->n++] = copy;
    return 0;
}

static void free_leaves(leaves *l) {
    for (uint32_t i = 0; i < l->n; i++) free(l->p[i]);
    free(l->p);
    *l = (leaves){ 0 };
}

static int expect_list(compiler *c, const json *s, const char *keyword, const json **list) {
    *list = json_get(s, keyword);
    if (!*list) return 0;
    if ((*list)->type != JSON_ARRAY || !(*list)->n)
        return schema_bad(&c->d, s, keyword, "expected a list of schemas, found %s",
                          (*list)->type == JSON_ARRAY ? "none in it" : json_type_name(*list));
    return 0;
}

/* Keywords whose form nothing later looks at where their kind is not asked for. */
static int check_forms(compiler *c, const json *s) {
    const json *format = json_get(s, "format"), *pattern = json_get(s, "pattern"), *required = json_get(s, "required"), *list = json_get(s, "enum");
    if (format && (format->type != JSON_STRING || !format_pattern(format->s)))
        return schema_bad(&c->d, s, "format", "\"%.60s\" cannot be enforced; date, time, date-time, uuid, email, hostname, ipv4, ipv6 and uri can",
                          format->type == JSON_STRING ? format->s : json_type_name(format));
    if (pattern && pattern->type != JSON_STRING) return schema_bad(&c->d, s, "pattern", "expected a string, found %s", json_type_name(pattern));
    if (list && list->type != JSON_ARRAY) return schema_bad(&c->d, s, "enum", "expected a list of values, found %s", json_type_name(list));
    if (required && required->type != JSON_ARRAY)
        return schema_bad(&c->d, s, "required", "expected a list of names, found %s", json_type_name(required));
    for (const json *j = required ? required->child : NULL; j; j = j->next)
        if (j->type != JSON_STRING) return schema_bad(&c->d, s, "required", "expected a list of names, found %s in it", json_type_name(j));
    const json *properties = json_get(s, "properties"), *prefix;
    if (properties && properties->type != JSON_OBJECT)
        return schema_bad(&c->d, s, "properties", "expected an object, found %s", json_type_name(properties));
    const json *items = json_get(s, "items");
    if (items && items->type == JSON_ARRAY) return schema_bad(&c->d, s, "items", "a list of schemas here is an older draft's: write prefixItems");
    return expect_list(c, s, "prefixItems", &prefix);
}

/* Adds a schema and all that it refers to. */
static int gather(compiler *c, leaf *x, const json *s, int depth) {
    const json *list, *target;
    if (schema_keywords(&c->d, s)) return -1;
    if (s->type == JSON_FALSE) x->never = true;
    if (s->type != JSON_OBJECT) return 0;
    if (depth > 200) return schema_bad(&c->d, s, NULL, "it refers to itself without end");
    if (++c->gathered > MAX_GATHERED || x->n == MAX_PLAIN || x->n_choices + 2 > MAX_PLAIN)
        return schema_bad(&c->d, s, NULL, "too many schemas that hold together");
    for (uint32_t i = 0; i < x->n; i++)
        if (x->plain[i] == s) return json_get(s, "$ref") ? (schema_resolve(&c->d, s, &target) ? -1 : gather(c, x, target, depth + 1)) : 0;
    if (check_forms(c, s)) return -1;
    x->plain[x->n++] = s;
    static const char *const choices[] = { "anyOf", "oneOf" };
    for (int k = 0; k < 2; k++) {
        if (expect_list(c, s, choices[k], &list)) return -1;
        if (list) x->choice[x->n_choices++] = list;
    }
    if (expect_list(c, s, "allOf", &list)) return -1;
    for (const json *j = list ? list->child : NULL; j; j = j->next)
        if (gather(c, x, j, depth + 1)) return -1;
    if (!json_get(s, "$ref")) return 0;
    return schema_resolve(&c->d, s, &target) ? -1 : gather(c, x, target, depth + 1);
}

static bool is_listed(const json *s) { return json_get(s, "enum") || json_get(s, "const"); }

static bool leaf_listed(const leaf *x) {
    for (uint32_t i = 0; i < x->n; i++)
        if (is_listed(x->plain[i])) return true;
    return false;
}

static int apart(compiler *c, const leaf *x, const json *a, const json *b, int depth, bool *yes);

/* oneOf: no value may be valid for two of them. */
static int check_apart(compiler *c, const leaf *x, const json *list, int depth) {
    for (const json *a = list->child; a; a = a->next)
        for (const json *b = a->next; b; b = b->next) {
            bool yes;
            if (apart(c, x, a, b, depth, &yes)) return -1;
            if (!yes)
                return schema_bad(&c->d, list, NULL, "two of its alternatives may hold for one value, or it cannot be seen "
                                                     "that they do not: use anyOf, or tell them apart by a required property with another const");
        }
    return 0;
}

/* The leaves of x with its choices decided. */
static int decide(compiler *c, const leaf *x, leaves *out, int depth) {
    if (x->never) return 0;
    if (!x->n_choices || leaf_listed(x)) return add_leaf(c, out, x); /* values that are listed are tried against everything */
    if (depth > 40) return schema_bad(&c->d, x->plain[0], NULL, "alternatives nested too deep");
    leaf *y = malloc(2 * sizeof *y), *base = y + 1;
    if (!y) return fail_memory(c->d.e, 2 * sizeof *y, "a schema");
    *base = *x;
    const json *list = base->choice[--base->n_choices];
    int rc = list->key_n == 5 && memcmp(list->key, "oneOf", 5) == 0 && list->n > 1 ? check_apart(c, base, list, depth + 1) : 0;
    for (const json *j = list->child; j && !rc; j = j->next) {
        *y = *base;
        rc = gather(c, y, j, 0);
        if (!rc) rc = decide(c, y, out, depth + 1);
    }
    free(y);
    return rc;
}

static int find_leaves(compiler *c, const json *const *s, uint32_t n, leaves *out, int depth) {
    leaf *x = calloc(1, sizeof *x);
    int rc = x ? 0 : fail_memory(c->d.e, sizeof *x, "a schema");
    for (uint32_t i = 0; i < n && !rc; i++) rc = gather(c, x, s[i], 0);
    if (!rc) rc = decide(c, x, out, depth);
    free(x);
    return rc;
}

/* ---- what a leaf says of each kind ---- */

static int leaf_kinds(compiler *c, const leaf *x, int *kinds) {
    *kinds = KIND_ANY;
    for (uint32_t i = 0; i < x->n; i++) {
        int k;
        if (schema_kinds(&c->d, x->plain[i], &k)) return -1;
        *kinds &= k;
    }
    return 0;
}

static int leaf_counts(compiler *c, const leaf *x, const char *low, const char *high, uint32_t *min, uint32_t *max) {
    *min = 0;
    *max = NET_NONE;
    for (uint32_t i = 0; i < x->n; i++) {
        uint32_t a = 0, b = NET_NONE;
        if (schema_count(&c->d, x->plain[i], low, &a) || schema_count(&c->d, x->plain[i], high, &b)) return -1;
        if (a > *min) *min = a;
        if (b < *max) *max = b;
    }
    return 0;
}

static const json *member(const json *object, const char *key, uint32_t n) {
    const json *found = NULL;
    for (const json *j = object && object->type == JSON_OBJECT ? object->child : NULL; j; j = j->next)
        if (j->key_n == n && memcmp(j->key, key, n) == 0) found = j;
    return found;
}

/* The schemas of a property of this name; of other names where key is NULL. */
static uint32_t property_schemas(const leaf *x, const char *key, uint32_t n, const json **out) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < x->n; i++) {
        const json *p = key ? member(json_get(x->plain[i], "properties"), key, n) : NULL;
        if (!p) p = json_get(x->plain[i], "additionalProperties");
        if (p) out[count++] = p;
    }
    return count;
}

static uint32_t item_schemas(const leaf *x, uint32_t at, const json **out) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < x->n; i++) {
        const json *prefix = json_get(x->plain[i], "prefixItems"), *p = prefix ? prefix->child : NULL;
        for (uint32_t k = 0; p && k < at; k++) p = p->next;
        if (!p) p = json_get(x->plain[i], "items");
        if (p) out[count++] = p;
    }
    return count;
}

static bool is_required(const leaf *x, const char *key, uint32_t n) {
    for (uint32_t i = 0; i < x->n; i++) {
        const json *r = json_get(x->plain[i], "required");
        for (const json *j = r ? r->child : NULL; j; j = j->next)
            if (j->n == n && memcmp(j->s, key, n) == 0) return true;
    }
    return false;
}

/* ---- is there a value for two leaves? ---- */

static int values_meet(compiler *c, const leaf *a, const leaf *b, bool *meet);

static int sets_apart(compiler *c, const json **a, uint32_t n_a, const json **b, uint32_t n_b, int depth, bool *yes);

static int numbers_apart(compiler *c, const leaf *a, const leaf *b, bool *yes) {
    number_limits *l = calloc(2, sizeof *l);
    int rc = l ? 0 : fail_memory(c->d.e, 2 * sizeof *l, "a schema");
    for (uint32_t i = 0; i < a->n && !rc; i++) rc = schema_number(&c->d, a->plain[i], l);
    for (uint32_t i = 0; i < b->n && !rc; i++) rc = schema_number(&c->d, b->plain[i], l + 1);
    *yes = false;
    for (int k = 0; k < 2 && !rc; k++) {
        const number_limits *low = l + k, *high = l + 1 - k;
        int cmp = low->has_low && high->has_high ? decimal_compare(&low->low, &high->high) : -1;
        *yes |= cmp > 0 || (cmp == 0 && (low->low_open || high->high_open));
    }
    free(l);
    return rc;
}

static int counts_apart(compiler *c, const leaf *a, const leaf *b, const char *low, const char *high, bool *yes) {
    uint32_t min[2], max[2];
    if (leaf_counts(c, a, low, high, min, max) || leaf_counts(c, b, low, high, min + 1, max + 1)) return -1;
    *yes = min[0] > max[1] || min[1] > max[0];
    return 0;
}

/* A property that both must have, or one must and the other may not, and whose values differ. */
static int objects_apart(compiler *c, const leaf *a, const leaf *b, int depth, bool *yes) {
    const json *pa[MAX_PLAIN], *pb[MAX_PLAIN];
    *yes = false;
    for (int side = 0; side < 2 && !*yes; side++) {
        const leaf *x = side ? b : a, *y = side ? a : b;
        for (uint32_t i = 0; i < x->n && !*yes; i++) {
            const json *r = json_get(x->plain[i], "required");
            for (const json *j = r ? r->child : NULL; j && !*yes; j = j->next) {
                uint32_t n = property_schemas(x, j->s, j->n, pa), m = property_schemas(y, j->s, j->n, pb);
                bool never = false;
                for (uint32_t k = 0; k < m; k++) never |= pb[k]->type == JSON_FALSE;
                if (never) *yes = true;
                else if (is_required(y, j->s, j->n) && sets_apart(c, pa, n, pb, m, depth + 1, yes)) return -1;
            }
        }
    }
    return 0;
}

static int leaves_apart(compiler *c, const leaf *a, const leaf *b, int depth, bool *yes) {
    int ka, kb;
    *yes = false;
    if (leaf_listed(a) || leaf_listed(b)) {
        bool meet;
        if (values_meet(c, leaf_listed(a) ? a : b, leaf_listed(a) ? b : a, &meet)) return -1;
        return *yes = !meet, 0;
    }
    if (leaf_kinds(c, a, &ka) || leaf_kinds(c, b, &kb)) return -1;
    int both = ka & kb;
    *yes = !both;
    if (!both || (both & (KIND_NULL | KIND_BOOL)) || depth > 8) return 0;
    *yes = true;
    if ((both & (KIND_INT | KIND_FRACTION)) && numbers_apart(c, a, b, yes)) return -1;
    if (*yes && (both & KIND_STRING) && counts_apart(c, a, b, "minLength", "maxLength", yes)) return -1;
    if (*yes && (both & KIND_ARRAY) && counts_apart(c, a, b, "minItems", "maxItems", yes)) return -1;
    return *yes && (both & KIND_OBJECT) ? objects_apart(c, a, b, depth, yes) : 0;
}

static int all_apart(compiler *c, const leaves *a, const leaves *b, int depth, bool *yes) {
    *yes = true;
    for (uint32_t i = 0; i < a->n && *yes; i++)
        for (uint32_t k = 0; k < b->n && *yes; k++)
            if (leaves_apart(c, a->p[i], b->p[k], depth, yes)) return -1;
    return 0;
}

static int sets_apart(compiler *c, const json **a, uint32_t n_a, const json **b, uint32_t n_b, int depth, bool *yes) {
    leaves x = { 0 }, y = { 0 };
    *yes = false;
    if (depth > 8) return 0;
    int rc = find_leaves(c, a, n_a, &x, depth) || find_leaves(c, b, n_b, &y, depth) ? -1 : all_apart(c, &x, &y, depth, yes);
    free_leaves(&x);
    free_leaves(&y);
    return rc;
}

/* Is no value valid for x with a and for x with b? */
static int apart(compiler *c, const leaf *x, const json *a, const json *b, int depth, bool *yes) {
    leaves la = { 0 }, lb = { 0 };
    leaf *y = malloc(sizeof *y);
    int rc = y ? 0 : fail_memory(c->d.e, sizeof *y, "a schema");
    for (int k = 0; k < 2 && !rc; k++) {
        *y = *x;
        y->n_choices = 0; /* those hold as well, and can only take values away */
        rc = gather(c, y, k ? b : a, 0);
        if (!rc) rc = decide(c, y, k ? &lb : &la, depth + 1);
    }
    if (!rc) rc = all_apart(c, &la, &lb, depth, yes);
    free(y);
    free_leaves(&la);
    free_leaves(&lb);
    return rc;
}

/* ---- listed values ---- */

static int valid_for(compiler *c, const json *v, const leaf *x) {
    int rc = 1;
    for (uint32_t i = 0; i < x->n && rc == 1; i++) rc = schema_valid(&c->d, v, x->plain[i], 0);
    return rc;
}

/* The list that a leaf's values are taken from; *one: it is the value itself. */
static const json *listed(const leaf *x, bool *one) {
    for (uint32_t i = 0; i < x->n; i++) {
        const json *v = json_get(x->plain[i], "const"), *list = json_get(x->plain[i], "enum");
        *one = v != NULL;
        if (v || list) return v ? v : list;
    }
    return NULL;
}

/* Does a value that a lists hold for b as well? */
static int values_meet(compiler *c, const leaf *a, const leaf *b, bool *meet) {
    bool one;
    const json *list = listed(a, &one);
    *meet = false;
    for (const json *v = one ? list : list->child; v; v = one ? NULL : v->next) {
        int rc = 1; /* without the choices: both leaves come of one of them, and hold what was chosen */
        for (uint32_t i = 0; i < a->n && rc == 1; i++) rc = schema_valid_alone(&c->d, v, a->plain[i], 0);
        for (uint32_t i = 0; i < b->n && rc == 1; i++) rc = schema_valid_alone(&c->d, v, b->plain[i], 0);
        if (rc < 0) return -1;
        *meet |= rc == 1;
    }
    return 0;
}

static uint32_t rule_at(const net *n, uint32_t state) { return n->failed || n->too_large ? 0 : n->state[state].rule; }

/* A state behind at, with or without space between. */
static uint32_t spaced(net *n, uint32_t at) {
    uint32_t to = net_add_state(n, rule_at(n, at));
    net_empty(n, at, to);
    net_call(n, at, n->space, to);
    return to;
}

static uint32_t emit_text(net *n, uint32_t at, const char *s, uint32_t len) {
    buf b = { 0 };
    buf_byte(&b, '"');
    json_text(&b, s, len);
    buf_byte(&b, '"');
    n->failed |= b.failed;
    if (!b.failed) at = net_literal(n, at, b.p, b.n);
    buf_free(&b);
    return at;
}

static uint32_t emit_value(net *n, uint32_t at, const json *v);

static uint32_t value_rule(net *n, const json *v) {
    uint32_t rule = net_add_rule(n, "value", 5);
    if (n->failed || n->too_large) return 0;
    uint32_t end = emit_value(n, n->rule[rule].start, v);
    if (!n->failed && !n->too_large) net_empty(n, end, n->rule[rule].end);
    return rule;
}

/* An object that is listed: its keys may come in any order. */
static uint32_t emit_object_value(net *n, uint32_t at, const json *v) {
    net_property *p = malloc((v->n + 1) * sizeof *p);
    uint32_t count = 0, to = net_add_state(n, rule_at(n, at));
    n->failed |= !p;
    for (const json *k = v->child; k && !n->failed && !n->too_large; k = k->next) {
        if (member(v, k->key, k->key_n) != k) continue; /* the last of equal names counts */
        buf name = { 0 };
        json_text(&name, k->key, k->key_n);
        const char *copy = arena_copy(&n->mem, name.p ? name.p : "", name.n);
        n->failed |= !copy || name.failed;
        p[count++] = (net_property){ .name = copy, .n = (uint32_t)name.n, .rule = value_rule(n, k), .required = true };
        buf_free(&name);
    }
    if (!n->failed && !n->too_large) net_call(n, at, net_add_object(n, "object", p, count, NET_NONE, 0, NET_NONE), to);
    free(p);
    return to;
}

/* As it is written in the schema, and a whole one also without its point. */
static uint32_t emit_number_value(net *n, uint32_t at, const json *v) {
    decimal d;
    char whole[24];
    uint32_t to = net_literal(n, at, v->s, v->n);
    if (decimal_parse(&d, v->s) || !decimal_whole(&d) || d.point > 18) return to;
    int len = 0;
    if (d.sign < 0) whole[len++] = '-';
    for (int i = 0; i < d.point; i++) whole[len++] = i < d.n ? d.digit[i] : '0';
    if (!d.n) whole[len++] = '0';
    if ((uint32_t)len == v->n && memcmp(whole, v->s, v->n) == 0) return to;
    net_empty(n, net_literal(n, at, whole, (size_t)len), to);
    return to;
}

static uint32_t emit_value(net *n, uint32_t at, const json *v) {
    switch (v->type) {
    case JSON_NULL: return net_literal(n, at, "null", 4);
    case JSON_FALSE: return net_literal(n, at, "false", 5);
    case JSON_TRUE: return net_literal(n, at, "true", 4);
    case JSON_NUMBER: return emit_number_value(n, at, v);
    case JSON_STRING: return emit_text(n, at, v->s, v->n);
    case JSON_OBJECT: return emit_object_value(n, at, v);
    case JSON_ARRAY: break;
    }
    at = spaced(n, net_literal(n, at, "[", 1));
    for (const json *k = v->child; k && !n->failed && !n->too_large; k = k->next) {
        at = emit_value(n, at, k);
        at = k->next ? spaced(n, net_literal(n, at, ",", 1)) : spaced(n, at);
    }
    return net_literal(n, at, "]", 1);
}

/* The values that are listed and valid. */
static int emit_listed(compiler *c, const leaf *x, uint32_t from, uint32_t to) {
    bool one;
    const json *list = listed(x, &one);
    for (const json *v = one ? list : list->child; v; v = one ? NULL : v->next) {
        int rc = valid_for(c, v, x);
        if (rc < 0) return -1;
        if (rc && !c->raw) net_empty(&c->n, emit_value(&c->n, from, v), to);
        if (rc && c->raw && v->type == JSON_STRING && string_is_raw(v->s, v->n)) net_empty(&c->n, net_literal(&c->n, from, v->s, v->n), to);
    }
    return 0;
}

/* ---- kinds ---- */

static int emit_number(compiler *c, const leaf *x, int kinds, uint32_t from, uint32_t to) {
    number_limits *l = calloc(1, sizeof *l);
    int rc = l ? 0 : fail_memory(c->d.e, sizeof *l, "a schema");
    for (uint32_t i = 0; i < x->n && !rc; i++) rc = schema_number(&c->d, x->plain[i], l);
    if (!rc) {
        l->whole |= !(kinds & KIND_FRACTION);
        const char *why = number_emit(&c->n, from, to, l);
        if (why) rc = schema_bad(&c->d, x->n ? x->plain[0] : c->d.root, NULL, "%s", why);
    }
    free(l);
    return rc;
}

static int add_pattern(compiler *c, const json *s, const char *keyword, const char *p, size_t n, string_limits *l) {
    err inner = { 0 };
    if (l->n_patterns == MAX_PATTERNS) return schema_bad(&c->d, s, keyword, "over %d patterns that hold together", MAX_PATTERNS);
    if (char_nfa_parse(&l->pattern[l->n_patterns++], p, n, &inner)) return schema_bad(&c->d, s, keyword, "%s", inner.msg);
    return 0;
}

static int emit_string(compiler *c, const leaf *x, uint32_t from, uint32_t to) {
    string_limits l = { .raw = c->raw };
    err inner = { 0 };
    int rc = leaf_counts(c, x, "minLength", "maxLength", &l.min, &l.max);
    for (uint32_t i = 0; i < x->n && !rc; i++) {
        const json *p = json_get(x->plain[i], "pattern"), *f = json_get(x->plain[i], "format");
        if (p) rc = add_pattern(c, x->plain[i], "pattern", p->s, p->n, &l);
        if (f && !rc) rc = add_pattern(c, x->plain[i], "format", format_pattern(f->s), strlen(format_pattern(f->s)), &l);
    }
    if (!rc && string_emit(&c->n, from, to, &l, &inner)) rc = schema_bad(&c->d, x->plain[0], NULL, "%s", inner.msg);
    for (int i = 0; i < l.n_patterns; i++) char_nfa_free(&l.pattern[i]);
    return rc;
}

static uint32_t longest_prefix(const leaf *x) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < x->n; i++) {
        const json *p = json_get(x->plain[i], "prefixItems");
        if (p && p->n > most) most = p->n;
    }
    return most;
}

/* Items one after the other; from the last that is counted on, the same again and again. */
static int emit_array(compiler *c, const leaf *x, uint32_t from, uint32_t to) {
    net *n = &c->n;
    const json *items[MAX_PLAIN];
    uint32_t min, max, rule = rule_at(n, from), prefix = longest_prefix(x), first, value = 0;
    if (leaf_counts(c, x, "minItems", "maxItems", &min, &max)) return -1;
    uint32_t same = prefix > min ? prefix : min; /* items from here on are alike */
    if (max != NET_NONE) same = max;
    if (same > MAX_ITEMS) return schema_bad(&c->d, x->plain[0], NULL, "counts of over %d items cannot be kept", MAX_ITEMS);
    if (min > max) return 0;
    uint32_t close = net_add_state(n, rule), at;
    net_bytes(n, close, ']', ']', to);
    first = spaced(n, net_literal(n, from, "[", 1));
    if (min == 0) net_empty(n, first, close);
    at = first;
    for (uint32_t i = 0; i < same || (i == same && max == NET_NONE); i++) {
        uint32_t behind = net_add_state(n, rule), next = net_add_state(n, rule);
        if (rule_of(c, items, item_schemas(x, i, items), &value)) return -1;
        net_call(n, at, value, behind);
        if (i + 1 >= min) net_empty(n, spaced(n, behind), close);
        net_bytes(n, behind, ',', ',', next);
        next = spaced(n, next);
        if (i == same) net_call(n, next, value, behind);
        at = next;
    }
    return 0;
}

/* Adds a property of this name, once. */
static int add_property(compiler *c, const leaf *x, const char *key, uint32_t key_n, net_property *p, uint32_t *n) {
    const json *s[MAX_PLAIN];
    buf name = { 0 };
    json_text(&name, key, key_n);
    uint32_t len = (uint32_t)name.n;
    const char *copy = arena_copy(&c->n.mem, name.p ? name.p : "", name.n);
    buf_free(&name);
    if (!copy) return fail_memory(c->d.e, len, "a schema");
    for (uint32_t i = 0; i < *n; i++)
        if (p[i].n == len && memcmp(p[i].name, copy, len) == 0) return 0;
    if (*n == SCHEMA_MAX_PROPERTIES) return schema_bad(&c->d, x->plain[0], NULL, "an object of over %d properties", SCHEMA_MAX_PROPERTIES);
    p[*n] = (net_property){ .name = copy, .n = len, .required = is_required(x, key, key_n) };
    return rule_of(c, s, property_schemas(x, key, key_n, s), &p[(*n)++].rule);
}

static int list_properties(compiler *c, const leaf *x, net_property *p, uint32_t *n) {
    for (uint32_t i = 0; i < x->n; i++) {
        const json *properties = json_get(x->plain[i], "properties"), *required = json_get(x->plain[i], "required");
        for (const json *j = properties ? properties->child : NULL; j; j = j->next)
            if (add_property(c, x, j->key, j->key_n, p, n)) return -1;
        for (const json *j = required ? required->child : NULL; j; j = j->next)
            if (add_property(c, x, j->s, j->n, p, n)) return -1;
    }
    return 0;
}

static int emit_object(compiler *c, const leaf *x, uint32_t from, uint32_t to) {
    const json *s[MAX_PLAIN];
    net_property *p = malloc((SCHEMA_MAX_PROPERTIES + 1) * sizeof *p);
    uint32_t n = 0, min = 0, max = NET_NONE, additional = NET_NONE;
    int rc = p ? leaf_counts(c, x, "minProperties", "maxProperties", &min, &max) : fail_memory(c->d.e, sizeof *p, "a schema");
    if (!rc) rc = list_properties(c, x, p, &n);
    if (!rc) rc = rule_of(c, s, property_schemas(x, NULL, 0, s), &additional);
    if (!rc) net_call(&c->n, from, net_add_object(&c->n, "object", p, n, additional, min, max), to);
    free(p);
    return rc;
}

static int emit_leaf(compiler *c, const leaf *x, uint32_t from, uint32_t to) {
    int kinds;
    if (leaf_listed(x)) return emit_listed(c, x, from, to);
    if (leaf_kinds(c, x, &kinds)) return -1;
    if (c->raw) kinds &= KIND_STRING;
    if (kinds & KIND_NULL) net_empty(&c->n, net_literal(&c->n, from, "null", 4), to);
    if (kinds & KIND_BOOL) {
        net_empty(&c->n, net_literal(&c->n, from, "true", 4), to);
        net_empty(&c->n, net_literal(&c->n, from, "false", 5), to);
    }
    if ((kinds & KIND_INT) && emit_number(c, x, kinds, from, to)) return -1;
    if ((kinds & KIND_STRING) && emit_string(c, x, from, to)) return -1;
    if ((kinds & KIND_ARRAY) && emit_array(c, x, from, to)) return -1;
    return kinds & KIND_OBJECT ? emit_object(c, x, from, to) : 0;
}

/* ---- the whole ---- */

static int make_rules(compiler *c) {
    while (c->n_made < c->n_sets && !c->n.failed && !c->n.too_large) {
        all_of set = c->set[c->n_made++];
        leaves l = { 0 };
        uint32_t from = c->n.rule[set.rule].start, to = c->n.rule[set.rule].end;
        int rc = find_leaves(c, set.s, set.n, &l, 0);
        for (uint32_t i = 0; i < l.n && !rc && !c->n.failed && !c->n.too_large; i++) rc = emit_leaf(c, l.p[i], from, to);
        free_leaves(&l);
        if (rc) return -1;
    }
    return 0;
}

static int make_root(compiler *c) {
    uint32_t root, value = 0;
    const json *s = c->d.root;
    net_json(&c->n);
    root = net_add_rule(&c->n, "root", 4);
    if (rule_of(c, &s, 1, &value)) return -1;
    if (!c->n.failed && !c->n.too_large) net_call(&c->n, spaced(&c->n, c->n.rule[root].start), value, c->n.rule[root].end);
    if (make_rules(c)) return -1;
    err inner = { 0 };
    if (net_finish(&c->n, root, &inner) == 0) return 0;
    if (inner.code == ERR_INPUT && !c->n.too_large)
        return schema_bad(&c->d, c->d.root, NULL, "no value satisfies it, or none that can be written in so many digits and characters");
    return fail_code(c->d.e, inner.code, "%s", inner.msg);
}

static int compile_schema(grammar **g, const vocabulary *v, compiler *c) {
    int rc = make_root(c);
    if (!rc) rc = grammar_of_net(g, v, &c->n, c->d.e);
    net_free(&c->n);
    free(c->set);
    arena_free(&c->d.mem);
    return rc;
}

int schema_compile(grammar **g, const vocabulary *v, const char *schema, size_t n, err *e) {
    compiler c = { .d.e = e };
    err inner = { 0 };
    *g = NULL;
    if (json_parse(&c.d.mem, schema, n, &c.d.root, &inner) == 0) return compile_schema(g, v, &c);
    arena_free(&c.d.mem);
    return fail_code(e, inner.code, "JSON schema: %s", inner.msg);
}

/* ---- within a grammar ---- */

typedef struct outside_rules {
    const schema_rule *r;
    int n, at;
} outside_rules;

/* The net is lent to a compiler of this one schema. */
static int define_by_schema(net *n, const schema_rule *r, uint32_t rule, err *e) {
    compiler c = { .d.e = e, .n = *n, .raw = r->raw };
    err inner = { 0 };
    uint32_t value = 0;
    int rc = json_parse(&c.d.mem, r->schema, r->n, &c.d.root, &inner) ? fail_code(e, inner.code, "JSON schema: %s", inner.msg) : 0;
    const json *s = rc || !r->at ? c.d.root : schema_at(c.d.root, r->at);
    if (!rc && !s) rc = fail_code(e, ERR_INPUT, "JSON schema: #%s leads nowhere", r->at);
    if (!rc && c.n.text == NET_NONE) net_json(&c.n);
    if (!rc && !c.n.failed && !c.n.too_large) rc = rule_of(&c, &s, 1, &value);
    if (!rc && !c.n.failed && !c.n.too_large) net_call(&c.n, c.n.rule[rule].start, value, c.n.rule[rule].end);
    if (!rc) rc = make_rules(&c);
    *n = c.n;
    free(c.set);
    arena_free(&c.d.mem);
    return rc;
}

static int define_outside(void *arg, net *n, const char *name, uint32_t rule, err *e) {
    outside_rules *o = arg;
    for (int i = 0; i < o->n; i++) {
        if (strcmp(o->r[i].name, name)) continue;
        o->at = i;
        if (define_by_schema(n, &o->r[i], rule, e)) return -1;
        o->at = -1;
        return 1;
    }
    return 0;
}

int schema_compile_within(grammar **g, const vocabulary *v, const char *gbnf, size_t n, const schema_rule *r, int n_rules, int *which, err *e) {
    net made = { 0 };
    outside_rules o = { r, n_rules, -1 };
    *g = NULL;
    int rc = gbnf_parse(&made, gbnf, n, &(gbnf_outside){ define_outside, &o }, e);
    *which = o.at;
    if (!rc) return grammar_of_net(g, v, &made, e);
    net_free(&made);
    return -1;
}

int schema_any_object(grammar **g, const vocabulary *v, err *e) {
    static const char any[] = "{\"type\":\"object\"}";
    return schema_compile(g, v, any, sizeof any - 1, e);
}
