/* schedule_lane: one open model: which job's next sequence gets a free slot, which session it gets, and what ends a job early. Slots go to the
 * user who has the fewest, then to the one for whom least was computed; within a user, in the order of coming. */
#include <stdarg.h>
#include <stdlib.h>

#include "tools/serve/fault.h"
#include "tools/serve/schedule_text.h"

/* ---- lanes ---- */

static void lane_free(void *p) {
    lane *l = p;
    prefix_free(&l->kept);
    drafts_free(l);
    free_aligned(l->row);
    free(l->slot);
    free(l->steps);
    free(l->whose);
    free(l);
}

lane *lane_of(schedule *s, model *m, err *e) {
    if (m->work) return m->work;
    lane *l = calloc(1, sizeof *l);
    if (!l) return fail_memory(e, sizeof *l, "a model's slots"), NULL;
    l->s = s;
    l->m = m;
    l->end = &l->first;
    l->max_sessions = m->info->max_sessions;
    l->n_slots = lane_slots(s, m);
    l->cap_steps = l->n_slots; /* a search's sequences have slots too */
    l->slot = calloc((size_t)l->n_slots, sizeof(seq *));
    l->steps = calloc((size_t)l->cap_steps, sizeof *l->steps);
    l->whose = calloc((size_t)l->cap_steps, sizeof(seq *));
    if (!l->slot || !l->steps || !l->whose || prefix_init(&l->kept, l->max_sessions, e) || drafts_init(l, e)) {
        fail_memory(e, (size_t)l->n_slots * 64, "a model's slots");
        return lane_free(l), NULL;
    }
    l->key = engine_cache_key(m->engine);
    l->faults = fault_count();
    models_set_work(m, l, lane_free);
    return l;
}

/* Since the last time no page of the file was missing, or it was another's. */
bool lane_sound(lane *l, err *e) {
    const void *at[FAULTS_KEPT];
    if (fault_count() != l->faults && !l->hurt) {
        l->faults = fault_count();
        for (int i = 0, n = fault_recent(at); i < n; i++) l->hurt |= engine_maps(l->m->engine, at[i]);
        if (l->hurt) models_spoil(l->m);
    }
    if (l->hurt)
        fail(e, "model '%s': its file became shorter while it was in use: put another in its place with mv, not by writing over it", l->m->name);
    return !l->hurt;
}

/* ---- sessions ---- */

/* Whose session begins most like tok[0 .. n)? only_own: of this job's own sequences only. */
static const session *best_source(lane *l, const seq *q, const int32_t *tok, int n, bool only_own, int *same) {
    const job *j = q->js->j;
    const session *best = NULL;
    *same = 0;
    if (!n || (j->echo && j->logprobs)) return NULL; /* whoever wants the logits of all positions computes them all */
    only_own |= l->m->info->has_encoder;             /* what the encoder read is not in the tokens */
    int i = only_own ? -1 : prefix_find(&l->kept, tok, n, same);
    if (i >= 0) best = l->kept.kept[i].s;
    for (int k = 0; k < l->n_slots; k++) {
        const seq *o = l->slot[k];
        if (!o || o->search) continue;
        bool own = o->js == q->js && o->prompt == q->prompt;
        int common = own || (!only_own && o->js->j->cache_prompt) ? prefix_common(o->s, tok, n) : 0;
        if (common > *same) *same = common, best = o->s;
    }
    return best;
}

/* A session to fill: a new one, or that of the cache which was not used for the longest time. Kept sessions take no pages from those that
 * work: the pool has a full context's pages for each session. */
static session *find_session(lane *l, const session *source, err *e) {
    session *s = NULL;
    if (l->n_sessions < l->max_sessions) {
        if (session_new(&s, l->m->engine, e)) return NULL;
        l->n_sessions++;
        return s;
    }
    s = prefix_take_oldest(&l->kept, source);
    if (!s) s = prefix_take_oldest(&l->kept, NULL); /* the source itself: it is not kept then, but worked on */
    if (!s) fail(e, "all %d sessions of this model are in use", l->max_sessions);
    return s;
}

int lane_new_session(lane *l, session **s, err *e) { return (*s = find_session(l, NULL, e)) ? 0 : -1; }

int lane_session(lane *l, seq *q, const int32_t *tok, int n, bool only_own, err *e) {
    int same;
    const session *source = best_source(l, q, tok, n, only_own, &same);
    session *s = find_session(l, source, e);
    err unused = { 0 };
    if (!s) return -1;
    int on_disk = only_own ? 0 : lane_from_disk(l, q, s, same);
    q->s = s;
    q->loads = on_disk > 0;
    if (q->loads) return 0;
    if (on_disk < 0 && source == s) source = NULL;
    if (source && s != source && session_fork(s, source, &unused)) source = NULL; /* no memory for a copy: from the beginning */
    q->forked = source != NULL;
    lane_settle(q, source ? same : 0);
    return 0;
}

void lane_settle(seq *q, int same) {
    int n = (int)q->tokens.n;
    session_truncate(q->s, same); /* behind a window: to nothing */
    if (n && session_len(q->s) == n && !session_logits(q->s)) session_truncate(q->s, n - 1); /* the last token once more, for its logits */
}

void lane_give_back(lane *l, session *s, bool keep, int slot) {
    if (!s) return;
    int before = l->kept.n;
    int i = keep && !l->m->info->has_encoder ? prefix_keep(&l->kept, s) : (session_free(s), -1);
    if (i >= 0) l->kept.kept[i].slot = slot;
    l->n_sessions += l->kept.n - before - 1;
    lane_saving(l); /* at once: the next one may need it */
}

/* ---- who is next ---- */

static int choices_of(const job_state *js) { return js->width > 1 || js->j->kind == JOB_EMBED ? 1 : js->j->n; }

static bool can_start(const job_state *js) {
    int choices = choices_of(js);
    if (js->next_unit >= js->n_units) return false;
    return js->next_unit % choices == 0 || js->ready[js->next_unit / choices]; /* the first choice computes the prompt for all */
}

static bool comes_before(const user *a, const user *b) {
    return a->n_active < b->n_active || (a->n_active == b->n_active && a->served < b->served);
}

/* The next job to get a slot; *wait: it needs more than are free, of slots or of sessions, which texts have too, and nobody is to take them
 * before it. The last of several slots is kept for a user who has none, so that one with many long answers cannot shut out others; unless
 * there was only one lately, an application behind which all its users are. */
static job_state *choose(lane *l, bool no_texts, bool *wait) {
    job_state *best = NULL;
    int n_free = l->n_slots - l->n_used, room = l->max_sessions - l->n_sessions + prefix_spare(&l->kept);
    bool shared = now_seconds() < l->s->shared_until;
    *wait = false;
    for (job_state *js = l->first; js; js = js->next) {
        bool text = js->j->kind == JOB_EMBED;
        int keep = shared && l->n_slots >= 4 && js->u->n_active > 0;
        if (!can_start(js) || room <= 0 || (js->width > 1 && l->kept.pinned) || (text && (no_texts || text_embeds(l, js->u))) ||
            (!text && (n_free == 0 || (n_free <= keep && js->width == 1))))
            continue;
        if (!lane_fetched(l, js)) continue;
        if (!best || comes_before(js->u, best->u)) best = js;
    }
    if (best && best->j->kind != JOB_EMBED && best->width > min_int(n_free, room)) *wait = true;
    return best;
}

static void start_sequence(lane *l, job_state *js, int unit) {
    err e = { 0 };
    l->n_sessions += js->width - 1; /* promised to a search */
    while (l->n_sessions >= l->max_sessions && prefix_spare(&l->kept) && js->width > 1) {
        session_free(prefix_take_oldest(&l->kept, NULL));
        l->n_sessions--;
    }
    seq *q = seq_new(l, js, unit, &e);
    if (!q) {
        l->n_sessions -= js->width - 1;
        job_fail_err(js, "prompt", &e);
        return;
    }
    while (l->slot[q->slot]) q->slot++;
    l->slot[q->slot] = q;
    l->n_used += js->width;
    js->u->n_active += js->width;
    if (!q->loads) seq_ready(q);
}

/* Texts to embed and sequences take turns: they share the sessions, and neither is to wait for all of the others. */
static job_state *choose_in_turn(lane *l, bool *wait) {
    job_state *js = choose(l, l->text_last, wait);
    return js || !l->text_last ? js : choose(l, false, wait);
}

void lane_admit(lane *l) {
    bool wait;
    for (job_state *js; (js = choose_in_turn(l, &wait)) && !wait;) {
        int unit = js->next_unit++;
        if (!js->started) job_started(js);
        l->text_last = js->j->kind == JOB_EMBED;
        if (l->text_last) text_begin(l, js, unit);
        else start_sequence(l, js, unit);
    }
}

/* ---- the end of a job ---- */

void unit_ended(job_state *js) {
    if (++js->n_ended < js->n_units) return;
    if (js->lost) job_fail(js, JOB_MEMORY, "decode", "out of memory: the answer's events");
    else job_end_all(js, NULL, JOB_OK);
}

/* Its sequences go; what is computed of them is worth keeping only if nothing was wrong with it. */
static void drop_sequences(job_state *js, bool keep) {
    lane *l = js->lane;
    for (int k = 0; l && k < l->n_slots; k++) {
        seq *q = l->slot[k];
        if (!q || q->js != js) continue;
        l->slot[k] = NULL;
        l->n_used -= js->width;
        js->u->n_active -= js->width;
        if (q->search) beam_end(q->search, false, NULL, &(err){ 0 }), q->search = NULL;
        l->n_sessions -= js->width - 1;
        lane_give_back(l, q->s, keep && js->j->cache_prompt && js->width == 1, k);
        seq_free(q);
    }
    if (l) text_drop(js);
}

static const char *phase_of(const job_state *js) { return !js->started ? "queue" : js->prompt_at ? "decode" : "prompt"; }

void job_fail(job_state *js, job_error code, const char *phase, const char *fmt, ...) {
    job_failure f = { .code = code, .phase = phase };
    va_list args;
    va_start(args, fmt);
    vsnprintf(f.msg, sizeof f.msg, fmt, args);
    va_end(args);
    if (code == JOB_CANCELLED || code == JOB_DEADLINE || code == JOB_SHUTTING_DOWN) f.phase = phase_of(js);
    drop_sequences(js, f.code == JOB_CANCELLED || f.code == JOB_DEADLINE);
    job_end_all(js, &f, code);
}

void job_fail_err(job_state *js, const char *phase, const err *e) {
    job_error code = e->code == ERR_MEMORY ? JOB_MEMORY : e->code == ERR_CONTEXT ? JOB_CONTEXT : e->code == ERR_INPUT ? JOB_INVALID
                   : e->code == ERR_NOT_FINITE ? JOB_NOT_FINITE : JOB_FAILED;
    job_fail(js, code, phase, "%s", e->msg);
}

static void cut_whole(job_state *js, job_end end) {
    double waited = now_seconds() - js->j->arrived;
    if (end == END_DEADLINE) job_fail(js, JOB_DEADLINE, "", "the time for this request was over after %.3f s, before the answer began", waited);
    else if (end == END_CANCELLED) job_fail(js, JOB_CANCELLED, "", "cancelled after %.3f s, before the answer began", waited);
    else job_fail(js, JOB_SHUTTING_DOWN, "", "the server is shutting down");
}

void job_cut(job_state *js, job_end end) {
    lane *l = js->lane;
    int choices = choices_of(js), per_unit = js->width > 1 ? js->j->n : 1;
    bool searching = false;
    for (int k = 0; k < l->n_slots; k++) searching |= l->slot[k] && l->slot[k]->js == js && l->slot[k]->search;
    if (!js->t.n_decoded && !searching) {
        cut_whole(js, end);
        return;
    }
    for (int k = 0; k < l->n_slots; k++)
        if (l->slot[k] && l->slot[k]->js == js) seq_cut(l->slot[k], end);
    for (int u = js->next_unit; u < js->n_units; u++)
        for (int c = 0; c < per_unit; c++) seq_choice_end(js, u / choices, per_unit > 1 ? c : u % choices, end, NULL);
    drop_sequences(js, true);
    job_end_all(js, NULL, end == END_DEADLINE ? JOB_DEADLINE : end == END_CANCELLED ? JOB_CANCELLED : JOB_SHUTTING_DOWN);
}
