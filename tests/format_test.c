/* format: a model file comes back as it was written, and anything else is refused: every byte of its head flipped, every
 * length cut, and tables that lie with a hash that is right. */
#define _GNU_SOURCE
#include "runtime/arch.h"
#include "weights/layout.h"

#include <fcntl.h>
#include <math.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/test.h"

static char path[64];
static const char tokenizer[] = "a tokenizer, for all this file knows";
static const struct { const char *name; wtype type; int n_dims; uint64_t n, k; } shapes[] = {
    { "embed", W_Q8, 2, 20, 70 }, { "layers.0.attn_norm", W_F32, 1, 70, 0 }, { "layers.0.qkv", W_Q4, 2, 48, 70 },
    { "layers.0.down", W_BF16, 2, 3, 65 }, { "layers.0.exact", W_F32, 2, 17, 5 }, { "table", W_Q4, 2, 20, 70 } };
enum { N_SHAPES = sizeof shapes / sizeof *shapes, PLAIN = N_SHAPES - 1 }; /* PLAIN: in plain rows */
static wlayout layout_of(int i) { return shapes[i].type == W_F32 || i == PLAIN ? LAYOUT_ROWS : LAYOUT_P16; }

static uint8_t content(int tensor, size_t i) { return (uint8_t)(tensor * 31 + (int)(i * 7919 >> 5)); }

static void small_arch(arch *a, arena *mem) {
    arch_init(a);
    a->n_layers = 3, a->d_model = 70, a->n_heads = 4, a->n_kv_heads = 2, a->head_dim = 10, a->d_ff = 65, a->n_vocab = 20,
    a->n_ctx = 128, a->n_ropes = 2;
    a->attn_scale = 0.3f, a->norm_eps = 1e-6f, a->top_k = 7, a->temperature = 0.6f;
    a->eos[0] = 3, a->eos[1] = 19, a->n_eos = 2;
    strcpy(a->name, "tiny \xc3\xa9");
    assert_int_equal(arch_vectors(a, mem, NULL), 0);
    a->window[1] = 8, a->ff[1] = 33, a->rope[2] = 1, a->kv_layer[2] = 0, a->rope_factor[1] = 1.25f;
}

static void write_all(void **state) {
    (void)state;
    file_writer *w;
    err e = { 0 };
    arena mem = { 0 };
    arch a;
    buf records = { 0 };
    small_arch(&a, &mem);
    arch_write(&a, &records);
    record_add_bytes(&records, "info.note", "hello", 5);
    assert_int_equal(file_write_open(&w, path, true, &e), 0);
    for (int i = 0; i < N_SHAPES; i++)
        assert_int_equal(file_write_tensor(w, shapes[i].name, shapes[i].type, shapes[i].n_dims, shapes[i].n, shapes[i].k, &e), i);
    assert_int_equal(file_write_tied(w, "output", 0, &e), N_SHAPES);
    assert_int_equal(file_write_plain(w, N_SHAPES, &e), -1);
    e.code = 0;
    assert_int_equal(file_write_plain(w, PLAIN, &e), 0);
    assert_int_equal(file_write_begin(w, &records, tokenizer, sizeof tokenizer, &e), 0);
    for (int i = 0; i < N_SHAPES; i++) {
        uint64_t bytes;
        assert_int_equal(tensor_bytes(shapes[i].type, layout_of(i), shapes[i].n_dims, shapes[i].n, shapes[i].k, &bytes), 0);
        assert_int_equal(file_write_data(w, i == 0 ? 1 : 0, "x", 1, &e), -1); /* out of turn */
        e.code = 0;
        for (size_t j = 0; j < bytes; j += 100) {
            uint8_t part[100];
            size_t n = bytes - j < sizeof part ? (size_t)bytes - j : sizeof part;
            for (size_t b = 0; b < n; b++) part[b] = content(i, j + b);
            assert_int_equal(file_write_data(w, i, part, n, &e), 0);
        }
        if (i == 0) file_write_exponent(w, 0, -5);
    }
    uint64_t total = file_write_total(w);
    assert_int_equal(file_write_end(&w, &e), 0);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_true((uint64_t)st.st_size == total);
    buf_free(&records);
    arena_free(&mem);
}

static void test_round_trip(void **state) {
    write_all(state);
    file f;
    err e = { 0 };
    assert_int_equal(file_open(&f, path, &e), 0);
    assert_int_equal(f.n_tensors, N_SHAPES + 1);
    for (int i = 0; i < N_SHAPES; i++) {
        const file_tensor *t = file_find(&f, shapes[i].name);
        assert_non_null(t);
        assert_int_equal(t->layout, layout_of(i));
        assert_true(t->type == shapes[i].type && t->n_dims == shapes[i].n_dims && t->dims[0] == shapes[i].n &&
                    t->dims[1] == shapes[i].k && t->at % 64 == 0);
        const uint8_t *p = file_data(&f, t);
        for (size_t j = 0; j < t->bytes; j++) assert_int_equal(p[j], content(i, j));
    }
    assert_true(file_find(&f, "output")->at == file_find(&f, "embed")->at && file_find(&f, "output")->exponent == -5);
    assert_null(file_find(&f, "banana"));
    assert_null(file_find(&f, ""));
    assert_int_equal(f.header->tokenizer_bytes, sizeof tokenizer);
    assert_memory_equal(f.map.p + f.header->tokenizer_at, tokenizer, sizeof tokenizer);
    assert_int_equal(file_verify(&f, &e, NULL, NULL), 0);
    arena mem = { 0 }, mem2 = { 0 };
    arch a, want;
    small_arch(&want, &mem2);
    assert_int_equal(arch_read(&a, &f, &mem, &e), 0);
    buf one = { 0 }, two = { 0 };
    arch_write(&a, &one);
    arch_write(&want, &two);
    assert_int_equal(one.n, two.n);
    assert_memory_equal(one.p, two.p, one.n);
    assert_true(a.ff[0] == 0 && a.ff[1] == 33);
    assert_true(a.window[1] == 8 && a.rope[2] == 1 && a.kv_layer[2] == 0 && a.kv_layer[1] == -1 && a.rope_factor[1] == 1.25f &&
                a.rope_factor_long[1] == 1 && a.top_k == 7 && a.top_p < 0);
    const char *bytes;
    assert_int_equal(record_bytes(&f, "info.note", &bytes), 5);
    const int64_t *whole;
    assert_int_equal(record_i64(&f, "info.note", &whole), -1);
    buf_free(&one);
    buf_free(&two);
    arena_free(&mem);
    arena_free(&mem2);
    file_close(&f);
}

/* The file in memory, to be changed; what it holds can be read under /proc/self/fd. */
typedef struct image {
    uint8_t *p;
    size_t n;
    int fd;
    char path[64];
} image;

static image image_of_file(void) {
    image m = { .fd = open(path, O_RDWR) };
    assert_true(m.fd >= 0);
    struct stat st;
    assert_int_equal(fstat(m.fd, &st), 0);
    m.n = (size_t)st.st_size;
    m.p = mmap(NULL, m.n, PROT_READ | PROT_WRITE, MAP_SHARED, m.fd, 0);
    assert_true(m.p != MAP_FAILED);
    return m;
}

static void image_free(image *m) {
    munmap(m->p, m->n);
    close(m->fd);
}

static file_header *header_of(image *m) { return (file_header *)(void *)m->p; }
static file_tensor *row_of(image *m, int i) { return (file_tensor *)(void *)(m->p + header_of(m)->table_at) + i; }
static size_t end_of_table(image *m) { return header_of(m)->table_at + header_of(m)->n_tensors * sizeof(file_tensor); }

static void expect_refusal(const char *what) {
    file f;
    err e = { 0 };
    if (file_open(&f, path, &e) == 0) fail_msg("accepted: %s", what);
    if (!strstr(e.msg, path) || strchr(e.msg, '\n')) fail_msg("%s: the message names no file, or is no line: %s", what, e.msg);
}

static void test_flips(void **state) {
    write_all(state);
    image m = image_of_file();
    size_t head = end_of_table(&m), data = header_of(&m)->data_at;
    for (size_t i = 0; i < data; i += i < head ? 1 : 30011) {
        uint8_t was = m.p[i];
        m.p[i] ^= (uint8_t)(1u << i % 8);
        char what[64];
        snprintf(what, sizeof what, "byte %zu flipped", i);
        expect_refusal(what);
        m.p[i] = was;
    }
    m.p[data + 5000] ^= 4; /* data: only --verify reads it */
    file f;
    err e = { 0 };
    assert_int_equal(file_open(&f, path, &e), 0);
    assert_int_equal(file_verify(&f, &e, NULL, NULL), -1);
    assert_non_null(strstr(e.msg, "layers.0.qkv"));
    file_close(&f);
    image_free(&m);
}

/* With a right hash a flipped byte may pass, but then everything that the file says must be safe to use. */
static void test_flips_rehashed(void **state) {
    write_all(state);
    image m = image_of_file();
    size_t head = end_of_table(&m);
    int accepted = 0;
    for (size_t i = 0; i < head; i++) {
        uint8_t was = m.p[i], now = (uint8_t)(was ^ (1u << i * 5 % 8));
        m.p[i] = now;
        uint64_t hash = header_of(&m)->meta_hash;
        uint64_t data_at = header_of(&m)->data_at;
        if (data_at <= m.n) header_of(&m)->meta_hash = meta_hash(m.p, data_at);
        file f;
        err e = { 0 };
        if (file_open(&f, path, &e) == 0) {
            arena mem = { 0 };
            arch a;
            accepted++;
            (void)arch_read(&a, &f, &mem, &e);
            (void)file_verify(&f, &e, NULL, NULL);
            arena_free(&mem);
            file_close(&f);
        }
        header_of(&m)->meta_hash = hash;
        m.p[i] = was;
    }
    assert_true(accepted > 100 &&
                (size_t)accepted < head / 2 + head / 4); /* names, values and the tokenizer may change; structure may not */
    image_free(&m);
}

static void test_truncation(void **state) {
    write_all(state);
    image m = image_of_file();
    size_t head = end_of_table(&m), n = m.n;
    image_free(&m);
    for (size_t at = n - 1; at > 0; at -= at <= head ? 1 : at - head < 50021 ? at - head : 50021) { /* after the table: sampled */
        assert_int_equal(truncate(path, (off_t)at), 0);
        char what[64];
        snprintf(what, sizeof what, "cut to %zu bytes", at);
        expect_refusal(what);
    }
    assert_int_equal(truncate(path, 0), 0);
    expect_refusal("empty");
    write_all(state);
    FILE *f = fopen(path, "ab");
    fputc(0, f);
    fclose(f);
    expect_refusal("a byte too long");
}

/* ---- tables that lie ---- */

static void lie_overlap(image *m) { row_of(m, 2)->at -= 64; }
static void lie_gap(image *m) { row_of(m, 2)->at += 64; }
static void lie_unaligned(image *m) { row_of(m, 1)->at += 4; }
static void lie_before_data(image *m) { row_of(m, 0)->at = 0; }
static void lie_at_wraps(image *m) { row_of(m, 1)->at = UINT64_MAX - 63; }
static void lie_bytes(image *m) { row_of(m, 1)->bytes += 64; }
static void lie_bytes_moved(image *m) { row_of(m, 1)->bytes += 64, row_of(m, 2)->at += 64, row_of(m, 2)->bytes -= 64; }
static void lie_dims_wrap(image *m) { row_of(m, 0)->dims[0] = row_of(m, 0)->dims[1] = 1ull << 32; }
static void lie_dims_int(image *m) { row_of(m, 0)->dims[0] = INT32_MAX; }
static void lie_dims_huge(image *m) { row_of(m, 0)->dims[1] = UINT64_MAX; }
static void lie_dims_zero(image *m) { row_of(m, 0)->dims[1] = 0; }
static void lie_rows(image *m) { row_of(m, 0)->dims[0] = 33; }
static void lie_type(image *m) { row_of(m, 0)->type = W_COUNT; }
static void lie_other_type(image *m) { row_of(m, 0)->type = W_Q4; }
static void lie_layout(image *m) { row_of(m, 0)->layout = LAYOUT_ROWS; }
static void lie_layout_f32(image *m) { row_of(m, 4)->layout = LAYOUT_P16; }
static void lie_layout_unknown(image *m) { row_of(m, PLAIN)->layout = 2; }
static void lie_layout_tied(image *m) { row_of(m, N_SHAPES)->layout = LAYOUT_ROWS; }
static void lie_layout_older(image *m) { header_of(m)->version = 1; } /* which had no plain rows of q4 */
static void lie_rank(image *m) { row_of(m, 0)->n_dims = 3; }
static void lie_vector_k(image *m) { row_of(m, 1)->dims[1] = 1; }
static void lie_vector_type(image *m) { row_of(m, 1)->type = W_BF16; }
static void lie_name_twice(image *m) { memcpy(row_of(m, 2)->name, row_of(m, 1)->name, FORMAT_NAME); }
static void lie_name_empty(image *m) { memset(row_of(m, 2)->name, 0, FORMAT_NAME); }
static void lie_name_endless(image *m) { memset(row_of(m, 2)->name, 'a', FORMAT_NAME); }
static void lie_name_tail(image *m) { row_of(m, 2)->name[FORMAT_NAME - 1] = 'a'; }
static void lie_name_escape(image *m) { row_of(m, 2)->name[0] = 27; }
static void lie_reserved(image *m) { row_of(m, 2)->reserved2 = 1; }
static void lie_header_reserved(image *m) { header_of(m)->reserved[167] = 1; }
static void lie_exponent(image *m) { row_of(m, 3)->exponent = 1; }
static void lie_tied_shape(image *m) { row_of(m, N_SHAPES)->dims[0] = 21; }
static void lie_tied_hash(image *m) { row_of(m, N_SHAPES)->hash ^= 1; }
static void lie_tied_into(image *m) { row_of(m, N_SHAPES)->at += 64; }
static void lie_fewer_tensors(image *m) {
    header_of(m)->n_tensors--, memset(row_of(m, N_SHAPES), 0, sizeof(file_tensor)), header_of(m)->n_tensors--;
}
static void lie_more_tensors(image *m) { header_of(m)->n_tensors = 16000; }
static void lie_many_tensors(image *m) { header_of(m)->n_tensors = UINT32_MAX; }
static void lie_records_long(image *m) { header_of(m)->records_bytes = UINT64_MAX - 255; }
static void lie_tokenizer_long(image *m) { header_of(m)->tokenizer_bytes = 1ull << 63; }
static void lie_tokenizer_at(image *m) { header_of(m)->tokenizer_at += 64; }
static void lie_data_at(image *m) { header_of(m)->data_at += FORMAT_DATA_ALIGN; }
static void lie_record_key(image *m) { m->p[256] = 255; }
static void lie_record_key_empty(image *m) { m->p[256] = 0; }
static void lie_record_type(image *m) { m->p[258] = 9; }
static void lie_record_count(image *m) { memset(m->p + 260, 255, 4); }
/* Both keys have eight bytes or fewer: a record is 24. */
static void lie_record_twice(image *m) { memcpy(m->p + 256 + 24, m->p + 256, 16); }
static void lie_version(image *m) { header_of(m)->version = FORMAT_VERSION + 1; }
static void lie_version_zero(image *m) { header_of(m)->version = 0; }

static const struct {
    const char *name;
    void (*lie)(image *);
} lies[] = {
#define LIE(x) { #x, lie_##x }
    LIE(overlap), LIE(bytes_moved), LIE(gap), LIE(unaligned), LIE(before_data), LIE(at_wraps), LIE(bytes), LIE(dims_wrap),
    LIE(dims_int), LIE(dims_huge), LIE(dims_zero), LIE(rows), LIE(type), LIE(other_type), LIE(layout), LIE(layout_f32), LIE(layout_unknown),
    LIE(layout_tied), LIE(layout_older), LIE(rank), LIE(vector_k),
    LIE(vector_type), LIE(name_twice), LIE(name_empty), LIE(name_endless), LIE(name_tail), LIE(name_escape), LIE(reserved),
    LIE(header_reserved), LIE(exponent), LIE(tied_shape), LIE(tied_hash), LIE(tied_into), LIE(fewer_tensors), LIE(more_tensors),
    LIE(many_tensors), LIE(records_long), LIE(tokenizer_long), LIE(tokenizer_at), LIE(data_at), LIE(record_key),
    LIE(record_key_empty), LIE(record_type), LIE(record_count), LIE(record_twice), LIE(version), LIE(version_zero)
#undef LIE
};

static void test_lies(void **state) {
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        write_all(state);
        image m = image_of_file();
        uint64_t data_at = header_of(&m)->data_at;
        lies[i].lie(&m);
        if (header_of(&m)->data_at <= m.n) data_at = header_of(&m)->data_at;
        header_of(&m)->meta_hash = meta_hash(m.p, data_at);
        expect_refusal(lies[i].name);
        image_free(&m);
    }
}

/* A file of version 1 is read as it lies: it has the same layout, without plain rows of other types than f32. */
static void test_older_version(void **state) {
    (void)state;
    file_writer *w;
    file f;
    err e = { 0 };
    buf none = { 0 };
    uint8_t bytes[576] = { 1 };
    assert_int_equal(file_write_open(&w, path, true, &e), 0);
    assert_int_equal(file_write_tensor(w, "a", W_Q4, 2, 16, 64, &e), 0);
    assert_int_equal(file_write_begin(w, &none, NULL, 0, &e), 0);
    assert_int_equal(file_write_plain(w, 0, &e), -1); /* too late */
    e.code = 0;
    assert_int_equal(file_write_data(w, 0, bytes, sizeof bytes, &e), 0);
    assert_int_equal(file_write_end(&w, &e), 0);
    image m = image_of_file();
    header_of(&m)->version = 1;
    header_of(&m)->meta_hash = meta_hash(m.p, header_of(&m)->data_at);
    if (file_open(&f, path, &e)) fail_msg("%s", e.msg);
    file_close(&f);
    image_free(&m);
}

/* ---- the architecture's own rules ---- */

static int arch_accepts(void (*change)(arch *), const char *mention) {
    arena mem = { 0 };
    arch a;
    buf records = { 0 };
    file_writer *w;
    file f;
    err e = { 0 };
    small_arch(&a, &mem);
    if (change) change(&a);
    arch_write(&a, &records);
    if (mention && strcmp(mention, "banana") == 0) record_add_i64(&records, "banana", (int64_t[]){ 1 }, 1);
    assert_int_equal(file_write_open(&w, path, true, &e), 0);
    assert_int_equal(file_write_begin(w, &records, NULL, 0, &e), 0);
    assert_int_equal(file_write_end(&w, &e), 0);
    assert_int_equal(file_open(&f, path, &e), 0);
    arena_free(&mem);
    int rc = arch_read(&a, &f, &mem, &e);
    if (rc && mention && !strstr(e.msg, mention)) fail_msg("expected a word of %s: %s", mention, e.msg);
    file_close(&f);
    arena_free(&mem);
    buf_free(&records);
    return rc == 0;
}

static void no_heads(arch *a) { a->n_heads = 0; }
static void odd_kv(arch *a) { a->n_kv_heads = 3; }
static void later_kv(arch *a) { a->kv_layer[1] = 2; }
static void chained_kv(arch *a) { a->kv_layer[1] = 0, a->window[1] = 0, a->kv_layer[2] = 1; }
static void other_window(arch *a) { a->kv_layer[1] = 0; }
static void no_table(arch *a) { a->rope[0] = 2; }
static void wide_ff(arch *a) { a->ff[1] = 66; }
static void infinite_eps(arch *a) { a->norm_eps = INFINITY; }
static void nan_scale(arch *a) { a->attn_scale = NAN; }
static void big_eos(arch *a) { a->eos[0] = 20; }
static void odd_name(arch *a) { strcpy(a->name, "\x1b[2J"); }

static void test_arch(void **state) {
    (void)state;
    assert_true(arch_accepts(NULL, NULL));
    static const struct {
        void (*change)(arch *);
        const char *mention;
    } cases[] = { { no_heads, "n_heads" },      { odd_kv, "n_kv_heads" },    { later_kv, "layer 1" },
                  { chained_kv, "layer 2" },    { other_window, "window" },  { no_table, "rope table 2" },
                  { wide_ff, "layer 1 has an MLP" },
                  { infinite_eps, "norm_eps" }, { nan_scale, "attn_scale" }, { big_eos, "eos" },
                  { odd_name, "name" },         { NULL, "banana" } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (arch_accepts(cases[i].change, cases[i].mention)) fail_msg("accepted: %s", cases[i].mention);
}

/* FORMAT.md holds the table that arch.h generates. */
static void test_format_md(void **state) {
    (void)state;
    buf page = { 0 };
    err e = { 0 };
    assert_int_equal(read_file("weights/FORMAT.md", 0, &page, &e), 0);
    char *table = NULL;
    size_t n;
    FILE *f = open_memstream(&table, &n);
    arch_fields(f);
    fclose(f);
    if (!strstr(page.p, table)) fail_msg("weights/FORMAT.md lacks this table:\n%s", table);
    free(table);
    buf_free(&page);
}

static void test_writer(void **state) {
    write_all(state);
    file_writer *w;
    err e = { 0 };
    assert_int_equal(file_write_open(&w, path, false, &e), -1); /* kept */
    assert_non_null(strstr(e.msg, "--force"));
    e.code = 0;
    assert_int_equal(file_write_open(&w, "/dev/null", true, &e), -1);
    e.code = 0;
    assert_int_equal(file_write_open(&w, "no such folder/x.bin", true, &e), -1);
    e.code = 0;
    assert_int_equal(file_write_open(&w, path, true, &e), 0);
    assert_int_equal(file_write_tensor(w, "a", W_Q4, 2, 16, 64, &e), 0);
    assert_int_equal(file_write_tensor(w, "a", W_Q4, 2, 16, 64, &e), -1);
    e.code = 0;
    assert_int_equal(file_write_tensor(w, "b", W_Q8, 1, 16, 0, &e), -1); /* vectors are f32 */
    e.code = 0;
    assert_int_equal(file_write_tensor(w, "c", W_Q8, 2, 1ull << 40, 1ull << 40, &e), -1);
    file_write_abort(&w);
    /* a tensor that turns out to need another type begins anew */
    uint8_t bytes[4096] = { 1 };
    uint64_t n;
    buf none = { 0 };
    e.code = 0;
    assert_int_equal(file_write_open(&w, path, true, &e), 0);
    assert_int_equal(file_write_tensor(w, "a", W_Q8, 2, 16, 64, &e), 0);
    assert_int_equal(file_write_tensor(w, "b", W_F32, 1, 3, 0, &e), 1);
    assert_int_equal(file_write_begin(w, &none, NULL, 0, &e), 0);
    assert_int_equal(tensor_bytes(W_Q8, LAYOUT_P16, 2, 16, 64, &n), 0);
    assert_int_equal(file_write_data(w, 0, bytes, (size_t)n, &e), 0); /* whole, but the last so far */
    assert_int_equal(file_write_retype(w, 0, W_Q4, &e), 0);
    assert_int_equal(tensor_bytes(W_Q4, LAYOUT_P16, 2, 16, 64, &n), 0);
    assert_int_equal(file_write_data(w, 0, bytes, (size_t)n, &e), 0);
    assert_int_equal(file_write_data(w, 1, bytes, 256, &e), 0);
    assert_int_equal(file_write_retype(w, 0, W_Q8, &e), -1); /* too late */
    e.code = 0;
    assert_int_equal(file_write_end(&w, &e), 0);
    file f;
    assert_int_equal(file_open(&f, path, &e), 0);
    assert_int_equal(file_verify(&f, &e, NULL, NULL), 0);
    assert_int_equal(file_find(&f, "a")->type, W_Q4);
    file_close(&f);
    /* an unfinished file never appears, nor does its temporary */
    assert_int_equal(file_write_open(&w, path, true, &e), 0);
    assert_int_equal(file_write_tensor(w, "a", W_Q8, 2, 16, 64, &e), 0);
    assert_int_equal(file_write_begin(w, &none, NULL, 0, &e), 0);
    assert_int_equal(file_write_end(&w, &e), -1);
    assert_null(w);
    e.code = 0;
    assert_int_equal(file_open(&f, path, &e), 0); /* the one before */
    file_close(&f);
}

static int begin(void **state) {
    (void)state;
    snprintf(path, sizeof path, "/tmp/quern-format-%ld.bin", (long)getpid());
    return 0;
}

static int end(void **state) {
    (void)state;
    return unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_round_trip),     cmocka_unit_test(test_flips),
                                        cmocka_unit_test(test_flips_rehashed), cmocka_unit_test(test_truncation),
                                        cmocka_unit_test(test_lies),           cmocka_unit_test(test_arch),
                                        cmocka_unit_test(test_older_version),
                                        cmocka_unit_test(test_format_md),      cmocka_unit_test(test_writer) };
    return cmocka_run_group_tests(tests, begin, end);
}
