/* generate: a prompt through the model and tokens out of it, streamed; and the logits of given tokens into a file. */
#include "tools/run/conversation.h"
#include "tools/run/generate.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

/* ---- output ---- */

static int write_out(const char *p, size_t n, err *e) {
    if (fwrite(p, 1, n, stdout) != n || fflush(stdout)) return fail(e, "writing to stdout failed: %s", strerror(errno));
    return 0;
}

static int write_buf(buf *b, err *e) {
    if (b->failed) return fail_memory(e, b->cap, "the output");
    int rc = b->n ? write_out(b->p, b->n, e) : 0;
    b->n = 0;
    return rc;
}

/* ---- set up ---- */

/* *text: of the prompt, as the tokens have it. */
static int load_tokens(generation *r, buf *text, err *e) {
    if (run_prompt_tokens(r->o, r->tok, text, &r->tokens, e)) return -1;
    return r->o->show_prompt ? run_show(r->tok, text, &r->tokens, e) : 0;
}

static int echo(const generation *r, const buf *text, err *e) {
    const run_opts *o = r->o;
    if (!text->n || o->no_echo || o->chat || o->show_prompt || o->print_ids || r->info->has_encoder) return 0;
    return o->prompt && strcmp(o->prompt, "-") ? write_out(text->p, text->n, e) : 0;
}

/* Of an encoder-decoder model the prompt is the encoder's text; the decoder's begins with its own start, or --decoder-ids. */
static int run_encoder(generation *r, err *e) {
    double start = now_seconds();
    if (r->o->decoder_ids && !r->info->has_encoder) return fail(e, "--decoder-ids: %s has no encoder; use --ids", r->info->name);
    if (!r->info->has_encoder) return 0;
    if (!r->info->has_decoder) return fail(e, "%s is an encoder: it gives embeddings (--embed), it does not generate", r->info->name);
    if (r->tokens.n > INT32_MAX)
        return fail_code(e, ERR_CONTEXT, "context_length_exceeded: the prompt has %zu tokens, the context holds %d", r->tokens.n, r->info->ctx);
    if (session_encode(r->s, r->tokens.p, (int)r->tokens.n, NULL, e)) return -1;
    r->n_encoded = r->tokens.n;
    r->tokens.n = 0;
    if (r->o->decoder_ids) {
        if (ids_parse(&r->tokens, r->o->decoder_ids, e)) return -1;
    } else if (r->info->decoder_start >= 0) ids_add(&r->tokens, r->info->decoder_start);
    else return fail(e, "%s does not say with which token its decoder begins: give --decoder-ids", r->info->name);
    r->prompt_seconds = now_seconds() - start;
    return 0;
}

/* What was not given on the command line comes from the checkpoint, where it says something. */
int generation_sampler(generation *r, uint64_t seed, err *e) {
    const run_opts *o = r->o;
    const engine_info *i = r->info;
    sample_opts s = o->sample, own = choice_defaults(i).rules;
    if (!o->temperature_given) s.temperature = own.temperature;
    if (!o->top_k_given) s.top_k = own.top_k;
    if (!o->top_p_given) s.top_p = own.top_p;
    if (!o->min_p_given) s.min_p = own.min_p;
    if (!o->repeat_given) s.repeat_penalty = own.repeat_penalty;
    bool first = !r->sampler;
    r->seed = s.seed = seed;
    sampler_free(r->sampler);
    r->sampler = NULL;
    if (run_search_options(&r->search, o, i, r->tok, &s, (int)(r->n_prompt & INT32_MAX), e)) return -1;
    if (!o->ignore_eos) run_search_end(&r->search, r->turn_end);
    if (r->search.o.beams > 1 && run_constrains(o))
        return fail_code(e, ERR_INPUT, "%s asks for a beam search, and --grammar, --json and --json-schema choose tokens one by one: give --beams 1",
                         i->name);
    s = r->search.o.rules;
    if (o->verbose && r->search.o.beams == 1 && first)
        fprintf(stderr, "sampling: temperature %g, top-k %d, top-p %g, min-p %g, repeat penalty %g, seed %llu\n", (double)s.temperature, s.top_k,
                (double)s.top_p, (double)s.min_p, (double)s.repeat_penalty, (unsigned long long)s.seed);
    return sampler_new(&r->sampler, &s, i->n_vocab, e);
}

static void describe(const generation *r, double seconds) {
    const engine_info *i = r->info;
    fprintf(stderr, "model: %s (%s), %d layers, width %d, vocabulary %d, %.1f MB, opened in %.0f ms\n", i->name, i->family, i->n_layers, i->d_model,
            i->n_vocab, (double)i->file_bytes / 1e6, seconds * 1e3);
    for (int k = 0; k < i->n_adapters; k++)
        fprintf(stderr, "adapter: %s, times %g\n", r->o->engine.adapters[k].path, (double)r->o->engine.adapters[k].scale);
    fprintf(stderr, "%s\nkernels: %s%s\n%s%s\n", i->threads_reason, i->kernels, r->o->engine.exact ? ", exact" : "",
            i->ctx_reason, i->rope_long ? ", RoPE tables for long contexts" : "");
}

/* ---- logits of given tokens ---- */

enum { DUMP_ROWS = 64 };

static int dump_rows(generation *r, FILE *f, float *rows, err *e) {
    const engine_info *i = r->info;
    for (size_t at = 0; at < r->n_prompt; at += DUMP_ROWS) {
        int n = r->n_prompt - at < DUMP_ROWS ? (int)(r->n_prompt - at) : DUMP_ROWS;
        if (engine_step(r->g, &(step){ r->s, r->tokens.p + at, n, rows }, 1, e)) return -1;
        for (int k = 0; k < n; k++)
            if (fwrite(rows + (size_t)k * (size_t)i->logits_ld, sizeof(float), (size_t)i->n_vocab, f) != (size_t)i->n_vocab)
                return fail(e, "%s: %s", r->o->dump_logits, strerror(errno));
    }
    return 0;
}

static int dump_logits(generation *r, err *e) {
    size_t bytes = DUMP_ROWS * (size_t)r->info->logits_ld * sizeof(float);
    float *rows = alloc_aligned(bytes);
    if (!rows) return fail_memory(e, bytes, "rows of logits");
    FILE *f = fopen(r->o->dump_logits, "wb");
    int rc = f ? dump_rows(r, f, rows, e) : fail(e, "%s: %s", r->o->dump_logits, strerror(errno));
    if (f && fclose(f) && !rc) rc = fail(e, "%s: %s", r->o->dump_logits, strerror(errno));
    free_aligned(rows);
    return rc;
}

/* ---- generation ---- */

/* Writes what is certain by now. */
static int give(const generation *r, buf *out, err *e) {
    if (r->reply) buf_add(r->reply, out->p, out->n);
    if (!r->o->print_ids) return write_buf(out, e);
    out->n = 0;
    return 0;
}

/* The token into text, through the detokenizer and the stop strings; *stopped: one of them was found. */
static int take_token(generation *r, detok *d, stop_filter *stop, int32_t id, buf *text, buf *out, bool *stopped, err *e) {
    sampler_accept(r->sampler, id);
    ids_add(&r->tokens, id);
    if (d->t) detok_token(d, id, text);
    if (r->taken) r->taken(r->taken_arg, id, text->p, text->n, d->n_held == 0);
    *stopped = stop_feed(stop, text->p, text->n, out);
    text->n = 0;
    return give(r, out, e);
}

static int end_text(const generation *r, detok *d, stop_filter *stop, buf *text, buf *out, err *e) {
    detok_end(d, text);
    if (!stop_feed(stop, text->p, text->n, out)) stop_end(stop, out);
    return give(r, out, e);
}

/* The best answer of a beam search; nothing of it is certain, and written, before the search ends. */
static int search_tokens(generation *r, detok *d, stop_filter *stop, err *e) {
    buf text = { 0 }, out = { 0 };
    run_found found = { 0 };
    bool stopped = false;
    double start = now_seconds();
    int rc = run_search_tokens(&r->search, r->o, r->g, r->s, d, &found, e);
    r->decode_seconds = now_seconds() - start;
    r->n_decoded = found.steps;
    r->end = found.end;
    for (size_t i = 0; i < found.tokens.n && !rc && !stopped; i++) rc = take_token(r, d, stop, found.tokens.p[i], &text, &out, &stopped, e);
    if (!stopped && d->t && !rc) rc = end_text(r, d, stop, &text, &out, e);
    ids_free(&found.tokens);
    buf_free(&text);
    buf_free(&out);
    return rc;
}

static int no_token(const generation *r, const float *logits, err *e) {
    int n = (int)r->tokens.n;
    if (isfinite(sample_logsumexp(logits, r->info->n_vocab)))
        return fail_code(e, ERR_INPUT, "after %d tokens no token is left that the options allow", n);
    return fail(e, "the model's logits are not finite after %d tokens: the weights or the file are damaged (inspect --verify)", n);
}

static int next_logits(generation *r, speculation *p, int32_t id, const float **logits, err *e) {
    double start = now_seconds();
    *logits = speculation_next(p, id, e);
    if (!*logits) return -1;
    r->decode_seconds += now_seconds() - start;
    r->n_decoded++;
    return 0;
}

/* The next token by the sampler, of those that may come; -1 and *rc -1: there is none, or a failure. */
static int32_t pick(generation *r, const float *logits, int *rc, err *e) {
    const float *row = constraint_mask(&r->limits, logits, e);
    int32_t id = row ? sampler_pick(r->sampler, row) : -1;
    if (id < 0) *rc = row ? no_token(r, logits, e) : -1;
    return id;
}

/* Tokens until an end: into text through the detokenizer and the stop strings, each written as soon as it is certain. */
static int draw_tokens(generation *r, speculation *p, detok *d, stop_filter *stop, err *e) {
    buf text = { 0 }, out = { 0 };
    const float *logits = session_logits(r->s);
    int rc = 0;
    bool stopped = false;
    r->end = "-n reached";
    for (int n = 0; r->o->n_predict < 0 || n < r->o->n_predict; n++) {
        if (atomic_load(&run_stop)) { r->end = "interrupted"; break; }
        bool whole;
        int32_t id = pick(r, logits, &rc, e);
        if (id < 0) break;
        if (ends_has(&r->search.ends, id)) { r->end = "end of text"; break; }
        if ((rc = constraint_take(&r->limits, id, &whole, e))) break;
        if ((rc = take_token(r, d, stop, id, &text, &out, &stopped, e))) break;
        if (stopped) { r->end = "stop string"; break; }
        if (whole) { r->end = "grammar complete"; break; }
        if (n + 1 == r->o->n_predict) break; /* nothing will ask for its logits */
        if (r->tokens.n > (size_t)r->info->ctx) { r->end = "context full"; break; }
        if ((rc = next_logits(r, p, id, &logits, e))) break;
    }
    if (rc && e->code == ERR_STOPPED) { /* in the middle of a step: the tokens before it stand */
        r->end = "interrupted";
        *e = (err){ 0 };
        rc = 0;
    }
    if (!stopped && d->t && !rc) rc = end_text(r, d, stop, &text, &out, e);
    buf_free(&text);
    buf_free(&out);
    return rc;
}

static int generate_tokens(generation *r, detok *d, stop_filter *stop, err *e) {
    speculation *p;
    if (speculation_new(&p, r->g, r->s, &(speculate_opts){ r->o->lookup, r->draft }, e)) return -1;
    if (r->explain[1]) explain_begin(r->explain[1]);
    int rc = draw_tokens(r, p, d, stop, e);
    if (r->explain[1]) explain_end(r->explain[1]);
    r->spent = speculation_about(p);
    speculation_end(p);
    speculation_free(p);
    return rc;
}

static int print_ids(const generation *r, err *e) {
    buf line = { 0 };
    for (size_t i = r->n_prompt; i < r->tokens.n; i++) buf_fmt(&line, "%s%d", i > r->n_prompt ? " " : "", r->tokens.p[i]);
    buf_byte(&line, '\n');
    int rc = write_buf(&line, e);
    buf_free(&line);
    return rc;
}

int generation_run(generation *r, err *e) {
    double start = now_seconds();
    for (size_t i = 0; i < r->n_prompt; i++) sampler_accept(r->sampler, r->tokens.p[i]);
    if (r->n_prompt > INT32_MAX)
        return fail_code(e, ERR_CONTEXT, "context_length_exceeded: the prompt has %zu tokens, the context holds %d", r->n_prompt, r->info->ctx);
    if (r->explain[0]) explain_begin(r->explain[0]);
    int rc = session_sync(r->s, r->tokens.p, (int)r->n_prompt, e);
    if (r->explain[0]) explain_end(r->explain[0]);
    if (rc) return -1;
    r->prompt_seconds += now_seconds() - start;
    sampler_begin(r->sampler);
    if (r->o->n_predict == 0) return 0;
    if (constraint_begin(&r->limits, r->search.ends.id, r->search.ends.n, e)) return -1;
    detok d;
    detok_begin(&d, r->tok, true);
    if (r->tok) { /* the prompt's last piece decides whether the first one keeps its space */
        buf unused = { 0 };
        for (size_t i = 0; i < r->n_prompt; i++) detok_token(&d, r->tokens.p[i], &unused);
        buf_free(&unused);
    }
    stop_filter stop = { .stops = r->o->stop.p, .n = r->o->stop.n };
    rc = r->search.o.beams > 1 ? search_tokens(r, &d, &stop, e) : generate_tokens(r, &d, &stop, e);
    stop_free(&stop);
    return rc;
}

static int generate(generation *r, err *e) {
    if (generation_run(r, e)) return -1;
    if (r->o->n_predict == 0) return 0;
    if (r->o->print_ids || !r->tok) return print_ids(r, e);
    return isatty(1) ? write_out("\n", 1, e) : 0;
}

void generation_print_decode(const generation *r) {
    const engine_info *i = r->info;
    if (!r->n_decoded) return;
    int beams = r->search.o.beams;
    double per_step = (double)i->decode_bytes + (double)i->kv_bytes_position * beams * ((double)session_len(r->s) - r->n_decoded / 2.0);
    double steps = r->spent.steps ? (double)r->spent.steps : r->n_decoded; /* an answer of one step has no figures */
    double drafted = r->draft ? (double)engine_about(r->draft)->decode_bytes * (double)r->spent.draft_steps : 0; /* its cache is small beside them */
    double rate = (per_step * steps + drafted) / r->decode_seconds, limit = engine_read_rate(r->g, 0.05);
    if (beams > 1) fprintf(stderr, " | %d beams", beams);
    fprintf(stderr, " | decode %d tokens, %.1f tok/s, %.1f GB/s (%.0f %% of the %.1f at which these weights can be read)", r->n_decoded,
            r->n_decoded / r->decode_seconds, rate / 1e9, 100 * rate / limit, limit / 1e9);
    if (r->spent.proposed)
        fprintf(stderr, " | %lld of %lld proposed tokens accepted, %lld steps", (long long)r->spent.accepted,
                (long long)r->spent.proposed, (long long)r->spent.steps);
}

static void print_explained(const generation *r) {
    buf out = { 0 };
    if (!r->explain[0]) return;
    explain_limits l = explain_measure(r->g);
    explain_report(r->explain[0], "prompt", &l, &out);
    explain_report(r->explain[1], "answer", &l, &out);
    if (out.n) fwrite(out.p, 1, out.n, stderr);
    buf_free(&out);
}

static void print_statistics(const generation *r) {
    const engine_info *i = r->info;
    if (r->o->n_predict == 0 && !r->o->verbose) return;
    size_t n = r->n_prompt + r->n_encoded;
    fprintf(stderr, "\nprompt %zu tokens, %.1f tok/s", n, (double)n / r->prompt_seconds);
    generation_print_decode(r);
    fprintf(stderr, " | %s, %d thread%s, seed %llu", i->kernels, i->threads, i->threads == 1 ? "" : "s", (unsigned long long)r->seed);
    if (r->end) fprintf(stderr, " | %s", r->end);
    fprintf(stderr, "\n");
    print_explained(r);
}

/* The smaller model of --draft. */
static int open_draft(generation *r, err *e) {
    engine_opts o = { .path = r->o->draft, .kernels = r->o->engine.kernels, .threads = r->info->threads };
    return r->o->draft ? engine_open(&r->draft, &o, e) : 0;
}

int generation_open(generation *r, const run_opts *o, err *e) {
    double start = now_seconds();
    *r = (generation){ .o = o, .turn_end = -1 };
    if (engine_open(&r->g, &o->engine, e)) return -1;
    r->info = engine_about(r->g);
    engine_set_stop(r->g, &run_stop);
    if (r->info->adapter_warning) fprintf(stderr, "run: warning: %s\n", r->info->adapter_warning);
    if (o->verbose) describe(r, now_seconds() - start);
    if (r->info->tokenizer_bytes && tokenizer_open(&r->tok, r->info->tokenizer, r->info->tokenizer_bytes, e)) return -1;
    if (constraint_open(&r->limits, o, r->tok, r->info->n_vocab, e)) return -1;
    if (o->explain && (explain_new(&r->explain[0], r->g, e) || explain_new(&r->explain[1], r->g, e))) return -1;
    return open_draft(r, e) || session_new(&r->s, r->g, e) ? -1 : 0;
}

void generation_close(generation *r) {
    explain_free(r->explain[0]);
    explain_free(r->explain[1]);
    sampler_free(r->sampler);
    constraint_close(&r->limits);
    ids_free(&r->tokens);
    session_free(r->s);
    tokenizer_free(r->tok);
    if (r->draft) engine_close(r->draft);
    engine_close(r->g);
}

/* --chat: what the template puts behind a reply ends it. */
static int find_turn_end(generation *r, err *e) {
    chat *c;
    if (!r->o->chat || !r->tok) return 0;
    if (run_open_chat(r->o, r->tok, &c, e)) return -1;
    r->turn_end = conversation_turn_end(&(conversation){ .tok = r->tok, .shape = c });
    chat_close(c);
    return 0;
}

static int prepare(generation *r, buf *text, err *e) {
    if (find_turn_end(r, e) || load_tokens(r, text, e)) return -1;
    if (r->tokens.n == 0) return fail_code(e, ERR_INPUT, "an empty prompt: this model adds no token of its own, so there is nothing to continue");
    if (run_encoder(r, e)) return -1;
    r->n_prompt = r->tokens.n;
    if (r->o->dump_logits && dump_logits(r, e)) return -1;
    if (generation_sampler(r, r->o->seed_given ? r->o->sample.seed : sample_random_seed(), e)) return -1;
    return echo(r, text, e); /* behind what -v says: the answer follows it on its line */
}

static int run_prompt(generation *r, err *e) {
    buf text = { 0 };
    int rc = prepare(r, &text, e);
    buf_free(&text);
    if (rc) return rc;
    rc = generate(r, e);
    if (rc && e->code == ERR_STOPPED) {
        r->end = "interrupted";
        rc = 0;
    }
    if (!rc) print_statistics(r);
    return rc ? rc : atomic_load(&run_stop) ? 130 : 0;
}

int run_generate(const run_opts *o, err *e) {
    generation r;
    int rc = generation_open(&r, o, e);
    if (!rc) rc = run_prompt(&r, e);
    generation_close(&r);
    return rc;
}
