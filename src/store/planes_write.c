/*
 * Writing plane files: a pr_plane_set as precis.* keys, and the descriptions of its plane tensors.
 *
 * Each array is a table: so many rows of so many numbers, and a function that writes one row. The tables that nobody
 * knows before the data is made have their room described and are patched in at the end (gguf_write.h), all of them each
 * time, so that a packer may complete a file, measure it, and complete it again with what it found.
 */
#include <stdio.h>

#include "base/mem.h"
#include "store/planes.h"

enum { NAME_BYTES_MAX = 64 };

typedef union number { /* 4 bytes, as in the file */
    int32_t i;
    float f;
} number;
_Static_assert(sizeof(number) == 4, "as in the file");

typedef struct table {
    const char *key;
    bool real; /* f32, else i32 */
    bool late; /* filled in by pr_planes_complete() */
    uint32_t width;
    uint32_t (*rows)(const pr_plane_set *set);
    void (*put)(const pr_plane_set *set, uint32_t row, number *out);
} table;

static uint32_t n_tensors(const pr_plane_set *set) { return set->n_tensors; }
static uint32_t n_units(const pr_plane_set *set) { return set->n_units; }
static uint32_t n_increments(const pr_plane_set *set) { return set->n_increments; }
static uint32_t n_kl(const pr_plane_set *set) { return set->n_increments + 1; }
static uint32_t one(const pr_plane_set *set) { return set != NULL; }

static void put_shape(const pr_plane_set *set, uint32_t row, number *out) {
    const pr_plane_tensor *t = &set->tensors[row];
    out[0].i = (int32_t)t->cols;
    out[1].i = (int32_t)t->rows;
    out[2].i = (int32_t)t->n_planes;
}

static void put_book(const pr_plane_set *set, uint32_t row, number *out) {
    const pr_plane_book *b = &set->tensors[row].book;
    for (int i = 0; i < 4; i++) out[i].i = (int32_t)b->c2[i];
    for (int i = 0; i < 16; i++) out[4 + i].i = (int32_t)b->c4[i];
    for (int i = 0; i < 16; i++) out[20 + i].i = (int32_t)b->c8[i];
    out[36].i = b->k16;
}

static void put_factors(const pr_plane_set *set, uint32_t row, number *out) {
    const pr_plane_book *b = &set->tensors[row].book;
    out[0].f = b->f2;
    out[1].f = b->f4;
    out[2].f = b->f8;
}

static void put_unit(const pr_plane_set *set, uint32_t row, number *out) {
    const pr_plane_piece *u = &set->units[row];
    out[0].i = (int32_t)u->tensor;
    out[1].i = (int32_t)u->tile0;
    out[2].i = (int32_t)u->n_tiles;
}

static void put_crc(const pr_plane_set *set, uint32_t row, number *out) {
    for (int p = 0; p < PR_PLANE_COUNT; p++) out[p].i = (int32_t)set->units[row].crc[p];
}

static void put_increment(const pr_plane_set *set, uint32_t row, number *out) {
    out[0].i = (int32_t)set->increments[row].unit;
    out[1].i = (int32_t)set->increments[row].plane;
}

static void put_kl(const pr_plane_set *set, uint32_t row, number *out) { out->f = set->kl[row]; }

static void put_levels(const pr_plane_set *set, uint32_t row, number *out) {
    for (int i = 0; i < PR_PLANE_COUNT; i++) out[i + (int)row].i = (int32_t)set->level_cursor[i];
}

static void put_measured(const pr_plane_set *set, uint32_t row, number *out) {
    out[row].i = (int32_t)set->n_measured;
    out[row + 1].i = (int32_t)set->measured_to;
}

static const table tables[] = {
    {"precis.planes.shapes", false, false, 3, n_tensors, put_shape},
    {"precis.planes.books", false, true, 37, n_tensors, put_book},
    {"precis.planes.factors", true, true, 3, n_tensors, put_factors},
    {"precis.planes.units", false, false, 3, n_units, put_unit},
    {"precis.planes.crc", false, true, PR_PLANE_COUNT, n_units, put_crc},
    {"precis.increments", false, true, 2, n_increments, put_increment},
    {"precis.increments.kl", true, true, 1, n_kl, put_kl},
    {"precis.levels", false, true, PR_PLANE_COUNT, one, put_levels},
    {"precis.kl.measured", false, true, 2, one, put_measured},
};
enum { TABLES = sizeof tables / sizeof *tables };

/* All numbers of a table, for pr_free(); NULL: out of memory. */
static number *fill(const table *t, const pr_plane_set *set, size_t *n) {
    uint32_t rows = t->rows(set);
    *n = (size_t)rows * t->width;
    number *out = pr_calloc(PR_TAG_FILE, *n, sizeof *out);
    for (uint32_t r = 0; r < rows && out; r++) t->put(set, r, out + (size_t)r * t->width);
    return out;
}

static void keep_nomem(pr_gguf_writer *w, const char *what, size_t bytes) {
    pr_err err = {0};
    pr_fail_nomem(&err, what, bytes);
    pr_gguf_keep(w, &err);
}

static void describe_table(pr_gguf_writer *w, const table *t, const pr_plane_set *set) {
    if (t->late) {
        pr_gguf_meta_later(w, t->key, t->real ? PR_F32 : PR_I32, (size_t)t->rows(set) * t->width);
        return;
    }
    size_t n;
    number *numbers = fill(t, set, &n);
    if (numbers) pr_gguf_meta_i32s(w, t->key, &numbers->i, n);
    else keep_nomem(w, t->key, n * sizeof *numbers);
    pr_free(numbers);
}

void pr_planes_describe(pr_gguf_writer *w, const pr_plane_set *set) {
    const char **names = pr_calloc(PR_TAG_FILE, set->n_tensors, sizeof *names);
    if (!names) {
        keep_nomem(w, "names of matrices", set->n_tensors * sizeof *names);
        return;
    }
    for (uint32_t i = 0; i < set->n_tensors; i++) names[i] = set->tensors[i].name;
    pr_gguf_meta_u32(w, "precis.planes.version", 1);
    pr_gguf_meta_strs(w, "precis.planes.names", names, set->n_tensors);
    pr_free(names);
    for (int i = 0; i < TABLES; i++) describe_table(w, &tables[i], set);
}

void pr_planes_describe_tensors(pr_gguf_writer *w, const pr_plane_set *set) {
    for (int p = 0; p < PR_PLANE_COUNT; p++) {
        for (uint32_t i = 0; i < set->n_tensors; i++) {
            const pr_plane_tensor *t = &set->tensors[i];
            char name[2 * NAME_BYTES_MAX]; /* one that is too long is the writer's to refuse */
            if ((uint32_t)p >= t->n_planes) continue;
            const uint64_t dims[2] = {pr_plane_tile_bytes((pr_plane)p, t->cols), pr_pack_tiles(t->rows)};
            snprintf(name, sizeof name, "%s.%s", t->name, pr_plane_name((pr_plane)p));
            pr_gguf_tensor(w, name, PR_I8, 2, dims);
        }
    }
}

pr_status pr_planes_complete(pr_gguf_writer *w, const pr_plane_set *set, pr_err *err) {
    pr_status status = PR_OK;
    for (int i = 0; i < TABLES && status == PR_OK; i++) {
        size_t n;
        if (!tables[i].late) continue;
        number *numbers = fill(&tables[i], set, &n);
        status = numbers ? pr_gguf_patch(w, tables[i].key, numbers, n * sizeof *numbers, err)
                         : pr_fail_nomem(err, tables[i].key, n * sizeof *numbers);
        pr_free(numbers);
    }
    return status == PR_OK ? pr_gguf_flush(w, err) : status;
}
