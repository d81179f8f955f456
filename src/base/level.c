/*
 * Names of the precision levels. They stand on the ground floor because the governor, which knows no engine, speaks of
 * levels too.
 */
#include <string.h>

#include "base/status.h"

static const char *const names[PR_LEVELS] = {"int2", "int4", "int8", "fp16"};

const char *pr_level_name(pr_level level) { return names[level]; }

bool pr_level_by_name(const char *name, pr_level *out) {
    for (int i = 0; i < PR_LEVELS; i++) {
        if (strcmp(name, names[i]) != 0) continue;
        *out = (pr_level)i;
        return true;
    }
    return false;
}
