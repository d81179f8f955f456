/*
 * Test support: tiny elastic models, packed on the spot from those of llama_gguf.h.
 */
#ifndef PRECIS_TEST_ELASTIC_H
#define PRECIS_TEST_ELASTIC_H

#include "support/rig.h"

/* Write `model` as folder/name and its planes as folder/name.planes, in units of a few tiles, fast: the path of the latter,
 * valid like that of rig_path(). Fails the test when it cannot. */
const char *elastic_model(const llama_gguf *model, const char *name);

#endif
