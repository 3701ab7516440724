/* log: one line a request on stderr: text, or with --log json one object. */
#ifndef QUERN_SERVE_LOG_H
#define QUERN_SERVE_LOG_H

#include "tools/serve/request.h"

void log_request(const request *q, int status, size_t bytes);
void log_line(const server *s, const char *fmt, ...) PRINTF_LIKE(2, 3); /* of the server's own life */

#endif
