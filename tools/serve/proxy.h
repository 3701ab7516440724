/* proxy: who asks when a proxy asks for him: X-Forwarded-For, believed from the proxies that were named, and from nobody else. */
#ifndef QUERN_SERVE_PROXY_H
#define QUERN_SERVE_PROXY_H

#include "tools/serve/http.h"

enum { PROXY_MOST = 64, PROXY_ADDRESS = 46 }; /* 46: INET6_ADDRSTRLEN */

typedef struct proxies {
    struct {
        unsigned char address[16]; /* IPv4 as ::ffff:a.b.c.d */
        int bits;                  /* that must agree, 0 to 128 */
    } p[PROXY_MOST];
    int n;
} proxies;

/* Adds "10.0.0.1,fd00::/8,...": addresses, or nets with the number of their leading bits. */
int proxies_add(proxies *v, const char *list, err *e);

typedef enum forwarded { FORWARDED_NOT, FORWARDED_CLIENT, FORWARDED_BAD } forwarded;

/* client: peer; or, where peer is a trusted proxy that says for whom it asks, the right-most address that is none of the trusted ones' (the
 * left-most, if all are). FORWARDED_BAD: what it says is no address, bad has it, shortened; client is peer. */
forwarded proxies_client(const proxies *v, const http_request *r, char client[PROXY_ADDRESS], char bad[64]);

#endif
