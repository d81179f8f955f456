/*
 * The description of the API (src/api/openapi.json), built into the program.
 */
#ifndef PRECIS_API_OPENAPI_TEXT_H
#define PRECIS_API_OPENAPI_TEXT_H

#include <stddef.h>

extern const unsigned char pr__openapi_text[];
extern const size_t pr__openapi_text_len;

#endif
