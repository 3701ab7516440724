/* models: the model files that a server has, and those of them that are open. It owns their engines, tokenizers and templates; a model is
 * opened when it is first asked for and closed when its time is over or its memory is needed (least recently used first).
 * What is held is never closed. Engines are used by the inference thread alone; tokenizer and chat by any. */
#ifndef QUERN_SERVE_MODELS_H
#define QUERN_SERVE_MODELS_H

#include <string.h>

#include "runtime/chat.h"
#include "runtime/engine.h"
#include "runtime/files.h"
#include "tools/serve/calls.h"
#include "tools/serve/grammars.h"

typedef struct models models;

typedef struct model_adapter { /* LoRA on top of a model, as a request asks for it */
    const char *name;          /* of an adapter's file, without the ending */
    float scale;
} model_adapter;

/* Adapters are files .lora, or .bin with an adapter in them: their names go without. */
static inline size_t adapter_name_length(const char *name) {
    return strlen(name) - (has_ending(name, ".lora") ? 5 : has_ending(name, ".bin") ? 4 : 0);
}

typedef struct model {
    const char *name, *path;       /* "llama-1b", ".../llama-1b.bin" */
    uint64_t file_bytes, memory;   /* memory: what engine_plan says it takes */
    int64_t modified;              /* seconds since 1970 */
    char digest[17];               /* of header, tables and tokenizer: names the file's content */
    const engine_info *info;       /* of the open engine; as the rest, while the model is held */
    engine *engine;
    tokenizer *tok;                /* NULL: the file has none */
    chat *chat;                    /* NULL: no template */
    char no_chat[256];             /* why not */
    grammars *grammars;            /* what constrains its answers */
    const call_format *calls;      /* how calls of tools stand in them, by the template; NULL: it knows no tools */
    template_wants wants;          /* of messages with calls */
    think_marks think;             /* likewise, what is thought */
    int32_t turn_end;              /* what the template puts behind a reply ends it; -1: none */
    double load_seconds, expires;  /* expires: now_seconds() when it is closed if unused; INFINITY: never */
    engine *draft;                 /* proposes tokens for this one: opened, counted and closed with it; NULL: none */
    const char *draft_name;        /* of the draft it is to have; NULL: none */
    uint64_t draft_memory;         /* of `memory`: the draft's */
    char no_draft[256];            /* why draft is NULL all the same; the model works without, only slower */
    const adapter *adapters;       /* [n_adapters] LoRA in it, as engine_open took them; with any it is an engine of its own */
    int n_adapters;
    models *owner;
    /* Whoever computes with the engine hangs its things here; they are freed when nobody holds the model, before its engine is closed,
     * on the thread that closes it. models_set_work sets them. */
    void *work;
    void (*work_free)(void *work);
    struct model_state *state;     /* models.c's own */
} model;

typedef struct model_draft { /* names, or paths; model NULL: the only one there is */
    const char *model, *draft;
} model_draft;

typedef struct models_opts {
    const char *const *paths;      /* [n_paths] files and folders of .bin files */
    int n_paths;
    uint64_t memory;               /* of all that are open; 0: the machine's, as engine_plan tells it */
    double keep_alive;             /* seconds; negative: for ever */
    const model_draft *drafts;     /* [n_drafts] read by models_open only */
    int n_drafts;
    engine_opts engine;            /* threads, ctx, max_sessions, cache_type, kernels for all of them; path is filled in */
} models_opts;

/* scans, opens nothing for good; a draft that cannot propose for its model is refused here */
int models_open(models **v, const models_opts *o, err *e);
void models_close(models *v);

/* The model of this name, opened if it is not (nobody else waits for that but those who ask for the same one), held until
 * models_release. name NULL or "": the only one, or the first. ":latest" and a missing ".bin" are understood. err.code:
 * MODELS_NOT_FOUND, MODELS_NO_MEMORY (both numbers in the text), MODELS_NO_MODEL (the file is an adapter, or a tokenizer alone; the
 * text says so), or as engine_open says. From any thread. */
enum { MODELS_NOT_FOUND = 300, MODELS_NO_MEMORY, MODELS_NO_MODEL };
int models_hold(models *v, const char *name, model **m, err *e);
/* The same file with adapters in it: an engine of its own, as an engine takes its adapters when it is opened. The pages of the file are
 * shared; cache and buffers are not. n 0: m itself. Held once more; what was held stays so. */
int models_hold_adapted(models *v, model *m, const model_adapter *adapters, int n, model **adapted, err *e);
void models_release(models *v, model *m, double keep_alive); /* NAN: the default; 0: closes it when nobody holds it */
void models_retain(model *m);  /* held once more, and given back without a say in how long it stays: of the thread that computes */
void models_drop(model *m);
void models_set_work(model *m, void *work, void (*work_free)(void *work));
/* A list of all models' files [n], open or not: name, path, bytes, modified, digest and info only where known. The caller frees the array. */
int models_list(models *v, model **list, int *n, err *e);
/* Without opening it for good: engine, tok and chat are NULL in the copy (hold it for those), info is good until models_close or until
 * the file has changed and is described again. */
int models_describe(models *v, const char *name, bool *open, model *copy, err *e);
void models_expire(models *v, double now); /* closes those whose time is over */
/* The adapter files there are [n]. The place in the list is an adapter's number, and stays: new files come behind. The caller frees the
 * array, the texts stay until models_close. */
typedef struct lora_file {
    const char *name, *path;
} lora_file;
int models_adapters(models *v, lora_file **list, int *n, err *e);
/* What a model's requests get that name no adapters themselves; none at first. Set: copied. Asked: the caller frees the array, its names stay
 * until models_close. */
int models_set_default_adapters(models *v, model *m, const model_adapter *list, int n, err *e);
int models_default_adapters(models *v, const model *m, model_adapter **list, int *n, err *e);
/* Its file became shorter while it was mapped (fault.h): nobody gets it any more until it has been closed, by those who hold it, and opened anew. */
void models_spoil(model *m);
uint64_t models_bytes(models *v, uint64_t *bound); /* what all that are open take by their plans, and the most they may */

#endif
