/*
 * epf_array.h: one array of hidden states, named as on a command line: "x.npy" or
 * "x.safetensors:tensor" (without ":tensor" the file must hold exactly one tensor, and a file to be
 * written gets the name "hidden_states").
 */
#ifndef EPF_ARRAY_H
#define EPF_ARRAY_H

#include "model/epf_tensor.h"

typedef struct epf_array epf_array;

/* Opens and maps.  Errors of both readers; EPF_E_FORMAT: the type is not F32, F16 or BF16. */
epf_status epf_array_open(const char *spec, epf_array **array);

void epf_array_close(epf_array *array);

const epf_tensor_view *epf_array_view(const epf_array *array);

/*
 * Tokens in the array when its last dimension is `hidden`: [T, H] gives T, [B, S, H] gives B * S.
 * EPF_E_FORMAT names the shape found and the one needed.
 */
epf_status epf_array_num_tokens(const epf_array *array, int64_t hidden, int64_t *num_tokens);

/*
 * Early check, before hours of work: the folder exists and can be written, the ending is known, the
 * target is no folder.  Creates nothing that stays.  EPF_E_FILE or EPF_E_INVALID.
 */
epf_status epf_array_check_writable(const char *spec);

/* EPF_E_INVALID: both are there and the same file, which writing one would replace.  EPF_E_NO_MEMORY. */
epf_status epf_array_check_apart(const char *written, const char *read);

/* Writes view under the spec's tensor name.  .npy takes F32 and F16; atomic, see the writers. */
epf_status epf_array_write(const char *spec, const epf_tensor_view *view);

#endif
