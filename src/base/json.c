/*
 * JSON through jansson.
 *
 * jansson is pointed at base/mem once, before its first use here, so parsed
 * documents are in the ledger and every allocation of the parser can be made to
 * fail. It reports running out of memory like a syntax error with a code of its
 * own; here that becomes PR_ERR_NOMEM, since a caller may free something and
 * try again, which does not help with a comma too many.
 */
#include "base/json.h"

#include <pthread.h>

#include "base/mem.h"
#include "base/os.h"

/* Set when an allocation of this thread's parse failed: jansson does not always keep that code. */
static _Thread_local bool starved;

static void *json_alloc(size_t bytes) {
    void *p = pr_alloc(PR_TAG_JSON, bytes);
    if (!p) starved = true;
    return p;
}

static void json_use_ledger(void) { json_set_alloc_funcs(json_alloc, pr_free); }

pr_status pr_json_parse(const char *text, size_t len, const char *what, json_t **out, pr_err *err) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, json_use_ledger);
    json_error_t at;
    starved = false;
    *out = json_loadb(text, len, 0, &at);
    if (!*out && json_error_code(&at) == json_error_numeric_overflow) {
        *out = json_loadb(text, len, JSON_DECODE_INT_AS_REAL, &at);
    }
    if (*out && !starved) return PR_OK;
    json_decref(*out); /* jansson goes on with a byte missing when its buffer cannot grow */
    *out = NULL;
    if (starved || json_error_code(&at) == json_error_out_of_memory) return pr_fail_nomem(err, what, len);
    bool nul = json_error_code(&at) == json_error_null_character; /* jansson's own text names a flag of its */
    return pr_fail(err, PR_ERR_FORMAT, "%s: line %d, column %d: %s", what, at.line, at.column,
                   nul ? "a text may not hold \\u0000" : at.text);
}

pr_status pr_json_load(const char *path, size_t bytes_max, json_t **out, pr_err *err) {
    char *text;
    size_t len;
    *out = NULL;
    pr_status status = pr_file_slurp(path, bytes_max, &text, &len, err);
    if (status != PR_OK) return status;
    status = pr_json_parse(text, len, path, out, err);
    pr_free(text);
    return status;
}

pr_status pr_json_u32(const json_t *obj, const char *key, uint32_t *out, pr_err *err) {
    const json_t *value = json_object_get(obj, key);
    if (!value) return PR_OK;
    json_int_t n = json_is_integer(value) ? json_integer_value(value) : -1;
    if (n < 0 || n > (json_int_t)UINT32_MAX) {
        return pr_fail(err, PR_ERR_FORMAT, "\"%s\" must be a whole number from 0 to 4294967295", key);
    }
    *out = (uint32_t)n;
    return PR_OK;
}

pr_status pr_json_f64(const json_t *obj, const char *key, double *out, pr_err *err) {
    const json_t *value = json_object_get(obj, key);
    if (!value) return PR_OK;
    if (!json_is_number(value)) return pr_fail(err, PR_ERR_FORMAT, "\"%s\" must be a number", key);
    *out = json_number_value(value);
    return PR_OK;
}

pr_status pr_json_bool(const json_t *obj, const char *key, bool *out, pr_err *err) {
    const json_t *value = json_object_get(obj, key);
    if (!value) return PR_OK;
    if (!json_is_boolean(value)) return pr_fail(err, PR_ERR_FORMAT, "\"%s\" must be true or false", key);
    *out = json_is_true(value);
    return PR_OK;
}

pr_status pr_json_str(const json_t *obj, const char *key, const char **out, pr_err *err) {
    const json_t *value = json_object_get(obj, key);
    if (!value) return PR_OK;
    if (!json_is_string(value)) return pr_fail(err, PR_ERR_FORMAT, "\"%s\" must be a string", key);
    *out = json_string_value(value);
    return PR_OK;
}
