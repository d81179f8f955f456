/*
 * The handlers of all routes; arg is the pr_api. Each runs on the server's thread and is quick.
 */
#ifndef PRECIS_API_HANDLERS_H
#define PRECIS_API_HANDLERS_H

#include "api/context.h"

void pr__chat_completions(pr_http_req *req, void *arg);
void pr__completions(pr_http_req *req, void *arg);
void pr__models(pr_http_req *req, void *arg);
void pr__model(pr_http_req *req, void *arg);

void pr__query(pr_http_req *req, void *arg);
void pr__query_stream(pr_http_req *req, void *arg);
void pr__performance(pr_http_req *req, void *arg);

void pr__quant_status(pr_http_req *req, void *arg);
void pr__quant_calculate(pr_http_req *req, void *arg);
void pr__quant_memory(pr_http_req *req, void *arg);
void pr__quant_cache(pr_http_req *req, void *arg);
void pr__quant_clear(pr_http_req *req, void *arg);
void pr__quant_pin(pr_http_req *req, void *arg);
void pr__quant_level(pr_http_req *req, void *arg);
void pr__quant_events(pr_http_req *req, void *arg);

void pr__caches(pr_http_req *req, void *arg);
void pr__metrics_get(pr_http_req *req, void *arg);
void pr__alerts_get(pr_http_req *req, void *arg);
void pr__health(pr_http_req *req, void *arg);
void pr__openapi(pr_http_req *req, void *arg);
void pr__dashboard(pr_http_req *req, void *arg);

/* The page's own routes, PR__PAGE_ROUTES of them, into out. */
enum { PR__PAGE_ROUTES = 2 };
size_t pr__page_routes(pr_http_route *out);

#endif
