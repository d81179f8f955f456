/*
 * Plane files: an elastic model as a GGUF file, read and written.
 *
 * A packed matrix NAME stands in the file as I8 tensors NAME.p2, NAME.p4, NAME.p8, NAME.p16 (as many as the source's own
 * precision fills), each [tile bytes, tiles] in the layout of kernels/planes.h, level-major (all p2, then all p4, ...) and
 * aligned to 4096. Every other tensor is kept as in the source. Keys "precis.*" hold the rest, all of it here:
 *
 *   precis.planes.version    u32, 1
 *   precis.planes.names      strings [n]           matrices, in the order of the file
 *   precis.planes.shapes     i32 [n][3]            columns, rows, planes (1..4)
 *   precis.planes.books      i32 [n][37]           c2[4], c4[16], c8[16], k16
 *   precis.planes.factors    f32 [n][3]            f2, f4, f8
 *   precis.planes.units      i32 [n_units][3]      matrix, first tile, tiles: the pieces that come and go, in order
 *   precis.planes.crc        i32 [n_units][4]      CRC-32 of each plane of each unit, 0 where there is none
 *   precis.increments        i32 [n_increments][2] unit, plane: what to add to the p2 planes, best first
 *   precis.increments.kl     f32 [n_increments + 1] KL (nats a token) against the source with the first i increments
 *   precis.levels            i32 [4]               increments that make int2, int4, int8, fp16
 *   precis.kl.measured       i32 [2]               measurements that KL rests on: matrices one by one, or levels; 0: a guess by kind of
 *                                                  matrix. And up to how many increments; beyond them it is extrapolated
 *   precis.source, .source.types, .calibration   strings, for people
 *   precis.source.bytes, .source.changed   strings, in decimal: size and time of change (ns) of the source, to know it by
 *
 * An increment comes after those of the lower planes of its unit. The list holds every plane but p2 once.
 * A set is immutable once read; thread-safe.
 */
#ifndef PRECIS_STORE_PLANES_H
#define PRECIS_STORE_PLANES_H

#include "kernels/planes.h"
#include "store/gguf_write.h"
#include "store/model_file.h"

typedef struct pr_plane_tensor {
    const char *name;
    uint32_t cols, rows, n_planes;
    pr_plane_book book;
    const pr_tensor_info *data[PR_PLANE_COUNT]; /* NULL from n_planes on */
    uint32_t unit0, n_units;                    /* its units: consecutive, covering all tiles in order */
} pr_plane_tensor;

typedef struct pr_plane_piece { /* a unit */
    uint32_t tensor, tile0, n_tiles;
    uint32_t crc[PR_PLANE_COUNT];
} pr_plane_piece;

typedef struct pr_increment {
    uint32_t unit;
    pr_plane plane; /* p4, p8 or p16 */
} pr_increment;

typedef struct pr_plane_set {
    pr_plane_tensor *tensors;
    uint32_t n_tensors;
    pr_plane_piece *units;
    uint32_t n_units;
    pr_increment *increments;
    uint32_t n_increments;
    float *kl;                             /* [n_increments + 1] */
    uint32_t level_cursor[PR_PLANE_COUNT]; /* increments of int2, int4, int8, fp16; ascending */
    uint32_t n_planes;                     /* most of any tensor: the top level is n_planes - 1 */
    uint64_t n_weights;                    /* in packed matrices */
    uint32_t n_measured;                   /* measurements that kl rests on; 0, also of older files: it is a guess */
    uint32_t measured_to;                  /* kl[0 .. measured_to] does, the rest is extrapolated */
} pr_plane_set;

/* The planes of an open file; NULL when it is an ordinary model. */
const pr_plane_set *pr_model_file_planes(const pr_model_file *file);

/* Bytes of one plane of one unit, and where they begin in the tensor that holds the plane. */
uint64_t pr_plane_unit_bytes(const pr_plane_set *set, uint32_t unit, pr_plane plane);
uint64_t pr_plane_unit_offset(const pr_plane_set *set, uint32_t unit, pr_plane plane);

/* Read one plane of one unit into out and check its CRC. Errors name the tensor with its plane and the file. */
pr_status pr_plane_unit_read(const pr_model_file *file, uint32_t unit, pr_plane plane, void *out, pr_err *err);

/*
 * Inside store/: called by pr_model_file_open() for GGUF files when the metadata is indexed (read), and again when the
 * tensors are (bind). Together they check everything named above (counts, shapes, books, coverage of units, order of
 * increments, sizes of plane tensors) and add one tensor a packed matrix under its own name, of type PR_PLANES,
 * [cols, rows], with no bytes of its own (info->bytes is 0) and info->planes pointing at it.
 */
pr_status pr__planes_read(pr_model_file *file, pr_err *err);
pr_status pr__planes_bind(pr_model_file *file, pr_err *err);

/* As pr_plane_unit_read(), in pieces of a few megabytes; before each but the first stop(arg) may end it: PR_ERR_CANCELLED. */
pr_status pr__plane_unit_read(const pr_model_file *file, uint32_t unit, pr_plane plane, void *out,
                              bool (*stop)(void *arg), void *arg, pr_err *err);
/* The same bytes will be read soon / are not needed in the page cache any more. */
void pr__plane_unit_soon(const pr_model_file *file, uint32_t unit, pr_plane plane);
void pr__plane_unit_done(const pr_model_file *file, uint32_t unit, pr_plane plane);

/*
 * Writing. Order: describe (the caller has created w with alignment 4096 and written the source's own keys), then all
 * tensors' data as described: kept tensors first, then level-major planes. Books, CRCs, the order of increments, the KL
 * table and the levels are only known later: they are described with zeros and filled in by pr_planes_complete(), which
 * comes after the data and before pr_gguf_finish(), and again whenever something has changed. After it the unfinished
 * file can be opened as a model (pr_gguf_part_path()); close that before the next call, it would be a changed file.
 *
 * set: tensors (name, cols, rows, n_planes; unit0, n_units), units, n_increments and n_planes are final;
 * books, increments, kl, level_cursor and crc may still change.
 */
void pr_planes_describe(pr_gguf_writer *w, const pr_plane_set *set);         /* the keys */
void pr_planes_describe_tensors(pr_gguf_writer *w, const pr_plane_set *set); /* level-major plane tensors */
pr_status pr_planes_complete(pr_gguf_writer *w, const pr_plane_set *set, pr_err *err);

#endif
