/* models_files: the model and adapter files in the folders of a server, and the names by which requests ask for them. It owns the list of entries,
 * which only grows: what is not there any more is marked. It must not know what opening a file means. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tools/serve/models_parts.h"

entry *models_find_name(const models *v, const char *name, size_t n) {
    for (entry *x = v->first; x; x = x->next)
        if (!x->base && strlen(x->m.name) == n && memcmp(x->m.name, name, n) == 0) return x;
    return NULL;
}

entry *models_find_path(const models *v, const char *path) {
    for (entry *x = v->first; x; x = x->next)
        if (!x->base && strcmp(x->m.path, path) == 0) return x;
    return NULL;
}

/* The file's name without its ending; where that is taken, with its folder's name before it, then a number behind. */
static char *choose_name(const models *v, arena *a, const char *path) {
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path, *folder = base;
    size_t n = strlen(base) - (has_ending(base, ".bin") ? 4 : 0);
    if (!models_find_name(v, base, n)) return arena_copy(a, base, n);
    if (slash)
        for (folder = slash; folder > path && folder[-1] != '/';) folder--;
    n += (size_t)(base - folder);
    for (int i = 1; i < 1000; i++) {
        buf text = { 0 };
        buf_add(&text, folder, n);
        if (i > 1) buf_fmt(&text, "-%d", i);
        char *name = text.failed || models_find_name(v, text.p, text.n) ? NULL : arena_copy(a, text.p, text.n);
        buf_free(&text);
        if (name) return name;
    }
    return NULL;
}

entry *models_new_entry(models *v, err *e) {
    entry *x = calloc(1, sizeof *x);
    if (!x) return fail_memory(e, sizeof *x, "a model's entry"), NULL;
    x->m.state = x;
    x->m.owner = v;
    x->m.turn_end = -1;
    x->keep_alive = v->o.keep_alive;
    return x;
}

void models_append(models *v, entry *x) {
    *v->end = x;
    v->end = &x->next;
}

static void drop_new(entry *x) {
    arena_free(&x->mem);
    free(x);
}

void models_look(entry *x, const struct stat *st) {
    x->gone = false;
    if (x->seen && x->m.modified == (int64_t)st->st_mtime && x->m.file_bytes == (uint64_t)st->st_size) return;
    x->seen = true;
    x->m.file_bytes = (uint64_t)st->st_size;
    x->m.modified = (int64_t)st->st_mtime;
    x->kind = file_kind_of(x->m.path);
}

static int add_lora(models *v, const char *path, err *e) {
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    size_t n = adapter_name_length(base);
    for (const lora_entry *k = v->loras; k; k = k->next)
        if (strcmp(k->f.path, path) == 0 || (strlen(k->f.name) == n && memcmp(k->f.name, base, n) == 0)) return 0; /* the first of a name counts */
    lora_entry *k = arena_alloc(&v->mem, sizeof *k);
    if (k) *k = (lora_entry){ { arena_copy(&v->mem, base, n), arena_copy(&v->mem, path, strlen(path)) }, NULL };
    if (!k || !k->f.name || !k->f.path) return fail_memory(e, strlen(path), "an adapter's name");
    *v->loras_end = k; /* behind: the others keep their numbers */
    v->loras_end = &k->next;
    return 0;
}

/* An adapter under a model's ending is one of the adapters, and no model. */
static int add_model(models *v, const char *path, const struct stat *st, err *e) {
    entry *x = models_find_path(v, path);
    if (!x) {
        if (!(x = models_new_entry(v, e))) return -1;
        x->m.path = arena_copy(&x->mem, path, strlen(path));
        x->m.name = choose_name(v, &x->mem, path);
        if (!x->m.path || !x->m.name) return drop_new(x), fail_memory(e, strlen(path), "a model's name");
        models_append(v, x);
    }
    models_look(x, st);
    return x->kind == KIND_ADAPTER ? add_lora(v, path, e) : 0;
}

static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

static int scan_folder(models *v, const char *folder, err *e) {
    struct dirent **list;
    int n = scandir(folder, &list, NULL, by_name), rc = 0;
    if (n < 0) return fail(e, "%s: %s", folder, strerror(errno));
    for (int i = 0; i < n; i++) {
        const char *name = list[i]->d_name;
        arena mem = { 0 };
        struct stat st;
        char *path = has_ending(name, ".bin") || has_ending(name, ".lora") ? path_join(&mem, folder, name) : NULL;
        if (!rc && path && name[0] != '.' && stat(path, &st) == 0 && S_ISREG(st.st_mode))
            rc = has_ending(name, ".bin") ? add_model(v, path, &st, e) : add_lora(v, path, e);
        arena_free(&mem);
        free(list[i]);
    }
    free(list);
    return rc;
}

int models_scan(models *v, bool first, err *e) {
    for (entry *x = v->first; x; x = x->next) x->gone = !x->base;
    for (int i = 0; i < v->o.n_paths; i++) {
        struct stat st;
        if (stat(v->paths[i], &st)) {
            if (first) return fail(e, "%s: %s", v->paths[i], strerror(errno));
        } else if (S_ISDIR(st.st_mode)) {
            if (scan_folder(v, v->paths[i], e)) return -1;
        } else if (has_ending(v->paths[i], ".lora")) {
            if (add_lora(v, v->paths[i], e)) return -1;
        } else if (add_model(v, v->paths[i], &st, e)) return -1;
    }
    return 0;
}
