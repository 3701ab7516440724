/* models: what tests on whole models share: converting a fixture, opening it, reading expected values. */
#ifndef QUERN_TEST_MODELS_H
#define QUERN_TEST_MODELS_H

#include <sys/stat.h>
#include <unistd.h>
#include "runtime/engine.h"
#include "kernels/kernels.h"
#include "runtime/files.h"
#include "tests/test.h"

static char work_dir[256];

static inline const char *bin_dir(void) { return getenv("QUERN_BIN") ? getenv("QUERN_BIN") : "."; }

/* A folder for converted files, removed by remove_work_dir. */
static inline void make_work_dir(void) {
    const char *tmp = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    snprintf(work_dir, sizeof work_dir, "%s/quern-test-XXXXXX", tmp);
    if (!mkdtemp(work_dir)) abort();
}

static inline void remove_work_dir(void) {
    char command[512];
    snprintf(command, sizeof command, "rm -rf '%s'", work_dir);
    if (system(command)) abort();
}

/* Converts a checkpoint once; the path of the model file. */
static inline const char *converted(const char *checkpoint, const char *type) {
    static char path[800];
    const char *name = strrchr(checkpoint, '/');
    snprintf(path, sizeof path, "%s/%s-%s.bin", work_dir, name ? name + 1 : checkpoint, type);
    if (access(path, R_OK)) {
        char command[2600];
        snprintf(command, sizeof command, "%s/convert '%s' -o '%s' --type %s 2>'%s/log'", bin_dir(), checkpoint, path, type, work_dir);
        if (system(command)) {
            snprintf(command, sizeof command, "cat '%s/log' >&2", work_dir);
            if (system(command)) abort();
            fail_msg("convert %s --type %s failed", checkpoint, type);
        }
    }
    return path;
}

static inline engine *open_or_fail(const char *path, engine_opts o) {
    engine *g;
    err e = { 0 };
    o.path = path;
    if (engine_open(&g, &o, &e)) fail_msg("%s", e.msg);
    return g;
}

static inline session *new_session(engine *g) {
    session *s;
    err e = { 0 };
    if (session_new(&s, g, &e)) fail_msg("%s", e.msg);
    return s;
}

static inline void must(int rc, const err *e) {
    if (rc) fail_msg("%s", e->msg);
}

/* Some n ids of a vocabulary. */
static inline void make_text(int32_t *tok, int n, int n_vocab, int seed) {
    for (int i = 0; i < n; i++) tok[i] = (int32_t)(((int64_t)i * 7919 + seed * 104729 + 13) % n_vocab);
}

static inline float *read_floats(const char *path, size_t *n) {
    buf b = { 0 };
    err e = { 0 };
    must(read_file(path, 0, &b, &e), &e);
    *n = b.n / 4;
    return (float *)(void *)b.p;
}

static inline void json_ids(const json *list, ids *out) {
    assert_non_null(list);
    for (const json *j = list->child; j; j = j->next) {
        int64_t v;
        assert_int_equal(json_int(j, &v), 0);
        ids_add(out, (int32_t)v);
    }
}

/* A command of the shell, which has to succeed. */
static inline void run_command(const char *fmt, ...) PRINTF_LIKE(1, 2);
static inline void run_command(const char *fmt, ...) {
    char command[2400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(command, sizeof command, fmt, args);
    va_end(args);
    if (system(command)) fail_msg("%s", command);
}

#endif
