/* api_slots: llama-server's POST /slots/{id}?action=save, restore or erase. Sequences are placed by the scheduler and equal beginnings are found by
 * themselves; this is for those who want what a slot held under a name of their own. */
#include <stdlib.h>
#include <string.h>

#include "tools/serve/api.h"
#include "tools/serve/render.h"

typedef struct slot_reply {
    slot_action a;
    const char *filename;
    size_t n; /* bytes restored */
} slot_reply;

static void whole(request *q, buf *b) {
    slot_reply *o = q->own;
    err e = { 0 };
    double start = now_seconds();
    if (o->a.what == SLOT_SAVE && disk_put(q->s->disk, o->filename, &o->a.bytes, &e)) {
        request_fail_status(q, 507, "disk_full", "the slot could not be saved: %s", e.msg);
        return;
    }
    double ms = (o->a.seconds + (o->a.what == SLOT_SAVE ? now_seconds() - start : 0)) * 1e3;
    buf_fmt(b, "{\"id_slot\":%d", o->a.slot);
    if (o->a.what == SLOT_ERASE) buf_fmt(b, ",\"n_erased\":%d", o->a.n_tokens);
    else {
        bool save = o->a.what == SLOT_SAVE;
        buf_str(b, ",\"filename\":");
        put_quoted(b, o->filename);
        buf_fmt(b, ",\"%s\":%d,\"%s\":%zu,\"timings\":{\"%s\":%.3f}", save ? "n_saved" : "n_restored", o->a.n_tokens,
                save ? "n_written" : "n_read", save ? o->a.bytes.n : o->n, save ? "save_ms" : "restore_ms", ms);
    }
    put_warnings(q, b);
    buf_byte(b, '}');
}

static void free_bytes(request *q) { buf_free(&((slot_reply *)q->own)->a.bytes); }

static const renderer slot_renderer = { .whole = whole, .free = free_bytes };

static int take_action(request *q, slot_action *a) {
    const char *at = strstr(q->h->query, "action=");
    char *end;
    long id = strtol(q->arg, &end, 10);
    if (end == q->arg || (*end && strcmp(end, "/")) || id < 0 || id > 65535)
        return request_fail(q, JOB_INVALID, NULL, "slots: expected /slots/{number}?action=..., found \"%.40s\"", q->arg);
    a->slot = (int)id;
    size_t n = at && (at == q->h->query || at[-1] == '&') ? strcspn(at += 7, "&") : 0;
    static const char *const names[] = { [SLOT_SAVE] = "save", [SLOT_RESTORE] = "restore", [SLOT_ERASE] = "erase" };
    for (int i = 0; i < 3; i++)
        if (n == strlen(names[i]) && memcmp(at, names[i], n) == 0) return a->what = (slot_what)i, 0;
    return request_fail(q, JOB_INVALID, "action", "action: expected save, restore or erase, found \"%.*s\"", (int)(n < 40 ? n : 40), n ? at : "");
}

static int take_file(request *q, slot_reply *o) {
    err e = { 0 };
    if (o->a.what == SLOT_ERASE) return 0;
    if (!q->s->disk) return request_fail_status(q, 501, "unsupported", "slots are saved nowhere: start the server with --kv-dir FOLDER");
    o->filename = request_str(q, F_FILENAME, NULL);
    if (!o->filename) return request_need(q, F_FILENAME, "filename");
    if (!disk_name_good(o->filename))
        return request_fail(q, JOB_INVALID, "filename", "filename: expected a plain name without separators, found \"%.60s\"", o->filename);
    if (o->a.what == SLOT_SAVE) return 0;
    if (disk_get(q->s->disk, o->filename, &o->a.bytes, &e))
        return request_fail(q, JOB_INVALID, "filename", "filename: \"%.60s\" cannot be read: nothing was saved under that name", o->filename);
    o->n = o->a.bytes.n;
    return 0;
}

int native_slot_action(request *q) {
    slot_reply *o = arena_alloc(&q->mem, sizeof *o);
    if (!o) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    *o = (slot_reply){ 0 };
    q->own = o;
    q->r = &slot_renderer; /* it frees the bytes, whatever comes */
    if (take_action(q, &o->a) || take_file(q, o) || request_model(q) || request_job(q, JOB_SLOT)) return -1;
    q->j->slot = &o->a;
    return request_submit(q, &slot_renderer);
}
