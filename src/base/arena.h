/*
 * Arena: many small objects with one lifetime, freed together.
 *
 * Used where a structure is built once and thrown away whole: file metadata,
 * the graph, the vocabulary index. Not thread-safe.
 */
#ifndef PRECIS_BASE_ARENA_H
#define PRECIS_BASE_ARENA_H

#include "base/mem.h"

typedef struct pr_arena {
    pr_tag tag;
    struct pr__arena_chunk *chunk; /* newest first */
} pr_arena;

void pr_arena_init(pr_arena *arena, pr_tag tag);
void pr_arena_free(pr_arena *arena); /* an all-zero arena is allowed */

/* Zeroed, 16-byte aligned; NULL when out of memory. */
void *pr_arena_alloc(pr_arena *arena, size_t bytes);
void *pr_arena_array(pr_arena *arena, size_t count, size_t size);
char *pr_arena_strndup(pr_arena *arena, const char *text, size_t len);
char *pr_arena_printf(pr_arena *arena, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
