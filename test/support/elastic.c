/*
 * Small elastic models (see elastic.h).
 */
#include "support/elastic.h"

#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

#include "compress/pack.h"

const char *elastic_model(const llama_gguf *model, const char *name) {
    pr_err err = {0};
    pr_pack_report report;
    const char *source = rig_model(model, "unpacked.gguf"), *path = rig_path(name);
    if (pr_pack_model(source, path, &(pr_pack_opts){.fast = true, .n_threads = 1, .unit_bytes = 4096}, &report, &err))
        fail_msg("%s", err.text);
    unlink(source);
    return path;
}
