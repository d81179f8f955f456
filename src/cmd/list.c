/*
 * precis list: the models in the folder, from their headers alone.
 *
 * A file that cannot be read stays in the list with the reason: it is the one
 * somebody is looking for.
 */
#include <stdio.h>
#include <string.h>

#include "cmd/commands.h"
#include "cmd/elastic.h"
#include "cmd/models.h"
#include "cmd/term.h"
#include "cmd/text.h"
#include "store/planes.h"

enum { SHOWN_BYTES = 4 * 255 + 1 }; /* of a name, every byte of it escaped */

typedef struct entry {
    const char *name;
    char arch[32], type[32];
    const char *levels; /* of an elastic model; NULL: an ordinary one */
    uint64_t bytes, n_params;
    pr_err err; /* text is empty when the file was read */
} entry;

/* Planes are not tensors of their own: each matrix is counted once, under its name. */
static void count_planes(const pr_plane_set *set, entry *e) {
    for (uint32_t t = 0; t < set->n_tensors; t++) {
        for (uint32_t p = 0; p < set->tensors[t].n_planes; p++) e->n_params -= set->tensors[t].data[p]->bytes;
    }
    e->levels = pr__levels_range((pr_level)(set->n_planes - 1));
    snprintf(e->type, sizeof e->type, "elastic, %s", e->levels);
}

/* The type that holds most of the bytes. */
static void count_tensors(const pr_model_file *file, entry *e) {
    uint64_t bytes_of[PR_DTYPE_COUNT] = {0};
    size_t best = 0;
    for (size_t i = 0; i < pr_model_file_n_tensors(file); i++) {
        const pr_tensor_info *t = pr_model_file_tensor(file, i);
        e->n_params += t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
        bytes_of[t->dtype] += t->bytes;
        if (bytes_of[t->dtype] > bytes_of[best]) best = t->dtype;
    }
    const pr_plane_set *set = pr_model_file_planes(file);
    if (set) count_planes(set, e);
    else snprintf(e->type, sizeof e->type, "%s", e->n_params ? pr_dtype_get((pr_dtype)best)->name : "vocabulary");
}

static void read_entry(const char *dir, entry *e) {
    pr_model_file *file = NULL;
    const char *arch = "?";
    char *path = pr__path_join(dir, e->name);
    pr_status status = path ? pr_model_file_open(path, &file, &e->err) : pr_fail_nomem(&e->err, "a path", 0);
    if (status == PR_OK) {
        const char *key = pr_model_file_kind(file) == PR_FILE_GGUF ? "general.architecture" : "model_type";
        (void)pr_meta_str(file, key, &arch, NULL); /* a wrong type is as good as none here */
        snprintf(e->arch, sizeof e->arch, "%s", arch);
        e->bytes = pr_model_file_bytes(file);
        count_tensors(file, e);
    }
    pr_model_file_close(file);
    pr_free(path);
}

static void add_json(pr_str *s, const entry *e, bool first) {
    pr_str_puts(s, first ? "\n  " : ",\n  ");
    pr__json_open(s);
    pr__json_text(s, "name", e->name);
    if (e->err.text[0]) {
        pr__json_text(s, "error", e->err.text);
    } else {
        pr__json_u64(s, "bytes", e->bytes);
        pr__json_text(s, "arch", e->arch);
        pr__json_u64(s, "params", e->n_params);
        pr__json_text(s, "type", e->levels ? "elastic" : e->type);
        if (e->levels) pr__json_text(s, "levels", e->levels);
    }
    pr__json_close(s);
}

/* A file's name as it stands in the list. */
static const char *shown_name(const char *file, char name[SHOWN_BYTES]) {
    pr_text_safe(name, SHOWN_BYTES, file);
    if (pr_str_ends(name, ".gguf")) name[strlen(name) - strlen(".gguf")] = '\0';
    return name;
}

static void add_line(pr_str *s, const entry *e, int width) {
    char size[32], params[32], name[SHOWN_BYTES];
    pr__text_pad(s, shown_name(e->name, name), width);
    if (e->err.text[0]) pr_str_line(s, "  unreadable: %s", e->err.text);
    else
        pr_str_line(s, "  %8s  %-8s  %8s  %s", pr_format_bytes(size, sizeof size, e->bytes), e->arch,
                    pr__format_count(params, sizeof params, e->n_params), e->type);
}

static pr_status list_models(const char *dir, bool json, pr_str *out, pr_err *err) {
    pr_model_names names;
    int width = 5;
    pr_status status = pr__models_names(dir, &names, err);
    if (status != PR_OK) return status;
    for (size_t i = 0; i < names.n; i++) {
        char name[SHOWN_BYTES];
        int columns = pr__text_columns(shown_name(names.name[i], name));
        if (columns > width) width = columns;
    }
    if (json) pr_str_puts(out, "{\"folder\": ");
    if (json) pr_str_json(out, dir, strlen(dir));
    if (json) pr_str_puts(out, ", \"models\": [");
    else if (names.n) pr_str_printf(out, "%-*s  %8s  %-8s  %8s  %s\n", width, "NAME", "SIZE", "ARCH", "PARAMS", "TYPE");
    else pr_str_line(out, "no models in %s; `precis pull smollm2` fetches one", dir);
    for (size_t i = 0; i < names.n; i++) {
        entry e = {.name = names.name[i]};
        read_entry(dir, &e);
        if (json) add_json(out, &e, i == 0);
        else add_line(out, &e, width);
    }
    if (json) pr_str_puts(out, names.n ? "\n]}\n" : "]}\n");
    pr__models_names_free(&names);
    return PR_OK;
}

int pr__cmd_list(int argc, const char **argv) {
    bool json = false;
    const pr_flag flags[] = {{"json", 0, PR_FLAG_BOOL, NULL, "for scripts", &json, NULL, NULL}};
    const pr_flag_group group = {NULL, flags, 1, false};
    const pr_usage usage = {
        "list", "", "The models in the folder (PRECIS_MODELS, or ~/.local/share/precis/models).\n", &group, 1, 0, 0,
    };
    pr_args args;
    pr_err err = {0};
    pr_str out = {0};
    char *dir = NULL;
    int code;
    if (!pr__cmd_begin(&usage, argc, argv, &args, &code)) return code;
    pr_status status = pr__models_dir(&dir, &err);
    if (status == PR_OK) status = list_models(dir, json, &out, &err);
    pr_free(dir);
    if (status == PR_OK) return pr__cmd_print(&out);
    pr_str_free(&out);
    return pr__cmd_fail(&err);
}
