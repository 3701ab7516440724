/* The report of bench/model as a picture: speed against the depth of context, a line a batch (a prompt size), and the share of
 * the limit of every row as a bar. One SVG without scripts, fonts or links; its colours read on light and dark. */
#include "bench/model.h"
#include "bench/svg.h"

enum { WIDTH = 760, LEFT = 70, RIGHT = 120, PLOT = 220, PANEL_GAP = 76, BAR = 22, BAR_LEFT = 190, LEGEND = 18, MOST_LINES = 32 };

/* One line of a chart: the rows of one kind and key (batch, or prompt size). */
static int line_key(const bench_row *row) { return row->decode ? row->batch : row->size; }

static int find_lines(const bench_report *r, bool decode, int keys[MOST_LINES]) {
    int n = 0;
    for (int i = 0; i < r->n_rows; i++) {
        if (r->rows[i].decode != decode) continue;
        int k = 0;
        while (k < n && keys[k] != line_key(&r->rows[i])) k++;
        if (k == n && n < MOST_LINES) keys[n++] = line_key(&r->rows[i]);
    }
    return n;
}

typedef struct axes {
    double most_x, most_y;
    int top;
} axes;

static double x_at(const axes *a, double depth) { return LEFT + depth / a->most_x * (WIDTH - LEFT - RIGHT); }
static double y_at(const axes *a, double speed) { return a->top + PLOT - speed / a->most_y * PLOT; }

static void draw_axes(const axes *a, buf *out) {
    double step_y = svg_nice_step(a->most_y), step_x = fmax(1, svg_nice_step(a->most_x));
    for (double y = 0; y <= a->most_y * 1.0001; y += step_y)
        buf_fmt(out,
                "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/><text x=\"%d\" y=\"%.1f\" "
                "text-anchor=\"end\">%g</text>\n",
                LEFT, WIDTH - RIGHT, y_at(a, y), y_at(a, y), LEFT - 8, y_at(a, y) + 4, y);
    for (double x = 0; x <= a->most_x * 1.0001; x += step_x)
        buf_fmt(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>\n", x_at(a, x), a->top + PLOT + 18, x);
    buf_fmt(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">tokens of context</text>\n", (LEFT + WIDTH - RIGHT) / 2,
            a->top + PLOT + 36);
}

static void draw_line(const bench_report *r, const axes *a, bool decode, int key, const char *stroke, buf *out) {
    buf_fmt(out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"", stroke);
    for (int i = 0; i < r->n_rows; i++) {
        const bench_row *row = &r->rows[i];
        if (row->decode == decode && line_key(row) == key)
            buf_fmt(out, "%.1f,%.1f ", x_at(a, row->depth), y_at(a, row->tokens / row->seconds));
    }
    buf_str(out, "\"/>\n");
    for (int i = 0; i < r->n_rows; i++) {
        const bench_row *row = &r->rows[i];
        if (row->decode == decode && line_key(row) == key)
            buf_fmt(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" fill=\"%s\"><title>%.4g tok/s</title></circle>\n",
                    x_at(a, row->depth), y_at(a, row->tokens / row->seconds), stroke, row->tokens / row->seconds);
    }
}

/* Returns the height used; 0 without such rows. */
static int draw_chart(const bench_report *r, bool decode, int top, buf *out) {
    int keys[MOST_LINES], n = find_lines(r, decode, keys);
    axes a = { .most_x = 1, .top = top + 30 };
    if (!n) return 0;
    for (int i = 0; i < r->n_rows; i++) {
        if (r->rows[i].decode != decode) continue;
        a.most_x = fmax(a.most_x, r->rows[i].depth);
        a.most_y = fmax(a.most_y, r->rows[i].tokens / r->rows[i].seconds);
    }
    a.most_y *= 1.08;
    buf_fmt(out, "<text class=\"head\" x=\"%d\" y=\"%d\">%s, tokens a second%s</text>\n", LEFT, top + 14,
            decode ? "decode" : "prompt", decode ? ", all sequences together" : "");
    draw_axes(&a, out);
    for (int i = 0; i < n; i++) {
        int y = a.top + LEGEND * i;
        draw_line(r, &a, decode, keys[i], svg_colour(i), out);
        buf_fmt(out, "<circle cx=\"%d\" cy=\"%d\" r=\"5\" fill=\"%s\"/><text x=\"%d\" y=\"%d\">%s %d</text>\n", WIDTH - RIGHT + 16,
                y, svg_colour(i), WIDTH - RIGHT + 28, y + 4, decode ? "batch" : "prompt", keys[i]);
    }
    return max_int(PLOT, LEGEND * n) + PANEL_GAP + 14;
}

/* Bars from 0 to 100 % of the limit that binds. */
static int draw_shares(const bench_report *r, int top, buf *out) {
    double width = WIDTH - BAR_LEFT - RIGHT;
    buf_fmt(out, "<text class=\"head\" x=\"%d\" y=\"%d\">share of what this machine allows</text>\n", LEFT, top + 14);
    for (int i = 0; i < r->n_rows; i++) {
        const bench_row *row = &r->rows[i];
        int y = top + 28 + i * BAR;
        char name[32];
        bench_row_name(row, name);
        buf_fmt(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s depth %d", BAR_LEFT - 8, y + 12, name, row->depth);
        if (row->decode) buf_fmt(out, " batch %d", row->batch);
        buf_fmt(out, "</text><rect class=\"whole\" x=\"%d\" y=\"%d\" width=\"%.0f\" height=\"%d\"/>", BAR_LEFT, y, width, BAR - 6);
        buf_fmt(out, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>", BAR_LEFT, y, width * fmin(row->share, 1),
                BAR - 6, svg_colour(row->decode ? 0 : 1));
        buf_fmt(out, "<text x=\"%.1f\" y=\"%d\">%.0f %% (%s)</text>\n", BAR_LEFT + width + 8, y + 12, 100 * row->share,
                row->memory_binds ? "memory" : "compute");
    }
    return 28 + r->n_rows * BAR;
}

void bench_svg(const bench_report *r, buf *out) {
    buf body = { 0 };
    int top = 84;
    buf_fmt(&body, "<text class=\"head\" x=\"%d\" y=\"26\">", LEFT);
    svg_text(&body, r->info->name);
    buf_fmt(&body, ", %s%s</text>\n<text x=\"%d\" y=\"45\">%d thread%s, kernels %s, ", r->info->type, r->exact ? " exact" : "", LEFT,
            r->info->threads, r->info->threads == 1 ? "" : "s", r->info->kernels);
    svg_text(&body, r->cpu);
    buf_fmt(&body, "</text>\n<text x=\"%d\" y=\"62\">memory %.1f GB/s, these weights %.1f GB/s, %s %.0f Gop/s</text>\n", LEFT,
            r->limits.read / 1e9, r->weights / 1e9, bench_peak_name(r), bench_peak(r) / 1e9);
    top += draw_chart(r, true, top, &body);
    top += draw_chart(r, false, top, &body);
    top += draw_shares(r, top, &body) + 20;
    svg_whole(out, WIDTH, top, &body);
}
