/*
 * epf_checkpoint.c: config, index and shards of a model folder.
 *
 * The index becomes one sorted table of (name, shard); without an index there is one shard and no
 * table, and that shard's own table of names decides.
 */
#include "model/epf_checkpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "model/epf_file.h"
#include "model/epf_json.h"
#include "model/epf_safetensors.h"

enum { MAX_SHARDS = 4096, MAX_SHARD_NAME = 255, FIRST_SHARDS = 16 };

/* As for headers of safetensors files: the index repeats their names. */
static const size_t max_index_bytes = 100000000;

static const char config_name[] = "config.json";
static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";

typedef struct shard {
    char *name;
    epf_safetensors *file; /* NULL until needed */
} shard;

typedef struct located {
    uint32_t name; /* index into names */
    uint32_t shard;
    uint32_t json; /* where its name is in the index */
} located;

struct epf_checkpoint {
    char *folder;
    epf_model_config config;
    bool has_index;
    int32_t num_shards;
    int32_t max_shards; /* room in shards */
    int32_t num_open;
    shard *shards;
    uint32_t count;   /* tensors in the index; 0 without one */
    located *tensors; /* [count], by name                    */
    char *names;
};

/* The index while it is read. */
typedef struct index_reader {
    epf_checkpoint *checkpoint;
    epf_json_source source;
    uint32_t num_names; /* bytes used */
    uint32_t last;      /* shard of the previous tensor: neighbours mostly share it */
    char text[EPF_JSON_MAX_NAME + 1];
} index_reader;

/* "folder/name"; the caller frees. */
static epf_status join(const char *folder, const char *name, char **path)
{
    const size_t size = strlen(folder) + strlen(name) + 2;
    *path = epf_alloc(size, 1);
    if (*path == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "%s: no memory for a path", folder);
    }
    (void)snprintf(*path, size, "%s/%s", folder, name);
    return EPF_OK;
}

static epf_status shard_error(const index_reader *r, epf_json_span value, const char *reason)
{
    char text[EPF_PRINTABLE_BYTES];
    return EPF_FAIL(EPF_E_FORMAT, "%s: shard name '%s' at byte %" PRIu64 " %s", r->source.file,
                    epf_printable(r->text, strlen(r->text), text),
                    epf_json_offset(&r->source, value.text), reason);
}

/* A shard is a plain name in the checkpoint's own folder, so an index cannot reach out of it. */
static epf_status check_shard_name(const index_reader *r, epf_json_span value)
{
    const size_t length = strlen(r->text);
    if (strchr(r->text, '/') != NULL || strcmp(r->text, "..") == 0 || strcmp(r->text, ".") == 0) {
        return shard_error(r, value, "is no plain file name");
    }
    if (length == 0 || length > MAX_SHARD_NAME) {
        return shard_error(r, value, "is empty or longer than 255 bytes");
    }
    return EPF_OK;
}

/* One more shard; the table grows with the names read, so that a small index takes little memory. */
static epf_status add_shard(epf_checkpoint *c, const char *name)
{
    const size_t size = strlen(name) + 1;
    char *copy;
    if (c->num_shards == c->max_shards) {
        const int32_t more = c->max_shards == 0 ? FIRST_SHARDS : 2 * c->max_shards;
        shard *const moved = epf_alloc((size_t)more, sizeof *moved);
        if (moved == NULL) {
            return EPF_FAIL(EPF_E_NO_MEMORY, "no memory for %d shards", more);
        }
        if (c->num_shards > 0) {
            memcpy(moved, c->shards, (size_t)c->num_shards * sizeof *moved);
        }
        epf_free(c->shards);
        c->shards = moved;
        c->max_shards = more;
    }
    copy = epf_alloc(size, 1);
    if (copy == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "no memory for a shard's name");
    }
    memcpy(copy, name, size);
    c->shards[c->num_shards++].name = copy;
    return EPF_OK;
}

/* The number of the shard named r->text, which is added when new. */
static epf_status shard_of(index_reader *r, epf_json_span value, uint32_t *number)
{
    epf_checkpoint *c = r->checkpoint;
    if (r->last < (uint32_t)c->num_shards && strcmp(c->shards[r->last].name, r->text) == 0) {
        *number = r->last;
        return EPF_OK;
    }
    for (int32_t i = 0; i < c->num_shards; i++) {
        if (strcmp(c->shards[i].name, r->text) == 0) {
            *number = r->last = (uint32_t)i;
            return EPF_OK;
        }
    }
    EPF_TRY(check_shard_name(r, value));
    if (c->num_shards == MAX_SHARDS) {
        return shard_error(r, value, "is one too many: at most 4096 shards");
    }
    EPF_TRY(add_shard(c, r->text));
    *number = r->last = (uint32_t)(c->num_shards - 1);
    return EPF_OK;
}

static epf_status measure_map(const epf_json_source *source, epf_json_span map, uint64_t *count,
                              uint64_t *name_bytes)
{
    epf_json_object object;
    epf_json_span key;
    epf_json_span value;
    *count = 0;
    *name_bytes = 0;
    EPF_TRY(epf_json_object_open(&object, source, map));
    for (;;) {
        EPF_TRY(epf_json_object_next(&object, &key, &value));
        if (key.text == NULL) {
            return EPF_OK;
        }
        (*count)++;
        *name_bytes += key.length;
    }
}

static epf_status read_pair(index_reader *r, epf_json_span key, epf_json_span value)
{
    epf_checkpoint *c = r->checkpoint;
    located *tensor = &c->tensors[c->count];
    size_t length;
    EPF_TRY(epf_json_string(&r->source, key, r->text, &length));
    tensor->name = r->num_names;
    tensor->json = (uint32_t)epf_json_offset(&r->source, key.text);
    memcpy(c->names + r->num_names, r->text, length + 1);
    r->num_names += (uint32_t)length + 1;
    EPF_TRY(epf_json_string(&r->source, value, r->text, &length));
    EPF_TRY(shard_of(r, value, &tensor->shard));
    c->count++;
    return EPF_OK;
}

static int compare_tensors(const void *a, const void *b, void *names)
{
    const char *text = names;
    const located *const left = a;
    const located *const right = b;
    const int order = strcmp(text + left->name, text + right->name);
    return order != 0 ? order : (left->json > right->json) - (left->json < right->json);
}

static epf_status sort_tensors(epf_checkpoint *c, const char *file)
{
    char text[EPF_PRINTABLE_BYTES];
    qsort_r(c->tensors, c->count, sizeof c->tensors[0], compare_tensors, c->names);
    for (uint32_t i = 1; i < c->count; i++) {
        const char *name = c->names + c->tensors[i].name;
        if (strcmp(c->names + c->tensors[i - 1].name, name) == 0) {
            return EPF_FAIL(EPF_E_FORMAT,
                            "%s: byte %" PRIu32 ": weight_map names tensor '%s' twice", file,
                            c->tensors[i].json, epf_printable(name, strlen(name), text));
        }
    }
    return EPF_OK;
}

static epf_status read_map(index_reader *r, epf_json_span map)
{
    epf_checkpoint *c = r->checkpoint;
    epf_json_object object;
    epf_json_span key;
    epf_json_span value;
    uint64_t count;
    uint64_t name_bytes;
    if (c->tensors != NULL) {
        return EPF_FAIL(EPF_E_FORMAT, "%s: weight_map appears twice, at byte %" PRIu64,
                        r->source.file, epf_json_offset(&r->source, map.text));
    }
    EPF_TRY(measure_map(&r->source, map, &count, &name_bytes));
    c->tensors = epf_alloc(count, sizeof c->tensors[0]);
    c->names = epf_alloc(name_bytes, 1);
    if (c->tensors == NULL || c->names == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "%s: no memory for %" PRIu64 " tensors", r->source.file,
                        count);
    }
    EPF_TRY(epf_json_object_open(&object, &r->source, map));
    for (;;) {
        EPF_TRY(epf_json_object_next(&object, &key, &value));
        if (key.text == NULL) {
            return sort_tensors(c, r->source.file);
        }
        EPF_TRY(read_pair(r, key, value));
    }
}

static bool is_weight_map(epf_json_span key)
{
    static const char spelled[] = "\"weight_map\"";
    return key.length == sizeof spelled - 1 && memcmp(key.text, spelled, key.length) == 0;
}

static epf_status read_index(index_reader *r, epf_json_span text)
{
    epf_json_object object;
    epf_json_span key;
    epf_json_span value;
    json_t *other;
    if (text.length > max_index_bytes) {
        return EPF_FAIL(EPF_E_FORMAT, "%s: %zu bytes; at most %zu", r->source.file, text.length,
                        max_index_bytes);
    }
    EPF_TRY(epf_json_object_open(&object, &r->source, text));
    for (;;) {
        EPF_TRY(epf_json_object_next(&object, &key, &value));
        if (key.text == NULL) {
            break;
        }
        if (is_weight_map(key)) {
            EPF_TRY(read_map(r, value));
        } else {
            EPF_TRY(epf_json_check_string(&r->source, key));
            EPF_TRY(epf_json_load(&r->source, value, EPF_JSON_MAX_VALUE, &other));
            json_decref(other);
        }
    }
    return r->checkpoint->tensors != NULL
               ? EPF_OK
               : EPF_FAIL(EPF_E_FORMAT, "%s: weight_map is missing", r->source.file);
}

static epf_status parse_index(epf_checkpoint *c, const char *label, const void *bytes,
                              uint64_t num_bytes)
{
    const epf_json_span text = {bytes, (size_t)num_bytes};
    index_reader *r = epf_alloc(1, sizeof *r);
    epf_status st;
    if (r == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "%s: no memory for its reader", label);
    }
    r->checkpoint = c;
    r->source.file = label;
    r->source.base = bytes;
    st = read_index(r, text);
    epf_free(r);
    return st;
}

static epf_status open_index(epf_checkpoint *c, const char *path)
{
    epf_file_map map;
    epf_status st;
    EPF_TRY(epf_file_map_open(path, &map));
    st = parse_index(c, path, map.bytes, map.num_bytes);
    epf_file_map_close(&map);
    return st;
}

epf_status epf_checkpoint_check_index(const char *label, const void *bytes, uint64_t num_bytes,
                                      int32_t *num_shards)
{
    epf_checkpoint *c = epf_alloc(1, sizeof *c);
    epf_status st;
    if (c == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "%s: no memory for its reader", label);
    }
    st = parse_index(c, label, bytes, num_bytes);
    if (st == EPF_OK) {
        *num_shards = c->num_shards;
    }
    epf_checkpoint_close(c);
    return st;
}

/* As transformers: the single file wins over an index. */
static epf_status open_weights(epf_checkpoint *c)
{
    char *path;
    bool exists;
    epf_status st;
    EPF_TRY(join(c->folder, single_name, &path));
    exists = access(path, F_OK) == 0;
    epf_free(path);
    if (exists) {
        return add_shard(c, single_name);
    }
    EPF_TRY(join(c->folder, index_name, &path));
    if (access(path, F_OK) == 0) {
        c->has_index = true;
        st = open_index(c, path);
    } else {
        st = EPF_FAIL(EPF_E_FILE, "%s: has neither %s nor %s", c->folder, single_name, index_name);
    }
    epf_free(path);
    return st;
}

static epf_status open_config(epf_checkpoint *c)
{
    char *path;
    epf_status st;
    EPF_TRY(join(c->folder, config_name, &path));
    st = epf_model_config_read(path, &c->config);
    epf_free(path);
    return st;
}

epf_status epf_checkpoint_open(const char *folder, epf_checkpoint **checkpoint)
{
    epf_checkpoint *c;
    epf_status st;
    EPF_CHECK_ARG(folder != NULL && checkpoint != NULL, "checkpoint: NULL argument");
    c = epf_alloc(1, sizeof *c);
    if (c == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "%s: no memory for the checkpoint", folder);
    }
    c->folder = epf_alloc(strlen(folder) + 1, 1);
    if (c->folder == NULL) {
        st = EPF_FAIL(EPF_E_NO_MEMORY, "%s: no memory for the checkpoint", folder);
        goto err_close;
    }
    memcpy(c->folder, folder, strlen(folder) + 1);
    EPF_TRY_GOTO(open_config(c), err_close);
    EPF_TRY_GOTO(open_weights(c), err_close);
    *checkpoint = c;
    return EPF_OK;

err_close:
    epf_checkpoint_close(c);
    return st;
}

void epf_checkpoint_close(epf_checkpoint *checkpoint)
{
    if (checkpoint == NULL) {
        return;
    }
    for (int32_t i = 0; i < checkpoint->num_shards; i++) {
        epf_safetensors_close(checkpoint->shards[i].file);
        epf_free(checkpoint->shards[i].name);
    }
    epf_free(checkpoint->shards);
    epf_free(checkpoint->tensors);
    epf_free(checkpoint->names);
    epf_model_config_free(&checkpoint->config);
    epf_free(checkpoint->folder);
    epf_free(checkpoint);
}

const char *epf_checkpoint_folder(const epf_checkpoint *checkpoint)
{
    return checkpoint->folder;
}

const epf_model_config *epf_checkpoint_config(const epf_checkpoint *checkpoint)
{
    return &checkpoint->config;
}

int32_t epf_checkpoint_num_shards(const epf_checkpoint *checkpoint)
{
    return checkpoint->num_shards;
}

int32_t epf_checkpoint_num_open_shards(const epf_checkpoint *checkpoint)
{
    return checkpoint->num_open;
}

static epf_status open_shard(epf_checkpoint *c, shard *s)
{
    char *path;
    epf_status st;
    if (s->file != NULL) {
        return EPF_OK;
    }
    EPF_TRY(join(c->folder, s->name, &path));
    st = epf_safetensors_open(path, &s->file);
    epf_free(path);
    c->num_open += st == EPF_OK;
    return st;
}

/* The shard that should hold the tensor, opened; NULL if the index has no such tensor. */
static epf_status locate(epf_checkpoint *c, const char *name, shard **found)
{
    uint32_t low = 0;
    uint32_t high = c->count;
    *found = NULL;
    if (!c->has_index) {
        *found = &c->shards[0];
        return open_shard(c, *found);
    }
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const int order = strcmp(name, c->names + c->tensors[middle].name);
        if (order == 0) {
            *found = &c->shards[c->tensors[middle].shard];
            return open_shard(c, *found);
        }
        low = order > 0 ? middle + 1 : low;
        high = order > 0 ? high : middle;
    }
    return EPF_OK;
}

epf_status epf_checkpoint_has(epf_checkpoint *checkpoint, const char *name, bool *has)
{
    epf_tensor_view view;
    shard *found;
    EPF_TRY(locate(checkpoint, name, &found));
    *has =
        found != NULL && (checkpoint->has_index || epf_safetensors_find(found->file, name, &view));
    return EPF_OK;
}

epf_status epf_checkpoint_find(epf_checkpoint *checkpoint, const char *name, epf_tensor_view *view)
{
    const epf_checkpoint *c = checkpoint;
    shard *found;
    EPF_TRY(locate(checkpoint, name, &found));
    if (found == NULL) {
        return EPF_FAIL(EPF_E_FORMAT, "%s/%s: tensor '%s' is missing", c->folder, index_name, name);
    }
    if (!epf_safetensors_find(found->file, name, view)) {
        return EPF_FAIL(EPF_E_FORMAT, "%s/%s: tensor '%s' is missing%s", c->folder, found->name,
                        name, c->has_index ? ", though the index places it in this file" : "");
    }
    return EPF_OK;
}
