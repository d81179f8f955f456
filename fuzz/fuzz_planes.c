/*
 * Fuzz: any bytes as a plane file. What opens must keep what store/planes.h promises: units cover their matrices, the list
 * of increments holds every plane once and in order, every plane of every unit lies in the file; it can be loaded and
 * moved, or says why not; and nothing leaks.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mem.h"
#include "store/residency.h"

enum { INPUT_MAX = 1 << 16 };

static void require(int truth) {
    if (!truth) {
        abort();
    }
}

static void walk_tensors(const pr_model_file *f, const pr_plane_set *set) {
    uint32_t unit = 0;
    for (uint32_t i = 0; i < set->n_tensors; i++) {
        const pr_plane_tensor *t = &set->tensors[i];
        const pr_tensor_info *info = pr_model_file_find(f, t->name);
        uint32_t tile = 0;
        require(info && info->planes == t && info->dtype == PR_PLANES);
        require(info->dims[0] == t->cols && info->dims[1] == t->rows);
        require(t->cols > 0 && t->cols % PR_BLOCK == 0 && t->rows > 0);
        require(t->n_planes >= 1 && t->n_planes <= set->n_planes && pr_plane_book_ok(&t->book));
        require(t->unit0 == unit && t->n_units >= 1);
        for (uint32_t k = 0; k < t->n_units; k++, unit++) {
            require(set->units[unit].tensor == i && set->units[unit].tile0 == tile && set->units[unit].n_tiles > 0);
            tile += set->units[unit].n_tiles;
            for (uint32_t p = 0; p < t->n_planes; p++) {
                uint64_t end = pr_plane_unit_offset(set, unit, (pr_plane)p) +
                               pr_plane_unit_bytes(set, unit, (pr_plane)p);
                require(t->data[p] && end <= t->data[p]->bytes);
                require(t->data[p]->offset + t->data[p]->bytes <= pr_model_file_bytes(f));
            }
        }
        require(tile == pr_pack_tiles(t->rows));
    }
    require(unit == set->n_units);
}

static void walk_increments(const pr_plane_set *set) {
    uint32_t due = 0;
    uint8_t *next = calloc(set->n_units, 1);
    for (uint32_t i = 0; i < set->n_increments; i++) {
        const pr_increment *inc = &set->increments[i];
        require(inc->unit < set->n_units && (int)inc->plane == ++next[inc->unit]);
        require(isfinite(set->kl[i]));
    }
    for (uint32_t u = 0; u < set->n_units; u++) {
        require(next[u] == set->tensors[set->units[u].tensor].n_planes - 1);
        due += next[u];
    }
    require(due == set->n_increments && isfinite(set->kl[due]));
    for (int p = 0; p < PR_PLANE_COUNT; p++) require(set->level_cursor[p] <= due);
    free(next);
}

/* To the top and down again; both may fail, but only with a reason. */
static void move(const pr_model_file *f, const pr_plane_set *set, pr_team *team) {
    pr_residency *r = NULL;
    pr_err err = {0};
    require(pr_residency_open(f, &r, &err) == PR_OK);
    if (pr_residency_load(r, 0, team, NULL, NULL, &err) == PR_OK) {
        require(pr_residency_move(r, set->n_increments, NULL) == PR_OK);
        pr_status status = pr_residency_settle(r, 20, &err);
        require(status == PR_OK || (status == PR_ERR_FORMAT && err.text[0]));
        require(pr_residency_move(r, 0, NULL) == PR_OK && pr_residency_settle(r, 20, NULL) == PR_OK);
    } else {
        require(err.status != PR_OK && err.text[0]);
    }
    pr_residency_close(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static pr_team *team;
    static int fd = -1;
    char path[64];
    pr_model_file *f;
    pr_err err = {0};
    if (size > INPUT_MAX) return 0;
    if (fd < 0) fd = memfd_create("planes", MFD_CLOEXEC);
    require(fd >= 0 && ftruncate(fd, 0) == 0 && pwrite(fd, data, size, 0) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    require(team || pr_team_open(1, 0, &team, NULL) == PR_OK);
    size_t before = pr_mem_total();
    pr_mem_peak_reset();
    pr_status status = pr_model_file_open(path, &f, &err);
    require(pr_mem_peak() - before < (64 << 10) + 64 * size);
    require(status == PR_OK ? f != NULL : f == NULL && err.status == status && err.text[0] != '\0');
    const pr_plane_set *set = f ? pr_model_file_planes(f) : NULL;
    if (set) {
        walk_tensors(f, set);
        walk_increments(set);
        move(f, set, team);
    }
    pr_model_file_close(f);
    require(pr_mem_total() == before);
    return 0;
}
