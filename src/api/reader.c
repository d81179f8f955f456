/*
 * Reading fields.
 *
 * One mistake is enough: what comes after the first is not looked at, so a parser is a plain list of fields with one
 * check at its end.
 */
#include "api/reader.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/str.h"

pr_status pr_reader_refuse(pr_reader *r, const char *name, const char *fmt, ...) {
    char what[256];
    va_list args;
    if (r->status) return r->status;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    snprintf(r->param, r->param_len, "%s", name);
    return r->status = pr_fail(r->err, PR_ERR_ARG, "%s%s%s", name, name[0] ? ": " : "", what);
}

pr_status pr_reader_nomem(pr_reader *r, const char *name) {
    if (!r->status) r->status = pr_fail_nomem(r->err, name, 0);
    return r->status;
}

const json_t *pr_reader_get(const pr_reader *r, const char *name) {
    const json_t *v = r->status ? NULL : json_object_get(r->obj, name);
    return json_is_null(v) ? NULL : v;
}

void pr_reader_f64(pr_reader *r, const char *name, double least, double most, double *out) {
    const json_t *v = pr_reader_get(r, name);
    if (!v) return;
    double x = json_number_value(v);
    if (!json_is_number(v)) pr_reader_refuse(r, name, "must be a number");
    else if (!(x >= least && x <= most)) pr_reader_refuse(r, name, "must be from %g to %g", least, most);
    else *out = x;
}

void pr_reader_f32(pr_reader *r, const char *name, double least, double most, float *out) {
    double x = (double)*out;
    pr_reader_f64(r, name, least, most, &x);
    *out = (float)x;
}

bool pr_reader_whole(const json_t *v, int64_t *out) {
    const double most = 9007199254740992; /* 2^53: up to here a double is the number that was meant */
    double x = json_number_value(v);
    bool real = json_is_real(v) && x == trunc(x) && fabs(x) <= most;
    if (!real && !json_is_integer(v)) return false;
    *out = real ? (int64_t)x : (int64_t)json_integer_value(v);
    return true;
}

void pr_reader_u32(pr_reader *r, const char *name, uint32_t least, uint32_t most, uint32_t *out) {
    const json_t *v = pr_reader_get(r, name);
    if (!v) return;
    int64_t n = 0;
    if (!pr_reader_whole(v, &n)) pr_reader_refuse(r, name, "must be a whole number");
    else if (n < (int64_t)least || n > (int64_t)most) pr_reader_refuse(r, name, "must be from %u to %u", least, most);
    else *out = (uint32_t)n;
}

bool pr_reader_count(const char *text, uint64_t *out) {
    uint64_t n;
    if (!pr_parse_u64(text, &n) || n >= (uint64_t)1 << 53) return false;
    *out = n;
    return true;
}

void pr_reader_bool(pr_reader *r, const char *name, bool *out) {
    const json_t *v = pr_reader_get(r, name);
    if (!v) return;
    if (!json_is_boolean(v)) pr_reader_refuse(r, name, "must be true or false");
    else *out = json_is_true(v);
}

void pr_reader_text(pr_reader *r, const char *name, const char **out) {
    const json_t *v = pr_reader_get(r, name);
    if (!v) return;
    if (!json_is_string(v)) pr_reader_refuse(r, name, "must be a string");
    else *out = json_string_value(v);
}
