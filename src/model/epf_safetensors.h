/*
 * epf_safetensors.h: read and write .safetensors files.
 *
 * Format: u64 little endian header length n; n bytes of JSON that start with '{' (trailing blanks
 * allowed); the tensors' bytes.  A file is mapped read-only and checked completely when it is
 * opened; afterwards only the pages of tensors that are read are touched.  No number found in a
 * file sizes an allocation before it was checked against the file's length.
 *
 * The file must not be modified while it is open: shrinking it raises SIGBUS in whoever reads the
 * lost pages, as with every memory-mapped file, and rewriting it changes the data under the reader.
 *
 * Each error is one line that names file, tensor, byte offset in the file, and reason.
 * Limits of ours, beyond the format's: EPF_TENSOR_MAX_DIMS dimensions, names of 4096 bytes without
 * NUL, 64 KiB of JSON per tensor.
 */
#ifndef EPF_SAFETENSORS_H
#define EPF_SAFETENSORS_H

#include "model/epf_tensor.h"

typedef struct epf_safetensors epf_safetensors;

/*
 * Maps and checks the file.  EPF_E_FILE: cannot be opened, mapped, or is no regular file;
 * EPF_E_FORMAT: content; EPF_E_NO_MEMORY.
 */
epf_status epf_safetensors_open(const char *path, epf_safetensors **file);

/* As above over the caller's bytes, which must outlive the object; `label` stands for the path. */
epf_status epf_safetensors_parse(const char *label, const void *bytes, uint64_t num_bytes,
                                 epf_safetensors **file);

/* Unmaps; all views of the file become invalid.  Accepts NULL. */
void epf_safetensors_close(epf_safetensors *file);

int64_t epf_safetensors_count(const epf_safetensors *file);

/* Tensor `index` in order of data offset; 0 <= index < count. */
void epf_safetensors_at(const epf_safetensors *file, int64_t index, epf_tensor_view *view);

/* False if there is no such tensor; records no error then. */
bool epf_safetensors_find(const epf_safetensors *file, const char *name, epf_tensor_view *view);

/*
 * Writes `count` tensors, with data in the given order.  The file appears whole or not at all: it
 * is written beside `path` without a name or under a temporary one, flushed to disk and renamed; on
 * failure nothing is left.  An existing regular file is replaced.  EPF_E_INVALID: a bad view, or
 * two tensors of one name; EPF_E_FILE.
 */
epf_status epf_safetensors_write(const char *path, const epf_tensor_view *tensors, int64_t count);

#endif
