/* epf_file.h: read-only mappings, and files that appear whole or not at all. */
#ifndef EPF_FILE_H
#define EPF_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "epfuse/epfuse_status.h"

typedef struct epf_file_map {
    const unsigned char *bytes; /* never NULL after success, even for an empty file */
    uint64_t num_bytes;
} epf_file_map;

/* Maps a regular file.  EPF_E_FILE: cannot be opened or mapped, or is no regular file. */
epf_status epf_file_map_open(const char *path, epf_file_map *map);

/* Accepts a zeroed map. */
void epf_file_map_close(epf_file_map *map);

/* A file being written; nobody sees it before the commit. */
typedef struct epf_file_writer {
    const char *path; /* borrowed from the caller, for messages                          */
    char *target;     /* where the commit puts it: path, with symbolic links followed    */
    char *temporary;  /* name beside target; in use only while has_name                  */
    int fd;
    int has_name; /* the temporary name exists and must be removed on failure        */
} epf_file_writer;

/* EPF_E_FILE: the folder cannot be written, or path is something other than a regular file. */
epf_status epf_file_writer_open(const char *path, epf_file_writer *writer);

/* The way taken where the filesystem has no nameless files: the data are under the temporary name
 * from the start, and a SIGKILL leaves them there. */
epf_status epf_file_writer_open_named(const char *path, epf_file_writer *writer);

epf_status epf_file_writer_write(epf_file_writer *writer, const void *bytes, uint64_t num_bytes);

/* Flushes to disk and renames; frees the writer, also on failure, when nothing is left behind. */
epf_status epf_file_writer_commit(epf_file_writer *writer);

/* Gives up: removes what was written and frees the writer.  Accepts a zeroed or freed one. */
void epf_file_writer_abort(epf_file_writer *writer);

#endif
