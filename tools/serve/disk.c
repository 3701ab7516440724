/* disk: files of sessions (disk.h). It owns a folder, the list of what is in it, and the thread that reads and writes there. Its one idea: a
 * session that nobody changes can be read by another thread while its engine computes with others, since pages that are shared or idle are
 * never written; so saving costs the computing thread nothing but the promise not to touch that session for a moment. It must not know
 * what a page is, nor who asks.
 *
 * A file: the head below, the tokens, then what session_save wrote, which has a checksum of its own. Its name: key and hash of the tokens. */
#define _GNU_SOURCE
#include "runtime/files.h"
#include "tools/serve/disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LEAST_TOKENS = 16, NAME_BYTES = 40, MOST_TOKENS = 1 << 24 };

typedef struct file_head {
    char magic[8];
    uint64_t key, payload, tokens_hash;
    uint32_t n, reserved;
    uint64_t hash; /* of what stands before it */
} file_head;
_Static_assert(sizeof(file_head) == 48, "head of a file");

typedef struct item {
    uint64_t key, hash, bytes, used;
    int32_t *tok; /* [n] */
    int n;
    struct item *next;
} item;

struct disk_fetch {
    char name[NAME_BYTES];
    uint64_t key, hash;
    int same;
    buf bytes; /* behind head and tokens */
    FILE *in;  /* over them, once they are loaded */
    bool done, failed, abandoned;
    struct disk_fetch *next;
};

struct disk {
    char *folder;
    uint64_t most;
    int lock_file;
    void (*log)(void *arg, const char *line);
    void *log_arg;
    pthread_t thread;
    pthread_mutex_t lock, putting; /* putting: one client's file at a time; taken before lock */
    pthread_cond_t wake;
    /* under the lock: */
    item *items;
    uint64_t clock;
    const session *copying; /* being read; NULL: it is copied */
    uint64_t save_key;
    bool saving, quit;
    disk_fetch *fetches;    /* to be read, in order */
    disk_figures figures;
    int64_t own_bytes;      /* of files with a client's names */
};

static void say(disk *d, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void say(disk *d, const char *fmt, ...) {
    char line[600];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    if (d->log) d->log(d->log_arg, line);
}

static void name_of(uint64_t key, uint64_t hash, char name[NAME_BYTES]) {
    snprintf(name, NAME_BYTES, "%016llx-%016llx.kv", (unsigned long long)key, (unsigned long long)hash);
}

static char *path_of(const disk *d, arena *a, const char *name) { return path_join(a, d->folder, name); }

static void remove_file(const disk *d, const char *name) {
    arena a = { 0 };
    char *path = path_of(d, &a, name);
    if (path) unlink(path);
    arena_free(&a);
}

/* ---- the list ---- */

static void free_item(item *x) {
    if (x) free(x->tok);
    free(x);
}

/* Takes *at out of the list, and its file away; under the lock. */
static void drop(disk *d, item **at) {
    item *x = *at;
    char name[NAME_BYTES];
    name_of(x->key, x->hash, name);
    remove_file(d, name);
    *at = x->next;
    d->figures.files--;
    d->figures.bytes -= (int64_t)x->bytes;
    free_item(x);
}

static item **find_item(disk *d, uint64_t key, uint64_t hash) {
    for (item **at = &d->items; *at; at = &(*at)->next)
        if ((*at)->key == key && (*at)->hash == hash) return at;
    return NULL;
}

static int common(const item *x, const int32_t *tok, int n) {
    int most = min_int(x->n, n), same = 0;
    while (same < most && x->tok[same] == tok[same]) same++;
    return same;
}

static item *best_item(disk *d, uint64_t key, const int32_t *tok, int n, int *same) {
    item *best = NULL;
    *same = 0;
    for (item *x = d->items; x; x = x->next) {
        int k = x->key == key ? common(x, tok, n) : 0;
        if (k > *same) *same = k, best = x;
    }
    return best;
}

/* Until `more` bytes fit; under the lock. false: they never will. */
static bool make_room(disk *d, uint64_t more) {
    uint64_t own = (uint64_t)d->own_bytes;
    if (own + more > d->most) return false;
    while (own + (uint64_t)d->figures.bytes + more > d->most) {
        item **oldest = NULL;
        for (item **at = &d->items; *at; at = &(*at)->next)
            if (!oldest || (*at)->used < (*oldest)->used) oldest = at;
        if (!oldest) return false;
        drop(d, oldest);
        d->figures.evicted++;
    }
    return true;
}

static void add_item(disk *d, item *x) {
    x->next = d->items;
    d->items = x;
    d->figures.files++;
    d->figures.bytes += (int64_t)x->bytes;
}

/* ---- reading heads ---- */

/* The head and the tokens of a file; 0, or -1: it is no whole file of this kind. */
static int read_head(FILE *f, file_head *h, int32_t **tok) {
    struct stat st;
    *tok = NULL;
    if (fread(h, sizeof *h, 1, f) != 1 || memcmp(h->magic, "QUERNKV1", 8) || h->hash != hash_bytes(h, offsetof(file_head, hash))) return -1;
    if (!h->n || h->n > MOST_TOKENS || fstat(fileno(f), &st) || (uint64_t)st.st_size != sizeof *h + (uint64_t)h->n * 4 + h->payload) return -1;
    *tok = malloc((size_t)h->n * 4);
    if (*tok && fread(*tok, 4, h->n, f) == h->n && hash_bytes(*tok, (size_t)h->n * 4) == h->tokens_hash) return 0;
    free(*tok);
    *tok = NULL;
    return -1;
}

static item *read_item(const char *path, const char *name) {
    FILE *f = fopen(path, "rb");
    file_head h;
    char right[NAME_BYTES];
    item *x = f ? calloc(1, sizeof *x) : NULL;
    struct stat st;
    int rc = x && fstat(fileno(f), &st) == 0 ? read_head(f, &h, &x->tok) : -1;
    if (f) fclose(f);
    if (!rc) name_of(h.key, h.tokens_hash, right);
    if (rc || strcmp(name, right)) return free_item(x), NULL;
    x->key = h.key;
    x->hash = h.tokens_hash;
    x->n = (int)h.n;
    x->bytes = (uint64_t)st.st_size;
    x->used = (uint64_t)st.st_mtime;
    return x;
}

static bool is_hex(const char *s, size_t n) {
    while (n && ((*s >= '0' && *s <= '9') || (*s >= 'a' && *s <= 'f'))) s++, n--;
    return !n;
}

/* Does the name begin as name_of writes it? A folder may hold other people's files, too: those stay as they are. */
static bool is_ours(const char *name) {
    return strlen(name) >= 36 && is_hex(name, 16) && name[16] == '-' && is_hex(name + 17, 16) && strncmp(name + 33, ".kv", 3) == 0;
}

/* What was there before: files with times of their last use. Unfinished ones go. */
static int scan(disk *d, err *e) {
    DIR *dir = opendir(d->folder);
    if (!dir) return fail(e, "%s: %s", d->folder, strerror(errno));
    for (struct dirent *x; (x = readdir(dir));) {
        arena a = { 0 };
        char *path = path_of(d, &a, x->d_name);
        if (path && ((is_ours(x->d_name) && strcmp(x->d_name + 36, ".tmp") == 0) || has_ending(x->d_name, ".slot.tmp"))) unlink(path);
        else if (path && has_ending(x->d_name, ".slot")) d->own_bytes += (int64_t)file_bytes(path);
        else if (path && is_ours(x->d_name) && !x->d_name[36]) {
            item *i = read_item(path, x->d_name);
            if (i) {
                add_item(d, i);
                d->clock = i->used > d->clock ? i->used : d->clock;
            } else {
                say(d, "%s: damaged or of another kind: dropped", path);
                d->figures.damaged++;
                unlink(path);
            }
        }
        arena_free(&a);
    }
    closedir(dir);
    return 0;
}

/* ---- writing ---- */

/* Aside, then renamed: whoever finds the name finds all of it. parts: NULL-ended. */
static int write_whole(const disk *d, const char *name, const void *const *part, const size_t *n, err *e) {
    arena a = { 0 };
    char aside[160];
    snprintf(aside, sizeof aside, "%.140s.tmp", name);
    char *path = path_of(d, &a, name), *tmp = path_of(d, &a, aside);
    FILE *f = path && tmp ? fopen(tmp, "wb") : NULL;
    if (!f) {
        arena_free(&a);
        return fail(e, "%s/%s: %s", d->folder, aside, strerror(errno));
    }
    bool ok = true;
    for (int i = 0; part[i] && ok; i++) ok = fwrite(part[i], 1, n[i], f) == n[i];
    ok = ok && fflush(f) == 0 && fsync(fileno(f)) == 0;
    ok = fclose(f) == 0 && ok;
    ok = ok && rename(tmp, path) == 0;
    int rc = ok ? 0 : fail(e, "%s: %s", tmp, strerror(errno));
    if (!ok) unlink(tmp);
    arena_free(&a);
    return rc;
}

/* What became superfluous: files that are a beginning of this one. Under the lock. (One of just these tokens is not written again: disk_wants.) */
static void drop_beginnings(disk *d, const item *x) {
    for (item **at = &d->items; *at;) {
        if ((*at)->key == x->key && (*at)->n < x->n && common(*at, x->tok, x->n) == (*at)->n) drop(d, at);
        else at = &(*at)->next;
    }
}

/* Takes x. */
static void keep_file(disk *d, item *x, const char *payload, size_t n) {
    err e = { 0 };
    char name[NAME_BYTES];
    file_head h = { .magic = "QUERNKV1", .key = x->key, .payload = n, .tokens_hash = x->hash, .n = (uint32_t)x->n };
    h.hash = hash_bytes(&h, offsetof(file_head, hash));
    x->bytes = sizeof h + (uint64_t)x->n * 4 + n;
    name_of(x->key, x->hash, name);
    pthread_mutex_lock(&d->lock);
    bool fits = make_room(d, x->bytes);
    pthread_mutex_unlock(&d->lock);
    int rc = fits ? write_whole(d, name, (const void *const[]){ &h, x->tok, payload, NULL }, (const size_t[]){ sizeof h, (size_t)x->n * 4, n }, &e)
                  : 0;
    if (!fits)
        say(d, "%d tokens of a cache take %llu bytes, the bound of --kv-disk is %llu: not kept on disk", x->n,
            (unsigned long long)x->bytes, (unsigned long long)d->most);
    if (rc) say(d, "the cache on disk: %s", e.msg);
    if (!fits || rc) {
        free_item(x);
        return;
    }
    pthread_mutex_lock(&d->lock);
    drop_beginnings(d, x);
    x->used = ++d->clock;
    add_item(d, x);
    d->figures.saved++;
    pthread_mutex_unlock(&d->lock);
}

static void save(disk *d, const session *s, uint64_t key) {
    err e = { 0 };
    char *bytes = NULL;
    size_t n = 0;
    item *x = calloc(1, sizeof *x);
    FILE *f = x ? open_memstream(&bytes, &n) : NULL;
    int rc = f ? session_save(s, f, &e) : fail_memory(&e, sizeof *x, "a copy of a session");
    if (x) {
        x->key = key;
        x->n = session_len(s);
        x->tok = malloc((size_t)x->n * 4);
        if (x->tok) memcpy(x->tok, session_tokens(s), (size_t)x->n * 4);
        else rc = fail_memory(&e, (size_t)x->n * 4, "a copy of a session");
        x->hash = x->tok ? hash_bytes(x->tok, (size_t)x->n * 4) : 0;
    }
    if (f && fclose(f)) rc = fail_memory(&e, n, "a copy of a session");
    pthread_mutex_lock(&d->lock);
    d->copying = NULL; /* from here on s is the other thread's again */
    pthread_mutex_unlock(&d->lock);
    if (!rc) keep_file(d, x, bytes, n);
    else {
        say(d, "the cache on disk: %s", e.msg);
        free_item(x);
    }
    free(bytes);
}

/* ---- reading ---- */

/* All of a file, head and tokens checked and left out. */
static int read_file_of(disk *d, disk_fetch *f) {
    arena a = { 0 };
    char *path = path_of(d, &a, f->name);
    FILE *in = path ? fopen(path, "rb") : NULL;
    file_head h;
    int32_t *tok = NULL;
    err e = { 0 };
    int rc = in ? read_head(in, &h, &tok) : -1;
    if (!rc && (h.key != f->key || h.tokens_hash != f->hash)) rc = -1;
    if (!rc) rc = read_stream(in, 0, &f->bytes, &e);
    if (!rc && f->bytes.n != h.payload) rc = -1;
    if (in) futimens(fileno(in), NULL); /* its last use, for the next start */
    if (in) fclose(in);
    free(tok);
    arena_free(&a);
    return rc;
}

static void spoil(disk *d, uint64_t key, uint64_t hash, const char *name, const char *why) {
    pthread_mutex_lock(&d->lock);
    item **at = find_item(d, key, hash); /* NULL: it had to go meanwhile, and that was all */
    if (at) drop(d, at), d->figures.damaged++;
    pthread_mutex_unlock(&d->lock);
    if (at) say(d, "%s/%s: %s: dropped", d->folder, name, why);
}

static void free_fetch(disk_fetch *f) {
    if (f->in) fclose(f->in);
    buf_free(&f->bytes);
    free(f);
}

static void fetch(disk *d, disk_fetch *f) {
    bool bad = read_file_of(d, f) != 0;
    if (bad) spoil(d, f->key, f->hash, f->name, "cannot be read or is damaged");
    pthread_mutex_lock(&d->lock);
    f->failed = bad;
    f->done = true;
    bool gone = f->abandoned;
    pthread_mutex_unlock(&d->lock);
    if (gone) free_fetch(f);
}

/* ---- the thread: who waits for a file comes before what is to be written ---- */

static void *work(void *arg) {
    disk *d = arg;
    pthread_mutex_lock(&d->lock);
    for (;;) {
        disk_fetch *f = d->fetches;
        const session *s = d->copying;
        if (f) {
            d->fetches = f->next;
            pthread_mutex_unlock(&d->lock);
            fetch(d, f);
        } else if (s) {
            uint64_t key = d->save_key;
            pthread_mutex_unlock(&d->lock);
            save(d, s, key);
        } else if (d->quit) break;
        else {
            pthread_cond_wait(&d->wake, &d->lock);
            continue;
        }
        pthread_mutex_lock(&d->lock);
        if (s && !f) d->saving = false;
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

bool disk_wants(disk *d, uint64_t key, const int32_t *tok, int n) {
    int same;
    if (n < LEAST_TOKENS) return false;
    pthread_mutex_lock(&d->lock);
    best_item(d, key, tok, n, &same);
    pthread_mutex_unlock(&d->lock);
    return n - same >= max_int(LEAST_TOKENS, n / 8);
}

bool disk_save(disk *d, uint64_t key, const session *s) {
    pthread_mutex_lock(&d->lock);
    bool free_now = !d->saving;
    if (free_now) {
        d->saving = true;
        d->copying = s;
        d->save_key = key;
        pthread_cond_signal(&d->wake);
    }
    pthread_mutex_unlock(&d->lock);
    return free_now;
}

bool disk_copies(disk *d, const session *s) {
    pthread_mutex_lock(&d->lock);
    bool yes = d->copying == s;
    pthread_mutex_unlock(&d->lock);
    return yes;
}

disk_fetch *disk_find(disk *d, uint64_t key, const int32_t *tok, int n, int more) {
    int same;
    disk_fetch *f = calloc(1, sizeof *f);
    pthread_mutex_lock(&d->lock);
    item *x = f ? best_item(d, key, tok, n, &same) : NULL;
    if (x && same >= more && same >= LEAST_TOKENS) {
        x->used = ++d->clock;
        f->key = key;
        f->hash = x->hash;
        f->same = same;
        name_of(key, x->hash, f->name);
        disk_fetch **at = &d->fetches;
        while (*at) at = &(*at)->next;
        *at = f;
        pthread_cond_signal(&d->wake);
    } else {
        free(f);
        f = NULL;
    }
    pthread_mutex_unlock(&d->lock);
    return f;
}

bool disk_ready(disk *d, disk_fetch *f) {
    pthread_mutex_lock(&d->lock);
    bool done = f->done;
    pthread_mutex_unlock(&d->lock);
    return done;
}

int disk_tokens(const disk_fetch *f) { return f->failed ? 0 : f->same; }

static int load_failed(disk *d, const disk_fetch *f, const err *e) {
    if (e->code != ERR_MEMORY && e->code != ERR_CONTEXT) spoil(d, f->key, f->hash, f->name, e->msg);
    return -1;
}

int disk_load_begin(disk *d, disk_fetch *f, session *s) {
    err e = { 0 };
    if (f->failed) return session_truncate(s, 0), -1;
    f->in = fmemopen(f->bytes.p, f->bytes.n, "rb");
    int rc = f->in ? session_load_begin(s, f->in, &e) : (session_truncate(s, 0), fail_memory(&e, f->bytes.n, "a saved session"));
    return rc ? load_failed(d, f, &e) : 0;
}

int disk_load_piece(disk *d, disk_fetch *f, session *s, size_t most) {
    err e = { 0 };
    int rc = session_load_piece(s, most, &e);
    if (rc < 0) return load_failed(d, f, &e);
    if (rc) return 1;
    pthread_mutex_lock(&d->lock);
    d->figures.loaded++;
    pthread_mutex_unlock(&d->lock);
    return 0;
}

void disk_let_go(disk *d, disk_fetch *f) {
    if (!f) return;
    pthread_mutex_lock(&d->lock);
    bool done = f->done;
    f->abandoned = true;
    pthread_mutex_unlock(&d->lock);
    if (done) free_fetch(f);
}

/* ---- files of a client's own name ---- */

bool disk_name_good(const char *name) {
    size_t n = strlen(name);
    if (!n || n > 128 || name[0] == '.') return false;
    for (; *name; name++)
        if ((unsigned char)*name < ' ' || *name == 127 || strchr("/\\:", *name)) return false;
    return true;
}

static char *own_path(const disk *d, arena *a, const char *name, char file[140]) {
    snprintf(file, 140, "%.128s.slot", name);
    return path_of(d, a, file);
}

int disk_put(disk *d, const char *name, const buf *bytes, err *e) {
    arena a = { 0 };
    char file[140];
    char *path = own_path(d, &a, name, file);
    if (!path) return fail_memory(e, 200, "a file's name");
    pthread_mutex_lock(&d->putting);
    int64_t before = (int64_t)file_bytes(path);
    pthread_mutex_lock(&d->lock);
    d->own_bytes -= before;
    bool fits = make_room(d, bytes->n);
    d->own_bytes += fits ? (int64_t)bytes->n : before;
    pthread_mutex_unlock(&d->lock);
    int rc = fits ? write_whole(d, file, (const void *const[]){ bytes->p, NULL }, (const size_t[]){ bytes->n }, e)
                  : fail(e, "%zu bytes do not fit beside the other saved files: the bound of --kv-disk is %llu",
                         bytes->n, (unsigned long long)d->most);
    if (rc && fits) {
        pthread_mutex_lock(&d->lock);
        d->own_bytes += before - (int64_t)bytes->n;
        pthread_mutex_unlock(&d->lock);
    }
    pthread_mutex_unlock(&d->putting);
    arena_free(&a);
    return rc;
}

int disk_get(disk *d, const char *name, buf *bytes, err *e) {
    arena a = { 0 };
    char file[140];
    char *path = own_path(d, &a, name, file);
    int rc = path ? read_file(path, 0, bytes, e) : fail_memory(e, 200, "a file's name");
    arena_free(&a);
    return rc;
}

disk_figures disk_about(disk *d) {
    pthread_mutex_lock(&d->lock);
    disk_figures f = d->figures;
    f.bytes += d->own_bytes;
    pthread_mutex_unlock(&d->lock);
    return f;
}

/* ---- opening and closing ---- */

/* Ours alone: two servers would evict each other's files. The lock goes with the process. */
static int take_folder(disk *d, err *e) {
    arena a = { 0 };
    char *path = path_of(d, &a, "lock");
    struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    if (mkdir(d->folder, 0700) && errno != EEXIST) return arena_free(&a), fail(e, "%s: %s", d->folder, strerror(errno));
    d->lock_file = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    int rc = d->lock_file < 0 ? fail(e, "%s/lock: %s", d->folder, strerror(errno)) : 0;
    if (!rc && fcntl(d->lock_file, F_SETLK, &whole)) rc = fail(e, "%s is in use by another server: give each its own --kv-dir", d->folder);
    arena_free(&a);
    return rc;
}

static void free_disk(disk *d) {
    for (item *x = d->items, *next; x; x = next) {
        next = x->next;
        free_item(x);
    }
    if (d->lock_file >= 0) close(d->lock_file);
    pthread_cond_destroy(&d->wake);
    pthread_mutex_destroy(&d->lock);
    pthread_mutex_destroy(&d->putting);
    free(d->folder);
    free(d);
}

int disk_open(disk **out, const char *folder, uint64_t most_bytes, void (*log)(void *arg, const char *line), void *arg, err *e) {
    disk *d = calloc(1, sizeof *d);
    *out = NULL;
    if (!d || !(d->folder = strdup(folder))) return free(d), fail_memory(e, sizeof *d, "the cache on disk");
    d->most = most_bytes;
    d->log = log;
    d->log_arg = arg;
    d->lock_file = -1;
    pthread_mutex_init(&d->lock, NULL);
    pthread_mutex_init(&d->putting, NULL);
    pthread_cond_init(&d->wake, NULL);
    int rc = take_folder(d, e) || scan(d, e) ? -1 : 0;
    if (!rc) make_room(d, 0); /* the bound may be smaller than the last time */
    if (!rc && (rc = pthread_create(&d->thread, NULL, work, d))) rc = fail(e, "a thread could not be started: %s", strerror(rc));
    if (rc) return free_disk(d), -1;
    *out = d;
    return 0;
}

void disk_close(disk *d) {
    if (!d) return;
    pthread_mutex_lock(&d->lock);
    d->quit = true;
    pthread_cond_signal(&d->wake);
    pthread_mutex_unlock(&d->lock);
    pthread_join(d->thread, NULL);
    free_disk(d);
}
