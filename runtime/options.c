/* options: parses a command line by a table (options.h). It prints, because only main uses it; it must not know what any
 * option means. */
#include "runtime/options.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

int usage_error(const program *p, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "%s: ", p->name);
    vfprintf(stderr, fmt, args);
    fprintf(stderr, " (%s --help lists the options)\n", p->name);
    va_end(args);
    return EXIT_USAGE;
}

static void print_help(const program *p) {
    printf("usage: %s %s\n\n%s\n\noptions:\n", p->name, p->usage, p->about);
    for (int i = 0; i < p->n_options; i++) {
        const option *o = &p->options[i];
        char left[64];
        snprintf(left, sizeof left, "%s%s%s%s%s", o->alias ? o->alias : "", o->alias ? ", " : "", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
        printf("  %-28s %s\n", left, o->help);
    }
    printf("  %-28s %s\n  %-28s %s\n", "--help", "this text", "--version", "the version");
}

static int set_int(const program *p, const option *o, const char *text) {
    char *end;
    errno = 0;
    long v = strtol(text, &end, 10);
    if (end == text || *end || errno || v < INT32_MIN || v > INT32_MAX)
        return usage_error(p, "%s: expected a whole number, found \"%s\"", o->name, text);
    *(int *)o->value = (int)v;
    return OPTIONS_GO_ON;
}

static int set_seed(const program *p, const option *o, const char *text) {
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (end == text || *end || errno || strchr(text, '-')) return usage_error(p, "%s: expected a whole number from 0, found \"%s\"", o->name, text);
    *(uint64_t *)o->value = v;
    return OPTIONS_GO_ON;
}

static int set_float(const program *p, const option *o, const char *text) {
    char *end;
    float v = strtof(text, &end);
    if (end == text || *end || v != v) return usage_error(p, "%s: expected a number, found \"%s\"", o->name, text);
    *(float *)o->value = v;
    return OPTIONS_GO_ON;
}

static int set_value(const program *p, const option *o, const char *text) {
    texts *list = o->value;
    switch (o->type) {
    case OPT_INT: return set_int(p, o, text);
    case OPT_SEED: return set_seed(p, o, text);
    case OPT_FLOAT: return set_float(p, o, text);
    case OPT_TEXT: *(const char **)o->value = text; return OPTIONS_GO_ON;
    case OPT_TEXTS:
        if (list->n == (int)(sizeof list->p / sizeof *list->p)) return usage_error(p, "%s: at most %d times", o->name, list->n);
        list->p[list->n++] = text;
        return OPTIONS_GO_ON;
    case OPT_FLAG: *(bool *)o->value = true; return OPTIONS_GO_ON;
    }
    return OPTIONS_GO_ON;
}

static const option *find(const program *p, const char *word, size_t n) {
    for (int i = 0; i < p->n_options; i++) {
        const option *o = &p->options[i];
        if (strlen(o->name) == n && memcmp(o->name, word, n) == 0) return o;
        if (o->alias && strlen(o->alias) == n && memcmp(o->alias, word, n) == 0) return o;
    }
    return NULL;
}

/* The option at argv[*i], with its value; *i moves past what was used. */
static int parse_one(const program *p, int argc, char **argv, int *i) {
    const char *word = argv[*i], *equals = strncmp(word, "--", 2) == 0 ? strchr(word, '=') : NULL;
    const option *o = find(p, word, equals ? (size_t)(equals - word) : strlen(word));
    if (!o) return usage_error(p, "unknown option %s", word);
    if (o->type == OPT_FLAG && equals) return usage_error(p, "%s takes no value", o->name);
    const char *text = equals ? equals + 1 : "";
    if (o->type != OPT_FLAG && !equals) {
        if (++*i == argc) return usage_error(p, "%s: a value is missing: %s", word, o->arg);
        text = argv[*i];
    }
    ++*i;
    if (o->given) *o->given = true;
    return set_value(p, o, text);
}

int options_parse(const program *p, int argc, char **argv, const char **words, int max_words, int *n_words) {
    bool options = true;
    *n_words = 0;
    for (int i = 1; i < argc;) {
        const char *word = argv[i];
        int rc = OPTIONS_GO_ON;
        if (options && strcmp(word, "--") == 0) options = false, i++;
        else if (options && (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)) return print_help(p), 0;
        else if (options && strcmp(word, "--version") == 0) return printf("quern %s %s\n", p->name, QUERN_VERSION), 0;
        else if (options && word[0] == '-' && word[1]) rc = parse_one(p, argc, argv, &i);
        else if (*n_words == max_words) rc = usage_error(p, "unexpected word \"%s\"", word);
        else words[(*n_words)++] = word, i++;
        if (rc != OPTIONS_GO_ON) return rc;
    }
    return OPTIONS_GO_ON;
}
