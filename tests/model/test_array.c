/* test_array: the names people give on a command line, for reading and for writing. */
#include "model/epf_array.h"

#include <string.h>
#include <unistd.h>

#include "model/epf_safetensors.h"
#include "model/model_kit.h"

static const float data[12] = {1.5f, -2.0f};

static void refuse_open(const char *spec, epf_status status, const char *part)
{
    epf_array *array = NULL;
    kit_expect(spec, epf_array_open(spec, &array), status, part);
    CHECK(array == NULL, "output written on failure");
}

static void round_trip(const char *spec, const char *name, epf_file_dtype dtype)
{
    const int64_t shape[3] = {1, 3, 2};
    const epf_tensor_view view = epf_tensor_view_of("any", dtype, 3, shape, data);
    epf_array *array;
    int64_t num_tokens = 0;
    CHECK_OK(epf_array_check_writable(kit_path(spec)));
    CHECK_OK(epf_array_write(kit_path(spec), &view));
    CHECK_OK(epf_array_open(kit_path(spec), &array));
    CHECK(strcmp(epf_array_view(array)->name, name) == 0, "%s: name %s", spec,
          epf_array_view(array)->name);
    CHECK(epf_array_view(array)->dtype == dtype &&
              memcmp(epf_array_view(array)->data, data, (size_t)view.num_bytes) == 0,
          "%s: data", spec);
    CHECK_OK(epf_array_num_tokens(array, 2, &num_tokens));
    CHECK(num_tokens == 3, "%s: %lld tokens", spec, (long long)num_tokens);
    kit_expect(spec, epf_array_num_tokens(array, 3, &num_tokens), EPF_E_FORMAT,
               "shape is [1, 3, 2]; its last dimension must be hidden_size 3");
    epf_array_close(array);
}

static void test_refusals(void)
{
    const int64_t one = 1;
    epf_tensor_view views[2];
    views[0] = epf_tensor_view_of("a", EPF_FILE_F32, 1, &one, data);
    views[1] = epf_tensor_view_of("b", EPF_FILE_I32, 1, &one, data);
    CHECK_OK(epf_safetensors_write(kit_path("two.safetensors"), views, 2));
    refuse_open("", EPF_E_INVALID, "no file name");
    refuse_open("x.bin", EPF_E_INVALID, "x.bin: must end with .npy");
    refuse_open(".npy", EPF_E_INVALID, "must end with .npy");
    refuse_open("x.npy:a", EPF_E_INVALID, "must end with .npy");
    refuse_open("x.safetensors:", EPF_E_INVALID, "no tensor name after ':'");
    refuse_open("/nowhere/x.npy", EPF_E_FILE, "/nowhere/x.npy: cannot be opened");
    refuse_open(kit_path("two.safetensors"), EPF_E_INVALID, "holds 2 tensors; choose one with");
    refuse_open(kit_path("two.safetensors:c"), EPF_E_FORMAT, "tensor 'c' is missing");
    refuse_open(kit_path("two.safetensors:b"), EPF_E_FORMAT, "dtype is I32; BF16, F16 and F32");
    kit_expect("folder", epf_array_check_writable("/nowhere/x.npy"), EPF_E_FILE,
               "cannot be written");
    kit_expect("ending", epf_array_check_writable("x.txt"), EPF_E_INVALID, "must end with");
    kit_expect("type", epf_array_write(kit_path("i.npy"), &views[1]), EPF_E_INVALID, "type I32");
    CHECK(access(kit_path("i.npy"), F_OK) != 0, "a refused file was written");
}

int main(void)
{
    int before;
    round_trip("x.npy", "", EPF_FILE_F32);
    round_trip("x.npy", "", EPF_FILE_F16);
    round_trip("x.safetensors", "hidden_states", EPF_FILE_BF16);
    round_trip("x.safetensors:mine:too", "mine:too", EPF_FILE_F32);
    test_refusals();
    before = kit_count_files();
    CHECK_OK(epf_array_check_writable(kit_path("new.npy")));
    CHECK(kit_count_files() == before, "the early check left something");
    epf_array_close(NULL);
    return 0;
}
