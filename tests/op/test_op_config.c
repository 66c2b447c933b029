/*
 * test_op_config: a caller that was built against an older or a newer header, or forgot the _init call.
 */
#include <stddef.h>
#include <string.h>

#include "epfuse/epfuse.h"
#include "op_matrix.h"
#include "support/epf_check.h"
#include "support/epf_space.h"

/* As a newer header would have it: fields behind ours. */
#define NEWER(type)               \
    typedef struct newer_##type { \
        type ours;                \
        unsigned char tail[24];   \
    } newer_##type

NEWER(epf_group_config);
NEWER(epf_op_config);
NEWER(epf_preprocess_args);
NEWER(epf_weight_config);
NEWER(epf_dispatch_group_gemm_args);
NEWER(epf_group_gemm_combine_args);

static void fill(epf_op_config *config)
{
    config->max_tokens = 4;
    config->hidden = 16;
    config->topk = 2;
    config->num_tot_experts = 2;
    config->backend = epf_space_is_device() ? EPF_BACKEND_CUDA : EPF_BACKEND_CPU;
}

static epf_group *one_rank(void)
{
    epf_group *group = NULL;
    CHECK_OK(epf_group_create_threads(1, NULL, &group));
    return group;
}

/* A caller whose struct ends before lazy: what it cannot name has its default. */
static void test_older(epf_group *group)
{
    epf_op_config config;
    epf_op *op = NULL;
    uint64_t bytes = 0;

    memset(&config, 0xff, sizeof config);
    CHECK_OK(epf_op_config_init_sized(&config, offsetof(epf_op_config, lazy)));
    CHECK(config.struct_size == offsetof(epf_op_config, lazy), "struct_size %u",
          config.struct_size);
    for (size_t i = config.struct_size; i < sizeof config; i++) {
        CHECK(((unsigned char *)&config)[i] == 0xff, "byte %zu, which the caller does not own", i);
    }
    fill(&config);
    CHECK_OK(epf_op_create(group, &config, &op));
    CHECK_OK(epf_op_symmetric_bytes(op, &bytes));
    CHECK(bytes > 0, "no memory");
    epf_op_destroy(op);
}

#define CHECK_NEWER(type, member_call)                                                         \
    do {                                                                                       \
        newer_##type newer;                                                                    \
        memset(&newer, 0, sizeof newer);                                                       \
        CHECK_OK(type##_init_sized(&newer.ours, sizeof newer));                                \
        newer.tail[7] = 1;                                                                     \
        CHECK((member_call) == EPF_E_UNSUPPORTED, #type ": a field we do not know was taken"); \
        newer.ours.struct_size = 0;                                                            \
        CHECK((member_call) == EPF_E_INVALID, #type ": struct_size 0 was taken");              \
        newer.ours.struct_size = UINT32_MAX;                                                   \
        CHECK((member_call) == EPF_E_INVALID, #type ": struct_size 2^32 - 1 was taken");       \
        newer.ours.struct_size = 3;                                                            \
        CHECK((member_call) == EPF_E_INVALID, #type ": struct_size 3 was taken");              \
    } while (0)

static void test_newer(epf_group *group)
{
    newer_epf_op_config config;
    epf_group *other = NULL;
    epf_layout *layout = NULL;
    epf_weight *weight = NULL;
    epf_op *op = NULL;

    memset(&config, 0, sizeof config);
    CHECK_OK(epf_op_config_init_sized(&config.ours, sizeof config));
    fill(&config.ours);
    config.tail[7] = 1;
    CHECK(epf_op_create(group, &config.ours, &op) == EPF_E_UNSUPPORTED,
          "an unknown field was taken");
    CHECK(op == NULL, "an operator came with the error");
    CHECK(strstr(epf_last_error(), "epf_op_config") != NULL, "text: %s", epf_last_error());
    config.tail[7] = 0;
    CHECK_OK(epf_op_create(group, &config.ours, &op));
    CHECK_NEWER(epf_group_config, epf_group_create_threads(1, &newer.ours, &other));
    CHECK_NEWER(epf_preprocess_args, epf_preprocess(op, &newer.ours, &layout));
    CHECK_NEWER(epf_weight_config, epf_weight_create(op, &newer.ours, &weight));
    CHECK_NEWER(epf_dispatch_group_gemm_args, epf_dispatch_group_gemm(op, &newer.ours, NULL));
    CHECK_NEWER(epf_group_gemm_combine_args, epf_group_gemm_combine(op, &newer.ours, NULL));
    epf_op_destroy(op);
}

static void test_names(void)
{
    CHECK(strcmp(epf_version(), "0.1.0") == 0, "version %s", epf_version());
#define X(name, value, text)                                                       \
    CHECK(strcmp(epf_status_name(name), #name) == 0, "%s", epf_status_name(name)); \
    CHECK(strcmp(epf_status_text(name), text) == 0, "%s", epf_status_text(name));
    EPF_STATUS_MAP(X)
#undef X
    CHECK(epf_status_name((epf_status)-99) != NULL && epf_status_text((epf_status)-99) != NULL,
          "a value that is no status");
}

static void test_tensor_make(void)
{
    const int64_t shape[] = {3, 5, 7, 9, 2};
    const int64_t negative[] = {3, -1};
    const int64_t huge[] = {INT64_MAX / 2, 3};
    epf_tensor t;
    float data = 0;

    CHECK_OK(epf_tensor_make(&t, &data, EPF_DTYPE_F32, 3, shape));
    CHECK(t.ndim == 3 && t.stride[0] == 35 && t.stride[1] == 7 && t.stride[2] == 1, "strides");
    CHECK(epf_tensor_make(NULL, &data, EPF_DTYPE_F32, 3, shape) == EPF_E_INVALID, "NULL tensor");
    CHECK(epf_tensor_make(&t, &data, EPF_DTYPE_F32, 3, NULL) == EPF_E_INVALID, "NULL shape");
    CHECK(epf_tensor_make(&t, &data, EPF_DTYPE_F32, 0, shape) == EPF_E_INVALID, "ndim 0");
    CHECK(epf_tensor_make(&t, &data, EPF_DTYPE_F32, 5, shape) == EPF_E_INVALID, "ndim 5");
    CHECK(epf_tensor_make(&t, &data, (epf_dtype)0, 1, shape) == EPF_E_INVALID, "dtype 0");
    CHECK(epf_tensor_make(&t, &data, (epf_dtype)99, 1, shape) == EPF_E_INVALID, "dtype 99");
    CHECK(epf_tensor_make(&t, &data, EPF_DTYPE_F32, 2, negative) == EPF_E_INVALID, "shape -1");
    CHECK(epf_tensor_make(&t, &data, EPF_DTYPE_F32, 2, huge) == EPF_E_INVALID, "overflow");
}

int main(void)
{
    epf_group *group;

    epf_space_require(false);
    group = one_rank();

    test_older(group);
    test_newer(group);
    test_names();
    test_tensor_make();
    epf_group_destroy(group);
    return 0;
}
