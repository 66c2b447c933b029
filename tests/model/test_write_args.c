/*
 * test_write_args: tensors that cannot be written, or converted, are refused with a text that names what is
 * wrong, and no file appears.
 */
#include <string.h>
#include <unistd.h>

#include "base/epf_error.h"
#include "model/epf_array.h"
#include "model/epf_moe_block.h"
#include "model/epf_npy.h"
#include "model/epf_safetensors.h"
#include "support/epf_check.h"

#define REFUSED(text, call)                                                                 \
    do {                                                                                    \
        const epf_status check_status = (call);                                             \
        CHECK(check_status == EPF_E_INVALID && strstr(epf_error_text(), (text)) != NULL,    \
              "status %d without \"%s\": %s", (int)check_status, (text), epf_error_text()); \
        CHECK(access(path, F_OK) != 0, "a file appeared");                                  \
    } while (0)

static const char path[] = "test_write_args.out";
static const float data[4];

static epf_tensor_view good(void)
{
    epf_tensor_view t = {.name = "t", .dtype = EPF_FILE_F32, .num_dims = 2, .shape = {2, 2}};
    t.data = (const void *)data;
    t.num_bytes = sizeof data;
    return t;
}

static void check_safetensors(void)
{
    static char longest[5000];
    static const char *const bad_names[] = {"\n", "\x7f", "\"", "\\"};
    epf_tensor_view two[2] = {good(), good()};
    epf_tensor_view t;

    memset(longest, 'x', sizeof longest - 1);
    REFUSED("NULL or -1", epf_safetensors_write(path, two, -1));
    REFUSED("NULL or 1", epf_safetensors_write(path, NULL, 1));
    REFUSED("two are named", epf_safetensors_write(path, two, 2));
    t = good();
    t.name = NULL;
    REFUSED("its name is missing", epf_safetensors_write(path, &t, 1));
    t.name = "";
    REFUSED("its name is missing", epf_safetensors_write(path, &t, 1));
    t.name = longest;
    REFUSED("above 4096", epf_safetensors_write(path, &t, 1));
    t.name = "__metadata__";
    REFUSED("is no name", epf_safetensors_write(path, &t, 1));
    for (size_t i = 0; i < sizeof bad_names / sizeof bad_names[0]; i++) {
        t.name = bad_names[i];
        REFUSED("name has byte", epf_safetensors_write(path, &t, 1));
    }
    t = good();
    t.dtype = EPF_FILE_DTYPE_COUNT;
    REFUSED("bad dtype", epf_safetensors_write(path, &t, 1));
    t = good();
    t.num_dims = -1;
    REFUSED("number of dimensions", epf_safetensors_write(path, &t, 1));
    t.num_dims = EPF_TENSOR_MAX_DIMS + 1;
    REFUSED("number of dimensions", epf_safetensors_write(path, &t, 1));
    t = good();
    t.shape[1] = -2;
    REFUSED("negative or overflows", epf_safetensors_write(path, &t, 1));
    t.shape[0] = t.shape[1] = INT64_MAX;
    REFUSED("negative or overflows", epf_safetensors_write(path, &t, 1));
    t = good();
    t.data = NULL;
    REFUSED("do not fit", epf_safetensors_write(path, &t, 1));
    t = good();
    t.shape[0] = 3;
    REFUSED("do not fit", epf_safetensors_write(path, &t, 1));
    t.shape[0] = INT64_MAX / 4;
    REFUSED("do not fit", epf_safetensors_write(path, &t, 1));
}

static void check_npy(void)
{
    epf_tensor_view t = good();

    REFUSED("NULL, or not", epf_npy_write(path, NULL));
    t.num_dims = 0;
    REFUSED("1 to 3 dimensions", epf_npy_write(path, &t));
    t.num_dims = 4;
    REFUSED("1 to 3 dimensions", epf_npy_write(path, &t));
    t = good();
    t.dtype = EPF_FILE_BF16;
    REFUSED("F32 and F16", epf_npy_write(path, &t));
    t = good();
    t.data = NULL;
    REFUSED("do not fit its shape", epf_npy_write(path, &t));
    t = good();
    t.num_bytes--;
    REFUSED("do not fit its shape", epf_npy_write(path, &t));
}

static void check_others(void)
{
    const epf_model_config config = {.intermediate = 8, .hidden = 8};
    const epf_moe_block block = {.config = &config, .first_expert = 2, .num_experts = 2};
    epf_moe_pack_args pack = {.dtype = EPF_DTYPE_F32, .first = 1, .count = 1};
    epf_tensor_view t = good();
    epf_array *array = NULL;
    float out[4];

    REFUSED("cannot convert", epf_tensor_convert(&t, 0, 4, EPF_DTYPE_I32, out));
    REFUSED("elements [-1", epf_tensor_convert(&t, -1, 1, EPF_DTYPE_F32, out));
    REFUSED("elements [0, +-1)", epf_tensor_convert(&t, 0, -1, EPF_DTYPE_F32, out));
    REFUSED("elements [5", epf_tensor_convert(&t, 5, 0, EPF_DTYPE_F32, out));
    REFUSED("elements [1, +4) of 4", epf_tensor_convert(&t, 1, 4, EPF_DTYPE_F32, out));
    REFUSED("no file name", epf_array_open(NULL, &array));
    REFUSED("no file name", epf_array_open("", &array));
    REFUSED("must end with", epf_array_open(".safetensors:", &array));
    REFUSED("are not within", epf_moe_block_pack(&block, &pack));
    pack.first = 2;
    pack.count = -1;
    REFUSED("are not within", epf_moe_block_pack(&block, &pack));
    pack.count = 3;
    REFUSED("are not within", epf_moe_block_pack(&block, &pack));
    REFUSED("no shared experts", epf_moe_block_pack_shared(&block, &pack));
}

int main(void)
{
    check_safetensors();
    check_npy();
    check_others();
    return 0;
}
