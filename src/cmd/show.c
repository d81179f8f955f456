/*
 * precis show: what a model is and what it would need here, from its header
 * alone.
 *
 * "Fits" compares the predicted peak of the process with what is available now
 * under the machine's limits. The largest context follows from the same
 * numbers: everything but the KV pages is independent of it.
 */
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "cmd/commands.h"
#include "cmd/elastic.h"
#include "cmd/load.h"
#include "cmd/models.h"
#include "cmd/term.h"
#include "cmd/text.h"
#include "store/planes.h"
#include "text/chat.h"

typedef struct show {
    pr_load load;
    bool json, graph, meta, tensors;
    pr_model_file *file;
    pr_estimate *estimate;
    pr_str out;
    pr_err err;
} show;

/* Memory here, against what the model needs. */
typedef struct fit {
    uint64_t limit, available; /* of the machine or the cgroup; now free of it */
    bool fits;
    uint32_t context; /* the largest that fits, at most what the model was made for; 0: none */
} fit;

static fit measure(const pr_engine_info *info) {
    fit f = {.limit = pr_memory_limit(), .available = pr_ram_available()};
    if (f.available > f.limit) f.available = f.limit;
    uint64_t fixed = info->peak_bytes > info->kv_bytes_max ? info->peak_bytes - info->kv_bytes_max : 0;
    uint64_t most = info->context_train > info->context_max ? info->context_train : info->context_max;
    f.fits = info->peak_bytes <= f.available;
    if (f.available > fixed && info->kv_bytes_per_token) {
        uint64_t tokens = (f.available - fixed) / info->kv_bytes_per_token;
        f.context = (uint32_t)(tokens < most ? tokens : most);
    }
    return f;
}

/* ---- summary ---- */

static void summary_text(pr_str *s, const pr_engine_info *i, const pr_engine_opts *opts) {
    char a[32], b[32], c[32], kv[PR_KV_TYPES_TEXT];
    fit f = measure(i);
    pr_str_line(s, "%s (%s)", pr__models_title(i), i->arch);
    pr_str_line(s, "  file        %s, %s: %s", i->path, pr_format_bytes(a, sizeof a, i->file_bytes), i->weight_types);
    if (i->note[0]) pr_str_line(s, "  note        %s", i->note);
    pr_str_printf(s, "  parameters  %s\n", pr__format_count(a, sizeof a, i->n_params));
    pr_str_printf(s, "  shape       %u layers, width %u, %u heads of %u (%u for keys and values), feed-forward %u\n",
                  i->n_layers, i->n_embd, i->n_heads, i->head_dim, i->n_kv_heads, i->n_ff);
    pr_str_printf(s, "  vocabulary  %u tokens, chat template %s\n", i->n_vocab,
                  i->chat_template[0] ? i->chat_template : "none that is known");
    pr_str_printf(s, "  context     %u here; made for %u\n", i->context_max, i->context_train);
    pr_str_printf(s, "  kernels     %s%s, %d threads\n", i->isa, opts->exact ? ", fp32 activations" : "", i->n_threads);
    pr_str_printf(s, "  memory      weights %s, KV %s (%zu bytes a token, %s), work space %s\n",
                  pr_format_bytes(a, sizeof a, i->weight_bytes), pr_format_bytes(b, sizeof b, i->kv_bytes_max),
                  i->kv_bytes_per_token, pr_kv_types_format(opts->kv_type, kv),
                  pr_format_bytes(c, sizeof c, i->scratch_bytes));
    pr_str_printf(s, "  peak        %s, with all of that context in use\n",
                  pr_format_bytes(a, sizeof a, i->peak_bytes));
    pr_str_printf(s, "  here        %s available of %s: %s\n", pr_format_bytes(a, sizeof a, f.available),
                  pr_format_bytes(b, sizeof b, f.limit), f.fits ? "fits" : "DOES NOT FIT");
    if (f.context) pr_str_printf(s, "              largest context that fits: %u tokens\n", f.context);
    else pr_str_puts(s, "              no context fits: take a smaller model, or free memory\n");
}

static void summary_json(pr_str *s, const pr_engine_info *i, const pr_engine_opts *opts) {
    char kv[PR_KV_TYPES_TEXT];
    fit f = measure(i);
    pr__json_text(s, "path", i->path);
    pr__json_text(s, "arch", i->arch);
    pr__json_text(s, "name", i->name);
    pr__json_text(s, "chat_template", i->chat_template);
    pr__json_text(s, "weight_types", i->weight_types);
    pr__json_text(s, "note", i->note);
    pr__json_text(s, "isa", i->isa);
    pr__json_u64(s, "threads", (uint64_t)i->n_threads);
    pr__json_text(s, "kv_type", pr_kv_types_format(opts->kv_type, kv));
    pr__json_bool(s, "exact", opts->exact);
    pr__json_u64(s, "params", i->n_params);
    pr__json_u64(s, "layers", i->n_layers);
    pr__json_u64(s, "embd", i->n_embd);
    pr__json_u64(s, "heads", i->n_heads);
    pr__json_u64(s, "kv_heads", i->n_kv_heads);
    pr__json_u64(s, "head_dim", i->head_dim);
    pr__json_u64(s, "ff", i->n_ff);
    pr__json_u64(s, "vocab", i->n_vocab);
    pr__json_u64(s, "context_train", i->context_train);
    pr__json_u64(s, "context_max", i->context_max);
    pr__json_u64(s, "file_bytes", i->file_bytes);
    pr__json_u64(s, "weight_bytes", i->weight_bytes);
    pr__json_u64(s, "weight_bytes_read", i->weight_bytes_read);
    pr__json_u64(s, "kv_bytes_per_token", i->kv_bytes_per_token);
    pr__json_u64(s, "kv_bytes_max", i->kv_bytes_max);
    pr__json_u64(s, "scratch_bytes", i->scratch_bytes);
    pr__json_u64(s, "peak_bytes", i->peak_bytes);
    pr__json_u64(s, "memory_limit_bytes", f.limit);
    pr__json_u64(s, "memory_available_bytes", f.available);
    pr__json_bool(s, "fits", f.fits);
    pr__json_u64(s, "context_fits", f.context);
}

/* ---- levels of an elastic model ---- */

/* Bytes of each plane in the file, and matrices that have it. */
static uint64_t plane_bytes(const pr_plane_set *set, uint32_t plane, uint32_t *n_tensors) {
    uint64_t bytes = 0;
    *n_tensors = 0;
    for (uint32_t t = 0; t < set->n_tensors; t++) {
        if (plane >= set->tensors[t].n_planes) continue;
        bytes += set->tensors[t].data[plane]->bytes;
        ++*n_tensors;
    }
    return bytes;
}

/* The estimate's description as if it began at `level`. */
static pr_status at_level(const show *w, pr_level level, pr_elastic_info *out, pr_err *err) {
    pr_engine_opts opts = w->load.opts;
    pr_estimate *estimate = NULL;
    opts.level_given = true;
    opts.level = level;
    opts.weights_budget = 0;
    pr_status status = pr_engine_estimate(pr_model_file_path(w->file), &opts, &estimate, err);
    if (status == PR_OK) pr_estimate_elastic(estimate, out);
    pr_estimate_close(estimate);
    return status;
}

static void level_line(pr_str *s, pr_level level, const pr_elastic_info *e, bool json) {
    char size[32];
    if (!json) {
        pr_str_printf(s, "  %-10s  %8s  %5.2f bits  KL %.4f%s  %u increments\n", pr_level_name(level),
                      pr_format_bytes(size, sizeof size, e->bytes), e->bits_per_weight, e->kl,
                      e->kl_measured ? ""
                      : e->measured  ? " (extrapolated)"
                                     : " (a guess)",
                      e->cursor);
        if (*pr__level_caution(e)) pr_str_printf(s, "              %s\n", pr__level_caution(e));
        return;
    }
    pr_str_puts(s, level == PR_LEVEL_INT2 ? "[" : ", ");
    pr__json_open(s);
    pr__elastic_json(s, e);
    pr__json_close(s);
}

static pr_status levels(show *w, const pr_elastic_info *here) {
    static const char *const names[] = {"p2", "p4", "p8", "p16"};
    const pr_plane_set *set = pr_model_file_planes(w->file);
    pr_str *s = &w->out;
    pr_status status = PR_OK;
    char size[32];
    uint32_t n;
    if (w->json) pr__json_key(s, "levels");
    else pr_str_printf(s, "  begins at   %s, %.2f bits a weight\n", pr__level_text(here), here->bits_per_weight);
    for (int l = 0; l <= (int)here->top && status == PR_OK; l++) {
        pr_elastic_info e;
        status = at_level(w, (pr_level)l, &e, &w->err);
        if (status == PR_OK) level_line(s, (pr_level)l, &e, w->json);
    }
    if (w->json) pr_str_puts(s, "]");
    if (w->json) pr__json_key(s, "planes");
    if (w->json) pr__json_open(s);
    else pr_str_puts(s, "  planes      ");
    for (uint32_t p = 0; p < set->n_planes; p++) {
        uint64_t bytes = plane_bytes(set, p, &n);
        if (w->json) pr__json_u64(s, names[p], bytes);
        else
            pr_str_printf(s, "%s%s %s of %u matrices", p ? ", " : "", names[p],
                          pr_format_bytes(size, sizeof size, bytes), n);
    }
    if (w->json) pr__json_close(s);
    else pr_str_printf(s, "\n  increments  %u, of %u units\n", set->n_increments, set->n_units);
    return status;
}

/* What is told of an elastic model besides; nothing of an ordinary one. */
static pr_status elastic(show *w) {
    pr_elastic_info e;
    pr_estimate_elastic(w->estimate, &e);
    if (w->json) pr__json_bool(&w->out, "elastic", e.elastic);
    if (!e.elastic) return PR_OK;
    if (w->json) {
        pr__json_text(&w->out, "level", pr_level_name(e.level));
        pr__json_u64(&w->out, "cursor", e.cursor);
        pr__json_u64(&w->out, "increments", e.n_increments);
        pr__json_f64(&w->out, "bits_per_weight", e.bits_per_weight);
        pr__json_f64(&w->out, "kl_expected", e.kl);
        pr__json_u64(&w->out, "bytes_min", e.bytes_min);
        pr__json_u64(&w->out, "bytes_max", e.bytes_max);
    }
    return levels(w, &e);
}

/* ---- what the file holds ---- */

static void meta(show *w) {
    char value[160];
    if (w->json) {
        pr__json_key(&w->out, "meta");
        pr__json_open(&w->out);
    }
    for (size_t i = 0; i < pr_model_file_n_meta(w->file); i++) {
        const char *key = pr_model_file_meta_key(w->file, i);
        pr_meta_format(pr_model_file_meta(w->file, key), value, sizeof value);
        if (w->json) pr__json_text(&w->out, key, value);
        else pr_str_line(&w->out, "%s = %s", key, value);
    }
    if (w->json) pr__json_close(&w->out);
}

static void tensor(pr_str *s, const pr_tensor_info *t, bool json) {
    const char *type = pr_dtype_get(t->dtype)->name;
    char size[32], name[256];
    if (json) {
        pr__json_open(s);
        pr__json_text(s, "name", t->name);
        pr__json_text(s, "type", type);
        pr__json_key(s, "shape");
    } else {
        pr_str_printf(s, "%-32s %-5s ", pr_text_safe(name, sizeof name, t->name), type);
    }
    for (uint32_t d = 0; d < t->n_dims; d++) {
        pr_str_printf(s, "%s%llu", d ? (json ? ", " : " x ") : (json ? "[" : ""), (unsigned long long)t->dims[d]);
    }
    if (json) {
        pr_str_puts(s, "]");
        pr__json_u64(s, "bytes", t->bytes);
        pr__json_close(s);
    } else if (t->dtype == PR_PLANES) {
        pr_str_puts(s, ", in the planes above\n");
    } else {
        pr_str_printf(s, ", %s\n", pr_format_bytes(size, sizeof size, t->bytes));
    }
}

static void tensors(show *w) {
    if (w->json) {
        pr__json_key(&w->out, "tensors");
        pr_str_puts(&w->out, "[");
    }
    for (size_t i = 0; i < pr_model_file_n_tensors(w->file); i++) {
        if (w->json && i) pr_str_puts(&w->out, ", ");
        tensor(&w->out, pr_model_file_tensor(w->file, i), w->json);
    }
    if (w->json) pr_str_puts(&w->out, "]");
}

static pr_status graph(show *w) {
    char *text = NULL;
    pr_status status = pr_estimate_graph(w->estimate, &text, &w->err);
    if (status == PR_OK && w->json) pr__json_text(&w->out, "graph", text);
    else if (status == PR_OK) pr_str_puts(&w->out, text);
    pr_text_free(text);
    return status;
}

/* Which built-in template the file's own is; an estimate does not read the vocabulary. */
static const char *chat_template(const pr_model_file *file) {
    const char *jinja = NULL;
    if (pr_meta_str(file, "tokenizer.chat_template", &jinja, NULL) != PR_OK) return "";
    const pr_chat_template *t = pr_chat_detect(jinja);
    return t ? pr_chat_name(t) : "";
}

/* ---- the command ---- */

static pr_status show_model(show *w, const char *model) {
    char *path = NULL;
    bool parts = w->graph || w->meta || w->tensors;
    bool estimate = w->graph || w->json || !parts;
    pr_status status = pr__load_check(&w->load, &w->err);
    if (status == PR_OK) status = pr__models_resolve(model, &path, &w->err);
    if (status == PR_OK) status = pr_model_file_open(path, &w->file, &w->err);
    if (status == PR_OK) status = pr__load_fit(&w->load, path, &w->err);
    if (status == PR_OK && estimate) status = pr_engine_estimate(path, &w->load.opts, &w->estimate, &w->err);
    if (status != PR_OK) pr__models_name_file(path, &w->err);
    if (status == PR_OK && w->json) pr__json_open(&w->out);
    if (status == PR_OK && estimate && (w->json || !parts)) {
        pr_engine_info info;
        pr_estimate_describe(w->estimate, &info);
        info.chat_template = chat_template(w->file);
        if (w->json) summary_json(&w->out, &info, &w->load.opts);
        else summary_text(&w->out, &info, &w->load.opts);
        status = elastic(w);
    }
    if (status == PR_OK && w->meta) meta(w);
    if (status == PR_OK && w->tensors) tensors(w);
    if (status == PR_OK && w->graph) status = graph(w);
    if (status == PR_OK && w->json) pr_str_puts(&w->out, "}\n");
    pr_model_file_close(w->file);
    pr_estimate_close(w->estimate);
    pr_free(path);
    return status;
}

int pr__cmd_show(int argc, const char **argv) {
    show w = {0};
    pr_args args;
    int code;
    const pr_flag flags[] = {
        {"graph", 0, PR_FLAG_BOOL, NULL, "the graph before and after lowering, with bytes", &w.graph, NULL, NULL},
        {"meta", 0, PR_FLAG_BOOL, NULL, "the file's metadata", &w.meta, NULL, NULL},
        {"tensors", 0, PR_FLAG_BOOL, NULL, "the file's tensors", &w.tensors, NULL, NULL},
        {"json", 0, PR_FLAG_BOOL, NULL, "for scripts", &w.json, NULL, NULL},
    };
    const pr_flag_group groups[] = {{NULL, flags, sizeof flags / sizeof *flags, false}, pr__load_flags(&w.load)};
    const pr_usage usage = {
        "show",
        "MODEL",
        "What a model is, what it would need with these options, and whether that fits\n"
        "here. Nothing is loaded.\n",
        groups,
        2,
        1,
        1,
    };
    w.load.serves = true;
    if (!pr__cmd_begin(&usage, argc, argv, &args, &code)) return code;
    if (show_model(&w, args.arg[0]) == PR_OK) return pr__cmd_print(&w.out);
    pr_str_free(&w.out);
    return pr__cmd_fail(&w.err);
}
