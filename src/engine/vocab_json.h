/*
 * tokenizer.json to a vocabulary. Internal to vocab_load.c, and to tests that have no model file.
 */
#ifndef PRECIS_ENGINE_VOCAB_JSON_H
#define PRECIS_ENGINE_VOCAB_JSON_H

#include "base/json.h"
#include "text/vocab.h"

/* What stands beside a tokenizer.json. */
typedef struct pr__vocab_json {
    const json_t *tokenizer;   /* tokenizer.json */
    const json_t *config;      /* tokenizer_config.json, or NULL */
    const json_t *special_map; /* special_tokens_map.json, or NULL */
    int64_t bos_id, eos_id;    /* of config.json, used where the above name none; -1: none */
    pr_texts *texts;           /* of the vocabulary's spec */
} pr__vocab_json;

pr_status pr__vocab_from_json(const pr__vocab_json *in, pr_vocab **out, pr_err *err);

#endif
