/* epf_spec.c: every default of the public structs, once; what is not set here is 0. */
#include "api/epf_spec.h"

#include "comm/epf_comm.h"

static void group_defaults(void *out)
{
    epf_group_config *const c = out;
    c->rank = -1;
    c->timeout_ns = EPF_COMM_TIMEOUT_NS;
}

static void op_defaults(void *out)
{
    epf_op_config *const c = out;
    c->backend = EPF_BACKEND_CPU;
    c->dtype = EPF_DTYPE_BF16;
    c->weight_dtype = EPF_DTYPE_F32;
    c->num_sm = EPF_AUTO;
    c->duplicate_comm_buffer = 1;
    c->capacity = 4.0;
    c->fwd_gemm_block_size_n = 256;
    c->allow_regrow = true;
    c->num_workers = EPF_AUTO;
    c->gemm_library = EPF_GEMM_LIBRARY_AUTO;
    c->device = -1;
}

static void weight_defaults(void *out)
{
    epf_weight_config *const c = out;
    c->reduce_last_dim = true;
}

static void no_defaults(void *out)
{
    (void)out;
}

static void dispatch_defaults(void *out)
{
    epf_dispatch_group_gemm_args *const a = out;
    a->with_cpy_flag = true;
    a->gemm_input_reduce_last_dim = true;
    a->gemm_weight_reduce_last_dim = true;
    a->gemm_group_size_m = 3;
    a->num_warps = 16;
    a->keep_gemm_output = true;
    a->profile_file_name = "mega_dispatch_group_gemm";
}

static void combine_defaults(void *out)
{
    epf_group_gemm_combine_args *const a = out;
    a->gemm_input_reduce_last_dim = true;
    a->gemm_weight_reduce_last_dim = true;
    a->gemm_group_size_m = 3;
    a->cp_flag = true;
    a->num_warps = 32;
    a->combine_mode = EPF_COMBINE_SERIAL;
    a->grad_group_size_m = 3;
    a->profile_file_name = "mega_group_gemm_combine";
}

static void forward_defaults(void *out)
{
    epf_layer_forward_args *const a = out;
    a->keep_for_backward = true;
    a->combine_mode = EPF_COMBINE_AUTO;
    a->use_block_wise_barrier = true;
    a->profile_file_name = "layer";
}

static void backward_defaults(void *out)
{
    epf_layer_backward_args *const a = out;
    a->combine_mode = EPF_COMBINE_AUTO;
}

#define SPEC(name, type, defaults)                                              \
    _Static_assert(sizeof(type) <= EPF_STRUCT_BYTES, "raise EPF_STRUCT_BYTES"); \
    const epf_struct_spec name = {#type, sizeof(type), defaults}

SPEC(epf_spec_group_config, epf_group_config, group_defaults);
SPEC(epf_spec_op_config, epf_op_config, op_defaults);
SPEC(epf_spec_weight_config, epf_weight_config, weight_defaults);
SPEC(epf_spec_preprocess_args, epf_preprocess_args, no_defaults);
SPEC(epf_spec_dispatch_args, epf_dispatch_group_gemm_args, dispatch_defaults);
SPEC(epf_spec_combine_args, epf_group_gemm_combine_args, combine_defaults);
SPEC(epf_spec_forward_args, epf_layer_forward_args, forward_defaults);
SPEC(epf_spec_backward_args, epf_layer_backward_args, backward_defaults);

/* The sized initializers behind the public macros. */
#define INIT(function, type, spec)                          \
    epf_status function(type *user, size_t struct_size)     \
    {                                                       \
        return epf_struct_init(&(spec), user, struct_size); \
    }

INIT(epf_group_config_init_sized, epf_group_config, epf_spec_group_config)
INIT(epf_op_config_init_sized, epf_op_config, epf_spec_op_config)
INIT(epf_weight_config_init_sized, epf_weight_config, epf_spec_weight_config)
INIT(epf_preprocess_args_init_sized, epf_preprocess_args, epf_spec_preprocess_args)
INIT(epf_dispatch_group_gemm_args_init_sized, epf_dispatch_group_gemm_args, epf_spec_dispatch_args)
INIT(epf_group_gemm_combine_args_init_sized, epf_group_gemm_combine_args, epf_spec_combine_args)
INIT(epf_layer_forward_args_init_sized, epf_layer_forward_args, epf_spec_forward_args)
INIT(epf_layer_backward_args_init_sized, epf_layer_backward_args, epf_spec_backward_args)
