/* schedule_draft: what a draft model proposes, for whom, and whether that pays. It owns the draft's sessions, one for each slot, and what was
 * measured: how long steps of the model and of its draft take by their tokens, and how much of the proposals is kept. Its one idea:
 * of all lengths of a proposal the one is taken that promises most tokens a second, and none is one of them. So it ends by itself where a
 * draft is wrong, slow, or where so many sequences decode that a step is bound by arithmetic. The draft's trouble is never the answer's:
 * it is switched off for the sequence. It must not know how a token is picked. */
#include <math.h>
#include <stdlib.h>

#include "tools/serve/schedule_parts.h"

enum {
    NEAR = 2 * SPECULATE_MOST, /* tokens that a draft may be behind and still propose: no prompt, they are read with its first step */
    MOST_ROWS = 64,            /* of a step with proposals: beyond, no CPU has rows to spare */
    FIRST_PIECE = 64, LEAST_PIECE = 8, /* of a draft's prompt */
    LEAST_PAUSE = 32, MOST_PAUSE = 1024, /* steps without proposals, before what was learned is forgotten */
    LEAST_SAME = 4,            /* tokens in common that are worth a copy of a session */
    PAGE = 64,                 /* positions that a window gives back at once (runtime/kv.h) */
    UNKNOWN_LENGTH = 256       /* tokens that an answer without a bound is taken to have */
};

/* ---- times ---- */

static int class_of(int rows) {
    int c = 0;
    while (c < TIME_CLASSES - 1 && rows > 1 << c) c++;
    return c;
}

static void add_time(step_times *t, int rows, double seconds) {
    double *x = &t->seconds[class_of(rows)];
    if (*x > 0 && seconds > 4 * *x) seconds = 4 * *x; /* the machine was away for a moment */
    /* Both ways alike: else what is measured often would look quicker than what is measured rarely. Half of it: the one before was no measure. */
    if (*x > 0 && seconds > *x / 2) *x += 0.3 * (seconds - *x);
    else *x = seconds;
}

/* Of so many tokens. Not known: on the line through what is known of fewer, or as those. Hopeful, so it is tried, and known afterwards. */
static double time_of(const step_times *t, int rows) {
    int c = class_of(rows), one = c, two;
    while (one >= 0 && !(t->seconds[one] > 0)) one--;
    if (one < 0) return 0;
    for (two = one - 1; two >= 0 && !(t->seconds[two] > 0);) two--;
    double slope = one == c || two < 0 ? 0 : (t->seconds[one] - t->seconds[two]) / ((1 << one) - (1 << two));
    return t->seconds[one] + (slope > 0 ? slope * ((1 << c) - (1 << one)) : 0);
}

static int known_class(const step_times *t) {
    int c = TIME_CLASSES - 1;
    while (c >= 0 && !(t->seconds[c] > 0)) c--;
    return c;
}

void drafts_time(lane *l, int rows, double seconds) {
    if (l->drafts.kept) add_time(&l->drafts.model, rows, seconds);
}

/* ---- making and freeing ---- */

/* Positions that the shortest window of its layers sees. */
static int window_of(const engine *g) {
    int low = 0, high = engine_about(g)->ctx - 1;
    uint64_t one = engine_kv_read_bytes(g, 0);
    if (engine_kv_read_bytes(g, high) == (uint64_t)(high + 1) * one) return 0;
    while (high - low > 1) { /* at low all positions are seen, at high not */
        int at = low + (high - low) / 2;
        if (engine_kv_read_bytes(g, at) == (uint64_t)(at + 1) * one) low = at;
        else high = at;
    }
    return high;
}

int drafts_init(lane *l, err *e) {
    drafts *d = &l->drafts;
    size_t n = (size_t)l->n_slots;
    if (!l->m->draft) return 0;
    d->kept = calloc(n, sizeof *d->kept);
    d->who = calloc(n, sizeof *d->who);
    d->whose = calloc(n, sizeof *d->whose);
    d->steps = calloc(n, sizeof *d->steps);
    d->lens = calloc(n, sizeof *d->lens);
    if (!d->kept || !d->who || !d->whose || !d->steps || !d->lens) return fail_memory(e, n * 64, "a draft's slots");
    d->window = window_of(l->m->draft);
    d->next_idle = LEAST_PAUSE;
    return 0;
}

void drafts_free(lane *l) {
    drafts *d = &l->drafts;
    for (int i = 0; d->kept && i < l->n_slots; i++) session_free(d->kept[i].s);
    free(d->kept);
    free(d->who);
    free(d->whose);
    free(d->steps);
    free(d->lens);
}

/* ---- sessions ---- */

void drafts_let_go(seq *q) {
    drafts *d = &q->l->drafts;
    if (q->draft.session < 0) return;
    draft_session *k = &d->kept[q->draft.session];
    if (q->draft.off || !q->js->j->cache_prompt) session_truncate(k->s, 0);
    k->q = NULL;
    k->used = ++d->clock;
    q->draft.session = -1;
}

static void switch_off(seq *q, const char *why) {
    job *j = q->js->j;
    if (!j->draft_error[0]) snprintf(j->draft_error, sizeof j->draft_error, "%.*s", (int)sizeof j->draft_error - 1, why);
    q->draft.off = true;
    drafts_let_go(q);
}

/* A session of the draft for q: one that nobody uses and that begins as q does, else a copy of what does, in the place of that which was not
 * used for the longest time. */
static void take_session(lane *l, seq *q) {
    drafts *d = &l->drafts;
    int best = -1, oldest = -1, same = 0;
    err e = { 0 };
    for (int i = 0; i < l->n_slots; i++) {
        const draft_session *k = &d->kept[i];
        int common = k->s && q->js->j->cache_prompt ? prefix_common(k->s, q->tokens.p, (int)q->tokens.n) : 0;
        if (k->q && !k->q->js->j->cache_prompt && k->q->js != q->js) common = 0;
        if (common > same) same = common, best = i;
        if (!k->q && (oldest < 0 || k->used < d->kept[oldest].used)) oldest = i;
    }
    bool itself = best >= 0 && !d->kept[best].q && session_len(d->kept[best].s) - same <= same; /* what it loses is no more than what it gives */
    draft_session *k = &d->kept[itself ? best : oldest]; /* there is one: as many as slots */
    q->draft.session = (int)(k - d->kept);
    q->draft.same = 0;
    if (!k->s && session_new(&k->s, l->m->draft, &e)) {
        q->draft.session = -1;
        switch_off(q, e.msg);
        return;
    }
    k->q = q;
    k->used = ++d->clock;
    if (itself || q->draft.session == best) return;
    session_truncate(k->s, 0);
    if (same >= LEAST_SAME && session_fork(k->s, d->kept[best].s, &e)) session_truncate(k->s, 0); /* no memory for a copy: from the beginning */
}

/* How much of q's tokens its session holds. What else was in it is forgotten, and so is the last token: its logits are wanted. */
static int held(const lane *l, seq *q) {
    session *s = l->drafts.kept[q->draft.session].s;
    const int32_t *have = session_tokens(s);
    int n = (int)q->tokens.n, most = min_int(session_len(s), n - 1), same = min_int(q->draft.same, most);
    while (same < most && have[same] == q->tokens.p[same]) same++;
    return q->draft.same = session_truncate(s, same);
}

/* Every part of the draft's step; what fails is switched off, alone. */
static void compute(lane *l, int n) {
    drafts *d = &l->drafts;
    err e = { 0 };
    double start = now_seconds();
    if (engine_step(l->m->draft, d->steps, n, &e) == 0) {
        d->last_seconds = now_seconds() - start;
        return;
    }
    d->last_seconds = 0;
    for (int i = 0; i < n; i++) {
        seq *q = d->whose[i];
        err one = { 0 };
        bool stands = session_len(d->steps[i].s) == d->lens[i];
        if (stands && engine_step(l->m->draft, &d->steps[i], 1, &one) == 0) continue;
        if (stands) switch_off(q, one.msg);
        d->whose[i] = NULL; /* one that lost its cache reads its tokens anew, later */
    }
}

/* ---- how much ---- */

static bool may_have(const lane *l, const seq *q) {
    const job *j = q->js->j;
    return !q->search && q->js->width == 1 && seq_decodes(q) && !q->draft.off && j->draft_most != 0 && !l->m->info->has_encoder;
}

static double share(double kept, double tried, double otherwise) { return (kept + 4 * otherwise) / (tried + 4); }

static int first_page(int window, int pos) { return pos >= window ? (pos - window + 1) / PAGE : 0; }

/* The most that may be proposed for q, and how likely each token of it is kept. */
static void set_limits(const lane *l, seq *q) {
    const drafts *d = &l->drafts;
    const job *j = q->js->j;
    int n = (int)q->tokens.n, room = min_int(l->m->info->ctx, engine_about(l->m->draft)->ctx) - n, most = min_int(SPECULATE_MOST, room);
    if (j->draft_most >= 0) most = min_int(most, j->draft_most);
    if (j->max_tokens >= 0) most = min_int(most, j->max_tokens - q->n_new - 1);
    /* A window gives back pages as it moves: what must perhaps be taken back may not move it past one. */
    while (d->window && most > 1 && first_page(d->window, n + most - 2) != first_page(d->window, n)) most--;
    double chance = share(q->draft.kept, q->draft.tried, share(d->kept_tokens, d->tried, 0.7)), all = chance;
    q->draft.chance = chance;
    for (q->draft.limit = 0; q->draft.limit < most && all > 0.15; all *= chance) q->draft.limit++;
}

/* The length that promises most tokens a second, 0: none; *faster: how many times as many as without. who [n] of the n_decode that decode. */
static int choose_length(const lane *l, int n, int n_decode, int rows, double *faster) {
    const drafts *d = &l->drafts;
    double plain = time_of(&d->model, rows), spent = 0, tokens = n_decode, best;
    int best_length = 0, most_class = known_class(&d->model) + 1;
    *faster = 1;
    if (!(plain > 0)) return 0; /* a step without comes first, to compare with */
    best = 1.1 * n_decode / plain; /* a clear gain, measured as times are on a busy machine */
    for (int length = 1; length <= SPECULATE_MOST; length++) {
        int m = 0;
        for (int i = 0; i < n; i++) {
            const seq *q = d->who[i];
            if (q->draft.limit < length) continue;
            tokens += pow(q->draft.chance, length);
            m++;
        }
        rows += m;
        spent += time_of(&d->draft, m);
        if (!m || rows > MOST_ROWS || class_of(rows) > most_class) break;
        double rate = tokens / (time_of(&d->model, rows) + spent);
        if (rate > best) best = rate, best_length = length, *faster = rate * plain / n_decode;
    }
    return best_length;
}

/* ---- what came of it ---- */

void drafts_learn(seq *q, int accepted) {
    drafts *d = &q->l->drafts;
    if (q->over) return; /* what followed the end says nothing */
    int looked = accepted < q->n_ahead ? accepted + 1 : accepted;
    q->draft.kept = 0.9 * q->draft.kept + accepted;
    q->draft.tried = 0.9 * q->draft.tried + looked;
    d->kept_tokens = 0.98 * d->kept_tokens + accepted;
    d->tried = 0.98 * d->tried + looked;
    if (accepted > 2) q->draft.next_pause = LEAST_PAUSE;
}

/* Nothing was proposed for q. Texts change: after a pause, longer each time, its draft has another chance. */
static void rest(seq *q) {
    if (++q->draft.pause < q->draft.next_pause) return;
    q->draft.pause = 0;
    q->draft.next_pause = min_int(2 * q->draft.next_pause, MOST_PAUSE);
    q->draft.kept = q->draft.tried = 0;
}

/* The same for all of the model: the times too are measured anew. */
static void rest_all(lane *l, int rows) {
    drafts *d = &l->drafts;
    d->busy = 0;
    if (++d->idle < d->next_idle) return;
    d->idle = 0;
    d->next_idle = min_int(2 * d->next_idle, MOST_PAUSE);
    d->kept_tokens = d->tried = 0;
    d->draft = (step_times){ { 0 } };
    for (int c = class_of(rows) + 1; c < TIME_CLASSES; c++) d->model.seconds[c] = 0;
}

/* What proposals are compared with is measured again now and then: a step without, of the first ones more often. */
static bool plain_is_due(const drafts *d) { return d->busy >= 4 && (d->busy % 32 == 0 || (d->busy < 32 && (d->busy & (d->busy - 1)) == 0)); }

/* ---- proposing ---- */

static bool has_rows(const lane *l, seq *q) {
    size_t bytes = (1 + SPECULATE_MOST) * (size_t)l->m->info->logits_ld * sizeof(float);
    _Static_assert(ECHO_ROWS >= 1 + SPECULATE_MOST, "an echo's rows do for proposals");
    if (!q->rows && !(q->rows = alloc_aligned(bytes))) switch_off(q, "out of memory: rows of logits");
    return q->rows;
}

static void add(drafts *d, int *n, seq *q, const int32_t *tok, int n_tok) {
    session *s = d->kept[q->draft.session].s;
    d->whose[*n] = q;
    d->lens[*n] = session_len(s);
    d->steps[(*n)++] = (step){ s, tok, n_tok, NULL };
}

/* The k-th token for all that are to have one: one step of the draft. How many it was computed for. */
static int propose_one(lane *l, int n_who, int k) {
    drafts *d = &l->drafts;
    int n = 0, rows = 0;
    for (int i = 0; i < n_who; i++) {
        seq *q = d->who[i];
        if (q->draft.off || q->draft.limit <= k || q->n_ahead < k || (k == 0 && !has_rows(l, q))) continue;
        if (k > 0) add(d, &n, q, &q->ahead[k], 1);
        else add(d, &n, q, q->tokens.p + q->draft.same, (int)q->tokens.n - q->draft.same);
        rows += d->steps[n - 1].n;
    }
    if (!n) return 0;
    compute(l, n);
    if (d->last_seconds > 0 && rows <= 2 * n) add_time(&d->draft, n, d->last_seconds);
    for (int i = 0; i < n; i++) {
        seq *q = d->whose[i];
        const float *logits = q && !q->draft.off ? session_logits(d->steps[i].s) : NULL;
        int32_t id = logits ? sample_argmax(logits, l->m->info->n_vocab) : -1;
        if (k == 0 && logits) q->draft.same = (int)q->tokens.n;
        if (id >= 0) q->ahead[++q->n_ahead] = id;
        else if (logits) switch_off(q, "its logits are not finite: its weights or its file are damaged (inspect --verify)");
    }
    return n;
}

void drafts_propose(lane *l, int n_decode, int rows) {
    drafts *d = &l->drafts;
    double start = now_seconds(), faster;
    int n = 0;
    d->spent = 0;
    for (int k = 0; d->kept && k < l->n_slots; k++) {
        seq *q = l->slot[k];
        if (!q || !may_have(l, q) || q->n_ahead) continue;
        if (q->draft.session < 0) take_session(l, q);
        if (q->draft.session < 0 || (int)q->tokens.n - held(l, q) > NEAR) continue;
        set_limits(l, q);
        d->who[n++] = q;
    }
    if (!n) return;
    int length = plain_is_due(d) ? 0 : choose_length(l, n, n_decode, rows, &faster);
    for (int k = 0; k < length && propose_one(l, n, k); k++) continue;
    for (int i = 0; i < n; i++) {
        seq *q = d->who[i];
        if (!q->n_ahead) {
            rest(q);
            continue;
        }
        q->ahead[0] = q->tokens.p[q->tokens.n - 1];
        q->by_draft = true;
        q->draft.pause = 0;
        q->js->t.n_drafts++;
        q->js->t.n_drafted += q->n_ahead;
    }
    if (length) d->idle = 0;
    else if (!plain_is_due(d)) rest_all(l, rows);
    if (length || plain_is_due(d)) d->busy++;
    if (d->busy > LEAST_PAUSE) d->next_idle = LEAST_PAUSE;
    d->spent = now_seconds() - start;
}

/* ---- prompts ---- */

/* Will what q still has to say pay for what its draft has to read? */
static bool worth(const lane *l, const seq *q, int due, int n_decode, double faster) {
    const job *j = q->js->j;
    int left = j->max_tokens < 0 ? UNKNOWN_LENGTH : j->max_tokens - q->n_new;
    left = min_int(left, l->m->info->ctx - (int)q->tokens.n);
    return due * l->drafts.per_token < left * time_of(&l->drafts.model, n_decode) * (1 - 1 / faster);
}

/* All whose draft could propose, if it had read what they hold; those who have to read, in the order of coming. */
static int find_behind(lane *l, int *n_decode) {
    drafts *d = &l->drafts;
    int n = 0, behind = 0;
    for (int k = 0; k < l->n_slots; k++) {
        seq *q = l->slot[k];
        *n_decode += q && seq_decodes(q);
        if (!q || !may_have(l, q) || q->draft.session < 0) continue;
        set_limits(l, q);
        d->who[n++] = q;
        behind += (int)q->tokens.n - q->draft.same > NEAR && (int)q->tokens.n - held(l, q) > NEAR;
    }
    for (int i = 1; i < n; i++)
        for (int k = i; k > 0 && d->who[k]->order < d->who[k - 1]->order; k--) {
            seq *swap = d->who[k];
            d->who[k] = d->who[k - 1];
            d->who[k - 1] = swap;
        }
    return behind ? n : 0;
}

/* Those who are behind rest as others do, or no draft that once was behind would ever have another chance. */
static void rest_behind(lane *l, int n_who, int n_decode) {
    bool near = false;
    for (int i = 0; i < n_who; i++) {
        seq *q = l->drafts.who[i];
        if ((int)q->tokens.n - q->draft.same > NEAR) rest(q);
        else near = true; /* counted by drafts_propose */
    }
    if (!near) rest_all(l, n_decode);
}

void drafts_follow(lane *l, double room) {
    drafts *d = &l->drafts;
    double faster;
    int n_decode = 0, n = 0, who = d->kept ? find_behind(l, &n_decode) : 0, left, all;
    if (!who || !(room > 0)) return;
    if (!choose_length(l, who, n_decode, n_decode, &faster)) {
        rest_behind(l, who, n_decode);
        return;
    }
    left = room < 2 * d->last_piece * d->per_token ? max_int((int)(room / d->per_token), LEAST_PIECE) : max_int(2 * d->last_piece, FIRST_PIECE);
    all = left;
    for (int i = 0; i < who && left > 0; i++) {
        seq *q = d->who[i];
        int due = (int)q->tokens.n - q->draft.same, piece = min_int(due - 1, left); /* the last one with the first proposal */
        if (due <= NEAR || !worth(l, q, due, n_decode, faster)) continue;
        add(d, &n, q, q->tokens.p + q->draft.same, piece);
        left -= piece;
    }
    if (!n) return;
    compute(l, n);
    for (int i = 0; i < n; i++)
        if (d->whose[i] && !d->whose[i]->draft.off) d->whose[i]->draft.same = session_len(d->steps[i].s);
    double per = d->last_seconds / (all - left);
    d->last_piece = all - left;
    if (per > 0) d->per_token = d->per_token > 0 ? 0.5 * d->per_token + 0.5 * (per < 4 * d->per_token ? per : 4 * d->per_token) : per;
    d->spent += d->last_seconds;
}
