/*
 * Metadata values: typed reads of what a model file says about itself.
 *
 * A value stays in the encoding of the file (pr_meta in model_file_impl.h) and is
 * decoded at each read. Converting everything at open would cost a copy of
 * vocabularies that are read once. A number converts to another kind only when
 * nothing is lost, so a `rope_theta` written as an integer is fine and a layer
 * count of 2.5 is an error with the key in it.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "store/model_file_impl.h"

static const struct {
    uint8_t width; /* bytes; 0: of no fixed size */
    pr_meta_type kind;
} wire[PR__GGUF_TYPES] = {
    [PR__GGUF_U8] = {1, PR_META_U64},      [PR__GGUF_I8] = {1, PR_META_I64},    [PR__GGUF_U16] = {2, PR_META_U64},
    [PR__GGUF_I16] = {2, PR_META_I64},     [PR__GGUF_U32] = {4, PR_META_U64},   [PR__GGUF_I32] = {4, PR_META_I64},
    [PR__GGUF_F32] = {4, PR_META_F64},     [PR__GGUF_BOOL] = {1, PR_META_BOOL}, [PR__GGUF_STR] = {0, PR_META_STR},
    [PR__GGUF_ARRAY] = {0, PR_META_ARRAY}, [PR__GGUF_U64] = {8, PR_META_U64},   [PR__GGUF_I64] = {8, PR_META_I64},
    [PR__GGUF_F64] = {8, PR_META_F64},
};

size_t pr__gguf_width(uint32_t type) { return type < PR__GGUF_TYPES ? wire[type].width : 0; }

static pr_meta_type kind_of(uint8_t type) { return wire[type].kind; }

static uint64_t get_u64(uint8_t type, const unsigned char *p) {
    uint64_t v = 0;
    memcpy(&v, p, pr__gguf_width(type));
    return v;
}

static int64_t get_i64(uint8_t type, const unsigned char *p) {
    uint64_t v = get_u64(type, p);
    if (type == PR__GGUF_I8) return (int8_t)v;
    if (type == PR__GGUF_I16) return (int16_t)v;
    return type == PR__GGUF_I32 ? (int32_t)v : (int64_t)v;
}

static double get_f64(uint8_t type, const unsigned char *p) {
    if (type == PR__GGUF_F32) {
        float f;
        memcpy(&f, p, sizeof f);
        return (double)f;
    }
    double d;
    memcpy(&d, p, sizeof d);
    return d;
}

pr_meta_type pr_meta_kind(const pr_meta *m) { return kind_of(m->type); }

uint64_t pr_meta_len(const pr_meta *m) { return m->n; }

/* The number at p as an integer; false when it is none or does not fit. */
static bool as_i64(uint8_t type, const unsigned char *p, int64_t *out) {
    switch (kind_of(type)) {
    case PR_META_U64: {
        uint64_t v = get_u64(type, p);
        *out = (int64_t)v;
        return v <= INT64_MAX;
    }
    case PR_META_I64: *out = get_i64(type, p); return true;
    case PR_META_F64: {
        double v = get_f64(type, p);
        if (!(v >= -0x1p63 && v < 0x1p63) || v != floor(v)) return false;
        *out = (int64_t)v;
        return true;
    }
    case PR_META_BOOL:
    case PR_META_STR:
    case PR_META_ARRAY: break;
    }
    return false;
}

static bool as_f64(uint8_t type, const unsigned char *p, double *out) {
    switch (kind_of(type)) {
    case PR_META_U64: *out = (double)get_u64(type, p); return get_u64(type, p) <= (uint64_t)1 << 53;
    case PR_META_I64: *out = (double)get_i64(type, p); return fabs(*out) <= 0x1p53;
    case PR_META_F64: *out = get_f64(type, p); return true;
    case PR_META_BOOL:
    case PR_META_STR:
    case PR_META_ARRAY: break;
    }
    return false;
}

static pr_status wrong(const pr_meta *m, const char *want, pr_err *err) {
    char shown[80];
    return pr_fail(err, PR_ERR_FORMAT, "%s must be %s, but it is %s", m->key, want,
                   pr_meta_format(m, shown, sizeof shown));
}

pr_status pr_meta_u32(const pr_model_file *f, const char *key, uint32_t *out, pr_err *err) {
    const pr_meta *m = pr_model_file_meta(f, key);
    if (!m) return PR_OK;
    int64_t v;
    if (!as_i64(m->type, m->data, &v) || v < 0 || v > UINT32_MAX) {
        return wrong(m, "a whole number from 0 to 4294967295", err);
    }
    *out = (uint32_t)v;
    return PR_OK;
}

pr_status pr_meta_f32(const pr_model_file *f, const char *key, float *out, pr_err *err) {
    const pr_meta *m = pr_model_file_meta(f, key);
    if (!m) return PR_OK;
    double v;
    if (!as_f64(m->type, m->data, &v) || !isfinite((float)v)) return wrong(m, "a finite number", err);
    if (kind_of(m->type) != PR_META_F64 && (double)(float)v != v)
        return wrong(m, "a number that a float can hold", err);
    *out = (float)v;
    return PR_OK;
}

pr_status pr_meta_bool(const pr_model_file *f, const char *key, bool *out, pr_err *err) {
    const pr_meta *m = pr_model_file_meta(f, key);
    if (!m) return PR_OK;
    if (m->type != PR__GGUF_BOOL) return wrong(m, "true or false", err);
    *out = m->data[0] != 0;
    return PR_OK;
}

pr_status pr_meta_str(const pr_model_file *f, const char *key, const char **out, pr_err *err) {
    const pr_meta *m = pr_model_file_meta(f, key);
    if (!m) return PR_OK;
    if (m->type != PR__GGUF_STR) return wrong(m, "a string", err);
    *out = (const char *)m->data;
    return PR_OK;
}

bool pr_meta_at_str(const pr_meta *m, uint64_t i, const char **data, size_t *len) {
    if (m->type != PR__GGUF_ARRAY || m->elem != PR__GGUF_STR || i >= m->n) return false;
    const unsigned char *at = m->data + m->index[i];
    *len = (size_t)pr__le64(at);
    *data = (const char *)at + 8;
    return true;
}

static const unsigned char *element(const pr_meta *m, uint64_t i) {
    size_t width = pr__gguf_width(m->elem);
    return m->type == PR__GGUF_ARRAY && width && i < m->n ? m->data + i * width : NULL;
}

bool pr_meta_at_f64(const pr_meta *m, uint64_t i, double *out) {
    const unsigned char *at = element(m, i);
    return at && as_f64(m->elem, at, out);
}

bool pr_meta_at_i64(const pr_meta *m, uint64_t i, int64_t *out) {
    const unsigned char *at = element(m, i);
    return at && as_i64(m->elem, at, out);
}

static const char *plural(uint8_t type) {
    switch (kind_of(type)) {
    case PR_META_U64:
    case PR_META_I64: return "integers";
    case PR_META_F64: return "floats";
    case PR_META_BOOL: return "booleans";
    case PR_META_STR: return "strings";
    case PR_META_ARRAY: break;
    }
    return "arrays";
}

char *pr_meta_format(const pr_meta *m, char *buf, size_t len) {
    switch (kind_of(m->type)) {
    case PR_META_U64: snprintf(buf, len, "%" PRIu64, get_u64(m->type, m->data)); break;
    case PR_META_I64: snprintf(buf, len, "%" PRId64, get_i64(m->type, m->data)); break;
    case PR_META_F64: snprintf(buf, len, "%.9g", get_f64(m->type, m->data)); break;
    case PR_META_BOOL: snprintf(buf, len, "%s", m->data[0] ? "true" : "false"); break;
    case PR_META_STR: snprintf(buf, len, "\"%s\"", pr__show((const char *)m->data, (size_t)m->n).text); break;
    case PR_META_ARRAY: snprintf(buf, len, "[%" PRIu64 " %s]", m->n, plural(m->elem)); break;
    }
    return buf;
}
