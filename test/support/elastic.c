/*
 * Tiny elastic models (elastic.h).
 */
#include "support/elastic.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "compress/pack.h"

const char *elastic_model(const llama_gguf *model, const char *name) {
    pr_err err = {0};
    pr_pack_report report;
    char packed[128];
    const pr_pack_opts opts = {.fast = true, .n_threads = 1, .unit_bytes = 1024};
    (void)snprintf(packed, sizeof packed, "%s.planes", name);
    const char *source = rig_model(model, name), *out = rig_path(packed);
    if (pr_pack_model(source, out, &opts, &report, &err)) fail_msg("%s", err.text);
    return out;
}
