/*
 * Reading plane files: the precis.* keys of a GGUF file, checked and made into a pr_plane_set.
 *
 * Everything that follows (the executor's unit table, residency, kernels) trusts a set blindly, so nothing may enter it
 * unchecked: each number is compared with what the others leave possible, and each error names the key or the tensor it
 * is about. A set's memory is bounded by its keys in the file. Arrays must have exactly the types that the layout names:
 * there is one writer, and a looser reader would only have more to check.
 *
 * Reading goes in two steps, because the virtual tensors must be there before tensors are indexed by name, and the plane
 * tensors can be found only afterwards.
 *
 * A plane is read with pread and its CRC checked every time, not once: planes come and go for days, and what is on disk
 * may have been replaced meanwhile. Why not mapped: see model_file.c; how the two compare: docs/ELASTIC-EXPERIMENTS.md.
 */
#include "store/planes.h"

#include <inttypes.h>
#include <libdeflate.h>
#include <math.h>

#include "base/mem.h"
#include "store/model_file_impl.h"

enum { VERSION = 1, NAME_BYTES_MAX = 64, SUFFIX_BYTES = 4, PIECE_BYTES = 8 << 20 };
enum { SHAPE = 3, BOOK = 37, FACTORS = 3, UNIT = 3, CRC = PR_PLANE_COUNT, INCREMENT = 2 };

static const char key_version[] = "precis.planes.version", key_names[] = "precis.planes.names",
                  key_shapes[] = "precis.planes.shapes", key_books[] = "precis.planes.books",
                  key_factors[] = "precis.planes.factors", key_units[] = "precis.planes.units",
                  key_crc[] = "precis.planes.crc", key_increments[] = "precis.increments",
                  key_kl[] = "precis.increments.kl", key_levels[] = "precis.levels",
                  key_measured[] = "precis.kl.measured";

/* ---- keys ---- */

/* The array at key with rows of `width` elements: n_rows of them, or any number, which is returned there. */
static pr_status get_array(const pr_model_file *file, const char *key, uint32_t elem, uint32_t width, uint64_t n_rows,
                           const pr_meta **out, pr_err *err) {
    const pr_meta *m = pr_model_file_meta(file, key);
    if (!m) return pr_fail(err, PR_ERR_FORMAT, "%s is missing", key);
    if (m->type != PR__GGUF_ARRAY || m->elem != elem) {
        const char *want = elem == PR__GGUF_STR   ? "strings"
                           : elem == PR__GGUF_F32 ? "32-bit floats"
                                                  : "32-bit integers";
        return pr_fail(err, PR_ERR_FORMAT, "%s must be an array of %s", key, want);
    }
    if (m->n != n_rows * width) {
        return pr_fail(err, PR_ERR_FORMAT, "%s has %" PRIu64 " elements instead of %" PRIu64 " x %u", key, m->n, n_rows,
                       width);
    }
    *out = m;
    return PR_OK;
}

/* How many rows of `width` the array at key has; 0 when it is missing or odd, which get_array() then says. */
static uint64_t count_rows(const pr_model_file *file, const char *key, uint32_t width) {
    const pr_meta *m = pr_model_file_meta(file, key);
    return m && m->type == PR__GGUF_ARRAY ? m->n / width : 0;
}

static int32_t i32_at(const pr_meta *m, size_t i) {
    int32_t v;
    memcpy(&v, m->data + i * sizeof v, sizeof v);
    return v;
}

static float f32_at(const pr_meta *m, size_t i) {
    float v;
    memcpy(&v, m->data + i * sizeof v, sizeof v);
    return v;
}

static pr_status check_version(const pr_model_file *file, pr_err *err) {
    uint32_t version = 0;
    pr_status status = pr_meta_u32(file, key_version, &version, err);
    if (status == PR_OK && version != VERSION) {
        status = pr_fail(err, PR_ERR_UNSUPPORTED, "%s is %u: planes of this version are not read, only of version %d",
                         key_version, version, VERSION);
    }
    return status;
}

/* ---- matrices ---- */

static pr_status get_name(pr_model_file *file, const pr_meta *names, uint32_t i, const char **out, pr_err *err) {
    const char *text;
    size_t len;
    if (!pr_meta_at_str(names, i, &text, &len) || len == 0 || len > NAME_BYTES_MAX - SUFFIX_BYTES ||
        !pr__printable(text, len)) {
        return pr_fail(err, PR_ERR_FORMAT, "%s: name %u is not 1 to %d printable bytes", key_names, i,
                       NAME_BYTES_MAX - SUFFIX_BYTES);
    }
    *out = pr_arena_strndup(&file->arena, text, len);
    return *out ? PR_OK : pr_fail_nomem(err, key_names, len);
}

static pr_status get_shape(const pr_meta *shapes, uint32_t i, pr_plane_tensor *t, pr_err *err) {
    int32_t cols = i32_at(shapes, SHAPE * i), rows = i32_at(shapes, SHAPE * i + 1),
            n_planes = i32_at(shapes, SHAPE * i + 2);
    if (cols <= 0 || cols % PR_BLOCK != 0 || rows <= 0 || rows > INT32_MAX - PR_TILE_ROWS || n_planes < 1 ||
        n_planes > PR_PLANE_COUNT) {
        return pr_fail(err, PR_ERR_FORMAT, "%s: '%s' has %d columns, %d rows, %d planes", key_shapes, t->name, cols,
                       rows, n_planes);
    }
    t->cols = (uint32_t)cols;
    t->rows = (uint32_t)rows;
    t->n_planes = (uint32_t)n_planes;
    return PR_OK;
}

static pr_status get_book(const pr_meta *books, const pr_meta *factors, uint32_t i, pr_plane_tensor *t, pr_err *err) {
    pr_plane_book *b = &t->book;
    int8_t *const parts[] = {b->c2, b->c4, b->c8};
    static const uint32_t lens[] = {4, 16, 16};
    uint32_t at = BOOK * i;
    b->k16 = i32_at(books, at + BOOK - 1);
    b->f2 = f32_at(factors, FACTORS * i);
    b->f4 = f32_at(factors, FACTORS * i + 1);
    b->f8 = f32_at(factors, FACTORS * i + 2);
    if (!isfinite(b->f2) || !isfinite(b->f4) || !isfinite(b->f8)) {
        return pr_fail(err, PR_ERR_FORMAT, "%s: those of '%s' are not all finite", key_factors, t->name);
    }
    for (uint32_t part = 0; part < 3; part++) {
        for (uint32_t k = 0; k < lens[part]; k++, at++) {
            int32_t v = i32_at(books, at);
            if (v < INT8_MIN || v > INT8_MAX) {
                return pr_fail(err, PR_ERR_FORMAT, "%s: %d in that of '%s' is no signed byte", key_books, v, t->name);
            }
            parts[part][k] = (int8_t)v;
        }
    }
    if (pr_plane_book_ok(b)) return PR_OK;
    return pr_fail(err, PR_ERR_FORMAT, "%s: that of '%s' is outside its limits", key_books, t->name);
}

/* The tensor that stands for a matrix; its data is a matter of other tensors. */
static pr_status add_virtual(pr_model_file *file, const pr_plane_tensor *t, pr_err *err) {
    pr_tensor_info *info = pr__model_file_add_tensor(file);
    if (!info) return pr_fail_nomem(err, "tensor list", sizeof *info);
    *info = (pr_tensor_info){
        .name = t->name, .dtype = PR_PLANES, .n_dims = 2, .dims = {t->cols, t->rows, 1, 1}, .planes = t};
    return PR_OK;
}

static pr_status read_tensors(pr_model_file *file, pr_plane_set *set, pr_err *err) {
    const pr_meta *names = NULL, *shapes = NULL, *books = NULL, *factors = NULL;
    uint64_t n = count_rows(file, key_names, 1);
    if (n < 1 || n > PR__TENSORS_MAX) {
        return pr_fail(err, PR_ERR_FORMAT, "%s lists %" PRIu64 " matrices; 1 to %u are allowed", key_names, n,
                       PR__TENSORS_MAX);
    }
    pr_status status = get_array(file, key_names, PR__GGUF_STR, 1, n, &names, err);
    if (status == PR_OK) status = get_array(file, key_shapes, PR__GGUF_I32, SHAPE, n, &shapes, err);
    if (status == PR_OK) status = get_array(file, key_books, PR__GGUF_I32, BOOK, n, &books, err);
    if (status == PR_OK) status = get_array(file, key_factors, PR__GGUF_F32, FACTORS, n, &factors, err);
    if (status != PR_OK) return status;
    set->tensors = pr_arena_array(&file->arena, (size_t)n, sizeof *set->tensors);
    if (!set->tensors) return pr_fail_nomem(err, "planes", (size_t)n * sizeof *set->tensors);
    set->n_tensors = (uint32_t)n;
    for (uint32_t i = 0; i < n && status == PR_OK; i++) {
        pr_plane_tensor *t = &set->tensors[i];
        status = get_name(file, names, i, &t->name, err);
        if (status == PR_OK) status = get_shape(shapes, i, t, err);
        if (status == PR_OK) status = get_book(books, factors, i, t, err);
        if (status == PR_OK) status = add_virtual(file, t, err);
        if (status != PR_OK) return status;
        if (t->n_planes > set->n_planes) set->n_planes = t->n_planes;
        if (__builtin_add_overflow(set->n_weights, (uint64_t)t->cols * t->rows, &set->n_weights)) {
            return pr_fail(err, PR_ERR_FORMAT, "%s: the number of weights overflows", key_shapes);
        }
    }
    return status;
}

/* ---- units ---- */

/* The next unit: it goes on where the one before ended. tile: of matrix *at, the first that is not covered yet. */
static pr_status place_unit(pr_plane_set *set, uint32_t i, const int32_t v[UNIT], uint32_t *at, uint32_t *tile,
                            pr_err *err) {
    if (*at == set->n_tensors) {
        return pr_fail(err, PR_ERR_FORMAT, "%s: unit %u comes after the last tile", key_units, i);
    }
    pr_plane_tensor *t = &set->tensors[*at];
    uint32_t tiles = pr_pack_tiles(t->rows);
    if (v[0] < 0 || (uint32_t)v[0] != *at || v[1] < 0 || (uint32_t)v[1] != *tile || v[2] <= 0 ||
        (uint32_t)v[2] > tiles - *tile) {
        return pr_fail(err, PR_ERR_FORMAT,
                       "%s: unit %u is matrix %d, tile %d, %d tiles, but '%s' (matrix %u) has to go on with tile %u of "
                       "%u",
                       key_units, i, v[0], v[1], v[2], t->name, *at, *tile, tiles);
    }
    if (*tile == 0) t->unit0 = i;
    t->n_units++;
    set->units[i].tensor = *at;
    set->units[i].tile0 = *tile;
    set->units[i].n_tiles = (uint32_t)v[2];
    *tile += (uint32_t)v[2];
    if (*tile == tiles) {
        ++*at;
        *tile = 0;
    }
    return PR_OK;
}

static pr_status get_crc(const pr_plane_set *set, uint32_t i, const pr_meta *crc, pr_err *err) {
    pr_plane_piece *u = &set->units[i];
    const pr_plane_tensor *t = &set->tensors[u->tensor];
    for (uint32_t p = 0; p < PR_PLANE_COUNT; p++) {
        u->crc[p] = (uint32_t)i32_at(crc, (size_t)CRC * i + p);
        if (p >= t->n_planes && u->crc[p] != 0) {
            return pr_fail(err, PR_ERR_FORMAT, "%s: one of plane %s of unit %u, but '%s' has %u planes", key_crc,
                           pr_plane_name((pr_plane)p), i, t->name, t->n_planes);
        }
    }
    return PR_OK;
}

static pr_status read_units(pr_model_file *file, pr_plane_set *set, pr_err *err) {
    const pr_meta *units = NULL, *crc = NULL;
    uint64_t n = count_rows(file, key_units, UNIT);
    if (n > INT32_MAX) return pr_fail(err, PR_ERR_FORMAT, "%s: %" PRIu64 " units are too many", key_units, n);
    pr_status status = get_array(file, key_units, PR__GGUF_I32, UNIT, n, &units, err);
    if (status == PR_OK) status = get_array(file, key_crc, PR__GGUF_I32, CRC, n, &crc, err);
    if (status != PR_OK) return status;
    set->units = pr_arena_array(&file->arena, (size_t)n, sizeof *set->units);
    if (!set->units) return pr_fail_nomem(err, key_units, (size_t)n * sizeof *set->units);
    set->n_units = (uint32_t)n;
    uint32_t at = 0, tile = 0;
    for (uint32_t i = 0; i < n; i++) {
        size_t row = (size_t)UNIT * i;
        const int32_t v[UNIT] = {i32_at(units, row), i32_at(units, row + 1), i32_at(units, row + 2)};
        status = place_unit(set, i, v, &at, &tile, err);
        if (status == PR_OK) status = get_crc(set, i, crc, err);
        if (status != PR_OK) return status;
    }
    if (at == set->n_tensors) return PR_OK;
    return pr_fail(err, PR_ERR_FORMAT, "%s: no unit covers '%s' from tile %u on", key_units, set->tensors[at].name,
                   tile);
}

/* ---- increments ---- */

/* Increment i out of the key, when it is the plane that its unit has next. next: [n_units]. */
static pr_status place_increment(pr_plane_set *set, uint32_t i, const pr_meta *m, uint8_t *next, pr_err *err) {
    int32_t unit = i32_at(m, (size_t)INCREMENT * i), plane = i32_at(m, (size_t)INCREMENT * i + 1);
    if (unit < 0 || (uint32_t)unit >= set->n_units) {
        return pr_fail(err, PR_ERR_FORMAT, "%s: number %u is of unit %d, but there are %u", key_increments, i, unit,
                       set->n_units);
    }
    const pr_plane_tensor *t = &set->tensors[set->units[unit].tensor];
    if (plane != next[unit] || (uint32_t)plane >= t->n_planes) {
        return pr_fail(err, PR_ERR_FORMAT, "%s: number %u is plane %d of unit %d ('%s'), which has %u planes in order",
                       key_increments, i, plane, unit, t->name, t->n_planes);
    }
    next[unit]++;
    set->increments[i] = (pr_increment){(uint32_t)unit, (pr_plane)plane};
    return PR_OK;
}

/* What the list must have: every plane but p2 once. */
static uint64_t increments_due(const pr_plane_set *set) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < set->n_tensors; i++)
        n += (uint64_t)set->tensors[i].n_units * (set->tensors[i].n_planes - 1);
    return n;
}

static pr_status read_increments(pr_model_file *file, pr_plane_set *set, pr_err *err) {
    const pr_meta *list = NULL;
    uint64_t n = increments_due(set);
    if (n > INT32_MAX) return pr_fail(err, PR_ERR_FORMAT, "%s: %" PRIu64 " are too many", key_increments, n);
    pr_status status = get_array(file, key_increments, PR__GGUF_I32, INCREMENT, n, &list, err);
    if (status != PR_OK) return status;
    uint8_t *next = pr_alloc(PR_TAG_FILE, set->n_units);
    set->increments = pr_arena_array(&file->arena, (size_t)n, sizeof *set->increments);
    if (!next || !set->increments) {
        status = pr_fail_nomem(err, key_increments, (size_t)n * sizeof *set->increments);
    } else {
        memset(next, PR_PLANE_P4, set->n_units);
        set->n_increments = (uint32_t)n;
    }
    for (uint32_t i = 0; i < n && status == PR_OK; i++) status = place_increment(set, i, list, next, err);
    pr_free(next);
    return status;
}

/* Older files lack the key, or its second number. */
static pr_status read_measured(const pr_model_file *file, pr_plane_set *set, pr_err *err) {
    const pr_meta *m = NULL;
    if (!pr_model_file_meta(file, key_measured)) return PR_OK;
    bool older = count_rows(file, key_measured, 1) == 1;
    pr_status status = get_array(file, key_measured, PR__GGUF_I32, older ? 1 : 2, 1, &m, err);
    if (status != PR_OK) return status;
    int32_t n = i32_at(m, 0), to = older ? (int32_t)set->n_increments : i32_at(m, 1);
    if (n < 0 || (uint32_t)n > set->n_tensors)
        return pr_fail(err, PR_ERR_FORMAT, "%s: %d of %u matrices", key_measured, n, set->n_tensors);
    if (to < 0 || (uint32_t)to > set->n_increments)
        return pr_fail(err, PR_ERR_FORMAT, "%s: up to %d of %u increments", key_measured, to, set->n_increments);
    set->n_measured = (uint32_t)n;
    set->measured_to = n ? (uint32_t)to : 0;
    return PR_OK;
}

static pr_status read_tables(pr_model_file *file, pr_plane_set *set, pr_err *err) {
    const pr_meta *kl = NULL, *levels = NULL;
    size_t n = (size_t)set->n_increments + 1;
    pr_status status = get_array(file, key_kl, PR__GGUF_F32, 1, n, &kl, err);
    if (status == PR_OK) status = get_array(file, key_levels, PR__GGUF_I32, PR_PLANE_COUNT, 1, &levels, err);
    if (status != PR_OK) return status;
    set->kl = pr_arena_array(&file->arena, n, sizeof *set->kl);
    if (!set->kl) return pr_fail_nomem(err, key_kl, n * sizeof *set->kl);
    for (size_t i = 0; i < n; i++) {
        set->kl[i] = f32_at(kl, i);
        if (!isfinite(set->kl[i])) return pr_fail(err, PR_ERR_FORMAT, "%s: element %zu is not finite", key_kl, i);
    }
    uint32_t before = 0;
    for (uint32_t i = 0; i < PR_PLANE_COUNT; i++) {
        int32_t v = i32_at(levels, i);
        if (v < 0 || (uint32_t)v < before || (uint32_t)v > set->n_increments) {
            return pr_fail(err, PR_ERR_FORMAT, "%s: %d as element %u, where %u to %u are allowed", key_levels, v, i,
                           before, set->n_increments);
        }
        set->level_cursor[i] = before = (uint32_t)v;
    }
    return read_measured(file, set, err);
}

pr_status pr__planes_read(pr_model_file *file, pr_err *err) {
    if (!pr_model_file_meta(file, key_version)) return PR_OK;
    pr_status status = check_version(file, err);
    if (status != PR_OK) return status;
    pr_plane_set *set = pr_arena_array(&file->arena, 1, sizeof *set);
    if (!set) return pr_fail_nomem(err, "planes", sizeof *set);
    status = read_tensors(file, set, err);
    if (status == PR_OK) status = read_units(file, set, err);
    if (status == PR_OK) status = read_increments(file, set, err);
    if (status == PR_OK) status = read_tables(file, set, err);
    file->planes = set;
    return status;
}

/* ---- plane tensors ---- */

static pr_status bind_plane(const pr_model_file *file, pr_plane_tensor *t, pr_plane plane, pr_err *err) {
    char name[NAME_BYTES_MAX + 1];
    snprintf(name, sizeof name, "%s.%s", t->name, pr_plane_name(plane));
    const pr_tensor_info *info = pr_model_file_find(file, name);
    if (plane >= t->n_planes) {
        if (!info) return PR_OK;
        return pr_fail(err, PR_ERR_FORMAT, "tensor '%s' is there, but by %s '%s' has %u planes", name, key_shapes,
                       t->name, t->n_planes);
    }
    if (!info) return pr_fail(err, PR_ERR_FORMAT, "tensor '%s' is missing", name);
    uint64_t bytes = pr_plane_tile_bytes(plane, t->cols);
    uint32_t tiles = pr_pack_tiles(t->rows);
    if (info->dtype != PR_I8 || info->dims[0] != bytes || info->dims[1] != tiles || info->dims[2] != 1 ||
        info->dims[3] != 1) {
        return pr_fail(err, PR_ERR_FORMAT,
                       "tensor '%s' is %s [%" PRIu64 ", %" PRIu64 "] instead of i8 [%" PRIu64 ", %u]", name,
                       pr_dtype_get(info->dtype)->name, info->dims[0], info->dims[1], bytes, tiles);
    }
    t->data[plane] = info;
    return PR_OK;
}

pr_status pr__planes_bind(pr_model_file *file, pr_err *err) {
    pr_plane_set *set = file->planes;
    for (uint32_t i = 0; i < set->n_tensors; i++) {
        for (uint32_t p = 0; p < PR_PLANE_COUNT; p++) {
            pr_status status = bind_plane(file, &set->tensors[i], (pr_plane)p, err);
            if (status != PR_OK) return status;
        }
    }
    return PR_OK;
}

/* ---- looking and reading ---- */

const pr_plane_set *pr_model_file_planes(const pr_model_file *file) { return file->planes; }

uint64_t pr_plane_unit_bytes(const pr_plane_set *set, uint32_t unit, pr_plane plane) {
    const pr_plane_piece *u = &set->units[unit];
    return (uint64_t)pr_plane_tile_bytes(plane, set->tensors[u->tensor].cols) * u->n_tiles;
}

uint64_t pr_plane_unit_offset(const pr_plane_set *set, uint32_t unit, pr_plane plane) {
    const pr_plane_piece *u = &set->units[unit];
    return (uint64_t)pr_plane_tile_bytes(plane, set->tensors[u->tensor].cols) * u->tile0;
}

static const pr_tensor_info *info_of(const pr_plane_set *set, uint32_t unit, pr_plane plane) {
    return set->tensors[set->units[unit].tensor].data[plane];
}

/* Read the bytes and compute their CRC on the way, while they are in the processor's cache. */
static pr_status read_pieces(const pr_model_file *file, uint32_t unit, pr_plane plane, uint8_t *out,
                             bool (*stop)(void *arg), void *arg, uint32_t *crc, pr_err *err) {
    const pr_tensor_info *info = info_of(file->planes, unit, plane);
    uint64_t from = pr_plane_unit_offset(file->planes, unit, plane);
    uint64_t left = pr_plane_unit_bytes(file->planes, unit, plane);
    uint32_t sum = libdeflate_crc32(0, NULL, 0);
    for (bool first = true; left > 0; first = false) {
        size_t n = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;
        if (!first && stop && stop(arg)) return pr_fail(err, PR_ERR_CANCELLED, "reading '%s' was stopped", info->name);
        pr_status status = pr_model_file_read(file, info, from, out, n, err);
        if (status != PR_OK) return status;
        sum = libdeflate_crc32(sum, out, n);
        out += n;
        from += n;
        left -= n;
    }
    *crc = sum;
    return PR_OK;
}

pr_status pr__plane_unit_read(const pr_model_file *file, uint32_t unit, pr_plane plane, void *out,
                              bool (*stop)(void *arg), void *arg, pr_err *err) {
    const pr_plane_piece *u = &file->planes->units[unit];
    const pr_tensor_info *info = info_of(file->planes, unit, plane);
    uint32_t crc = 0;
    pr_status status = read_pieces(file, unit, plane, out, stop, arg, &crc, err);
    if (status == PR_ERR_CANCELLED) return status;
    if (pr_file_changed(&file->files[info->shard])) {
        return pr_fail(err, PR_ERR_FORMAT, "%s has changed since it was opened", file->file_names[info->shard]);
    }
    if (status != PR_OK || crc == u->crc[plane]) return status;
    return pr_fail(
        err, PR_ERR_FORMAT, "%s: tensor '%s' is damaged in tiles %u to %u: their CRC-32 is %08x, by %s it was %08x",
        file->file_names[info->shard], info->name, u->tile0, u->tile0 + u->n_tiles - 1, crc, key_crc, u->crc[plane]);
}

pr_status pr_plane_unit_read(const pr_model_file *file, uint32_t unit, pr_plane plane, void *out, pr_err *err) {
    return pr__plane_unit_read(file, unit, plane, out, NULL, NULL, err);
}

void pr__plane_unit_soon(const pr_model_file *file, uint32_t unit, pr_plane plane) {
    const pr_tensor_info *info = info_of(file->planes, unit, plane);
    pr_file_willneed(&file->files[info->shard], info->offset + pr_plane_unit_offset(file->planes, unit, plane),
                     pr_plane_unit_bytes(file->planes, unit, plane));
}

void pr__plane_unit_done(const pr_model_file *file, uint32_t unit, pr_plane plane) {
    const pr_tensor_info *info = info_of(file->planes, unit, plane);
    pr_file_dontneed(&file->files[info->shard], info->offset + pr_plane_unit_offset(file->planes, unit, plane),
                     pr_plane_unit_bytes(file->planes, unit, plane));
}
