/* disk: the prefix cache's second floor: what sessions hold, in files of a folder, found again by its tokens. A restart is warm, and what
 * memory has no room for is not lost. One thread of its own reads and writes: the thread that computes never waits for a disk. A file is
 * whole or not there (written aside, then renamed), carries checksums, and the least recently used go when their bytes exceed the bound.
 * It knows sessions and tokens, not jobs. */
#ifndef QUERN_SERVE_DISK_H
#define QUERN_SERVE_DISK_H

#include "runtime/saved.h"

typedef struct disk disk;
typedef struct disk_fetch disk_fetch; /* a file on its way into memory */

/* Takes the folder for this process alone (it is made if it is not there) and reads which files it has;
 * damaged ones are dropped and said through log. */
int disk_open(disk **d, const char *folder, uint64_t most_bytes, void (*log)(void *arg, const char *line), void *arg, err *e);
void disk_close(disk *d); /* after what is being written */

/* ---- of the thread that computes; key: engine_cache_key ---- */

/* Would a file of these tokens be worth its bytes? Not if there is one that begins with nearly all of them. */
bool disk_wants(disk *d, uint64_t key, const int32_t *tok, int n);
/* Takes a copy of s, on the disk's thread, and writes it; false: it is still busy with another. Until disk_copies(d, s) is false, s must not
 * change: forks of it may be made, and go on. */
bool disk_save(disk *d, uint64_t key, const session *s);
bool disk_copies(disk *d, const session *s);
/* Begins to read the file that begins most like tok[0 .. n), if that is at least `more` tokens; NULL: there is none. */
disk_fetch *disk_find(disk *d, uint64_t key, const int32_t *tok, int n, int more);
bool disk_ready(disk *d, disk_fetch *f);
int disk_tokens(const disk_fetch *f); /* that it shares with tok */
/* Into s, in pieces of about `most` bytes, as saved.h has it; f stays until the last one. Once ready. Where it fails (-1) s is empty, the file is
 * dropped, and it is said. */
int disk_load_begin(disk *d, disk_fetch *f, session *s);
int disk_load_piece(disk *d, disk_fetch *f, session *s, size_t most); /* 1: there is more, 0: all is there */
void disk_let_go(disk *d, disk_fetch *f); /* NULL is allowed; ready or not */

/* ---- files of a client's own name, beside the cache's: they stay until they are overwritten, and count ---- */
bool disk_name_good(const char *name); /* no separators, no dot in front, 1 to 128 plain characters */
int disk_put(disk *d, const char *name, const buf *bytes, err *e);
int disk_get(disk *d, const char *name, buf *bytes, err *e);

typedef struct disk_figures {
    int64_t files, bytes, saved, loaded, evicted, damaged;
} disk_figures;
disk_figures disk_about(disk *d);

#endif
