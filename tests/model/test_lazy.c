/*
 * test_lazy: a sparse checkpoint of 26 GiB is opened, and one expert of it packed, without touching
 * more than that expert's pages; positions beyond 2^32 elements and bytes are right.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/epf_moe_block.h"
#include "model/epf_safetensors.h"
#include "model/model_kit.h"

/* bf16: a matrix of an expert is 512 KiB, and the stack of gate and up has 2^33 elements. */
enum { HIDDEN = 1024, INNER = 256, EXPERTS = 16384 };
static const int64_t matrix = (int64_t)HIDDEN * INNER;

typedef struct plan {
    uint64_t gate_up; /* file offsets */
    uint64_t down;
    uint64_t num_bytes;
} plan;

/* Header of router, stacked experts and one more tensor of 2 GiB; offsets of the two stacks. */
static plan make_header(char header[1024])
{
    const int64_t router_bytes = (int64_t)EXPERTS * HIDDEN * 2;
    const int64_t up_bytes = 2 * matrix * EXPERTS * 2;
    const int64_t down_bytes = matrix * EXPERTS * 2;
    const int64_t other_bytes = (int64_t)2 << 30;
    const int64_t ends[4] = {router_bytes, router_bytes + up_bytes,
                             router_bytes + up_bytes + down_bytes,
                             router_bytes + up_bytes + down_bytes + other_bytes};
    plan p;
    const int length =
        snprintf(header, 1024,
                 "{\"layers.0.mlp.gate.weight\":{\"dtype\":\"BF16\",\"shape\":[%d,%d],"
                 "\"data_offsets\":[0,%" PRId64 "]},"
                 "\"layers.0.mlp.experts.gate_up_proj\":{\"dtype\":\"BF16\",\"shape\":[%d,%d,%d],"
                 "\"data_offsets\":[%" PRId64 ",%" PRId64 "]},"
                 "\"layers.0.mlp.experts.down_proj\":{\"dtype\":\"BF16\",\"shape\":[%d,%d,%d],"
                 "\"data_offsets\":[%" PRId64 ",%" PRId64 "]},"
                 "\"other\":{\"dtype\":\"U8\",\"shape\":[%" PRId64 "],"
                 "\"data_offsets\":[%" PRId64 ",%" PRId64 "]}}",
                 EXPERTS, HIDDEN, ends[0], EXPERTS, 2 * INNER, HIDDEN, ends[0], ends[1], EXPERTS,
                 HIDDEN, INNER, ends[1], ends[2], other_bytes, ends[2], ends[3]);
    p.gate_up = 8 + (uint64_t)length + (uint64_t)ends[0];
    p.down = 8 + (uint64_t)length + (uint64_t)ends[1];
    p.num_bytes = 8 + (uint64_t)length + (uint64_t)ends[3];
    return p;
}

static int put_at(int fd, uint64_t offset, uint16_t value)
{
    return pwrite(fd, &value, sizeof value, (off_t)offset) == (ssize_t)sizeof value;
}

/* False if the filesystem has no room for sparse files of this size. */
static int write_sparse(const plan *p, const char *header, int32_t expert)
{
    const uint64_t length = strlen(header);
    const int fd = open(kit_path("model.safetensors"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    const uint64_t up = p->gate_up + (uint64_t)(2 * expert + 1) * (uint64_t)matrix * 2;
    const uint64_t down_last = p->down + (uint64_t)(expert + 1) * (uint64_t)matrix * 2 - 2;
    int done;
    CHECK(fd >= 0, "cannot write");
    done = ftruncate(fd, (off_t)p->num_bytes) == 0 &&
           pwrite(fd, &length, sizeof length, 0) == (ssize_t)sizeof length &&
           pwrite(fd, header, (size_t)length, 8) == (ssize_t)length && put_at(fd, up, 0x3f80) &&
           put_at(fd, down_last, 0x4000); /* 1.0 and 2.0 */
    (void)close(fd);
    return done;
}

/* Resident KiB of mappings of the checkpoint's file. */
static long resident_kib(void)
{
    FILE *maps = fopen("/proc/self/smaps", "r");
    char line[1024];
    int inside = 0;
    long total = 0;
    long kib;
    if (maps == NULL) {
        return -1;
    }
    while (fgets(line, sizeof line, maps) != NULL) {
        if (strchr(line, '-') != NULL && strstr(line, " r--p ") != NULL) {
            inside = strstr(line, "model.safetensors") != NULL;
        } else if (inside && sscanf(line, "Rss: %ld kB", &kib) == 1) {
            total += kib;
            inside = 0;
        }
    }
    (void)fclose(maps);
    return total;
}

static void pack_one(epf_checkpoint *checkpoint, int32_t expert)
{
    float *w13 = epf_test_alloc((size_t)(2 * matrix), sizeof w13[0]);
    float *w2 = epf_test_alloc((size_t)matrix, sizeof w2[0]);
    const epf_moe_pack_args args = {expert, 1, EPF_DTYPE_F32, w13, w2};
    epf_moe_block block;
    CHECK_OK(epf_moe_block_open(checkpoint, 0, 0, -1, &block));
    CHECK(resident_kib() <= 256, "opening touched %ld KiB", resident_kib());
    CHECK_OK(epf_moe_block_pack(&block, &args));
    CHECK(w13[matrix] == 1.0f && w13[0] == 0.0f && w13[matrix + 1] == 0.0f, "w13 of expert %d",
          expert);
    CHECK(w2[matrix - 1] == 2.0f && w2[0] == 0.0f, "w2 of expert %d", expert);
    /* Three matrices of 512 KiB; the kernel maps up to 16 pages around each fault. */
    CHECK(resident_kib() >= 1536 && resident_kib() <= 2048, "packing touched %ld KiB",
          resident_kib());
    epf_moe_block_close(&block);
    free(w13);
    free(w2);
}

int main(void)
{
    const int32_t expert = EXPERTS - 2;
    char header[1024];
    const plan p = make_header(header);
    epf_checkpoint *checkpoint;
    if (sizeof(void *) < 8 || !write_sparse(&p, header, expert)) {
        printf("skipped: no sparse files of %" PRIu64 " bytes here\n", p.num_bytes);
        return EPF_TEST_SKIPPED;
    }
    kit_write_text("config.json", "{\"model_type\":\"qwen3_moe\",\"hidden_size\":1024,"
                                  "\"moe_intermediate_size\":256,\"num_experts\":16384,"
                                  "\"num_experts_per_tok\":2,\"num_hidden_layers\":1}");
    CHECK_OK(epf_checkpoint_open(kit_folder(), &checkpoint));
    pack_one(checkpoint, expert);
    epf_checkpoint_close(checkpoint);
    return 0;
}
