/*
 * fuzz_replay.c: runs a fuzz target once over every file of the folders (or files) named on the
 * command line, without libFuzzer; a finding ends the program by a signal.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

static int num_files;

static int replay_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    uint8_t *bytes;
    long size;
    if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (size = ftell(file)) < 0) {
        fprintf(stderr, "%s: cannot be read\n", path);
        return 1;
    }
    rewind(file);
    bytes = malloc((size_t)size + (size == 0)); /* exact, so that a sanitizer sees reads past it */
    if (bytes == NULL || fread(bytes, 1, (size_t)size, file) != (size_t)size) {
        fprintf(stderr, "%s: cannot be read\n", path);
        return 1;
    }
    (void)fclose(file);
    (void)LLVMFuzzerTestOneInput(bytes, (size_t)size);
    free(bytes);
    num_files++;
    return 0;
}

static int replay(const char *path)
{
    DIR *dir = opendir(path);
    const struct dirent *item;
    int failed = 0;
    if (dir == NULL) {
        return replay_file(path);
    }
    while ((item = readdir(dir)) != NULL) {
        char child[4096];
        if (item->d_name[0] != '.') {
            (void)snprintf(child, sizeof child, "%s/%s", path, item->d_name);
            failed |= replay_file(child);
        }
    }
    (void)closedir(dir);
    return failed;
}

int main(int argc, char **argv)
{
    int failed = 0;
    for (int i = 1; i < argc; i++) {
        failed |= replay(argv[i]);
    }
    printf("%d files\n", num_files);
    return failed || num_files == 0;
}
