/*
 * OpenAI's interface: what clients written for it ask for.
 */
#include "api/handlers.h"

#include <string.h>

#include "api/generate.h"
#include "api/write.h"

void pr__chat_completions(pr_http_req *req, void *arg) { pr__generate(arg, req, PR_ASK_CHAT, false); }
void pr__completions(pr_http_req *req, void *arg) { pr__generate(arg, req, PR_ASK_COMPLETION, false); }

static void write_model(pr_str *out, const pr_api *api, const char *name) {
    pr_str_puts(out, "{");
    pr_write_text(out, "id", name);
    pr_write_text(out, "object", "model");
    pr_write_u64(out, "created", (uint64_t)api->opened_time);
    pr_write_text(out, "owned_by", "precis");
    pr_str_puts(out, "}");
}

void pr__models(pr_http_req *req, void *arg) {
    pr_api *api = arg;
    pr_str out = {0};
    char(*names)[PR_API_MODEL_NAME] = pr_calloc(PR_TAG_HTTP, PR_API_MODELS_MAX, sizeof *names);
    size_t n = names ? api->models.list(api->models.arg, names, PR_API_MODELS_MAX) : 0;
    out.failed = !names;
    pr_str_puts(&out, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < n; i++) {
        if (i) pr_str_puts(&out, ",");
        write_model(&out, api, names[i]);
    }
    pr_str_puts(&out, "]}");
    pr_free(names);
    pr__api_reply(req, &out);
}

void pr__model(pr_http_req *req, void *arg) {
    pr_api *api = arg;
    char name[PR_API_MODEL_NAME];
    pr_str out = {0};
    const char *asked = pr_http_req_param(req);
    if (!api->models.find(api->models.arg, asked, name)) {
        pr_http_error(req, 404, "model_not_found", "model", 0, "there is no model \"%.100s\": /v1/models lists them",
                      asked);
        return;
    }
    write_model(&out, api, name);
    pr__api_reply(req, &out);
}
