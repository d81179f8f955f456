/*
 * Fetching files.
 *
 * libcurl moves the bytes; what it must not decide is decided here. Redirects
 * are followed by hand, one transfer each, because then a token can be tied to
 * the host it was given for by a comparison that anybody can read, and because
 * a step down from https can be refused. Nothing of a reply's body is written
 * before its status line was understood: an error page never lands in the part
 * file, and a server that ignores Range starts the part again instead of
 * appending a whole file to a half one.
 *
 * One attempt is: request, follow redirects, append what comes. Around it a
 * loop tries again from where the last attempt ended, when the failure is of
 * the kind that passes.
 */
#include "cmd/fetch.h"

#include <ctype.h>
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/os.h"
#include "base/str.h"
#include "cmd/digest.h"
#include "cmd/part.h"
#include "cmd/progress.h"
#include "cmd/term.h"
#include "store/model_file.h"

enum {
    REDIRECTS_MAX = 10,
    CONNECT_SECONDS = 20,
    SPARE_BYTES = 1 << 20,
    PROGRESS_BYTES = 1 << 20,
    NAME_BYTES_MAX = 200
};

/* What the headers of the reply in hand say. */
typedef struct reply {
    char etag[256];
    char modified[64];
    bool has_range;
    uint64_t range_from, range_total; /* total 0: unknown; of a 416 only the total */
} reply;

typedef struct fetch {
    const pr_fetch_ask *ask;
    CURL *curl;
    char *url;       /* of this transfer: the address asked for, or where it led */
    char shown[200]; /* the address without user, query and fragment: for messages and the note */
    pr_part part;
    reply head;
    bool body_begun; /* the reply's status allows its body to be written */
    uint64_t total;  /* of the whole file; 0: unknown */
    uint64_t resumed_at;
    char sha256[PR_SHA256_HEX]; /* asked for, or announced; "" none */
    curl_off_t moved_bytes;     /* of this transfer */
    double moved_at;            /* when it last grew */
    bool stalled;
    bool first_host; /* this transfer goes to the host of ask->url */
    pr_progress bar;
    pr_status status; /* failure inside a callback */
    pr_err *err;
} fetch;

/* How an attempt ended. */
typedef enum outcome {
    DONE,
    FAILED,  /* err says why; trying again would not help */
    PASSING, /* err says why; trying again may help */
    RESTART  /* the part does not belong to what the server has: begin at 0 */
} outcome;

/* ---- addresses ---- */

/* One part of a URL into *out, or NULL; curl_free() it. */
static bool url_part(const char *url, CURLUPart which, unsigned flags, char **out) {
    CURLU *u = curl_url();
    *out = NULL;
    if (u && curl_url_set(u, CURLUPART_URL, url, CURLU_NON_SUPPORT_SCHEME) == CURLUE_OK)
        curl_url_get(u, which, out, flags);
    curl_url_cleanup(u);
    return *out != NULL;
}

static bool same_part(const char *a, const char *b, CURLUPart which) {
    char *x, *y = NULL;
    bool same = url_part(a, which, CURLU_DEFAULT_PORT, &x) && url_part(b, which, CURLU_DEFAULT_PORT, &y) &&
                !strcasecmp(x, y);
    curl_free(x);
    curl_free(y);
    return same;
}

static bool same_host(const char *a, const char *b) {
    return same_part(a, b, CURLUPART_SCHEME) && same_part(a, b, CURLUPART_HOST) && same_part(a, b, CURLUPART_PORT);
}

static void show_url(const char *url, char *out, size_t len) {
    CURLU *u = curl_url();
    char *text = NULL;
    if (u && curl_url_set(u, CURLUPART_URL, url, CURLU_NON_SUPPORT_SCHEME) == CURLUE_OK) {
        curl_url_set(u, CURLUPART_USER, NULL, 0);
        curl_url_set(u, CURLUPART_PASSWORD, NULL, 0);
        curl_url_set(u, CURLUPART_QUERY, NULL, 0);
        curl_url_set(u, CURLUPART_FRAGMENT, NULL, 0);
        curl_url_get(u, CURLUPART_URL, &text, 0);
    }
    snprintf(out, len, "%s", text ? text : "the address");
    curl_free(text);
    curl_url_cleanup(u);
}

pr_status pr__fetch_clean_name(const char *name, char **out, pr_err *err) {
    char clean[NAME_BYTES_MAX + 1];
    size_t n = 0;
    *out = NULL;
    while (*name == '.' || *name == ' ') name++;
    for (; *name && n < NAME_BYTES_MAX; name++) {
        unsigned char c = (unsigned char)*name;
        clean[n++] = c < 0x20 || c == 0x7f || strchr("/\\:*?\"<>|", c) ? '_' : (char)c;
    }
    while (n > 0 && clean[n - 1] == ' ') n--;
    n = pr_utf8_complete(clean, n);
    clean[n] = '\0';
    if (n == 0) return pr_fail(err, PR_ERR_ARG, "no file name can be made of the address: give one with --name");
    *out = pr_strdup(PR_TAG_MISC, clean);
    return *out ? PR_OK : pr_fail_nomem(err, "a file name", n);
}

pr_status pr__fetch_name(const char *url, char **out, pr_err *err) {
    *out = NULL;
    char *path = NULL, *name = NULL;
    if (!url_part(url, CURLUPART_PATH, 0, &path)) return pr_fail(err, PR_ERR_ARG, "\"%.200s\" is not an address", url);
    const char *slash = strrchr(path, '/');
    name = curl_easy_unescape(NULL, slash ? slash + 1 : path, 0, NULL);
    pr_status status = name ? pr__fetch_clean_name(name, out, err) : pr_fail_nomem(err, "a file name", 0);
    curl_free(name);
    curl_free(path);
    return status;
}

/* ---- headers ---- */

/* The value of header `name` in line[len], trimmed, copied to out when it fits; false when it is another header. */
static bool header_is(const char *line, size_t len, const char *name, char *out, size_t out_len) {
    size_t n = strlen(name);
    if (len <= n || line[n] != ':' || strncasecmp(line, name, n) != 0) return false;
    const char *from = line + n + 1, *to = line + len;
    while (from < to && isspace((unsigned char)*from)) from++;
    while (to > from && isspace((unsigned char)to[-1])) to--;
    if ((size_t)(to - from) >= out_len) return false;
    memcpy(out, from, (size_t)(to - from));
    out[to - from] = '\0';
    return true;
}

/* "bytes 5-9/10"; a 416 has a star in place of "5-9". */
static void read_range(reply *head, const char *value) {
    const char *at = value;
    unsigned long long from = 0, total = 0;
    if (strncasecmp(at, "bytes ", 6) != 0) return;
    at += 6;
    char *end = NULL;
    if (*at != '*') from = strtoull(at, &end, 10);
    const char *slash = strchr(at, '/');
    if (slash && isdigit((unsigned char)slash[1])) total = strtoull(slash + 1, NULL, 10);
    head->has_range = *at == '*' || (end && end > at);
    head->range_from = from;
    head->range_total = total;
}

/* The checksum that model hubs announce as an entity tag of what they redirect to. */
static void read_linked_etag(fetch *f, const char *value) {
    size_t len = strlen(value);
    const char *hex = value;
    if (len >= 2 && value[0] == '"' && value[len - 1] == '"') {
        hex++;
        len -= 2;
    }
    if (f->sha256[0] || !f->first_host || !pr__sha256_is(hex, len)) return;
    memcpy(f->sha256, hex, len);
    f->sha256[len] = '\0';
}

static size_t on_header(char *line, size_t size, size_t count, void *arg) {
    fetch *f = arg;
    size_t len = size * count;
    char value[256];
    if (len >= 5 && !strncmp(line, "HTTP/", 5)) f->head = (reply){0}; /* a new reply: 100 Continue comes before 200 */
    if (header_is(line, len, "etag", value, sizeof value) && value[0] == '"') memcpy(f->head.etag, value, sizeof value);
    if (header_is(line, len, "last-modified", value, sizeof f->head.modified))
        memcpy(f->head.modified, value, sizeof f->head.modified);
    if (header_is(line, len, "content-range", value, sizeof value)) read_range(&f->head, value);
    if (header_is(line, len, "x-linked-etag", value, sizeof value)) read_linked_etag(f, value);
    return len;
}

/* ---- body ---- */

static pr_status check_space(fetch *f) {
    char needed[32], there[32];
    if (f->total <= f->part.size) return PR_OK;
    uint64_t need = f->total - f->part.size, left = pr_disk_free(f->part.path);
    if (left == 0 || need + SPARE_BYTES <= left) return PR_OK; /* 0: not known */
    return pr_fail(
        f->err, PR_ERR_IO,
        "%s: %s more are needed, the disk has %s free: make room, or set PRECIS_MODELS to a folder on another disk",
        f->ask->path, pr_format_bytes(needed, sizeof needed, need), pr_format_bytes(there, sizeof there, left));
}

/* A good status line was seen: where do the bytes go? *restart when they cannot be appended. */
static pr_status begin_body(fetch *f, long code, bool *restart) {
    curl_off_t length = -1;
    pr_status status = PR_OK;
    *restart = false;
    curl_easy_getinfo(f->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    if (code == 206) {
        bool other = f->head.etag[0] && f->part.etag[0] &&
                     strcmp(f->head.etag, f->part.etag) != 0; /* If-Range was ignored */
        if (other || !f->head.has_range || f->head.range_from != f->part.size) {
            *restart = true;
            return PR_OK;
        }
        f->total = f->head.range_total ? f->head.range_total : length >= 0 ? f->part.size + (uint64_t)length : 0;
    } else {
        if (f->part.size > 0) status = pr__part_reset(&f->part, f->err);
        f->bar.from = f->resumed_at = 0;
        f->total = length >= 0 ? (uint64_t)length : 0;
        memcpy(f->part.etag, f->head.etag, sizeof f->part.etag);
        memcpy(f->part.modified, f->head.modified, sizeof f->part.modified);
    }
    if (status == PR_OK) status = check_space(f);
    if (status == PR_OK && code == 200) status = pr__part_note(&f->part, f->shown, f->err);
    f->body_begun = status == PR_OK;
    return status;
}

/* file:// has no status; 0 is its 200. */
static long reply_code(const fetch *f) {
    long code = 0;
    curl_easy_getinfo(f->curl, CURLINFO_RESPONSE_CODE, &code);
    return code == 0 ? 200 : code;
}

static size_t on_body(char *data, size_t size, size_t count, void *arg) {
    fetch *f = arg;
    size_t len = size * count;
    long code = reply_code(f);
    bool restart = false;
    if (code != 200 && code != 206) return len; /* an error page, or the text of a redirect */
    if (!f->body_begun) f->status = begin_body(f, code, &restart);
    if (restart) return 0; /* judged after the transfer: no body was begun */
    if (f->status == PR_OK) f->status = pr__part_write(&f->part, data, len, f->err);
    return f->status == PR_OK ? len : 0;
}

/* Called at least once a second. libcurl's own low-speed limit looks at an average, which notices late. */
static int on_progress(void *arg, curl_off_t dltotal, curl_off_t dlnow, curl_off_t ultotal, curl_off_t ulnow) {
    fetch *f = arg;
    double now = pr_now();
    (void)dltotal, (void)ultotal, (void)ulnow;
    if (dlnow != f->moved_bytes) f->moved_at = now;
    f->moved_bytes = dlnow;
    f->stalled = now - f->moved_at > f->ask->stall_seconds;
    if (f->body_begun) pr__progress_update(&f->bar, f->part.size, f->total);
    return f->stalled || *pr__interrupt();
}

/* ---- one transfer ---- */

/* Bearer and, when there is something to resume, Range and If-Range; false when out of memory. */
static bool make_headers(const fetch *f, struct curl_slist **out) {
    pr_str s = {0};
    bool ok = true;
    if (f->ask->bearer && f->first_host) {
        pr_str_printf(&s, "Authorization: Bearer %s", f->ask->bearer);
        struct curl_slist *list = pr_str_ok(&s) ? curl_slist_append(*out, s.data) : NULL;
        ok = list != NULL;
        if (list) *out = list;
    }
    if (ok && f->part.size > 0) {
        pr_str_clear(&s);
        pr_str_printf(&s, "If-Range: %s", f->part.etag[0] ? f->part.etag : f->part.modified);
        struct curl_slist *list = pr_str_ok(&s) ? curl_slist_append(*out, s.data) : NULL;
        ok = list != NULL;
        if (list) *out = list;
    }
    pr_str_free(&s);
    return ok;
}

static CURLcode transfer(fetch *f, char *curl_text) {
    char range[32];
    struct curl_slist *headers = NULL;
    CURL *c = f->curl;
    CURLcode rc = CURLE_OUT_OF_MEMORY;
    const char *ca = getenv("CURL_CA_BUNDLE");
    bool http = !pr_str_starts(f->url, "file:");

    f->first_host = same_host(f->url, f->ask->url);
    f->head = (reply){0};
    f->body_begun = f->stalled = false;
    f->moved_bytes = 0;
    f->moved_at = pr_now();
    curl_easy_reset(c);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https,file");
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "precis/" PRECIS_VERSION);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, curl_text);
    curl_easy_setopt(c, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_SECONDS);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, f);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, f);
    curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(c, CURLOPT_XFERINFODATA, f);
    if (ca && ca[0]) curl_easy_setopt(c, CURLOPT_CAINFO, ca);
    if (f->part.size > 0 && http) {
        snprintf(range, sizeof range, "%llu-", (unsigned long long)f->part.size);
        curl_easy_setopt(c, CURLOPT_RANGE, range);
    }
    if (curl_easy_setopt(c, CURLOPT_URL, f->url) != CURLE_OK) return rc;
    if (http && !make_headers(f, &headers)) goto end;
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    rc = curl_easy_perform(c);
end:
    curl_slist_free_all(headers);
    return rc;
}

/* ---- judging ---- */

static outcome http_failed(fetch *f, long code) {
    const char *why = "the server does not give it";
    if (code == 401) why = "it needs a login: set HF_TOKEN to a token that may read it";
    else if (code == 403)
        why = "this token (HF_TOKEN), or nobody, may read it; some models want their licence accepted on their page "
              "first";
    else if (code == 404 || code == 410) why = "no such file: check owner, repository and file name";
    else if (code == 429) why = "too many requests: try again later";
    else if (code >= 500) why = "the server is in trouble: try again later";
    pr_fail(f->err, code == 404 ? PR_ERR_NOTFOUND : PR_ERR_IO, "%s: HTTP %ld: %s", f->shown, code, why);
    return code == 408 || code == 429 || code >= 500 ? PASSING : FAILED;
}

static outcome connection_failed(fetch *f, CURLcode rc, const char *text) {
    const char *detail = text[0] ? text : curl_easy_strerror(rc);
    bool moved = f->body_begun;
    if (rc == CURLE_ABORTED_BY_CALLBACK && f->stalled) {
        pr_fail(f->err, PR_ERR_IO, "%s: nothing came for %u s", f->shown, f->ask->stall_seconds);
        return PASSING;
    }
    if (rc == CURLE_ABORTED_BY_CALLBACK) {
        pr_fail(f->err, PR_ERR_CANCELLED, "stopped");
        return FAILED;
    }
    if (rc == CURLE_COULDNT_RESOLVE_HOST || rc == CURLE_COULDNT_RESOLVE_PROXY || rc == CURLE_COULDNT_CONNECT) {
        pr_fail(f->err, PR_ERR_IO, "%s: %s: offline? Check the network, and https_proxy if there is a proxy", f->shown,
                detail);
        return f->part.size > 0 && rc == CURLE_COULDNT_CONNECT ? PASSING : FAILED;
    }
    if (rc == CURLE_PEER_FAILED_VERIFICATION || rc == CURLE_SSL_CACERT_BADFILE) {
        pr_fail(f->err, PR_ERR_IO, "%s: %s: install ca-certificates, or set CURL_CA_BUNDLE", f->shown, detail);
        return FAILED;
    }
    if (rc == CURLE_FILE_COULDNT_READ_FILE) {
        pr_fail(f->err, PR_ERR_NOTFOUND, "%s: no such file, or not readable", f->shown);
        return FAILED;
    }
    pr_fail(f->err, PR_ERR_IO, "%s: %s", f->shown, detail);
    bool passing = moved || rc == CURLE_PARTIAL_FILE || rc == CURLE_RECV_ERROR || rc == CURLE_SEND_ERROR ||
                   rc == CURLE_GOT_NOTHING || rc == CURLE_OPERATION_TIMEDOUT;
    return passing ? PASSING : FAILED;
}

/* All bytes were there before we asked: the server says so by a range that cannot be. */
static outcome range_refused(fetch *f) {
    if (f->part.size > 0 && f->head.range_total == f->part.size) {
        f->total = f->part.size;
        return DONE;
    }
    return RESTART;
}

/* f->url becomes where the reply points to. */
static pr_status follow(fetch *f) {
    char *to = NULL;
    if (curl_easy_getinfo(f->curl, CURLINFO_REDIRECT_URL, &to) != CURLE_OK || !to) {
        return pr_fail(f->err, PR_ERR_IO, "%s: the server redirects to nowhere", f->shown);
    }
    bool http = !strncasecmp(to, "http:", 5), https = !strncasecmp(to, "https:", 6);
    if (!https && !(http && !strncasecmp(f->url, "http:", 5))) {
        return pr_fail(f->err, PR_ERR_IO, "%s: the server redirects away from https, to %.100s: refused", f->shown, to);
    }
    char *copy = pr_strdup(PR_TAG_MISC, to);
    if (!copy) return pr_fail_nomem(f->err, "an address", strlen(to));
    pr_free(f->url);
    f->url = copy;
    return PR_OK;
}

static bool resumable(const pr_part *part) { return part->size > 0 && (part->etag[0] || part->modified[0]); }

static outcome attempt(fetch *f) {
    char text[CURL_ERROR_SIZE];
    pr_free(f->url);
    f->url = pr_strdup(PR_TAG_MISC, f->ask->url);
    f->status = PR_OK;
    if (f->part.size > 0 && !resumable(&f->part) && pr__part_reset(&f->part, f->err) != PR_OK) return FAILED;
    for (int hop = 0; f->url && hop <= REDIRECTS_MAX; hop++) {
        bool restart = false;
        text[0] = '\0';
        CURLcode rc = transfer(f, text);
        if (f->status != PR_OK) return FAILED; /* a callback said why */
        long code = reply_code(f);
        bool good = code == 200 || code == 206;
        if (rc == CURLE_WRITE_ERROR && good && !f->body_begun) return RESTART;
        if (rc != CURLE_OK) return connection_failed(f, rc, text);
        if (code >= 300 && code < 400) {
            if (follow(f) != PR_OK) return FAILED;
            continue;
        }
        if (code == 416) return range_refused(f);
        if (!good) return http_failed(f, code);
        if (!f->body_begun && begin_body(f, code, &restart) != PR_OK) return FAILED; /* an empty body */
        if (restart) return RESTART;
        if (f->total == 0 || f->part.size == f->total) return DONE;
        pr_fail(f->err, PR_ERR_IO, "%s: the connection was cut after %llu of %llu bytes", f->shown,
                (unsigned long long)f->part.size, (unsigned long long)f->total);
        return f->part.size < f->total ? PASSING : RESTART;
    }
    if (!f->url) pr_fail_nomem(f->err, "an address", 0);
    else pr_fail(f->err, PR_ERR_IO, "%s: more than %d redirects", f->shown, REDIRECTS_MAX);
    return FAILED;
}

static void wait_seconds(unsigned seconds) {
    struct timespec t = {.tv_sec = (time_t)seconds};
    nanosleep(&t, NULL); /* Ctrl-C ends it early */
}

/* Attempts until one is done, or nothing more is to be hoped for. */
static pr_status fetch_all(fetch *f) {
    bool restarted = false;
    uint32_t failures = 0;
    for (;;) {
        uint64_t before = f->part.size;
        switch (attempt(f)) {
        case DONE: return PR_OK;
        case FAILED: return f->err->status;
        case RESTART:
            if (restarted)
                return pr_fail(f->err, PR_ERR_IO, "%s: the server answers with parts that do not fit together",
                               f->shown);
            restarted = true;
            if (pr__part_reset(&f->part, f->err) != PR_OK) return f->err->status;
            break;
        case PASSING:
            if (f->part.size >= before + PROGRESS_BYTES) failures = 0;
            if (failures >= f->ask->retries) return f->err->status;
            wait_seconds(1u << (failures < 5 ? failures : 5));
            failures++;
            break;
        }
        if (*pr__interrupt()) return pr_fail(f->err, PR_ERR_CANCELLED, "stopped");
    }
}

/* Neither length nor checksum was told, so a connection that was cut looks like the end: the file itself must know. */
static pr_status check_whole(fetch *f) {
    pr_model_file *file = NULL;
    pr_status status = pr_model_file_open(f->part.path, &file, f->err);
    pr_model_file_close(file);
    if (status == PR_ERR_FORMAT)
        pr_err_context(f->err,
                       "%s: cut on its way, or broken; removed (the server told no length, --sha256 would tell)",
                       f->shown);
    return status == PR_ERR_FORMAT ? status : PR_OK;
}

/* The file is whole: is it what was meant? On failure nothing of it is worth keeping. */
static pr_status verify(fetch *f, pr_fetch_got *got) {
    char start[8] = "";
    pr_file file = {.fd = -1};
    size_t n = f->ask->magic ? strlen(f->ask->magic) : 0;
    pr_status status = pr_file_open(f->part.path, &file, f->err);
    if (status == PR_OK && n > 0 && n <= sizeof start && file.size >= n)
        status = pr_file_read(&file, 0, start, n, f->err);
    if (status == PR_OK && n > 0 && memcmp(start, f->ask->magic, n) != 0) {
        status = pr_fail(f->err, PR_ERR_FORMAT, "%s is not a %s file but %s; removed", f->shown, f->ask->magic,
                         start[0] == '<' ? "a web page: give the address of the file itself"
                         : file.size     ? "something else"
                                         : "empty");
    }
    pr_file_close(&file);
    if (status == PR_OK && n > 0 && f->total == 0 && !f->sha256[0]) status = check_whole(f);
    if (status == PR_OK && f->sha256[0]) {
        status = pr__sha256_check(f->part.path, f->sha256, f->err);
        got->checked = status == PR_OK;
        if (status == PR_ERR_FORMAT)
            pr_err_context(f->err, "%s: wrong checksum, removed; try again, or the file has changed", f->shown);
    }
    return status;
}

/* A failed download that can go on says so. */
static void tell_kept(const fetch *f) {
    char kept[32];
    size_t len = strlen(f->err->text);
    if (!resumable(&f->part) || strstr(f->err->text, "part file")) return;
    snprintf(f->err->text + len, sizeof f->err->text - len, "; %s are kept, the same command goes on from there",
             pr_format_bytes(kept, sizeof kept, f->part.size));
}

pr_status pr__fetch(const pr_fetch_ask *ask, pr_fetch_got *got, pr_err *err) {
    pr_err own = {0};
    fetch f = {.ask = ask, .part = {.fd = -1}, .err = err ? err : &own};
    bool remove = false;
    *got = (pr_fetch_got){0};
    show_url(ask->url, f.shown, sizeof f.shown);
    if (ask->sha256) snprintf(f.sha256, sizeof f.sha256, "%s", ask->sha256);
    pr_status status = pr__part_open(&f.part, ask->path, f.shown, f.err);
    if (status != PR_OK) return status;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK || !(f.curl = curl_easy_init())) {
        status = pr_fail_nomem(f.err, "a connection", 0);
    }
    if (status == PR_OK) {
        f.resumed_at = f.part.size;
        pr__progress_begin(&f.bar, ask->label, true, f.part.size);
        status = fetch_all(&f);
        pr__progress_end(&f.bar);
        if (status != PR_OK) {
            tell_kept(&f);
            remove = !resumable(&f.part);
        }
    }
    if (status == PR_OK) {
        got->bytes = f.part.size;
        got->resumed_at = f.resumed_at;
        status = verify(&f, got);
        remove = status == PR_ERR_FORMAT;
    }
    if (status == PR_OK) status = pr__part_finish(&f.part, f.err);
    else pr__part_close(&f.part, remove);
    curl_easy_cleanup(f.curl);
    curl_global_cleanup();
    pr_free(f.url);
    return status;
}
