/*
 * Levels, written and read.
 *
 * A level is said in one word. Between two named levels the lower one is named with a plus: "int4+" has all of int4
 * and some of what int8 adds. Numbers that matter (bytes, bits) stand beside it.
 */
#include "cmd/elastic.h"

#include <stdio.h>
#include <string.h>

#include "cmd/text.h"

/* ---- reading ---- */

pr_status pr__parse_size(void *out, const char *value, pr_err *err) {
    uint64_t bytes;
    if (!pr_parse_bytes(value, &bytes) || bytes == 0 || bytes > SIZE_MAX)
        return pr_fail(err, PR_ERR_ARG, "\"%.100s\" is not a size (90M, 1.5G)", value);
    *(size_t *)out = (size_t)bytes;
    return PR_OK;
}

pr_status pr__parse_level(void *out, const char *value, pr_err *err) {
    if (pr_level_by_name(value, out)) return PR_OK;
    return pr_fail(err, PR_ERR_ARG, "\"%.100s\" is not int2, int4, int8 or fp16", value);
}

pr_status pr__parse_speculate(void *out, const char *value, pr_err *err) {
    int *speculate = out;
    uint32_t n;
    if (!strcmp(value, "auto")) *speculate = PR_SPECULATE_AUTO;
    else if (!strcmp(value, "off")) *speculate = 0;
    else if (pr_parse_u32(value, &n) && n <= PR_SPECULATE_MAX) *speculate = (int)n;
    else return pr_fail(err, PR_ERR_ARG, "\"%.100s\" is not auto, off or a number up to %d", value, PR_SPECULATE_MAX);
    return PR_OK;
}

pr_status pr__place_parse(const char *text, pr_place *out, pr_err *err) {
    *out = (pr_place){0};
    if (pr_level_by_name(text, &out->level)) return PR_OK;
    out->by_budget = true;
    if (pr__parse_size(&out->budget, text, NULL) == PR_OK) return PR_OK;
    return pr_fail(err, PR_ERR_ARG, "\"%.100s\" is neither a level (int2, int4, int8, fp16) nor a size (90M)", text);
}

pr_status pr__place_move(pr_engine *engine, const pr_place *place, pr_err *err) {
    return place->by_budget ? pr_engine_set_weights_budget(engine, place->budget, err)
                            : pr_engine_set_level(engine, place->level, err);
}

/* ---- writing ---- */

const char *pr__level_text(const pr_elastic_info *e) {
    static const char *const between[PR_LEVELS] = {"int2+", "int4+", "int8+", "fp16"};
    if (e->cursor < e->level_cursor[PR_LEVEL_INT2]) return "below int2";
    return e->cursor > e->level_cursor[e->level] ? between[e->level] : pr_level_name(e->level);
}

const char *pr__level_caution(const pr_elastic_info *e) {
    if (!e->elastic || e->int2_usable || e->cursor >= e->level_cursor[PR_LEVEL_INT4]) return "";
    if (e->kl_measured && e->kl <= PR_KL_USABLE) return "";
    return e->kl_measured
               ? "so far from its source expect nonsense, not answers; without --fast, pack makes a better int2"
               : "below int4 of a file that was never measured expect nonsense, not answers";
}

const char *pr__levels_range(pr_level top) {
    static const char *const ranges[PR_LEVELS] = {"int2", "int2..int4", "int2..int8", "int2..fp16"};
    return ranges[top];
}

char *pr__elastic_brief(const pr_engine *engine, const pr_generate_stats *stats, char *buf, size_t len) {
    pr_elastic_info e;
    char size[32], drafts[64] = "";
    pr_engine_elastic(engine, &e);
    if (stats && stats->n_drafted)
        snprintf(drafts, sizeof drafts, ", %u of %u drafts accepted", stats->n_accepted, stats->n_drafted);
    if (e.elastic) {
        snprintf(buf, len, "%s, %s of weights, %.2f bits each%s", pr__level_text(&e),
                 pr_format_bytes(size, sizeof size, e.bytes), e.bits_per_weight, drafts);
    } else {
        pr_engine_info info;
        pr_engine_describe(engine, &info);
        snprintf(buf, len, "%s of weights%s", pr_format_bytes(size, sizeof size, info.weight_bytes), drafts);
    }
    return buf;
}

void pr__elastic_json(pr_str *s, const pr_elastic_info *e) {
    pr__json_text(s, "level", pr_level_name(e->level));
    pr__json_u64(s, "cursor", e->cursor);
    pr__json_u64(s, "increments", e->n_increments);
    pr__json_u64(s, "weight_bytes", e->bytes);
    pr__json_f64(s, "bits_per_weight", e->bits_per_weight);
    pr__json_f64(s, "kl_expected", e->kl);
    pr__json_bool(s, "kl_measured", e->kl_measured);
}

void pr__elastic_engine_json(pr_str *s, const pr_engine *engine) {
    pr_elastic_info e;
    pr_engine_info info;
    pr_engine_elastic(engine, &e);
    pr_engine_describe(engine, &info);
    pr__json_bool(s, "elastic", e.elastic);
    if (e.elastic) pr__elastic_json(s, &e);
    else pr__json_u64(s, "weight_bytes", info.weight_bytes);
}
