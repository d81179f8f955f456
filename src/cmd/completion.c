/*
 * precis completion: what a shell needs to complete command lines of precis.
 *
 * The scripts are written from the tables that --help is written from, so a flag that exists is completed. What can only
 * be known later, the names of models, the scripts ask for by `precis completion models`.
 *
 * What a value may be is read off what --help calls it: "a|b|N" are choices, MODEL is a model, FILE a file; numbers and free
 * texts are not completed.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "cmd/commands.h"
#include "cmd/models.h"
#include "cmd/term.h"

enum { WORDS_MAX = 128 };

typedef enum value_kind { VALUE_NONE, VALUE_FREE, VALUE_WORDS, VALUE_MODEL, VALUE_FILE } value_kind;

static bool is_one_of(const char *word, const char *words) {
    const char *at = strstr(words, word);
    size_t len = strlen(word);
    return at && (at == words || at[-1] == ' ') && (!at[len] || at[len] == ' ');
}

/* Of a flag; words: the choices, with blanks between. */
static value_kind kind_of(const pr_flag *flag, char words[WORDS_MAX]) {
    size_t at = 0;
    words[0] = '\0';
    if (flag->kind == PR_FLAG_BOOL) return VALUE_NONE;
    if (flag->kind == PR_FLAG_U32 || flag->kind == PR_FLAG_U64 || flag->kind == PR_FLAG_F32) return VALUE_FREE;
    if (!strcmp(flag->value, "MODEL")) return VALUE_MODEL;
    if (!strchr(flag->value, '|')) return is_one_of(flag->value, "FILE OUT X") ? VALUE_FILE : VALUE_FREE;
    for (const char *from = flag->value; *from;) {
        size_t len = strcspn(from, "|");
        bool choice = !isupper((unsigned char)*from); /* N stands for a number */
        if (choice && at + len + 2 < WORDS_MAX)
            at += (size_t)snprintf(words + at, WORDS_MAX - at, "%.*s ", (int)len, from);
        from += len + (from[len] == '|');
    }
    if (at) words[at - 1] = '\0';
    return VALUE_WORDS;
}

/* What a command's arguments are. */
static const char *arguments_of(const pr_usage *usage) {
    if (!strcmp(usage->name, "completion")) return "shells";
    if (!strcmp(usage->name, "pull")) return "known";
    if (strstr(usage->synopsis, "MODEL")) return "models";
    return usage->args_max ? "files" : "none";
}

/* Text for 'single quotes', with a backslash before each byte of `escaped`. */
static void put_quoted(const char *text, const char *escaped) {
    for (; *text; text++) {
        if (*text == '\'') printf("'\\''");
        else if (strchr(escaped, *text)) printf("\\%c", *text);
        else putchar(*text);
    }
}

/* The flags that --help shows, one at a time. */
typedef void (*flag_sink)(const pr_usage *usage, const pr_flag *flag);

static void each_flag(const pr_usage *usage, flag_sink sink) {
    static const pr_flag help = {"help", 'h', PR_FLAG_BOOL, NULL, "what it does", NULL, NULL, NULL};
    for (size_t g = 0; g < usage->n_groups; g++) {
        for (size_t i = 0; i < usage->groups[g].n; i++)
            if (usage->groups[g].flags[i].help) sink(usage, &usage->groups[g].flags[i]);
    }
    sink(usage, &help);
}

/* ---- bash -------------------------------------------------------------- */

static void bash_name(void *arg, const pr_usage *usage) {
    (void)arg;
    printf(" %s", usage->name);
}

static void bash_flag(const pr_usage *usage, const pr_flag *flag) {
    (void)usage;
    printf(" --%s", flag->name);
}

static void bash_flags(void *arg, const pr_usage *usage) {
    (void)arg;
    printf("    %s) flags='", usage->name);
    each_flag(usage, bash_flag);
    printf("' arguments=%s ;;\n", arguments_of(usage));
}

static void bash_value(const pr_usage *usage, const pr_flag *flag) {
    char words[WORDS_MAX], letter[40] = "";
    static const char *const kinds[] = {"none", "free", "words", "models", "files"};
    value_kind kind = kind_of(flag, words);
    if (kind == VALUE_NONE) return;
    if (flag->letter) snprintf(letter, sizeof letter, "|'%s -%c'", usage->name, flag->letter);
    printf("    '%s --%s'%s) value=%s", usage->name, flag->name, letter, kinds[kind]);
    if (kind == VALUE_WORDS) printf(" words='%s'", words);
    printf(" ;;\n");
}

static void bash_values(void *arg, const pr_usage *usage) {
    (void)arg;
    each_flag(usage, bash_value);
}

static void write_bash(void) {
    printf("# bash completion for precis, made by `precis completion bash`.\n"
           "_precis() {\n"
           "    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}\n"
           "    local flags= arguments=none value= words= IFS=$' \\t\\n'\n"
           "    COMPREPLY=()\n"
           "    # \"--flag=value\" arrives in three parts.\n"
           "    [[ $current == = ]] && current=\n"
           "    [[ $previous == = ]] && previous=${COMP_WORDS[COMP_CWORD-2]}\n"
           "    if ((COMP_CWORD == 1)) || [[ $command == help ]]; then\n"
           "        COMPREPLY=($(compgen -W 'help --version");
    pr__cmd_describe(bash_name, NULL);
    printf("' -- \"$current\"))\n        return\n    fi\n    case $command in\n");
    pr__cmd_describe(bash_flags, NULL);
    printf("    esac\n    case \"$command $previous\" in\n");
    pr__cmd_describe(bash_values, NULL);
    printf(
        "    esac\n"
        "    if [[ -z $value ]]; then\n"
        "        if [[ $current == -* ]]; then\n"
        "            COMPREPLY=($(compgen -W \"$flags\" -- \"$current\"))\n"
        "            return\n"
        "        fi\n"
        "        value=$arguments\n"
        "    fi\n"
        "    case $value in\n"
        "    words) COMPREPLY=($(compgen -W \"$words\" -- \"$current\")) ;;\n"
        "    shells) COMPREPLY=($(compgen -W 'bash zsh fish' -- \"$current\")) ;;\n"
        "    known) COMPREPLY=($(compgen -W '%s' -- \"$current\")) ;;\n"
        "    models)\n"
        "        IFS=$'\\n'\n"
        "        COMPREPLY=($(compgen -W \"$(\"${COMP_WORDS[0]}\" completion models 2>/dev/null)\" -- \"$current\")\n"
        "            $(compgen -f -- \"$current\"))\n"
        "        compopt -o filenames 2>/dev/null\n"
        "        ;;\n"
        "    files)\n"
        "        IFS=$'\\n'\n"
        "        COMPREPLY=($(compgen -f -- \"$current\"))\n"
        "        compopt -o filenames 2>/dev/null\n"
        "        ;;\n"
        "    esac\n"
        "}\n"
        "complete -F _precis precis\n",
        pr__models_known_names());
}

/* ---- zsh --------------------------------------------------------------- */

static void zsh_name(void *arg, const pr_usage *usage) {
    (void)arg;
    printf("        '%s:", usage->name);
    put_quoted(pr__cmd_about(usage->name), ":\\");
    printf("'\n");
}

static void zsh_one(const pr_flag *flag, const char *written, const char *join) {
    char words[WORDS_MAX];
    value_kind kind = kind_of(flag, words);
    printf(" \\\n            '*%s%s[", written, kind == VALUE_NONE ? "" : join);
    put_quoted(flag->help, "[]:\\");
    printf("]");
    if (kind != VALUE_NONE) {
        printf(":");
        put_quoted(flag->value, ":\\[]|");
    }
    switch (kind) {
    case VALUE_NONE: break;
    case VALUE_FREE: printf(":"); break;
    case VALUE_WORDS: printf(":(%s)", words); break;
    case VALUE_MODEL: printf(":_precis_models"); break;
    case VALUE_FILE: printf(":_files"); break;
    }
    printf("'");
}

static void zsh_flag(const pr_usage *usage, const pr_flag *flag) {
    char written[64];
    (void)usage;
    snprintf(written, sizeof written, "--%s", flag->name);
    zsh_one(flag, written, "=");
    snprintf(written, sizeof written, "-%c", flag->letter);
    if (flag->letter) zsh_one(flag, written, "+");
}

static void zsh_command(void *arg, const pr_usage *usage) {
    const char *arguments = arguments_of(usage);
    (void)arg;
    printf("    %s)\n        _arguments -s", usage->name);
    each_flag(usage, zsh_flag);
    if (!strcmp(arguments, "models")) printf(" \\\n            '*:model:_precis_models'");
    if (!strcmp(arguments, "files")) printf(" \\\n            '*:file:_files'");
    if (!strcmp(arguments, "shells")) printf(" \\\n            '1:shell:(bash zsh fish)'");
    if (!strcmp(arguments, "known")) printf(" \\\n            '1:name:(%s)'", pr__models_known_names());
    printf("\n        ;;\n");
}

static void write_zsh(void) {
    printf("#compdef precis\n"
           "# zsh completion for precis, made by `precis completion zsh`.\n"
           "_precis_models() {\n"
           "    local -a names\n"
           "    names=(${(f)\"$(precis completion models 2>/dev/null)\"})\n"
           "    compadd -a names\n"
           "    _files\n"
           "}\n\n"
           "_precis() {\n"
           "    local -a commands\n"
           "    commands=(\n"
           "        'help:what a command does'\n");
    pr__cmd_describe(zsh_name, NULL);
    printf("    )\n"
           "    if ((CURRENT == 2)) || [[ $words[2] == help ]]; then\n"
           "        _describe command commands\n"
           "        return\n"
           "    fi\n"
           "    shift words\n"
           "    ((CURRENT--))\n"
           "    case $words[1] in\n");
    pr__cmd_describe(zsh_command, NULL);
    printf("    esac\n"
           "}\n\n"
           "if [[ $funcstack[1] == _precis ]]; then _precis \"$@\"; else compdef _precis precis; fi\n");
}

/* ---- fish -------------------------------------------------------------- */

static void fish_name(void *arg, const pr_usage *usage) {
    (void)arg;
    printf("complete -c precis -n '__precis_at help' -a %s -d '", usage->name);
    put_quoted(pr__cmd_about(usage->name), "\\");
    printf("'\n");
}

static void fish_flag(const pr_usage *usage, const pr_flag *flag) {
    char words[WORDS_MAX];
    value_kind kind = kind_of(flag, words);
    printf("complete -c precis -n '__precis_at %s' -l %s", usage->name, flag->name);
    if (flag->letter) printf(" -s %c", flag->letter);
    switch (kind) {
    case VALUE_NONE: break;
    case VALUE_FREE: printf(" -x"); break;
    case VALUE_WORDS: printf(" -x -a '%s'", words); break;
    case VALUE_MODEL: printf(" -r -a '(precis completion models 2>/dev/null)'"); break;
    case VALUE_FILE: printf(" -r -F"); break;
    }
    printf(" -d '");
    put_quoted(flag->help, "\\");
    printf("'\n");
}

static void fish_command(void *arg, const pr_usage *usage) {
    const char *arguments = arguments_of(usage), *words = NULL;
    (void)arg;
    each_flag(usage, fish_flag);
    if (!strcmp(arguments, "models")) words = "-F -a '(precis completion models 2>/dev/null)'";
    if (!strcmp(arguments, "files")) words = "-F";
    if (!strcmp(arguments, "shells")) words = "-a 'bash zsh fish'";
    if (words) printf("complete -c precis -n '__precis_at %s' %s\n", usage->name, words);
    if (!strcmp(arguments, "known"))
        printf("complete -c precis -n '__precis_at %s' -a '%s'\n", usage->name, pr__models_known_names());
}

static void write_fish(void) {
    printf("# fish completion for precis, made by `precis completion fish`.\n"
           "# At the arguments of this command; with \"help\", at a command's name.\n"
           "function __precis_at\n"
           "    set -l words (commandline -opc)\n"
           "    test \"$argv[1]\" = help; and test (count $words) -eq 1; and return 0\n"
           "    test (count $words) -gt 1; and test \"$words[2]\" = \"$argv[1]\"\n"
           "end\n"
           "complete -c precis -f\n"
           "complete -c precis -n 'test (count (commandline -opc)) -eq 1' -a help -d 'what a command does'\n"
           "complete -c precis -n 'test (count (commandline -opc)) -eq 1' -l version -d 'which one this is'\n");
    pr__cmd_describe(fish_name, NULL);
    pr__cmd_describe(fish_command, NULL);
}

/* ---- models ------------------------------------------------------------ */

static pr_status write_models(pr_err *err) {
    pr_model_names names = {0};
    char *dir = NULL;
    pr_status st = pr__models_dir(&dir, err);
    if (!st) st = pr__models_names(dir, &names, err);
    for (size_t i = 0; i < names.n; i++) {
        char safe[512];
        size_t len = strlen(names.name[i]);
        if (strcmp(pr_text_safe(safe, sizeof safe, names.name[i]), names.name[i]) != 0)
            continue; /* no shell offers it */
        if (pr_str_ends(names.name[i], ".gguf")) len -= strlen(".gguf");
        printf("%.*s\n", (int)len, names.name[i]);
    }
    pr__models_names_free(&names);
    pr_free(dir);
    return st;
}

int pr__cmd_completion(int argc, const char **argv) {
    static const struct {
        const char *name;
        void (*write)(void);
    } shells[] = {{"bash", write_bash}, {"zsh", write_zsh}, {"fish", write_fish}};
    const pr_usage usage = {
        "completion",
        "bash|zsh|fish|models",
        "The script that makes a shell complete command lines of precis, on standard\n"
        "output. In bash: source <(precis completion bash). `models`: what it asks for,\n"
        "the names in the model folder, a line each.\n",
        NULL,
        0,
        1,
        1,
    };
    pr_args args;
    pr_err err = {0};
    int code;
    if (!pr__cmd_begin(&usage, argc, argv, &args, &code)) return code;
    if (!strcmp(args.arg[0], "models")) return write_models(&err) ? pr__cmd_fail(&err) : PR_EXIT_OK;
    for (size_t i = 0; i < sizeof shells / sizeof *shells; i++) {
        if (strcmp(args.arg[0], shells[i].name) != 0) continue;
        shells[i].write();
        return PR_EXIT_OK;
    }
    pr_fail(&err, PR_ERR_ARG, "\"%.60s\" is none of bash, zsh, fish and models", args.arg[0]);
    return pr__cmd_fail(&err);
}
