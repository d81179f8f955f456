/*
 * Fuzz: bodies of requests that generate. The first byte chooses the endpoint.
 *
 * What is taken keeps its bounds; what is refused says why, by a field's name or not at all, and leaves nothing behind.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "api/params.h"
#include "base/mem.h"

static void require(int truth) {
    if (!truth) {
        abort();
    }
}

static void check(const pr_params *p, pr_ask ask) {
    const pr_sample_params *s = &p->generate.sample;
    require(p->model != NULL && p->n >= 1 && p->n <= PR_CHOICES_MAX && p->generate.max_tokens >= 1);
    require(ask == PR_ASK_COMPLETION ? p->n_prompts >= 1 && p->n_prompts * p->n <= PR_CHOICES_MAX : p->n_messages >= 1);
    require(s->temperature >= 0 && s->temperature <= 2 && s->top_p >= 0 && s->top_p <= 1);
    require(p->generate.n_stop <= PR_STOPS_MAX && p->top_logprobs <= PR_TOP_LOGPROBS_MAX);
    for (size_t i = 0; i < p->generate.n_stop; i++) {
        require(p->generate.stop[i][0] != '\0');
    }
    for (size_t i = 0; i < p->n_messages; i++) {
        require(p->messages[i].role != NULL && p->messages[i].content != NULL);
    }
    for (size_t i = 0; i < p->n_prompts; i++) {
        require(p->prompts[i].text != NULL || p->prompts[i].n_ids > 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char param[PR_PARAM_NAME];
    pr_err err = {0};
    pr_params p;
    if (size == 0) {
        return 0;
    }
    size_t before = pr_mem_total();
    pr_ask ask = (pr_ask)(data[0] % 3);
    pr_status st = pr_params_parse((const char *)data + 1, size - 1, ask, &p, param, &err);
    if (st == PR_OK) {
        check(&p, ask);
    } else {
        require(st == PR_ERR_ARG && err.text[0] != '\0' && memchr(param, '\0', sizeof param) != NULL);
    }
    pr_params_free(&p);
    require(pr_mem_total() == before);
    return 0;
}
