/* metrics: what /metrics counts beside the scheduler's figures, and its text. */
#ifndef QUERN_SERVE_METRICS_H
#define QUERN_SERVE_METRICS_H

#include "tools/serve/request.h"

struct metrics *metrics_new(void);
void metrics_free(struct metrics *m);
void metrics_request(struct metrics *m, int status, double seconds); /* m NULL: nothing */
void metrics_job(struct metrics *m, const request *q, const job_event *last);
void metrics_text(const server *s, buf *out); /* Prometheus' text format 0.0.4 */

#endif
