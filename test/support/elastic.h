/*
 * Test support: small elastic models, packed without calibration.
 */
#ifndef PRECIS_TEST_ELASTIC_H
#define PRECIS_TEST_ELASTIC_H

#include "support/rig.h"

/* Write a model as folder/name, packed; up to fp16 unless its type holds less. Fails the test when it cannot. */
const char *elastic_model(const llama_gguf *model, const char *name);

#endif
