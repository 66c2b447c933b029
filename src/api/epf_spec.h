/* epf_spec.h: how each public struct with a struct_size is filled and read. */
#ifndef EPF_SPEC_H
#define EPF_SPEC_H

#include "api/epf_args.h"

extern const epf_struct_spec epf_spec_group_config;
extern const epf_struct_spec epf_spec_op_config;
extern const epf_struct_spec epf_spec_weight_config;
extern const epf_struct_spec epf_spec_preprocess_args;
extern const epf_struct_spec epf_spec_dispatch_args;
extern const epf_struct_spec epf_spec_combine_args;
extern const epf_struct_spec epf_spec_forward_args;
extern const epf_struct_spec epf_spec_backward_args;

#endif
