/*
 * epf_npy.c: NumPy's array files.
 *
 * Magic "\x93NUMPY", major, minor, header length (u16 in version 1, else u32), header, data.  The
 * header is a Python dict literal with exactly three keys: descr, fortran_order, shape.
 */
#include "model/epf_npy.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "model/epf_file.h"
#include "model/epf_json.h"

enum {
    PREFIX_BYTES = 8, /* magic and version */
    MAX_HEADER_BYTES = 64 * 1024,
    DATA_ALIGNMENT = 64,
    MAX_DIMS = 3
};

static const char magic[] = "\x93NUMPY";

struct epf_npy {
    char *label;
    epf_file_map map;
    epf_tensor_view view;
};

/* The literal being read. */
typedef struct literal {
    epf_json_source source;
    const char *at;
    const char *end;
    const char *descr; /* without quotes; NULL until seen */
    size_t descr_length;
    int fortran_order; /* -1 until seen */
    int32_t num_dims;  /* -1 until seen */
    int64_t shape[MAX_DIMS];
} literal;

static epf_status literal_error(const literal *l, const char *reason)
{
    return EPF_FAIL(EPF_E_FORMAT, "%s: header at byte %" PRIu64 ": %s", l->source.file,
                    epf_json_offset(&l->source, l->at), reason);
}

static void skip_blanks(literal *l)
{
    while (l->at < l->end && (*l->at == ' ' || *l->at == '\n' || *l->at == '\t')) {
        l->at++;
    }
}

/* Consumes `c`, after blanks, if it is next. */
static bool take(literal *l, char c)
{
    skip_blanks(l);
    if (l->at == l->end || *l->at != c) {
        return false;
    }
    l->at++;
    return true;
}

static bool take_word(literal *l, const char *word)
{
    const size_t length = strlen(word);
    skip_blanks(l);
    if ((size_t)(l->end - l->at) < length || memcmp(l->at, word, length) != 0) {
        return false;
    }
    l->at += length;
    return true;
}

/* A quoted string without escapes. */
static epf_status take_string(literal *l, const char **text, size_t *length)
{
    char quote;
    const char *close;
    skip_blanks(l);
    if (l->at == l->end || (*l->at != '\'' && *l->at != '"')) {
        return literal_error(l, "a quoted string was expected");
    }
    quote = *l->at;
    close = memchr(l->at + 1, quote, (size_t)(l->end - l->at) - 1);
    if (close == NULL) {
        return literal_error(l, "a string is not closed");
    }
    *text = l->at + 1;
    *length = (size_t)(close - *text);
    l->at = close + 1;
    return EPF_OK;
}

static epf_status take_dim(literal *l, int64_t *dim)
{
    int64_t value = 0;
    const char *first;
    skip_blanks(l);
    first = l->at;
    while (l->at < l->end && *l->at >= '0' && *l->at <= '9') {
        if (__builtin_mul_overflow(value, (int64_t)10, &value) ||
            __builtin_add_overflow(value, (int64_t)(*l->at - '0'), &value)) {
            return literal_error(l, "a dimension overflows 64 bit");
        }
        l->at++;
    }
    if (l->at == first) {
        return literal_error(l, "a dimension (an integer of at least 0) was expected");
    }
    *dim = value;
    return EPF_OK;
}

/* "(3, 4)", "(3,)", "()". */
static epf_status take_shape(literal *l)
{
    l->num_dims = 0;
    if (!take(l, '(')) {
        return literal_error(l, "'(' of the shape was expected");
    }
    while (!take(l, ')')) {
        int64_t dim = 0;
        EPF_TRY(take_dim(l, &dim));
        if (l->num_dims == MAX_DIMS) {
            return EPF_FAIL(EPF_E_UNSUPPORTED,
                            "%s: shape at byte %" PRIu64 " has more than 3 dimensions",
                            l->source.file, epf_json_offset(&l->source, l->at));
        }
        l->shape[l->num_dims++] = dim;
        if (!take(l, ',') && (l->at == l->end || *l->at != ')' || l->num_dims == 1)) {
            return literal_error(l, "',' or ')' of the shape was expected");
        }
    }
    return EPF_OK;
}

static epf_status take_descr(literal *l)
{
    skip_blanks(l);
    if (l->at < l->end && *l->at == '[') {
        return EPF_FAIL(EPF_E_UNSUPPORTED,
                        "%s: descr at byte %" PRIu64 " is a record; '<f4' and '<f2' are supported",
                        l->source.file, epf_json_offset(&l->source, l->at));
    }
    return take_string(l, &l->descr, &l->descr_length);
}

static epf_status take_fortran_order(literal *l)
{
    if (take_word(l, "False")) {
        l->fortran_order = 0;
    } else if (take_word(l, "True")) {
        l->fortran_order = 1;
    } else {
        return literal_error(l, "fortran_order: True or False was expected");
    }
    return EPF_OK;
}

static bool is_key(const char *text, size_t length, const char *key)
{
    return length == strlen(key) && memcmp(text, key, length) == 0;
}

static epf_status take_member(literal *l)
{
    const char *key;
    size_t length;
    const char *at = l->at;
    EPF_TRY(take_string(l, &key, &length));
    if (!take(l, ':')) {
        return literal_error(l, "':' was expected");
    }
    if (is_key(key, length, "descr") && l->descr == NULL) {
        return take_descr(l);
    }
    if (is_key(key, length, "fortran_order") && l->fortran_order < 0) {
        return take_fortran_order(l);
    }
    if (is_key(key, length, "shape") && l->num_dims < 0) {
        return take_shape(l);
    }
    l->at = at;
    return literal_error(l, "a key other than descr, fortran_order, shape, or one of them twice");
}

static epf_status take_dict(literal *l)
{
    if (!take(l, '{')) {
        return literal_error(l, "'{' was expected");
    }
    while (!take(l, '}')) {
        EPF_TRY(take_member(l));
        if (!take(l, ',') && (l->at == l->end || *l->at != '}')) {
            return literal_error(l, "',' or '}' was expected");
        }
    }
    skip_blanks(l);
    if (l->at != l->end) {
        return literal_error(l, "something follows the dict");
    }
    if (l->descr == NULL || l->fortran_order < 0 || l->num_dims < 0) {
        return literal_error(l, "descr, fortran_order or shape is missing");
    }
    return EPF_OK;
}

/* Legal things that we do not read. */
static epf_status check_supported(const literal *l, epf_tensor_view *view)
{
    char text[EPF_PRINTABLE_BYTES];
    if (is_key(l->descr, l->descr_length, "<f4")) {
        view->dtype = EPF_FILE_F32;
    } else if (is_key(l->descr, l->descr_length, "<f2")) {
        view->dtype = EPF_FILE_F16;
    } else {
        return EPF_FAIL(EPF_E_UNSUPPORTED,
                        "%s: element type '%s' at byte %" PRIu64 "; '<f4' and '<f2' are supported",
                        l->source.file, epf_printable(l->descr, l->descr_length, text),
                        epf_json_offset(&l->source, l->descr));
    }
    if (l->fortran_order) {
        return EPF_FAIL(EPF_E_UNSUPPORTED, "%s: Fortran order; only C order is supported",
                        l->source.file);
    }
    if (l->num_dims < 1) {
        return EPF_FAIL(EPF_E_UNSUPPORTED, "%s: a scalar; 1 to 3 dimensions are supported",
                        l->source.file);
    }
    return EPF_OK;
}

static epf_status check_data(const literal *l, epf_tensor_view *view, uint64_t data_bytes)
{
    uint64_t bytes = epf_file_dtype_bits(view->dtype) / 8;
    for (int32_t i = 0; i < l->num_dims; i++) {
        view->shape[i] = l->shape[i];
        if (__builtin_mul_overflow(bytes, (uint64_t)l->shape[i], &bytes)) {
            return EPF_FAIL(EPF_E_FORMAT, "%s: the product of its shape overflows 64 bit",
                            l->source.file);
        }
    }
    view->num_dims = l->num_dims;
    view->num_bytes = bytes;
    if (bytes != data_bytes) {
        return EPF_FAIL(EPF_E_FORMAT,
                        "%s: %" PRIu64 " bytes of data at byte %" PRIu64
                        ", but shape and type need %" PRIu64,
                        l->source.file, data_bytes, view->file_offset, bytes);
    }
    return EPF_OK;
}

/* Reads the length field and checks it against the file. */
static epf_status find_header(const char *label, const unsigned char *bytes, uint64_t num_bytes,
                              epf_json_span *header)
{
    uint32_t length = 0;
    size_t length_bytes;
    if (num_bytes < PREFIX_BYTES + 2 || memcmp(bytes, magic, sizeof magic - 1) != 0) {
        return EPF_FAIL(EPF_E_FORMAT, "%s: does not start with \\x93NUMPY: no .npy file", label);
    }
    if (bytes[6] < 1 || bytes[6] > 3 || bytes[7] != 0) {
        return EPF_FAIL(EPF_E_UNSUPPORTED,
                        "%s: version %u.%u at byte 6; 1.0, 2.0 and 3.0 are known", label, bytes[6],
                        bytes[7]);
    }
    length_bytes = bytes[6] == 1 ? 2 : 4;
    if (num_bytes < PREFIX_BYTES + length_bytes) {
        return EPF_FAIL(EPF_E_FORMAT, "%s: ends inside the header length at byte 8", label);
    }
    memcpy(&length, bytes + PREFIX_BYTES, length_bytes);
    if (length > MAX_HEADER_BYTES || length > num_bytes - PREFIX_BYTES - length_bytes) {
        return EPF_FAIL(EPF_E_FORMAT,
                        "%s: header length %" PRIu32 " at byte 8; at most %d, and %" PRIu64
                        " bytes follow it",
                        label, length, MAX_HEADER_BYTES, num_bytes - PREFIX_BYTES - length_bytes);
    }
    header->text = (const char *)bytes + PREFIX_BYTES + length_bytes;
    header->length = length;
    return EPF_OK;
}

static epf_status parse(epf_npy *file, const unsigned char *bytes, uint64_t num_bytes)
{
    literal l = {.source = {file->label, (const char *)bytes}, .fortran_order = -1, .num_dims = -1};
    epf_tensor_view view = {.file = file->label, .name = ""};
    epf_json_span header = {NULL, 0};
    EPF_TRY(find_header(file->label, bytes, num_bytes, &header));
    l.at = header.text;
    l.end = header.text + header.length;
    EPF_TRY(take_dict(&l));
    EPF_TRY(check_supported(&l, &view));
    view.data = l.end;
    view.file_offset = epf_json_offset(&l.source, l.end);
    EPF_TRY(check_data(&l, &view, num_bytes - view.file_offset));
    file->view = view;
    return EPF_OK;
}

epf_status epf_npy_parse(const char *label, const void *bytes, uint64_t num_bytes, epf_npy **file)
{
    epf_npy *made = epf_alloc(1, sizeof *made);
    char *copy = epf_alloc(strlen(label) + 1, 1);
    epf_status st = EPF_OK;
    if (made == NULL || copy == NULL) {
        st = EPF_FAIL(EPF_E_NO_MEMORY, "%s: no memory for the reader", label);
    } else {
        memcpy(copy, label, strlen(label) + 1);
        made->label = copy;
        st = parse(made, bytes, num_bytes);
    }
    if (st != EPF_OK) {
        epf_free(copy);
        epf_free(made);
        return st;
    }
    *file = made;
    return EPF_OK;
}

epf_status epf_npy_open(const char *path, epf_npy **file)
{
    epf_file_map map;
    epf_status st;
    EPF_TRY(epf_file_map_open(path, &map));
    st = epf_npy_parse(path, map.bytes, map.num_bytes, file);
    if (st != EPF_OK) {
        epf_file_map_close(&map);
        return st;
    }
    (*file)->map = map;
    return EPF_OK;
}

void epf_npy_close(epf_npy *file)
{
    if (file != NULL) {
        epf_file_map_close(&file->map);
        epf_free(file->label);
        epf_free(file);
    }
}

const epf_tensor_view *epf_npy_view(const epf_npy *file)
{
    return &file->view;
}

static epf_status check_view(const epf_tensor_view *array)
{
    EPF_CHECK_ARG(array != NULL && array->num_dims >= 1 && array->num_dims <= MAX_DIMS,
                  "array to write as .npy: NULL, or not 1 to 3 dimensions");
    EPF_CHECK_ARG(array->dtype == EPF_FILE_F32 || array->dtype == EPF_FILE_F16,
                  "array to write as .npy: type %s; F32 and F16 are possible",
                  epf_file_dtype_name(array->dtype));
    EPF_CHECK_ARG((array->data != NULL || array->num_bytes == 0) &&
                      array->num_bytes == (uint64_t)epf_tensor_num_elements(array) *
                                              epf_file_dtype_bits(array->dtype) / 8,
                  "array to write as .npy: %" PRIu64 " bytes do not fit its shape",
                  array->num_bytes);
    return EPF_OK;
}

/* Prefix, length and dict, padded with blanks and a newline to a multiple of 64. */
static size_t put_header(char buffer[4 * DATA_ALIGNMENT], const epf_tensor_view *array)
{
    size_t used = PREFIX_BYTES + 2;
    size_t total;
    memset(buffer, ' ', 4 * DATA_ALIGNMENT);
    memcpy(buffer, "\x93NUMPY\x01\x00", PREFIX_BYTES);
    used += (size_t)sprintf(buffer + used, "{'descr': '%s', 'fortran_order': False, 'shape': (",
                            array->dtype == EPF_FILE_F32 ? "<f4" : "<f2");
    for (int32_t i = 0; i < array->num_dims; i++) {
        used += (size_t)sprintf(buffer + used, "%lld,", (long long)array->shape[i]);
    }
    used += (size_t)sprintf(buffer + used, "), }");
    buffer[used] = ' ';
    total = (used + 1 + DATA_ALIGNMENT - 1) / DATA_ALIGNMENT * DATA_ALIGNMENT;
    buffer[total - 1] = '\n';
    buffer[PREFIX_BYTES] = (char)((total - PREFIX_BYTES - 2) & 0xff);
    buffer[PREFIX_BYTES + 1] = (char)((total - PREFIX_BYTES - 2) >> 8);
    return total;
}

epf_status epf_npy_write(const char *path, const epf_tensor_view *array)
{
    char header[4 * DATA_ALIGNMENT];
    epf_file_writer writer;
    epf_status st;
    EPF_CHECK_ARG(path != NULL, "file to write: no path");
    EPF_TRY(check_view(array));
    EPF_TRY(epf_file_writer_open(path, &writer));
    EPF_TRY_GOTO(epf_file_writer_write(&writer, header, put_header(header, array)), err_abort);
    EPF_TRY_GOTO(epf_file_writer_write(&writer, array->data, array->num_bytes), err_abort);
    return epf_file_writer_commit(&writer);

err_abort:
    epf_file_writer_abort(&writer);
    return st;
}
