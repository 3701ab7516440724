/* models_parts: what the files of models share (models.h is what others see).
 *
 *   models.c           opening, holding, closing; drafts; lists
 *   models_files.c     the files there are, and their names
 *   models_adapters.c  models with adapters, and the adapters there are
 *
 * All of it with the one lock held, which is given up while an engine is opened or closed: whatever was looked up before may be
 * other afterwards. Entries stay. */
#ifndef QUERN_SERVE_MODELS_PARTS_H
#define QUERN_SERVE_MODELS_PARTS_H

#include <pthread.h>

#include "runtime/kind.h"
#include "tools/serve/models.h"

/* What is done with an entry outside the lock; nobody else touches its engine meanwhile. */
typedef enum entry_state { ENTRY_RESTS, ENTRY_OPENS, ENTRY_CLOSES } entry_state;

/* One file, or a file with adapters. Entries live until models_close: pointers to models stay good. */
typedef struct model_state {
    model m;
    arena mem;               /* name, path, adapters */
    int refs;                /* who holds it, or waits for it */
    entry_state state;
    uint64_t attempt;        /* to open it, the last one; why: what came of it */
    err why;
    double keep_alive;
    uint64_t used;           /* the clock of its last use */
    bool spoilt;             /* pages of it were not there when they were read */
    bool gone;               /* the file was not there when it was last looked for */
    bool seen;               /* m.modified, m.file_bytes and what follows were read */
    file_kind kind;
    int64_t opened_modified; /* of the file that is open */
    uint64_t opened_bytes;
    int64_t draft_stamp;     /* of the draft's file that is open */
    char *draft_path;        /* of the file that proposes for it; NULL: none. Of a model with adapters: its base's */
    engine_info *info;       /* a copy, once it was open, of the file of that time; in models.mem */
    int64_t known_modified;
    model_adapter *defaults; /* [n_defaults] for requests that name none; of a model without adapters */
    int n_defaults;
    struct model_state *base; /* of a model with adapters: the one without; NULL: it is one without */
    struct model_state *next;
} entry;

typedef struct lora_entry {
    lora_file f;
    struct lora_entry *next;
} lora_entry;

struct models {
    models_opts o;
    arena mem;
    const char **paths;
    entry *first, **end;
    lora_entry *loras, **loras_end;
    uint64_t clock;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* the state of some entry */
};

/* May a request ask for it? Not with adapters (it names those), not what is gone, and no adapter or tokenizer by itself. */
static inline bool is_listed(const entry *x) { return !x->base && !x->gone && (x->kind == KIND_MODEL || x->kind == KIND_OTHER); }

/* ---- models.c ---- */
int models_hold_entry(models *v, entry *x, err *e); /* opened if it is not */
void models_close_entry(models *v, entry *x); /* of nobody; is to be asked for anew afterwards */

/* ---- models_files.c ---- */
entry *models_find_name(const models *v, const char *name, size_t n); /* those without adapters; as the next one */
entry *models_find_path(const models *v, const char *path);
entry *models_new_entry(models *v, err *e);
void models_append(models *v, entry *x);
struct stat;
void models_look(entry *x, const struct stat *st); /* its file as it is now */
int models_scan(models *v, bool first, err *e); /* all paths once more: new files get entries, those that are not there any more are marked */

#endif
