/* convert: a HuggingFace checkpoint, or a GGUF file, to one model file. This file is the command line and the order of the work;
 * config.c, rope.c and plan.c read the checkpoint (gguf*.c make one of a GGUF file), write.c writes. Nothing appears under the
 * output's name before it is whole, was read back and measured. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "runtime/options.h"
#include "runtime/pool.h"
#include "tokenizer/tokenizer.h"
#include "tools/convert/certify.h"
#include "tools/convert/families.h"
#include "tools/convert/plan.h"
#include "tools/convert/lora.h"

typedef struct convert_opts {
    const char *checkpoint, *output, *type_name, *tokenizer, *base, *slice;
    texts merge;
    const char *calibrate;
    bool vocab_only, force, verbose, type_given, families, verify;
    int threads;
    wtype type;
    matformer matformer;
} convert_opts;

static volatile int stopped; /* the signal that came; workers finish their batch, then the temporary file goes */

static void on_signal(int number) {
    stopped = number;
}

void warn(checkpoint *c, const char *fmt, ...) {
    char line[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    for (char *p = line; *p; p++)
        if ((unsigned char)*p < ' ') *p = ' ';
    buf_fmt(&c->warnings, "convert: warning: %s\n", line);
}

/* ---- the input ---- */

static bool is_gguf(const char *path) { return has_ending(path, ".gguf") || gguf_magic(path); }

static int check_input(const char *path, err *e) {
    if (!file_exists(path))
        return fail(e, "%s: does not exist; expected the folder of a HuggingFace checkpoint, or a GGUF file", path);
    if (is_folder(path) || is_gguf(path)) return 0;
    if (has_ending(path, ".bin") || has_ending(path, ".pth") || has_ending(path, ".pt") || has_ending(path, ".ckpt"))
        return fail(e,
                    "%s: pickled weights are not read; convert them to safetensors first (load with transformers, then "
                    "save_pretrained), and give the folder",
                    path);
    return fail(e, "%s: is a file; give the folder that holds it, with config.json and model.safetensors", path);
}

static bool has_file(arena *mem, const char *folder, const char *name) {
    const char *path = path_join(mem, folder, name);
    return path && file_exists(path);
}

/* A folder with one GGUF file and no config.json means that file. */
static int find_gguf(checkpoint *c, bool vocab_only, err *e) {
    const char *one = NULL;
    if (!is_folder(c->folder) || has_file(&c->mem, c->folder, "config.json")) return 0;
    if (vocab_only && (has_file(&c->mem, c->folder, "tokenizer.json") || has_file(&c->mem, c->folder, "tokenizer.model"))) return 0;
    if (gguf_in_folder(&c->mem, c->folder, &one, e)) return -1;
    if (one) c->folder = one;
    return 0;
}

static int refuse_pointer(arena *mem, const char *folder, const char *name, err *e) {
    char *path = path_join(mem, folder, name), start[64];
    FILE *f = path ? fopen(path, "rb") : NULL;
    size_t n = f ? fread(start, 1, sizeof start, f) : 0;
    if (f) fclose(f);
    return lfs_pointer(start, n) ? fail(e, "%s: is a git-LFS pointer, not the file itself; fetch it with `git lfs pull`", path) : 0;
}

/* The folder a file is in. */
static const char *folder_of(arena *mem, const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? arena_copy(mem, path, slash == path ? 1 : (size_t)(slash - path)) : ".";
}

/* Of a GGUF file, unless another tokenizer is asked for: then what lies beside that one counts too. */
static int find_tokenizer(checkpoint *c, const convert_opts *o, tokenizer **t, err *e) {
    static const char *const files[] = { "tokenizer.json", "tokenizer.model", "tokenizer_config.json" };
    if (c->gguf.path && !o->tokenizer) return gguf_tokenizer(c, t, e);
    const char *folder = c->gguf.path ? folder_of(&c->mem, o->tokenizer) : c->folder;
    if (!folder) return fail_memory(e, strlen(o->tokenizer), "a path");
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (refuse_pointer(&c->mem, folder, files[i], e)) return -1;
    return tokenizer_load(t, folder, o->tokenizer, e);
}

static int load_tokenizer(checkpoint *c, const convert_opts *o, buf *blob, err *e) {
    tokenizer *t;
    if (find_tokenizer(c, o, &t, e)) return -1;
    if (!t && o->vocab_only)
        return fail(e, "%s: no tokenizer here (tokenizer.json, tokenizer.model, vocab.json, ...); --tokenizer FILE takes another", c->folder);
    if (!t)
        return warn(c, "%s: no tokenizer (tokenizer.json, tokenizer.model, vocab.json, ...): the model will run by token ids only", c->folder), 0;
    if (!o->vocab_only && tokenizer_size(t) > c->arch.n_vocab)
        warn(c, "the tokenizer has %d ids, the model %d: tokens from %d on cannot be used", tokenizer_size(t), c->arch.n_vocab,
             c->arch.n_vocab);
    int rc = tokenizer_write(t, blob);
    tokenizer_free(t);
    return rc || blob->failed ? fail_memory(e, blob->cap, "the tokenizer") : 0;
}

/* ---- the output ---- */

static int write_vocabulary(checkpoint *c, const convert_opts *o, err *e) {
    file_writer *w;
    buf blob = { 0 }, records = { 0 };
    int rc = is_gguf(c->folder) ? gguf_load(c, c->folder, true, e) : 0;
    if (!rc) rc = load_tokenizer(c, o, &blob, e);
    if (!rc) rc = file_write_open(&w, o->output, o->force, e);
    if (!rc) {
        rc = file_write_begin(w, &records, blob.p, blob.n, e);
        if (rc) file_write_abort(&w);
        else rc = file_write_end(&w, e);
    }
    if (!rc) fprintf(stderr, "%s: tokenizer only, %.2f MB\n", o->output, (double)blob.n / 1e6);
    buf_free(&blob);
    return rc;
}

/* ---- the work ---- */

static void summary(const checkpoint *c, const plan *p, const convert_opts *o, uint64_t bytes, const certificate *cert, double seconds) {
    uint64_t weights = 0;
    double bits = 0;
    for (int i = 0; i < p->n; i++) {
        const output *out = &p->outputs[i];
        uint64_t stored;
        if (out->vector || matrix_bytes(out->type, output_layout(out), out->n, out->k, &stored)) continue;
        weights += (uint64_t)out->n * out->k;
        bits += 8.0 * (double)stored;
    }
    if (c->slice.n_layers)
        fprintf(stderr, "%s: a slice of %s: %d of its %d layers, MLPs of up to %d units\n", o->output, c->folder, c->arch.n_layers,
                c->slice.n_layers, c->arch.d_ff);
    fprintf(stderr, "%s: %s, %.1f M weights as %s, %.2f bits a weight, %.1f MB, %.1f s\n", o->output, c->family->model_type,
            (double)weights / 1e6, wtype_name(o->type), weights ? bits / (double)weights : 0, (double)bytes / 1e6, seconds);
    if (!cert->tokens) return;
    fprintf(stderr, "%s: against the checkpoint in f32: ", o->output);
    certificate_line(cert, stderr);
}

/* The base's fields and tensors, before its plan. */
static int read_checkpoint(checkpoint *c, convert_opts *o, err *e) {
    bool gguf_file = is_gguf(c->folder);
    if (gguf_file && gguf_load(c, c->folder, false, e)) return -1;
    if (config_load(c, e) || (o->slice && matformer_apply(c, &o->matformer, e))) return -1;
    return !gguf_file && (safetensors_open(&c->st, c->folder, e) || experts_split(c, e) || pooling_open(c, e)) ? -1 : 0;
}

static int open_merged(checkpoint *c, const convert_opts *o, peft_list *list, err *e) {
    list->p = arena_alloc(&c->mem, (size_t)(o->merge.n + 1) * sizeof *list->p);
    if (!list->p) return fail_memory(e, sizeof *list->p, "adapters");
    while (list->n < o->merge.n) {
        const char *path;
        float scale;
        peft *a = &list->p[list->n];
        if (parse_scaled(&c->mem, o->merge.p[list->n], &path, &scale, e)) return -1;
        list->n++;
        if (peft_open(a, path, (double)scale, e) || whole_put(a, c, e)) return -1;
    }
    return 0;
}

static int match_merged(checkpoint *c, plan *p, const peft_list *list, err *e) {
    p->merge = list->n ? list : NULL;
    for (int i = 0; i < list->n; i++)
        if (peft_match(&list->p[i], c, p, e)) return -1;
    return 0;
}

static int convert_model(checkpoint *c, convert_opts *o, err *e) {
    double began = now_seconds();
    plan p = { .embed = -1 };
    peft_list merged = { 0 };
    buf blob = { 0 };
    uint64_t bytes = 0;
    certificate cert;
    if (read_checkpoint(c, o, e)) return -1;
    if (peft_folder(c->folder)) warn(c, "%s: adapter_config.json beside config.json is left aside; --base FOLDER converts the adapter", c->folder);
    int rc = open_merged(c, o, &merged, e) || plan_make(&p, c, o->type, e) || match_merged(c, &p, &merged, e) ||
             load_tokenizer(c, o, &blob, e);
    if (!rc && o->verbose) arch_print(&c->arch, stderr);
    const write_opts w = { .output = o->output, .calibrate = o->calibrate, .merged = &o->merge, .slice = o->slice,
                           .force = o->force, .verbose = o->verbose, .verify = o->verify,
                           .threads = o->threads, .stop = &stopped };
    if (!rc) rc = write_model(c, &p, &blob, &w, &bytes, &cert, e);
    if (!rc) {
        if (c->warnings.n) fputs(c->warnings.p, stderr);
        summary(c, &p, o, bytes, &cert, now_seconds() - began);
    }
    checkpoint_close(c); /* before the adapters', of which it may have tensors */
    for (int i = 0; i < merged.n; i++) peft_close(&merged.p[i]);
    buf_free(&blob);
    plan_free(&p);
    return rc;
}

/* ---- adapters ---- */

/* A PEFT folder: with --base, or without a model's own configuration. */
static bool is_adapter(const convert_opts *o) {
    arena mem = { 0 };
    bool yes = o->base || (is_folder(o->checkpoint) && peft_folder(o->checkpoint) && !has_file(&mem, o->checkpoint, "config.json"));
    arena_free(&mem);
    return yes;
}

static int check_adapter_options(const program *p, const convert_opts *o) {
    const char *other = o->merge.n ? "--merge" : o->vocab_only ? "--vocab-only" : o->tokenizer ? "--tokenizer"
                      : o->slice ? "--matformer" : o->calibrate ? "--calibrate" : o->verify ? "--verify" : NULL;
    return other ? usage_error(p, "%s is for models: %s is an adapter, which has no tokenizer", other, o->checkpoint) : OPTIONS_GO_ON;
}

/* The base's plan, with the adapter's whole tensors in it; *hash is of the base's own vectors. */
static int plan_adapter(checkpoint *c, const convert_opts *o, peft *a, plan *p, uint64_t *hash, err *e) {
    if (plan_make(p, c, o->type, e) || adapter_hash(c, p, hash, e)) return -1;
    c->warnings.n = 0; /* those about the base */
    if (o->type_given && !a->n_whole)
        return fail(e, "%s: --type is for whole tensors (modules_to_save), and this adapter has none: low-rank ones are f32", a->folder);
    if (a->n_whole) {
        plan_free(p);
        if (whole_put(a, c, e)) return -1;
        buf said = c->warnings;
        c->warnings = (buf){ 0 };
        if (plan_make(p, c, o->type, e)) return buf_free(&said), -1;
        buf_free(&c->warnings);
        c->warnings = said;
    }
    return peft_match(a, c, p, e);
}

static int convert_adapter(checkpoint *c, convert_opts *o, err *e) {
    peft a;
    plan p = { .embed = -1 };
    uint64_t hash;
    pack_opts pack = { NULL, o->verbose, false, &stopped };
    int rc = peft_open(&a, o->checkpoint, 1, e);
    if (!rc && !(c->folder = o->base ? o->base : peft_base(&a, e))) rc = -1;
    if (!rc) rc = check_input(c->folder, e) || find_gguf(c, false, e) || read_checkpoint(c, o, e) || plan_adapter(c, o, &a, &p, &hash, e) ? -1 : 0;
    if (!rc) rc = pool_new(&pack.pool, o->threads, e);
    if (!rc) rc = adapter_write(c, &p, &a, hash, o->output, o->force, &pack, e);
    if (pack.pool) pool_free(pack.pool);
    plan_free(&p);
    if (!rc && c->warnings.n) fwrite(c->warnings.p, 1, c->warnings.n, stderr);
    checkpoint_close(c); /* before the adapter's, of which it may have tensors */
    peft_close(&a);
    return rc;
}

static int check_options(const program *p, convert_opts *o, int n_words) {
    if (o->families) return families_print(stdout), 0;
    if (n_words != 1) return usage_error(p, "expected the folder of a checkpoint or an adapter, or a GGUF file");
    if (!o->output || !*o->output) return usage_error(p, "an output is needed: -o model.bin");
    if (o->merge.n && o->vocab_only) return usage_error(p, "--merge changes weights: not with --vocab-only");
    if ((o->verify || o->calibrate) && o->vocab_only)
        return usage_error(p, "%s is about weights: not with --vocab-only", o->calibrate ? "--calibrate" : "--verify");
    if (wtype_parse(o->type_name, &o->type)) return usage_error(p, "--type: expected q4, q8, bf16 or f32, found %s", o->type_name);
    if (o->threads < 0 || o->threads > POOL_MAX)
        return usage_error(p, "--threads: expected 1 to %d, found %d", POOL_MAX, o->threads);
    if (o->slice && (o->vocab_only || o->merge.n))
        return usage_error(p, "--matformer slices a checkpoint as it is: not with %s", o->merge.n ? "--merge" : "--vocab-only");
    err e = { 0 };
    if (o->slice && matformer_parse(&o->matformer, o->slice, &e)) return usage_error(p, "%s", e.msg);
    char reason[256];
    if (!o->threads) o->threads = pool_default_threads(reason, sizeof reason);
    return OPTIONS_GO_ON;
}

int main(int argc, char **argv) {
    convert_opts o = { .type_name = "q8" };
    const option options[] = {
        { "--output", "-o", OPT_TEXT, &o.output, "FILE", "the model file to write", NULL },
        { "--type", NULL, OPT_TEXT, &o.type_name, "TYPE", "of the matrices, also of those that an adapter replaces: q4, q8, bf16 or f32 (q8)",
          &o.type_given },
        { "--tokenizer", NULL, OPT_TEXT, &o.tokenizer, "FILE",
          "take the tokenizer from this tokenizer.json, tokenizer.model, tekken.json, vocab.json or vocab.txt", NULL },
        { "--vocab-only", NULL, OPT_FLAG, &o.vocab_only, NULL, "write the tokenizer and its template alone; needs no config.json", NULL },
        { "--base", NULL, OPT_TEXT, &o.base, "CHECKPOINT", "the base of a PEFT adapter (its base_model_name_or_path)", NULL },
        { "--merge", NULL, OPT_TEXTS, &o.merge, "ADAPTER[:SCALE]", "add a PEFT adapter to the weights; may be given several times", NULL },
        { "--calibrate", NULL, OPT_TEXT, &o.calibrate, "TEXT", "a text to weight the error of q4 and q8 by, and to measure perplexity on", NULL },
        { "--verify", NULL, OPT_FLAG, &o.verify, NULL, "measure bf16 and f32 against the checkpoint too, as q4 and q8 always are", NULL },
        { "--matformer", NULL, OPT_TEXT, &o.slice, "SLICE", "of a Gemma 3n: e2b of an E4B, or ff=WIDTH[xLAYERS],...:skip=LAYER[-LAYER],...", NULL },
        { "--force", NULL, OPT_FLAG, &o.force, NULL, "replace an existing file", NULL },
        { "--threads", "-t", OPT_INT, &o.threads, "N", "threads (physical cores this process may use)", NULL },
        { "--families", NULL, OPT_FLAG, &o.families, NULL, "print the model families that can be converted", NULL },
        { "--verbose", "-v", OPT_FLAG, &o.verbose, NULL, "print the architecture, and each matrix with its error", NULL },
    };
    const program p = { "convert", "CHECKPOINT -o MODEL.bin [options]\n       convert ADAPTER -o ADAPTER.bin [--base CHECKPOINT]",
                        "Makes a model file of a HuggingFace checkpoint (a folder with config.json and safetensors, "
                        "and a tokenizer) or of a GGUF file.\n"
                        "Of a LoRA adapter (a PEFT folder) it makes a small file for run --lora; with --merge the adapter goes into the model.",
                        options, sizeof options / sizeof *options };
    int n_words, rc = options_parse(&p, argc, argv, &o.checkpoint, 1, &n_words);
    if (rc == OPTIONS_GO_ON) rc = check_options(&p, &o, n_words);
    bool adapter = rc == OPTIONS_GO_ON && is_adapter(&o);
    if (adapter) rc = check_adapter_options(&p, &o);
    if (rc != OPTIONS_GO_ON) return rc;
    static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
    struct sigaction action = { .sa_handler = on_signal };
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) sigaction(signals[i], &action, NULL);
    signal(SIGPIPE, SIG_IGN); /* nobody reads stderr any more: the conversion still ends in order */
    err e = { 0 };
    checkpoint c = { .folder = o.checkpoint };
    rc = check_input(o.checkpoint, &e) || (!adapter && find_gguf(&c, o.vocab_only, &e)) ||
         (adapter ? convert_adapter(&c, &o, &e) : o.vocab_only ? write_vocabulary(&c, &o, &e) : convert_model(&c, &o, &e));
    checkpoint_close(&c);
    buf_free(&c.warnings);
    arena_free(&c.mem);
    if (!rc) return 0;
    fprintf(stderr, "convert: %s\n", stopped ? "interrupted; no file was written" : e.msg);
    return stopped ? 128 + stopped : 1;
}
