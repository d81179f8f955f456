/*
 * Plane files for tests (see planes_file.h). A tile's numbers come from a generator that is started anew for each tile,
 * so tiles can be made in any order and none has to be kept.
 */
#include "support/planes_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include <cmocka.h>

const planes_file planes_file_small = {
    .n_tensors = 4,
    .tensors = {{64, 70, 4}, {32, 16, 1}, {160, 33, 3}, {96, 100, 2}},
    .unit_tiles = 2,
    .seed = 1,
};

/* splitmix64 */
static uint64_t draw(uint64_t *rng) {
    uint64_t z = *rng += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static void draw_bytes(uint64_t *rng, uint8_t *out, size_t n, uint8_t mask) {
    for (size_t i = 0; i < n; i += 8) {
        uint64_t bits = draw(rng);
        for (size_t k = 0; k < 8 && i + k < n; k++, bits >>= 8) out[i + k] = (uint8_t)(bits & mask);
    }
}

void planes_file_tile(const planes_file *spec, uint32_t tensor, uint32_t tile, uint8_t *const plane[PR_PLANE_COUNT]) {
    uint32_t cols = spec->tensors[tensor].cols, rows = spec->tensors[tensor].rows;
    uint64_t rng = spec->seed * 1000003 + tensor * 100003u + tile;
    uint8_t *bytes = malloc(5 * (size_t)cols);
    assert_non_null(bytes);
    for (uint32_t r = 0; r < PR_TILE_ROWS && tile * PR_TILE_ROWS + r < rows; r++) {
        uint8_t *code = bytes, *n = code + cols, *b = n + cols, *s2 = b + cols, *s4 = s2 + cols;
        draw_bytes(&rng, code, cols, 15);
        draw_bytes(&rng, n, cols, 15);
        draw_bytes(&rng, b, cols, 255);
        draw_bytes(&rng, s2, cols / PR_BLOCK, 255);
        draw_bytes(&rng, s4, cols / PR_BLOCK, 255);
        const pr_plane_codes codes = {.code = code,
                                      .s2 = s2,
                                      .s4 = s4,
                                      .row = pr_f32_to_f16(0.001f * (float)(1 + draw(&rng) % 8)),
                                      .n = plane[PR_PLANE_P8] ? n : NULL,
                                      .b = plane[PR_PLANE_P16] ? (const int8_t *)b : NULL};
        pr_plane_put_row(plane, &codes, cols, r);
    }
    free(bytes);
}

/* One plane of some tiles; out must have room for them. */
static void make_plane(const planes_file *spec, uint32_t tensor, pr_plane plane, uint32_t tile0, uint32_t n_tiles,
                       uint8_t *out) {
    size_t bytes = pr_plane_tile_bytes(plane, spec->tensors[tensor].cols);
    memset(out, 0, bytes * n_tiles);
    for (uint32_t t = 0; t < n_tiles; t++) {
        uint8_t *only[PR_PLANE_COUNT] = {NULL};
        only[plane] = out + t * bytes;
        planes_file_tile(spec, tensor, tile0 + t, only);
    }
}

bool planes_file_same(const planes_file *spec, const pr_plane_set *set, uint32_t unit, pr_plane plane,
                      const uint8_t *out) {
    const pr_plane_piece *u = &set->units[unit];
    size_t bytes = (size_t)pr_plane_unit_bytes(set, unit, plane);
    uint8_t *want = malloc(bytes);
    assert_non_null(want);
    make_plane(spec, u->tensor, plane, u->tile0, u->n_tiles, want);
    bool same = memcmp(want, out, bytes) == 0;
    free(want);
    return same;
}

/* ---- the set ---- */

static pr_plane_book make_book(uint64_t *rng) {
    pr_plane_book b = {.k16 = 1 + (int32_t)(draw(rng) % 128)};
    for (int i = 0; i < 4; i++) b.c2[i] = (int8_t)(draw(rng) % 33 - 16);
    for (int i = 0; i < 16; i++) b.c4[i] = (int8_t)(draw(rng) % 129 - 64);
    for (int i = 0; i < 16; i++) b.c8[i] = (int8_t)(draw(rng) % 241 - 128);
    b.f2 = 0.5f + (float)(draw(rng) % 100) / 100;
    b.f4 = b.f2 / 4;
    b.f8 = b.f4 / 8;
    return b;
}

/* Any order in which the planes of a unit stay in theirs. */
static void order_increments(pr_plane_set *set, uint64_t *rng) {
    uint8_t *next = malloc(set->n_units);
    assert_non_null(next);
    memset(next, PR_PLANE_P4, set->n_units);
    for (uint32_t i = 0; i < set->n_increments;) {
        uint32_t unit = (uint32_t)(draw(rng) % set->n_units);
        while (next[unit] >= set->tensors[set->units[unit].tensor].n_planes) unit = (unit + 1) % set->n_units;
        set->increments[i++] = (pr_increment){unit, (pr_plane)next[unit]++};
    }
    for (uint32_t i = 0; i <= set->n_increments; i++) set->kl[i] = 1 / (float)(1 + i);
    free(next);
}

static uint32_t unit_tiles(const planes_file *spec, uint32_t tensor) {
    return spec->unit_tiles ? spec->unit_tiles : pr_pack_tiles(spec->tensors[tensor].rows);
}

static void *items(size_t n, size_t size) {
    void *p = calloc(n ? n : 1, size);
    assert_non_null(p);
    return p;
}

static void free_set(pr_plane_set *set) {
    free(set->tensors);
    free(set->units);
    free(set->increments);
    free(set->kl);
}

static void make_set(const planes_file *spec, pr_plane_set *set) {
    static const char *const names[PLANES_FILE_TENSORS_MAX] = {"m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7"};
    uint64_t rng = spec->seed;
    *set = (pr_plane_set){.n_tensors = spec->n_tensors};
    for (uint32_t i = 0; i < spec->n_tensors; i++) {
        uint32_t tiles = pr_pack_tiles(spec->tensors[i].rows), step = unit_tiles(spec, i);
        set->n_units += (tiles + step - 1) / step;
        set->n_increments += (tiles + step - 1) / step * (spec->tensors[i].n_planes - 1);
    }
    set->tensors = items(set->n_tensors, sizeof *set->tensors);
    set->units = items(set->n_units, sizeof *set->units);
    set->increments = items(set->n_increments, sizeof *set->increments);
    set->kl = items(set->n_increments + 1, sizeof *set->kl);
    for (uint32_t i = 0, unit = 0; i < spec->n_tensors; i++) {
        pr_plane_tensor *t = &set->tensors[i];
        *t = (pr_plane_tensor){.name = names[i],
                               .cols = spec->tensors[i].cols,
                               .rows = spec->tensors[i].rows,
                               .n_planes = spec->tensors[i].n_planes,
                               .book = make_book(&rng),
                               .unit0 = unit};
        if (t->n_planes > set->n_planes) set->n_planes = t->n_planes;
        set->n_weights += (uint64_t)t->cols * t->rows;
        uint32_t tiles = pr_pack_tiles(t->rows), step = unit_tiles(spec, i);
        for (uint32_t at = 0; at < tiles; at += step, unit++, t->n_units++) {
            set->units[unit] = (pr_plane_piece){
                .tensor = i, .tile0 = at, .n_tiles = at + step < tiles ? step : tiles - at};
        }
    }
    order_increments(set, &rng);
    for (uint32_t p = 1; p < PR_PLANE_COUNT; p++) set->level_cursor[p] = set->n_increments * p / 3;
}

/* ---- the file ---- */

static pr_status write_unit(const planes_file *spec, pr_plane_set *set, uint32_t unit, pr_plane plane,
                            pr_gguf_writer *w, pr_err *err) {
    pr_plane_piece *u = &set->units[unit];
    size_t bytes = (size_t)pr_plane_unit_bytes(set, unit, plane);
    uint8_t *data = malloc(bytes);
    assert_non_null(data);
    make_plane(spec, u->tensor, plane, u->tile0, u->n_tiles, data);
    u->crc[plane] = (uint32_t)crc32_z(0, data, bytes);
    pr_status status = pr_gguf_data(w, data, bytes, err);
    free(data);
    return status;
}

static pr_status write_data(const planes_file *spec, pr_plane_set *set, pr_gguf_writer *w, pr_err *err) {
    static const float kept[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    pr_status status = pr_gguf_data(w, kept, sizeof kept, err);
    for (int p = 0; p < PR_PLANE_COUNT; p++) {
        for (uint32_t u = 0; u < set->n_units && !status; u++) {
            if ((uint32_t)p < set->tensors[set->units[u].tensor].n_planes)
                status = write_unit(spec, set, u, (pr_plane)p, w, err);
        }
    }
    return status;
}

pr_status planes_file_try(const planes_file *spec, const char *path, pr_err *err) {
    static const uint64_t dims[1] = {8};
    pr_plane_set set;
    pr_gguf_writer *w;
    pr_status status = pr_gguf_create(path, 4096, &w, err);
    if (status) return status;
    make_set(spec, &set);
    pr_gguf_meta_str(w, "general.architecture", "none");
    pr_planes_describe(w, &set);
    pr_gguf_meta_str(w, "precis.source", "nothing");
    pr_gguf_meta_i32s(w, PLANES_FILE_OLDER, &(int32_t){2}, 1);
    pr_gguf_tensor(w, "kept", PR_F32, 1, dims);
    pr_planes_describe_tensors(w, &set);
    status = write_data(spec, &set, w, err);
    if (!status) status = pr_planes_complete(w, &set, err);
    free_set(&set);
    if (!status) return pr_gguf_finish(w, err);
    pr_gguf_abort(w);
    return status;
}

void planes_file_write(const planes_file *spec, const char *path) {
    pr_err err = {0};
    if (planes_file_try(spec, path, &err)) fail_msg("%s: %s", path, err.text);
}
