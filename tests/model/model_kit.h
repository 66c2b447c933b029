/* model_kit.h: small files made by hand, a folder that vanishes, and expected refusals. */
#ifndef EPF_TEST_MODEL_KIT_H
#define EPF_TEST_MODEL_KIT_H

#include <stddef.h>
#include <stdint.h>

#include "epfuse/epfuse_status.h"
#include "support/epf_check.h"

typedef struct kit_bytes {
    unsigned char *bytes; /* exactly num_bytes long, so that a sanitizer sees reads past the end */
    uint64_t num_bytes;
} kit_bytes;

/* u64 length, header text, then data_bytes of 0, 1, 2, ... */
kit_bytes kit_safetensors(const char *header, uint64_t data_bytes);

/* "\x93NUMPY", version, length, dict text, then data_bytes of 0, 1, 2, ... */
kit_bytes kit_npy(int version, const char *dict, uint64_t data_bytes);

void kit_free(kit_bytes *bytes);

/* A fresh folder under TMPDIR, removed with all it holds at exit. */
const char *kit_folder(void);

/* "folder/name" in a ring of static buffers. */
const char *kit_path(const char *name);

void kit_write(const char *name, const void *bytes, uint64_t num_bytes);
void kit_write_text(const char *name, const char *text);

/* Entries in the folder, hidden ones included, without "." and "..". */
int kit_count_files(void);

/* The call was refused with this status and a one-line text that holds `part`. */
void kit_expect(const char *what, epf_status found, epf_status want, const char *part);

#endif
