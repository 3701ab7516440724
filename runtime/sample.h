/* sample: from logits to the next token. Filters in llama.cpp's order: penalties and bias, what may not come (repeated n-grams, an
 * end too early), top-k, typical, top-p, min-p, temperature, then a draw. Nothing sorts the vocabulary: selection, heaps and
 * thresholds. It knows no text and no model. */
#ifndef QUERN_SAMPLE_H
#define QUERN_SAMPLE_H

#include "runtime/base.h"

typedef struct logit_bias {
    int32_t id;
    float bias; /* added; -INFINITY forbids */
} logit_bias;

typedef struct sample_opts {
    float temperature;       /* 0: the most likely token, always */
    int top_k;               /* keep the k most likely; 0: all */
    float top_p;             /* keep the fewest whose probabilities reach p; 1: all */
    float min_p;             /* keep those at least p times as likely as the likeliest; 0: all */
    float typical_p;         /* keep the fewest, nearest to the entropy first, that reach p; 1: all (Meister et al. 2022) */
    float repeat_penalty;    /* logits of recent tokens: / when positive, x when negative; 1: none (Keskar et al. 2019) */
    float frequency_penalty; /* subtracted for each recent occurrence; 0: none */
    float presence_penalty;  /* subtracted once for a recent token; 0: none */
    int repeat_last_n;       /* how many tokens are recent; 0: none, -1: all */
    int no_repeat_ngram;     /* no run of so many tokens comes twice, the prompt's included; 0: any may (Paulus et al. 2017) */
    int min_length;          /* none of eos before the answer has so many tokens; 0: any time */
    uint64_t seed;
    const logit_bias *bias;  /* [n_bias] copied */
    int n_bias;
    const int32_t *eos;      /* [n_eos] copied; ids that the vocabulary lacks are passed over */
    int n_eos;
} sample_opts;

sample_opts sample_defaults(void); /* temperature 0.8, top-k 40, top-p 0.95, no penalties, 64 recent tokens, seed 0 */
int sample_check(const sample_opts *o, err *e); /* names the option that is out of range */
uint64_t sample_random_seed(void);

typedef struct sampler sampler;
int sampler_new(sampler **s, const sample_opts *o, int n_vocab, err *e);
void sampler_free(sampler *s);
void sampler_accept(sampler *s, int32_t id);               /* a token of the prompt or the answer: what looks back sees it */
void sampler_begin(sampler *s);                            /* the answer begins: min_length counts the tokens from here on */
int32_t sampler_pick(sampler *s, const float *logits);     /* [n_vocab]; -1: they hold a NaN, or every token is forbidden */

/* The filters that look back, in place on one row [n_vocab] of logits or of log-probabilities: penalties, bias, n-grams, least
 * length; -INFINITY forbids. tok[0 .. n): the prompt and the answer, the last n_answer of them the answer. count: [n_vocab] zeros,
 * and zeros again afterwards. A sampler does this itself; a beam search does it for each of its hypotheses. */
void sample_look_back(const sample_opts *o, const int32_t *tok, int n, int n_answer, float *row, int n_vocab, int *count);

/* The natural logarithm of softmax(logits)[id]; double, two passes. */
double sample_logprob(const float *logits, int n_vocab, int32_t id);
/* Kullback-Leibler divergence KL(softmax p || softmax q) of two rows of logits, in nats. */
double sample_divergence(const float *p, const float *q, int n_vocab);
/* The same of rows that come in pieces, the columns in order; zeros at first. The likeliest of each too. */
typedef struct divergence {
    double max_p, sum_p, max_q, sum_q, dot; /* sums of exp(p - max_p), exp(q - max_q), exp(p - max_p) (p - q) */
    float top_p, top_q;
    int32_t best_p, best_q, n; /* the first of equals; columns so far */
    bool broken;               /* a NaN or a +infinity came */
} divergence;
void divergence_add(divergence *d, const float *p, const float *q, int n);
double divergence_kl(const divergence *d);
double divergence_log_p(const divergence *d); /* ln of the sum of exp(p), and of exp(q) */
double divergence_log_q(const divergence *d);
/* ln of the sum of exp(logits). */
double sample_logsumexp(const float *logits, int n_vocab);
int32_t sample_argmax(const float *logits, int n_vocab); /* the first of equals; -1 if there is a NaN */

#endif
