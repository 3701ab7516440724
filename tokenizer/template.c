/* template: what the program's users see: compiling, and one rendering from its beginning to its end; its limits and its failures.
 * It must not know statements or filters. */
#include "tokenizer/template.h"

#include <stdarg.h>
#include <stdlib.h>

#include "tokenizer/template_parts.h"
#include "tokenizer/unicode.h"

/* ---- failing, and what is counted ---- */

PRINTF_LIKE(3, 0) static _Noreturn void leave(struct run *r, int code, const char *fmt, va_list args) {
    char what[512];
    unsigned line, column;
    template_place(r->t, r->at, &line, &column);
    vsnprintf(what, sizeof what, fmt, args);
    fail_code(r->e, code, "the chat template, line %u: %s%s", line, what, code == ERR_TEMPLATE_LIMIT ? ": more than a template may use" : "");
    longjmp(r->fail, 1);
}

_Noreturn void run_fail(struct run *r, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    leave(r, ERR_INPUT, fmt, args);
}

_Noreturn void run_limit(struct run *r, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    leave(r, ERR_TEMPLATE_LIMIT, fmt, args);
}

void *take(struct run *r, size_t bytes) {
    void *p = arena_alloc(&r->mem, bytes);
    if (p) return p;
    if (bytes < r->o.max_memory && r->mem.used + bytes < r->o.max_memory) {
        fail_memory(r->e, bytes, "a chat template");
        longjmp(r->fail, 1);
    }
    run_limit(r, "%zu MiB of memory", r->o.max_memory >> 20);
}

void tick(struct run *r, size_t steps) {
    r->steps += steps;
    if (r->steps > r->o.max_steps) run_limit(r, "%llu steps", (unsigned long long)r->o.max_steps);
}

void enter(struct run *r) {
    if (++r->depth > MAX_DEPTH) run_limit(r, "%d levels deep", MAX_DEPTH);
}

/* ---- compiling ---- */

void template_place(const struct template *t, size_t at, unsigned *line, unsigned *column) {
    *line = *column = 1;
    for (size_t i = 0; i < at && i < t->n; i++) {
        if (t->source[i] == '\n') ++*line, *column = 1;
        else if (((uint8_t)t->source[i] & 0xc0) != 0x80) ++*column;
    }
}

enum { MAX_TEMPLATE = 4 << 20 };

/* Line ends become \n, and one at the very end is dropped, as Jinja does. */
static char *normalized(const char *text, size_t n, struct template *t) {
    char *s = arena_alloc(&t->mem, n + 1);
    if (!s) return NULL;
    for (size_t i = 0; i < n; i++) {
        bool pair = text[i] == '\r' && i + 1 < n && text[i + 1] == '\n';
        s[t->n++] = text[i] == '\r' ? '\n' : text[i];
        i += pair;
    }
    if (t->n && s[t->n - 1] == '\n') t->n--;
    s[t->n] = 0;
    return s;
}

int template_compile(template **out, const char *text, size_t n, err *e) {
    jmp_buf fail_here;
    *out = NULL;
    if (n > MAX_TEMPLATE) return fail_code(e, ERR_INPUT, "the chat template has %zu bytes, at most %d are read", n, MAX_TEMPLATE);
    if (n && !utf8_valid(text, n)) return fail_code(e, ERR_INPUT, "the chat template is not UTF-8");
    template *const t = calloc(1, sizeof *t);
    if (!t || !(t->source = normalized(text, n, t))) {
        template_free(t);
        return fail_memory(e, n, "a chat template");
    }
    if (setjmp(fail_here)) {
        template_free(t);
        return -1;
    }
    parse_template(t, &fail_here, e);
    *out = t;
    return 0;
}

void template_free(template *t) {
    if (!t) return;
    arena_free(&t->mem);
    free(t);
}

/* ---- rendering ---- */

enum { STEPS = 50000000, MEMORY = 256 << 20, OUTPUT = 64 << 20 };

static size_t size_of_json(const json *j) {
    size_t n = 1 + (j->type == JSON_STRING || j->type == JSON_NUMBER ? j->n : 0) + j->key_n;
    for (const json *k = j->type == JSON_ARRAY || j->type == JSON_OBJECT ? j->child : NULL; k; k = k->next) n += size_of_json(k);
    return n;
}

/* The names that the template mentions become variables; the others it cannot see. */
static void add_variables(struct run *r, struct scope *s, const json *vars, bool user) {
    for (const json *j = vars && vars->type == JSON_OBJECT ? vars->child : NULL; j; j = j->next) {
        const struct name *x = template_name(r->t, j->key, j->key_n);
        struct binding *b;
        if (!x) continue;
        value v = value_of_json(r, j, user);
        for (b = s->first; b && b->name != x;) b = b->next;
        if (!b) {
            b = take(r, sizeof *b);
            *b = (struct binding){ x, NONE, s->first };
            s->first = b;
        }
        b->v = v;
    }
}

static int give_ranges(const struct marks *from, text_ranges *to, err *e) {
    if (!to) return 0;
    *to = (text_ranges){ .p = malloc(from->n * sizeof *to->p + 1), .n = from->n };
    if (!to->p) return fail_memory(e, from->n * sizeof *to->p, "a chat's ranges");
    if (from->n) memcpy(to->p, from->p, from->n * sizeof *to->p);
    return 0;
}

static int give(struct run *r, buf *out, text_ranges *user, text_ranges *generation) {
    size_t before = out->n;
    buf_add(out, r->page->n ? r->page->p : "", r->page->n);
    if (out->failed) return fail_memory(r->e, r->page->n, "a rendered chat");
    if (give_ranges(&r->page->user, user, r->e) == 0 && give_ranges(&r->generation, generation, r->e) == 0) return 0;
    out->n = before;
    if (user) text_ranges_free(user);
    return -1;
}

int template_render_with(const template *t, const json *vars, const template_opts *o, buf *out, text_ranges *user, text_ranges *generation, err *e) {
    struct run *const r = calloc(1, sizeof *r);
    if (user) *user = (text_ranges){ 0 };
    if (generation) *generation = (text_ranges){ 0 };
    if (!r) return fail_memory(e, sizeof *r, "a chat template");
    r->t = t;
    r->e = e;
    if (o) r->o = *o;
    if (!r->o.max_steps) r->o.max_steps = STEPS;
    if (!r->o.max_memory) r->o.max_memory = MEMORY + (vars ? 32 * size_of_json(vars) : 0);
    if (!r->o.max_output) r->o.max_output = OUTPUT;
    r->mem.limit = r->o.max_memory;
    if (!setjmp(r->fail)) {
        struct scope *root = take(r, sizeof *root);
        r->out = r->page = take(r, sizeof *r->page);
        add_variables(r, root, r->o.trusted, false);
        add_variables(r, root, vars, true);
        exec(r, root, t->body);
        r->done = give(r, out, user, generation) == 0;
    }
    int rc = r->done ? 0 : -1;
    arena_free(&r->mem);
    free(r);
    return rc;
}

int template_render(const template *t, const json *vars, buf *out, err *e) { return template_render_with(t, vars, NULL, out, NULL, NULL, e); }

void text_ranges_free(text_ranges *r) {
    free(r->p);
    *r = (text_ranges){ 0 };
}
