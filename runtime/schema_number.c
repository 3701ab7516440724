/* schema_number: numbers between two limits, digit by digit. A state is how many digits came and how they compare with each limit's;
 * decimals are compared as texts, so nothing is rounded. It must not know schemas. */
#include "runtime/schema_parts.h"

#include <stdlib.h>
#include <string.h>

enum { INT_DIGITS = 18,  /* of whole numbers: they fit in 64 bits */
       ALL_DIGITS = 15,  /* of others: as many a double keeps apart */
       MAX_MULTIPLE = 1000 };

/* ---- decimals ---- */

int decimal_parse(decimal *d, const char *s) {
    *d = (decimal){ .sign = 1 };
    if (*s == '-') d->sign = -1, s++;
    int point = 0;
    bool dot = false;
    for (; (*s >= '0' && *s <= '9') || *s == '.'; s++) {
        if (*s == '.') {
            dot = true;
            continue;
        }
        if (d->n || *s != '0') {
            if (d->n == MAX_DIGITS) return -1;
            d->digit[d->n++] = *s;
            point += !dot;
        } else point -= dot;
    }
    long exponent = *s ? strtol(s + 1, NULL, 10) : 0;
    if (exponent > 1000 || exponent < -1000) exponent = exponent > 0 ? 1000 : -1000;
    d->point = point + (int)exponent;
    while (d->n && d->digit[d->n - 1] == '0') d->n--;
    if (!d->n) d->sign = 1, d->point = 0;
    return d->point > MAX_DIGITS || d->point < -MAX_DIGITS ? -1 : 0;
}

static int compare_sizes(const decimal *a, const decimal *b) {
    if (!a->n || !b->n) return (a->n > 0) - (b->n > 0);
    if (a->point != b->point) return a->point < b->point ? -1 : 1;
    int n = min_int(a->n, b->n), c = memcmp(a->digit, b->digit, (size_t)n);
    return c ? (c < 0 ? -1 : 1) : (a->n > b->n) - (a->n < b->n);
}

int decimal_compare(const decimal *a, const decimal *b) {
    if (!a->n && !b->n) return 0;
    int x = a->n ? a->sign : 0, y = b->n ? b->sign : 0;
    if (x != y) return x < y ? -1 : 1;
    return x * compare_sizes(a, b);
}

bool decimal_whole(const decimal *d) { return d->n <= d->point || !d->n; }

uint32_t decimal_modulo(const decimal *d, uint32_t m) {
    uint64_t r = 0;
    for (int i = 0; i < d->point; i++) r = (r * 10 + (i < d->n ? (uint64_t)(d->digit[i] - '0') : 0)) % m;
    return (uint32_t)r;
}

void number_low(number_limits *l, const decimal *d, bool open) {
    int c = l->has_low ? decimal_compare(d, &l->low) : 1;
    if (c > 0) l->low = *d, l->low_open = open;
    else if (c == 0) l->low_open |= open;
    l->has_low = true;
}

void number_high(number_limits *l, const decimal *d, bool open) {
    int c = l->has_high ? decimal_compare(d, &l->high) : -1;
    if (c < 0) l->high = *d, l->high_open = open;
    else if (c == 0) l->high_open |= open;
    l->has_high = true;
}

/* ---- digits ---- */

/* A limit of sizes as digits: before the point (at least one) and behind it. */
typedef struct digits {
    char before[MAX_DIGITS + 1], behind[2 * MAX_DIGITS];
    int n_before, n_behind;
} digits;

static void set_digits(digits *x, const decimal *d) {
    *x = (digits){ .n_before = 0 };
    for (int i = 0; i < d->point; i++) x->before[x->n_before++] = i < d->n ? d->digit[i] : '0';
    if (!x->n_before) x->before[x->n_before++] = '0';
    for (int i = d->point; i < d->n; i++) x->behind[x->n_behind++] = i < 0 ? '0' : d->digit[i];
}

typedef struct place { /* of a number being written */
    uint8_t behind; /* the point came */
    uint8_t k, j;   /* digits before and behind it */
    int8_t low, high; /* how it compares so far */
    uint32_t rest;  /* of the division */
} place;

typedef struct writer {
    net *n;
    uint32_t end, rule;
    digits low, high;
    bool has_low, has_high, low_open, high_open, whole;
    uint32_t multiple;
    int most;
    place *place;       /* those made so far */
    uint32_t *state, count, cap;
    uint32_t *slot, slots;
} writer;

static int sign(int x) { return (x > 0) - (x < 0); }

/* The comparison with a limit after one digit more. */
static int further(const digits *d, const place *p, int now, char c) {
    if (!p->behind) {
        if (p->k >= d->n_before) return 1;
        return now ? now : sign(c - d->before[p->k]);
    }
    return now ? now : sign(c - (p->j < d->n_behind ? d->behind[p->j] : '0'));
}

static int at_point(const digits *d, const place *p, int now) { return p->k != d->n_before ? sign(p->k - d->n_before) : now; }

static bool may_end(const writer *w, const place *p) {
    int low = p->behind ? p->low : at_point(&w->low, p, p->low), high = p->behind ? p->high : at_point(&w->high, p, p->high);
    int j = p->behind ? p->j : 0;
    if (low == 0 && j < w->low.n_behind) low = -1; /* what is left of the limit is more than zeros */
    if (high == 0 && j < w->high.n_behind) high = -1;
    if (w->has_low && (low < 0 || (low == 0 && w->low_open))) return false;
    if (w->has_high && (high > 0 || (high == 0 && w->high_open))) return false;
    return (!p->behind || p->j > 0) && p->rest == 0;
}

static uint32_t place_state(writer *w, const place *p) {
    if (2 * (w->count + 1) > w->slots) {
        uint32_t slots = w->slots ? 2 * w->slots : 256, *slot = malloc(slots * sizeof *slot);
        if (!slot) return w->n->failed = true, 0;
        memset(slot, 0xff, slots * sizeof *slot);
        for (uint32_t i = 0; i < w->count; i++) {
            uint64_t h = hash_bytes(w->place + i, sizeof *p);
            while (slot[h & (slots - 1)] != NET_NONE) h++;
            slot[h & (slots - 1)] = i;
        }
        free(w->slot);
        w->slot = slot;
        w->slots = slots;
    }
    uint64_t h = hash_bytes(p, sizeof *p);
    for (; w->slot[h & (w->slots - 1)] != NET_NONE; h++) {
        uint32_t i = w->slot[h & (w->slots - 1)];
        if (memcmp(w->place + i, p, sizeof *p) == 0) return w->state[i];
    }
    if (w->count == w->cap) {
        uint32_t cap = w->cap ? 2 * w->cap : 64;
        place *a = realloc(w->place, cap * sizeof *a);
        if (a) w->place = a;
        uint32_t *b = realloc(w->state, cap * sizeof *b);
        if (b) w->state = b;
        if (!a || !b) return w->n->failed = true, 0;
        w->cap = cap;
    }
    w->slot[h & (w->slots - 1)] = w->count;
    w->place[w->count] = *p;
    return w->state[w->count++] = net_add_state(w->n, w->rule);
}

static void add_digit(writer *w, uint32_t from, const place *p, char c) {
    place q;
    memset(&q, 0, sizeof q); /* its padding is hashed as well */
    q.behind = p->behind;
    q.k = (uint8_t)(p->k + !p->behind);
    q.j = (uint8_t)(p->j + p->behind);
    q.low = (int8_t)(w->has_low ? further(&w->low, p, p->low, c) : 0);
    q.high = (int8_t)(w->has_high ? further(&w->high, p, p->high, c) : 0);
    q.rest = w->multiple ? (p->rest * 10 + (uint32_t)(c - '0')) % w->multiple : 0;
    net_bytes(w->n, from, (uint8_t)c, (uint8_t)c, place_state(w, &q));
}

static void write_place(writer *w, uint32_t i) {
    place p = w->place[i], q;
    uint32_t from = w->state[i];
    bool zero = !p.behind && p.k == 1 && p.rest == NET_NONE;
    if (zero) p.rest = 0; /* a zero in front: no digit may follow but behind a point */
    if (may_end(w, &p)) net_empty(w->n, from, w->end);
    if (p.k + p.j < w->most && !zero)
        for (char c = '0'; c <= '9'; c++) add_digit(w, from, &p, c);
    if (p.behind || w->whole || p.k >= w->most) return;
    memset(&q, 0, sizeof q);
    q.behind = 1;
    q.k = p.k;
    q.low = (int8_t)at_point(&w->low, &p, p.low);
    q.high = (int8_t)at_point(&w->high, &p, p.high);
    net_bytes(w->n, from, '.', '.', place_state(w, &q));
}

/* The size of a number, from its first digit on. positive: zero is not one of them. */
static void write_size(writer *w, uint32_t from, bool positive) {
    place none, zero;
    memset(&none, 0, sizeof none);
    memset(&zero, 0, sizeof zero);
    for (char c = '1'; c <= '9'; c++) add_digit(w, from, &none, c);
    zero.k = 1;
    zero.low = (int8_t)further(&w->low, &none, 0, '0');
    zero.high = (int8_t)further(&w->high, &none, 0, '0');
    zero.rest = NET_NONE;
    if (!positive || !w->whole) net_bytes(w->n, from, '0', '0', place_state(w, &zero));
    for (uint32_t i = 0; i < w->count && !w->n->failed && !w->n->too_large; i++) write_place(w, i);
    free(w->place);
    free(w->state);
    free(w->slot);
}

static writer new_writer(net *n, uint32_t end, uint32_t rule, const number_limits *l) {
    return (writer){ .n = n, .end = end, .rule = rule, .whole = l->whole, .multiple = l->multiple, .most = l->whole ? INT_DIGITS : ALL_DIGITS };
}

static void set_low(writer *w, const decimal *d, bool open) {
    set_digits(&w->low, d);
    w->has_low = true;
    w->low_open = open;
}

static void set_high(writer *w, const decimal *d, bool open) {
    set_digits(&w->high, d);
    w->has_high = true;
    w->high_open = open;
}

/* Without limits: JSON's own form, so many digits, and an exponent. */
static void write_free(net *n, uint32_t from, uint32_t to, bool whole) {
    uint32_t rule = n->state[from].rule, sign_done = net_add_state(n, rule), end = net_add_state(n, rule), at = net_add_state(n, rule);
    net_empty(n, from, sign_done);
    net_bytes(n, from, '-', '-', sign_done);
    net_bytes(n, sign_done, '0', '0', end);
    net_bytes(n, sign_done, '1', '9', at);
    net_empty(n, at, end);
    for (int i = 1; i < (whole ? INT_DIGITS : ALL_DIGITS); i++) {
        uint32_t next = net_add_state(n, rule);
        net_bytes(n, at, '0', '9', next);
        net_empty(n, next, end);
        at = next;
    }
    net_empty(n, end, to);
    if (whole) return;
    uint32_t fraction = net_add_state(n, rule), exponent = net_add_state(n, rule), e1 = net_add_state(n, rule),
             e2 = net_add_state(n, rule), e3 = net_add_state(n, rule);
    at = net_add_state(n, rule);
    net_bytes(n, end, '.', '.', at);
    for (int i = 0; i < ALL_DIGITS; i++) {
        uint32_t next = net_add_state(n, rule);
        net_bytes(n, at, '0', '9', next);
        net_empty(n, next, fraction);
        at = next;
    }
    net_empty(n, fraction, to);
    net_empty(n, fraction, exponent);
    net_empty(n, end, exponent);
    net_bytes(n, exponent, 'e', 'e', e1);
    net_bytes(n, exponent, 'E', 'E', e1);
    net_bytes(n, e1, '+', '+', e2);
    net_bytes(n, e1, '-', '-', e2);
    net_empty(n, e1, e2);
    net_bytes(n, e2, '0', '9', e3);
    net_empty(n, e3, to);
    net_bytes(n, e3, '0', '9', to);
}

const char *number_emit(net *n, uint32_t from, uint32_t to, const number_limits *l) {
    if ((l->has_low && !l->whole && l->low.n > ALL_DIGITS) || (l->has_high && !l->whole && l->high.n > ALL_DIGITS))
        return "a limit of over 15 digits cannot be kept for numbers that are not whole";
    if (l->multiple > MAX_MULTIPLE) return "multiples of more than 1000 cannot be kept";
    if (!l->has_low && !l->has_high && !l->multiple) return write_free(n, from, to, l->whole), NULL;
    uint32_t rule = n->state[from].rule, minus = net_add_state(n, rule);
    if (!l->has_high || l->high.sign > 0) { /* from 0 on */
        writer w = new_writer(n, to, rule, l);
        if (l->has_low && l->low.sign > 0) set_low(&w, &l->low, l->low_open);
        if (l->has_high) set_high(&w, &l->high, l->high_open);
        write_size(&w, from, false);
    }
    if (!l->has_low || l->low.sign < 0) { /* below 0: the limits change places */
        writer w = new_writer(n, to, rule, l);
        decimal zero = { .sign = 1 };
        set_low(&w, l->has_high && l->high.sign < 0 ? &l->high : &zero, l->has_high && l->high.sign < 0 ? l->high_open : true);
        if (l->has_low) set_high(&w, &l->low, l->low_open);
        net_bytes(n, from, '-', '-', minus);
        write_size(&w, minus, true);
    }
    return NULL;
}
