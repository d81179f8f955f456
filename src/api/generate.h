/*
 * Requests that generate: from a body to an answer, in one piece or as a stream.
 *
 * The handler parses, looks for an answer that was made before or is being made, submits a job for each choice if there is none,
 * and is done. Whatever happens, the client is answered exactly once.
 */
#ifndef PRECIS_API_GENERATE_H
#define PRECIS_API_GENERATE_H

#include "api/context.h"
#include "api/params.h"

/* On the server's thread. stream: whatever the body says (/api/query/stream). */
void pr__generate(pr_api *api, pr_http_req *req, pr_ask ask, bool stream);

#endif
