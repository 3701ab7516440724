/* certificate: to records and back, and to text (certificate.h). It must not know how anything is measured. */
#include "weights/certificate.h"

#include <string.h>

#define KEY "info.certificate"

/* ---- writing ---- */

static void add_text(buf *b, const char *key, const char *text) { record_add_bytes(b, key, text, strlen(text)); }
static void add_int(buf *b, const char *key, int64_t x) { record_add_i64(b, key, &x, 1); }

static void add_score(buf *b, const char *prefix, const certificate_score *s) {
    char key[64];
    snprintf(key, sizeof key, "%srows", prefix);
    record_add_i64(b, key, (int64_t[]){ s->rows, s->flips }, 2);
    snprintf(key, sizeof key, "%skl", prefix);
    record_add_f64(b, key, (double[]){ s->kl, s->kl_max }, 2);
}

void certificate_write(const certificate *c, buf *b) {
    add_int(b, KEY, CERTIFICATE_VERSION);
    add_text(b, KEY ".by", c->by);
    add_text(b, KEY ".prompt", c->prompt);
    add_int(b, KEY ".tokens", c->tokens);
    record_add_f64(b, KEY ".layers", c->layers, (uint32_t)c->n_layers);
    record_add_f64(b, KEY ".hidden", &c->hidden, 1);
    add_score(b, KEY ".", &c->fixed);
    if (!c->text_tokens) return;
    add_int(b, KEY ".text.hash", (int64_t)c->text_hash);
    add_int(b, KEY ".text.tokens", c->text_tokens);
    add_score(b, KEY ".text.", &c->text);
    record_add_f64(b, KEY ".text.perplexity", (double[]){ c->perplexity, c->perplexity_ref }, 2);
}

/* ---- reading: a file may come from anyone ---- */

bool certificate_record(const record *r) {
    size_t n = sizeof KEY - 1;
    return r->key_n >= n && memcmp(r->key, KEY, n) == 0 && (r->key_n == n || r->key[n] == '.');
}

static int get_text(const file *f, const char *key, char *out, size_t size) {
    const char *bytes;
    int64_t n = record_bytes(f, key, &bytes);
    if (n < 0 || (uint64_t)n >= size) return -1;
    for (int64_t i = 0; i < n; i++) out[i] = bytes[i] < ' ' || bytes[i] > '~' ? '?' : bytes[i];
    out[n] = 0;
    return 0;
}

static int get_ints(const file *f, const char *key, int n, int64_t *out) {
    const int64_t *v;
    if (record_i64(f, key, &v) != n) return -1;
    memcpy(out, v, (size_t)n * sizeof *out);
    return 0;
}

static int get_reals(const file *f, const char *key, int n, double *out) {
    const double *v;
    if (record_f64(f, key, &v) != n) return -1;
    memcpy(out, v, (size_t)n * sizeof *out);
    return 0;
}

static int get_score(const file *f, const char *rows_key, const char *kl_key, certificate_score *s) {
    int64_t rows[2];
    double kl[2];
    if (get_ints(f, rows_key, 2, rows) || get_reals(f, kl_key, 2, kl)) return -1;
    *s = (certificate_score){ .rows = rows[0], .flips = rows[1], .kl = kl[0], .kl_max = kl[1] };
    return s->rows >= 0 && s->flips >= 0 && s->flips <= s->rows ? 0 : -1;
}

static int get_given_text(certificate *c, const file *f) {
    int64_t hash;
    double perplexity[2];
    if (get_ints(f, KEY ".text.tokens", 1, &c->text_tokens)) return 0;
    if (c->text_tokens < 1 || get_ints(f, KEY ".text.hash", 1, &hash) || get_score(f, KEY ".text.rows", KEY ".text.kl", &c->text) ||
        get_reals(f, KEY ".text.perplexity", 2, perplexity))
        return -1;
    c->text_hash = (uint64_t)hash;
    c->perplexity = perplexity[0];
    c->perplexity_ref = perplexity[1];
    return 0;
}

int certificate_read(certificate *c, const file *f, err *e) {
    const int64_t *version;
    const double *layers;
    *c = (certificate){ 0 };
    int64_t n = record_i64(f, KEY, &version);
    if (n < 0) return 0;
    if (n != 1 || *version != CERTIFICATE_VERSION)
        return fail(e, "%s: its certificate is of another version: it was made by a newer convert; use a newer quern", f->path);
    n = record_f64(f, KEY ".layers", &layers);
    if (n < 0 || n > CERTIFICATE_LAYERS || get_text(f, KEY ".by", c->by, sizeof c->by) ||
        get_text(f, KEY ".prompt", c->prompt, sizeof c->prompt) || get_ints(f, KEY ".tokens", 1, &c->tokens) || c->tokens < 1 ||
        get_reals(f, KEY ".hidden", 1, &c->hidden) || get_score(f, KEY ".rows", KEY ".kl", &c->fixed) || get_given_text(c, f))
        return fail(e, "%s: its certificate is damaged; convert again", f->path);
    c->n_layers = (int)n;
    memcpy(c->layers, layers, (size_t)n * sizeof *layers);
    return 1;
}

/* ---- for people ---- */

static int worst_layer(const certificate *c) {
    int worst = 0;
    for (int l = 1; l < c->n_layers; l++)
        if (!(c->layers[l] <= c->layers[worst])) worst = l; /* a NaN is worst */
    return worst;
}

static void print_score(const certificate_score *s, FILE *out) {
    fprintf(out, "  %-17s %.3g nats a token, %.3g at most\n  %-17s %lld of %lld\n", "KL divergence", s->kl, s->kl_max, "top-1 flips",
            (long long)s->flips, (long long)s->rows);
}

void certificate_print(const certificate *c, FILE *out) {
    fprintf(out, "  %-17s %s, against the checkpoint in f32\n  %-17s %s, %lld tokens\n", "made by", c->by, "prompt", c->prompt,
            (long long)c->tokens);
    if (c->fixed.rows) print_score(&c->fixed, out);
    fprintf(out, "  %-17s %.4g %%\n  %-17s", "hidden states", 100 * c->hidden, "layers, %");
    for (int l = 0; l < c->n_layers; l++) fprintf(out, "%s%.3g", l == 0 ? " " : l % 12 ? " " : "\n                    ", 100 * c->layers[l]);
    fputc('\n', out);
    if (!c->text_tokens) return;
    fprintf(out, "  %-17s %016llx (XXH64), %lld tokens of it\n", "text", (unsigned long long)c->text_hash, (long long)c->text_tokens);
    if (!c->text.rows) return;
    print_score(&c->text, out);
    fprintf(out, "  %-17s %.4f, the checkpoint's %.4f, ratio %.5f\n", "perplexity", c->perplexity, c->perplexity_ref,
            c->perplexity / c->perplexity_ref);
}

void certificate_line(const certificate *c, FILE *out) {
    int worst = worst_layer(c);
    if (c->fixed.rows)
        fprintf(out, "KL %.3g nats, %lld of %lld tokens flip, ", c->fixed.kl, (long long)c->fixed.flips, (long long)c->fixed.rows);
    if (c->n_layers) fprintf(out, "worst layer %d: %.2g %%", worst, 100 * c->layers[worst]);
    if (c->text.rows) fprintf(out, ", perplexity x %.5f over %lld tokens", c->perplexity / c->perplexity_ref, (long long)c->text.rows);
    fputc('\n', out);
}
