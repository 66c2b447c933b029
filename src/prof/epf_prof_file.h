/*
 * epf_prof_file.h: an output file that appears whole or not at all.
 */
#ifndef EPF_PROF_FILE_H
#define EPF_PROF_FILE_H

#include <limits.h>
#include <stdio.h>

#include "epfuse/epfuse_status.h"

typedef struct epf_prof_file {
    FILE *stream;
    char path[PATH_MAX];
    char temporary[PATH_MAX]; /* beside it, renamed by commit */
} epf_prof_file;

/* Makes missing folders of `path` and opens a file beside it for writing. EPF_E_INVALID (too
   long), EPF_E_FILE. After success call commit or discard. */
epf_status epf_prof_file_open(epf_prof_file *file, const char *path);

/* Flushes, checks every earlier write, and puts the file in place; discards it when that fails. */
epf_status epf_prof_file_commit(epf_prof_file *file);

void epf_prof_file_discard(epf_prof_file *file);

#endif
