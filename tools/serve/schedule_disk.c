/* schedule_disk: one open model and the disk. What is kept is written while others are computed; what a prompt needs is read before its job
 * gets a slot, so that a step never waits for a disk, and put
 * into its session in pieces. And what a client does with a slot by itself: save, restore, erase. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <time.h>

#include "tools/serve/schedule_parts.h"

/* tokens that the disk must have more than memory; files in memory for jobs that wait; bytes */
enum { WORTH = 16, MOST_FETCHES = 2, LOAD_PIECE = 4 << 20 };

/* ---- what is kept, to the disk ---- */

bool lane_saving(lane *l) {
    disk *d = l->s->o.disk;
    prefix_cache *c = &l->kept;
    if (!d) return false;
    if (c->pinned && disk_copies(d, c->pinned)) return true;
    c->pinned = NULL;
    for (int i = 0; i < c->n; i++) {
        prefix_entry *k = &c->kept[i];
        if (k->seen) continue;
        if (disk_wants(d, l->key, session_tokens(k->s), session_len(k->s))) {
            if (!disk_save(d, l->key, k->s)) return true; /* busy: later, if it is still there */
            c->pinned = k->s;
        }
        k->seen = true;
        if (c->pinned) return true;
    }
    return false;
}

/* ---- from the disk ---- */

/* Tokens of the prompt that sessions in memory have. */
static int in_memory(const lane *l, const int32_t *tok, int n) {
    int best = 0;
    for (int i = 0; i < l->kept.n; i++) best = max_int(best, prefix_common(l->kept.kept[i].s, tok, n));
    for (int k = 0; k < l->n_slots; k++)
        if (l->slot[k] && !l->slot[k]->search && l->slot[k]->js->j->cache_prompt) best = max_int(best, prefix_common(l->slot[k]->s, tok, n));
    return best;
}

static bool may_have(const lane *l, const job_state *js) {
    const job *j = js->j;
    return l->s->o.disk && j->kind == JOB_GENERATE && j->cache_prompt && js->next_unit == 0 && !l->m->info->has_encoder && !(j->echo && j->logprobs);
}

bool lane_fetched(lane *l, job_state *js) {
    disk *d = l->s->o.disk;
    if (js->fetch) return disk_ready(d, js->fetch);
    if (js->looked || !may_have(l, js)) return true;
    if (l->n_fetches == MOST_FETCHES) return false;
    const ids *prompt = &js->j->prompts[0];
    js->looked = true;
    js->fetch = disk_find(d, l->key, prompt->p, (int)prompt->n, in_memory(l, prompt->p, (int)prompt->n) + WORTH);
    l->n_fetches += js->fetch != NULL;
    return !js->fetch;
}

int lane_from_disk(lane *l, seq *q, session *s, int least) {
    job_state *js = q->js;
    if (!js->fetch || q->prompt || q->choice) return 0;
    int rc = disk_tokens(js->fetch) <= least ? 0 : disk_load_begin(l->s->o.disk, js->fetch, s) ? -1 : 1;
    if (rc <= 0) lane_let_go(js);
    return rc;
}

bool lane_loads(const lane *l) {
    for (int k = 0; k < l->n_slots; k++)
        if (l->slot[k] && l->slot[k]->loads) return true;
    return false;
}

/* A gigabyte takes most of a second: in pieces, between which the others get their tokens. */
void lane_load(lane *l, double room) {
    double start = now_seconds();
    bool any = false;
    for (int k = 0; k < l->n_slots; k++) {
        seq *q = l->slot[k];
        int more = 1;
        if (!q || !q->loads) continue;
        while (more > 0 && (!any || now_seconds() - start < room)) {
            more = disk_load_piece(l->s->o.disk, q->js->fetch, q->s, LOAD_PIECE);
            any = true;
        }
        if (more > 0) return;
        q->loads = false;
        lane_let_go(q->js);
        lane_settle(q, prefix_common(q->s, q->tokens.p, (int)q->tokens.n)); /* nothing, where that failed: the prompt is computed */
        seq_ready(q);
    }
}

void lane_let_go(job_state *js) {
    if (!js->fetch) return;
    disk_let_go(js->s->o.disk, js->fetch);
    js->fetch = NULL;
    js->lane->n_fetches--;
}

/* ---- slots ---- */

static prefix_entry *last_of_slot(lane *l, int slot) {
    prefix_entry *best = NULL;
    for (int i = 0; i < l->kept.n; i++) {
        prefix_entry *k = &l->kept.kept[i];
        if (k->slot == slot && (!best || k->used > best->used)) best = k;
    }
    return best;
}

static int slot_save(lane *l, slot_action *a, err *e) {
    const prefix_entry *k = last_of_slot(l, a->slot);
    char *bytes = NULL;
    size_t n = 0;
    if (!k) return fail_code(e, ERR_INPUT, "slot %d of model '%s' holds nothing that could be saved", a->slot, l->m->name);
    FILE *f = open_memstream(&bytes, &n);
    int rc = f ? session_save(k->s, f, e) : fail_memory(e, 4096, "a saved session");
    if (rc && e->code == ERR_FAILED) e->code = ERR_MEMORY; /* nothing else keeps a stream in memory from being written */
    if (f && fclose(f) && !rc) rc = fail_memory(e, n, "a saved session");
    if (rc) return free(bytes), -1;
    a->bytes = (buf){ .p = bytes, .n = n, .cap = n };
    a->n_tokens = session_len(k->s);
    return 0;
}

static int slot_restore(lane *l, slot_action *a, err *e) {
    session *s;
    if (l->n_sessions == l->max_sessions && !prefix_spare(&l->kept))
        return fail_code(e, ERR_BUSY, "all %d slots are in use: nothing can be restored now", l->max_sessions);
    if (lane_new_session(l, &s, e)) return -1;
    FILE *f = a->bytes.n ? fmemopen(a->bytes.p, a->bytes.n, "rb") : NULL;
    int rc = f ? session_load(s, f, e) : fail_code(e, ERR_INPUT, "the saved file is empty");
    if (f) fclose(f);
    if (rc && e->code == ERR_FAILED) e->code = ERR_INPUT; /* another model's, or damaged: the client's file */
    a->n_tokens = session_len(s);
    lane_give_back(l, s, !rc, a->slot);
    return rc;
}

static int slot_erase(lane *l, slot_action *a) {
    for (prefix_entry *k; (k = last_of_slot(l, a->slot));) {
        while (k->s == l->kept.pinned && disk_copies(l->s->o.disk, k->s)) nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
        if (k->s == l->kept.pinned) l->kept.pinned = NULL;
        a->n_tokens += session_len(k->s);
        session_free(prefix_take(&l->kept, (int)(k - l->kept.kept)));
        l->n_sessions--;
    }
    return 0;
}

void slot_run(lane *l, job_state *js) {
    slot_action *a = js->j->slot;
    err e = { 0 };
    double start = now_seconds();
    int rc;
    if (a->slot < 0 || a->slot >= l->n_slots)
        rc = fail_code(&e, ERR_INPUT, "slot %d: model '%s' has slots 0 to %d", a->slot, l->m->name, l->n_slots - 1);
    else rc = a->what == SLOT_SAVE ? slot_save(l, a, &e) : a->what == SLOT_RESTORE ? slot_restore(l, a, &e) : slot_erase(l, a);
    a->seconds = now_seconds() - start;
    if (!rc) job_end_all(js, NULL, JOB_OK);
    else if (e.code == ERR_BUSY) job_fail(js, JOB_QUEUE_FULL, "queue", "%s", e.msg);
    else job_fail_err(js, "load", &e);
}
