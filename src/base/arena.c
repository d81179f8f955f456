/*
 * Arena: bump allocation in zeroed chunks.
 *
 * The newest chunk is the one being filled. Chunks double from 4 KiB to 1 MiB,
 * so that a small user stays small and a large one makes few requests. An
 * object too large for the next chunk gets a chunk of its own, put behind the
 * one being filled, whose free tail is then not lost. Chunks come from
 * pr_calloc, so nothing is cleared twice, and nothing is ever handed out twice.
 */
#include "base/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define CHUNK_MIN ((size_t)4096)
#define CHUNK_MAX ((size_t)1 << 20)
#define ALIGN     ((size_t)16)

struct pr__arena_chunk {
    struct pr__arena_chunk *next;
    size_t used, cap; /* bytes of data */
    _Alignas(16) char data[];
};

void pr_arena_init(pr_arena *arena, pr_tag tag) { *arena = (pr_arena){.tag = tag}; }

void pr_arena_free(pr_arena *arena) {
    struct pr__arena_chunk *chunk = arena->chunk;
    while (chunk) {
        struct pr__arena_chunk *next = chunk->next;
        pr_free(chunk);
        chunk = next;
    }
    arena->chunk = NULL;
}

static struct pr__arena_chunk *chunk_new(pr_arena *arena, size_t cap) {
    size_t whole;
    if (!pr_size_add(cap, sizeof(struct pr__arena_chunk), &whole)) return NULL;
    struct pr__arena_chunk *chunk = pr_calloc(arena->tag, 1, whole);
    if (chunk) chunk->cap = cap;
    return chunk;
}

/* A chunk with room for bytes: the newest one afterwards, unless it holds one large object only. */
static struct pr__arena_chunk *chunk_add(pr_arena *arena, size_t bytes) {
    struct pr__arena_chunk *newest = arena->chunk;
    size_t cap = !newest ? CHUNK_MIN : newest->cap >= CHUNK_MAX / 2 ? CHUNK_MAX : newest->cap * 2;
    bool large = bytes > cap / 2;
    struct pr__arena_chunk *chunk = chunk_new(arena, large ? bytes : cap);
    if (!chunk) return NULL;
    if (large && newest) {
        chunk->next = newest->next;
        newest->next = chunk;
    } else {
        chunk->next = newest;
        arena->chunk = chunk;
    }
    return chunk;
}

void *pr_arena_alloc(pr_arena *arena, size_t bytes) {
    size_t rounded;
    if (!pr_size_add(bytes ? bytes : 1, ALIGN - 1, &rounded)) return NULL;
    rounded -= rounded % ALIGN;
    struct pr__arena_chunk *chunk = arena->chunk;
    if (!chunk || chunk->cap - chunk->used < rounded) chunk = chunk_add(arena, rounded);
    if (!chunk) return NULL;
    void *p = chunk->data + chunk->used;
    chunk->used += rounded;
    return p;
}

void *pr_arena_array(pr_arena *arena, size_t count, size_t size) {
    size_t bytes;
    return pr_size_mul(count, size, &bytes) ? pr_arena_alloc(arena, bytes) : NULL;
}

char *pr_arena_strndup(pr_arena *arena, const char *text, size_t len) {
    size_t whole;
    char *copy = pr_size_add(len, 1, &whole) ? pr_arena_alloc(arena, whole) : NULL;
    if (copy && len) memcpy(copy, text, len);
    return copy;
}

char *pr_arena_printf(pr_arena *arena, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    char *text = len < 0 ? NULL : pr_arena_alloc(arena, (size_t)len + 1);
    if (!text) return NULL;
    va_start(args, fmt);
    vsnprintf(text, (size_t)len + 1, fmt, args);
    va_end(args);
    return text;
}
