/*
 * The packer: describe, keep, encode, rank, measure, rank again.
 *
 * The writer wants all descriptions before any data, and a plane file has all p2 planes before all p4 planes, while a
 * matrix is encoded in all its planes at once. So the data of planes goes to its place in any order (pr_gguf_data_at),
 * and what is only known at the end (books, checksums, the order of increments) is patched in: first with an order by
 * table, so that the unfinished file can be opened and measured, then with the final one.
 */
#include <assert.h>
#include <libdeflate.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "base/os.h"
#include "base/str.h"
#include "compress/damage.h"
#include "compress/pack_impl.h"
#include "store/convert.h"
#include "store/encode.h"

enum {
    ALIGNMENT = 4096,
    COPY_BYTES = 1 << 20,
    POLISH = 5,
    ANCHORS_MAX = 8,
    FAST_TOKENS = 512, /* of the text that is read with `fast`, */
    FAST_PROBE = 128   /* and of those that its levels are measured with */
};

static const double MEASURE_WORK = 16e12; /* one of 135M weights takes 4e12 for all of its matrices */
/* Shares of the whole for the progress. */
static const double SHARE_READ = 0.3, SHARE_ENCODE = 0.5, SHARE_MEASURE = 0.2;
static const double SHARE_READ_FAST = 0.25, SHARE_ENCODE_FAST = 0.75;
/* Of H (store/encode.h): rows of a tied embedding are looked up as well, where all columns count alike. */
static const float DAMP = 0.1F, DAMP_HEAD = 0.5F, DAMP_TIED = 1;

typedef struct packer {
    pr_pack_opts o;
    pr_pack_report *report;
    pr_model_file *file;
    pr_model_desc desc;
    pr_graph g;
    pr__pack_plan plan;
    const pr_kernels *k;
    pr_team *team;
    pr_gguf_writer *w;
    pr_calibration cal;
    pr_damage *damages;
    uint64_t encoded;      /* weights */
    double read, measured; /* 0..1 */
} packer;

/* ---- progress --------------------------------------------------------------- */

static void tell(const packer *p, const char *stage) {
    double encoded = (double)p->encoded / (double)p->plan.set.n_weights;
    double all = p->o.fast ? SHARE_READ_FAST * p->read + SHARE_ENCODE_FAST * encoded
                           : SHARE_READ * p->read + SHARE_ENCODE * encoded + SHARE_MEASURE * p->measured;
    if (p->o.progress) p->o.progress(p->o.progress_arg, stage, all);
}

static void tell_read(void *arg, double fraction) {
    packer *p = arg;
    p->read = fraction;
    tell(p, "calibrating");
}

static void tell_measured(void *arg, double fraction) {
    packer *p = arg;
    p->measured = fraction;
    tell(p, "measuring");
}

static pr_status check_cancel(const packer *p, pr_err *err) {
    return p->o.cancel && *p->o.cancel ? pr_fail(err, PR_ERR_CANCELLED, "stopped") : PR_OK;
}

/* ---- opening --------------------------------------------------------------- */

static bool same_file(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static pr_status refuse_source(const packer *p, const char *source, const char *out, pr_err *err) {
    pr_str inside = {0};
    pr_str_printf(&inside, "%s/model.safetensors", pr_model_file_dir(p->file));
    pr_status st = pr_str_ok(&inside) ? PR_OK : pr_fail_nomem(err, "a path", inside.len);
    if (!st &&
        (same_file(source, out) || (pr_model_file_kind(p->file) == PR_FILE_SAFETENSORS && same_file(inside.data, out))))
        st = pr_fail(err, PR_ERR_ARG, "%s is the source itself: it will not be overwritten", out);
    pr_str_free(&inside);
    if (!st && pr_model_file_planes(p->file)) st = pr_fail(err, PR_ERR_ARG, "%s is packed already", source);
    return st;
}

/* Where the source was rounded before, say so, with the type that most of it has. */
static void note_source(packer *p) {
    uint64_t weights[PR_DTYPE_COUNT] = {0};
    int most = PR_F32;
    for (uint32_t i = 0; i < p->plan.set.n_tensors; i++) {
        const pr_tensor_info *t = p->plan.matrices[i].source;
        if (pr_dtype_get(t->dtype)->block_elems > 1) weights[t->dtype] += t->dims[0] * t->dims[1];
        if (weights[t->dtype] > weights[most]) most = (int)t->dtype;
    }
    if (!weights[most]) return;
    snprintf(
        p->report->note, sizeof p->report->note,
        "the source is quantized already (%s): what it has lost is lost, and every level loses a second time; an F16 "
        "or BF16 source gives a better file",
        pr_dtype_get((pr_dtype)most)->name);
}

static pr_status open_source(packer *p, const char *source, const char *out, pr_err *err) {
    pr_status st = pr_model_file_open(source, &p->file, err);
    if (!st) st = refuse_source(p, source, out, err);
    if (!st) st = pr_model_build(p->file, &p->desc, &p->g, err);
    if (!st) st = pr__pack_plan_make(p->file, &p->g, p->o.unit_bytes, &p->plan, err);
    if (st) return st;
    note_source(p);
    p->k = pr_kernels_get(p->o.cpumask);
    p->damages = pr_calloc(PR_TAG_SCRATCH, p->plan.set.n_units, sizeof *p->damages);
    if (!p->damages) return pr_fail_nomem(err, "damages", p->plan.set.n_units * sizeof *p->damages);
    return pr_team_open(p->o.n_threads ? p->o.n_threads : pr_cpu_allowed(), p->o.nice, &p->team, err);
}

/* ---- describing ------------------------------------------------------------- */

static void describe_origin(packer *p) {
    pr_str types = {0}, bytes = {0}, changed = {0}, calibration = {0};
    uint32_t counts[PR_DTYPE_COUNT] = {0};
    for (size_t i = 0; i < pr_model_file_n_tensors(p->file); i++) counts[pr_model_file_tensor(p->file, i)->dtype]++;
    for (int t = 0; t < PR_DTYPE_COUNT; t++)
        if (counts[t])
            pr_str_printf(&types, "%s%s %u", types.len ? ", " : "", pr_dtype_get((pr_dtype)t)->name, counts[t]);
    pr_str_printf(&bytes, "%llu", (unsigned long long)pr_model_file_bytes(p->file));
    pr_str_printf(&changed, "%lld", (long long)pr_model_file_changed_ns(p->file));
    const char *path = pr_model_file_path(p->file), *slash = strrchr(path, '/');
    pr_str_printf(&calibration, "%s%s", p->o.fast ? "fast, " : "", p->o.text_name ? p->o.text_name : "built-in");
    pr_gguf_meta_str(p->w, "precis.source", slash ? slash + 1 : path);
    if (pr_str_ok(&types) && pr_str_ok(&bytes) && pr_str_ok(&changed)) {
        pr_gguf_meta_str(p->w, "precis.source.bytes", bytes.data);
        pr_gguf_meta_str(p->w, "precis.source.changed", changed.data);
        pr_gguf_meta_str(p->w, "precis.source.types", types.data);
    }
    if (pr_str_ok(&calibration)) pr_gguf_meta_str(p->w, "precis.calibration", calibration.data);
    pr_str_free(&types);
    pr_str_free(&bytes);
    pr_str_free(&changed);
    pr_str_free(&calibration);
}

static pr_status describe(packer *p, const char *out, pr_err *err) {
    pr_status st = pr_gguf_create(out, ALIGNMENT, &p->w, err);
    if (!st) st = pr__pack_meta(p->w, p->file, &p->desc, err);
    if (st) return st;
    describe_origin(p);
    pr_planes_describe(p->w, &p->plan.set);
    for (uint32_t i = 0; i < p->plan.n_kept; i++) {
        const pr_tensor_info *t = p->plan.kept[i].source;
        pr_gguf_tensor(p->w, p->plan.kept[i].name, t->dtype, t->n_dims, t->dims);
    }
    pr_planes_describe_tensors(p->w, &p->plan.set);
    return PR_OK;
}

static pr_status copy_kept(packer *p, pr_err *err) {
    uint8_t *buffer = pr_alloc(PR_TAG_FILE, COPY_BYTES);
    pr_status st = buffer ? PR_OK : pr_fail_nomem(err, "a buffer", COPY_BYTES);
    for (uint32_t i = 0; i < p->plan.n_kept && !st; i++) {
        const pr_tensor_info *t = p->plan.kept[i].source;
        for (uint64_t at = 0; at < t->bytes && !st; at += COPY_BYTES) {
            size_t n = t->bytes - at < COPY_BYTES ? (size_t)(t->bytes - at) : COPY_BYTES;
            st = pr_model_file_read(p->file, t, at, buffer, n, err);
            if (!st) st = pr_gguf_data(p->w, buffer, n, err);
        }
        if (!st) st = check_cancel(p, err);
    }
    pr_free(buffer);
    return st;
}

/* ---- encoding --------------------------------------------------------------- */

static size_t plane_bytes(const pr_plane_tensor *t, uint32_t plane) {
    return pr_pack_tiles(t->rows) * pr_plane_tile_bytes((pr_plane)plane, t->cols);
}

static pr_status write_planes(packer *p, uint32_t i, uint8_t *const *plane, pr_err *err) {
    const pr_plane_tensor *t = &p->plan.set.tensors[i];
    pr_status st = PR_OK;
    for (uint32_t l = 0; l < t->n_planes && !st; l++) {
        size_t tile = pr_plane_tile_bytes((pr_plane)l, t->cols);
        for (uint32_t u = t->unit0; u < t->unit0 + t->n_units; u++) {
            pr_plane_piece *piece = &p->plan.set.units[u];
            piece->crc[l] = libdeflate_crc32(0, plane[l] + piece->tile0 * tile, piece->n_tiles * tile);
        }
        st = pr_gguf_data_at(p->w, p->plan.matrices[i].tensor[l], 0, plane[l], plane_bytes(t, l), err);
    }
    return st;
}

static double norm_of(const float *w, size_t n, uint32_t cols) {
    assert(w != NULL);
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)w[i] * (double)w[i];
    return sum / cols;
}

static float damp_of(const pr__matrix *m) { return !m->head ? DAMP : m->embedding ? DAMP_TIED : DAMP_HEAD; }

/* inputs: NULL where they are not known. */
static pr_status encode(packer *p, uint32_t i, const pr_calibrated *inputs, pr_err *err) {
    pr_plane_tensor *t = &p->plan.set.tensors[i];
    pr__matrix *m = &p->plan.matrices[i];
    size_t n = (size_t)t->rows * t->cols, bytes = n * sizeof(float);
    pr_encode_job job = {.rows = t->rows, .cols = t->cols};
    if (inputs) {
        job.gram = inputs->gram;
        job.diag = inputs->diagonal;
    }
    job.opts = (pr_encode_opts){
        .damp = damp_of(m), .n_polish = p->o.fast ? 0 : POLISH, .fast = p->o.fast, .n_planes = t->n_planes};
    float *w = pr_map(PR_TAG_SCRATCH, bytes);
    pr_status st = w ? PR_OK : pr_fail_nomem(err, t->name, bytes);
    for (uint32_t l = 0; l < t->n_planes; l++) {
        job.plane[l] = pr_map(PR_TAG_SCRATCH, plane_bytes(t, l));
        job.loss.row[l] = m->loss[l];
        if (!st && !job.plane[l]) st = pr_fail_nomem(err, t->name, plane_bytes(t, l));
    }
    if (!st) st = pr_convert_floats(p->file, m->source, w, err);
    if (!st) m->norm = norm_of(w, n, t->cols);
    job.w = w;
    if (!st) st = pr_encode(&job, p->k, p->team, err);
    if (!st) t->book = job.book;
    if (!st) st = write_planes(p, i, job.plane, err);
    else pr_err_context(err, "tensor %s", t->name);
    for (uint32_t l = 0; l < t->n_planes; l++)
        if (job.plane[l]) pr_unmap(PR_TAG_SCRATCH, job.plane[l], plane_bytes(t, l));
    if (w) pr_unmap(PR_TAG_SCRATCH, w, bytes);
    pr_model_file_done(p->file, m->source);
    m->done = st == PR_OK;
    p->encoded += n;
    tell(p, "encoding");
    return st ? st : check_cancel(p, err);
}

/* A matrix with its inputs, from the calibration. A head that is tied may come twice. */
static pr_status take_calibrated(void *arg, const pr_calibrated *c, pr_err *err) {
    packer *p = arg;
    for (uint32_t i = 0; i < p->plan.set.n_tensors; i++)
        if (p->plan.matrices[i].source == c->tensor && !p->plan.matrices[i].done) return encode(p, i, c, err);
    return PR_OK;
}

static pr_status calibrate(packer *p, const char *folder, pr_err *err) {
    bool fast = p->o.fast;
    const pr_calibrate_opts how = {.text = p->o.text,
                                   .text_len = p->o.text_len,
                                   .kernels = p->k,
                                   .team = p->team,
                                   .n_tokens_max = p->o.n_tokens_max || !fast ? p->o.n_tokens_max : FAST_TOKENS,
                                   .probe_max = fast ? FAST_PROBE : 0,
                                   .diagonal = fast,
                                   .folder = folder,
                                   .cancel = p->o.cancel,
                                   .progress = tell_read,
                                   .progress_arg = p};
    return pr_calibrate(p->file, &how, take_calibrated, p, &p->cal, err);
}

static pr_status encode_all(packer *p, const char *folder, pr_err *err) {
    double begun = pr_now();
    pr_status st = calibrate(p, folder, err);
    bool without = p->o.fast && !p->o.text && (st == PR_ERR_UNSUPPORTED || st == PR_ERR_ARG);
    if (without) st = PR_OK; /* a model that cannot read our text: all columns count alike */
    p->report->n_tokens = p->cal.n_tokens;
    p->report->nll = p->cal.nll;
    for (uint32_t i = 0; i < p->plan.set.n_tensors && !st; i++)
        if (!p->plan.matrices[i].done) st = encode(p, i, NULL, err);
    p->report->seconds_encode = pr_now() - begun;
    return st;
}

/* ---- ranking ---------------------------------------------------------------- */

static pr_status rank_units(packer *p, pr_measure *measure, pr_err *err) {
    const pr_damage_how how = {.cal = p->cal.n_tokens ? &p->cal : NULL,
                               .measure = measure,
                               .n_layers = p->desc.n_layers,
                               .work = p->o.measure_work > 0 ? p->o.measure_work : MEASURE_WORK,
                               .cancel = p->o.cancel,
                               .progress = tell_measured,
                               .progress_arg = p};
    pr_status st = pr_damage_find(&p->plan, &how, p->damages, &p->report->n_measured, err);
    return st ? st : pr_rank(&p->plan.set, p->damages, err);
}

/* The KL with the first n increments. */
static pr_status measure_at(packer *p, pr_measure *m, uint32_t n, pr_anchor *out, pr_err *err) {
    const pr_plane_set *set = &p->plan.set;
    uint8_t *level = pr_calloc(PR_TAG_SCRATCH, set->n_units, sizeof *level);
    if (!level) return pr_fail_nomem(err, "levels", set->n_units);
    for (uint32_t i = 0; i < n; i++) level[set->increments[i].unit] = (uint8_t)set->increments[i].plane;
    pr_status st = pr_measure_units(m, level, &out->kl, err);
    out->n = n;
    pr_free(level);
    if (!st && !isfinite(out->kl)) st = pr_fail(err, PR_ERR_FORMAT, "the packed model's logits are not finite numbers");
    return st ? st : check_cancel(p, err);
}

/* Measure the named levels and, with time, some points between, and bend the expectation to that. */
static pr_status anchor(packer *p, pr_measure *m, pr_err *err) {
    pr_plane_set *set = &p->plan.set;
    const uint32_t *c = set->level_cursor;
    const uint32_t points[] = {0, c[0], c[0] + (c[1] - c[0]) / 2, c[1], c[1] + (c[2] - c[1]) / 2, c[2], c[3]};
    const bool between[] = {false, false, true, false, true, false, false};
    pr_anchor anchors[ANCHORS_MAX] = {{0}};
    size_t n = 0;
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        if ((p->o.fast && between[i]) || (n > 0 && points[i] == anchors[n - 1].n)) continue;
        if (points[i] > c[pr_measure_top(m)]) { /* as far from the expectation as the last one that could be measured */
            double ratio = anchors[n - 1].kl / ((double)set->kl[anchors[n - 1].n] + 1e-300);
            anchors[n++] = (pr_anchor){points[i], (double)set->kl[points[i]] * ratio};
            continue;
        }
        pr_status st = measure_at(p, m, points[i], &anchors[n++], err);
        if (st) return st;
        if (p->o.fast) p->report->n_measured++;
    }
    pr_rank_bend(set, anchors, n);
    p->report->kl_measured = true;
    p->report->measured_to = set->measured_to = c[pr_measure_top(m)];
    set->n_measured = p->report->n_measured;
    return PR_OK;
}

static pr_status measure(packer *p, pr_err *err) {
    pr_measure *m = NULL;
    double begun = pr_now();
    pr_plane most = p->o.fast ? PR_PLANE_P4 : PR_PLANE_P16;
    pr_status st = pr_measure_open(pr_gguf_part_path(p->w), &p->cal, most, p->k, p->team, &m, err);
    if (st == PR_ERR_LIMIT) return PR_OK; /* too large for this machine: the table stands */
    if (!st && !p->o.fast) st = rank_units(p, m, err);
    if (!st) st = anchor(p, m, err);
    pr_measure_close(m);
    p->report->seconds_measure = pr_now() - begun;
    return st ? st : pr_planes_complete(p->w, &p->plan.set, err);
}

static pr_status rank_all(packer *p, pr_err *err) {
    pr_status st = rank_units(p, NULL, err);
    if (!st) st = pr_planes_complete(p->w, &p->plan.set, err);
    if (!st && p->cal.n_tokens && p->o.measure_work >= 0) st = measure(p, err);
    return st;
}

/* ---- the whole ---------------------------------------------------------------- */

static void fill_report(packer *p) {
    const pr_plane_set *set = &p->plan.set;
    pr_pack_report *r = p->report;
    r->source_bytes = pr_model_file_bytes(p->file);
    r->n_weights = set->n_weights;
    r->n_matrices = set->n_tensors;
    r->n_kept = p->plan.n_kept;
    r->n_units = set->n_units;
    r->n_increments = set->n_increments;
    r->n_planes = set->n_planes;
    for (int l = 0; l < PR_PLANE_COUNT; l++) {
        r->level_cursor[l] = set->level_cursor[l];
        r->level_bits[l] = pr_rank_bits(set, set->level_cursor[l]);
        r->level_kl[l] = (double)set->kl[set->level_cursor[l]];
    }
}

static void close_packer(packer *p) {
    pr_gguf_abort(p->w);
    pr_calibration_free(&p->cal);
    pr_team_close(p->team);
    pr_free(p->damages);
    pr__pack_plan_free(&p->plan);
    pr_graph_free(&p->g);
    pr_model_file_close(p->file);
}

/* The folder of a path, for pr_free(). */
static char *folder_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? pr_strndup(PR_TAG_FILE, path, slash == path ? 1 : (size_t)(slash - path))
                 : pr_strdup(PR_TAG_FILE, ".");
}

pr_status pr_pack_model(const char *source, const char *out, const pr_pack_opts *opts, pr_pack_report *report,
                        pr_err *err) {
    packer p = {.o = *opts, .report = report};
    double begun = pr_now();
    struct stat there;
    *report = (pr_pack_report){0};
    pr_graph_init(&p.g);
    char *folder = folder_of(out);
    pr_status st = folder ? PR_OK : pr_fail_nomem(err, "a path", strlen(out));
    if (!st) st = open_source(&p, source, out, err);
    if (!st) st = describe(&p, out, err);
    if (!st) st = copy_kept(&p, err);
    if (!st) st = encode_all(&p, folder, err);
    if (!st) st = rank_all(&p, err);
    if (!st) fill_report(&p);
    if (!st) {
        st = pr_gguf_finish(p.w, err);
        p.w = NULL;
    }
    if (!st && stat(out, &there) == 0) report->file_bytes = (uint64_t)there.st_size;
    report->seconds = pr_now() - begun;
    close_packer(&p);
    pr_free(folder);
    return st;
}
