/* inspect: shows what a model file holds, and with --verify reads all of it. It computes nothing with the weights and never
 * trusts a file further than file_open has checked it. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/arch.h"
#include "runtime/options.h"
#include "tokenizer/tokenizer.h"
#include "weights/certificate.h"

static const char *shape(const file_tensor *t, char *out, size_t n) {
    if (t->n_dims == 1) snprintf(out, n, "[%llu]", (unsigned long long)t->dims[0]);
    else snprintf(out, n, "[%llu][%llu]", (unsigned long long)t->dims[0], (unsigned long long)t->dims[1]);
    return out;
}

/* The tensor whose data this one shares, or NULL. */
static const file_tensor *owner(const file *f, uint32_t i) {
    for (uint32_t j = 0; j < i; j++)
        if (f->tensors[j].at == f->tensors[i].at) return &f->tensors[j];
    return NULL;
}

static void print_tensors(const file *f) {
    printf("\n%-28s %-5s %-6s %-16s %14s %14s %4s\n", "tensor", "type", "layout", "shape", "at", "bytes", "2^e");
    for (uint32_t i = 0; i < f->n_tensors; i++) {
        const file_tensor *t = &f->tensors[i], *first = owner(f, i);
        char text[64];
        printf("%-28s %-5s %-6s %-16s %14llu %14llu", t->name, wtype_name((wtype)t->type),
               t->layout == LAYOUT_P16 ? "panels" : "rows", shape(t, text, sizeof text), (unsigned long long)t->at, (unsigned long long)t->bytes);
        if (t->exponent) printf(" %4d", t->exponent);
        else if (first) printf("     ");
        printf("%s%s\n", first ? "  is " : "", first ? first->name : "");
    }
}

/* Weights and bytes by type; a shared matrix counts once. */
static void print_weights(const file *f) {
    uint64_t weights[W_COUNT] = { 0 }, bytes[W_COUNT] = { 0 }, all = 0, all_bytes = 0;
    uint32_t count[W_COUNT] = { 0 }, tied = 0;
    for (uint32_t i = 0; i < f->n_tensors; i++) {
        const file_tensor *t = &f->tensors[i];
        if (owner(f, i)) {
            tied++;
            continue;
        }
        count[t->type]++;
        weights[t->type] += t->dims[0] * (t->n_dims == 2 ? t->dims[1] : 1);
        bytes[t->type] += t->bytes;
    }
    printf("\nweights\n");
    for (int i = 0; i < W_COUNT; i++) {
        all += weights[i];
        all_bytes += bytes[i];
        if (count[i])
            printf("  %-17s %u tensors, %.3f M weights, %.3f MB, %.2f bits a weight\n", wtype_name((wtype)i), count[i],
                   (double)weights[i] / 1e6, (double)bytes[i] / 1e6, 8.0 * (double)bytes[i] / (double)weights[i]);
    }
    printf("  %-17s %.3f M weights, %.3f MB", "all", (double)all / 1e6, (double)all_bytes / 1e6);
    printf(tied ? "; %u more names share the data of others\n" : "\n", tied);
}

static void print_header(const file *f) {
    const file_header *h = f->header;
    printf("%s\n", f->path);
    printf("  %-17s %u\n  %-17s %llu\n  %-17s %016llx\n", "format version", h->version, "bytes", (unsigned long long)h->file_bytes,
           "hash of the head", (unsigned long long)h->meta_hash);
    printf("  %-17s %llu bytes\n  %-17s %llu bytes\n  %-17s %u\n", "records", (unsigned long long)h->records_bytes, "tokenizer",
           (unsigned long long)h->tokenizer_bytes, "tensors", h->n_tensors);
}

/* The records whose names begin with prefix: "info." is for people only, "" is all. */
static void print_records(const file *f, const char *prefix) {
    size_t at = 0;
    record r;
    while (record_next(f, &at, &r)) {
        if (*prefix && certificate_record(&r)) continue; /* print_certificate says it better */
        if (r.key_n <= strlen(prefix) || memcmp(r.key, prefix, strlen(prefix)) != 0) continue;
        printf("  %-17.*s ", (int)r.key_n, r.key);
        for (uint32_t i = 0; i < r.count; i++) {
            unsigned char c = r.type == REC_BYTES ? ((const unsigned char *)r.values)[i] : 0;
            if (r.type == REC_BYTES) putchar(c < ' ' || c == 0x7f ? '?' : c);
            else if (r.type == REC_I64) printf("%lld ", (long long)((const int64_t *)r.values)[i]);
            else printf("%.7g ", ((const double *)r.values)[i]);
        }
        putchar('\n');
    }
}

static int print_certificate(const file *f, err *e) {
    certificate *c = malloc(sizeof *c);
    if (!c) return fail_memory(e, sizeof *c, "a certificate");
    int have = certificate_read(c, f, e);
    if (have > 0) printf("\ncertificate\n"), certificate_print(c, stdout);
    free(c);
    return have < 0 ? -1 : 0;
}

static void show_progress(void *arg, uint64_t done, uint64_t total) {
    double *shown = arg, now = now_seconds();
    if (now - *shown < 0.1 && done < total) return;
    *shown = now;
    fprintf(stderr, "\rverifying %3.0f %%%s", 100.0 * (double)done / (double)(total ? total : 1),
            done < total ? "" : "\r               \r");
}

static int verify(const file *f, err *e) {
    double shown = 0, began = now_seconds();
    if (file_verify(f, e, isatty(STDERR_FILENO) ? show_progress : NULL, &shown)) return -1;
    printf("\nverified: the hashes of %u tensors are right (%.1f s)\n", f->n_tensors, now_seconds() - began);
    return 0;
}

/* A file without tensors may lack an architecture as well: a vocabulary alone. */
static int print_architecture(const file *f, err *e) {
    arch a;
    arena mem = { 0 };
    int rc = arch_read(&a, f, &mem, e);
    if (!rc) {
        printf("\narchitecture\n");
        arch_print(&a, stdout);
        print_records(f, "info.");
    }
    arena_free(&mem);
    return rc;
}

static int inspect(const char *path, bool tensors, bool verified, err *e) {
    file f;
    tokenizer *t = NULL;
    const int64_t *version;
    if (file_open(&f, path, e)) return -1;
    print_header(&f);
    bool adapter = record_i64(&f, FORMAT_ADAPTER_KEY, &version) >= 0;
    int rc = 0;
    if (adapter) printf("\nadapter\n"), print_records(&f, "");
    else if (f.header->records_bytes) rc = print_architecture(&f, e);
    if (!rc && f.header->tokenizer_bytes) {
        rc = tokenizer_open(&t, f.map.p + f.header->tokenizer_at, f.header->tokenizer_bytes, e);
        if (!rc) {
            printf("\ntokenizer\n");
            tokenizer_print(t, stdout);
            tokenizer_free(t);
        }
    } else if (!rc && !adapter) printf("\nno tokenizer\n");
    if (!rc && f.n_tensors) print_weights(&f);
    if (!rc && f.n_tensors && !adapter) rc = print_certificate(&f, e);
    if (!rc && tensors) print_tensors(&f);
    if (!rc && verified) rc = verify(&f, e);
    file_close(&f);
    return rc;
}

int main(int argc, char **argv) {
    bool tensors = false, verified = false, fields = false;
    const char *path = NULL;
    const option options[] = {
        { "--tensors", NULL, OPT_FLAG, &tensors, NULL, "list every tensor", NULL },
        { "--verify", NULL, OPT_FLAG, &verified, NULL, "read every tensor and compare its hash", NULL },
        { "--fields", NULL, OPT_FLAG, &fields, NULL, "print the table of architecture fields that this version knows", NULL },
    };
    const program p = { "inspect", "MODEL.bin [options]", "Shows the header, architecture, tokenizer and weights of a model file.",
                        options, sizeof options / sizeof *options };
    int n_words, rc = options_parse(&p, argc, argv, &path, 1, &n_words);
    if (rc != OPTIONS_GO_ON) return rc;
    if (fields && n_words == 0) return arch_fields(stdout), 0;
    if (n_words != 1) return usage_error(&p, "expected a model file");
    err e = { 0 };
    if (inspect(path, tensors, verified, &e) == 0 && fflush(stdout) == 0) return 0;
    fflush(stdout);
    fprintf(stderr, "inspect: %s\n", e.code ? e.msg : "writing failed");
    return 1;
}
