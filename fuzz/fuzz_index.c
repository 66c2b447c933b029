/* fuzz_index.c: model.safetensors.index.json; the shards of an accepted one are counted. */
#include "fuzz.h"
#include "model/epf_checkpoint.h"

int FUZZ_TARGET(const uint8_t *bytes, size_t num_bytes)
{
    int32_t num_shards = -1;
    epf_status st;
    fuzz_watch_begin(4 * num_bytes); /* a table of shards, each named by 8 bytes or more */
    st = epf_checkpoint_check_index("f", bytes, num_bytes, &num_shards);
    fuzz_watch_end();
    FUZZ_CHECK(st != EPF_OK || (num_shards >= 0 && num_shards <= 4096));
    return 0;
}
