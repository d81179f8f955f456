/*
 * The beginning of a request that generates: what it says is checked, and it goes on board (flight.c).
 */
#include "api/generate.h"

#include "api/flight.h"

/* Parse and find the model; false when the request has been refused. */
static bool read_body(pr_api *api, pr_http_req *req, pr_ask ask, pr_params *params, char *model) {
    char param[PR_PARAM_NAME];
    pr_err err = {0};
    size_t len;
    const char *body = pr_http_req_body(req, &len);
    pr_status st = pr_params_parse(body, len, ask, params, param, &err);
    if (st) {
        pr__refusal f = pr__refusal_of(st);
        pr_http_error(req, f.status, f.code, param[0] ? param : NULL, f.status == 503, "%s", err.text);
        return false;
    }
    if (ask == PR_ASK_QUERY) params->n = 1;
    if (api->models.find(api->models.arg, params->model, model)) return true;
    pr_http_error(req, 404, "model_not_found", "model", 0, "there is no model \"%.100s\": /v1/models lists them",
                  params->model);
    return false;
}

void pr__generate(pr_api *api, pr_http_req *req, pr_ask ask, bool stream) {
    if (atomic_load(&api->draining)) {
        pr_http_error(req, 503, "shutting_down", NULL, 5, "the server is shutting down");
        return;
    }
    pr__flight *f = pr__flight_new(api, ask);
    pr__client *c = f ? pr__client_new(api, req) : NULL;
    if (!c) {
        if (f) pr__flight_unref(f);
        pr_http_error(req, 503, "out_of_memory", NULL, 1, "out of memory: the request");
        return;
    }
    pr_params *params = pr__flight_params(f);
    char *model = pr__flight_model(f);
    if (!read_body(api, req, ask, params, model)) {
        pr__client_unref(c);
        pr__flight_unref(f);
        return;
    }
    pr_cache_control control;
    pr_cache_control_parse(pr_http_req_header(req, "Cache-Control"), &control);
    pr__question_ask(api, params, ask, model, pr_http_req_key(req), &control, pr__flight_question(f));
    c->stream = stream || params->stream;
    c->reply.include_usage = params->include_usage;
    c->logprobs = params->logprobs;
    c->events = params->include_events;
    pr__flight_board(f, c);
}
