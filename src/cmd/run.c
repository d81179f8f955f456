/*
 * precis run: one question, or a chat.
 *
 * One-shot when there is a prompt, as an argument or on a standard input that is
 * no terminal; a chat otherwise. The answer alone goes to standard output.
 *
 * An ordinary model is answered from at once, and its elastic companion is made
 * meanwhile (cmd/companion.h). A companion that is there takes the model's place
 * when a level or a limit is asked for, and when the source has 16 bits a weight:
 * then it is as good, moves, and drafts for itself. A source of fewer bits is
 * itself exact and smaller than its companion's top, and is read as it is.
 */
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "cmd/chat.h"
#include "cmd/commands.h"
#include "cmd/companion.h"
#include "cmd/elastic.h"
#include "cmd/load.h"
#include "cmd/models.h"
#include "cmd/term.h"
#include "cmd/text.h"

enum { PROMPT_BYTES_MAX = 64 << 20 };

typedef struct run {
    pr_load load;
    pr_talk_opts talk;
    pr_flag_texts stop;
    bool seed_given, stats, json, no_pack;
    bool line_open;
    pr_err err;
} run;

/* ---- one question ---- */

static bool on_text(void *arg, const char *text, size_t len) {
    run *r = arg;
    fwrite(text, 1, len, stdout);
    fflush(stdout);
    r->line_open = text[len - 1] != '\n';
    return !ferror(stdout);
}

static const char *finish_name(pr_finish finish) {
    switch (finish) {
    case PR_FINISH_NONE: return "none";
    case PR_FINISH_STOP: return "stop";
    case PR_FINISH_LENGTH: return "length";
    case PR_FINISH_CANCELLED: return "cancelled";
    }
    return "none";
}

static int print_json(const run *r, const pr_talk *talk) {
    const pr_generate_stats *s = &talk->stats;
    pr_engine_info info;
    pr_str out = {0};
    pr_engine_describe(talk->engine, &info);
    pr__json_open(&out);
    pr__json_text(&out, "model", info.path);
    pr__json_key(&out, "text");
    pr_str_json(&out, talk->answer.len ? talk->answer.data : "", talk->answer.len);
    pr__json_text(&out, "finish_reason", finish_name(s->finish));
    pr__json_u64(&out, "prompt_tokens", s->n_prompt);
    pr__json_u64(&out, "completion_tokens", s->n_generated);
    pr__json_u64(&out, "seed", r->talk.generate.sample.seed);
    pr__json_f64(&out, "prefill_seconds", s->prefill_seconds);
    pr__json_f64(&out, "first_token_seconds", s->first_token_seconds);
    pr__json_f64(&out, "decode_seconds", s->decode_seconds);
    pr__json_u64(&out, "drafted_tokens", s->n_drafted);
    pr__json_u64(&out, "accepted_tokens", s->n_accepted);
    pr__elastic_engine_json(&out, talk->engine);
    pr__json_close(&out);
    pr_str_puts(&out, "\n");
    return pr__cmd_print(&out);
}

/* Not in the answer's way: on the error output, before it. */
static void warn(const pr_engine *engine) {
    pr_elastic_info e;
    pr_engine_elastic(engine, &e);
    if (*pr__level_caution(&e)) fprintf(stderr, "note: %s\n", pr__level_caution(&e));
}

static int one_shot(run *r, pr_engine *engine, const char *prompt, size_t len) {
    pr_talk talk;
    char buf[200], weights[160];
    int code = PR_EXIT_OK;
    pr_talk_opts opts = r->talk;
    warn(engine);
    opts.generate.cancel = pr__interrupt();
    opts.generate.on_text = r->json ? NULL : on_text;
    opts.generate.arg = r;
    pr_status status = pr__talk_open(&talk, engine, &opts, &r->err);
    if (status == PR_OK) status = pr__talk_ask(&talk, prompt, len, &r->err);
    if (r->line_open) printf("\n");
    if (status != PR_OK) code = pr__cmd_fail(&r->err);
    else if (r->json) code = print_json(r, &talk);
    if (status == PR_OK && r->stats) {
        fflush(stdout);
        fprintf(stderr, "%s, seed %llu; %s\n", pr__chat_stats(&talk.stats, buf, sizeof buf),
                (unsigned long long)opts.generate.sample.seed,
                pr__elastic_brief(engine, &talk.stats, weights, sizeof weights));
    }
    pr__talk_close(&talk);
    return code;
}

/* ---- the command line ---- */

/* The prompt from the arguments or standard input; *text is NULL when a chat is wanted. Copied: pr_free() it. */
static pr_status find_prompt(run *r, const pr_args *args, char **text, size_t *len) {
    bool from_stdin = args->n > 1 ? !strcmp(args->arg[1], "-") : !pr__term_is(STDIN_FILENO);
    *text = NULL;
    *len = 0;
    if (from_stdin) {
        pr_status status = pr__text_stdin(PROMPT_BYTES_MAX, text, len, &r->err);
        if (status != PR_OK) return status;
        if (*len > 0 && (*text)[*len - 1] == '\n') --*len; /* the one that echo adds */
    } else if (args->n > 1) {
        *len = strlen(args->arg[1]);
        *text = pr_strdup(PR_TAG_MISC, args->arg[1]);
        if (!*text) return pr_fail_nomem(&r->err, "the prompt", *len);
    } else if (!pr__term_is(STDOUT_FILENO) || r->json) {
        return pr_fail(&r->err, PR_ERR_ARG, "no prompt: give one as an argument or on standard input");
    } else {
        return PR_OK;
    }
    if (*len == 0) return pr_fail(&r->err, PR_ERR_ARG, "the prompt is empty");
    return pr__text_check("the prompt", *text, *len, &r->err);
}

static pr_status check(run *r) {
    pr_status status = PR_OK;
    if (r->talk.system) status = pr__text_check("--system", r->talk.system, strlen(r->talk.system), &r->err);
    if (status == PR_OK && r->talk.raw && (r->talk.system || r->talk.template_name)) {
        status = pr_fail(&r->err, PR_ERR_ARG, "--raw has no template, so no --%s",
                         r->talk.system ? "system" : "template");
    }
    for (size_t i = 0; i < r->stop.n && status == PR_OK; i++) {
        if (!r->stop.data[i][0]) status = pr_fail(&r->err, PR_ERR_ARG, "--stop: the text is empty");
    }
    r->talk.generate.stop = r->stop.data;
    r->talk.generate.n_stop = r->stop.n;
    if (status == PR_OK && !r->seed_given && getrandom(&r->talk.generate.sample.seed, 4, 0) != 4) {
        status = pr_fail_errno(&r->err, "no random seed: give one with --seed");
    }
    return status;
}

/* ---- the model, or its companion ---- */

static pr_status open_model(run *r, const char *model, pr_engine **engine) {
    char *path = NULL;
    pr_companion c = {0};
    pr_status status = pr__load_check(&r->load, &r->err);
    if (status == PR_OK) status = pr__models_resolve(model, &path, &r->err);
    bool wants = pr__load_wants_elastic(&r->load), looked = status == PR_OK && pr__companion_look(path, &c);
    bool taken = looked && pr__companion_taken(&c, wants, r->load.opts.exact);
    if (status == PR_OK) status = pr__load_open_path(&r->load, taken ? c.path : path, engine, &r->err);
    if (status == PR_ERR_UNSUPPORTED && wants && pr__companion_busy(&c)) {
        pr_fail(&r->err, status, "--%s: %.200s has one precision only; its elastic copy is being packed right now",
                r->load.opts.level_given ? "level" : "weights-budget", path);
    }
    if (status == PR_OK && looked && !r->no_pack) pr__companion_pack(&c);
    pr__companion_free(&c);
    pr_free(path);
    return status;
}

static int run_model(run *r, const pr_args *args) {
    pr_engine *engine = NULL;
    char *prompt = NULL;
    size_t len = 0;
    int code;
    pr_status status = check(r);
    if (status == PR_OK) status = find_prompt(r, args, &prompt, &len);
    if (status == PR_OK) status = open_model(r, args->arg[0], &engine);
    if (status != PR_OK) code = pr__cmd_fail(&r->err);
    else if (prompt) code = one_shot(r, engine, prompt, len);
    else code = pr__chat(engine, &r->talk, r->stats);
    pr_engine_close(engine);
    pr_free(prompt);
    return code;
}

int pr__cmd_run(int argc, const char **argv) {
    run r = {.talk.generate = {.max_tokens = 256, .speculate = PR_SPECULATE_AUTO}};
    pr_generate_opts *g = &r.talk.generate;
    pr_sample_params *s = &g->sample;
    pr_args args;
    int code;
    pr_sample_defaults(s);
    const pr_flag general[] = {
        {"system", 0, PR_FLAG_TEXT, "TEXT", "system text", &r.talk.system, NULL, NULL},
        {"template", 0, PR_FLAG_TEXT, "NAME", "chat template, instead of the model's own", &r.talk.template_name, NULL,
         NULL},
        {"raw", 0, PR_FLAG_BOOL, NULL, "no template: the text as it is", &r.talk.raw, NULL, NULL},
        {"max-tokens", 'n', PR_FLAG_U32, "N", "longest answer (256; 0: until the context is full)", &g->max_tokens,
         NULL, NULL},
        {"stop", 0, PR_FLAG_TEXTS, "TEXT", "end before this text; may be repeated", &r.stop, NULL, NULL},
        {"ignore-eos", 0, PR_FLAG_BOOL, NULL, "go on when the model wants to end", &g->ignore_end, NULL, NULL},
        {"seed", 0, PR_FLAG_U64, "N", "same seed, same text (default: another each time)", &s->seed, NULL,
         &r.seed_given},
        {"speculate", 0, PR_FLAG_CALL, "auto|off|N", "tokens to draft and check at once (auto)", &g->speculate,
         pr__parse_speculate, NULL},
        {"no-pack", 0, PR_FLAG_BOOL, NULL, "do not make an elastic copy in the background", &r.no_pack, NULL, NULL},
        {"stats", 0, PR_FLAG_BOOL, NULL, "speed and level, afterwards, on standard error", &r.stats, NULL, NULL},
        {"json", 0, PR_FLAG_BOOL, NULL, "one JSON object instead of the text", &r.json, NULL, NULL},
    };
    const pr_flag sampling[] = {
        {"temp", 0, PR_FLAG_F32, "T", "0.7; 0: greedy", &s->temperature, NULL, NULL},
        {"top-k", 0, PR_FLAG_U32, "N", "50", &s->top_k, NULL, NULL},
        {"top-p", 0, PR_FLAG_F32, "P", "0.9", &s->top_p, NULL, NULL},
        {"min-p", 0, PR_FLAG_F32, "P", "0", &s->min_p, NULL, NULL},
        {"repetition-penalty", 0, PR_FLAG_F32, "X", "1.1", &s->repetition_penalty, NULL, NULL},
        {"presence-penalty", 0, PR_FLAG_F32, "X", "0", &s->presence_penalty, NULL, NULL},
        {"frequency-penalty", 0, PR_FLAG_F32, "X", "0", &s->frequency_penalty, NULL, NULL},
        {"no-repeat-ngram", 0, PR_FLAG_U32, "N", "0: off", &s->no_repeat_ngram, NULL, NULL},
    };
    const pr_flag_group groups[] = {
        {NULL, general, sizeof general / sizeof *general, false},
        {"Sampling", sampling, sizeof sampling / sizeof *sampling, true},
        pr__load_flags(&r.load),
    };
    const pr_usage usage = {
        "run",
        "MODEL [PROMPT]",
        "Ask a model something; without PROMPT (or text on standard input) talk with it.\n",
        groups,
        3,
        1,
        2,
    };
    r.load.serves = true;
    if (pr__cmd_begin(&usage, argc, argv, &args, &code)) code = run_model(&r, &args);
    pr_free(r.stop.data);
    return code;
}
