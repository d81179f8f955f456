/*
 * Moves within a chat.
 *
 * The engine hands memory back, and takes over planes that have been read, around steps; at a prompt there are no
 * steps, so we settle ourselves. Going down takes a moment and is waited for. Going up reads the disk: what is not there
 * after a short wait goes on while the person types, and is told of before a later prompt.
 */
#include "cmd/chat_level.h"

#include <stdio.h>
#include <string.h>

#include "cmd/elastic.h"
#include "cmd/term.h"

static const double DOWN_SECONDS = 5, UP_SECONDS = 0.3;

static void tell_done(const pr_elastic_info *e, size_t from_bytes) {
    char a[32], b[32];
    bool up = e->bytes > from_bytes;
    printf("(now %s: %s -> %s of weights, %.2f bits each", pr__level_text(e), pr_format_bytes(a, sizeof a, from_bytes),
           pr_format_bytes(b, sizeof b, e->bytes), e->bits_per_weight);
    if (e->bytes != from_bytes) printf(", in %.3f s", up ? e->raise_seconds : e->drop_seconds);
    printf(")\n");
    if (*pr__level_caution(e)) printf("note: %s\n", pr__level_caution(e));
}

/* Read what was asked for; false after saying why not. */
static bool read_place(const char *text, bool by_budget, pr_place *place) {
    pr_err err = {0};
    const char *what = by_budget ? "/budget" : "/level";
    *place = (pr_place){.by_budget = by_budget};
    pr_status status = by_budget ? pr__parse_size(&place->budget, text, &err)
                                 : pr__parse_level(&place->level, text, &err);
    if (!text[0]) printf("(%s needs %s)\n", what, by_budget ? "a size: /budget 90M" : "a level: /level int4");
    else if (status != PR_OK) printf("(%s: %s)\n", what, err.text);
    return status == PR_OK;
}

void pr__chat_move(pr_chat_move *move, pr_engine *engine, const char *text, bool by_budget) {
    pr_place place;
    pr_elastic_info before, now;
    pr_err err = {0};
    char a[32], b[32], word[64];
    pr_engine_elastic(engine, &before);
    if (!before.elastic) {
        printf("(opened as it is, this model has one precision; leave, and run it with --level int8: that opens its "
               "elastic copy, which moves. Where there is none yet, `precis pack` makes one)\n");
        return;
    }
    snprintf(word, sizeof word, "%.*s", (int)strcspn(text, " \t"), text);
    if (!read_place(word, by_budget, &place)) return;
    if (pr__place_move(engine, &place, &err) != PR_OK) {
        pr__cmd_fail(&err);
        return;
    }
    pr_engine_elastic(engine, &now);
    bool up = now.target > before.cursor;
    pr_status status = pr_engine_settle(engine, up ? UP_SECONDS : DOWN_SECONDS, &err);
    pr_engine_elastic(engine, &now);
    move->under_way = status == PR_ERR_LIMIT;
    move->from_bytes = before.bytes;
    if (!by_budget && place.level > now.top) printf("(%s is all that this file has)\n", pr_level_name(now.top));
    if (up && *pr__level_caution(&before))
        printf("(what was said down there stays in the conversation and leads it astray: /reset forgets it)\n");
    if (status == PR_OK) tell_done(&now, before.bytes);
    else if (status != PR_ERR_LIMIT) pr__cmd_fail(&err);
    else
        printf("(moving: %s of weights so far, from %s; it goes on while you type)\n",
               pr_format_bytes(a, sizeof a, now.bytes), pr_format_bytes(b, sizeof b, before.bytes));
}

void pr__chat_move_report(pr_chat_move *move, pr_engine *engine) {
    pr_elastic_info now;
    pr_err err = {0};
    if (!move->under_way) return;
    pr_status status = pr_engine_settle(engine, 0, &err);
    if (status == PR_ERR_LIMIT) return;
    move->under_way = false;
    pr_engine_elastic(engine, &now);
    if (status == PR_OK && now.raise_err.status == PR_OK) {
        tell_done(&now, move->from_bytes);
        return;
    }
    printf("(the move ended early, at %s: %s)\n", pr__level_text(&now),
           status != PR_OK ? err.text : now.raise_err.text);
}

void pr__chat_weights(const pr_engine *engine, const pr_generate_stats *stats) {
    static const char *const planes[] = {"p2", "p4", "p8", "p16"};
    pr_elastic_info e;
    char buf[160], size[32];
    pr_engine_elastic(engine, &e);
    printf("%s\n", pr__elastic_brief(engine, stats, buf, sizeof buf));
    if (!e.elastic) return;
    printf("increment %u of %u, expected KL %.4f;", e.cursor, e.n_increments, e.kl);
    for (int p = 0; p < PR_LEVELS; p++)
        if (e.plane_bytes[p]) printf(" %s %s", planes[p], pr_format_bytes(size, sizeof size, e.plane_bytes[p]));
    printf("\n%llu moves down, %llu up", (unsigned long long)e.moves_down, (unsigned long long)e.moves_up);
    if (e.moves_down) printf("; the last drop took %.3f s", e.drop_seconds);
    if (e.moves_up) printf("; the last raise took %.3f s", e.raise_seconds);
    if (e.target != e.cursor) printf("; on the way to increment %u", e.target);
    printf("\n");
}
