/*
 * Interactive chat: read a line, answer it, again.
 *
 * Ctrl-C means "stop what you are doing": while an answer runs that is the
 * answer, at the prompt it is the line being typed, and when there is nothing to
 * stop, a second one leaves. Errors of a turn are printed and the chat goes on.
 */
#include "cmd/chat.h"

#include <stdio.h>
#include <string.h>

#include "cmd/chat_level.h"
#include "cmd/editor.h"
#include "cmd/elastic.h"
#include "cmd/models.h"
#include "cmd/term.h"

typedef struct chat {
    pr_talk talk;
    pr_editor *editor;
    pr_chat_move move;
    bool show_stats, leaving;
    bool line_open; /* the answer's last line has no end yet */
} chat;

char *pr__chat_stats(const pr_generate_stats *s, char *buf, size_t len) {
    double fed = s->prefill_seconds > 0 ? s->n_prompt / s->prefill_seconds : 0;
    uint32_t decoded = s->n_generated > 1 ? s->n_generated - 1 : 0; /* the first token is prefill's */
    double made = s->decode_seconds > 0 ? decoded / s->decode_seconds : 0;
    snprintf(buf, len, "prompt %u tokens in %.2f s (%.1f/s), answer %u tokens at %.1f/s, the first after %.2f s",
             s->n_prompt, s->prefill_seconds, fed, s->n_generated, made, s->first_token_seconds);
    return buf;
}

static bool on_text(void *arg, const char *text, size_t len) {
    chat *c = arg;
    fwrite(text, 1, len, stdout);
    fflush(stdout);
    c->line_open = text[len - 1] != '\n';
    return !ferror(stdout);
}

static void tell_cut(const chat *c) {
    pr_engine_info info;
    pr_engine_describe(c->talk.engine, &info);
    bool full = pr_session_length(c->talk.session) >= info.context_max;
    printf("(cut after %u tokens; %s)\n", c->talk.stats.n_generated,
           full ? "the context is full: /reset, or a larger --context" : "-n sets how many");
}

static void answer(chat *c, const char *text) {
    pr_err err = {0};
    char buf[200], weights[160];
    c->line_open = false;
    pr__interrupt_clear();
    pr_status status = pr__talk_ask(&c->talk, text, strlen(text), &err);
    bool stopped = *pr__interrupt() != 0;
    pr__interrupt_clear();
    if (c->line_open) printf("\n");
    if (status != PR_OK) {
        pr__cmd_fail(&err);
        if (status == PR_ERR_LIMIT) printf("(/reset begins a new conversation)\n");
        return;
    }
    if (stopped) printf("(stopped)\n");
    else if (c->talk.stats.finish == PR_FINISH_LENGTH) tell_cut(c);
    if (c->show_stats)
        printf("(%s; %s)\n", pr__chat_stats(&c->talk.stats, buf, sizeof buf),
               pr__elastic_brief(c->talk.engine, &c->talk.stats, weights, sizeof weights));
}

/* ---- commands ---- */

static void do_help(chat *c, const char *rest) {
    (void)c, (void)rest;
    printf("/reset         forget the conversation\n"
           "/system TEXT   set the system text (nothing: none)\n"
           "/level LEVEL   move an elastic model to int2, int4, int8 or fp16\n"
           "/budget SIZE   or to the best that takes so many bytes of weights (90M)\n"
           "/stats         the last answer, and the weights, in numbers\n"
           "/exit          leave, as Ctrl-D does\n"
           "Ctrl-C stops an answer. A line that begins with a blank is text, whatever follows.\n");
}

static void do_reset(chat *c, const char *rest) {
    pr_err err = {0};
    (void)rest;
    if (pr__talk_reset(&c->talk, &err) != PR_OK) pr__cmd_fail(&err);
    else printf("(a new conversation)\n");
}

static void do_system(chat *c, const char *rest) {
    pr_err err = {0};
    if (c->talk.opts.raw) printf("(--raw has no system text)\n");
    else if (pr__talk_system(&c->talk, rest, &err) != PR_OK) pr__cmd_fail(&err);
    else printf(rest[0] ? "(system text set)\n" : "(no system text)\n");
}

static void do_stats(chat *c, const char *rest) {
    char buf[200];
    pr_engine_info info;
    (void)rest;
    pr_engine_describe(c->talk.engine, &info);
    if (c->talk.stats.n_prompt) printf("%s\n", pr__chat_stats(&c->talk.stats, buf, sizeof buf));
    if (c->talk.stats.n_prompt) printf("%u tokens of that prompt were held already\n", c->talk.n_kept);
    printf("%u of %u tokens of context used\n", pr_session_length(c->talk.session), info.context_max);
    pr__chat_weights(c->talk.engine, &c->talk.stats);
}

static void do_level(chat *c, const char *rest) { pr__chat_move(&c->move, c->talk.engine, rest, false); }

static void do_budget(chat *c, const char *rest) { pr__chat_move(&c->move, c->talk.engine, rest, true); }

static void do_exit(chat *c, const char *rest) {
    (void)rest;
    c->leaving = true;
}

static void command(chat *c, const char *line) {
    static const struct {
        const char *name;
        void (*run)(chat *c, const char *rest);
    } table[] = {{"/help", do_help},   {"/reset", do_reset},   {"/system", do_system}, {"/level", do_level},
                 {"/stats", do_stats}, {"/budget", do_budget}, {"/exit", do_exit}};
    size_t len = strcspn(line, " \t");
    const char *rest = line + len + strspn(line + len, " \t");
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (strlen(table[i].name) != len || memcmp(table[i].name, line, len) != 0) continue;
        table[i].run(c, rest);
        return;
    }
    pr__cmd_line(stdout, "unknown command %.*s (/help lists them)", (int)len, line);
}

/* ---- the loop ---- */

static void on_interrupted_line(bool had_text, bool *warned, bool *leaving) {
    pr__interrupt_clear();
    printf("\n");
    if (had_text) return;
    if (*warned) *leaving = true;
    else printf("(Ctrl-C again, or Ctrl-D, leaves)\n");
    *warned = true;
}

static void loop(chat *c) {
    bool warned = false, had_text;
    while (!c->leaving && !ferror(stdout)) {
        const char *line = NULL;
        pr__chat_move_report(&c->move, c->talk.engine);
        switch (pr__editor_read(c->editor, &line, &had_text)) {
        case PR_LINE_END: printf("\n"); return;
        case PR_LINE_INTERRUPT: on_interrupted_line(had_text, &warned, &c->leaving); break;
        case PR_LINE_TEXT:
            warned = false;
            if (line[0] == '/') command(c, line);
            else if (line[strspn(line, " \t")]) answer(c, line + strspn(line, " \t"));
            break;
        }
    }
}

static void greet(const pr_engine *engine) {
    pr_engine_info info;
    pr_engine_describe(engine, &info);
    pr_elastic_info elastic;
    pr_engine_elastic(engine, &elastic);
    pr__cmd_line(stdout, "%s%s%s, %u tokens of context. /help lists the commands, Ctrl-D leaves.",
                 pr__models_title(&info), elastic.elastic ? " at " : "",
                 elastic.elastic ? pr__level_text(&elastic) : "", info.context_max);
    if (*pr__level_caution(&elastic)) printf("note: %s\n", pr__level_caution(&elastic));
}

int pr__chat(pr_engine *engine, const pr_talk_opts *opts, bool show_stats) {
    chat c = {.show_stats = show_stats};
    pr_talk_opts own = *opts;
    pr_err err = {0};
    own.generate.on_text = on_text;
    own.generate.arg = &c;
    own.generate.cancel = pr__interrupt();
    pr__interrupt_keep(true);
    pr_status status = pr__talk_open(&c.talk, engine, &own, &err);
    if (status == PR_OK) status = pr__editor_open(">>> ", &c.editor, &err);
    if (status == PR_OK) {
        greet(engine);
        loop(&c);
    }
    pr__editor_close(c.editor);
    pr__talk_close(&c.talk);
    pr__interrupt_clear();
    pr__interrupt_keep(false);
    return status == PR_OK ? PR_EXIT_OK : pr__cmd_fail(&err);
}
