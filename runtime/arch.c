/* arch: reads, writes, checks and prints the architecture fields of arch.h, all generated from its lists. It must not know
 * what a field is for beyond its range and the few rules by which fields fit together, nor any model family. */
#include "runtime/arch.h"

#include <math.h>
#include <string.h>

#include "weights/file.h"

/* One row for each field: where it lies in the struct, its range, its words. */
typedef enum { FIELD_INT, FIELD_FLOAT, FIELD_INTS, FIELD_FLOATS } field_kind;
typedef struct field {
    const char *name, *length, *what;
    field_kind kind;
    size_t at, length_at; /* offsets in struct arch; length_at: of the int that is a vector's length */
    double def, min, max;
} field;

static const field fields[] = {
#define X(name, def, min, max, what) { #name, "1", what, FIELD_INT, offsetof(arch, name), 0, def, min, max },
    ARCH_INTS(X)
#undef X
#define X(name, def, min, max, what) { #name, "1", what, FIELD_FLOAT, offsetof(arch, name), 0, def, min, max },
        ARCH_FLOATS(X)
#undef X
#define X(name, length, def, min, max, what)                                                                                       \
    { #name, #length, what, FIELD_INTS, offsetof(arch, name), offsetof(arch, length), def, min, max },
            ARCH_INT_VECTORS(X)
#undef X
#define X(name, length, def, min, max, what)                                                                                       \
    { #name, #length, what, FIELD_FLOATS, offsetof(arch, name), offsetof(arch, length), def, min, max },
                ARCH_FLOAT_VECTORS(X)
#undef X
};
enum { N_FIELDS = sizeof fields / sizeof *fields };

/* The checkpoint's defaults for generating. */
static const struct {
    const char *name;
    size_t at;
    bool whole;
    double none, min, max;
} sampling[] = {
#define X(type, name, key, none, min, max) { #name, offsetof(arch, name), _Generic((type)0, int: true, float: false), none, min, max },
    ARCH_SAMPLING(X)
#undef X
};
enum { N_SAMPLING = sizeof sampling / sizeof *sampling };

static bool is_vector(const field *f) { return f->kind >= FIELD_INTS; }
static bool is_whole(const field *f) { return f->kind == FIELD_INT || f->kind == FIELD_INTS; }

static void *member(const arch *a, size_t at) { return (char *)(uintptr_t)a + at; }

static int length_of(const arch *a, const field *f) { return is_vector(f) ? *(int *)member(a, f->length_at) : 1; }

/* The field's first number: within the struct, or in the arena. */
static void *values_of(const arch *a, const field *f) {
    void *p = member(a, f->at);
    if (f->kind == FIELD_INTS) return *(int **)p;
    if (f->kind == FIELD_FLOATS) return *(float **)p;
    return p;
}

static void fill(const arch *a, const field *f, double value) {
    void *p = values_of(a, f);
    for (int i = 0; i < length_of(a, f); i++) {
        if (is_whole(f)) ((int *)p)[i] = (int)value;
        else ((float *)p)[i] = (float)value;
    }
}

void arch_init(arch *a) {
    *a = (arch){
#define X(type, name, key, none, min, max) .name = none,
        ARCH_SAMPLING(X)
#undef X
    };
    for (int i = 0; i < N_FIELDS; i++)
        if (!is_vector(&fields[i])) fill(a, &fields[i], fields[i].def);
}

int arch_vectors(arch *a, arena *mem, err *e) {
    for (int i = 0; i < N_FIELDS; i++) {
        const field *f = &fields[i];
        if (!is_vector(f)) continue;
        size_t bytes = (size_t)length_of(a, f) * sizeof(int);
        void *p = arena_alloc(mem, bytes);
        if (!p) return fail_memory(e, bytes, "the architecture");
        if (is_whole(f)) *(int **)member(a, f->at) = p;
        else *(float **)member(a, f->at) = p;
        fill(a, f, f->def);
    }
    return 0;
}

/* ---- reading ---- */

static int read_field(arch *a, const field *f, const file *from, err *e) {
    const int64_t *whole = NULL;
    const double *real = NULL;
    int64_t n = is_whole(f) ? record_i64(from, f->name, &whole) : record_f64(from, f->name, &real);
    if (n < 0) /* not there, or not of this type: the latter is then an unknown record, see refuse_unknown */
        return f->def < f->min ? fail(e, "%s: the architecture lacks %s (%s); convert again", from->path, f->name, f->what) : 0;
    if (n != length_of(a, f))
        return fail(e, "%s: %s: expected %d values, found %lld; convert again", from->path, f->name, length_of(a, f), (long long)n);
    for (int64_t i = 0; i < n; i++) {
        double x = whole ? (double)whole[i] : real[i];
        if (!(x >= f->min && x <= f->max))
            return fail(e, "%s: %s (%s): expected %.15g to %.15g, found %g; convert again", from->path, f->name, f->what, f->min,
                        f->max, x);
        if (whole) ((int *)values_of(a, f))[i] = (int)whole[i];
        else ((float *)values_of(a, f))[i] = (float)x;
    }
    return 0;
}

static int read_text(const file *f, const char *key, char *out, size_t size, err *e) {
    const char *bytes;
    int64_t n = record_bytes(f, key, &bytes);
    if (n < 0) return 0;
    if ((uint64_t)n >= size)
        return fail(e, "%s: %s: expected at most %zu bytes, found %lld; convert again", f->path, key, size - 1, (long long)n);
    for (int64_t i = 0, len = 1; i < n; i += len) {
        int l;
        if (utf8_decode(bytes + i, (size_t)(n - i), &l) < ' ' || bytes[i] == 0x7f)
            return fail(e, "%s: %s: not plain text; convert again", f->path, key);
        len = l;
    }
    memcpy(out, bytes, (size_t)n);
    out[n] = 0;
    return 0;
}

static int read_eos(arch *a, const file *f, err *e) {
    const int64_t *list;
    int64_t n = record_i64(f, "eos", &list);
    if (n > MAX_EOS) return fail(e, "%s: eos: expected at most %d ids, found %lld; convert again", f->path, MAX_EOS, (long long)n);
    for (int64_t i = 0; i < n; i++) {
        if (list[i] < 0 || list[i] > INT32_MAX)
            return fail(e, "%s: eos: %lld is no id; convert again", f->path, (long long)list[i]);
        a->eos[a->n_eos++] = (int)list[i];
    }
    return 0;
}

static int read_sampling(arch *a, const file *f, err *e) {
    for (int i = 0; i < N_SAMPLING; i++) {
        const int64_t *whole = NULL;
        const double *real = NULL;
        int64_t n = sampling[i].whole ? record_i64(f, sampling[i].name, &whole) : record_f64(f, sampling[i].name, &real);
        if (n < 0) continue;
        double x = n == 1 ? whole ? (double)*whole : *real : NAN;
        if (!((x >= sampling[i].min && x <= sampling[i].max) || x == sampling[i].none))
            return fail(e, "%s: %s: expected one number from %.10g to %.10g (%.10g: none), found %g; convert again", f->path,
                        sampling[i].name, sampling[i].min, sampling[i].max, sampling[i].none, x);
        if (whole) *(int *)member(a, sampling[i].at) = (int)x;
        else *(float *)member(a, sampling[i].at) = (float)x;
    }
    return 0;
}

/* A field that this program does not know may change the arithmetic: only info.* is safe to pass over. */
static int refuse_unknown(const file *f, err *e) {
    static const struct {
        const char *name;
        record_type type;
    } others[] = { { "eos", REC_I64 }, { "name", REC_BYTES }, { "family", REC_BYTES } };
    size_t at = 0;
    record r;
    while (record_next(f, &at, &r)) {
        bool known = r.key_n > 5 && memcmp(r.key, "info.", 5) == 0;
#define SAME(text, want) (strlen(text) == r.key_n && memcmp(r.key, text, r.key_n) == 0 && r.type == (want))
        for (int i = 0; i < N_FIELDS && !known; i++) known = SAME(fields[i].name, is_whole(&fields[i]) ? REC_I64 : REC_F64);
        for (int i = 0; i < N_SAMPLING && !known; i++) known = SAME(sampling[i].name, sampling[i].whole ? REC_I64 : REC_F64);
        for (size_t i = 0; i < sizeof others / sizeof *others && !known; i++) known = SAME(others[i].name, others[i].type);
#undef SAME
        if (!known)
            return fail(
                e, "%s: architecture field %.*s is not known to this version: it was made by a newer convert; use a newer quern",
                f->path, (int)r.key_n, r.key);
    }
    return 0;
}

int arch_read(arch *a, const file *f, arena *mem, err *e) {
    arch_init(a);
    if (refuse_unknown(f, e)) return -1;
    for (int i = 0; i < N_FIELDS; i++)
        if (!is_vector(&fields[i]) && read_field(a, &fields[i], f, e)) return -1;
    if (arch_vectors(a, mem, e)) return -1;
    for (int i = 0; i < N_FIELDS; i++)
        if (is_vector(&fields[i]) && read_field(a, &fields[i], f, e)) return -1;
    if (read_eos(a, f, e) || read_text(f, "name", a->name, sizeof a->name, e) ||
        read_text(f, "family", a->family, sizeof a->family, e) || read_sampling(a, f, e))
        return -1;
    err inner = { 0 };
    return arch_check(a, &inner) ? fail(e, "%s: %s; convert again", f->path, inner.msg) : 0;
}

static int check_layer(const arch *a, int l, err *e) {
    if (a->rope[l] >= a->n_ropes) return fail(e, "layer %d uses rope table %d, there are %d", l, a->rope[l], a->n_ropes);
    if (a->ff[l] > a->d_ff) return fail(e, "layer %d has an MLP of %d, d_ff is %d", l, a->ff[l], a->d_ff);
    int owner = a->kv_layer[l];
    if (owner < 0) return 0;
    if (owner >= l || a->kv_layer[owner] >= 0)
        return fail(e, "layer %d reads the keys and values of layer %d, expected an earlier layer that has its own", l, owner);
    if (a->window[l] != a->window[owner])
        return fail(e, "layer %d has window %d, but reads the keys and values of layer %d with window %d", l, a->window[l], owner,
                    a->window[owner]);
    return 0;
}

int arch_check(const arch *a, err *e) {
    if (a->n_heads % a->n_kv_heads) return fail(e, "n_kv_heads %d does not divide n_heads %d", a->n_kv_heads, a->n_heads);
    if (a->n_layers + a->n_enc_layers < 1) return fail(e, "n_layers and n_enc_layers are both 0");
    if (a->n_experts && (a->n_used < 1 || a->n_used > a->n_experts || a->d_expert < 1))
        return fail(e, "n_used %d of n_experts %d, d_expert %d: expected 1 to n_experts, and at least 1", a->n_used, a->n_experts, a->d_expert);
    if (!(a->attn_scale > 0)) return fail(e, "attn_scale: expected more than 0, found %g", (double)a->attn_scale);
    if (a->bos >= a->n_vocab) return fail(e, "bos %d is not below n_vocab %d", a->bos, a->n_vocab);
    for (int i = 0; i < a->n_eos; i++)
        if (a->eos[i] >= a->n_vocab) return fail(e, "eos %d is not below n_vocab %d", a->eos[i], a->n_vocab);
    for (int l = 0; l < a->n_layers; l++)
        if (check_layer(a, l, e)) return -1;
    return 0;
}

/* ---- writing ---- */

static void write_field(const arch *a, const field *f, buf *records) {
    int n = length_of(a, f);
    const void *p = values_of(a, f);
    buf values = { 0 };
    for (int i = 0; i < n; i++) {
        int64_t whole = is_whole(f) ? ((const int *)p)[i] : 0;
        double real = is_whole(f) ? 0 : (double)((const float *)p)[i];
        buf_add(&values, is_whole(f) ? (void *)&whole : (void *)&real, 8);
    }
    if (values.failed) records->failed = true;
    else if (is_whole(f)) record_add_i64(records, f->name, (const int64_t *)(void *)values.p, (uint32_t)n);
    else record_add_f64(records, f->name, (const double *)(void *)values.p, (uint32_t)n);
    buf_free(&values);
}

void arch_write(const arch *a, buf *records) {
    for (int i = 0; i < N_FIELDS; i++) write_field(a, &fields[i], records);
    int64_t eos[MAX_EOS];
    for (int i = 0; i < a->n_eos; i++) eos[i] = a->eos[i];
    record_add_i64(records, "eos", eos, (uint32_t)a->n_eos);
    record_add_bytes(records, "name", a->name, strlen(a->name));
    record_add_bytes(records, "family", a->family, strlen(a->family));
    for (int i = 0; i < N_SAMPLING; i++) {
        const void *p = member(a, sampling[i].at);
        int64_t whole = sampling[i].whole ? *(const int *)p : 0;
        double real = sampling[i].whole ? 0 : (double)*(const float *)p;
        if (sampling[i].whole) record_add_i64(records, sampling[i].name, &whole, 1);
        else record_add_f64(records, sampling[i].name, &real, 1);
    }
}

/* ---- for people ---- */

/* Equal neighbours together: "0 x12, 4096 x4". */
static void print_values(const arch *a, const field *f, FILE *out) {
    const void *p = values_of(a, f);
    int n = length_of(a, f);
    for (int i = 0, run; i < n; i += run) {
        double x = is_whole(f) ? ((const int *)p)[i] : (double)((const float *)p)[i];
        for (run = 1; i + run < n; run++)
            if (x != (is_whole(f) ? ((const int *)p)[i + run] : (double)((const float *)p)[i + run])) break;
        fprintf(out, "%s%.*g", i ? ", " : "", is_whole(f) ? 10 : 7, x);
        if (run > 1) fprintf(out, " x%d", run);
    }
}

void arch_print(const arch *a, FILE *out) {
    fprintf(out, "  %-17s %s\n  %-17s %s\n", "name", a->name[0] ? a->name : "(none)", "family",
            a->family[0] ? a->family : "(none)");
    for (int i = 0; i < N_FIELDS; i++) {
        if (is_vector(&fields[i]) && length_of(a, &fields[i]) == 0) continue;
        fprintf(out, "  %-17s ", fields[i].name);
        print_values(a, &fields[i], out);
        fputc('\n', out);
    }
    fprintf(out, "  %-17s", "eos");
    for (int i = 0; i < a->n_eos; i++) fprintf(out, " %d", a->eos[i]);
    fprintf(out, "%s\n", a->n_eos ? "" : " (none)");
    for (int i = 0; i < N_SAMPLING; i++) {
        double x = sampling[i].whole ? *(int *)member(a, sampling[i].at) : (double)*(float *)member(a, sampling[i].at);
        if (x != sampling[i].none) fprintf(out, "  %-17s %.7g\n", sampling[i].name, x);
    }
}

void arch_fields(FILE *out) {
    fprintf(out, "| key | type | values | default | from | to | what |\n|---|---|---|---|---|---|---|\n");
    for (int i = 0; i < N_FIELDS; i++) {
        const field *f = &fields[i];
        fprintf(out, "| `%s` | %s | %s | ", f->name, is_whole(f) ? "i64" : "f64", f->length);
        if (f->def < f->min) fprintf(out, "required");
        else fprintf(out, "%.10g", f->def);
        fprintf(out, " | %.10g | %.10g | %s |\n", f->min, f->max, f->what);
    }
}
