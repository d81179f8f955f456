/*
 * precis plan: what an elastic model would take here at each level, and where it would begin. Nothing is loaded.
 *
 * Each line is an estimate of its own, the same arithmetic that loading does. What is available is what the machine
 * and the cgroup leave now. The choice is the one that `precis run` with the same options makes; it never takes
 * less than the top by itself, so when the top does not fit the line says which --memory would.
 */
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "cmd/budgets.h"
#include "cmd/commands.h"
#include "cmd/companion.h"
#include "cmd/elastic.h"
#include "cmd/load.h"
#include "cmd/models.h"
#include "cmd/term.h"
#include "cmd/text.h"

enum { STEPS_DEFAULT = 8 };

typedef struct plan {
    pr_load load;
    pr_budgets budgets;
    bool json;
    char *path;
    uint64_t limit, available;
    pr_str out;
    pr_err err;
} plan;

typedef struct row {
    pr_engine_info info; /* its texts are gone */
    pr_elastic_info elastic;
    char name[48]; /* of a level, or the budget */
} row;

/* ---- one line ---- */

static pr_status estimate(plan *p, const pr_engine_opts *opts, row *out) {
    pr_estimate *e = NULL;
    pr_status status = pr_engine_estimate(p->path, opts, &e, &p->err);
    if (status != PR_OK) return status;
    pr_estimate_describe(e, &out->info);
    pr_estimate_elastic(e, &out->elastic);
    pr_estimate_close(e);
    return PR_OK;
}

/* Now, and within --memory where that was given. */
static bool fits_here(const plan *p, size_t peak) {
    return peak <= p->available && (!p->load.memory || peak <= p->load.memory);
}

static void print_row(plan *p, const row *r, size_t budget, bool first) {
    char a[32], b[32];
    const pr_elastic_info *e = &r->elastic;
    bool fits = fits_here(p, r->info.peak_bytes);
    pr_str *s = &p->out;
    if (!p->json) {
        if (first)
            pr_str_printf(s, "%-8s  %-10s  %9s  %8s  %8s  %6s  %8s\n", "", "LEVEL", "INCREMENT", "WEIGHTS", "BITS",
                          "KL", "PEAK");
        pr_str_printf(s, "%-8s  %-10s  %9u  %8s  %8.2f  %6.4f  %8s  %s%s\n", r->name, pr__level_text(e), e->cursor,
                      pr_format_bytes(a, sizeof a, e->bytes), e->bits_per_weight, e->kl,
                      pr_format_bytes(b, sizeof b, r->info.peak_bytes), fits ? "fits" : "does not fit",
                      e->measured && !e->kl_measured ? "; KL extrapolated" : "");
        return;
    }
    pr_str_puts(s, first ? "\n  " : ",\n  ");
    pr__json_open(s);
    if (budget) pr__json_u64(s, "budget_bytes", budget);
    pr__elastic_json(s, e);
    pr__json_u64(s, "peak_bytes", r->info.peak_bytes);
    pr__json_bool(s, "fits", fits);
    pr__json_close(s);
}

/* ---- all of them ---- */

static pr_status rows(plan *p, const row *top) {
    pr_engine_opts opts = p->load.opts;
    pr_status status = PR_OK;
    row r;
    opts.weights_budget = 0;
    opts.level_given = true;
    for (int l = 0; l <= (int)top->elastic.top && status == PR_OK; l++) {
        opts.level = (pr_level)l;
        status = estimate(p, &opts, &r);
        snprintf(r.name, sizeof r.name, "%s", pr_level_name(opts.level));
        if (status == PR_OK) print_row(p, &r, 0, l == 0);
    }
    opts.level_given = false;
    if (status == PR_OK) status = pr__budgets_fit(&p->budgets, top->elastic.bytes_min, top->elastic.bytes_max, &p->err);
    for (uint32_t i = 0; i < p->budgets.n && status == PR_OK; i++) {
        opts.weights_budget = p->budgets.bytes[i];
        status = estimate(p, &opts, &r);
        pr_format_bytes(r.name, sizeof r.name, opts.weights_budget);
        if (status == PR_OK) print_row(p, &r, opts.weights_budget, false);
    }
    return status;
}

/* ---- the choice ---- */

static void why(const plan *p, const row *r, char *buf, size_t len) {
    char peak[32], have[32], other[32], memory[32];
    size_t others = r->info.peak_bytes - r->info.weight_bytes;
    bool fits = r->info.peak_bytes <= p->available;
    pr_format_bytes(peak, sizeof peak, r->info.peak_bytes);
    pr_format_bytes(have, sizeof have, p->available);
    pr_format_bytes(memory, sizeof memory, p->load.memory);
    const char *asked = p->load.opts.level_given ? "--level says so" : "the most that --weights-budget allows";
    if (p->load.memory && r->elastic.cursor < r->elastic.n_increments) {
        asked = "the most whose peak fits --memory";
    } else if (!p->load.opts.level_given && !p->load.opts.weights_budget) {
        asked = p->load.memory ? "the top, which fits --memory" : "the top, where loading begins";
    }
    if (fits) {
        snprintf(buf, len, "%s; its peak of %s fits the %s available", asked, peak, have);
    } else if (p->available >= others + r->elastic.bytes_min) {
        snprintf(buf, len, "%s; its peak of %s is over the %s available: --memory %lluM fits", asked, peak, have,
                 (unsigned long long)p->available / 1000000);
    } else {
        snprintf(buf, len, "%s; its peak of %s is over the %s available, and the least takes %s: a shorter --context?",
                 asked, peak, have, pr_format_bytes(other, sizeof other, others + r->elastic.bytes_min));
    }
}

static void print_choice(plan *p, const row *r) {
    char text[400];
    pr_str *s = &p->out;
    why(p, r, text, sizeof text);
    if (p->json) {
        pr__json_key(s, "chosen");
        pr__json_open(s);
        pr__elastic_json(s, &r->elastic);
        pr__json_u64(s, "peak_bytes", r->info.peak_bytes);
        pr__json_bool(s, "fits", r->info.peak_bytes <= p->available);
        pr__json_text(s, "why", text);
        pr__json_close(s);
    } else {
        if (!r->elastic.measured)
            pr_str_puts(
                s, "KL is a guess: this file was packed without measuring. Below int4 it can be far too low: expect\n"
                   "nonsense there, not answers\n");
        else if (!r->elastic.int2_usable)
            pr_str_puts(
                s, "where KL is above 2.5 expect nonsense, not answers; without --fast, pack makes a better int2\n");
        pr_str_printf(s, "here: %s (increment %u of %u): %s\n", pr__level_text(&r->elastic), r->elastic.cursor,
                      r->elastic.n_increments, text);
    }
}

static void print_ordinary(plan *p, const row *r) {
    char a[32], b[32], c[32], advice[512];
    bool fits = r->info.peak_bytes <= p->available;
    if (p->json) {
        pr__json_u64(&p->out, "weight_bytes", r->info.weight_bytes);
        pr__json_u64(&p->out, "peak_bytes", r->info.peak_bytes);
        pr__json_bool(&p->out, "fits", fits);
        return;
    }
    pr_str_line(&p->out, "one precision only: %s of weights, peak %s, %s available: %s",
                pr_format_bytes(a, sizeof a, r->info.weight_bytes), pr_format_bytes(b, sizeof b, r->info.peak_bytes),
                pr_format_bytes(c, sizeof c, p->available), fits ? "fits" : "does not fit");
    pr_str_line(&p->out, "%s", pr__companion_advice(p->path, advice, sizeof advice));
}

static pr_status plan_elastic(plan *p, const row *top) {
    row chosen;
    if (p->json) pr__json_key(&p->out, "rows");
    if (p->json) pr_str_puts(&p->out, "[");
    pr_status status = rows(p, top);
    if (p->json) pr_str_puts(&p->out, "\n]");
    if (status == PR_OK) status = pr__load_fit(&p->load, p->path, &p->err);
    if (status == PR_OK) status = estimate(p, &p->load.opts, &chosen);
    if (status == PR_OK) print_choice(p, &chosen);
    return status;
}

/* The file that `run` would open. */
static pr_status find_file(plan *p, const char *model) {
    pr_companion c = {0};
    pr_status status = pr__models_resolve(model, &p->path, &p->err);
    if (status == PR_OK && pr__companion_look(p->path, &c) &&
        pr__companion_taken(&c, pr__load_wants_elastic(&p->load), p->load.opts.exact)) {
        pr_free(p->path);
        p->path = pr_strdup(PR_TAG_FILE, c.path);
        if (!p->path) status = pr_fail_nomem(&p->err, "a path", strlen(c.path));
        else if (!p->json) pr_str_line(&p->out, "as its elastic copy, %s:", p->path);
    }
    pr__companion_free(&c);
    return status;
}

static pr_status plan_model(plan *p, const char *model) {
    row top;
    pr_status status = pr__load_check(&p->load, &p->err);
    if (status == PR_OK) status = find_file(p, model);
    pr_engine_opts opts = p->load.opts;
    opts.level_given = false;
    opts.weights_budget = 0;
    if (status == PR_OK) status = estimate(p, &opts, &top);
    if (status == PR_OK && !top.elastic.elastic) status = pr__load_fit(&p->load, p->path, &p->err);
    p->limit = pr_memory_limit();
    p->available = pr_ram_available();
    if (p->available > p->limit) p->available = p->limit;
    if (status == PR_OK && p->json) {
        pr__json_open(&p->out);
        pr__json_text(&p->out, "path", p->path);
        pr__json_bool(&p->out, "elastic", top.elastic.elastic);
        pr__json_u64(&p->out, "context_max", top.info.context_max);
        pr__json_u64(&p->out, "memory_limit_bytes", p->limit);
        pr__json_u64(&p->out, "memory_available_bytes", p->available);
    }
    if (status == PR_OK && top.elastic.elastic) status = plan_elastic(p, &top);
    else if (status == PR_OK) print_ordinary(p, &top);
    if (p->json) pr_str_puts(&p->out, "}\n");
    if (status != PR_OK) pr__models_name_file(p->path, &p->err);
    return status;
}

int pr__cmd_plan(int argc, const char **argv) {
    plan p = {.budgets.n_steps = STEPS_DEFAULT};
    pr_args args;
    int code;
    const pr_flag flags[] = {
        {"budgets", 0, PR_FLAG_CALL, "LIST", "budgets of weights (60M,80M), or how many steps (8)", &p.budgets,
         pr__budgets_parse, NULL},
        {"json", 0, PR_FLAG_BOOL, NULL, "for scripts", &p.json, NULL, NULL},
    };
    const pr_flag_group groups[] = {{NULL, flags, sizeof flags / sizeof *flags, false}, pr__load_flags(&p.load)};
    const pr_usage usage = {
        "plan",
        "MODEL",
        "The levels of an elastic model, and budgets between them: bytes and bits of\n"
        "weights, expected KL against the source, predicted peak of the process, and\n"
        "whether that fits here now and --memory; then where it would begin with these\n"
        "options, and why. Nothing is loaded.\n",
        groups,
        2,
        1,
        1,
    };
    p.load.serves = true;
    if (!pr__cmd_begin(&usage, argc, argv, &args, &code)) return code;
    pr_status status = plan_model(&p, args.arg[0]);
    code = status == PR_OK ? pr__cmd_print(&p.out) : pr__cmd_fail(&p.err);
    pr_str_free(&p.out);
    pr_free(p.path);
    return code;
}
