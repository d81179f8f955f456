/*
 * precis: the program.
 *
 * One table of subcommands; everything a command does is in its own file, and
 * nothing here knows what a model is.
 */
#include <locale.h>
#include <stdio.h>
#include <string.h>

#include "cmd/commands.h"
#include "cmd/term.h"

typedef struct command {
    const char *name;
    const char *help;
    int (*run)(int argc, const char **argv);
} command;

static const command commands[] = {
    {"run", "ask a model something, or talk with it", pr__cmd_run},
    {"serve", "serve models over HTTP", pr__cmd_serve},
    {"ps", "what a running server is doing", pr__cmd_ps},
    {"stop", "end a running server", pr__cmd_stop},
    {"pull", "fetch a model into the model folder", pr__cmd_pull},
    {"pack", "make an elastic model: every precision in one file", pr__cmd_pack},
    {"list", "models in the folder", pr__cmd_list},
    {"show", "what a model is, and whether it fits here", pr__cmd_show},
    {"plan", "the levels of an elastic model, and which would fit here", pr__cmd_plan},
    {"bench", "speed and memory, against what this machine can do", pr__cmd_bench},
    {"eval", "perplexity of a text, and distance from a reference", pr__cmd_eval},
    {"tokenize", "the tokens of a text", pr__cmd_tokenize},
    {"doctor", "what this machine offers, and what stands in the way", pr__cmd_doctor},
    {"completion", "what makes a shell complete all this", pr__cmd_completion},
};

enum { N_COMMANDS = sizeof commands / sizeof *commands };

static const command *find(const char *name) {
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (!strcmp(commands[i].name, name)) return &commands[i];
    }
    return NULL;
}

static int usage_error(const char *what, const char *name) {
    const char *names[N_COMMANDS];
    pr_err err = {0};
    for (size_t i = 0; i < N_COMMANDS; i++) names[i] = commands[i].name;
    const char *near = pr__args_nearest(name, names, N_COMMANDS);
    pr_fail(&err, PR_ERR_ARG, "unknown %s \"%.100s\" (%s%s%s)", what, name,
            near ? "did you mean " : "`precis --help` lists them", near ? near : "", near ? "?" : "");
    return pr__cmd_fail(&err);
}

static int print_help(void) {
    printf("usage: precis COMMAND [ARGUMENTS]\nRuns language models on the machine at hand.\n\n");
    for (size_t i = 0; i < N_COMMANDS; i++) printf("  %-11s%s\n", commands[i].name, commands[i].help);
    printf("\n`precis COMMAND --help` says more; `man precis` says all.\n"
           "To begin: precis pull smollm2 && precis run smollm2 \"Why is the sky blue?\"\n");
    return PR_EXIT_OK;
}

static pr_usage_sink describing; /* NULL: commands are run */
static void *describing_arg;

void pr__cmd_describe(pr_usage_sink sink, void *arg) {
    describing = sink;
    describing_arg = arg;
    for (size_t i = 0; i < N_COMMANDS; i++) commands[i].run(0, NULL);
    describing = NULL;
}

const char *pr__cmd_about(const char *name) {
    const command *c = find(name);
    return c ? c->help : "";
}

bool pr__cmd_begin(const pr_usage *usage, int argc, const char **argv, pr_args *args, int *code) {
    pr_err err = {0};
    *code = PR_EXIT_OK;
    if (describing) {
        describing(describing_arg, usage);
        return false;
    }
    if (pr__args_parse(usage, argc, argv, args, &err) != PR_OK) *code = pr__cmd_fail(&err);
    else if (args->help) pr__args_help(usage);
    else return true;
    return false;
}

static int dispatch(int argc, const char **argv) {
    if (argc < 2) {
        print_help();
        return PR_EXIT_USAGE;
    }
    const char *name = argv[1];
    if (!strcmp(name, "--version") || !strcmp(name, "-V") || !strcmp(name, "version")) {
        printf("precis " PRECIS_VERSION "\n");
        return PR_EXIT_OK;
    }
    bool help = !strcmp(name, "help");
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || (help && argc < 3)) return print_help();
    const char *wanted = help ? argv[2] : name;
    if (help && (!strcmp(wanted, "help") || !strcmp(wanted, "--help"))) return print_help();
    const command *c = find(wanted);
    if (!c) return usage_error(wanted[0] == '-' ? "flag" : "command", wanted);
    if (help) return c->run(1, (const char *[]){"--help"});
    return c->run(argc - 2, argv + 2);
}

/* Texts are UTF-8 whatever the locale says: line editing needs to be told where it is not set, as in most
 * containers. */
static void set_locale(void) {
    setlocale(LC_CTYPE, "");
    if (!pr__term_utf8()) setlocale(LC_CTYPE, "C.UTF-8");
}

int main(int argc, char **argv) {
    set_locale();
    pr__signals_install();
    return pr__cmd_end(dispatch(argc, (const char **)argv));
}
