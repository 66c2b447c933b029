/*
 * epf_safetensors.c: the reader.
 *
 * Two walks over the header: the first counts tensors, dimensions and bytes of names, the second
 * fills three arrays of about the header's size: entries, shapes, names.  Then the entries are
 * sorted by data offset, which shows holes and overlaps, and a table of pointers by name, which
 * shows duplicates and serves lookups.
 */
#include "model/epf_safetensors.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "model/epf_file.h"
#include "model/epf_json.h"

enum { LENGTH_BYTES = 8, REASON_BYTES = 256 };

/* The reference implementation's bound: JSON of 100 MB is an attack, not a model. */
static const uint64_t max_header_bytes = 100000000;

/* 32 bytes, less than the shortest JSON that makes one: tables stay smaller than the header. */
typedef struct entry {
    uint64_t begin; /* data [begin, end) of the data section      */
    uint64_t end;
    uint32_t name;  /* index into names                           */
    uint32_t shape; /* index into shapes                          */
    uint32_t json;  /* where its value starts, from the file's 0  */
    uint8_t dtype;  /* epf_file_dtype                             */
    uint8_t num_dims;
} entry;

struct epf_safetensors {
    char *label;      /* path, for messages                       */
    epf_file_map map; /* empty over the caller's bytes            */
    const unsigned char *data;
    uint64_t data_offset;
    uint64_t data_bytes;
    uint32_t count;
    entry *entries;    /* [count], by data offset                */
    uint32_t *by_name; /* [count], entries in order of name      */
    int64_t *shapes;
    char *names;
};

/* Room that the second walk needs. */
typedef struct header_size {
    uint64_t count;
    uint64_t num_dims;
    uint64_t name_bytes;
} header_size;

/* The second walk's state. */
typedef struct fill {
    epf_safetensors *file;
    epf_json_source source;
    uint32_t num_names;  /* bytes used  */
    uint32_t num_shapes; /* items used  */
    char name[EPF_JSON_MAX_NAME + 1];
} fill;

static const char *entry_name(const epf_safetensors *file, const entry *e)
{
    return file->names + e->name;
}

/* One line: file, tensor, byte, reason. */
__attribute__((format(printf, 3, 4))) static epf_status entry_error(const epf_safetensors *file,
                                                                    const entry *e,
                                                                    const char *format, ...)
{
    char reason[REASON_BYTES];
    char name[EPF_PRINTABLE_BYTES];
    const char *text = entry_name(file, e);
    va_list args;
    va_start(args, format);
    (void)vsnprintf(reason, sizeof reason, format, args);
    va_end(args);
    return EPF_FAIL(EPF_E_FORMAT, "%s: tensor '%s' at byte %" PRIu32 ": %s", file->label,
                    epf_printable(text, strlen(text), name), e->json, reason);
}

static epf_status read_dtype(const fill *f, entry *e, const json_t *object)
{
    const json_t *value = json_object_get(object, "dtype");
    char text[EPF_PRINTABLE_BYTES];
    if (!json_is_string(value)) {
        return entry_error(f->file, e, "dtype is missing or no string");
    }
    e->dtype = (uint8_t)epf_file_dtype_parse(json_string_value(value), json_string_length(value));
    if (e->dtype == EPF_FILE_DTYPE_COUNT) {
        return entry_error(
            f->file, e, "dtype '%s' is unknown",
            epf_printable(json_string_value(value), json_string_length(value), text));
    }
    return EPF_OK;
}

static epf_status read_shape(fill *f, entry *e, const json_t *object)
{
    const json_t *value = json_object_get(object, "shape");
    const size_t num_dims = json_array_size(value);
    if (!json_is_array(value)) {
        return entry_error(f->file, e, "shape is missing or no array");
    }
    if (num_dims > EPF_TENSOR_MAX_DIMS) {
        return entry_error(f->file, e, "shape has %zu dimensions; at most %d", num_dims,
                           EPF_TENSOR_MAX_DIMS);
    }
    e->shape = f->num_shapes;
    e->num_dims = (uint8_t)num_dims;
    for (size_t i = 0; i < num_dims; i++) {
        const json_t *item = json_array_get(value, i);
        if (!json_is_integer(item) || json_integer_value(item) < 0) {
            return entry_error(f->file, e, "shape[%zu] is no integer in 0 .. 2^63 - 1", i);
        }
        f->file->shapes[f->num_shapes++] = json_integer_value(item);
    }
    return EPF_OK;
}

static epf_status read_offsets(const fill *f, entry *e, const json_t *object)
{
    const json_t *value = json_object_get(object, "data_offsets");
    const json_t *begin = json_array_get(value, 0);
    const json_t *end = json_array_get(value, 1);
    if (json_array_size(value) != 2 || !json_is_integer(begin) || !json_is_integer(end)) {
        return entry_error(f->file, e, "data_offsets is missing or not two integers");
    }
    if (json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin)) {
        return entry_error(f->file, e, "data_offsets [%lld, %lld] do not ascend from 0",
                           (long long)json_integer_value(begin),
                           (long long)json_integer_value(end));
    }
    e->begin = (uint64_t)json_integer_value(begin);
    e->end = (uint64_t)json_integer_value(end);
    if (e->end > f->file->data_bytes) {
        return entry_error(f->file, e,
                           "data_offsets end at %" PRIu64 " of %" PRIu64 " bytes of data", e->end,
                           f->file->data_bytes);
    }
    return EPF_OK;
}

/* shape x element size must be exactly what the offsets span, without overflow on the way. */
static epf_status check_size(const epf_safetensors *file, const entry *e)
{
    const uint64_t span = e->end - e->begin;
    uint64_t bits = epf_file_dtype_bits((epf_file_dtype)e->dtype);
    uint64_t elements = 1;
    for (uint32_t i = 0; i < e->num_dims; i++) {
        /* 63 bits at every step: callers multiply signed, and a 0 at the end hides nothing */
        if (__builtin_mul_overflow(elements, (uint64_t)file->shapes[e->shape + i], &elements) ||
            elements > INT64_MAX) {
            return entry_error(file, e, "the product of its shape overflows 64 bit");
        }
    }
    if (__builtin_mul_overflow(elements, bits, &bits)) {
        return entry_error(file, e, "its size in bits overflows 64 bit");
    }
    if (bits % 8 != 0) {
        return entry_error(file, e, "its size of %" PRIu64 " bits is no whole number of bytes",
                           bits);
    }
    if (bits / 8 != span) {
        return entry_error(file, e,
                           "data_offsets span %" PRIu64 " bytes, but shape and dtype need %" PRIu64,
                           span, bits / 8);
    }
    return EPF_OK;
}

static epf_status read_members(fill *f, entry *e, const json_t *object)
{
    if (!json_is_object(object)) {
        return entry_error(f->file, e, "is no JSON object");
    }
    EPF_TRY(read_dtype(f, e, object));
    EPF_TRY(read_shape(f, e, object));
    EPF_TRY(read_offsets(f, e, object));
    return check_size(f->file, e);
}

static epf_status read_entry(fill *f, epf_json_span key, epf_json_span value)
{
    epf_safetensors *file = f->file;
    entry *e = &file->entries[file->count];
    size_t length;
    json_t *object;
    epf_status st;
    EPF_TRY(epf_json_string(&f->source, key, f->name, &length));
    e->name = f->num_names;
    e->json = (uint32_t)epf_json_offset(&f->source, value.text);
    memcpy(file->names + f->num_names, f->name, length + 1);
    f->num_names += (uint32_t)length + 1;
    EPF_TRY(epf_json_load(&f->source, value, EPF_JSON_MAX_VALUE, &object));
    st = read_members(f, e, object);
    json_decref(object);
    file->count += st == EPF_OK;
    return st;
}

/*
 * Keys as spelled, by where their opening quotes are; nobody looks them up here, so an escape is
 * not worth decoding.  Equal beginnings are in the same state of escaping, so one scan serves both.
 */
static int compare_keys(const void *a, const void *b, void *base)
{
    const char *left = (const char *)base + *(const uint32_t *)a;
    const char *right = (const char *)base + *(const uint32_t *)b;
    bool escaped = false;
    for (size_t i = 1;; i++) {
        if (left[i] != right[i]) {
            return (unsigned char)left[i] < (unsigned char)right[i] ? -1 : 1;
        }
        if (left[i] == '"' && !escaped) {
            return 0;
        }
        escaped = left[i] == '\\' && !escaped;
    }
}

static epf_status check_metadata_keys(const epf_json_source *source, uint32_t *keys, size_t count)
{
    char *base = (char *)(uintptr_t)source->base; /* qsort_r() wants it without const */
    qsort_r(keys, count, sizeof keys[0], compare_keys, base);
    for (size_t i = 1; i < count; i++) {
        if (compare_keys(&keys[i - 1], &keys[i], base) == 0) {
            return EPF_FAIL(EPF_E_FORMAT,
                            "%s: a key of __metadata__ appears twice, at byte %" PRIu32,
                            source->file, keys[i]);
        }
    }
    return EPF_OK;
}

/* __metadata__ is a map from string to string. */
static epf_status walk_metadata(const epf_json_source *source, epf_json_span map, uint32_t *keys,
                                size_t *count)
{
    epf_json_object object;
    epf_json_span key;
    epf_json_span value;
    *count = 0;
    EPF_TRY(epf_json_object_open(&object, source, map));
    for (;;) {
        EPF_TRY(epf_json_object_next(&object, &key, &value));
        if (key.text == NULL) {
            return EPF_OK;
        }
        if (keys != NULL) {
            keys[*count] = (uint32_t)epf_json_offset(source, key.text);
        } else {
            EPF_TRY(epf_json_check_string(source, key));
            EPF_TRY(epf_json_check_string(source, value));
        }
        (*count)++;
    }
}

static epf_status check_metadata(const epf_json_source *source, epf_json_span map)
{
    uint32_t *keys;
    size_t count;
    epf_status st;
    EPF_TRY(walk_metadata(source, map, NULL, &count));
    keys = epf_alloc(count, sizeof keys[0]);
    if (keys == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "%s: no memory for %zu keys", source->file, count);
    }
    st = walk_metadata(source, map, keys, &count);
    if (st == EPF_OK) {
        st = check_metadata_keys(source, keys, count);
    }
    epf_free(keys);
    return st;
}

static int is_metadata(epf_json_span key)
{
    static const char spelled[] = "\"__metadata__\"";
    return key.length == sizeof spelled - 1 && memcmp(key.text, spelled, key.length) == 0;
}

static uint64_t count_commas(epf_json_span value)
{
    uint64_t count = 0;
    for (size_t i = 0; i < value.length; i++) {
        count += value.text[i] == ',';
    }
    return count;
}

/* First walk.  A decoded name is never longer than its spelling; n dimensions take n - 1 commas. */
static epf_status measure(const epf_json_source *source, epf_json_span header, header_size *size)
{
    epf_json_object object;
    epf_json_span key;
    epf_json_span value;
    memset(size, 0, sizeof *size);
    EPF_TRY(epf_json_object_open(&object, source, header));
    for (;;) {
        EPF_TRY(epf_json_object_next(&object, &key, &value));
        if (key.text == NULL) {
            return EPF_OK;
        }
        if (!is_metadata(key)) {
            const uint64_t commas = count_commas(value);
            size->count++;
            size->name_bytes += key.length;
            size->num_dims += commas < EPF_TENSOR_MAX_DIMS ? commas + 1 : EPF_TENSOR_MAX_DIMS;
        }
    }
}

/* Second walk. */
static epf_status fill_tables(fill *f, epf_json_span header)
{
    epf_json_object object;
    epf_json_span key;
    epf_json_span value;
    int seen_metadata = 0;
    EPF_TRY(epf_json_object_open(&object, &f->source, header));
    for (;;) {
        EPF_TRY(epf_json_object_next(&object, &key, &value));
        if (key.text == NULL) {
            return EPF_OK;
        }
        if (!is_metadata(key)) {
            EPF_TRY(read_entry(f, key, value));
            continue;
        }
        if (seen_metadata++) {
            return EPF_FAIL(EPF_E_FORMAT, "%s: __metadata__ appears twice, at byte %" PRIu64,
                            f->source.file, epf_json_offset(&f->source, key.text));
        }
        EPF_TRY(check_metadata(&f->source, value));
    }
}

static int compare_data(const void *a, const void *b)
{
    const entry *left = a;
    const entry *right = b;
    if (left->begin != right->begin) {
        return left->begin < right->begin ? -1 : 1;
    }
    if (left->end != right->end) {
        return left->end < right->end ? -1 : 1;
    }
    return (left->json > right->json) - (left->json < right->json);
}

/* The tensors must cover the data section exactly, one after the other. */
static epf_status check_cover(const epf_safetensors *file)
{
    uint64_t covered = 0;
    for (uint32_t i = 0; i < file->count; i++) {
        const entry *e = &file->entries[i];
        if (e->begin != covered) {
            return entry_error(file, e, "its data begin at %" PRIu64 ", %s at %" PRIu64, e->begin,
                               e->begin < covered ? "inside the tensor that ends"
                                                  : "after a hole that starts",
                               covered);
        }
        covered = e->end;
    }
    if (covered != file->data_bytes) {
        return EPF_FAIL(EPF_E_FORMAT,
                        "%s: %" PRIu64 " bytes follow the last tensor's data, at byte %" PRIu64,
                        file->label, file->data_bytes - covered, file->data_offset + covered);
    }
    return EPF_OK;
}

static int compare_names(const void *a, const void *b, void *context)
{
    const epf_safetensors *file = context;
    return strcmp(entry_name(file, &file->entries[*(const uint32_t *)a]),
                  entry_name(file, &file->entries[*(const uint32_t *)b]));
}

static epf_status index_names(epf_safetensors *file)
{
    for (uint32_t i = 0; i < file->count; i++) {
        file->by_name[i] = i;
    }
    qsort_r(file->by_name, file->count, sizeof file->by_name[0], compare_names, file);
    for (uint32_t i = 1; i < file->count; i++) {
        if (compare_names(&file->by_name[i - 1], &file->by_name[i], file) == 0) {
            return entry_error(file, &file->entries[file->by_name[i]], "the name appears twice");
        }
    }
    return EPF_OK;
}

static epf_status read_header(epf_safetensors *file, const unsigned char *bytes,
                              epf_json_span header)
{
    header_size size;
    fill f = {.file = file, .source = {file->label, (const char *)bytes}};
    EPF_TRY(measure(&f.source, header, &size));
    file->entries = epf_alloc(size.count, sizeof file->entries[0]);
    file->by_name = epf_alloc(size.count, sizeof file->by_name[0]);
    file->shapes = epf_alloc(size.num_dims, sizeof file->shapes[0]);
    file->names = epf_alloc(size.name_bytes, 1);
    if (file->entries == NULL || file->by_name == NULL || file->shapes == NULL ||
        file->names == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "%s: no memory for %" PRIu64 " tensors", file->label,
                        size.count);
    }
    EPF_TRY(fill_tables(&f, header));
    qsort(file->entries, file->count, sizeof file->entries[0], compare_data);
    EPF_TRY(index_names(file));
    return check_cover(file);
}

/* Where the header lies; everything that can be said before its JSON is looked at. */
static epf_status find_header(const char *label, const unsigned char *bytes, uint64_t num_bytes,
                              epf_json_span *header)
{
    uint64_t length;
    if (num_bytes < LENGTH_BYTES) {
        return EPF_FAIL(EPF_E_FORMAT, "%s: %" PRIu64 " bytes; a safetensors file has at least 8",
                        label, num_bytes);
    }
    memcpy(&length, bytes, sizeof length);
    if (length > max_header_bytes) {
        return EPF_FAIL(EPF_E_FORMAT, "%s: header length %" PRIu64 " at byte 0; at most %" PRIu64,
                        label, length, max_header_bytes);
    }
    if (length > num_bytes - LENGTH_BYTES) {
        return EPF_FAIL(EPF_E_FORMAT,
                        "%s: header length %" PRIu64 " at byte 0, but only %" PRIu64
                        " bytes follow it",
                        label, length, num_bytes - LENGTH_BYTES);
    }
    header->text = (const char *)bytes + LENGTH_BYTES;
    header->length = (size_t)length;
    if (length == 0 || header->text[0] != '{') {
        return EPF_FAIL(EPF_E_FORMAT, "%s: the header at byte 8 does not start with '{'", label);
    }
    return EPF_OK;
}

static epf_status parse(epf_safetensors *file, const unsigned char *bytes, uint64_t num_bytes)
{
    epf_json_span header = {NULL, 0};
    EPF_TRY(find_header(file->label, bytes, num_bytes, &header));
    file->data_offset = LENGTH_BYTES + (uint64_t)header.length;
    file->data = bytes + file->data_offset;
    file->data_bytes = num_bytes - file->data_offset;
    return read_header(file, bytes, header);
}

static epf_safetensors *make(const char *label)
{
    epf_safetensors *file = epf_alloc(1, sizeof *file);
    if (file == NULL) {
        return NULL;
    }
    file->label = epf_alloc(strlen(label) + 1, 1);
    if (file->label == NULL) {
        epf_free(file);
        return NULL;
    }
    memcpy(file->label, label, strlen(label) + 1);
    return file;
}

epf_status epf_safetensors_parse(const char *label, const void *bytes, uint64_t num_bytes,
                                 epf_safetensors **file)
{
    epf_safetensors *made = make(label);
    epf_status st;
    if (made == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "%s: no memory for the reader", label);
    }
    st = parse(made, bytes, num_bytes);
    if (st != EPF_OK) {
        epf_safetensors_close(made);
        return st;
    }
    *file = made;
    return EPF_OK;
}

epf_status epf_safetensors_open(const char *path, epf_safetensors **file)
{
    epf_file_map map;
    epf_status st;
    EPF_TRY(epf_file_map_open(path, &map));
    st = epf_safetensors_parse(path, map.bytes, map.num_bytes, file);
    if (st != EPF_OK) {
        epf_file_map_close(&map);
        return st;
    }
    (*file)->map = map;
    return EPF_OK;
}

void epf_safetensors_close(epf_safetensors *file)
{
    if (file == NULL) {
        return;
    }
    epf_file_map_close(&file->map);
    epf_free(file->entries);
    epf_free(file->by_name);
    epf_free(file->shapes);
    epf_free(file->names);
    epf_free(file->label);
    epf_free(file);
}

int64_t epf_safetensors_count(const epf_safetensors *file)
{
    return file->count;
}

void epf_safetensors_at(const epf_safetensors *file, int64_t index, epf_tensor_view *view)
{
    const entry *e = &file->entries[index];
    memset(view, 0, sizeof *view);
    view->file = file->label;
    view->name = entry_name(file, e);
    view->dtype = (epf_file_dtype)e->dtype;
    view->num_dims = e->num_dims;
    memcpy(view->shape, file->shapes + e->shape, e->num_dims * sizeof view->shape[0]);
    view->data = file->data + e->begin;
    view->num_bytes = e->end - e->begin;
    view->file_offset = file->data_offset + e->begin;
}

bool epf_safetensors_find(const epf_safetensors *file, const char *name, epf_tensor_view *view)
{
    uint32_t low = 0;
    uint32_t high = file->count;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const uint32_t index = file->by_name[middle];
        const int order = strcmp(name, entry_name(file, &file->entries[index]));
        if (order == 0) {
            epf_safetensors_at(file, index, view);
            return true;
        }
        low = order > 0 ? middle + 1 : low;
        high = order > 0 ? high : middle;
    }
    return false;
}
