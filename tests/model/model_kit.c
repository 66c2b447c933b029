/* model_kit.c: see model_kit.h. */
#include "model/model_kit.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[256];

static kit_bytes put(const unsigned char *head, size_t head_bytes, const char *text,
                     uint64_t data_bytes)
{
    const size_t text_bytes = strlen(text);
    kit_bytes made = {NULL, head_bytes + text_bytes + data_bytes};
    made.bytes = epf_test_alloc((size_t)made.num_bytes, 1);
    memcpy(made.bytes, head, head_bytes);
    memcpy(made.bytes + head_bytes, text, text_bytes);
    for (uint64_t i = 0; i < data_bytes; i++) {
        made.bytes[head_bytes + text_bytes + i] = (unsigned char)i;
    }
    return made;
}

kit_bytes kit_safetensors(const char *header, uint64_t data_bytes)
{
    const uint64_t length = strlen(header);
    unsigned char head[sizeof length];
    memcpy(head, &length, sizeof length);
    return put(head, sizeof head, header, data_bytes);
}

kit_bytes kit_npy(int version, const char *dict, uint64_t data_bytes)
{
    const size_t length = strlen(dict);
    unsigned char head[12] = {0x93, 'N', 'U', 'M', 'P', 'Y', (unsigned char)version, 0};
    head[8] = (unsigned char)(length & 0xff);
    head[9] = (unsigned char)(length >> 8);
    return put(head, version == 1 ? 10 : 12, dict, data_bytes);
}

void kit_free(kit_bytes *bytes)
{
    free(bytes->bytes);
    bytes->bytes = NULL;
}

static int each_file(int (*act)(const char *path))
{
    DIR *dir = opendir(folder);
    int count = 0;
    const struct dirent *item;
    CHECK(dir != NULL, "cannot list %s", folder);
    while ((item = readdir(dir)) != NULL) {
        char path[600];
        if (strcmp(item->d_name, ".") == 0 || strcmp(item->d_name, "..") == 0) {
            continue;
        }
        (void)snprintf(path, sizeof path, "%s/%s", folder, item->d_name);
        count++;
        if (act != NULL) {
            (void)act(path);
        }
    }
    (void)closedir(dir);
    return count;
}

static void remove_folder(void)
{
    (void)each_file(remove);
    (void)rmdir(folder);
}

const char *kit_folder(void)
{
    const char *base = getenv("TMPDIR");
    if (folder[0] == '\0') {
        (void)snprintf(folder, sizeof folder, "%s/epfuse-test-XXXXXX",
                       base != NULL ? base : "/tmp");
        CHECK(mkdtemp(folder) != NULL, "cannot make %s", folder);
        (void)atexit(remove_folder);
    }
    return folder;
}

const char *kit_path(const char *name)
{
    static char ring[8][600];
    static int next;
    char *path = ring[next++ % 8];
    (void)snprintf(path, sizeof ring[0], "%s/%s", kit_folder(), name);
    return path;
}

void kit_write(const char *name, const void *bytes, uint64_t num_bytes)
{
    FILE *file = fopen(kit_path(name), "wb");
    CHECK(file != NULL, "cannot write %s", name);
    CHECK(fwrite(bytes, 1, (size_t)num_bytes, file) == num_bytes, "cannot write %s", name);
    CHECK(fclose(file) == 0, "cannot write %s", name);
}

void kit_write_text(const char *name, const char *text)
{
    kit_write(name, text, strlen(text));
}

int kit_count_files(void)
{
    (void)kit_folder();
    return each_file(NULL);
}

void kit_expect(const char *what, epf_status found, epf_status want, const char *part)
{
    const char *text = epf_check_library_text();
    CHECK(found == want, "%s: status %d, not %d; text: %s", what, (int)found, (int)want, text);
    CHECK(strstr(text, part) != NULL, "%s: '%s' is not in: %s", what, part, text);
    CHECK(strchr(text, '\n') == NULL, "%s: more than one line: %s", what, text);
}
