/* bench/model: what a fresh process takes from its start to its first token. The child is this program itself with --first-token: it
 * opens the file and its tokenizer, computes a short prompt and writes the likeliest token, as run would. The clock starts before the
 * child does and stops at the first byte that it writes. It must not know what else is measured. */
#define _GNU_SOURCE
#include "bench/model.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tokenizer/tokenizer.h"

extern char **environ;

/* ---- the child ---- */

static int32_t likeliest(const float *logits, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

/* The token's text, or without a tokenizer its id. */
static int add_token(const engine_info *i, int32_t id, buf *out, err *e) {
    tokenizer *t = NULL;
    if (i->tokenizer_bytes) {
        if (tokenizer_open(&t, i->tokenizer, i->tokenizer_bytes, e)) return -1;
        int rc = tokenizer_decode_bytes(t, &id, 1, false, out, e);
        tokenizer_free(t);
        if (rc) return -1;
    }
    if (!out->n) buf_fmt(out, "%d", (int)id);
    buf_byte(out, '\n');
    return out->failed ? fail_memory(e, out->cap, "a token") : 0;
}

int bench_first_token(const engine_opts *o, int n, err *e) {
    engine *g = NULL;
    session *s = NULL;
    buf out = { 0 };
    int32_t tok[BENCH_START_TOKENS];
    engine_opts own = *o;
    if (!own.ctx) own.ctx = n;
    int rc = engine_open(&g, &own, e) || session_new(&s, g, e);
    for (int i = 0; !rc && i < n; i++) tok[i] = (int32_t)((i * 7919 + 13) % engine_about(g)->n_vocab);
    if (!rc) rc = session_sync(s, tok, n, e) || add_token(engine_about(g), likeliest(session_logits(s), engine_about(g)->n_vocab), &out, e);
    if (!rc && (fwrite(out.p, 1, out.n, stdout) != out.n || fflush(stdout))) rc = fail(e, "stdout: writing failed: %s", strerror(errno));
    buf_free(&out);
    session_free(s);
    engine_close(g);
    return rc ? -1 : 0;
}

/* ---- the parent ---- */

enum { MOST_WORDS = 24 + 2 * (int)(sizeof((texts *)0)->p / sizeof(char *)) };

static void child_words(const bench_plan *p, const bench_subject *s, char threads[16], char ctx[16], const char *words[MOST_WORDS]) {
    int n = 0;
    words[n++] = p->self;
    words[n++] = "--first-token";
    snprintf(threads, 16, "%d", s->threads);
    words[n++] = "-t";
    words[n++] = threads;
    snprintf(ctx, 16, "%d", p->engine.ctx);
    words[n++] = "-c";
    words[n++] = ctx;
    if (p->engine.huge_pages) words[n++] = "--huge-pages";
    if (p->engine.lock) words[n++] = "--lock";
    if (p->engine.exact) words[n++] = "--exact";
    if (p->engine.kernels) words[n++] = "--kernels", words[n++] = p->engine.kernels;
    if (p->engine.cache_type) words[n++] = "--cache-type", words[n++] = p->engine.cache_type;
    for (int i = 0; i < p->lora.n; i++) words[n++] = "--lora", words[n++] = p->lora.p[i];
    words[n++] = "--";
    words[n++] = s->path;
    words[n] = NULL;
}

/* Both outputs of the child go to one pipe: a token, or the line that says why there is none. */
static int spawn(const bench_plan *p, const bench_subject *s, int to, pid_t *pid, err *e) {
    char threads[16], ctx[16];
    const char *words[MOST_WORDS], *file = access("/proc/self/exe", X_OK) == 0 ? "/proc/self/exe" : p->self;
    posix_spawn_file_actions_t actions;
    child_words(p, s, threads, ctx, words);
    int rc = posix_spawn_file_actions_init(&actions);
    if (rc) return fail(e, "%s: cannot be started: %s", p->self, strerror(rc));
    if (!rc) rc = posix_spawn_file_actions_adddup2(&actions, to, 1);
    if (!rc) rc = posix_spawn_file_actions_adddup2(&actions, to, 2);
    if (!rc) rc = posix_spawnp(pid, file, &actions, NULL, (char *const *)(uintptr_t)words, environ);
    posix_spawn_file_actions_destroy(&actions);
    return rc ? fail(e, "%s: cannot be started: %s", p->self, strerror(rc)) : 0;
}

/* What the child wrote, up to `most` bytes of it; *seconds becomes the moment of its first byte. */
static size_t drain(int from, char *text, size_t most, double *seconds) {
    size_t n = 0;
    char rest[256];
    for (ssize_t got = 1; got > 0 || (got < 0 && errno == EINTR);) {
        got = n < most ? read(from, text + n, most - n) : read(from, rest, sizeof rest);
        if (got > 0 && *seconds == 0) *seconds = now_seconds();
        if (got > 0 && n < most) n += (size_t)got;
    }
    return n;
}

int bench_time_start(const bench_plan *p, const bench_subject *s, double *seconds, err *e) {
    int ends[2], status = 0;
    char said[512];
    pid_t pid;
    if (pipe(ends)) return fail(e, "a pipe to a fresh process failed: %s", strerror(errno));
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    double start = now_seconds(), first = 0;
    int rc = spawn(p, s, ends[1], &pid, e);
    close(ends[1]);
    size_t n = rc ? 0 : drain(ends[0], said, sizeof said - 1, &first);
    close(ends[0]);
    if (rc) return -1;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    said[n] = 0;
    said[strcspn(said, "\n")] = 0;
    *seconds = first - start;
    static const char prefix[] = "bench/model: ";
    if (WIFEXITED(status) && WEXITSTATUS(status) && n)
        return fail(e, "%s", said + (strncmp(said, prefix, sizeof prefix - 1) ? 0 : sizeof prefix - 1));
    if (!WIFEXITED(status) || WEXITSTATUS(status) || first == 0)
        return fail(e, "%s: a fresh process ended without a token (%s %d): try \"%s --first-token %s\"", s->path,
                    WIFEXITED(status) ? "status" : "signal", WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status), p->self,
                    s->path);
    return 0;
}

/* ---- the file's pages ---- */

/* The share of a file's pages that lie in memory. */
static double resident(int fd, size_t n) {
#ifdef __linux__
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (n + page - 1) / page, there = 0;
    unsigned char *in = malloc(pages ? pages : 1);
    void *map = n ? mmap(NULL, n, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    bool known = in && map != MAP_FAILED && mincore(map, n, in) == 0;
    for (size_t i = 0; known && i < pages; i++) there += in[i] & 1;
    if (map != MAP_FAILED) munmap(map, n);
    free(in);
    return known && pages ? (double)there / (double)pages : 1;
#else
    (void)fd, (void)n;
    return 1;
#endif
}

int bench_drop_file(const char *path, double *kept, err *e) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        int rc = fail(e, "%s: %s", path, strerror(errno));
        if (fd >= 0) close(fd);
        return rc;
    }
    fsync(fd); /* what was not yet written could not be forgotten */
#ifdef POSIX_FADV_DONTNEED
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
#endif
    *kept = resident(fd, (size_t)st.st_size);
    close(fd);
    return 0;
}
