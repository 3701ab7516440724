/* The report of bench/model as a picture: speed against the depth of context and against the batch, the roofline, and every row's
 * share of the limit as a bar. One SVG without scripts, fonts or links, on a white ground. It must not know how a row was measured. */
#include "bench/model.h"
#include "bench/svg.h"

#include <math.h>
#include <string.h>

enum { PLOT = 220, PANEL_GAP = 76, BAR = 22, HEAD_LINE = 17, BAR_LEFT = 230, LEGEND = 18, MOST_LINES = 32 };

/* Of several subjects, the letter that the head explains. */
static void add_subject(const bench_report *r, int subject, buf *out) {
    if (r->n_subjects > 1) buf_fmt(out, ", %c", 'A' + subject);
}

/* ---- lines: a chart of one kind of rows, its x one of their figures, a line for each value of another ---- */

typedef enum { BY_DEPTH, BY_BATCH, BY_SIZE } field;

static int value(const bench_row *r, field f) { return f == BY_DEPTH ? r->depth : f == BY_BATCH ? r->batch : r->size; }

typedef struct chart {
    row_kind kind;
    field x, key; /* key: another line for each; lines are also one a subject */
    int keys[MOST_LINES], subjects[MOST_LINES], n;
    double most_x, most_y;
    int top;
} chart;

static int line_of(const chart *c, const bench_row *r) {
    for (int i = 0; i < c->n; i++)
        if (c->keys[i] == value(r, c->key) && c->subjects[i] == r->subject) return i;
    return -1;
}

/* Finds lines and extents; how many different x there are. */
static int survey(const bench_report *r, chart *c) {
    int seen[MOST_LINES], n_x = 0;
    for (int i = 0; i < r->n_rows; i++) {
        const bench_row *row = &r->rows[i];
        if (row->kind != c->kind) continue;
        if (line_of(c, row) < 0 && c->n < MOST_LINES) {
            c->keys[c->n] = value(row, c->key);
            c->subjects[c->n++] = row->subject;
        }
        int k = 0;
        while (k < n_x && seen[k] != value(row, c->x)) k++;
        if (k == n_x && n_x < MOST_LINES) seen[n_x++] = value(row, c->x);
        c->most_x = fmax(c->most_x, value(row, c->x));
        c->most_y = fmax(c->most_y, row->tokens / row->seconds);
    }
    return n_x;
}

static double x_at(const chart *c, double x) { return SVG_LEFT + x / c->most_x * (SVG_WIDTH - SVG_LEFT - SVG_RIGHT); }
static double y_at(const chart *c, double speed) { return c->top + PLOT - speed / c->most_y * PLOT; }

/* Contexts and batches are mostly powers of two: a tick then stands at a measured place. */
static double x_step(double most) {
    double apart = 1;
    while (most / apart > 8) apart *= 2;
    return apart;
}

static void draw_axes(const chart *c, const char *title, buf *out) {
    double step_y = svg_nice_step(c->most_y), step_x = x_step(c->most_x);
    for (int i = 0; i * step_y <= c->most_y * 1.0001; i++)
        buf_fmt(out,
                "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/><text x=\"%d\" y=\"%.1f\" "
                "text-anchor=\"end\">%.10g</text>\n",
                SVG_LEFT, SVG_WIDTH - SVG_RIGHT, y_at(c, i * step_y), y_at(c, i * step_y), SVG_LEFT - 8, y_at(c, i * step_y) + 4, i * step_y);
    for (int i = 0; i * step_x <= c->most_x * 1.0001; i++)
        buf_fmt(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.10g</text>\n", x_at(c, i * step_x), c->top + PLOT + 18, i * step_x);
    buf_fmt(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", (SVG_LEFT + SVG_WIDTH - SVG_RIGHT) / 2, c->top + PLOT + 36,
            title);
}

static void draw_line(const bench_report *r, const chart *c, int line, buf *out) {
    buf_fmt(out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"", svg_colour(line));
    for (int i = 0; i < r->n_rows; i++)
        if (r->rows[i].kind == c->kind && line_of(c, &r->rows[i]) == line)
            buf_fmt(out, "%.1f,%.1f ", x_at(c, value(&r->rows[i], c->x)), y_at(c, r->rows[i].tokens / r->rows[i].seconds));
    buf_str(out, "\"/>\n");
    for (int i = 0; i < r->n_rows; i++) {
        double speed = r->rows[i].tokens / r->rows[i].seconds;
        if (r->rows[i].kind == c->kind && line_of(c, &r->rows[i]) == line)
            buf_fmt(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" fill=\"%s\"><title>%.4g tok/s</title></circle>\n",
                    x_at(c, value(&r->rows[i], c->x)), y_at(c, speed), svg_colour(line), speed);
    }
}

static void draw_legend(const bench_report *r, const chart *c, buf *out) {
    static const char *const words[] = { "depth", "batch", "prompt" };
    for (int i = 0; i < c->n; i++) {
        int y = c->top + 4 + LEGEND * i;
        buf_fmt(out, "<circle cx=\"%d\" cy=\"%d\" r=\"5\" fill=\"%s\"/><text x=\"%d\" y=\"%d\">%s %d", SVG_WIDTH - SVG_RIGHT + 16, y, svg_colour(i),
                SVG_WIDTH - SVG_RIGHT + 28, y + 4, words[c->key], c->keys[i]);
        add_subject(r, c->subjects[i], out);
        buf_str(out, "</text>\n");
    }
}

/* Returns the height used: 0 without at least two places on the x axis. */
static int draw_chart(const bench_report *r, chart c, const char *head, const char *axis, int top, buf *out) {
    c.top = top + 30;
    if (survey(r, &c) < 2) return 0;
    c.most_y *= 1.08;
    buf_fmt(out, "<text class=\"head\" x=\"%d\" y=\"%d\">%s</text>\n", SVG_LEFT, top + 14, head);
    draw_axes(&c, axis, out);
    for (int i = 0; i < c.n; i++) draw_line(r, &c, i, out);
    draw_legend(r, &c, out);
    return max_int(PLOT, LEGEND * c.n) + PANEL_GAP + 14;
}

/* ---- bars ---- */

/* From 0 to 100 % of the limit that binds. */
static int draw_shares(const bench_report *r, int top, buf *out) {
    double width = SVG_WIDTH - BAR_LEFT - SVG_RIGHT;
    buf_fmt(out, "<text class=\"head\" x=\"%d\" y=\"%d\">share of what this machine allows</text>\n", SVG_LEFT, top + 14);
    for (int i = 0; i < r->n_rows; i++) {
        const bench_row *row = &r->rows[i];
        int y = top + 28 + i * BAR;
        char name[32];
        bench_row_name(row, name);
        buf_fmt(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s depth %d", BAR_LEFT - 8, y + 12, name, row->depth);
        if (row->kind == ROW_DECODE) buf_fmt(out, " batch %d", row->batch);
        add_subject(r, row->subject, out);
        buf_fmt(out, "</text><rect class=\"whole\" x=\"%d\" y=\"%d\" width=\"%.0f\" height=\"%d\"/>", BAR_LEFT, y, width, BAR - 6);
        buf_fmt(out, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>", BAR_LEFT, y, width * fmin(row->share, 1), BAR - 6,
                svg_colour((int)row->kind));
        buf_fmt(out, "<text x=\"%.1f\" y=\"%d\">%.0f %% (%s)</text>\n", BAR_LEFT + width + 8, y + 12, 100 * row->share, row->bound);
    }
    return 28 + r->n_rows * BAR;
}

/* ---- the picture ---- */

static void draw_limits(const bench_report *r, const bench_subject *s, int y, buf *out) {
    buf_fmt(out, "<text x=\"%d\" y=\"%d\">", SVG_LEFT, y);
    if (r->n_subjects > 1) {
        buf_fmt(out, "%c: ", 'A' + (int)(s - r->subjects));
        svg_text(out, s->label);
        buf_fmt(out, ", %s: ", s->info->type);
    }
    buf_fmt(out, "memory %.1f GB/s, these weights %.1f GB/s, %s %.0f Gop/s</text>\n", s->limits.read / 1e9, s->weights / 1e9,
            bench_peak_name(r, s), bench_peak(r, s) / 1e9);
}

/* Returns the height used. */
static int draw_head(const bench_report *r, buf *out) {
    const engine_info *i = r->subjects[0].info;
    buf_fmt(out, "<text class=\"head\" x=\"%d\" y=\"26\">", SVG_LEFT);
    if (r->many_files) buf_fmt(out, "%d runs in turns", r->n_subjects);
    else svg_text(out, i->name);
    if (!r->many_files) buf_fmt(out, ", %s", i->type);
    buf_fmt(out, "%s</text>\n<text x=\"%d\" y=\"45\">", r->exact ? ", exact" : "", SVG_LEFT);
    if (!r->many_threads) buf_fmt(out, "%d thread%s, ", i->threads, i->threads == 1 ? "" : "s");
    buf_fmt(out, "kernels %s, ", i->kernels);
    svg_text(out, r->cpu);
    buf_str(out, "</text>\n");
    for (int k = 0; k < r->n_subjects; k++) draw_limits(r, &r->subjects[k], 62 + HEAD_LINE * k, out);
    return 67 + HEAD_LINE * r->n_subjects;
}

void bench_svg(const bench_report *r, buf *out) {
    static const char decode[] = "decode, tokens a second, all sequences together", prompt[] = "prompt, tokens a second";
    static const char context[] = "tokens of context";
    static const char batch[] = "sequences at once", size[] = "tokens of the prompt";
    buf body = { 0 };
    int top = draw_head(r, &body);
    top += draw_chart(r, (chart){ .kind = ROW_DECODE, .x = BY_DEPTH, .key = BY_BATCH }, decode, context, top, &body);
    top += draw_chart(r, (chart){ .kind = ROW_DECODE, .x = BY_BATCH, .key = BY_DEPTH }, decode, batch, top, &body);
    top += draw_chart(r, (chart){ .kind = ROW_PROMPT, .x = BY_DEPTH, .key = BY_SIZE }, prompt, context, top, &body);
    top += draw_chart(r, (chart){ .kind = ROW_PROMPT, .x = BY_SIZE, .key = BY_DEPTH }, prompt, size, top, &body);
    top += svg_roofline(r, top, &body);
    top += draw_shares(r, top, &body) + 20;
    svg_whole(out, SVG_WIDTH, top, &body);
}
