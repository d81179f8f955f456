/*
 * Test support: small plane files with random contents.
 *
 * All of it follows from the seed: planes_file_tile() makes any tile again, so a test can compare what came back.
 * Codes, scales and books are valid and finite; the numbers mean nothing. The model in it is none: besides the matrices
 * there is one kept tensor, "kept" (F32 [8], 0 to 7), and general.architecture is "none".
 */
#ifndef PRECIS_TEST_PLANES_FILE_H
#define PRECIS_TEST_PLANES_FILE_H

#include "store/planes.h"

enum { PLANES_FILE_TENSORS_MAX = 8 };

/* What older files have as precis.kl.measured: 2, and no second number. */
#define PLANES_FILE_OLDER "precis.kl.measuree"

typedef struct planes_file {
    uint32_t n_tensors; /* up to PLANES_FILE_TENSORS_MAX; they are named "m0", "m1", ... */
    struct {
        uint32_t cols, rows, n_planes; /* cols: a multiple of 32; n_planes: 1 to 4 */
    } tensors[PLANES_FILE_TENSORS_MAX];
    uint32_t unit_tiles; /* tiles of a unit; the last of a matrix may have fewer. 0: a matrix is one unit */
    uint64_t seed;       /* also of the order of increments, which is random and valid */
} planes_file;

/* Four matrices with 1 to 4 planes, of several units each. */
extern const planes_file planes_file_small;

/* Write it to path. The second fails the test when it cannot. */
pr_status planes_file_try(const planes_file *spec, const char *path, pr_err *err);
void planes_file_write(const planes_file *spec, const char *path);

/* One tile of a matrix in all its planes, into zeroed memory of pr_plane_tile_bytes() each; NULL: that plane is left out. */
void planes_file_tile(const planes_file *spec, uint32_t tensor, uint32_t tile, uint8_t *const plane[PR_PLANE_COUNT]);

/* True when out holds one plane of one unit as it was written; set is that of the file. */
bool planes_file_same(const planes_file *spec, const pr_plane_set *set, uint32_t unit, pr_plane plane,
                      const uint8_t *out);

#endif
