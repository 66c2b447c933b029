/*
 * epf_npy.h: read and write NumPy's .npy, versions 1, 2 and 3; '<f4' and '<f2', C order, 1 to 3
 * dimensions.  Everything else is refused with its reason.  Mapping rules as in epf_safetensors.h.
 */
#ifndef EPF_NPY_H
#define EPF_NPY_H

#include "model/epf_tensor.h"

typedef struct epf_npy epf_npy;

/* Maps and checks the file.  EPF_E_FILE, EPF_E_FORMAT, EPF_E_UNSUPPORTED (a legal .npy that we do
 * not read: other type, Fortran order, dimensions), EPF_E_NO_MEMORY. */
epf_status epf_npy_open(const char *path, epf_npy **file);

/* As above over the caller's bytes, which must outlive the object; `label` stands for the path. */
epf_status epf_npy_parse(const char *label, const void *bytes, uint64_t num_bytes, epf_npy **file);

void epf_npy_close(epf_npy *file);

/* The one array of the file: F32 or F16, 1 to 3 dimensions. */
const epf_tensor_view *epf_npy_view(const epf_npy *file);

/* Writes version 1.0, F32 or F16; whole or not at all, as epf_safetensors_write(). */
epf_status epf_npy_write(const char *path, const epf_tensor_view *array);

#endif
