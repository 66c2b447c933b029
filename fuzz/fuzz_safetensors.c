/* fuzz_safetensors.c: accepted files have views that tile the data and can be found and read. */
#include "fuzz.h"
#include "model/epf_safetensors.h"

static void check_tensor(const epf_safetensors *file, int64_t index, const uint8_t *bytes,
                         uint64_t *covered)
{
    epf_tensor_view view;
    epf_tensor_view found;
    epf_safetensors_at(file, index, &view);
    const int64_t count = epf_tensor_num_elements(&view);
    FUZZ_CHECK(view.file_offset == *covered && view.data == bytes + view.file_offset);
    FUZZ_CHECK((uint64_t)count * epf_file_dtype_bits(view.dtype) == view.num_bytes * 8);
    FUZZ_CHECK(epf_safetensors_find(file, view.name, &found) && found.data == view.data);
    *covered += view.num_bytes;
    if (count > 0 && epf_file_dtype_to_dtype(view.dtype) != 0) {
        float value;
        FUZZ_CHECK(epf_tensor_convert(&view, count - 1, 1, EPF_DTYPE_F32, &value) == EPF_OK);
        FUZZ_CHECK(epf_tensor_convert(&view, count, 1, EPF_DTYPE_F32, &value) != EPF_OK);
    }
}

int FUZZ_TARGET(const uint8_t *bytes, size_t num_bytes)
{
    epf_safetensors *file;
    epf_status st;
    fuzz_watch_begin(2 * num_bytes); /* jansson doubles its buffer for a string with escapes */
    st = epf_safetensors_parse("f", bytes, num_bytes, &file);
    fuzz_watch_end();
    if (st == EPF_OK) {
        uint64_t covered = 8;
        for (int i = 0; i < 8; i++) {
            covered += (uint64_t)bytes[i] << (8 * i);
        }
        for (int64_t i = 0; i < epf_safetensors_count(file); i++) {
            check_tensor(file, i, bytes, &covered);
        }
        FUZZ_CHECK(covered == num_bytes);
        epf_safetensors_close(file);
    }
    return 0;
}
