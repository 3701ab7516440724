/* options: a table of command-line options makes the parser and --help. */
#ifndef QUERN_OPTIONS_H
#define QUERN_OPTIONS_H

#include "runtime/base.h"

typedef enum { OPT_FLAG, OPT_INT, OPT_SEED, OPT_FLOAT, OPT_TEXT, OPT_TEXTS } opt_type;

typedef struct texts { /* of an option that may be given several times */
    const char *p[32];
    int n;
} texts;

typedef struct option {
    const char *name;  /* "--threads" */
    const char *alias; /* "-t", or NULL */
    opt_type type;
    void *value;       /* bool, int, uint64_t, float, const char *, texts */
    const char *arg;   /* what stands for the value in --help; NULL for flags */
    const char *help;
    bool *given;       /* set when the option was used; may be NULL */
} option;

typedef struct program {
    const char *name, *usage; /* "run", "MODEL.bin [options]" */
    const char *about;        /* a sentence or two for --help */
    const option *options;
    int n_options;
} program;

enum { EXIT_USAGE = 2, OPTIONS_GO_ON = -1 };

/* Fills the values and up to max_words other words. Returns OPTIONS_GO_ON, or the status to exit with: 0 after --help and
 * --version, 2 after a mistake, which it has named on stderr. "--" ends the options; "--name=value" is understood. */
int options_parse(const program *p, int argc, char **argv, const char **words, int max_words, int *n_words);
int usage_error(const program *p, const char *fmt, ...) PRINTF_LIKE(2, 3); /* prints one line; returns 2 */

#endif
