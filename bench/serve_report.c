/* serve_report: the figures of a load as text and as JSON. It computes nothing but rates and shares. */
#include <string.h>

#include "bench/serve.h"

static int64_t failures(const figures *f) { return f->requests - f->kinds[LOAD_OK] - f->kinds[LOAD_UNFINISHED]; }
static double per_second(const figures *f, int64_t n) { return f->elapsed > 0 ? (double)n / f->elapsed : 0; }

static void text_row(const char *name, samples *s, buf *out) {
    if (!s->n) return;
    buf_fmt(out, "  %-16s %10.1f %10.1f %10.1f %10.1f %10.1f\n", name, 1e3 * samples_at(s, 0.5), 1e3 * samples_at(s, 0.95),
            1e3 * samples_at(s, 0.99),
            1e3 * samples_mean(s), 1e3 * samples_at(s, 1));
}

static void text_head(const load_opts *o, const figures *f, buf *out) {
    buf_fmt(out, "http://%s%s%s:%s%s  %s%s, model %s, %s prompts, ", strchr(o->host, ':') ? "[" : "", o->host,
            strchr(o->host, ':') ? "]" : "", o->port, o->base,
            api_names[o->api], o->stream ? "" : " (not streamed)", o->model, scene_names[o->scene]);
    if (o->rate > 0) buf_fmt(out, "%g a second", o->rate);
    else buf_fmt(out, "%d client%s", o->clients, o->clients == 1 ? "" : "s");
    buf_fmt(out, ", seed %llu\n", (unsigned long long)o->seed);
    buf_fmt(out, "  %lld requests in %.2f s: %lld good, %lld failed", (long long)f->requests, f->elapsed, (long long)f->kinds[LOAD_OK],
            (long long)failures(f));
    if (f->kinds[LOAD_UNFINISHED]) buf_fmt(out, ", %lld unfinished when interrupted", (long long)f->kinds[LOAD_UNFINISHED]);
    buf_fmt(out, "; ended by stop %lld, length %lld, other %lld\n", (long long)f->by_reason[0], (long long)f->by_reason[1],
            (long long)f->by_reason[2]);
    buf_fmt(out, "  %lld tokens: %.1f a second, %.2f answers a second; prompts %lld tokens, %lld of them cached\n", (long long)f->tokens,
            per_second(f, f->tokens), per_second(f, f->kinds[LOAD_OK]), (long long)f->prompt_tokens, (long long)f->cached);
}

static void text_remarks(const load_opts *o, figures *f, buf *out) {
    if (f->uncounted) buf_fmt(out, "  note: %lld answers came without a number of tokens; their pieces of text are counted\n",
            (long long)f->uncounted);
    if (f->empty) buf_fmt(out, "  note: %lld good answers were empty\n", (long long)f->empty);
    if (f->retried) buf_fmt(out, "  note: %lld requests were sent twice, because their kept connection had been closed\n", (long long)f->retried);
    if (f->elapsed > 0 && f->cpu / f->elapsed > 0.8) buf_fmt(out,
            "  note: this program itself took %.0f %% of a core: its times are doubtful\n", 100 * f->cpu / f->elapsed);
    if (o->rate > 0 && samples_at(&f->late, 0.99) > 0.01)
        buf_fmt(out, "  note: requests began up to %.1f ms after they were due (p99 %.1f); that is part of their times\n",
                1e3 * samples_at(&f->late, 1), 1e3 * samples_at(&f->late, 0.99));
}

void report_text(const load_opts *o, figures *f, buf *out) {
    char name[32];
    text_head(o, f, out);
    if (f->whole[SCENE_MIXED].n) buf_fmt(out, "\n  %-16s %10s %10s %10s %10s %10s\n", "milliseconds", "p50", "p95", "p99", "mean", "longest");
    if (o->stream) text_row("first token", &f->first[SCENE_MIXED], out);
    if (o->stream) text_row("between tokens", &f->between, out);
    text_row("whole answer", &f->whole[SCENE_MIXED], out);
    for (int i = 0; o->scene == SCENE_MIXED && i < SCENE_MIXED; i++) {
        snprintf(name, sizeof name, "first, %s", scene_names[i]);
        if (o->stream) text_row(name, &f->first[i], out);
    }
    if (failures(f)) buf_str(out, "\n");
    for (int k = LOAD_REFUSED; k < LOAD_UNFINISHED; k++)
        if (f->kinds[k]) buf_fmt(out, "  %lld x %s, the first: %s\n", (long long)f->kinds[k], load_kind_names[k], f->example[k]);
    text_remarks(o, f, out);
}

/* ---- JSON ---- */

static void json_samples(const char *name, samples *s, buf *out) {
    buf_fmt(out, "\"%s\":{\"n\":%zu,\"p50\":%.3f,\"p95\":%.3f,\"p99\":%.3f,\"mean\":%.3f,\"max\":%.3f}", name, s->n,
            1e3 * samples_at(s, 0.5), 1e3 * samples_at(s, 0.95),
            1e3 * samples_at(s, 0.99), 1e3 * samples_mean(s), 1e3 * samples_at(s, 1));
}

static void json_text(const char *name, const char *s, buf *out) {
    buf_fmt(out, "\"%s\":", name);
    buf_json(out, s, strlen(s));
}

static void json_asked(const load_opts *o, buf *out) {
    json_text("version", QUERN_VERSION, out);
    buf_byte(out, ',');
    json_text("host", o->host, out);
    buf_byte(out, ',');
    json_text("port", o->port, out);
    buf_fmt(out, ",\"api\":\"%s\",", api_names[o->api]);
    json_text("model", o->model, out);
    buf_fmt(out, ",\"scenario\":\"%s\",\"loop\":\"%s\",\"rate\":%g,\"clients\":%d,\"stream\":%s,\"max_tokens\":%d,\"shared_words\":%d,"
            "\"timeout_s\":%g,\"seed\":%llu", scene_names[o->scene],
            o->rate > 0 ? "open" : "closed", o->rate, o->rate > 0 ? 0 : o->clients, o->stream ? "true" : "false", o->max_tokens, o->shared,
                    o->timeout, (unsigned long long)o->seed);
}

static void json_errors(const figures *f, buf *out) {
    bool comma = false;
    buf_str(out, ",\"errors\":{");
    for (int k = LOAD_REFUSED; k < LOAD_UNFINISHED; k++) buf_fmt(out, "%s\"%s\":%lld", k > LOAD_REFUSED ? "," : "", load_kind_names[k],
            (long long)f->kinds[k]);
    buf_str(out, "},\"status\":{");
    for (int i = 0; i < MOST_STATUS; i++) {
        if (!f->status[i]) continue;
        buf_fmt(out, "%s\"%d\":%lld", comma ? "," : "", i, (long long)f->status[i]);
        comma = true;
    }
    buf_str(out, "},\"first_messages\":{");
    comma = false;
    for (int k = LOAD_REFUSED; k < LOAD_UNFINISHED; k++) {
        if (!f->kinds[k]) continue;
        if (comma) buf_byte(out, ',');
        json_text(load_kind_names[k], f->example[k], out);
        comma = true;
    }
    buf_str(out, "}");
}

static void json_times(figures *f, buf *out) {
    bool comma = false;
    json_samples("first_token_ms", &f->first[SCENE_MIXED], out);
    buf_byte(out, ',');
    json_samples("between_tokens_ms", &f->between, out);
    buf_byte(out, ',');
    json_samples("whole_ms", &f->whole[SCENE_MIXED], out);
    buf_byte(out, ',');
    json_samples("late_ms", &f->late, out);
    buf_str(out, ",\"scenarios\":{");
    for (int i = 0; i < SCENE_MIXED; i++) {
        if (!f->whole[i].n) continue;
        buf_fmt(out, "%s\"%s\":{", comma ? "," : "", scene_names[i]);
        json_samples("first_token_ms", &f->first[i], out);
        buf_byte(out, ',');
        json_samples("whole_ms", &f->whole[i], out);
        buf_byte(out, '}');
        comma = true;
    }
    buf_byte(out, '}');
}

void report_json(const load_opts *o, figures *f, buf *out) {
    buf_byte(out, '{');
    json_asked(o, out);
    buf_fmt(out, ",\"elapsed_s\":%.3f,\"requests\":%lld,\"good\":%lld,\"failed\":%lld,\"unfinished\":%lld,\"retried\":%lld,\"empty\":%lld,"
            "\"interrupted\":%s", f->elapsed, (long long)f->requests,
            (long long)f->kinds[LOAD_OK], (long long)failures(f), (long long)f->kinds[LOAD_UNFINISHED], (long long)f->retried,
                    (long long)f->empty, f->interrupted ? "true" : "false");
    buf_fmt(out, ",\"finish\":{\"stop\":%lld,\"length\":%lld,\"other\":%lld}", (long long)f->by_reason[0], (long long)f->by_reason[1],
            (long long)f->by_reason[2]);
    buf_fmt(out, ",\"tokens\":%lld,\"pieces\":%lld,\"answers_without_count\":%lld,\"tokens_per_s\":%.3f,\"answers_per_s\":%.3f,"
            "\"prompt_tokens\":%lld,\"cached_tokens\":%lld", (long long)f->tokens,
            (long long)f->pieces, (long long)f->uncounted, per_second(f, f->tokens), per_second(f, f->kinds[LOAD_OK]),
                    (long long)f->prompt_tokens, (long long)f->cached);
    buf_fmt(out, ",\"most_connections\":%d,\"own_cpu_s\":%.3f,", f->most_open, f->cpu);
    json_times(f, out);
    json_errors(f, out);
    buf_str(out, ",\"seconds\":[");
    for (int i = 0; i < f->n_seconds; i++) {
        const second_row *s = &f->seconds[i];
        buf_fmt(out, "%s{\"started\":%d,\"finished\":%d,\"failed\":%d,\"pieces\":%lld}", i ? "," : "", s->started, s->finished, s->failed,
                (long long)s->pieces);
    }
    buf_str(out, "]}\n");
}
