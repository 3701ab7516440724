/* page: the one HTML file that the server shows at /, as bytes in the program. The build makes the definition out of page.html. */
#ifndef QUERN_SERVE_PAGE_H
#define QUERN_SERVE_PAGE_H

#include <stddef.h>

extern const char page_html[]; /* UTF-8; a zero follows, which page_html_n does not count */
extern const size_t page_html_n;

/* Headers for its reply, beside Content-Type: text/html; charset=utf-8. The page carries the rest of its policy itself, with the hashes of
 * its script and style; what may frame it can only be said here. It is not kept: the next version's page must not be an old one. */
#define PAGE_HEADERS                                                                                                    \
    "Content-Security-Policy: frame-ancestors 'none'\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n" \
    "Cache-Control: no-cache\r\nVary: Accept\r\n"

#endif
