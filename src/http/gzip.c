/*
 * gzip for replies.
 *
 * Level 1 and a window of 8 KiB: what is compressed here is JSON of some kilobytes, written once and sent once, so time and
 * memory count and the last percent does not. Files of the page are compressed when the program is built (tools/embed-web).
 * Streams are never compressed: a delta must leave at once, and zlib holds bytes back.
 */
#include "http/gzip.h"

#include <string.h>
#include <strings.h>
#include <zlib.h>

#include "base/mem.h"

/* ---- Accept-Encoding ---- */

/* Is the weight after a name ("", ";q=0.5") above zero? */
static bool weighs(const char *at, size_t len) {
    const char *end = at + len;
    while (at < end && (*at == ' ' || *at == '\t')) at++;
    if (at == end) return true;
    if (*at++ != ';') return false;
    while (at < end && (*at == ' ' || *at == '\t')) at++;
    if (end - at < 3 || (at[0] != 'q' && at[0] != 'Q') || at[1] != '=') return false;
    for (at += 2; at < end && (*at == '0' || *at == '.'); at++) {
    }
    return at < end && *at >= '1' && *at <= '9';
}

bool pr_http_gzip_accepted(const char *field) {
    bool any = false;
    while (field && *field) {
        field += strspn(field, " \t,");
        size_t len = strcspn(field, ","), name = strcspn(field, ",; \t");
        bool gzip = (name == 4 && strncasecmp(field, "gzip", 4) == 0) ||
                    (name == 6 && strncasecmp(field, "x-gzip", 6) == 0);
        bool yes = weighs(field + name, len - name);
        if (gzip) return yes;
        if (name == 1 && *field == '*') any = yes;
        field += len;
    }
    return any;
}

bool pr_http_gzip_worth(const char *type, size_t len) {
    enum { LEAST = 1024 };
    if (!type || len < LEAST || len > UINT32_MAX / 2) return false;
    if (strncmp(type, "application/json", 16) == 0) return true;
    return strncmp(type, "text/", 5) == 0 && strncmp(type, "text/event-stream", 17) != 0;
}

/* ---- compressing ---- */

static void *take(void *arg, unsigned count, unsigned size) {
    (void)arg;
    return pr_calloc(PR_TAG_HTTP, count, size);
}

static void give(void *arg, void *p) {
    (void)arg;
    pr_free(p);
}

pr_status pr_http_gzip(const void *data, size_t len, void **out, size_t *out_len) {
    enum { LEVEL = 1, WINDOW_BITS = 13 + 16 /* with gzip's frame */, MEM_LEVEL = 7 };
    z_stream z = {.zalloc = take, .zfree = give};
    pr_status status = PR_ERR_NOMEM;
    void *room = pr_alloc(PR_TAG_HTTP, len);
    *out = NULL;
    if (!room) return PR_ERR_NOMEM;
    if (deflateInit2(&z, LEVEL, Z_DEFLATED, WINDOW_BITS, MEM_LEVEL, Z_DEFAULT_STRATEGY) == Z_OK) {
        z.next_in = (Bytef *)(uintptr_t)data; /* only read */
        z.avail_in = (uInt)len;
        z.next_out = room;
        z.avail_out = (uInt)len;
        status = deflate(&z, Z_FINISH) == Z_STREAM_END ? PR_OK : PR_ERR_LIMIT;
        *out_len = z.total_out;
        deflateEnd(&z);
    }
    if (status) pr_free(room);
    else *out = room;
    return status;
}
