/*
 * Names of what keys and values are kept as.
 *
 * On the ground floor because settings and commands both read them, and
 * neither may ask the other.
 */
#include <stdio.h>
#include <string.h>

#include "base/status.h"

static const char *const names[] = {"f16", "q8", "q4"};

/* The type that text[len] names. */
static bool by_name(const char *text, size_t len, pr_kv_type *out) {
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strlen(names[i]) != len || memcmp(names[i], text, len) != 0) continue;
        *out = (pr_kv_type)i;
        return true;
    }
    return false;
}

bool pr_kv_types_parse(const char *text, pr_kv_types *out) {
    pr_kv_types types;
    const char *comma = strchr(text, ',');
    if (!by_name(text, comma ? (size_t)(comma - text) : strlen(text), &types.k)) return false;
    types.v = types.k;
    if (comma && !by_name(comma + 1, strlen(comma + 1), &types.v)) return false;
    *out = types;
    return true;
}

char *pr_kv_types_format(pr_kv_types types, char *buf) {
    if (types.k == types.v) snprintf(buf, PR_KV_TYPES_TEXT, "%s", names[types.k]);
    else snprintf(buf, PR_KV_TYPES_TEXT, "%s,%s", names[types.k], names[types.v]);
    return buf;
}
