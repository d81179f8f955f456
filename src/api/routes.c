/*
 * The routes, and those handlers that are of no other file.
 */
#include "api/handlers.h"
#include "api/openapi_text.h"
#include "api/write.h"
#include "base/os.h"

enum { BODY_SMALL = 64 << 10 };

void pr__api_reply(pr_http_req *req, pr_str *json) {
    size_t len = json->len;
    char *body = pr_str_take(json);
    if (body) pr_http_reply_owned(req, 200, "application/json", NULL, 0, body, len);
    else pr_http_error(req, 503, "out_of_memory", NULL, 1, "out of memory: the reply");
}

const char *pr__guard_name(pr_api *api) {
    unsigned guard = atomic_load(&api->guard_in_force);
    return guard & PR_GUARD_EMERGENCY      ? "emergency"
           : guard & PR_GUARD_CLEAR_CACHES ? "clearing"
           : guard & PR_GUARD_ALERT        ? "alert"
                                           : "ok";
}

/* No lock: it answers while everything else is busy. */
void pr__health(pr_http_req *req, void *arg) {
    pr_api *api = arg;
    pr_str out = {0};
    pr_str_puts(&out, "{");
    pr_write_text(&out, "status", atomic_load(&api->draining) ? "draining" : "ok");
    pr_write_text(&out, "version", PRECIS_VERSION);
    pr_write_u64(&out, "uptime_seconds", (uint64_t)(pr_now() - api->opened_at));
    pr_write_text(&out, "memory_guard", pr__guard_name(api));
    pr_str_puts(&out, "}");
    pr__api_reply(req, &out);
}

void pr__openapi(pr_http_req *req, void *arg) {
    (void)arg;
    pr_http_reply(req, 200, "application/json", NULL, 0, pr__openapi_text, pr__openapi_text_len);
}

void pr__api_routes(pr_api *api) {
    static const pr_http_route routes[] = {
        {"POST", "/v1/chat/completions", pr__chat_completions, NULL, 0, 0},
        {"POST", "/v1/completions", pr__completions, NULL, 0, 0},
        {"GET", "/v1/models", pr__models, NULL, 0, 0},
        {"GET", "/v1/models/{model*}", pr__model, NULL, 0, 0},
        {"POST", "/api/query", pr__query, NULL, 0, 0},
        {"POST", "/api/query/stream", pr__query_stream, NULL, 0, 0},
        {"GET", "/api/performance", pr__performance, NULL, 0, 0},
        {"GET", "/api/v1/quantization/status", pr__quant_status, NULL, 0, 0},
        {"POST", "/api/v1/quantization/calculate", pr__quant_calculate, NULL, BODY_SMALL, 0},
        {"GET", "/api/v1/quantization/memory", pr__quant_memory, NULL, 0, 0},
        {"GET", "/api/v1/quantization/cache", pr__quant_cache, NULL, 0, 0},
        {"POST", "/api/v1/quantization/cache/clear", pr__quant_clear, NULL, BODY_SMALL, 0},
        {"POST", "/api/v1/quantization/cache/pin", pr__quant_pin, NULL, BODY_SMALL, 0},
        {"POST", "/api/v1/quantization/level", pr__quant_level, NULL, BODY_SMALL, 0},
        {"GET", "/api/v1/quantization/events", pr__quant_events, NULL, 0, 0},
        {"GET", "/api/v1/caches", pr__caches, NULL, 0, 0},
        {"GET", "/metrics", pr__metrics_get, NULL, 0, 0},
        {"GET", "/api/v1/alerts", pr__alerts_get, NULL, 0, 0},
        {"GET", "/api/v1/dashboard", pr__dashboard, NULL, 0, 0},
        {"GET", "/health", pr__health, NULL, 0, PR_HTTP_OPEN},
        {"GET", "/openapi.json", pr__openapi, NULL, 0, 0},
    };
    _Static_assert(sizeof routes / sizeof *routes + PR__PAGE_ROUTES <= PR__ROUTES_MAX, "room for all routes");
    api->n_routes = sizeof routes / sizeof *routes;
    for (size_t i = 0; i < api->n_routes; i++) {
        api->routes[i] = routes[i];
        api->routes[i].arg = api;
    }
    api->n_routes += pr__page_routes(api->routes + api->n_routes);
}
