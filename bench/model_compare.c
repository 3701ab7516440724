/* bench/model --compare: two of the JSONs that --json wrote, row beside row: before, after, their ratio, and whether that says anything.
 * Shares of the limit stand beside the speeds, because each was measured in the run of its row: they hold where the machine itself was
 * faster or slower the second time. Files may come from anyone. It must not know how any figure was measured. */
#include "bench/model.h"
#include "runtime/files.h"

#include <ctype.h>
#include <math.h>
#include <string.h>

enum { MOST_BYTES = 16 << 20, MOST_ROWS = 4096, FEW_REPEATS = 3 };

typedef struct row {
    const char *test, *type, *model;
    int depth, batch, threads;
    double speed, spread, share;
    bool paired;
} row;

typedef struct result {
    const char *path, *cpu, *kernels;
    int repeats, adapters;
    bool exact;
    row *rows;
    int n;
    arena mem;
} result;

/* ---- reading ---- */

static int lacks(const result *r, int at, const char *key, const char *expected, const json *found, err *e) {
    char where[40] = "";
    if (at >= 0) snprintf(where, sizeof where, "row %d: ", at + 1);
    return fail(e, "%s: not what bench/model --json writes: %s\"%s\": expected %s, found %s", r->path, where, key, expected, json_type_name(found));
}

/* Short text of printable characters. */
static int take_text(const result *r, const json *j, int at, const char *key, const char **out, err *e) {
    const json *found = json_get(j, key);
    bool good = found && found->type == JSON_STRING && found->n > 0 && found->n <= 300 && strlen(found->s) == found->n;
    for (uint32_t i = 0; good && i < found->n; i++) good = !iscntrl((unsigned char)found->s[i]);
    if (!good) return lacks(r, at, key, "a short text", found, e);
    *out = found->s;
    return 0;
}

static int take_int(const result *r, const json *j, int at, const char *key, int *out, err *e) {
    int64_t v;
    if (json_int(json_get(j, key), &v) || v < 0 || v > INT32_MAX) return lacks(r, at, key, "a whole number of 0 or more", json_get(j, key), e);
    *out = (int)v;
    return 0;
}

static int take_figure(const result *r, const json *j, int at, const char *key, bool zero, double *out, err *e) {
    if (json_num(json_get(j, key), out) || !isfinite(*out) || *out < 0 || (*out == 0 && !zero))
        return lacks(r, at, key, zero ? "a number of 0 or more" : "a number above 0", json_get(j, key), e);
    return 0;
}

/* type and model: a row's own, else the whole run's (of older versions). */
static int take_row(const result *r, const json *root, const json *j, int at, row *out, err *e) {
    return take_text(r, j, at, "test", &out->test, e) || take_text(r, json_get(j, "type") ? j : root, at, "type", &out->type, e) ||
           take_text(r, json_get(j, "model") ? j : root, at, "model", &out->model, e) || take_int(r, j, at, "depth", &out->depth, e) ||
           take_int(r, j, at, "batch", &out->batch, e) || take_int(r, j, at, "threads", &out->threads, e) ||
           take_figure(r, j, at, "tokens_per_s", false, &out->speed, e) || take_figure(r, j, at, "spread", true, &out->spread, e) ||
           take_figure(r, j, at, "share", false, &out->share, e);
}

static int take_all(result *r, const json *root, err *e) {
    const json *rows = json_get(root, "rows");
    if (root->type != JSON_OBJECT || !rows || rows->type != JSON_ARRAY) return lacks(r, -1, "rows", "an array", rows, e);
    if (rows->n == 0 || rows->n > MOST_ROWS) return fail(e, "%s: expected 1 to %d rows, found %u", r->path, MOST_ROWS, (unsigned)rows->n);
    r->exact = json_get(root, "exact") && json_get(root, "exact")->type == JSON_TRUE;
    if (take_text(r, root, -1, "cpu", &r->cpu, e) || take_text(r, root, -1, "kernels", &r->kernels, e) ||
        take_int(r, root, -1, "repeats", &r->repeats, e) || take_int(r, root, -1, "adapters", &r->adapters, e))
        return -1;
    r->rows = arena_alloc(&r->mem, rows->n * sizeof *r->rows);
    if (!r->rows) return fail_memory(e, rows->n * sizeof *r->rows, "rows");
    for (const json *j = rows->child; j; j = j->next, r->n++)
        if (take_row(r, root, j, r->n, &r->rows[r->n], e)) return -1;
    return 0;
}

static int read_result(result *r, const char *path, err *e) {
    buf text = { 0 };
    json *root;
    err why = { 0 };
    r->path = path;
    int rc = read_file(path, MOST_BYTES, &text, e);
    if (!rc && json_parse(&r->mem, text.p ? text.p : "", text.n, &root, &why))
        rc = fail(e, "%s: %s; give two files that bench/model --json wrote", path, why.msg);
    buf_free(&text);
    return rc ? rc : take_all(r, root, e);
}

/* ---- what may be compared ---- */

/* The different texts among n, "a, b"; what: of row i. */
static void name_all(const result *r, const char *(*what)(const row *, char[16]), buf *out) {
    char own[16], other[16];
    for (int i = 0; i < r->n; i++) {
        const char *name = what(&r->rows[i], own);
        bool seen = false;
        for (int k = 0; k < i && !seen; k++) seen = strcmp(what(&r->rows[k], other), name) == 0;
        if (!seen) buf_fmt(out, "%s%s", out->n ? ", " : "", name);
    }
    buf_byte(out, 0);
}

static bool within(const result *a, const result *b, const char *(*what)(const row *, char[16])) {
    char own[16], other[16];
    for (int i = 0; i < a->n; i++) {
        bool found = false;
        for (int k = 0; k < b->n && !found; k++) found = strcmp(what(&a->rows[i], own), what(&b->rows[k], other)) == 0;
        if (!found) return false;
    }
    return true;
}

static const char *threads_of(const row *r, char text[16]) {
    snprintf(text, 16, "%d", r->threads);
    return text;
}

static const char *model_of(const row *r, char text[16]) {
    (void)text;
    return r->model;
}

static int check_same(const result *a, const result *b, const char *(*what)(const row *, char[16]), const char *kind, const char *todo, err *e) {
    if (within(a, b, what) && within(b, a, what)) return 0;
    buf in_a = { 0 }, in_b = { 0 };
    name_all(a, what, &in_a);
    name_all(b, what, &in_b);
    int rc = in_a.failed || in_b.failed
                 ? fail_memory(e, in_a.cap + in_b.cap, "names")
                 : fail(e, "these do not compare: %s has %s %.100s, %s has %.100s: %s", a->path, kind, in_a.p, b->path, in_b.p, todo);
    buf_free(&in_a);
    buf_free(&in_b);
    return rc;
}

static int check_pair(const result *a, const result *b, err *e) {
    if (check_same(a, b, threads_of, "threads", "run both with the same -t", e)) return -1;
    if (check_same(a, b, model_of, "model", "measure the same model twice", e)) return -1;
    if (a->adapters != b->adapters)
        return fail(e, "these do not compare: %s has %d adapters, %s has %d: run both with the same --lora", a->path, a->adapters, b->path,
                    b->adapters);
    return 0;
}

/* ---- the table ---- */

static bool same_row(const row *a, const row *b) {
    return a->depth == b->depth && a->batch == b->batch && a->threads == b->threads && strcmp(a->test, b->test) == 0 &&
           strcmp(a->type, b->type) == 0 && strcmp(a->model, b->model) == 0;
}

/* A run can hold the same row of several files: the first pairs with the first. */
static row *find_pair(result *r, const row *like) {
    for (int i = 0; i < r->n; i++)
        if (!r->rows[i].paired && same_row(&r->rows[i], like)) return &r->rows[i];
    return NULL;
}

/* Both spreads are those of all repeats, largest less smallest: a difference beyond either is no accident of one repeat. */
static const char *verdict(const result *a, const result *b, const row *x, const row *y, double before, double after) {
    if (a->repeats < FEW_REPEATS || b->repeats < FEW_REPEATS) return "too few repeats";
    if (fabs(after - before) <= fmax(x->spread * before, y->spread * after)) return "within the spread";
    return after > before ? "faster" : "slower";
}

static void add_name(const row *r, buf *out) {
    buf_fmt(out, "%-10s %7d %6d %7d  %-5s", r->test, r->depth, r->batch, r->threads, r->type);
}

static void add_speed(double v, buf *out) { buf_fmt(out, " %10.*f", v < 1000 ? 2 : 0, v); }

static void add_pair(const result *a, const result *b, const row *x, const row *y, buf *out) {
    const char *speed = verdict(a, b, x, y, x->speed, y->speed), *share = verdict(a, b, x, y, x->share, y->share);
    add_name(x, out);
    add_speed(x->speed, out);
    add_speed(y->speed, out);
    buf_fmt(out, " %7.3f  %-17s %5.0f %% %5.0f %% %7.3f  %s\n", y->speed / x->speed, speed, 100 * x->share, 100 * y->share,
            y->share / x->share, share);
}

static void add_lone(const result *r, const char *what, buf *out) {
    for (int i = 0; i < r->n; i++) {
        if (r->rows[i].paired) continue;
        add_name(&r->rows[i], out);
        buf_fmt(out, "  only %s: %.*f tok/s, %.0f %%\n", what, r->rows[i].speed < 1000 ? 2 : 0, r->rows[i].speed, 100 * r->rows[i].share);
    }
}

static void add_differences(const result *a, const result *b, buf *out) {
    if (strcmp(a->cpu, b->cpu)) buf_fmt(out, "different CPUs, %s and %s: only the shares compare\n", a->cpu, b->cpu);
    if (strcmp(a->kernels, b->kernels)) buf_fmt(out, "kernels: %s before, %s after\n", a->kernels, b->kernels);
    if (a->exact != b->exact) buf_fmt(out, "--exact: only %s\n", a->exact ? "before" : "after");
}

static int compare(result *a, result *b, buf *out, err *e) {
    int pairs = 0;
    if (check_pair(a, b, e)) return -1;
    buf_fmt(out, "before: %s\nafter:  %s\n", a->path, b->path);
    add_differences(a, b, out);
    buf_fmt(out, "\n%-10s %7s %6s %7s  %-5s %10s %10s %7s  %-17s %7s %7s %7s  %s\n", "test", "depth", "batch", "threads", "type", "before", "after",
            "ratio", "tok/s", "before", "after", "ratio", "share of the limit");
    for (int i = 0; i < a->n; i++) {
        row *y = find_pair(b, &a->rows[i]);
        if (!y) continue;
        add_pair(a, b, &a->rows[i], y, out);
        a->rows[i].paired = y->paired = true;
        pairs++;
    }
    if (!pairs) return fail(e, "no row of %s is in %s: run both with the same -p, -n, --depth, --batch and type of weights", a->path, b->path);
    add_lone(a, "before", out);
    add_lone(b, "after", out);
    return out->failed ? fail_memory(e, out->cap, "the comparison") : 0;
}

int bench_compare(const char *before, const char *after, buf *out, err *e) {
    result a = { 0 }, b = { 0 };
    int rc = read_result(&a, before, e) || read_result(&b, after, e) || compare(&a, &b, out, e);
    arena_free(&a.mem);
    arena_free(&b.mem);
    return rc ? -1 : 0;
}
