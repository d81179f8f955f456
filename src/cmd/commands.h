/*
 * The subcommands. Each parses its own flags, prints its own errors and
 * returns the exit code; argv begins after the command's name.
 */
#ifndef PRECIS_CMD_COMMANDS_H
#define PRECIS_CMD_COMMANDS_H

#include "cmd/args.h"

int pr__cmd_run(int argc, const char **argv);
int pr__cmd_pull(int argc, const char **argv);
int pr__cmd_pack(int argc, const char **argv);
int pr__cmd_list(int argc, const char **argv);
int pr__cmd_show(int argc, const char **argv);
int pr__cmd_plan(int argc, const char **argv);
int pr__cmd_bench(int argc, const char **argv);
int pr__cmd_eval(int argc, const char **argv);
int pr__cmd_tokenize(int argc, const char **argv);
int pr__cmd_doctor(int argc, const char **argv);
int pr__cmd_serve(int argc, const char **argv);
int pr__cmd_ps(int argc, const char **argv);
int pr__cmd_stop(int argc, const char **argv);
int pr__cmd_completion(int argc, const char **argv);

/* How every command begins: parse, or print the help. True when the command should go on; else *code is its exit
 * code. */
bool pr__cmd_begin(const pr_usage *usage, int argc, const char **argv, pr_args *args, int *code);

/* Hand every command's usage to sink, in the order of --help, and run none. */
typedef void (*pr_usage_sink)(void *arg, const pr_usage *usage);
void pr__cmd_describe(pr_usage_sink sink, void *arg);
/* The line about a command in --help. */
const char *pr__cmd_about(const char *name);

#endif
