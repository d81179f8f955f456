/*
 * The web page's files (web/), built into the program by tools/embed-web.
 */
#ifndef PRECIS_API_WEB_FILES_H
#define PRECIS_API_WEB_FILES_H

#include <stddef.h>

typedef struct pr__web_file {
    const char *name, *type, *etag; /* "chat.js" */
    const unsigned char *data;
    size_t len;
    const unsigned char *gzip;
    size_t gzip_len;
} pr__web_file;

extern const pr__web_file pr__web_files[];
extern const size_t pr__web_files_count;

#endif
