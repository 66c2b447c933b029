/* fuzz_index.c: model.safetensors.index.json; the shards of an accepted one are counted. */
#include "fuzz.h"
#include "model/epf_checkpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t num_bytes)
{
    int32_t num_shards = -1;
    epf_status st;
    fuzz_watch_begin(64 * num_bytes); /* a shard has room for the longest file name, 264 bytes */
    st = epf_checkpoint_check_index("f", bytes, num_bytes, &num_shards);
    fuzz_watch_end();
    FUZZ_CHECK(st != EPF_OK || (num_shards >= 0 && num_shards <= 4096));
    return 0;
}
