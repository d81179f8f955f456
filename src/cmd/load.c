/*
 * Flags of loading.
 *
 * --cpumask scalar must mean "no ISA at all", while a mask of 0 means "every
 * one" to the engine; a bit that belongs to no ISA says it without a special
 * case anywhere else.
 *
 * --memory is a promise about the whole process. What it will take with each number of increments is known before anything is
 * loaded, so the budget of weights follows from it.
 */
#include "cmd/load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"
#include "cmd/companion.h"
#include "cmd/elastic.h"
#include "cmd/models.h"
#include "cmd/progress.h"
#include "graph/passes.h"
#include "kernels/kernels.h"

static const uint32_t CPU_NONE = UINT32_C(1) << 31;

static pr_status parse_kv(void *out, const char *value, pr_err *err) {
    if (pr_kv_types_parse(value, out)) return PR_OK;
    return pr_fail(err, PR_ERR_ARG, "\"%.100s\" is not f16, q8 or q4, nor two of them as KEYS,VALUES", value);
}

pr_status pr__parse_cpumask(void *out, const char *value, pr_err *err) {
    uint32_t bits = 0;
    if (pr_parse_u32(value, out)) return PR_OK;
    for (const char *at = value; *at;) {
        size_t len = strcspn(at, ",");
        if (len == 6 && !memcmp(at, "scalar", len)) bits |= CPU_NONE;
        else if (len == 4 && !memcmp(at, "avx2", len)) bits |= PR_CPU_AVX2;
        else if (len == 7 && !memcmp(at, "avxvnni", len)) bits |= PR_CPU_AVX2 | PR_CPU_AVXVNNI;
        else if (len == 6 && !memcmp(at, "avx512", len)) bits |= PR_CPU_AVX2 | PR_CPU_AVX512;
        else
            return pr_fail(err, PR_ERR_ARG, "\"%.*s\" is not one of scalar, avx2, avxvnni, avx512 or a number",
                           (int)len, at);
        at += len + (at[len] == ',');
    }
    if (!bits) return pr_fail(err, PR_ERR_ARG, "the list is empty");
    *(uint32_t *)out = bits;
    return PR_OK;
}

static pr_status parse_no_pass(void *out, const char *value, pr_err *err) {
    uint32_t bit;
    if (!pr_pass_by_name(value, &bit)) {
        return pr_fail(err, PR_ERR_ARG, "\"%.100s\" is no graph pass: %s", value, pr_pass_names());
    }
    *(uint32_t *)out |= bit;
    return PR_OK;
}

pr_flag_group pr__load_flags(pr_load *load) {
    pr_engine_opts *o = &load->opts;
    *load = (pr_load){0};
    const pr_flag flags[PR_LOAD_FLAGS] = {
        {"threads", 't', PR_FLAG_U32, "N", "", &load->threads, NULL, NULL},
        {"context", 0, PR_FLAG_U32, "N", "tokens", &o->context_max, NULL, NULL},
        {"batch", 0, PR_FLAG_U32, "N", "tokens a step", &o->batch_max, NULL, NULL},
        {"kv", 0, PR_FLAG_CALL, "TYPE", "f16, q8, q4, or KEYS,VALUES", &o->kv_type, parse_kv, &load->kv_given},
        {"kv-cache-type", 0, PR_FLAG_CALL, "TYPE", NULL, &o->kv_type, parse_kv,
         &load->kv_given}, /* as the server's setting is named */
        {"exact", 0, PR_FLAG_BOOL, NULL, "fp32 activations, slow", &o->exact, NULL, NULL},
        {"cpumask", 0, PR_FLAG_CALL, "LIST", "scalar,avx2,avxvnni,avx512", &o->cpumask, pr__parse_cpumask, NULL},
        {"no-pass", 0, PR_FLAG_CALL, "NAME", "graph pass", &o->passes_off, parse_no_pass, NULL},
        {"level", 0, PR_FLAG_CALL, "int2|int4|int8|fp16", "", &o->level, pr__parse_level, &o->level_given},
        {"weights-budget", 0, PR_FLAG_CALL, "SIZE", "90M", &o->weights_budget, pr__parse_size, NULL},
        {"memory", 0, PR_FLAG_CALL, "SIZE", "of the process", &load->memory, pr__parse_size, NULL},
    };
    memcpy(load->flags, flags, sizeof flags);
    return (pr_flag_group){"Loading", load->flags, PR_LOAD_FLAGS, true};
}

/* What a server would take from the environment, where no flag says otherwise. What is measured is measured as flags say, but
 * for the form of keys and values. */
static pr_status read_environment(pr_load *load, pr_err *err) {
    const char *const *env = (const char *const *)environ;
    pr_engine_opts *o = &load->opts;
    pr_settings s;
    bool kv = false, context = false, memory = false, template = false;
    pr_settings_defaults(&s);
    pr_status st = pr_setting_from_environment("PRECIS_KV_CACHE_TYPE", env, &s, &kv, err);
    if (!st && load->serves) st = pr_setting_from_environment("PRECIS_CONTEXT_LENGTH", env, &s, &context, err);
    if (!st && load->serves) st = pr_setting_from_environment("PRECIS_MEMORY", env, &s, &memory, err);
    if (!st && load->serves) st = pr_setting_from_environment("PRECIS_TEMPLATE", env, &s, &template, err);
    if (st) return st;
    if (kv && !load->kv_given) o->kv_type = s.kv_cache_type;
    if (context && !o->context_max) {
        o->context_max = s.context_length;
        o->context_fit = true;
    }
    if (memory && !load->memory) {
        load->memory = (size_t)s.memory_bytes;
        load->memory_from_environment = true;
    }
    snprintf(load->chat_template, sizeof load->chat_template, "%s", s.chat_template);
    o->chat_template = template ? load->chat_template : NULL;
    load->environment_read = true;
    return PR_OK;
}

pr_status pr__load_check(pr_load *load, pr_err *err) {
    if (load->threads > PR__THREADS_MAX)
        return pr_fail(err, PR_ERR_ARG, "--threads: %u is more than %d", load->threads, PR__THREADS_MAX);
    if (load->opts.level_given && load->opts.weights_budget)
        return pr_fail(err, PR_ERR_ARG, "--level and --weights-budget exclude each other");
    load->opts.n_threads = (int)load->threads;
    return load->environment_read ? PR_OK : read_environment(load, err);
}

/* ---- levels and limits ---- */

bool pr__load_wants_elastic(const pr_load *load) {
    return load->opts.level_given || load->opts.weights_budget || load->memory;
}

/* The weights of the most increments whose peak is at most `memory`; *least is the peak of the fewest. */
static bool most_within(const pr_estimate *estimate, size_t memory, uint32_t n_increments, size_t *weights,
                        size_t *least) {
    double kl;
    size_t bytes, peak;
    uint32_t fits = 0, over = n_increments + 1; /* the peak rises with their number */
    if (!pr_estimate_increment(estimate, 0, weights, least, &kl) || *least > memory) return false;
    while (over - fits > 1) {
        uint32_t middle = fits + (over - fits) / 2;
        (void)pr_estimate_increment(estimate, middle, &bytes, &peak, &kl);
        if (peak > memory) over = middle;
        else fits = middle;
    }
    return pr_estimate_increment(estimate, fits, weights, &peak, &kl);
}

/* The largest budget of weights with which the process stays within --memory. */
static pr_status fit_memory(pr_load *load, const pr_estimate *estimate, const pr_engine_info *info,
                            const pr_elastic_info *elastic, pr_err *err) {
    char want[32], need[32], kv[32];
    bool fixed = !elastic->elastic || load->opts.level_given || load->opts.weights_budget;
    size_t least = info->peak_bytes, weights = 0;
    if (load->memory >= info->peak_bytes) return PR_OK;
    if (!fixed && most_within(estimate, load->memory, elastic->n_increments, &weights, &least)) {
        load->opts.weights_budget = weights;
        return PR_OK;
    }
    return pr_fail(err, PR_ERR_LIMIT,
                   "%s: %s is too little: this model takes %s%s here, %s of them for a context of %u (--context)%s",
                   load->memory_from_environment ? "PRECIS_MEMORY" : "--memory",
                   pr_format_bytes(want, sizeof want, load->memory), pr_format_bytes(need, sizeof need, least),
                   fixed ? "" : " at least", pr_format_bytes(kv, sizeof kv, info->kv_bytes_max), info->context_max,
                   elastic->elastic ? "" : "; `precis pack` makes a model that can take less");
}

pr_status pr__load_fit(pr_load *load, const char *path, pr_err *err) {
    pr_engine_opts *o = &load->opts;
    pr_estimate *estimate = NULL;
    pr_engine_info info;
    pr_elastic_info elastic;
    if (!pr__load_wants_elastic(load)) return PR_OK;
    pr_status status = pr_engine_estimate(path, o, &estimate, err);
    if (status == PR_ERR_LIMIT && err && pr_str_starts(err->text, "a weights budget"))
        pr_err_context(err, "--weights-budget");
    if (status != PR_OK) return status;
    pr_estimate_describe(estimate, &info);
    pr_estimate_elastic(estimate, &elastic);
    if (!elastic.elastic && (o->level_given || o->weights_budget)) {
        char advice[512];
        status = pr_fail(err, PR_ERR_UNSUPPORTED, "--%s: %.200s has one precision only; %s",
                         o->level_given ? "level" : "weights-budget", path,
                         pr__companion_advice(path, advice, sizeof advice));
    } else if (load->memory) {
        status = fit_memory(load, estimate, &info, &elastic, err);
    }
    pr_estimate_close(estimate);
    return status;
}

/* ---- opening ---- */

pr_status pr__load_open_path(pr_load *load, const char *path, pr_engine **out, pr_err *err) {
    pr_progress bar;
    *out = NULL;
    pr_status status = pr__load_fit(load, path, err);
    if (status == PR_OK) {
        pr_engine_opts opts = load->opts;
        pr__progress_begin(&bar, "loading", false, 0);
        opts.progress = pr__progress_fraction;
        opts.progress_arg = &bar;
        status = pr_engine_open(path, &opts, out, err);
        pr__progress_end(&bar);
    }
    if (status != PR_OK) pr__models_name_file(path, err);
    return status;
}

pr_status pr__load_open(pr_load *load, const char *model, pr_engine **out, pr_err *err) {
    char *path = NULL;
    *out = NULL;
    pr_status status = pr__load_check(load, err);
    if (status == PR_OK) status = pr__models_resolve(model, &path, err);
    if (status == PR_OK) status = pr__load_open_path(load, path, out, err);
    pr_free(path);
    return status;
}
