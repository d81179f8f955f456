/*
 * A radix tree over KV pages.
 *
 * Why a node is a page, and not a run of them: pages are what is shared, evicted and counted, and nothing is ever split.
 *
 * Children are an array in the order of their tokens (a beginning before what goes on from it), so that the child with
 * the longest common beginning is beside the place where the tokens asked for would stand, found by halving.
 *
 * Invariants: every node but a root holds its page once. The list by use has every node but roots, a node never older than
 * one below it: paths are touched from their ends upwards. So walking it from the oldest meets leaves before
 * what they hang on, and one walk is enough to evict. Levels do not rise on the way down. Of two siblings one of which begins the other the
 * shorter has the higher level. A root without children is freed.
 */
#include "kv/radix.h"

#include <assert.h>
#include <string.h>

typedef struct pr_radix_node node;

struct pr_radix_node {
    node *parent; /* NULL: a root */
    node **children;
    uint32_t n_children, room;
    node *older, *newer;
    uint32_t page;
    bool pinned; /* while evicting: on the spared path */
    uint32_t n_tokens;
    int32_t tokens[PR_KV_TOKENS];
};

typedef struct root {
    node top; /* without tokens or a page */
    const void *owner;
    struct root *next;
} root;

struct pr_radix {
    pr_kv_pool *pool;
    root *roots;
    node *oldest, *newest;
    uint32_t n_pages;
};

pr_status pr_radix_open(pr_kv_pool *pool, pr_radix **out, pr_err *err) {
    pr_radix *tree = *out = pr_calloc(PR_TAG_KV, 1, sizeof *tree);
    if (!tree) return pr_fail_nomem(err, "tree of KV pages", sizeof *tree);
    tree->pool = pool;
    return PR_OK;
}

void pr_radix_close(pr_radix *tree) {
    if (!tree) return;
    pr_radix_clear(tree);
    pr_free(tree);
}

uint32_t pr_radix_pages(const pr_radix *tree) { return tree->n_pages; }

static root *root_of(const pr_radix *tree, const void *owner) {
    root *r = tree->roots;
    while (r && r->owner != owner) r = r->next;
    return r;
}

bool pr_radix_has(const pr_radix *tree, const void *owner) { return root_of(tree, owner) != NULL; }

static uint8_t level_of(const pr_radix *tree, const node *n) { return pr_kv_page_level(tree->pool, n->page); }

/* Whether nobody but the tree holds its page. */
static bool alone(const pr_radix *tree, const node *n) { return pr_kv_page_holders(tree->pool, n->page) == 1; }

/* ---- order of children ------------------------------------------------- */

/* How many tokens of the node's agree with the beginning of these. */
static uint32_t common(const node *c, const int32_t *tokens, uint32_t n) {
    uint32_t i = 0, most = c->n_tokens < n ? c->n_tokens : n;
    while (i < most && c->tokens[i] == tokens[i]) i++;
    return i;
}

static bool is_before(const node *c, const int32_t *tokens, uint32_t n) {
    uint32_t i = common(c, tokens, n);
    if (i == n) return false;
    return i == c->n_tokens || c->tokens[i] < tokens[i];
}

/* Where a child with these tokens stands, or would. */
static uint32_t place_of(const node *of, const int32_t *tokens, uint32_t n) {
    uint32_t first = 0, end = of->n_children;
    while (first < end) {
        uint32_t middle = first + (end - first) / 2;
        if (is_before(of->children[middle], tokens, n)) first = middle + 1;
        else end = middle;
    }
    return first;
}

/* ---- use ---------------------------------------------------------------- */

static void list_out(pr_radix *tree, node *n) {
    *(n->older ? &n->older->newer : &tree->oldest) = n->newer;
    *(n->newer ? &n->newer->older : &tree->newest) = n->older;
}

static void list_in(pr_radix *tree, node *n) {
    n->older = tree->newest;
    n->newer = NULL;
    *(n->older ? &n->older->newer : &tree->oldest) = n;
    tree->newest = n;
}

static void touch(pr_radix *tree, node *n) {
    for (; n->parent; n = n->parent) {
        list_out(tree, n);
        list_in(tree, n);
    }
}

/* ---- nodes -------------------------------------------------------------- */

static void drop_root_if_bare(pr_radix *tree, node *top) {
    root **at = &tree->roots;
    if (top->n_children) return;
    while (&(*at)->top != top) at = &(*at)->next;
    root *r = *at;
    *at = r->next;
    pr_free(top->children);
    pr_free(r);
}

static root *root_for(pr_radix *tree, const void *owner) {
    root *r = root_of(tree, owner);
    if (r || !(r = pr_calloc(PR_TAG_KV, 1, sizeof *r))) return r;
    r->owner = owner;
    r->next = tree->roots;
    return tree->roots = r;
}

/* Of a leaf. Its parent stays, also a bare root. */
static void drop_leaf(pr_radix *tree, node *n) {
    node *of = n->parent;
    uint32_t i = place_of(of, n->tokens, n->n_tokens);
    assert(n->n_children == 0 && of->children[i] == n);
    of->n_children--;
    memmove(of->children + i, of->children + i + 1, (of->n_children - i) * sizeof(node *));
    list_out(tree, n);
    pr_kv_page_drop(tree->pool, n->page);
    tree->n_pages--;
    pr_free(n->children);
    pr_free(n);
}

static void drop(pr_radix *tree, node *n) {
    node *of = n->parent;
    drop_leaf(tree, n);
    if (!of->parent) drop_root_if_bare(tree, of);
}

static bool make_room(node *of) {
    if (of->n_children < of->room) return true;
    uint32_t room = of->room ? 2 * of->room : 1;
    node **more = pr_realloc(PR_TAG_KV, of->children, room * sizeof(node *));
    if (!more) return false;
    of->children = more;
    of->room = room;
    return true;
}

static void hold(pr_radix *tree, node *n, uint32_t page, uint8_t level) {
    pr_kv_page_hold(tree->pool, page);
    pr_kv_page_lower(tree->pool, page, level);
    n->page = page;
}

/* The newest, at place i; NULL: no memory. */
static node *add_child(pr_radix *tree, node *of, uint32_t i, const int32_t *tokens, uint32_t n_tokens) {
    node *n = make_room(of) ? pr_calloc(PR_TAG_KV, 1, sizeof *n) : NULL;
    if (!n) return NULL;
    n->parent = of;
    n->n_tokens = n_tokens;
    memcpy(n->tokens, tokens, n_tokens * sizeof *tokens);
    memmove(of->children + i + 1, of->children + i, (of->n_children - i) * sizeof(node *));
    of->children[i] = n;
    of->n_children++;
    list_in(tree, n);
    tree->n_pages++;
    return n;
}

/* Shorter ones that n begins with and that have no higher level. */
static void drop_covered(pr_radix *tree, node *n) {
    node *of = n->parent;
    uint8_t level = level_of(tree, n);
    for (uint32_t len = 1; len < n->n_tokens && of->n_children > 1; len++) {
        node *c = of->children[place_of(of, n->tokens, len)]; /* n itself at the latest */
        if (c->n_tokens == len && level_of(tree, c) <= level) drop_leaf(tree, c);
    }
}

/* The child that stands for a page, there already or made; NULL: no memory. */
static node *child_for(pr_radix *tree, node *of, const int32_t *tokens, uint32_t n_tokens, uint32_t page, uint8_t level,
                       uint32_t *n_added) {
    uint32_t i = place_of(of, tokens, n_tokens);
    node *c = i < of->n_children ? of->children[i] : NULL;
    bool same = c && c->n_tokens == n_tokens && common(c, tokens, n_tokens) == n_tokens;
    for (uint32_t k = i; k < of->n_children && common(of->children[k], tokens, n_tokens) == n_tokens; k++)
        if (level_of(tree, of->children[k]) >= level) return of->children[k];
    if (same) pr_kv_page_drop(tree->pool, c->page);
    else c = add_child(tree, of, i, tokens, n_tokens);
    if (!c) return NULL;
    hold(tree, c, page, level);
    drop_covered(tree, c);
    ++*n_added;
    return c;
}

/* ---- finding ------------------------------------------------------------ */

/* Of children not below the level, the one that agrees with most tokens, *n. Going away from the place where they would
 * stand fewer and fewer agree. */
static node *best_child(const pr_radix *tree, const node *of, const int32_t *tokens, uint32_t n_tokens, uint8_t level,
                        uint32_t *n) {
    uint32_t i = place_of(of, tokens, n_tokens), m;
    node *best = NULL;
    *n = 0;
    for (uint32_t k = i; k < of->n_children && (m = common(of->children[k], tokens, n_tokens)) > *n; k++) {
        if (level_of(tree, of->children[k]) < level) continue;
        best = of->children[k];
        *n = m;
    }
    for (uint32_t k = i; k-- > 0 && (m = common(of->children[k], tokens, n_tokens)) > *n;) {
        if (level_of(tree, of->children[k]) < level) continue;
        best = of->children[k];
        *n = m;
    }
    return best;
}

pr_radix_match pr_radix_find(const pr_radix *tree, const void *owner, const int32_t *tokens, uint32_t n_tokens,
                             uint8_t level) {
    pr_radix_match match = {0};
    root *r = root_of(tree, owner);
    for (node *at = r ? &r->top : NULL; at && match.n_tokens < n_tokens;) {
        uint32_t left = n_tokens - match.n_tokens, n = 0;
        at = best_child(tree, at, tokens + match.n_tokens, left < PR_KV_TOKENS ? left : PR_KV_TOKENS, level, &n);
        if (!at) break;
        match.end = at;
        match.n_tokens += n;
        if (n < PR_KV_TOKENS) break;
    }
    return match;
}

pr_radix_match pr_radix_whole(pr_radix_match match) {
    uint32_t part = match.n_tokens % PR_KV_TOKENS;
    if (part == 0) return match;
    match.n_tokens -= part;
    match.end = match.n_tokens ? match.end->parent : NULL;
    return match;
}

void pr_radix_take(pr_radix *tree, const pr_radix_match *match, pr_kv_seq *seq) {
    if (match->n_tokens == 0) return;
    uint32_t n_pages = (match->n_tokens - 1) / PR_KV_TOKENS + 1;
    assert(seq->pool == tree->pool && seq->n_pages == 0 && n_pages <= seq->pages_max);
    const node *at = match->end;
    for (uint32_t p = n_pages; p-- > 0; at = at->parent) {
        pr_kv_page_hold(tree->pool, at->page);
        seq->pages[p] = at->page;
    }
    seq->n_pages = n_pages;
    seq->n_tokens = match->n_tokens;
    touch(tree, match->end);
}

/* ---- keeping and letting go --------------------------------------------- */

uint32_t pr_radix_insert(pr_radix *tree, const void *owner, const pr_kv_seq *seq, const int32_t *tokens,
                         uint32_t n_tokens) {
    assert(seq->pool == tree->pool && n_tokens <= seq->n_tokens);
    root *r = n_tokens ? root_for(tree, owner) : NULL;
    uint32_t n_added = 0;
    uint8_t level = UINT8_MAX;
    if (!r) return 0;
    node *end = &r->top;
    for (uint32_t at = 0; at < n_tokens; at += PR_KV_TOKENS) {
        uint32_t page = seq->pages[at / PR_KV_TOKENS], n = n_tokens - at < PR_KV_TOKENS ? n_tokens - at : PR_KV_TOKENS;
        if (pr_kv_page_level(tree->pool, page) < level) level = pr_kv_page_level(tree->pool, page);
        node *c = child_for(tree, end, tokens + at, n, page, level, &n_added);
        if (!c) break;
        end = c;
    }
    touch(tree, end);
    drop_root_if_bare(tree, &r->top);
    return n_added;
}

static void pin(const pr_radix_match *match, bool pinned) {
    for (node *n = match ? match->end : NULL; n; n = n->parent) n->pinned = pinned;
}

/* Whether letting go of it, and then of what it rests on, comes to a page that nobody else holds. */
static bool leads_to_room(const pr_radix *tree, const node *n) {
    for (; n->parent && !n->pinned; n = n->parent)
        if (alone(tree, n)) return true;
    return false;
}

uint32_t pr_radix_evict(pr_radix *tree, uint32_t n_pages, const pr_radix_match *spared) {
    uint32_t n_freed = 0;
    pin(spared, true);
    for (node *n = tree->oldest, *next; n && n_freed < n_pages; n = next) {
        next = n->newer;
        if (n->n_children || !leads_to_room(tree, n)) continue;
        n_freed += alone(tree, n);
        drop(tree, n);
    }
    pin(spared, false);
    return n_freed;
}

void pr_radix_clear(pr_radix *tree) {
    while (tree->oldest) drop(tree, tree->oldest);
}
