/*
 * Jobs: copies of what was asked, and the answer as it grows.
 *
 * Text reaches the client a token at a time: the answer's filters call on_text any number of times for a token, the job
 * collects that, and on_token gets it as one piece together with the row it was drawn from.
 */
#include "sched/job.h"

#include <string.h>

#include "base/os.h"
#include "engine/serve.h"

static bool collect(void *arg, const char *text, size_t len) {
    pr__job *job = arg;
    pr_str_append(&job->text, text, len);
    return !atomic_load(&job->cancel);
}

static bool copy_lists(pr__job *job, const pr_generate_opts *g) {
    const char **stop = pr_calloc(PR_TAG_SESSION, g->n_stop + 1, sizeof *stop);
    job->spec.generate.stop = stop;
    job->spec.generate.n_stop = stop ? g->n_stop : 0;
    for (size_t i = 0; stop && i < g->n_stop; i++) {
        stop[i] = pr_strdup(PR_TAG_SESSION, g->stop[i]);
        if (!stop[i]) return false;
    }
    size_t bytes = g->sample.n_bias * sizeof *g->sample.bias;
    pr_logit_bias *bias = pr_alloc(PR_TAG_SESSION, bytes);
    if (bias && bytes) memcpy(bias, g->sample.bias, bytes);
    job->spec.generate.sample.bias = bias;
    return stop && bias;
}

pr__job *pr__job_new(const pr_job *spec, pr_job_id id) {
    pr__job *job = pr_calloc(PR_TAG_SESSION, 1, sizeof *job);
    if (!job) return NULL;
    job->id = id;
    job->spec = *spec;
    job->spec.model = pr_strdup(PR_TAG_SESSION, spec->model);
    job->spec.key = NULL;
    job->spec.generate.on_text = collect;
    job->spec.generate.arg = job;
    job->spec.generate.cancel = NULL; /* collect() looks */
    job->spec.generate.speculate = 0;
    job->queued_at = pr_now();
    if (copy_lists(job, &spec->generate) && job->spec.model) return job;
    pr__job_free(job);
    return NULL;
}

void pr__job_free(pr__job *job) {
    if (!job) return;
    pr_generate_opts *g = &job->spec.generate;
    pr_answer_close(job->answer);
    pr_session_close(job->session);
    pr_str_free(&job->text);
    pr_free(job->ids);
    for (size_t i = 0; i < g->n_stop; i++) pr_free((void *)(uintptr_t)g->stop[i]);
    pr_free((void *)(uintptr_t)g->stop);
    pr_free((void *)(uintptr_t)g->sample.bias);
    pr_free((void *)(uintptr_t)job->spec.model);
    pr_free(job);
}

pr_status pr__job_start(pr__job *job, pr_err *err) {
    job->spec.generate.max_tokens = job->n_new;
    job->n_fed = job->done.n_cached = pr_session_length(job->session);
    job->done.n_prompt = (uint32_t)job->n_ids;
    return pr_answer_open(job->session, &job->spec.generate, &job->stats, &job->answer, err);
}

/* ---- delivering -------------------------------------------------------- */

static void deliver(pr__job *job, int32_t token, size_t row) {
    const pr_engine *engine = pr_model_engine(job->model);
    pr_engine_info info;
    pr_job_token t = {
        .text = job->text.data ? job->text.data : "",
        .len = job->text.len,
        .token = token,
        .level = job->done.level,
        .so_far = &job->done,
    };
    if (job->spec.want_logits && token >= 0) {
        pr_engine_describe(engine, &info);
        t.logits = pr_engine_logits(engine, row);
        t.n_vocab = info.n_vocab;
    }
    if (job->spec.on_token && !atomic_load(&job->cancel)) job->spec.on_token(job->spec.arg, &t);
    pr_str_clear(&job->text);
}

void pr__job_flush(pr__job *job) {
    pr_job_finish finish = job->done.finish;
    if (!job->answer || finish == PR_JOB_CANCELLED || finish == PR_JOB_ERROR) return;
    pr_answer_flush(job->answer);
    if (job->text.len) deliver(job, -1, 0);
}

void pr__job_end(pr__job *job, pr_job_finish finish) {
    if (job->state == PR__JOB_DONE) return;
    job->state = PR__JOB_DONE;
    job->done.finish = finish;
    job->done.n_generated = job->stats.n_generated;
    job->done.first_token_seconds = job->stats.first_token_seconds;
    job->done.total_seconds = pr_now() - job->queued_at;
}

void pr__job_fail(pr__job *job, const pr_err *err, uint32_t retry_after) {
    job->done.err = *err;
    job->done.retry_after = retry_after;
    pr__job_end(job, err->status == PR_ERR_CANCELLED ? PR_JOB_CANCELLED : PR_JOB_ERROR);
}

static pr_job_finish finish_of(pr_finish finish) {
    switch (finish) {
    case PR_FINISH_LENGTH: return PR_JOB_LENGTH;
    case PR_FINISH_CANCELLED: return PR_JOB_CANCELLED;
    case PR_FINISH_STOP:
    case PR_FINISH_NONE: break;
    }
    return PR_JOB_STOP;
}

bool pr__job_advance(pr__job *job, size_t row, uint32_t n_history) {
    pr_err err = {0};
    if (pr_answer_next(job->answer, row, n_history, &job->next, &err) != PR_OK) {
        pr__job_fail(job, &err, 0);
        return true;
    }
    if (!pr_str_ok(&job->text)) {
        pr_fail_nomem(&err, "text of an answer", job->text.len);
        pr__job_fail(job, &err, 0);
        return true;
    }
    job->progress_at = pr_now();
    deliver(job, job->next, row);
    if (!job->stats.finish) return false;
    pr__job_end(job, finish_of(job->stats.finish));
    return true;
}

/* ---- lists ------------------------------------------------------------- */

void pr__jobs_append(pr__jobs *list, pr__job *job) {
    pr__job **at = &list->first;
    while (*at) at = &(*at)->link;
    *at = job;
    job->link = NULL;
    list->n++;
}

void pr__jobs_remove(pr__jobs *list, pr__job *job) {
    pr__job **at = &list->first;
    while (*at != job) at = &(*at)->link;
    *at = job->link;
    job->link = NULL;
    list->n--;
}
