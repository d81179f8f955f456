/*
 * Guarded buffers: each lies in a mapping of its own, right before a page
 * without access, with another such page in front. What is left between the
 * front page and the buffer keeps a pattern that is checked on release.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "checkasm.h"

enum { PAGE = 4096, BUFFERS_MAX = 256, PATTERN = 0xa5 };

static struct {
    uint8_t *map, *data;
    size_t map_bytes;
} buffers[BUFFERS_MAX];
static int n_buffers;

void *guard_alloc(size_t bytes) {
    size_t body = (bytes + PAGE - 1) / PAGE * PAGE;
    if (n_buffers == BUFFERS_MAX) {
        fprintf(stderr, "checkasm: too many buffers\n");
        exit(2);
    }
    uint8_t *map = mmap(NULL, body + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED || mprotect(map, PAGE, PROT_NONE) != 0 || mprotect(map + PAGE + body, PAGE, PROT_NONE) != 0) {
        perror("checkasm: mmap");
        exit(2);
    }
    if (body >= 2u << 20) {
        (void)madvise(map + PAGE, body, MADV_HUGEPAGE); /* for timing; a refusal is no harm */
    }
    memset(map + PAGE, PATTERN, body);
    uint8_t *data = map + PAGE + body - bytes;
    buffers[n_buffers].map = map;
    buffers[n_buffers].data = data;
    buffers[n_buffers].map_bytes = body + 2 * PAGE;
    n_buffers++;
    return data;
}

void guard_free_all(void) {
    for (int i = 0; i < n_buffers; i++) {
        for (uint8_t *p = buffers[i].map + PAGE; p < buffers[i].data; p++) {
            if (*p != PATTERN) {
                fprintf(stderr, "checkasm: something wrote before the start of a buffer\n");
                exit(1);
            }
        }
        munmap(buffers[i].map, buffers[i].map_bytes);
    }
    n_buffers = 0;
}
