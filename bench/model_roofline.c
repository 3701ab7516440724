/* The roofline of a report (Williams, Waterman, Patterson 2009): how fast each row computed against how many operations it has for each
 * byte that it must read, under the ceilings that the same run measured. Left of the corner memory binds, right of it arithmetic. Both
 * axes are logarithmic. Points have numbers, which the list below them names. */
#include "bench/model.h"
#include "bench/svg.h"

#include <math.h>
#include <string.h>

enum { PLOT = 330, GAP = 60, LEGEND = 16, COLUMNS = 4, RIGHT = 40, MOST_BOXES = 400 };

typedef struct box {
    double x, y, w, h; /* x, y: the upper left corner */
} box;

typedef struct roof {
    double low_x, high_x, low_y, high_y; /* of the axes, as exponents of 10 */
    int top;
    box taken[MOST_BOXES]; /* by points and words */
    int n_taken;
} roof;

static double x_at(const roof *f, double v) {
    return SVG_LEFT + (log10(v) - f->low_x) / (f->high_x - f->low_x) * (SVG_WIDTH - SVG_LEFT - RIGHT);
}
static double y_at(const roof *f, double v) { return f->top + PLOT * (f->high_y - log10(v)) / (f->high_y - f->low_y); }

static double intensity(const bench_row *r) { return r->ops / r->bytes; }
static double speed(const bench_row *r) { return r->ops / r->seconds / 1e9; }

/* ---- words that stand on nothing else ---- */

static void take(roof *f, box b) {
    if (f->n_taken < MOST_BOXES) f->taken[f->n_taken++] = b;
}

static bool is_free(const roof *f, box b) {
    if (b.x < SVG_LEFT || b.x + b.w > SVG_WIDTH - RIGHT || b.y < f->top || b.y + b.h > f->top + PLOT) return false;
    for (int i = 0; i < f->n_taken; i++) {
        const box *o = &f->taken[i];
        if (b.x < o->x + o->w && o->x < b.x + b.w && b.y < o->y + o->h && o->y < b.y + b.h) return false;
    }
    return true;
}

/* The number of a point: beside it if there is room, else further off with a line to it. */
static void place_number(roof *f, double x, double y, int number, const char *stroke, buf *out) {
    double w = number < 10 ? 8 : number < 100 ? 15 : 22, h = 12;
    for (int ring = 0; ring < 12; ring++)
        for (int turn = 0; turn < 16; turn++) {
            double angle = (turn % 2 ? -1 : 1) * ((turn + 1) / 2) * 0.3927 - 0.3927, far = 11 + 9 * ring;
            box b = { x + far * cos(angle) - w / 2, y + far * sin(angle) - h / 2, w, h };
            if (!is_free(f, b)) continue;
            take(f, b);
            if (ring)
                buf_fmt(out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"0.7\"/>", x, y,
                        x + (far - 6) * cos(angle), y + (far - 6) * sin(angle), stroke);
            buf_fmt(out, "<text class=\"small\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%d</text>\n", b.x + w / 2, b.y + h - 2, number);
            return;
        }
}

/* ---- axes and ceilings ---- */

static void set_extents(const bench_report *r, roof *f) {
    double least_x = INFINITY, most_x = 0, least_y = INFINITY, most_y = 0;
    for (int i = 0; i < r->n_rows; i++) {
        least_x = fmin(least_x, intensity(&r->rows[i]));
        most_x = fmax(most_x, intensity(&r->rows[i]));
        least_y = fmin(least_y, speed(&r->rows[i]));
    }
    for (int i = 0; i < r->n_subjects; i++) {
        const bench_subject *s = &r->subjects[i];
        double peak = fmax(fmax(s->limits.int8, s->limits.bf16), s->limits.f32), corner = bench_peak(r, s) / bench_read_limit(s);
        most_x = fmax(most_x, 4 * corner);
        least_x = fmin(least_x, corner / 4);
        most_y = fmax(most_y, peak / 1e9);
        least_y = fmin(least_y, least_x * bench_read_limit(s) / 1e9);
    }
    f->low_x = floor(log10(least_x));
    f->high_x = ceil(log10(most_x));
    f->low_y = floor(log10(least_y / 2)); /* so that two powers of ten stand on the axis */
    f->high_y = log10(most_y * 1.7); /* room for the name of the highest ceiling */
}

static void draw_axes(const roof *f, buf *out) {
    for (int i = (int)f->low_x; i <= (int)f->high_x; i++) {
        double x = x_at(f, pow(10, i));
        buf_fmt(out,
                "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/><text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.10g</text>\n",
                x, x, f->top, f->top + PLOT, x, f->top + PLOT + 18, pow(10, i));
    }
    for (int i = (int)f->low_y; (double)i <= f->high_y; i++) {
        double y = y_at(f, pow(10, i));
        buf_fmt(out,
                "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.10g</text>\n",
                SVG_LEFT, SVG_WIDTH - RIGHT, y, y, SVG_LEFT - 8, y + 4, pow(10, i));
    }
    buf_fmt(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">operations a byte read</text>\n", (SVG_LEFT + SVG_WIDTH - RIGHT) / 2,
            f->top + PLOT + 36);
}

/* From the axes' lower edge along memory's slope to the peak, and on: what a row with so many operations a byte could reach. */
static void draw_roof(const roof *f, double read, double peak, const char *class, buf *out) {
    double left = fmax(pow(10, f->low_x), pow(10, f->low_y) * 1e9 / read), corner = peak / read;
    buf_fmt(out, "<polyline class=\"%s\" points=\"%.1f,%.1f %.1f,%.1f %d,%.1f\"/>\n", class, x_at(f, left), y_at(f, left * read / 1e9),
            x_at(f, corner), y_at(f, peak / 1e9), SVG_WIDTH - RIGHT, y_at(f, peak / 1e9));
}

/* A ceiling's name stands over its right end, or further left where there is room. */
static void name_ceiling(roof *f, const char *name, double peak, const char *class, buf *out) {
    char text[64];
    snprintf(text, sizeof text, "%s %.0f Gop/s", name, peak / 1e9);
    box b = { .w = 6.3 * (double)strlen(text), .h = 14, .y = y_at(f, peak / 1e9) - 16 };
    for (b.x = SVG_WIDTH - RIGHT - b.w - 3; b.x > SVG_LEFT; b.x -= 20)
        if (is_free(f, b)) break;
    take(f, b);
    buf_fmt(out, "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\">%s</text>\n", class, b.x, b.y + 12, text);
}

/* Along the slope, above it, where no point is. */
static void name_slope(roof *f, double read, double peak, buf *out) {
    double low = log10(fmax(pow(10, f->low_x), pow(10, f->low_y) * 1e9 / read)), high = log10(peak / read), x = 0, y = 0;
    double width = SVG_WIDTH - SVG_LEFT - RIGHT, slope = atan2(PLOT / (f->high_y - f->low_y), width / (f->high_x - f->low_x));
    for (int i = 0; i < 9; i++) {
        double at = pow(10, low + (high - low) * (0.5 + (i % 2 ? -0.05 : 0.05) * i));
        x = x_at(f, at) - 9 * sin(slope);
        y = y_at(f, at * read / 1e9) - 9 * cos(slope);
        box b = { x - 30 * cos(slope), y - 30 * sin(slope) - 4, 60 * cos(slope), 60 * sin(slope) + 8 };
        if (!is_free(f, b) && i < 8) continue;
        take(f, b);
        break;
    }
    buf_fmt(out, "<text class=\"small\" text-anchor=\"middle\" transform=\"translate(%.1f %.1f) rotate(%.1f)\">%.1f GB/s</text>\n", x, y,
            -slope * 57.29578, read / 1e9);
}

static void draw_ceilings(const bench_report *r, roof *f, buf *out) {
    const limits *l = &r->subjects[0].limits;
    const struct {
        const char *name;
        double peak;
    } peaks[] = { { "int8", l->int8 }, { "bf16", l->bf16 }, { "f32", l->f32 } };
    const bench_subject *s = &r->subjects[0];
    for (int i = 1; i < r->n_subjects; i++) draw_roof(f, bench_read_limit(&r->subjects[i]), bench_peak(r, &r->subjects[i]), "other", out);
    for (int i = 0; i < 3; i++) {
        bool own = strcmp(peaks[i].name, bench_peak_name(r, s)) == 0;
        if (!own) draw_roof(f, bench_read_limit(s), peaks[i].peak, "other", out);
        name_ceiling(f, peaks[i].name, peaks[i].peak, own ? "small" : "faint", out);
    }
    draw_roof(f, bench_read_limit(s), bench_peak(r, s), "roof", out);
    name_slope(f, bench_read_limit(s), bench_peak(r, s), out);
}

/* ---- points ---- */

/* Before any word is placed. */
static void take_points(const bench_report *r, roof *f) {
    for (int i = 0; i < r->n_rows; i++) {
        double x = x_at(f, intensity(&r->rows[i])), y = y_at(f, speed(&r->rows[i]));
        take(f, (box){ x - 5, y - 5, 10, 10 });
    }
}

static void draw_points(const bench_report *r, roof *f, buf *out) {
    for (int i = 0; i < r->n_rows; i++) {
        const bench_row *row = &r->rows[i];
        double x = x_at(f, intensity(row)), y = y_at(f, speed(row));
        const char *fill = svg_colour(r->n_subjects > 1 ? row->subject : (int)row->kind);
        buf_fmt(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\" stroke=\"#fff\"/>", x, y, fill);
        place_number(f, x, y, i + 1, fill, out);
    }
}

/* In columns. Returns the height used. */
static int draw_list(const bench_report *r, int top, buf *out) {
    int lines = (r->n_rows + COLUMNS - 1) / COLUMNS, wide = (SVG_WIDTH - SVG_LEFT - RIGHT + 20) / COLUMNS;
    for (int i = 0; i < r->n_rows; i++) {
        const bench_row *row = &r->rows[i];
        char name[32];
        int x = SVG_LEFT + i / lines * wide, y = top + i % lines * LEGEND;
        bench_row_name(row, name);
        buf_fmt(out, "<circle cx=\"%d\" cy=\"%d\" r=\"4\" fill=\"%s\"/><text class=\"small\" x=\"%d\" y=\"%d\">%d  %s", x, y,
                svg_colour(r->n_subjects > 1 ? row->subject : (int)row->kind), x + 10, y + 4, i + 1, name);
        if (row->depth) buf_fmt(out, " depth %d", row->depth);
        if (row->batch > 1) buf_fmt(out, " batch %d", row->batch);
        if (r->n_subjects > 1) buf_fmt(out, ", %c", 'A' + row->subject);
        buf_str(out, "</text>\n");
    }
    return lines * LEGEND;
}

int svg_roofline(const bench_report *r, int top, buf *out) {
    roof f = { .top = top + 30 };
    if (r->n_rows == 0) return 0;
    set_extents(r, &f);
    buf_fmt(out, "<text class=\"head\" x=\"%d\" y=\"%d\">roofline: Gop/s of the matrices against operations a byte</text>\n", SVG_LEFT, top + 14);
    draw_axes(&f, out);
    take_points(r, &f);
    draw_ceilings(r, &f, out);
    draw_points(r, &f, out);
    return 30 + PLOT + GAP + draw_list(r, f.top + PLOT + GAP, out) + 24;
}
