/* epf_array.c: hidden states by the name a person gives them. */
#include "model/epf_array.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "model/epf_file.h"
#include "model/epf_npy.h"
#include "model/epf_safetensors.h"

static const char npy_ending[] = ".npy";
static const char safetensors_ending[] = ".safetensors";
static const char default_tensor[] = "hidden_states";

struct epf_array {
    epf_npy *npy;
    epf_safetensors *safetensors;
    epf_tensor_view view;
};

/* A spec taken apart; path is owned. */
typedef struct target {
    char *path;
    const char *tensor; /* NULL if the spec names none */
    bool is_npy;
} target;

static bool ends_with(const char *text, size_t length, const char *ending)
{
    const size_t tail = strlen(ending);
    return length > tail && memcmp(text + length - tail, ending, tail) == 0;
}

/* Tensor names may hold ':', file names too: the first ".safetensors:" divides. */
static epf_status take_apart(const char *spec, target *t)
{
    const char *divider;
    size_t length;
    memset(t, 0, sizeof *t);
    EPF_CHECK_ARG(spec != NULL && spec[0] != '\0', "array: no file name");
    length = strlen(spec);
    t->is_npy = ends_with(spec, length, npy_ending);
    divider = strstr(spec, ".safetensors:");
    if (!t->is_npy && divider != NULL && divider != spec) {
        length = (size_t)(divider - spec) + sizeof safetensors_ending - 1;
        t->tensor = spec + length + 1;
    }
    EPF_CHECK_ARG(t->is_npy || ends_with(spec, length, safetensors_ending),
                  "%s: must end with .npy, .safetensors or .safetensors:TENSOR", spec);
    EPF_CHECK_ARG(t->tensor == NULL || t->tensor[0] != '\0', "%s: no tensor name after ':'", spec);
    t->path = epf_alloc(length + 1, 1);
    if (t->path == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "%s: no memory for its name", spec);
    }
    memcpy(t->path, spec, length);
    return EPF_OK;
}

static epf_status pick_tensor(const target *t, epf_array *array)
{
    if (t->tensor != NULL) {
        return epf_safetensors_find(array->safetensors, t->tensor, &array->view)
                   ? EPF_OK
                   : EPF_FAIL(EPF_E_FORMAT, "%s: tensor '%s' is missing", t->path, t->tensor);
    }
    if (epf_safetensors_count(array->safetensors) != 1) {
        return EPF_FAIL(EPF_E_INVALID, "%s: holds %lld tensors; choose one with %s:TENSOR", t->path,
                        (long long)epf_safetensors_count(array->safetensors), t->path);
    }
    epf_safetensors_at(array->safetensors, 0, &array->view);
    return EPF_OK;
}

static epf_status open_target(const target *t, epf_array *array)
{
    if (t->is_npy) {
        EPF_TRY(epf_npy_open(t->path, &array->npy));
        array->view = *epf_npy_view(array->npy);
        return EPF_OK;
    }
    EPF_TRY(epf_safetensors_open(t->path, &array->safetensors));
    EPF_TRY(pick_tensor(t, array));
    if (epf_file_dtype_to_dtype(array->view.dtype) == 0) {
        return EPF_FAIL(EPF_E_FORMAT,
                        "%s: tensor '%s': dtype is %s; BF16, F16 and F32 are supported", t->path,
                        array->view.name, epf_file_dtype_name(array->view.dtype));
    }
    return EPF_OK;
}

epf_status epf_array_open(const char *spec, epf_array **array)
{
    target t;
    epf_array *made;
    epf_status st;
    EPF_TRY(take_apart(spec, &t));
    made = epf_alloc(1, sizeof *made);
    st = made != NULL ? open_target(&t, made)
                      : EPF_FAIL(EPF_E_NO_MEMORY, "%s: no memory for the reader", spec);
    epf_free(t.path);
    if (st != EPF_OK) {
        epf_array_close(made);
        return st;
    }
    *array = made;
    return EPF_OK;
}

void epf_array_close(epf_array *array)
{
    if (array != NULL) {
        epf_npy_close(array->npy);
        epf_safetensors_close(array->safetensors);
        epf_free(array);
    }
}

const epf_tensor_view *epf_array_view(const epf_array *array)
{
    return &array->view;
}

epf_status epf_array_num_tokens(const epf_array *array, int64_t hidden, int64_t *num_tokens)
{
    const epf_tensor_view *view = &array->view;
    char text[EPF_TENSOR_MAX_DIMS * 24] = "";
    int used = 0;
    if (view->num_dims >= 1 && hidden > 0 && view->shape[view->num_dims - 1] == hidden) {
        *num_tokens = epf_tensor_num_elements(view) / hidden;
        return EPF_OK;
    }
    for (int32_t i = 0; i < view->num_dims; i++) {
        used += snprintf(text + used, sizeof text - (size_t)used, "%s%lld", i == 0 ? "" : ", ",
                         (long long)view->shape[i]);
    }
    return EPF_FAIL(EPF_E_FORMAT, "%s: shape is [%s]; its last dimension must be hidden_size %lld",
                    view->file, text, (long long)hidden);
}

epf_status epf_array_check_writable(const char *spec)
{
    epf_file_writer writer;
    epf_status st;
    target t;
    EPF_TRY(take_apart(spec, &t));
    st = epf_file_writer_open(t.path, &writer);
    if (st == EPF_OK) {
        epf_file_writer_abort(&writer);
    }
    epf_free(t.path);
    return st;
}

epf_status epf_array_check_apart(const char *written, const char *read)
{
    struct stat a;
    struct stat b;
    bool same;
    target to;
    target from;
    EPF_TRY(take_apart(written, &to));
    const epf_status st = take_apart(read, &from);
    if (st != EPF_OK) {
        epf_free(to.path);
        return st;
    }
    same = stat(to.path, &a) == 0 && stat(from.path, &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
    epf_free(to.path);
    epf_free(from.path);
    EPF_CHECK_ARG(!same, "%s: would be written over %s, which is read", written, read);
    return EPF_OK;
}

epf_status epf_array_write(const char *spec, const epf_tensor_view *view)
{
    epf_tensor_view named = *view;
    epf_status st;
    target t;
    EPF_TRY(take_apart(spec, &t));
    named.name = t.tensor != NULL ? t.tensor : default_tensor;
    st = t.is_npy ? epf_npy_write(t.path, &named) : epf_safetensors_write(t.path, &named, 1);
    epf_free(t.path);
    return st;
}
