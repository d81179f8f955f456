/*
 * precis eval --levels: one elastic model at all its levels and budgets, against one reference.
 *
 * The text is taken in groups of chunks. For a group the reference's logits are computed once and put into an unlinked
 * temporary file, since a row is as long as the vocabulary and a group is thousands of rows; then the model moves through all
 * points, the smallest first, so that within a group every plane is read once. Without another reference it is the model
 * itself at its top.
 *
 * The speed told is that of decoding one token a step, measured with the first group at each point.
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "cmd/companion.h"
#include "cmd/elastic.h"
#include "cmd/eval.h"
#include "cmd/models.h"
#include "cmd/plot.h"
#include "cmd/progress.h"
#include "cmd/text.h"

enum { POINTS_MAX = PR_LEVELS + PR_BUDGETS_MAX, DECODE_STEPS = 32 };

static const size_t GROUP_BYTES = (size_t)512 << 20; /* of the temporary file, unless a single chunk is more */
static const double MOVE_SECONDS = 600;

typedef struct point {
    pr_place place;
    pr_elastic_info info; /* as it was there */
    pr_tally tally;
    double step_seconds; /* of one decoded token */
} point;

typedef struct walk {
    pr_eval *e;
    point points[POINTS_MAX];
    uint32_t n_points;
    size_t rows_max;  /* of a group */
    int fd;           /* the reference's logits */
    pr_row_sum *kept; /* [rows_max] */
    float *row;       /* [n_vocab] */
    uint64_t n_chunks;
} walk;

/* ---- the reference's rows ---- */

static pr_status open_rows(walk *w) {
    pr_eval *e = w->e;
    const char *dir = getenv("TMPDIR");
    size_t row_bytes = e->under_test.info.n_vocab * sizeof(float);
    pr_str path = {0};
    w->rows_max = GROUP_BYTES / row_bytes > e->window ? GROUP_BYTES / row_bytes : e->window;
    w->kept = pr_calloc(PR_TAG_MISC, w->rows_max, sizeof *w->kept);
    w->row = pr_alloc(PR_TAG_MISC, row_bytes);
    pr_str_printf(&path, "%s/precis-eval-XXXXXX", dir && dir[0] ? dir : "/tmp");
    char *name = pr_str_take(&path);
    pr_status status = w->kept && w->row && name ? PR_OK : pr_fail_nomem(&e->err, "rows of the reference", row_bytes);
    if (status == PR_OK && name && (w->fd = mkstemp(name)) < 0)
        status = pr_fail_errno(&e->err, "cannot write %s", name);
    if (name && w->fd >= 0) unlink(name);
    pr_free(name);
    return status;
}

static pr_status keep_row(walk *w, size_t i, const float *row, int32_t next) {
    pr_eval *e = w->e;
    size_t n = e->under_test.info.n_vocab, bytes = n * sizeof *row;
    w->kept[i] = pr__row_sum(row, n);
    pr__tally_add(&e->reference.tally, w->kept[i].log_sum - (double)row[next]);
    for (size_t at = 0; at < bytes;) {
        ssize_t wrote = pwrite(w->fd, (const char *)row + at, bytes - at, (off_t)(i * bytes + at));
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) return pr_fail_errno(&e->err, "cannot keep the reference's logits (TMPDIR)");
        at += (size_t)wrote;
    }
    return PR_OK;
}

static pr_status score_row(walk *w, point *p, size_t i, const float *row, int32_t next) {
    pr_eval *e = w->e;
    size_t n = e->under_test.info.n_vocab, bytes = n * sizeof *row;
    pr_file file = {.fd = w->fd, .size = (i + 1) * bytes};
    pr_status status = pr_file_read(&file, i * bytes, w->row, bytes, &e->err);
    if (status != PR_OK) return status;
    pr_row_sum sum = pr__row_sum(row, n);
    pr__tally_add(&p->tally, sum.log_sum - (double)row[next]);
    pr__tally_compare(&p->tally, w->row, w->kept[i], row, sum, n);
    if (isfinite(p->tally.nll)) return PR_OK;
    return pr_fail(&e->err, PR_ERR_FORMAT, "the logits are not finite numbers: the model's weights are damaged");
}

/* ---- a group of chunks ---- */

/* All chunks from text position *at on that fit a group, through model m: kept (no point) or scored. *at ends behind. */
static pr_status feed_group(walk *w, const pr_eval_model *m, point *p, size_t *at) {
    pr_eval *e = w->e;
    size_t n, done = 0;
    pr_status status = PR_OK;
    while (status == PR_OK && done + e->window <= w->rows_max && (n = pr__eval_chunk(e, at)) > 0) {
        if (!p) w->n_chunks += n > 1;
        status = pr__eval_restart(m, &e->err);
        for (size_t from = 0; from + 1 < n && status == PR_OK; from += PR_EVAL_ROWS) {
            uint32_t rows = n - 1 - from < PR_EVAL_ROWS ? (uint32_t)(n - 1 - from) : PR_EVAL_ROWS;
            status = pr__eval_feed(m, e->chunk + from, rows, &e->err);
            for (uint32_t r = 0; r < rows && status == PR_OK; r++, done++) {
                const float *logits = pr_engine_logits(m->engine, r);
                int32_t next = e->chunk[from + r + 1];
                status = p ? score_row(w, p, done, logits, next) : keep_row(w, done, logits, next);
            }
        }
    }
    return status;
}

static int by_seconds(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The chunk's tokens again, one a step. */
static pr_status time_decoding(walk *w, point *p) {
    pr_eval *e = w->e;
    double seconds[DECODE_STEPS];
    uint32_t n = 0, most = e->window < DECODE_STEPS ? e->window : DECODE_STEPS;
    pr_status status = pr__eval_restart(&e->under_test, &e->err);
    for (; n < most && n < e->n_ids && status == PR_OK; n++) {
        double start = pr_now();
        status = pr__eval_feed(&e->under_test, e->ids + n, 1, &e->err);
        seconds[n] = pr_now() - start;
    }
    qsort(seconds, n, sizeof *seconds, by_seconds);
    p->step_seconds = seconds[n / 2];
    return status;
}

static pr_status move_to(walk *w, const pr_place *place) {
    pr_engine *engine = w->e->under_test.engine;
    pr_status status = pr__place_move(engine, place, &w->e->err);
    return status == PR_OK ? pr_engine_settle(engine, MOVE_SECONDS, &w->e->err) : status;
}

static pr_status one_group(walk *w, size_t *at, pr_progress *bar) {
    pr_eval *e = w->e;
    size_t begin = *at;
    bool other = e->reference.engine != NULL;
    pr_status status = other ? PR_OK : move_to(w, &(pr_place){.level = PR_LEVEL_FP16});
    if (status == PR_OK) status = feed_group(w, other ? &e->reference : &e->under_test, NULL, at);
    for (uint32_t i = 0; i < w->n_points && status == PR_OK; i++) {
        point *p = &w->points[i];
        size_t again = begin;
        status = move_to(w, &p->place);
        if (status == PR_OK && begin == 0) {
            pr_engine_elastic(e->under_test.engine, &p->info);
            status = time_decoding(w, p);
        }
        if (status == PR_OK) status = feed_group(w, &e->under_test, p, &again);
        pr__progress_update(bar, begin + (*at - begin) * (i + 1) / w->n_points, e->n_ids);
    }
    return status;
}

/* ---- points ---- */

static void add_point(walk *w, pr_place place, size_t bytes) {
    point p = {.place = place};
    uint32_t i = w->n_points++;
    p.info.bytes = bytes;
    for (; i > 0 && w->points[i - 1].info.bytes > bytes; i--) w->points[i] = w->points[i - 1];
    w->points[i] = p;
}

static pr_status list_points(walk *w) {
    pr_eval *e = w->e;
    pr_elastic_info info;
    pr_engine_elastic(e->under_test.engine, &info);
    char advice[512];
    if (!info.elastic)
        return pr_fail(&e->err, PR_ERR_UNSUPPORTED, "--levels: %.200s has one precision only; %s",
                       e->under_test.info.path, pr__companion_advice(e->under_test.info.path, advice, sizeof advice));
    for (int l = 0; l <= (int)info.top; l++) add_point(w, (pr_place){.level = (pr_level)l}, info.level_bytes[l]);
    pr_status status = pr__budgets_fit(&e->budgets, info.bytes_min, info.bytes_max, &e->err);
    for (uint32_t i = 0; i < e->budgets.n && status == PR_OK; i++)
        add_point(w, (pr_place){.by_budget = true, .budget = e->budgets.bytes[i]}, e->budgets.bytes[i]);
    for (uint32_t i = 0; i < w->n_points && status == PR_OK; i++)
        status = pr__tally_reserve(&w->points[i].tally, pr__eval_scored_max(e), &e->err);
    return status;
}

/* ---- telling ---- */

static void print_row(pr_str *s, point *p, const pr_figures *f, bool json, bool first) {
    char size[32];
    const char *name = p->place.by_budget ? "" : pr_level_name(p->place.level);
    if (!json) {
        pr_str_printf(s, "%-6s  %8s  %6.2f  %10.4f  %9.6f  %9.6f  %7.2f%%  %8.1f\n", name,
                      pr_format_bytes(size, sizeof size, p->info.bytes), p->info.bits_per_weight, f->perplexity,
                      f->kl_mean, f->kl_99, 100 * f->agreement, 1 / p->step_seconds);
        return;
    }
    pr_str_puts(s, first ? "\n  " : ",\n  ");
    pr__json_open(s);
    if (p->place.by_budget) pr__json_u64(s, "budget_bytes", p->place.budget);
    else pr__json_text(s, "name", name);
    pr__elastic_json(s, &p->info);
    pr__json_f64(s, "nll", f->nll);
    pr__json_f64(s, "perplexity", f->perplexity);
    pr__json_f64(s, "perplexity_error", f->error);
    pr__json_f64(s, "kl_mean", f->kl_mean);
    pr__json_f64(s, "kl_99", f->kl_99);
    pr__json_f64(s, "top1_agreement", f->agreement);
    pr__json_f64(s, "decode_tokens_per_second", 1 / p->step_seconds);
    pr__json_close(s);
}

static const char *reference_text(const pr_eval *e) {
    return e->reference.engine ? e->reference.info.path : "the model at its top level";
}

static void print_head(const walk *w, pr_str *s) {
    pr_eval *e = w->e;
    pr_figures r = pr__tally_figures(&e->reference.tally);
    if (e->json) {
        pr__json_open(s);
        pr__json_text(s, "path", e->under_test.info.path);
        pr__json_text(s, "text", e->text_name);
        pr__json_u64(s, "tokens", e->n_ids);
        pr__json_u64(s, "window", e->window);
        pr__json_u64(s, "chunks", w->n_chunks);
        pr__json_u64(s, "scored", e->reference.tally.n);
        pr__json_text(s, "reference", e->reference.engine ? e->reference.info.path : "top");
        pr__json_bool(s, "reference_exact", e->reference_exact);
        pr__json_f64(s, "reference_perplexity", r.perplexity);
        pr__json_key(s, "rows");
        pr_str_puts(s, "[");
        return;
    }
    pr_str_line(s, "text       %s: %zu tokens in %llu chunk%s of %u", e->text_name, e->n_ids,
                (unsigned long long)w->n_chunks, w->n_chunks == 1 ? "" : "s", e->window);
    pr_str_line(s, "reference  %s%s: perplexity %.4f +- %.4f", reference_text(e), e->reference_exact ? ", exact" : "",
                r.perplexity, r.error);
    pr_str_printf(s, "%-6s  %8s  %6s  %10s  %9s  %9s  %8s  %8s\n", "LEVEL", "WEIGHTS", "BITS", "PERPLEXITY", "KL MEAN",
                  "KL 99%", "TOP-1", "TOKENS/S");
}

static pr_status draw(const walk *w, const pr_figures *figures) {
    pr_eval *e = w->e;
    pr_plot_point points[POINTS_MAX];
    pr_str s = {0}, title = {0};
    for (uint32_t i = 0; i < w->n_points; i++) {
        const point *p = &w->points[i];
        points[i] = (pr_plot_point){(double)p->info.bytes, figures[i].kl_mean,
                                    p->place.by_budget ? NULL : pr_level_name(p->place.level)};
    }
    pr_str_printf(&title, "%s: distance from %s", pr__models_title(&e->under_test.info),
                  e->reference.engine ? pr__models_title(&e->reference.info) : "its top level");
    pr__plot_svg(&s, title.data ? title.data : "", "mean KL, nats a token", points, w->n_points);
    bool ok = pr_str_ok(&s) && pr_str_ok(&title);
    FILE *f = ok ? fopen(e->svg_name, "we") : NULL;
    bool wrote = f && fwrite(s.data, 1, s.len, f) == s.len;
    if (f && fclose(f) != 0) wrote = false;
    pr_str_free(&s);
    pr_str_free(&title);
    if (!ok) return pr_fail_nomem(&e->err, "a drawing", 0);
    return wrote ? PR_OK : pr_fail_errno(&e->err, "--svg: cannot write %s", e->svg_name);
}

static pr_status tell(walk *w, pr_str *out) {
    pr_eval *e = w->e;
    pr_figures figures[POINTS_MAX];
    print_head(w, out);
    for (uint32_t i = 0; i < w->n_points; i++) {
        figures[i] = pr__tally_figures(&w->points[i].tally);
        print_row(out, &w->points[i], &figures[i], e->json, i == 0);
    }
    if (e->json) pr_str_puts(out, "\n]}\n");
    return e->svg_name ? draw(w, figures) : PR_OK;
}

/* ---- all of it ---- */

static pr_status walk_text(walk *w, pr_str *out) {
    pr_progress bar;
    size_t at = 0;
    pr_status status = list_points(w);
    if (status == PR_OK) status = open_rows(w);
    pr__progress_begin(&bar, "evaluating", false, 0);
    while (at < w->e->n_ids && status == PR_OK) status = one_group(w, &at, &bar);
    pr__progress_end(&bar);
    return status == PR_OK ? tell(w, out) : status;
}

pr_status pr__eval_levels(pr_eval *e, pr_str *out) {
    walk *w = pr_calloc(PR_TAG_MISC, 1, sizeof *w);
    if (!w) return pr_fail_nomem(&e->err, "levels", sizeof *w);
    w->e = e;
    w->fd = -1;
    pr_status status = walk_text(w, out);
    if (w->fd >= 0) close(w->fd);
    for (uint32_t i = 0; i < w->n_points; i++) pr__tally_free(&w->points[i].tally);
    pr_free(w->kept);
    pr_free(w->row);
    pr_free(w);
    return status;
}
