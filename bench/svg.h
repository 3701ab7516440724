/* svg: what the pictures of the benches share. One SVG without scripts, fonts or links, on a white ground. */
#ifndef QUERN_BENCH_SVG_H
#define QUERN_BENCH_SVG_H

#include <math.h>
#include <string.h>

#include "runtime/base.h"

static inline const char *svg_colour(int i) {
    static const char *const colours[] = { "#2f6fb0", "#c7631c", "#23845b", "#a24489", "#77791f", "#b93f3f", "#4d4da8", "#5d5d5d" };
    return colours[i % (int)(sizeof colours / sizeof *colours)];
}

/* Text that came from a file or a server: no markup, no control characters, well-formed UTF-8. */
static inline void svg_text(buf *out, const char *s) {
    size_t n = strlen(s);
    for (int len; n; s += len, n -= (size_t)len) {
        int32_t c = utf8_decode(s, n, &len);
        if (c < ' ' || c == 0xfffe || c == 0xffff) buf_byte(out, '?');
        else if (c == '<' || c == '>' || c == '&' || c == '"') buf_fmt(out, "&#%d;", (int)c);
        else buf_add(out, s, (size_t)len);
    }
}

/* The next of 1, 2, 5, 10, 20, ... that divides `most` into about four. */
static inline double svg_nice_step(double most) {
    double power = pow(10, floor(log10(most / 4))), q = most / 4 / power;
    return power * (q <= 1 ? 1 : q <= 2 ? 2 : q <= 5 ? 5 : 10);
}

/* The picture around a body, which it frees. */
static inline void svg_whole(buf *out, int width, int height, buf *body) {
    buf_fmt(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" "
            "font-size=\"12\">\n",
            width, height, width, height);
    buf_str(out, "<style>text{fill:#333}.head{font-size:14px;font-weight:bold}.small{font-size:11px}.grid{stroke:#ddd}"
                 ".roof{stroke:#333;stroke-width:1.6;fill:none}.other{stroke:#999;stroke-dasharray:4 3;fill:none}"
                 ".faint{fill:#777;font-size:11px}.whole{fill:#e6e6e6}</style>\n");
    buf_fmt(out, "<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n", width, height);
    if (body->failed) out->failed = true;
    else buf_add(out, body->p, body->n);
    buf_str(out, "</svg>\n");
    buf_free(body);
}

#endif
