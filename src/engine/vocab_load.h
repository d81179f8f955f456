/*
 * From a model file to its vocabulary and chat template.
 *
 * GGUF:        the tokenizer.* metadata; works for files without tensors. A file packed from a safetensors folder has the
 *              text of the folder's files in precis.tokenizer.json, .config and .special_map instead.
 * safetensors: tokenizer.json beside the model ("BPE" models, byte-level or with
 *              byte fallback), with tokenizer_config.json, special_tokens_map.json
 *              and chat_template.jinja where they exist.
 * What a file leaves out is filled in as other readers of the format do it.
 */
#ifndef PRECIS_ENGINE_VOCAB_LOAD_H
#define PRECIS_ENGINE_VOCAB_LOAD_H

#include "store/model_file.h"
#include "text/vocab.h"

/*
 * Patterns come from texts, where that is not NULL. *vocab is for pr_vocab_free(). *chat_template is the Jinja text, for pr_free(); NULL when
 * the model has none. Both are NULL after an error. PR_ERR_UNSUPPORTED names the kind of tokenizer that
 * precis lacks, PR_ERR_FORMAT the key or file at fault.
 */
pr_status pr__vocab_load(const pr_model_file *file, pr_texts *texts, pr_vocab **vocab, char **chat_template,
                         pr_err *err);

#endif
