/* fuzz_npy.c: an accepted array fills the file behind its header exactly. */
#include "fuzz.h"
#include "model/epf_npy.h"

int FUZZ_TARGET(const uint8_t *bytes, size_t num_bytes)
{
    epf_npy *file;
    epf_status st;
    fuzz_watch_begin(num_bytes);
    st = epf_npy_parse("f", bytes, num_bytes, &file);
    fuzz_watch_end();
    if (st == EPF_OK) {
        const epf_tensor_view *view = epf_npy_view(file);
        const int64_t count = epf_tensor_num_elements(view);
        FUZZ_CHECK(view->num_dims >= 1 && view->num_dims <= 3);
        FUZZ_CHECK(view->file_offset + view->num_bytes == num_bytes);
        FUZZ_CHECK((uint64_t)count * epf_file_dtype_bits(view->dtype) == view->num_bytes * 8);
        FUZZ_CHECK(view->data == bytes + view->file_offset);
        epf_npy_close(file);
    }
    return 0;
}
