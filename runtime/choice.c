/* choice: the checkpoint's defaults of sampling and searching, and the list of ids that end an answer. It draws nothing and
 * must not know command lines or requests. */
#include "runtime/choice.h"

#include "runtime/stop.h"

beam_opts choice_defaults(const engine_info *i) {
    sample_opts s = sample_defaults();
    if (i->temperature >= 0) s.temperature = i->temperature;
    if (i->top_k >= 0) s.top_k = i->top_k;
    if (i->top_p >= 0) s.top_p = i->top_p;
    if (i->min_p >= 0) s.min_p = i->min_p;
    if (i->repeat_penalty > 0) s.repeat_penalty = i->repeat_penalty;
    s.no_repeat_ngram = i->no_repeat_ngram;
    return (beam_opts){ .beams = max_int(i->num_beams, 1), .length_penalty = i->length_penalty,
                        .stopping = (beam_stopping)i->early_stopping, .rules = s };
}

int choice_min_length(const engine_info *i, int n_prompt) { return i->min_new_tokens ? i->min_new_tokens : max_int(i->min_length - n_prompt, 0); }

void ends_add(ends *x, int32_t id) {
    if (id >= 0 && x->n < ENDS_MOST && !ends_has(x, id)) x->id[x->n++] = id;
}

bool ends_has(const ends *x, int32_t id) {
    for (int i = 0; i < x->n; i++)
        if (x->id[i] == id) return true;
    return false;
}

ends ends_of(const engine_info *i, const tokenizer *t) {
    ends x = { .n = 0 };
    for (int k = 0; k < i->n_eos; k++) ends_add(&x, i->eos[k]);
    if (t) ends_add(&x, tokenizer_eos(t));
    return x;
}

bool choice_holds_stop(const detok *after, const char *const *stops, int n_stops, const int32_t *answer, int n) {
    detok d = *after;
    stop_filter f = { .stops = stops, .n = n_stops };
    buf text = { 0 }, unused = { 0 };
    for (int i = 0; i < n; i++) detok_token(&d, answer[i], &text);
    bool found = stop_feed(&f, text.p, text.n, &unused);
    stop_free(&f);
    buf_free(&text);
    buf_free(&unused);
    return found;
}
