/* certify: the certificate's numbers against what the engine computes of two files, bit for bit the same logits, for every family;
 * damage is noticed and located; a text that weights the search of scales makes the file better on another text; and mistakes are
 * refused in one line with nothing left behind. Checkpoints that the fixtures lack are made here of the demo's. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <sys/wait.h>

#include "runtime/pool.h"
#include "runtime/sample.h"
#include "tests/models.h"
#include "tools/convert/certify.h"

#define DEMO "weights/pip-stories"
#define GOLDEN "tests/fixtures/golden"

void warn(checkpoint *c, const char *fmt, ...) { /* main.c's, for the parts of the converter that are linked here */
    (void)c;
    (void)fmt;
}

static char said[16384]; /* what the last program wrote */

/* {bin} and {dir} stand for the programs' folder and the tests' own. */
static int sh(const char *command) {
    char full[4096] = "{ ", *p = full + 2;
    for (const char *s = command; *s && p < full + 3500;) {
        const char *word = strncmp(s, "{bin}", 5) == 0 ? bin_dir() : strncmp(s, "{dir}", 5) == 0 ? work_dir : NULL;
        if (word) p += sprintf(p, "%s", word), s += 5;
        else *p++ = *s++;
    }
    sprintf(p, "; } >'%s/said' 2>&1", work_dir);
    int status = system(full);
    char path[400];
    buf b = { 0 };
    err e = { 0 };
    snprintf(path, sizeof path, "%s/said", work_dir);
    must(read_file(path, 0, &b, &e), &e);
    snprintf(said, sizeof said, "%s", b.p ? b.p : "");
    buf_free(&b);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static const char *in_dir(const char *name) {
    static char path[2][600];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", work_dir, name);
    return path[turn];
}

static void must_run(const char *command) {
    if (sh(command)) fail_msg("%s: %s", command, said);
}

static bool exists(const char *name) { return access(in_dir(name), F_OK) == 0; }

/* Refused in one line that has the words, and no file m.bin is there, whole or in part. */
static void must_refuse(const char *command, int status, const char *words) {
    int found = sh(command), lines = 0;
    for (const char *p = said; *p; p++) lines += *p == '\n';
    if (found != status || (status == 1 && lines != 1) || !strstr(said, words)) fail_msg("%s: status %d, %d lines: %s", command, found, lines, said);
    DIR *d = opendir(work_dir);
    for (struct dirent *f; (f = readdir(d));)
        if (strncmp(f->d_name, "m.bin", 5) == 0) fail_msg("%s left %s behind", command, f->d_name);
    closedir(d);
}

/* Of a file in the tests' folder; n_layers 0: it has none. */
static certificate certificate_of(const char *path) {
    static certificate c;
    file f;
    err e = { 0 };
    must(file_open(&f, path, &e), &e);
    int have = certificate_read(&c, &f, &e);
    must(have < 0, &e);
    file_close(&f);
    return c;
}

/* ---- who carries it ---- */

static void test_carried(void **state) {
    (void)state;
    must_run("for t in f32 bf16 q8 q4; do {bin}/convert " DEMO " -o {dir}/$t.bin --type $t || exit 1; done");
    assert_int_equal(certificate_of(in_dir("f32.bin")).tokens, 0);
    assert_int_equal(certificate_of(in_dir("bf16.bin")).tokens, 0);
    certificate q8 = certificate_of(in_dir("q8.bin")), q4 = certificate_of(in_dir("q4.bin"));
    must_run("{bin}/convert " DEMO " -o {dir}/v.bin --type f32 --verify");
    assert_non_null(strstr(said, "0 of 127 tokens flip"));
    certificate f32 = certificate_of(in_dir("v.bin"));
    assert_int_equal(f32.n_layers, 6);
    assert_int_equal(f32.fixed.flips, 0);
    assert_true(f32.hidden < 1e-3 && f32.fixed.kl < 1e-6); /* the cache of f16 is all that differs */
    assert_true(q8.fixed.rows == 127 && q8.fixed.kl > 1e-5 && q8.fixed.kl < 0.01 && q8.layers[5] < 0.05);
    assert_true(q4.fixed.kl > 3 * q8.fixed.kl && q4.fixed.kl < 0.2 && q4.fixed.kl_max > q4.fixed.kl && q4.hidden > 3 * q8.hidden);
    must_run("{bin}/inspect {dir}/q8.bin --verify");
    static const char *const shown[] = { "certificate", "text 1, 128 tokens", "KL divergence", "of 127", "layers, %", "verified" };
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++)
        if (!strstr(said, shown[i])) fail_msg("inspect does not show \"%s\":\n%s", shown[i], said);
    must_run("{bin}/inspect {dir}/f32.bin");
    assert_null(strstr(said, "certificate"));
    must_run("{bin}/convert " DEMO " -o {dir}/t.bin -t 3 && cmp {dir}/t.bin {dir}/q8.bin"); /* whatever the threads */
}

/* ---- the engine's word ---- */

static passages passages_of(const char *path, const arch *a, const char *text) {
    file f;
    passages s;
    err e = { 0 };
    must(file_open(&f, path, &e), &e);
    buf blob = { .p = (char *)(uintptr_t)(f.map.p + f.header->tokenizer_at), .n = f.header->tokenizer_bytes };
    must(passages_make(&s, a, &blob, text, &e), &e);
    file_close(&f);
    return s;
}

static arch arch_of(const char *path, arena *mem) {
    file f;
    arch a;
    err e = { 0 };
    must(file_open(&f, path, &e), &e);
    must(arch_read(&a, &f, mem, &e), &e);
    file_close(&f);
    return a;
}

/* One file's hidden states of the encoder, or its logits. */
static float *run_passage(const char *path, const passage *p, int ctx, bool exact, int *ld) {
    engine *g = open_or_fail(path, (engine_opts){ .ctx = ctx, .exact = exact });
    session *s = new_session(g);
    const engine_info *i = engine_about(g);
    err e = { 0 };
    *ld = i->has_decoder ? i->logits_ld : (int)round_up((size_t)i->d_model, GROUP);
    float *out = alloc_aligned((size_t)max_int(p->n, p->n_enc) * (size_t)*ld * sizeof *out);
    if (p->n_enc) must(session_encode(s, p->enc, p->n_enc, i->has_decoder ? NULL : out, &e), &e);
    if (p->n) must(engine_step(g, &(step){ s, p->tok, p->n, out }, 1, &e), &e);
    session_free(s);
    engine_close(g);
    return out;
}

static void compare(const char *name, const certificate *c, const passage *p, const arch *a, const float *ref, const float *x, int ld) {
    double kl = 0, difference = 0, power = 0;
    int flips = 0;
    for (int i = 0; i < p->n - 1; i++) {
        kl += sample_divergence(ref + (size_t)i * (size_t)ld, x + (size_t)i * (size_t)ld, a->n_vocab) / (p->n - 1);
        flips += sample_argmax(ref + (size_t)i * (size_t)ld, a->n_vocab) != sample_argmax(x + (size_t)i * (size_t)ld, a->n_vocab);
    }
    for (int i = 0; i < p->n_enc && !p->n; i++)
        for (int j = 0; j < a->d_model; j++) {
            double r = ref[i * ld + j], d = x[i * ld + j] - r;
            difference += d * d;
            power += r * r;
        }
    if (p->n && (fabs(kl - c->fixed.kl) > 1e-9 || flips != c->fixed.flips || c->fixed.rows != p->n - 1))
        fail_msg("%s: the certificate says KL %.9g and %d flips, the engine %.9g and %d", name, c->fixed.kl, (int)c->fixed.flips, kl, flips);
    if (!p->n && (power == 0 || fabs(sqrt(difference / power) - c->hidden) > 1e-9))
        fail_msg("%s: hidden states %.9g, expected %.9g", name, c->hidden, sqrt(difference / power));
}

static void check_family(const char *folder, const char *name, const char *type) {
    char ref[800], path[800];
    arena mem = { 0 };
    int ld;
    snprintf(ref, sizeof ref, "%s", converted(folder, "f32"));
    snprintf(path, sizeof path, "%s", converted(folder, type));
    arch a = arch_of(path, &mem);
    certificate c = certificate_of(path);
    passages s = passages_of(path, &a, NULL);
    if (c.n_layers != a.n_layers + a.n_enc_layers || c.tokens != max_int(s.p[0].n, s.p[0].n_enc)) fail_msg("%s: no certificate", name);
    for (int l = 0; l < c.n_layers; l++)
        if (!(c.layers[l] > 1e-4 && c.layers[l] < 0.5)) fail_msg("%s: layer %d: %g", name, l, c.layers[l]);
    float *want = run_passage(ref, &s.p[0], s.longest, true, &ld), *got = run_passage(path, &s.p[0], s.longest, false, &ld);
    compare(name, &c, &s.p[0], &a, want, got, ld);
    free_aligned(want);
    free_aligned(got);
    passages_free(&s);
    arena_free(&mem);
    unlink(ref);
    unlink(path);
}

/* Every family, its prompt through the engine in f32 from a file of f32, and through the file of q8. */
static void test_families(void **state) {
    (void)state;
    DIR *d = opendir(GOLDEN);
    int n = 0;
    for (struct dirent *f; (f = readdir(d));) {
        char folder[400], config[500];
        snprintf(folder, sizeof folder, GOLDEN "/%s", f->d_name);
        snprintf(config, sizeof config, "%s/config.json", folder);
        if (f->d_name[0] == '.' || access(config, F_OK)) continue;
        check_family(folder, f->d_name, "q8");
        n++;
    }
    closedir(d);
    assert_true(n > 30);
    check_family(DEMO, "demo", "q4");
}

/* GGUF files; adapters that are merged: a reference without them would be far off. */
static void test_other_inputs(void **state) {
    (void)state;
    must_run("cp -r " GOLDEN "/lora_llama {dir}/adapter && {bin}/convert " GOLDEN "/llama -o {dir}/merged.bin --merge {dir}/adapter:2");
    certificate c = certificate_of(in_dir("merged.bin"));
    if (!(c.n_layers > 0 && c.fixed.kl < 0.01)) fail_msg("merged: KL %g", c.fixed.kl);
    must_run("for f in tests/fixtures/gguf/*.gguf; do case $f in */types.gguf) ;; "
             "*) {bin}/convert $f -o {dir}/gguf.bin --force --type f32 --verify || exit 1; echo $f >>{dir}/list; esac; done");
    c = certificate_of(in_dir("gguf.bin"));
    assert_true(c.n_layers > 0 && c.hidden < 0.01);
}

/* ---- damage ---- */

typedef struct bench { /* the converter's steps, with a hand between writing and measuring */
    checkpoint c;
    plan p;
    pool *pool;
    file_writer *w;
    passages s;
    reference r;
} bench;

static const volatile int never;

/* As far as the first tensor. The folder is borrowed. */
static void bench_open(bench *b, const char *folder, wtype type) {
    buf blob = { 0 }, records = { 0 };
    err e = { 0 };
    *b = (bench){ .c = { .folder = folder } };
    must(kernels_init(NULL, &e) || config_load(&b->c, &e) || safetensors_open(&b->c.st, folder, &e) ||
         plan_make(&b->p, &b->c, type, &e) || pool_new(&b->pool, 2, &e), &e);
    must(passages_make(&b->s, &b->c.arch, &blob, NULL, &e) || file_write_open(&b->w, in_dir("damaged.bin"), false, &e), &e);
    arch_write(&b->c.arch, &records);
    must(declare(&b->c, &b->p, b->w, &e) || file_write_begin(b->w, &records, NULL, 0, &e) ||
         reference_open(&b->r, &b->c, &b->p, b->pool, b->w, 0, &e), &e);
    buf_free(&records);
}

static void bench_write(bench *b) {
    err e = { 0 };
    pack_opts o = { b->pool, false, false, &never };
    must(write_ropes(&b->c, b->w, 0, &e) || pack_all(&b->c, &b->p, b->w, &o, &e) || file_write_settle(b->w, &e), &e);
}

static void bench_close(bench *b) {
    reference_close(&b->r);
    file_write_abort(&b->w);
    passages_free(&b->s);
    plan_free(&b->p);
    safetensors_close(&b->c.st);
    buf_free(&b->c.warnings);
    arena_free(&b->c.mem);
    pool_free(b->pool);
}

static int bench_certify(bench *b, certificate *c, char *warning, err *e) {
    *e = (err){ 0 };
    return certify(&b->r, file_write_temporary(b->w), &b->s, &never, false, c, warning, e);
}

/* Multiplies scales by 2^up in the file as it lies: the first n of each of a tensor's first panels. */
static void damage(bench *b, const char *tensor, int panels, int n, int up) {
    file f;
    err e = { 0 };
    must(file_open(&f, file_write_temporary(b->w), &e), &e);
    const file_tensor *t = file_find(&f, tensor);
    int fd = open(file_write_temporary(b->w), O_RDWR);
    for (int i = 0; i < panels * n; i++) {
        uint16_t h;
        off_t at = (off_t)(t->at + (uint64_t)(i / n) * panel_bytes((wtype)t->type, (int)t->dims[1]) + 2 * (uint64_t)(i % n));
        assert_int_equal(pread(fd, &h, 2, at), 2);
        h = f32_to_f16(f16_to_f32(h) * ldexpf(1, up));
        assert_int_equal(pwrite(fd, &h, 2, at), 2);
    }
    close(fd);
    file_close(&f);
}

static void test_damage(void **state) {
    (void)state;
    bench b;
    static certificate good, again, bad;
    char warning[CERTIFY_WARNING];
    err e;
    bench_open(&b, DEMO, W_Q8);
    bench_write(&b);
    must(bench_certify(&b, &good, warning, &e), &e);
    must(bench_certify(&b, &again, warning, &e), &e);
    assert_memory_equal(&good, &again, sizeof good); /* the reference can be used again */
    assert_string_equal(warning, "");
    damage(&b, "layers.3.down", 1, 1, -1); /* one scale of 64 weights, now half of it */
    must(bench_certify(&b, &bad, warning, &e), &e);
    for (int l = 0; l < 3; l++) assert_true(bad.layers[l] == good.layers[l]);
    for (int l = 3; l < 6; l++) assert_true(bad.layers[l] != good.layers[l]);
    assert_true(bad.fixed.kl != good.fixed.kl);
    damage(&b, "layers.3.gate_up", 96, 64, -6);
    must(bench_certify(&b, &bad, warning, &e), &e);
    assert_non_null(strstr(warning, "q8 loses much of this model: KL divergence 0."));
    assert_true(bad.layers[3] > 10 * good.layers[3] && bad.layers[2] == good.layers[2]);
    damage(&b, "embed", 128, 64, -6); /* half of the vocabulary */
    assert_int_equal(bench_certify(&b, &bad, warning, &e), -1);
    assert_non_null(strstr(e.msg, "not this model any more: KL divergence"));
    damage(&b, "layers.1.qkv", 1, 16, 30); /* infinite scales */
    assert_int_equal(bench_certify(&b, &bad, warning, &e), -1);
    assert_non_null(strstr(e.msg, "not finite where the checkpoint's are finite (from layer 1 on)"));
    bench_close(&b);
    assert_false(exists("damaged.bin"));
}

/* ---- a text ---- */

/* The first half of documents like those that the demo was trained on: to calibrate on; and the second: {dir}/held. */
static void make_texts(void) {
    must_run("head -c 24000 tests/fixtures/demo_text.txt >{dir}/text; tail -c 20000 tests/fixtures/demo_text.txt >{dir}/held");
}

static double number_of(const char *name) {
    const char *p = strstr(said, name);
    if (!p) fail_msg("no %s in %s", name, said);
    return atof(p + strlen(name));
}

/* Quality's word of a file against {dir}/ref.bin. */
static double held_out_kl(const char *path) {
    char command[800];
    snprintf(command, sizeof command, "{bin}/quality %s {dir}/held --ref {dir}/ref.bin --ref-exact --ctx 256 --json", path);
    must_run(command);
    return number_of("\"kl\":");
}

/* A copy of the demo checkpoint, in f32, whose tensors `change` may change. */
static void remake(const char *folder, void (*change)(const char *name, float *x, const st_tensor *t)) {
    safetensors s;
    err e = { 0 };
    buf head = { 0 };
    char command[700], path[700];
    snprintf(command, sizeof command, "mkdir '%s' && cp " DEMO "/*.json '%s'", folder, folder);
    assert_int_equal(system(command), 0);
    must(safetensors_open(&s, DEMO, &e), &e);
    uint64_t at = 0;
    for (size_t i = 0; i < s.n; at += s.tensors[i].n * 4, i++) {
        const st_tensor *t = &s.tensors[i];
        buf_fmt(&head, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[", i ? "," : "{", t->name);
        for (int d = 0; d < t->n_dims; d++) buf_fmt(&head, "%s%llu", d ? "," : "", (unsigned long long)t->dims[d]);
        buf_fmt(&head, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at, (unsigned long long)(at + t->n * 4));
    }
    buf_str(&head, "}");
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    FILE *f = fopen(path, "wb");
    uint64_t n = head.n;
    assert_true(f && fwrite(&n, 8, 1, f) == 1 && fwrite(head.p, 1, head.n, f) == head.n);
    for (size_t i = 0; i < s.n; i++) {
        float *x = malloc(s.tensors[i].n * sizeof *x);
        st_read(&s, &s.tensors[i], 0, s.tensors[i].n, x);
        change(s.tensors[i].name, x, &s.tensors[i]);
        assert_int_equal(fwrite(x, sizeof *x, s.tensors[i].n, f), s.tensors[i].n);
        free(x);
    }
    fclose(f);
    buf_free(&head);
    safetensors_close(&s);
}

/* A power of two for each channel, from 1/4 to 4: the model stays the same, bit for bit in f32 but for the order of nothing. */
static float skew(int channel) { return ldexpf(1, (channel * 37 + channel * channel * 11) % 5 - 2); }

static void skew_channels(const char *name, float *x, const st_tensor *t) {
    static const char *const wide[] = { "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj" };
    bool norm = strstr(name, "input_layernorm") || strstr(name, "post_attention_layernorm"), product = false;
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++) product |= strstr(name, wide[i]) != NULL;
    for (uint64_t i = 0; i < t->n && norm; i++) x[i] *= skew((int)i);
    for (uint64_t i = 0; i < t->n && product; i++) x[i] /= skew((int)(i % t->dims[1]));
}

/* Calibrated on one text, measured on others. The demo's channels are of one size: a few percent less error after every layer, of which
 * the held-out KL divergence, whose chance is as large, shows nothing. Where channels differ in size it is another matter. */
static void test_calibrated(void **state) {
    (void)state;
    make_texts();
    must_run("{bin}/convert " DEMO " -o {dir}/ref.bin --type f32 && {bin}/convert " DEMO " -o {dir}/p.bin --type q4");
    must_run("{bin}/convert " DEMO " -o {dir}/c.bin --type q4 --calibrate {dir}/text");
    assert_non_null(strstr(said, "perplexity x "));
    double plain = held_out_kl("{dir}/p.bin"), calibrated = held_out_kl("{dir}/c.bin");
    if (!(plain > 1e-3 && calibrated <= plain * 1.1)) fail_msg("demo: KL %g calibrated, %g without", calibrated, plain);
    certificate p = certificate_of(in_dir("p.bin")), c = certificate_of(in_dir("c.bin")); /* of the built-in prompt, another text too */
    for (int l = 0; l < 6; l++)
        if (!(c.layers[l] < p.layers[l])) fail_msg("layer %d: %g calibrated, %g without", l, c.layers[l], p.layers[l]);
    assert_true(c.fixed.kl < p.fixed.kl && c.hidden < p.hidden);
    remake(in_dir("skewed"), skew_channels);
    must_run("{bin}/convert {dir}/skewed -o {dir}/sp.bin --type q4 && {bin}/convert {dir}/skewed -o {dir}/sc.bin --type q4 --calibrate {dir}/text");
    plain = held_out_kl("{dir}/sp.bin");
    calibrated = held_out_kl("{dir}/sc.bin");
    if (!(calibrated < plain * 0.7)) fail_msg("skewed: KL %g calibrated, %g without", calibrated, plain);
}

/* The certificate of a text and quality's word of it: other blocks, the same model. */
static void test_quality_agrees(void **state) {
    (void)state;
    make_texts();
    must_run("head -c 14000 {dir}/text >{dir}/part; {bin}/convert " DEMO " -o {dir}/q.bin --force --type q4 --calibrate {dir}/part && {bin}/convert "
             DEMO " -o {dir}/ref.bin --force --type f32");
    must_run("{bin}/quality {dir}/q.bin {dir}/part --ref {dir}/ref.bin --ref-exact --ctx 511 --json");
    certificate c = certificate_of(in_dir("q.bin"));
    double kl = number_of("\"kl\":"), ratio = number_of("\"ratio\":");
    assert_int_equal(c.text.rows, (int)number_of("\"tokens\":") / 510 * 511); /* a BOS before each block: its first token is scored too */
    if (!(c.text.kl > kl * 0.8 && c.text.kl < kl * 1.25 && fabs(c.perplexity / c.perplexity_ref - ratio) < 0.01))
        fail_msg("certificate: KL %g, ratio %g; quality: %g, %g", c.text.kl, c.perplexity / c.perplexity_ref, kl, ratio);
}

static void test_blocks(void **state) {
    (void)state;
    arena mem = { 0 };
    must_run("{bin}/convert " DEMO " -o {dir}/b.bin --force --type f32");
    must_run("cp tests/fixtures/demo_text.txt {dir}/long; printf 'Once upon a time' >{dir}/short");
    arch a = arch_of(in_dir("b.bin"), &mem);
    passages s = passages_of(in_dir("b.bin"), &a, in_dir("long"));
    assert_int_equal(s.n, 1 + 8);
    assert_int_equal(s.text_tokens, 4096);
    for (int i = 1; i < s.n; i++) assert_true(s.p[i].n == 512 && s.p[i].n_enc == 0 && s.p[i].tok[0] == 0);
    assert_true(s.p[0].n == 128 && s.p[0].tok[0] == 0 && s.longest == 512);
    passages_free(&s);
    a.n_ctx = 20; /* blocks of the context's length */
    s = passages_of(in_dir("b.bin"), &a, in_dir("long"));
    assert_true(s.n == 1 + 4096 / 20 && s.longest == 20 && s.p[0].n == 20 && s.p[7].n == 20);
    passages_free(&s);
    s = passages_of(in_dir("b.bin"), &a, in_dir("short"));
    assert_true(s.n == 2 && s.p[1].n == 5 && s.text_tokens == 5 && s.p[1].tok[1] == 559);
    passages_free(&s);
    a.n_enc_layers = 1, a.decoder_start = 7; /* halves */
    s = passages_of(in_dir("b.bin"), &a, in_dir("short"));
    assert_true(s.p[1].n_enc == 3 && s.p[1].enc[0] == 0 && s.p[1].enc[1] == 559 && s.p[1].n == 3 && s.p[1].tok[0] == 7 && s.p[1].tok[2] == 452);
    passages_free(&s);
    a.n_layers = 0;
    s = passages_of(in_dir("b.bin"), &a, in_dir("short"));
    assert_true(s.p[1].n_enc == 5 && s.p[1].n == 0);
    passages_free(&s);
    arena_free(&mem);
}

/* Every family: each matrix of a product gets the statistics of its inputs, but experts that no token went to. */
static void check_statistics(const char *folder) {
    bench b;
    err e = { 0 };
    int n = 0;
    bench_open(&b, folder, W_Q4);
    passage twice[2] = { b.s.p[0], b.s.p[0] }; /* the second is taken for a text */
    must(calibrate(&b.r, &b.p, &b.c.mem, &(passages){ .p = twice, .n = 2, .longest = b.s.longest }, &never, false, &e), &e);
    for (int i = 0; i < b.p.n; i++) {
        const output *o = &b.p.outputs[i];
        bool table = o->vector || o->values || (strstr(o->name, "embed") && (i != b.p.embed || !b.p.tied)),
             chosen = strstr(o->name, "experts.") != NULL;
        if (table ? o->importance != NULL : !o->importance && !chosen)
            fail_msg("%s: %s has %s", folder, o->name, o->importance ? "statistics" : "none");
        for (uint32_t j = 0; j < o->k && o->importance; j++)
            if (!(o->importance[j] > 0 && o->importance[j] < INFINITY)) fail_msg("%s: %s[%u]: %g", folder, o->name, j, o->importance[j]);
        n += o->importance != NULL;
    }
    assert_true(n > 3);
    bench_close(&b);
}

static void test_statistics(void **state) {
    (void)state;
    DIR *d = opendir(GOLDEN);
    for (struct dirent *f; (f = readdir(d));) {
        char folder[400], config[500];
        snprintf(folder, sizeof folder, GOLDEN "/%s", f->d_name);
        snprintf(config, sizeof config, "%s/config.json", folder);
        if (f->d_name[0] != '.' && !access(config, F_OK)) check_statistics(folder);
    }
    closedir(d);
}

/* ---- mistakes ---- */

static void blow_up(const char *name, float *x, const st_tensor *t) {
    for (uint64_t i = 0; i < t->n && strstr(name, "layers.2.mlp.down_proj"); i++) x[i] *= 1e38f;
}

static void test_refusals(void **state) {
    (void)state;
    must_run(": >{dir}/empty; printf a >{dir}/one");
    must_refuse("{bin}/convert " DEMO " -o {dir}/m.bin --calibrate {dir}/empty", 1, "empty: is empty; --calibrate needs a text");
    must_refuse("{bin}/convert " DEMO " -o {dir}/m.bin --calibrate {dir}/one", 1, "one: has 1 tokens; --calibrate needs a text of at least 2");
    must_refuse("{bin}/convert " DEMO " -o {dir}/m.bin --calibrate {dir}/none", 1, "none: ");
    must_refuse("{bin}/convert " GOLDEN "/mistral -o {dir}/m.bin --calibrate {dir}/one", 1,
                "has no tokenizer to read a text with; --tokenizer FILE takes one");
    must_refuse("{bin}/convert " DEMO " -o {dir}/m.bin --vocab-only --verify", 2, "--verify is about weights");
    must_refuse("{bin}/convert " GOLDEN "/lora_llama -o {dir}/m.bin --base " GOLDEN "/llama --calibrate {dir}/one", 2, "--calibrate is for models");
    must_refuse("QUERN_KERNELS=banana {bin}/convert " DEMO " -o {dir}/m.bin", 1, "banana");
    remake(in_dir("huge"), blow_up);
    must_refuse("{bin}/convert {dir}/huge -o {dir}/m.bin --type bf16 --verify", 1,
                "the checkpoint itself computes values that are not finite, even in f32 (from layer 2 on)");
    must_run("{bin}/convert {dir}/huge -o {dir}/unmeasured.bin --type bf16");
}

/* ---- records ---- */

static void write_file(const char *path, const certificate *c, const char *leave_out) {
    file_writer *w;
    err e = { 0 };
    buf all = { 0 };
    float x[64] = { 0 };
    certificate_write(c, &all);
    must(file_write_open(&w, path, true, &e), &e);
    int t = file_write_tensor(w, "x", W_F32, 1, 64, 0, &e);
    if (leave_out) { /* in its place, a key of the same length that nobody reads */
        for (size_t i = 0; i + strlen(leave_out) <= all.n; i++)
            if (memcmp(all.p + i, leave_out, strlen(leave_out)) == 0) { all.p[i + 5] = 'C'; break; }
    }
    must(file_write_begin(w, &all, NULL, 0, &e) || file_write_data(w, t, x, sizeof x, &e) || file_write_end(&w, &e), &e);
    buf_free(&all);
}

static void test_records(void **state) {
    (void)state;
    static const char *const keys[] = { "info.certificate.by", "info.certificate.layers", "info.certificate.kl",
                                        "info.certificate.text.perplexity", "info.certificate.text.hash" };
    static certificate c = { .by = "quern 9", .prompt = "ids 1", .tokens = 5, .n_layers = 3, .layers = { 0.5, 0.25, NAN },
                             .hidden = 0.125, .fixed = { 4, 1, 0.1, 0.2 }, .text_hash = 0xfedcba9876543210,
                             .text_tokens = 9, .text = { 8, 2, 0.3, 0.4 }, .perplexity = 3, .perplexity_ref = 2 };
    static certificate back;
    file f;
    err e = { 0 };
    write_file(in_dir("r.bin"), &c, NULL);
    back = certificate_of(in_dir("r.bin"));
    assert_memory_equal(&c, &back, sizeof c);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        write_file(in_dir("r.bin"), &c, keys[i]);
        must(file_open(&f, in_dir("r.bin"), &e), &e);
        err found = { 0 };
        if (certificate_read(&back, &f, &found) != -1 || !strstr(found.msg, "its certificate is damaged"))
            fail_msg("without %s: %s", keys[i], found.msg);
        file_close(&f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_carried),    cmocka_unit_test(test_families), cmocka_unit_test(test_other_inputs),
                                        cmocka_unit_test(test_damage),     cmocka_unit_test(test_calibrated), cmocka_unit_test(test_quality_agrees),
                                        cmocka_unit_test(test_statistics),
                                        cmocka_unit_test(test_blocks),     cmocka_unit_test(test_refusals), cmocka_unit_test(test_records) };
    make_work_dir();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove_work_dir();
    return failed;
}
