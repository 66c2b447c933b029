/*
 * epf_checkpoint.h: a HuggingFace model folder: config.json and model.safetensors, or
 * model.safetensors.index.json and its shards.
 *
 * Shards are opened when a tensor of theirs is first asked for, and stay open.  Looking up tensors
 * changes the object: one thread at a time.  Views stay valid, and may be read by any thread, until
 * epf_checkpoint_close().
 */
#ifndef EPF_CHECKPOINT_H
#define EPF_CHECKPOINT_H

#include "model/epf_model_config.h"
#include "model/epf_tensor.h"

typedef struct epf_checkpoint epf_checkpoint;

/* Reads config and index; opens no shard.  EPF_E_FILE, EPF_E_FORMAT, EPF_E_UNSUPPORTED,
 * EPF_E_NO_MEMORY. */
epf_status epf_checkpoint_open(const char *folder, epf_checkpoint **checkpoint);

void epf_checkpoint_close(epf_checkpoint *checkpoint);

const char *epf_checkpoint_folder(const epf_checkpoint *checkpoint);
const epf_model_config *epf_checkpoint_config(const epf_checkpoint *checkpoint);

/* Shards that the index names (1 without an index) and those opened so far. */
int32_t epf_checkpoint_num_shards(const epf_checkpoint *checkpoint);
int32_t epf_checkpoint_num_open_shards(const epf_checkpoint *checkpoint);

/* Whether the index (or the one file, which is opened for it) has the tensor. */
epf_status epf_checkpoint_has(epf_checkpoint *checkpoint, const char *name, bool *has);

/* EPF_E_FORMAT if no such tensor, or if the shard that the index names lacks it; else errors of
 * epf_safetensors_open(). */
epf_status epf_checkpoint_find(epf_checkpoint *checkpoint, const char *name, epf_tensor_view *view);

/* Reads an index alone, from memory, and counts its shards; opens nothing.  EPF_E_FORMAT,
 * EPF_E_NO_MEMORY. */
epf_status epf_checkpoint_check_index(const char *label, const void *bytes, uint64_t num_bytes,
                                      int32_t *num_shards);

#endif
