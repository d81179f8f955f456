/*
 * The web page: files that anybody may have, since they hold nothing but the program's own text.
 *
 * What the page may do is said by its Content-Security-Policy: scripts, styles and requests of this server only, nothing
 * inline, and no text becomes markup or a script (trusted types), so that what a model writes can be nothing but text.
 */
#include "api/handlers.h"

#include <string.h>

#include "api/web_files.h"

static const pr_http_header guards[] = {
    {"Content-Security-Policy",
     "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
     "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types "
     "'none'"},
    {"Referrer-Policy", "no-referrer"},
    {"Cross-Origin-Opener-Policy", "same-origin"},
    {"Cross-Origin-Resource-Policy", "same-origin"},
    {"Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"},
};

static void send_file(pr_http_req *req, const char *name) {
    for (size_t i = 0; i < pr__web_files_count; i++) {
        const pr__web_file *f = &pr__web_files[i];
        if (strcmp(f->name, name) != 0) continue;
        pr_http_asset asset = {f->type, f->etag,     f->data, f->len,
                               f->gzip, f->gzip_len, guards,  sizeof guards / sizeof *guards};
        pr_http_reply_asset(req, &asset);
        return;
    }
    pr_http_error(req, 404, "not_found", NULL, 0, "the page has no such file");
}

static void page(pr_http_req *req, void *arg) {
    (void)arg;
    send_file(req, "index.html");
}

static void page_file(pr_http_req *req, void *arg) {
    (void)arg;
    send_file(req, pr_http_req_param(req));
}

size_t pr__page_routes(pr_http_route *out) {
    out[0] = (pr_http_route){"GET", "/", page, NULL, 0, PR_HTTP_OPEN};
    out[1] = (pr_http_route){"GET", "/web/{file}", page_file, NULL, 0, PR_HTTP_OPEN};
    return 2;
}
