/*
 * precis bench: speed and memory, against what this machine can do.
 *
 * What is timed is the model alone, not the sampler: tokens are drawn
 * beforehand, from a fixed seed. Prefill is one prompt into an empty session;
 * decoding is one token a step and stream, from an empty session on, so its
 * steps are as long as those of a short answer. Repetitions alternate between
 * the two, and the median is told: on a shared machine the mean is a measure of
 * the neighbours.
 *
 * Moving (--switch) and speculation (--speculate) are measurements of their own,
 * in files of their own.
 *
 * The read bandwidth is measured with the same number of threads, in a process
 * of its own that is gone before the model is loaded.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "cmd/bandwidth.h"
#include "cmd/bench.h"
#include "cmd/commands.h"
#include "cmd/elastic.h"
#include "cmd/models.h"
#include "cmd/progress.h"
#include "cmd/term.h"
#include "cmd/text.h"
#include "engine/synth.h"
#include "sample/sample.h"

enum { REPEATS_MAX = 1000, STREAMS_MAX = 1024, PROMPT_DEFAULT = 512, ANSWER_DEFAULT = 128, SEED = 1 };

typedef struct bench {
    pr_load load;
    const char *shape, *type, *write_type;
    uint32_t n_prompt, n_answer, repeats, streams;
    bool prompt_given, speculate_given, json;
    const char *moves, *text_name;
    int speculate;
    char *path;      /* of the model */
    char *temporary; /* synthetic model to be deleted, or NULL */
    pr_engine *engine;
    pr_engine_info info;
    int32_t *tokens;       /* [max(n_prompt, n_answer + 1)] */
    pr_session **sessions; /* [streams] */
    pr_run *runs;          /* [streams] */
    /* results */
    double bandwidth, load_seconds;
    double *prefill, *first, *decode; /* [repeats] seconds */
    uint64_t peak_bytes;
    pr_err err;
} bench;

/* ---- the model ---- */

static pr_status write_synthetic(bench *b, const char *path, const char *type) {
    const pr_synth_shape *shape = pr_synth_shape_by_name(b->shape);
    pr_dtype dtype;
    pr_progress bar;
    if (!shape) return pr_fail(&b->err, PR_ERR_ARG, "--synthetic: \"%.100s\" is not 25m, 135m, 1.1b or 7b", b->shape);
    if (!pr_dtype_by_name(type, &dtype))
        return pr_fail(&b->err, PR_ERR_ARG, "\"%.100s\" is not a type of weights (q8_0, f16, ...)", type);
    pr__progress_begin(&bar, "writing", false, 0);
    pr_status status = pr_synth_write(path, shape, dtype, SEED, pr__progress_fraction, &bar, &b->err);
    pr__progress_end(&bar);
    return status;
}

static pr_status make_temporary(bench *b) {
    const char *dir = getenv("TMPDIR");
    pr_str s = {0};
    pr_str_printf(&s, "%s/precis-bench-%ld.gguf", dir && dir[0] ? dir : "/tmp", (long)getpid());
    b->temporary = pr_str_take(&s);
    if (!b->temporary) return pr_fail_nomem(&b->err, "a path", 0);
    return write_synthetic(b, b->temporary, b->type);
}

/* The context and KV pool that the measurements need and no more, so that the predicted peak is the one that is
 * reached. */
static pr_status size_up(bench *b) {
    pr_estimate *estimate = NULL;
    pr_engine_opts *o = &b->load.opts;
    pr_status status = pr_engine_estimate(b->path, o, &estimate, &b->err);
    if (status != PR_OK) return status;
    pr_estimate_describe(estimate, &b->info);
    if (!b->prompt_given && b->n_prompt > b->info.context_train) b->n_prompt = b->info.context_train;
    uint32_t answer = b->n_answer + 1; /* with the token it begins with */
    if (o->context_max == 0) o->context_max = b->n_prompt > answer ? b->n_prompt : answer;
    size_t pages = (size_t)b->streams * ((answer + 31) / 32), prompt_pages = (b->n_prompt + 31) / 32;
    if (prompt_pages > pages) pages = prompt_pages;
    o->kv_bytes_max = pages * 32 * b->info.kv_bytes_per_token;
    pr_estimate_close(estimate);
    status = pr__load_fit(&b->load, b->path, &b->err);
    if (status != PR_OK) return status;
    if (b->n_prompt > o->context_max || answer > o->context_max) {
        return pr_fail(&b->err, PR_ERR_ARG, "--context: %u is less than the %u tokens to be measured", o->context_max,
                       b->n_prompt > answer ? b->n_prompt : answer);
    }
    return PR_OK;
}

static pr_status open_model(bench *b) {
    uint32_t n_tokens = b->n_prompt > b->n_answer ? b->n_prompt : b->n_answer + 1;
    double start = pr_now();
    pr_status status = pr__load_open(&b->load, b->path, &b->engine, &b->err);
    if (status != PR_OK) return status;
    b->load_seconds = pr_now() - start;
    if (b->temporary) unlink(b->temporary); /* weights are in memory: nothing is left behind, whatever ends us */
    pr_engine_describe(b->engine, &b->info);
    b->tokens = pr_calloc(PR_TAG_MISC, n_tokens, sizeof *b->tokens);
    b->sessions = pr_calloc(PR_TAG_MISC, b->streams, sizeof *b->sessions);
    b->runs = pr_calloc(PR_TAG_MISC, b->streams, sizeof *b->runs);
    b->prefill = pr_calloc(PR_TAG_MISC, 3 * (size_t)b->repeats, sizeof *b->prefill);
    if (!b->tokens || !b->sessions || !b->runs || !b->prefill) return pr_fail_nomem(&b->err, "a benchmark", 0);
    b->first = b->prefill + b->repeats;
    b->decode = b->first + b->repeats;
    for (uint32_t i = 0; i < n_tokens; i++) b->tokens[i] = (int32_t)(pr_sample_uniform(SEED, i) * b->info.n_vocab);
    return PR_OK;
}

/* ---- measuring ---- */

static pr_status time_prefill(bench *b, double *prefill, double *first) {
    pr_session *session = NULL;
    pr_status status = pr_session_open(b->engine, &session, &b->err);
    double start = pr_now();
    if (status == PR_OK) status = pr_session_prefill(session, b->tokens, b->n_prompt, pr__interrupt(), &b->err);
    *prefill = pr_now() - start;
    if (status == PR_OK) (void)pr_sample_greedy(pr_engine_logits(b->engine, 0), b->info.n_vocab);
    *first = pr_now() - start;
    pr_session_close(session);
    return status;
}

/* One token for every stream. */
static pr_status step(bench *b, uint32_t position) {
    for (uint32_t i = 0; i < b->streams; i++) b->runs[i] = (pr_run){b->sessions[i], b->tokens + position, 1, 1};
    if (*pr__interrupt()) return pr_fail(&b->err, PR_ERR_CANCELLED, "stopped");
    return pr_engine_step(b->engine, b->runs, b->streams, &b->err);
}

static pr_status time_decode(bench *b, uint32_t n, double *seconds) {
    pr_status status = PR_OK;
    for (uint32_t i = 0; i < b->streams && status == PR_OK; i++)
        status = pr_session_open(b->engine, &b->sessions[i], &b->err);
    if (status == PR_OK) status = step(b, 0);
    double start = pr_now();
    for (uint32_t i = 1; i <= n && status == PR_OK; i++) status = step(b, i);
    *seconds = pr_now() - start;
    for (uint32_t i = 0; i < b->streams; i++) {
        pr_session_close(b->sessions[i]);
        b->sessions[i] = NULL;
    }
    return status;
}

static pr_status measure(bench *b) {
    enum { WARM_STEPS = 8 };
    pr_progress bar;
    double ignored;
    pr_status status = PR_OK;
    pr__progress_begin(&bar, "measuring", false, 0);
    if (b->n_prompt) status = time_prefill(b, &ignored, &ignored);
    if (status == PR_OK && b->n_answer)
        status = time_decode(b, b->n_answer < WARM_STEPS ? b->n_answer : WARM_STEPS, &ignored);
    for (uint32_t i = 0; i < b->repeats && status == PR_OK; i++) {
        pr__progress_update(&bar, i, b->repeats);
        if (b->n_prompt) status = time_prefill(b, &b->prefill[i], &b->first[i]);
        if (status == PR_OK && b->n_answer) status = time_decode(b, b->n_answer, &b->decode[i]);
    }
    pr__progress_end(&bar);
    b->peak_bytes = pr_rss_peak_bytes();
    return status;
}

/* ---- telling ---- */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double pr__median(double *x, uint32_t n) {
    qsort(x, n, sizeof *x, by_value);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

typedef struct figures {
    double prefill_rate, prefill_worst, prefill_best, first_seconds;
    double decode_rate, decode_worst, decode_best;
    double read_rate, read_share; /* bytes of weights a second; of the bandwidth */
} figures;

static figures sum_up(bench *b) {
    figures f = {0};
    if (b->n_prompt) {
        f.prefill_rate = b->n_prompt / pr__median(b->prefill, b->repeats);
        f.prefill_best = b->n_prompt / b->prefill[0];
        f.prefill_worst = b->n_prompt / b->prefill[b->repeats - 1];
        f.first_seconds = pr__median(b->first, b->repeats);
    }
    if (b->n_answer) {
        double n = (double)b->n_answer * b->streams, seconds = pr__median(b->decode, b->repeats);
        f.decode_rate = n / seconds;
        f.decode_best = n / b->decode[0];
        f.decode_worst = n / b->decode[b->repeats - 1];
        f.read_rate = (double)b->info.weight_bytes_read * b->n_answer / seconds;
        f.read_share = f.read_rate / b->bandwidth;
    }
    return f;
}

static void print_text(const bench *b, const figures *f, pr_str *s) {
    char a[32], c[32], brief[160];
    const pr_engine_info *i = &b->info;
    const char *plural = b->repeats == 1 ? "" : "s";
    double off = ((double)b->peak_bytes / (double)i->peak_bytes - 1) * 100;
    pr_str_line(s, "model    %s: %s parameters, %s; %s%s, %d threads", pr__models_title(i),
                pr__format_count(a, sizeof a, i->n_params), i->weight_types, i->isa,
                b->load.opts.exact ? ", exact" : "", i->n_threads);
    pr_str_printf(s, "load     %.2f s; %s\n", b->load_seconds, pr__elastic_brief(b->engine, NULL, brief, sizeof brief));
    if (b->n_prompt) {
        pr_str_printf(s, "prefill  %u tokens: %.1f tokens/s (%.1f to %.1f in %u run%s), first token after %.3f s\n",
                      b->n_prompt, f->prefill_rate, f->prefill_worst, f->prefill_best, b->repeats, plural,
                      f->first_seconds);
    }
    if (b->n_answer) {
        pr_str_printf(s, "decode   %u tokens, %u at once: %.1f tokens/s (%.1f to %.1f in %u run%s)\n", b->n_answer,
                      b->streams, f->decode_rate, f->decode_worst, f->decode_best, b->repeats, plural);
        pr_str_printf(s, "reading  %.2f GB/s of weights, %.0f%% of the %.2f GB/s that this machine reads\n",
                      f->read_rate / 1e9, f->read_share * 100, b->bandwidth / 1e9);
    }
    pr_str_printf(s, "memory   peak %s; predicted %s (%+.1f%%)\n", pr_format_bytes(a, sizeof a, b->peak_bytes),
                  pr_format_bytes(c, sizeof c, i->peak_bytes), off);
}

static void print_json(const bench *b, const figures *f, pr_str *s) {
    const pr_engine_info *i = &b->info;
    pr__json_open(s);
    pr__json_text(s, "path", i->path);
    pr__json_text(s, "name", i->name);
    pr__json_u64(s, "params", i->n_params);
    pr__json_text(s, "weight_types", i->weight_types);
    pr__json_text(s, "isa", i->isa);
    pr__json_bool(s, "exact", b->load.opts.exact);
    pr__json_u64(s, "threads", (uint64_t)i->n_threads);
    pr__json_u64(s, "repeats", b->repeats);
    pr__elastic_engine_json(s, b->engine);
    pr__json_f64(s, "load_seconds", b->load_seconds);
    pr__json_u64(s, "prefill_tokens", b->n_prompt);
    pr__json_f64(s, "prefill_tokens_per_second", f->prefill_rate);
    pr__json_f64(s, "prefill_worst", f->prefill_worst);
    pr__json_f64(s, "prefill_best", f->prefill_best);
    pr__json_f64(s, "first_token_seconds", f->first_seconds);
    pr__json_u64(s, "decode_tokens", b->n_answer);
    pr__json_u64(s, "streams", b->streams);
    pr__json_f64(s, "decode_tokens_per_second", f->decode_rate);
    pr__json_f64(s, "decode_worst", f->decode_worst);
    pr__json_f64(s, "decode_best", f->decode_best);
    pr__json_u64(s, "weight_bytes_read", i->weight_bytes_read);
    pr__json_f64(s, "read_bytes_per_second", f->read_rate);
    pr__json_f64(s, "bandwidth_bytes_per_second", b->bandwidth);
    pr__json_f64(s, "bandwidth_share", f->read_share);
    pr__json_u64(s, "peak_bytes", b->peak_bytes);
    pr__json_u64(s, "predicted_peak_bytes", i->peak_bytes);
    pr__json_close(s);
    pr_str_puts(s, "\n");
}

/* ---- the command ---- */

static void close_all(bench *b) {
    pr_engine_close(b->engine);
    pr_free(b->tokens);
    pr_free(b->sessions);
    pr_free(b->runs);
    pr_free(b->prefill);
    if (b->temporary) unlink(b->temporary);
    pr_free(b->temporary);
    pr_free(b->path);
}

static pr_status check(const bench *b, const pr_args *args, pr_err *err) {
    if (b->repeats == 0 || b->repeats > REPEATS_MAX)
        return pr_fail(err, PR_ERR_ARG, "--repeats: between 1 and %d", REPEATS_MAX);
    if (b->streams == 0 || b->streams > STREAMS_MAX)
        return pr_fail(err, PR_ERR_ARG, "--streams: between 1 and %d", STREAMS_MAX);
    if (b->n_prompt >= UINT32_MAX / 2 || b->n_answer >= UINT32_MAX / 2)
        return pr_fail(err, PR_ERR_ARG, "-p and -n: too many tokens");
    if (b->moves && b->speculate_given)
        return pr_fail(err, PR_ERR_ARG, "--switch and --speculate are measured one at a time");
    if (b->speculate_given && (!b->speculate || !b->text_name))
        return pr_fail(err, PR_ERR_ARG, "--speculate wants auto or a number, and --text FILE to begin with");
    if (b->text_name && !b->speculate_given) return pr_fail(err, PR_ERR_ARG, "--text is for --speculate");
    if (b->moves && pr__load_wants_elastic(&b->load))
        return pr_fail(err, PR_ERR_ARG, "--switch says where to begin: no --level, --weights-budget or --memory");
    if ((b->moves || b->speculate_given) && b->shape)
        return pr_fail(err, PR_ERR_ARG, "--%s wants an elastic MODEL: pack a synthetic one (--write-gguf) first",
                       b->moves ? "switch" : "speculate");
    if (b->write_type && (!b->shape || args->n != 1)) {
        return pr_fail(err, PR_ERR_ARG,
                       "--write-gguf wants a shape and a file: precis bench --synthetic 135m --write-gguf q8_0 FILE");
    }
    if (!b->write_type && (b->shape != NULL) == (args->n == 1)) {
        return pr_fail(err, PR_ERR_ARG, "give a MODEL or --synthetic SHAPE%s", args->n ? ", not both" : "");
    }
    return PR_OK;
}

static pr_status bench_model(bench *b, const pr_args *args) {
    pr_status status = pr__load_check(&b->load, &b->err);
    int threads = b->load.opts.n_threads;
    if (status == PR_OK && b->shape) status = make_temporary(b);
    else if (status == PR_OK) status = pr__models_resolve(args->arg[0], &b->path, &b->err);
    if (status == PR_OK && b->shape && !(b->path = pr_strdup(PR_TAG_MISC, b->temporary)))
        status = pr_fail_nomem(&b->err, "a path", 0);
    if (status == PR_OK) status = pr__bandwidth_measure(threads ? threads : pr_cpu_allowed(), &b->bandwidth, &b->err);
    b->load.opts.logits_max = b->streams;
    if (b->load.opts.batch_max && b->load.opts.batch_max < b->streams) {
        return pr_fail(&b->err, PR_ERR_ARG, "--batch: %u is less than %u streams", b->load.opts.batch_max, b->streams);
    }
    if (status == PR_OK) status = size_up(b);
    if (status == PR_OK) status = open_model(b);
    if (status == PR_OK) status = measure(b);
    return status;
}

pr_status pr__bench_context(pr_load *load, const char *path, uint32_t wanted, uint32_t *context, pr_err *err) {
    pr_estimate *estimate = NULL;
    pr_engine_info info;
    pr_status status = pr_engine_estimate(path, &load->opts, &estimate, err);
    if (status != PR_OK) return status;
    pr_estimate_describe(estimate, &info);
    pr_estimate_close(estimate);
    *context = load->opts.context_max        ? load->opts.context_max
               : wanted < info.context_train ? wanted
                                             : info.context_train;
    load->opts.context_max = *context;
    return PR_OK;
}

/* --switch or --speculate. */
static pr_status bench_elastic(bench *b, const char *model, pr_str *out) {
    pr_bench_job job = {.n_prompt = b->n_prompt,
                        .n_answer = b->n_answer,
                        .repeats = b->repeats,
                        .json = b->json,
                        .moves = b->moves,
                        .speculate = b->speculate,
                        .text_name = b->text_name};
    pr_status status = pr__load_check(&b->load, &b->err);
    if (status == PR_OK) status = pr__models_resolve(model, &b->path, &b->err);
    job.load = b->load;
    job.path = b->path;
    if (status != PR_OK) return status;
    return b->moves ? pr__bench_switch(&job, out, &b->err) : pr__bench_speculate(&job, out, &b->err);
}

static int run(bench *b, const pr_args *args) {
    pr_str out = {0};
    int code;
    pr_status status = check(b, args, &b->err);
    if (status == PR_OK && b->write_type) {
        status = write_synthetic(b, args->arg[0], b->write_type);
        if (status == PR_OK) printf("%s\n", args->arg[0]);
        return status == PR_OK ? PR_EXIT_OK : pr__cmd_fail(&b->err);
    }
    bool elastic = b->moves || b->speculate_given;
    if (status == PR_OK) status = elastic ? bench_elastic(b, args->arg[0], &out) : bench_model(b, args);
    if (status == PR_OK && elastic) {
        code = pr__cmd_print(&out);
    } else if (status == PR_OK) {
        figures f = sum_up(b);
        if (b->json) print_json(b, &f, &out);
        else print_text(b, &f, &out);
        code = pr__cmd_print(&out);
    } else {
        code = pr__cmd_fail(&b->err);
    }
    close_all(b);
    return code;
}

int pr__cmd_bench(int argc, const char **argv) {
    bench b = {.type = "q8_0", .n_prompt = PROMPT_DEFAULT, .n_answer = ANSWER_DEFAULT, .repeats = 5, .streams = 1};
    pr_args args;
    int code;
    const pr_flag flags[] = {
        {"prompt", 'p', PR_FLAG_U32, "N", "tokens of prefill (512; 0: none)", &b.n_prompt, NULL, &b.prompt_given},
        {"tokens", 'n', PR_FLAG_U32, "N", "tokens of decoding (128; 0: none)", &b.n_answer, NULL, NULL},
        {"repeats", 'r', PR_FLAG_U32, "N", "the median of so many runs (5)", &b.repeats, NULL, NULL},
        {"streams", 0, PR_FLAG_U32, "N", "answers decoded in one batch (1)", &b.streams, NULL, NULL},
        {"switch", 0, PR_FLAG_TEXT, "FROM:TO", "instead: moves of an elastic model while it decodes", &b.moves, NULL,
         NULL},
        {"speculate", 0, PR_FLAG_CALL, "auto|N", "instead: answers with drafts against answers without", &b.speculate,
         pr__parse_speculate, &b.speculate_given},
        {"text", 0, PR_FLAG_TEXT, "FILE", "the prompt of those", &b.text_name, NULL, NULL},
        {"synthetic", 0, PR_FLAG_TEXT, "SHAPE", "random weights of shape 25m, 135m, 1.1b or 7b", &b.shape, NULL, NULL},
        {"type", 0, PR_FLAG_TEXT, "TYPE", "of those: f32, f16, bf16, q8_0, q4_0, q4_1 (q8_0)", &b.type, NULL, NULL},
        {"write-gguf", 0, PR_FLAG_TEXT, "TYPE", "only write the synthetic model, to FILE", &b.write_type, NULL, NULL},
        {"json", 0, PR_FLAG_BOOL, NULL, "for scripts", &b.json, NULL, NULL},
    };
    const pr_flag_group groups[] = {{NULL, flags, sizeof flags / sizeof *flags, false}, pr__load_flags(&b.load)};
    const pr_usage usage = {
        "bench",
        "MODEL | --synthetic SHAPE [--write-gguf TYPE FILE]",
        "Speed of prefill and decoding, weights read against the machine's read\n"
        "bandwidth, peak memory against the prediction.\n",
        groups,
        2,
        0,
        1,
    };
    if (!pr__cmd_begin(&usage, argc, argv, &args, &code)) return code;
    return run(&b, &args);
}
