/* certificate: what a conversion lost, measured by convert and kept in the file's records info.certificate.*, which readers may
 * pass over. It knows how the numbers are stored and printed; how they are measured stands in tools/convert/certify.c. */
#ifndef QUERN_CERTIFICATE_H
#define QUERN_CERTIFICATE_H

#include "weights/file.h"

enum { CERTIFICATE_VERSION = 1, CERTIFICATE_LAYERS = 2048 };

/* The file's predictions beside the checkpoint's own in f32, over the rows that have a next token. */
typedef struct certificate_score {
    int64_t rows, flips; /* rows 0: none, the model has no output matrix; flips: the likeliest token is another */
    double kl, kl_max;   /* Kullback-Leibler divergence of a row in nats: the mean, the largest */
} certificate_score;

typedef struct certificate {
    char by[32];                       /* "quern 0.1.0" */
    char prompt[64];                   /* what was run: "text 1" or "ids 1", built in */
    int64_t tokens;                    /* of it */
    int n_layers;                      /* the encoder's first */
    double layers[CERTIFICATE_LAYERS]; /* of each layer's output: RMS of the difference over RMS of the checkpoint's */
    double hidden;                     /* the same after the final norm */
    certificate_score fixed;           /* over the built-in prompt */
    uint64_t text_hash;                /* XXH64 of a given text's bytes */
    int64_t text_tokens;               /* that were run; 0: no text was given */
    certificate_score text;
    double perplexity, perplexity_ref; /* of the text: this file's, the checkpoint's */
} certificate;

void certificate_write(const certificate *c, buf *records); /* its size depends on n_layers, the strings, and whether there is a text */
/* 1, 0: the file has none, or -1 with the reason: one that this version cannot read. */
int certificate_read(certificate *c, const file *f, err *e);
void certificate_print(const certificate *c, FILE *out); /* for inspect */
void certificate_line(const certificate *c, FILE *out);  /* in one line, for convert */
bool certificate_record(const record *r);                /* is it one of these? */

#endif
