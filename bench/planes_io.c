/*
 * Planes from a mapped file, or read into memory of one's own? Question (e) of docs/ELASTIC-EXPERIMENTS.md.
 *
 *   build/release/bench/planes_io [MB [folder [threads]]]
 *
 * Writes a file of that many megabytes (1024) into the folder (/tmp), and brings it into memory in three ways: mapped and
 * populated; anonymous memory of small pages, read 8 MB at a time and dropped
 * from the page cache behind; the same with
 * huge pages. For each: how long it takes from the disk and from the page cache, how fast all threads sum it up
 * (best of 7, the pattern of a GEMV: every byte once, in order), how long giving it back takes, and what the process
 * and the page cache hold before and after. Three rounds, each begins with another way, and the median of each figure.
 * Prints a Markdown table.
 */
#include <fcntl.h>
#include <libdeflate.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/os.h"
#include "base/pool.h"
#include "base/str.h"

enum { MB = 1 << 20, PIECE = 8 * MB, CHUNK = MB, PASSES = 7, ROUNDS = 3 };
typedef enum way { MAPPED, SMALL, HUGE, WAYS } way;
static const char *const way_names[WAYS] = {"mapped file", "read, 4 kB pages", "read, huge pages"};

typedef struct bench {
    char path[512];
    int fd;
    size_t bytes;
    pr_team *team;
    const uint8_t *data;
    uint64_t sums[64 * 8]; /* a cache line a thread */
} bench;

typedef struct held { /* MB */
    double rss, file_cached, cached;
} held;

typedef struct result {
    double cold, warm, speed, drop, drop_all; /* seconds, GB/s */
    held before, raised, dropped;
} result;

static void stop(const char *what) {
    perror(what);
    exit(1);
}

/* ---- looking ---- */

static double file_cached_mb(const bench *b) {
    size_t pages = (b->bytes + 4095) / 4096, n = 0;
    unsigned char *in = malloc(pages);
    void *p = mmap(NULL, b->bytes, PROT_READ, MAP_SHARED, b->fd, 0);
    if (!in || p == MAP_FAILED || mincore(p, b->bytes, in) != 0) stop("mincore");
    for (size_t i = 0; i < pages; i++) n += in[i] & 1;
    munmap(p, b->bytes);
    free(in);
    return (double)n * 4096 / MB;
}

/* "Cached" of the whole machine. */
static double cached_mb(void) {
    char line[256];
    unsigned long kb = 0;
    FILE *f = fopen("/proc/meminfo", "r");
    while (f && fgets(line, sizeof line, f) && strncmp(line, "Cached:", 7) != 0) continue;
    if (f) {
        kb = strtoul(line + 7, NULL, 10);
        fclose(f);
    }
    return (double)kb / 1024;
}

static held look(const bench *b) { return (held){(double)pr_rss_bytes() / MB, file_cached_mb(b), cached_mb()}; }

/* ---- the file ---- */

static void make_file(bench *b, const char *folder) {
    uint8_t *piece = malloc(PIECE);
    uint64_t x = 1;
    snprintf(b->path, sizeof b->path, "%s/planes_io-XXXXXX", folder);
    b->fd = mkstemp(b->path);
    if (b->fd < 0 || !piece) stop(b->path);
    unlink(b->path); /* gone with us, however we end */
    for (size_t at = 0; at < b->bytes; at += PIECE) {
        for (size_t i = 0; i < PIECE; i += 8) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            memcpy(piece + i, &x, 8);
        }
        if (write(b->fd, piece, PIECE) != PIECE) stop("write");
    }
    if (fsync(b->fd) != 0) stop("fsync");
    free(piece);
}

static void chill(const bench *b) { posix_fadvise(b->fd, 0, 0, POSIX_FADV_DONTNEED); }

static void warm_up(const bench *b) {
    uint8_t *piece = malloc(PIECE);
    for (size_t at = 0; at < b->bytes; at += PIECE) {
        if (pread(b->fd, piece, PIECE, (off_t)at) != PIECE) stop("pread");
    }
    free(piece);
}

/* ---- up and down ---- */

static void *bring(bench *b, way how, void *room) {
    if (how == MAPPED) {
        void *p = mmap(NULL, b->bytes, PROT_READ, MAP_SHARED, b->fd, 0);
        if (p == MAP_FAILED) stop("mmap");
#ifdef MADV_POPULATE_READ
        if (madvise(p, b->bytes, MADV_POPULATE_READ) == 0) return p;
#endif
        volatile uint8_t touched;
        for (size_t i = 0; i < b->bytes; i += 4096) touched = ((volatile uint8_t *)p)[i];
        (void)touched;
        return p;
    }
    for (size_t at = 0; at < b->bytes; at += PIECE) {
        if (pread(b->fd, (char *)room + at, PIECE, (off_t)at) != PIECE) stop("pread");
        posix_fadvise(b->fd, (off_t)at, PIECE, POSIX_FADV_DONTNEED);
    }
    return room;
}

static void add_up(void *ctx, uint32_t chunk, int thread) {
    bench *b = ctx;
    const uint8_t *p = b->data + (size_t)chunk * CHUNK;
    uint64_t sum[8] = {0};
    for (size_t i = 0; i < CHUNK; i += 64) {
        uint64_t v[8];
        memcpy(v, p + i, 64);
        for (int k = 0; k < 8; k++) sum[k] += v[k];
    }
    for (int k = 0; k < 8; k++) b->sums[thread * 8] += sum[k];
}

static void add_thread(void *ctx, int thread) {
    bench *b = ctx;
    pr_team_for(b->team, thread, (uint32_t)(b->bytes / CHUNK), add_up, b);
}

static double sum_speed(bench *b, const void *data) {
    double best = 1e9;
    b->data = data;
    for (int i = 0; i < PASSES; i++) {
        double from = pr_now();
        pr_team_run(b->team, add_thread, b);
        double seconds = pr_now() - from;
        if (seconds < best) best = seconds;
    }
    return (double)b->bytes / best / 1e9;
}

static void *timed_bring(bench *b, way how, void *room, double *seconds) {
    double from = pr_now();
    void *data = bring(b, how, room);
    *seconds = pr_now() - from;
    return data;
}

static result measure(bench *b, way how) {
    result r = {0};
    void *room = how == HUGE ? pr_reserve_huge(b->bytes) : how == SMALL ? pr_reserve(b->bytes) : NULL;
    chill(b);
    r.before = look(b);
    void *data = timed_bring(b, how, room, &r.cold);
    if (how == MAPPED) munmap(data, b->bytes);
    else pr_map_release(data, b->bytes);
    warm_up(b);
    data = timed_bring(b, how, room, &r.warm);
    r.speed = sum_speed(b, data);
    r.raised = look(b);
    double from = pr_now();
    if (how == MAPPED) madvise(data, b->bytes, MADV_DONTNEED);
    else pr_map_release(data, b->bytes);
    r.drop = pr_now() - from;
    r.dropped = look(b);
    from = pr_now();
    if (how == MAPPED) {
        munmap(data, b->bytes); /* what is mapped is not dropped */
        chill(b);
        r.drop_all = r.drop + pr_now() - from;
    } else {
        r.drop_all = r.drop;
        pr_unreserve(room, b->bytes);
    }
    return r;
}

static double crc_speed(bench *b) {
    void *room = pr_reserve_huge(b->bytes);
    bring(b, HUGE, room);
    double from = pr_now();
    uint32_t crc = libdeflate_crc32(0, room, b->bytes);
    double seconds = pr_now() - from;
    b->sums[0] += crc;
    pr_unreserve(room, b->bytes);
    return (double)b->bytes / seconds / 1e9;
}

/* ---- output ---- */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* A line with the median over the rounds of the figure that stands at `offset` in a result. */
static void row(const char *what, const char *format, result r[ROUNDS][WAYS], size_t offset) {
    printf("| %s |", what);
    for (int i = 0; i < WAYS; i++) {
        double v[ROUNDS];
        for (int k = 0; k < ROUNDS; k++) memcpy(&v[k], (const char *)&r[k][i] + offset, sizeof *v);
        qsort(v, ROUNDS, sizeof *v, by_value);
        printf(format, v[ROUNDS / 2]);
    }
    printf("\n");
}

static void print(const bench *b, result r[ROUNDS][WAYS], double crc) {
    printf("%zu MB, %d threads; CRC-32 by one thread %.2f GB/s\n\n|  |", b->bytes / MB, pr_team_size(b->team), crc);
    for (int i = 0; i < WAYS; i++) printf(" %s |", way_names[i]);
    printf("\n|---|---|---|---|\n");
    row("up, from the disk, s", " %.3f |", r, offsetof(result, cold));
    row("up, from the page cache, s", " %.3f |", r, offsetof(result, warm));
    row("sum over it, GB/s", " %.1f |", r, offsetof(result, speed));
    row("down, s", " %.4f |", r, offsetof(result, drop));
    row("down, page cache too, s", " %.4f |", r, offsetof(result, drop_all));
    row("RSS before, MB", " %.0f |", r, offsetof(result, before.rss));
    row("RSS up, MB", " %.0f |", r, offsetof(result, raised.rss));
    row("RSS after down, MB", " %.0f |", r, offsetof(result, dropped.rss));
    row("the file's page cache up, MB", " %.0f |", r, offsetof(result, raised.file_cached));
    row("the file's page cache after down, MB", " %.0f |", r, offsetof(result, dropped.file_cached));
    row("Cached of the machine before, MB", " %.0f |", r, offsetof(result, before.cached));
    row("Cached of the machine up, MB", " %.0f |", r, offsetof(result, raised.cached));
    row("Cached of the machine after down, MB", " %.0f |", r, offsetof(result, dropped.cached));
}

int main(int argc, char **argv) {
    bench b = {0};
    result results[ROUNDS][WAYS];
    pr_err err = {0};
    uint32_t mb = 1024, threads = (uint32_t)pr_cpu_allowed();
    if ((argc > 1 && !pr_parse_u32(argv[1], &mb)) || (argc > 3 && !pr_parse_u32(argv[3], &threads)) || mb < 8 ||
        mb % 8 != 0 || threads < 1 || threads > 64) {
        fprintf(stderr, "usage: planes_io [MB, a multiple of 8 [folder [threads, up to 64]]]\n");
        return 2;
    }
    b.bytes = (size_t)mb * MB;
    if (pr_team_open((int)threads, 0, &b.team, &err) != PR_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    make_file(&b, argc > 2 ? argv[2] : "/tmp");
    for (int k = 0; k < ROUNDS; k++) {
        for (int i = 0; i < WAYS; i++) results[k][(k + i) % WAYS] = measure(&b, (way)((k + i) % WAYS));
    }
    print(&b, results, crc_speed(&b));
    pr_team_close(b.team);
    close(b.fd);
    return 0;
}
