/*
 * precis pack: an elastic model out of any other.
 *
 * The work is compress/pack.h; here are the names, the bar and the report. The text to calibrate with is read before
 * anything else, so that a wrong name is told at once and not after the model has been opened.
 */
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "cmd/commands.h"
#include "cmd/models.h"
#include "cmd/progress.h"
#include "cmd/term.h"
#include "cmd/text.h"
#include "compress/pack.h"

enum { TEXT_BYTES_MAX = 64 << 20 };

typedef struct pack {
    const char *out, *text_name;
    uint32_t threads;
    bool fast, json;
    pr_pack_opts opts;
    pr_pack_report report;
    pr_progress bar;
    pr_err err;
} pack;

static void show_progress(void *arg, const char *stage, double fraction) {
    pack *p = arg;
    p->bar.label = stage;
    pr__progress_fraction(&p->bar, fraction);
}

/* NAME.gguf -> NAME.planes.gguf, a folder -> FOLDER.planes.gguf; for pr_free(). */
static char *default_out(const char *source) {
    pr_str s = {0};
    size_t len = strlen(source);
    while (len > 1 && source[len - 1] == '/') len--;
    if (pr_str_ends(source, ".gguf")) len -= strlen(".gguf");
    pr_str_append(&s, source, len);
    pr_str_puts(&s, ".planes.gguf");
    return pr_str_take(&s);
}

static pr_status read_text(pack *p, char **text) {
    size_t len = 0;
    if (!p->text_name) return PR_OK;
    pr_status status = pr_file_slurp(p->text_name, TEXT_BYTES_MAX, text, &len, &p->err);
    if (status == PR_OK) status = pr__text_check(p->text_name, *text, len, &p->err);
    p->opts.text = *text;
    p->opts.text_len = len;
    p->opts.text_name = p->text_name;
    return status;
}

static pr_status run(pack *p, const char *source) {
    p->opts.fast = p->fast;
    p->opts.n_threads = (int)p->threads;
    p->opts.cancel = pr__interrupt();
    p->opts.progress = show_progress;
    p->opts.progress_arg = p;
    pr__progress_begin(&p->bar, "calibrating", false, 0);
    pr_status status = pr_pack_model(source, p->out, &p->opts, &p->report, &p->err);
    pr__progress_end(&p->bar);
    if (status != PR_OK) pr__models_name_file(source, &p->err);
    return status;
}

/* ---- telling ---- */

static const char *const level_names[PR_PLANE_COUNT] = {"int2", "int4", "int8", "fp16"};

static void print_text(const pack *p, pr_str *s) {
    const pr_pack_report *r = &p->report;
    char a[32], b[32], c[32];
    pr_str_line(s, "%s: %s, from %s; %s weights in %u matrices, %u steps between the least and all of them", p->out,
                pr_format_bytes(a, sizeof a, r->file_bytes), pr_format_bytes(b, sizeof b, r->source_bytes),
                pr__format_count(c, sizeof c, r->n_weights), r->n_matrices, r->n_increments);
    for (uint32_t l = 0; l < r->n_planes; l++)
        pr_str_printf(s, "  %s  %5.2f bits a weight, KL %.2g%s\n", level_names[l], r->level_bits[l], r->level_kl[l],
                      !r->kl_measured                       ? " (a guess)"
                      : r->level_cursor[l] > r->measured_to ? " (extrapolated)"
                                                            : "");
    if (!(r->kl_measured && r->level_kl[0] <= PR_KL_USABLE))
        pr_str_printf(s, "  below int4 expect nonsense, not answers%s\n",
                      p->fast ? ": without --fast int2 is one for emergencies" : "");
    if (r->n_tokens)
        pr_str_printf(s, "  calibrated with %llu tokens, %u %s measured\n", (unsigned long long)r->n_tokens,
                      r->n_measured, p->fast ? "levels" : "matrices");
    pr_str_printf(s, "  %.0f seconds\n", r->seconds);
    if (r->note[0]) pr_str_line(s, "  note: %s", r->note);
}

static void print_json(const pack *p, pr_str *s) {
    const pr_pack_report *r = &p->report;
    pr__json_open(s);
    pr__json_text(s, "path", p->out);
    pr__json_u64(s, "bytes", r->file_bytes);
    pr__json_u64(s, "source_bytes", r->source_bytes);
    pr__json_u64(s, "weights", r->n_weights);
    pr__json_u64(s, "matrices", r->n_matrices);
    pr__json_u64(s, "kept", r->n_kept);
    pr__json_u64(s, "units", r->n_units);
    pr__json_u64(s, "increments", r->n_increments);
    pr__json_key(s, "levels");
    pr__json_open(s);
    for (uint32_t l = 0; l < r->n_planes; l++) {
        pr__json_key(s, level_names[l]);
        pr__json_open(s);
        pr__json_u64(s, "increments", r->level_cursor[l]);
        pr__json_f64(s, "bits_per_weight", r->level_bits[l]);
        pr__json_f64(s, "kl", r->level_kl[l]);
        pr__json_close(s);
    }
    pr__json_close(s);
    pr__json_bool(s, "kl_measured", r->kl_measured);
    pr__json_u64(s, "measured_to", r->measured_to);
    pr__json_u64(s, "tokens", r->n_tokens);
    pr__json_u64(s, "measured", r->n_measured);
    pr__json_f64(s, "seconds", r->seconds);
    pr__json_f64(s, "seconds_encode", r->seconds_encode);
    pr__json_f64(s, "seconds_measure", r->seconds_measure);
    pr__json_text(s, "note", r->note);
    pr__json_close(s);
    pr_str_puts(s, "\n");
}

/* ---- the command ---- */

static pr_status pack_any(pack *p, const pr_args *args, pr_str *out) {
    char *source = NULL, *made = NULL, *text = NULL;
    pr_status status = PR_OK;
    if (args->n == 2 && p->out) status = pr_fail(&p->err, PR_ERR_ARG, "--output: OUT is there twice");
    if (args->n == 2 && !p->out) p->out = args->arg[1];
    if (status == PR_OK && p->threads > PR__THREADS_MAX)
        status = pr_fail(&p->err, PR_ERR_ARG, "--threads: %u is more than %d", p->threads, PR__THREADS_MAX);
    if (status == PR_OK) status = read_text(p, &text);
    if (status == PR_OK) status = pr__models_resolve(args->arg[0], &source, &p->err);
    if (status == PR_OK && !p->out) {
        p->out = made = default_out(source);
        if (!made) status = pr_fail_nomem(&p->err, "a path", 0);
    }
    if (status == PR_OK) status = run(p, source);
    if (status == PR_OK && p->json) print_json(p, out);
    else if (status == PR_OK) print_text(p, out);
    pr_free(text);
    pr_free(made);
    pr_free(source);
    return status;
}

int pr__cmd_pack(int argc, const char **argv) {
    pack p = {0};
    pr_str out = {0};
    pr_args args;
    int code;
    const pr_flag flags[] = {
        {"output", 'o', PR_FLAG_TEXT, "OUT", "the same as OUT (else NAME.planes.gguf beside it)", &p.out, NULL, NULL},
        {"fast", 0, PR_FLAG_BOOL, NULL, "a glance at the text: quick; int4 coarser, int2 poor", &p.fast, NULL, NULL},
        {"calibration", 0, PR_FLAG_TEXT, "FILE", "calibrate with this text", &p.text_name, NULL, NULL},
        {"threads", 't', PR_FLAG_U32, "N", "threads (all that this process may use)", &p.threads, NULL, NULL},
        {"json", 0, PR_FLAG_BOOL, NULL, "for scripts", &p.json, NULL, NULL},
    };
    const pr_flag_group group = {NULL, flags, sizeof flags / sizeof *flags, false};
    const pr_usage usage = {
        "pack",
        "MODEL [OUT]",
        "Make an elastic model: one file with every precision from 2 bits a weight to\n"
        "that of the source, between which precis moves while it runs. The model reads\n"
        "a text, its matrices are encoded for what they met there, and the order in\n"
        "which precision is best spent is measured. Best from an F16 or BF16 source.\n",
        &group,
        1,
        1,
        2,
    };
    if (!pr__cmd_begin(&usage, argc, argv, &args, &code)) return code;
    return pack_any(&p, &args, &out) == PR_OK ? pr__cmd_print(&out) : pr__cmd_fail(&p.err);
}
