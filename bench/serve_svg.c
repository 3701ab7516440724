/* serve_svg: a load as a picture: pieces of text a second over time with the seconds in which requests failed, and which share of
 * the first tokens, gaps and answers came within which time. */
#include <math.h>
#include <string.h>

#include "bench/serve.h"
#include "bench/svg.h"

enum { WIDTH = 760, LEFT = 70, RIGHT = 130, PLOT = 200, GAP = 80, MOST_POINTS = 700, CURVE = 200, FAILED = 5 };

static double x_time(const figures *f, double second) { return LEFT + second / f->n_seconds * (WIDTH - LEFT - RIGHT); }

static void grid(buf *out, double y, const char *label) {
    buf_fmt(out, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>"
            "\n", LEFT, WIDTH - RIGHT, y, y, LEFT - 8,
            y + 4, label);
}

/* Several seconds are one point where there are more than fit. */
static void draw_speed(const figures *f, int top, buf *out) {
    int step = 1 + f->n_seconds / MOST_POINTS, failed = 0;
    double most = 1;
    char label[32];
    for (int i = 0; i < f->n_seconds; i++) most = fmax(most, (double)f->seconds[i].pieces * 1.08);
    buf_fmt(out, "<text class=\"head\" x=\"%d\" y=\"%d\">pieces of text a second</text>\n", LEFT, top - 16);
    for (double y = 0, s = svg_nice_step(most); y <= most; y += s) {
        snprintf(label, sizeof label, "%g", y);
        grid(out, top + PLOT - y / most * PLOT, label);
    }
    for (int i = 0; i < f->n_seconds; i++) failed += f->seconds[i].failed;
    for (int i = 0; i < f->n_seconds; i++)
        if (f->seconds[i].failed)
            buf_fmt(out, "<rect x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\" fill-opacity=\".35\"><title>%d failed</title>"
                    "</rect>\n", x_time(f, i), top,
                    fmax(1, x_time(f, i + 1) - x_time(f, i)), PLOT, svg_colour(FAILED), f->seconds[i].failed);
    buf_fmt(out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"", svg_colour(0));
    for (int i = 0; i < f->n_seconds; i += step) {
        int n = min_int(step, f->n_seconds - i);
        int64_t sum = 0;
        for (int k = 0; k < n; k++) sum += f->seconds[i + k].pieces;
        buf_fmt(out, "%.1f,%.1f ", x_time(f, i + n / 2.0), top + PLOT - (double)sum / n / most * PLOT);
    }
    buf_str(out, "\"/>\n");
    for (double x = 0, s = fmax(1, svg_nice_step(f->n_seconds)); x <= f->n_seconds; x += s)
        buf_fmt(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>\n", x_time(f, x), top + PLOT + 18, x);
    buf_fmt(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">seconds</text>\n", (LEFT + WIDTH - RIGHT) / 2, top + PLOT + 36);
    if (failed) buf_fmt(out, "<rect x=\"%d\" y=\"%d\" width=\"10\" height=\"10\" fill=\"%s\" fill-opacity=\".5\"/><text x=\"%d\" y=\"%d\">"
            "%d failed</text>\n", WIDTH - RIGHT + 14, top,
                        svg_colour(FAILED), WIDTH - RIGHT + 30, top + 10, failed);
}

typedef struct span { double low, high; } span; /* seconds, powers of ten */

static double x_log(const span *s, double seconds) {
    double at = log10(fmax(seconds, s->low) / s->low) / log10(s->high / s->low);
    return LEFT + at * (WIDTH - LEFT - RIGHT);
}

/* Log axis; what is below a tenth of a millisecond, such as gaps of pieces that came together, stands at its left end. */
static span find_span(samples *const *sets, int n) {
    span s = { 1, 1e-3 };
    for (int i = 0; i < n; i++) {
        if (!sets[i]->n) continue;
        s.low = fmin(s.low, fmax(1e-4, samples_at(sets[i], 0.01)));
        s.high = fmax(s.high, samples_at(sets[i], 1));
    }
    s.low = pow(10, floor(log10(s.low)));
    s.high = fmax(10 * s.low, pow(10, ceil(log10(s.high))));
    return s;
}

static void draw_curve(const span *range, samples *s, int top, int line, const char *name, buf *out) {
    static const double marks[] = { 0.5, 0.95, 0.99 };
    int y = top + 10 + 20 * line;
    if (!s->n) return;
    buf_fmt(out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"", svg_colour(line));
    for (int i = 0; i <= CURVE; i++) buf_fmt(out, "%.1f,%.1f ", x_log(range, samples_at(s, (double)i / CURVE)),
            top + PLOT - (double)i / CURVE * PLOT);
    buf_str(out, "\"/>\n");
    for (int i = 0; i < 3; i++)
        buf_fmt(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" fill=\"%s\"><title>p%.0f %.1f ms</title></circle>\n", x_log(range,
                samples_at(s, marks[i])), top + PLOT - marks[i] * PLOT,
                svg_colour(line), 100 * marks[i], 1e3 * samples_at(s, marks[i]));
    buf_fmt(out, "<circle cx=\"%d\" cy=\"%d\" r=\"5\" fill=\"%s\"/><text x=\"%d\" y=\"%d\">%s</text>\n", WIDTH - RIGHT + 16, y,
            svg_colour(line), WIDTH - RIGHT + 28, y + 4, name);
}

static void draw_times(figures *f, int top, buf *out) {
    samples *sets[] = { &f->first[SCENE_MIXED], &f->between, &f->whole[SCENE_MIXED] };
    static const char *const names[] = { "first token", "between tokens", "whole answer" };
    span range = find_span(sets, 3);
    char label[32];
    buf_fmt(out, "<text class=\"head\" x=\"%d\" y=\"%d\">share that came within a time</text>\n", LEFT, top - 16);
    for (int i = 0; i <= 4; i++) {
        snprintf(label, sizeof label, "%d %%", 25 * i);
        grid(out, top + PLOT - i * PLOT / 4.0, label);
    }
    for (double t = range.low; t <= range.high * 1.001; t *= 10) {
        snprintf(label, sizeof label, t < 0.9 ? "%g ms" : "%g s", t < 0.9 ? round(t * 1e4) / 10 : round(t));
        buf_fmt(out, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/><text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">"
                "%s</text>\n", x_log(&range, t),
                x_log(&range, t), top, top + PLOT, x_log(&range, t), top + PLOT + 18, label);
    }
    for (int i = 0; i < 3; i++) draw_curve(&range, sets[i], top, i, names[i], out);
}

void report_svg(const load_opts *o, figures *f, buf *out) {
    buf body = { 0 };
    int top = 110;
    buf_fmt(&body, "<text class=\"head\" x=\"%d\" y=\"26\">", LEFT);
    svg_text(&body, o->model);
    buf_fmt(&body, ", %s prompts, ", scene_names[o->scene]);
    if (o->rate > 0) buf_fmt(&body, "%g requests a second", o->rate);
    else buf_fmt(&body, "%d client%s", o->clients, o->clients == 1 ? "" : "s");
    buf_fmt(&body, "</text>\n<text x=\"%d\" y=\"45\">", LEFT);
    svg_text(&body, o->host);
    buf_fmt(&body, ":%s, %s, %lld requests in %.1f s, %lld good</text>\n<text x=\"%d\" y=\"62\">%.1f tokens a second, %.2f answers a "
            "second</text>\n", o->port, api_names[o->api],
            (long long)f->requests, f->elapsed, (long long)f->kinds[LOAD_OK], LEFT, f->elapsed > 0 ? (double)f->tokens / f->elapsed : 0,
            f->elapsed > 0 ? (double)f->kinds[LOAD_OK] / f->elapsed : 0);
    if (f->n_seconds) draw_speed(f, top, &body);
    top += f->n_seconds ? PLOT + GAP : 0;
    if (f->whole[SCENE_MIXED].n) draw_times(f, top, &body);
    top += f->whole[SCENE_MIXED].n ? PLOT + GAP / 2 : 0;
    svg_whole(out, WIDTH, top, &body);
}
