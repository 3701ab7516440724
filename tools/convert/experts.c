/* experts: checkpoints that transformers 5 saved in its own form have all experts of a layer in two tensors, experts.gate_up_proj
 * [experts][2 inner][width] (gates first) and experts.down_proj [experts][width][inner]. Here they become the tensors that the
 * family's table names, which are where they are: nothing is copied. It must not know families, only their patterns. */
#include <stdlib.h>
#include <string.h>

#include "tools/convert/families.h"

enum { NAME_SIZE = 256, MAX_EXPERTS = 4096 };

typedef struct splitter {
    checkpoint *c;
    st_tensor *list; /* the new one */
    size_t n, cap;
    err *e;
} splitter;

static int add(splitter *s, const st_tensor *t) {
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 1024;
        st_tensor *p = realloc(s->list, cap * sizeof *p);
        if (!p) return fail_memory(s->e, cap * sizeof *p, "the list of tensors");
        s->list = p;
        s->cap = cap;
    }
    return s->list[s->n++] = *t, 0;
}

/* Where the family has an expert's part: "experts.{e}.gate_up", part 1, is its up matrix. NULL: it has no experts. */
static const char *pattern_of(const checkpoint *c, const char *end, int part) {
    for (const weight *w = c->family->weights; w->name; w++)
        if (strstr(w->name, end)) return w->part[part].source;
    return NULL;
}

/* Is name PREFIX "layers.L." and then `rest`? */
static bool in_layer(const char *name, const char *rest, int *l) {
    const char *at = strstr(name, "layers.");
    char *end;
    if (!at || at[7] < '0' || at[7] > '9') return false;
    long v = strtol(at + 7, &end, 10);
    *l = (int)v;
    return v >= 0 && v < 1 << 20 && end[0] == '.' && strcmp(end + 1, rest) == 0;
}

static int add_named(splitter *s, st_tensor t, const char *pattern, int l, int expert) {
    char prefix[NAME_SIZE], name[NAME_SIZE];
    snprintf(prefix, sizeof prefix, "%.*s", (int)(strstr(t.name, "layers.") - t.name), t.name);
    pattern_expand(name, sizeof name, pattern, prefix, l, expert);
    if (!(t.name = arena_copy(&s->c->st.mem, name, strlen(name)))) return fail_memory(s->e, strlen(name), "a name");
    return add(s, &t);
}

/* `parts` matrices of each expert, one below the other. */
static int split(splitter *s, const st_tensor *t, int l, const char *const *patterns, uint64_t parts) {
    if (t->n_dims != 3 || t->dims[0] > MAX_EXPERTS || !t->dims[0] || t->dims[1] % parts)
        return fail(s->e, "%s: tensor %.200s: expected [experts][%srows][inputs], of at most %d experts",
                    s->c->st.shards[t->shard].path, t->name, parts == 2 ? "2 " : "", MAX_EXPERTS);
    st_tensor one = *t;
    uint64_t count = t->dims[0] * parts;
    one.n_dims = 2;
    one.dims[0] = t->dims[1] / parts;
    one.dims[1] = t->dims[2];
    one.n = t->n / count;
    one.bytes = t->bytes / count;
    for (uint64_t i = 0; i < count; i++) {
        one.at = t->at + i * one.bytes;
        if (add_named(s, one, patterns[i % parts], l, (int)(i / parts))) return -1;
    }
    return 0;
}

static int take(splitter *s, const st_tensor *t, const char *const *gate_up, const char *const *down, const char *router) {
    int l;
    if (in_layer(t->name, "mlp.experts.gate_up_proj", &l)) return split(s, t, l, gate_up, 2);
    if (in_layer(t->name, "mlp.experts.down_proj", &l)) return split(s, t, l, down, 1);
    if (in_layer(t->name, "mlp.gate.weight", &l)) return add_named(s, *t, router, l, 0);
    return add(s, t);
}

int experts_split(checkpoint *c, err *e) {
    const char *gate_up[] = { pattern_of(c, "experts.{e}.gate_up", 0), pattern_of(c, "experts.{e}.gate_up", 1) };
    const char *down[] = { pattern_of(c, "experts.{e}.down", 0) }, *router = pattern_of(c, ".router", 0);
    splitter s = { .c = c, .e = e };
    int l;
    size_t i = 0;
    while (i < c->st.n && !in_layer(c->st.tensors[i].name, "mlp.experts.gate_up_proj", &l)) i++;
    if (i == c->st.n || !gate_up[0] || !gate_up[1] || !down[0] || !router) return 0;
    for (i = 0; i < c->st.n; i++)
        if (take(&s, &c->st.tensors[i], gate_up, down, router)) return free(s.list), -1;
    free(c->st.tensors);
    c->st.tensors = s.list;
    c->st.n = s.n;
    c->st.cap = s.cap;
    return safetensors_sort(&c->st, e);
}
