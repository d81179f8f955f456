/*
 * Asking a running server something.
 *
 * A server on this machine is a step away: whatever proxy the environment names, none is asked.
 */
#include "cmd/client.h"

#include <curl/curl.h>

#include "base/str.h"

enum { ANSWER_BYTES_MAX = 4 << 20, CONNECT_MS = 2000 };

static size_t on_body(char *data, size_t size, size_t n, void *arg) {
    pr_str *body = arg;
    if (body->len + size * n > ANSWER_BYTES_MAX) return 0;
    pr_str_append(body, data, size * n);
    return pr_str_ok(body) ? size * n : 0;
}

pr_status pr__client_get(const char *url, const char *path, const char *key, double seconds, json_t **out,
                         pr_err *err) {
    pr_str body = {0}, full = {0}, bearer = {0};
    long code = 0;
    *out = NULL;
    pr_str_printf(&full, "%s%s", url, path);
    pr_str_printf(&bearer, "Authorization: Bearer %s", key ? key : "");
    CURL *c = curl_easy_init();
    struct curl_slist *headers = key && pr_str_ok(&bearer) ? curl_slist_append(NULL, bearer.data) : NULL;
    bool ready = c && pr_str_ok(&full) && curl_easy_setopt(c, CURLOPT_URL, full.data) == CURLE_OK;
    CURLcode rc = CURLE_OUT_OF_MEMORY;
    if (ready) {
        curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(c, CURLOPT_NOPROXY, "*");
        curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
        curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)(seconds * 1000));
        curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
        curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
        curl_easy_setopt(c, CURLOPT_WRITEDATA, &body);
        rc = curl_easy_perform(c);
        curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &code);
    }
    pr_status st = PR_OK;
    if (rc != CURLE_OK) st = pr_fail(err, PR_ERR_IO, "%s: %s", url, curl_easy_strerror(rc));
    else if (code == 401) st = pr_fail(err, PR_ERR_ARG, "%s wants a key: --key, or PRECIS_API_KEY", url);
    else if (code != 200) st = pr_fail(err, PR_ERR_IO, "%s%s answered %ld", url, path, code);
    if (!st) st = pr_json_parse(body.len ? body.data : "", body.len, url, out, err);
    curl_slist_free_all(headers);
    curl_easy_cleanup(c);
    pr_str_free(&body);
    pr_str_free(&full);
    pr_str_free(&bearer);
    return st;
}

pr_status pr__client_health(const char *url, double seconds, pr_err *err) {
    json_t *answer = NULL;
    pr_status st = pr__client_get(url, "/health", NULL, seconds, &answer, err);
    const char *status = json_string_value(json_object_get(answer, "status"));
    if (!st && !status) st = pr_fail(err, PR_ERR_FORMAT, "%s/health is not that of precis", url);
    json_decref(answer);
    return st;
}
