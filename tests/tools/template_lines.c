/* template_lines: one {"template": ..., "vars": {...}} a line in, {"out": ..., "user": [[begin, end], ...]} or {"error": ..., "code": ...}
 * a line out, for tests/tools/template_diff.py. The time is always 2026-11-21 13:05:09. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "tokenizer/template.h"

static void answer(const json *line) {
    static const struct tm now = { .tm_year = 126, .tm_mon = 10, .tm_mday = 21, .tm_hour = 13, .tm_min = 5, .tm_sec = 9,
                                   .tm_wday = 6, .tm_yday = 324 };
    const json *text = json_get(line, "template"), *vars = json_get(line, "vars");
    template_opts o = { .now = &now };
    template *t = NULL;
    text_ranges user = { 0 };
    buf out = { 0 }, all = { 0 };
    err e = { 0 };
    int rc = template_compile(&t, text->s, text->n, &e);
    const char *when = rc ? "compile" : "render";
    if (!rc) rc = template_render_with(t, vars, &o, &out, &user, NULL, &e);
    buf_str(&all, rc ? "{\"error\":" : "{\"out\":");
    buf_json(&all, rc ? e.msg : out.p ? out.p : "", rc ? strlen(e.msg) : out.n);
    if (rc) buf_fmt(&all, ",\"when\":\"%s\",\"code\":%d}\n", when, e.code);
    else {
        buf_str(&all, ",\"user\":[");
        for (size_t i = 0; i < user.n; i++) buf_fmt(&all, "%s[%zu,%zu]", i ? "," : "", user.p[i].begin, user.p[i].end);
        buf_str(&all, "]}\n");
    }
    fwrite(all.p, 1, all.n, stdout);
    fflush(stdout);
    template_free(t);
    text_ranges_free(&user);
    buf_free(&out);
    buf_free(&all);
}

int main(void) {
    char *line = NULL;
    size_t cap = 0;
    for (ssize_t n; (n = getline(&line, &cap, stdin)) > 0;) {
        arena a = { 0 };
        json *j;
        err e = { 0 };
        if (json_parse(&a, line, (size_t)n, &j, &e)) return fprintf(stderr, "%s\n", e.msg), 1;
        answer(j);
        arena_free(&a);
    }
    free(line);
    return 0;
}
