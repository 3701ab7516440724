/* grammar_object: the keys of a JSON object: each at most once, in any order, the required ones before it closes. It owns what is kept of
 * the keys so far; the way a key is written is unique (json_text_step), so equal keys have equal bytes. It must not know stacks. */
#include "runtime/grammar_object.h"

#include <string.h>

enum { MAX_WORDS = 256 }; /* of bits: properties are limited to 64 times as many by schema.c */

typedef union room {
    object_data d;
    uint64_t raw[sizeof(object_data) / 8 + MAX_WORDS];
} room;

typedef struct other {
    uint32_t key, before; /* blobs */
} other;

static uint32_t words(const net_object *o) { return (o->n + 63) / 64; }

static uint32_t size(const net_object *o) { return (uint32_t)sizeof(object_data) + 8 * words(o); }

static void get(const stacks *s, const net_object *o, uint32_t data, room *r) {
    uint32_t n;
    const void *p = stacks_blob_at(s, data, &n);
    memset(r, 0, size(o));
    if (n) memcpy(r, p, n);
}

static uint32_t put(stacks *s, const net_object *o, const room *r) { return stacks_blob(s, r, size(o)); }

static const object_data *look(const stacks *s, uint32_t data) {
    uint32_t n;
    static const object_data none = { 0 };
    const object_data *d = stacks_blob_at(s, data, &n);
    return n ? d : &none;
}

uint32_t object_begin(stacks *s, const net_object *o) {
    room r;
    memset(&r, 0, size(o));
    return put(s, o, &r);
}

static bool has(const object_data *d, uint32_t i) { return d->seen[i / 64] >> (i % 64) & 1; }

static uint32_t missing(const net_object *o, const object_data *d) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < o->n; i++) n += o->p[i].required && !has(d, i);
    return n;
}

/* May property i come now, so that those required still can? */
static bool may_come(const net_object *o, const object_data *d, uint32_t i, uint32_t n_missing) {
    if (o->p[i].rule == NET_NONE || has(d, i)) return false;
    return (uint64_t)d->count + 1 + n_missing - o->p[i].required <= o->max;
}

static bool other_may_come(const net_object *o, const object_data *d, uint32_t n_missing) {
    return o->additional != NET_NONE && (uint64_t)d->count + 1 + n_missing <= o->max;
}

bool object_may_close(const stacks *s, const net_object *o, uint32_t data) {
    const object_data *d = look(s, data);
    return d->count >= o->min && missing(o, d) == 0;
}

bool object_may_go_on(const stacks *s, const net_object *o, uint32_t data) {
    const object_data *d = look(s, data);
    uint32_t n_missing = missing(o, d);
    if (other_may_come(o, d, n_missing)) return true;
    for (uint32_t i = 0; i < o->n; i++)
        if (may_come(o, d, i, n_missing)) return true;
    return false;
}

uint32_t object_value(const stacks *s, uint32_t data) { return look(s, data)->value; }

uint32_t object_settled(stacks *s, const net_object *o, uint32_t data) {
    room r;
    get(s, o, data, &r);
    r.d.value = 0;
    return put(s, o, &r);
}

/* ---- keys ---- */

/* The properties whose names begin so: [*from, *to), by their order. */
static void range_of(const net_object *o, const char *prefix, uint32_t n, uint32_t *from, uint32_t *to) {
    uint32_t lo[2];
    for (int upper = 0; upper < 2; upper++) {
        uint32_t a = 0, b = o->n;
        while (a < b) {
            uint32_t mid = (a + b) / 2, m = o->p[mid].n < n ? o->p[mid].n : n;
            int c = m ? memcmp(o->p[mid].name, prefix, m) : 0;
            bool below = c < 0 || (c == 0 && o->p[mid].n < n) || (c == 0 && upper);
            if (below) a = mid + 1;
            else b = mid;
        }
        lo[upper] = a;
    }
    *from = lo[0];
    *to = lo[1];
}

static bool begins_name(const net_object *o, const object_data *d, const char *prefix, uint32_t n, bool usable) {
    uint32_t from, to, n_missing = usable ? missing(o, d) : 0;
    range_of(o, prefix, n, &from, &to);
    for (; from < to; from++)
        if (!usable || may_come(o, d, from, n_missing)) return true;
    return false;
}

/* Does another key that came begin so? whole: is it this? */
static bool begins_other(const stacks *s, const object_data *d, const char *prefix, uint32_t n, bool whole) {
    for (uint32_t id = d->others, k; id;) {
        other x;
        memcpy(&x, stacks_blob_at(s, id, &k), sizeof x);
        const char *p = stacks_blob_at(s, x.key, &k);
        if ((whole ? k == n : k >= n) && (n == 0 || memcmp(p, prefix, n) == 0)) return true;
        id = x.before;
    }
    return false;
}

static uint32_t longer(stacks *s, uint32_t prefix, uint8_t byte) {
    uint32_t n;
    char small[256];
    const char *p = stacks_blob_at(s, prefix, &n);
    if (n < sizeof small) {
        if (n) memcpy(small, p, n);
        small[n] = (char)byte;
        return stacks_blob(s, small, n + 1);
    }
    buf b = { 0 };
    buf_add(&b, p, n);
    buf_byte(&b, byte);
    uint32_t id = b.failed ? 0 : stacks_blob(s, b.p, n + 1);
    s->no_memory |= b.failed;
    buf_free(&b);
    return id;
}

static uint32_t key_byte(stacks *s, const net_object *o, uint32_t *data, uint8_t byte) {
    room r;
    uint32_t n;
    get(s, o, *data, &r);
    int text = json_text_step(r.d.text, byte);
    if (text < 0) return PHASES;
    r.d.text = (uint8_t)text;
    if (!r.d.apart) {
        r.d.prefix = longer(s, r.d.prefix, byte);
        const char *p = stacks_blob_at(s, r.d.prefix, &n);
        bool free_key = other_may_come(o, &r.d, missing(o, &r.d));
        if (!free_key && !begins_name(o, &r.d, p, n, true)) return PHASES;
        if (free_key && s->walking && !begins_name(o, &r.d, p, n, false) && !begins_other(s, &r.d, p, n, false)) {
            r.d.prefix = 0;
            r.d.apart = true;
        }
    }
    *data = put(s, o, &r);
    return PHASE_KEY;
}

/* The key's closing quote: which property is it, and may it come? */
static uint32_t key_end(stacks *s, const net_object *o, uint32_t *data) {
    room r;
    uint32_t n, from, to;
    get(s, o, *data, &r);
    if (r.d.text) return PHASES;
    const char *p = stacks_blob_at(s, r.d.prefix, &n);
    range_of(o, p, n, &from, &to);
    uint32_t n_missing = missing(o, &r.d);
    if (!r.d.apart && from < to && o->p[from].n == n) {
        if (!may_come(o, &r.d, from, n_missing)) return PHASES;
        r.d.seen[from / 64] |= UINT64_C(1) << (from % 64);
        r.d.value = o->p[from].rule;
    } else {
        if (!other_may_come(o, &r.d, n_missing) || r.d.lost || (!r.d.apart && begins_other(s, &r.d, p, n, true))) return PHASES;
        other x = { r.d.prefix, r.d.others };
        if (r.d.apart) r.d.lost = true;
        else r.d.others = stacks_blob(s, &x, sizeof x);
        r.d.value = o->additional;
    }
    r.d.count++;
    r.d.prefix = 0;
    r.d.apart = false;
    *data = put(s, o, &r);
    return PHASE_COLON;
}

uint32_t object_byte(stacks *s, const net_object *o, uint32_t phase, uint32_t *data, uint8_t byte) {
    switch (phase) {
    case PHASE_START: return byte == '{' ? *data = object_begin(s, o), (uint32_t)PHASE_OPEN : (uint32_t)PHASES;
    case PHASE_OPEN:
    case PHASE_OPENED:
        if (byte == '}') return object_may_close(s, o, *data) ? PHASE_END : PHASES;
        return byte == '"' && object_may_go_on(s, o, *data) ? PHASE_KEY : PHASES;
    case PHASE_NEXT:
    case PHASE_KEYED: return byte == '"' && object_may_go_on(s, o, *data) ? PHASE_KEY : PHASES;
    case PHASE_KEY: return byte == '"' && look(s, *data)->text == 0 ? key_end(s, o, data) : key_byte(s, o, data, byte);
    case PHASE_COLON: return byte == ':' ? PHASE_VALUE : PHASES;
    case PHASE_AFTER:
        if (byte == ',') return object_may_go_on(s, o, *data) ? PHASE_NEXT : PHASES;
        return byte == '}' && object_may_close(s, o, *data) ? PHASE_END : PHASES;
    case PHASE_CLOSE: return byte == '}' && object_may_close(s, o, *data) ? PHASE_END : PHASES;
    default: return PHASES;
    }
}

/* ---- for masks, and for other stacks ---- */

uint32_t object_for_walk(stacks *s, const net_object *o, uint32_t phase, uint32_t data) {
    room r;
    uint32_t n;
    get(s, o, data, &r);
    if (phase != PHASE_KEY || r.d.apart || !r.d.prefix || !other_may_come(o, &r.d, missing(o, &r.d))) return data;
    const char *p = stacks_blob_at(s, r.d.prefix, &n);
    if (begins_name(o, &r.d, p, n, false) || begins_other(s, &r.d, p, n, false)) return data;
    r.d.apart = true;
    r.d.prefix = 0;
    return put(s, o, &r);
}

static uint32_t copy_blob(stacks *to, const stacks *from, uint32_t id) {
    uint32_t n;
    const void *p = stacks_blob_at(from, id, &n);
    return stacks_blob(to, p, n);
}

/* The list of other keys, its oldest first. */
static uint32_t copy_others(stacks *to, const stacks *from, uint32_t list) {
    buf keys = { 0 };
    uint32_t k, done = 0;
    for (uint32_t id = list; id;) {
        other x;
        memcpy(&x, stacks_blob_at(from, id, &k), sizeof x);
        buf_add(&keys, &x.key, sizeof x.key);
        id = x.before;
    }
    to->no_memory |= keys.failed;
    for (size_t i = keys.n / 4; i-- && !keys.failed;) {
        other x = { 0, done };
        memcpy(&k, keys.p + 4 * i, 4);
        x.key = copy_blob(to, from, k);
        done = stacks_blob(to, &x, sizeof x);
    }
    buf_free(&keys);
    return done;
}

uint32_t object_copy(stacks *to, const stacks *from, const net_object *o, uint32_t data) {
    room r;
    if (!data) return 0;
    get(from, o, data, &r);
    r.d.prefix = copy_blob(to, from, r.d.prefix);
    r.d.others = copy_others(to, from, r.d.others);
    return put(to, o, &r);
}
