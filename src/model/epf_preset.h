/* epf_preset.h: shapes with a name, for `plan` and `bench`; one table. */
#ifndef EPF_PRESET_H
#define EPF_PRESET_H

#include <stdbool.h>
#include <stdint.h>

#include "model/epf_model_config.h"

typedef struct epf_preset {
    const char *name;        /* "dsv3" */
    const char *about;       /* one line for a person */
    int32_t hidden;          /* H */
    int32_t intermediate;    /* I: what the second GEMM reads */
    bool gated;              /* the first GEMM writes 2I columns (gate and up); else I */
    int32_t num_ranks;       /* W the shape is meant for */
    int32_t tokens_per_rank; /* T the shape is quoted with */
    epf_routing routing;     /* E, K and the rule */
} epf_preset;

int32_t epf_preset_count(void);

/* 0 <= index < count. */
const epf_preset *epf_preset_at(int32_t index);

/* NULL if there is none of that name; records no error. */
const epf_preset *epf_preset_find(const char *name);

/* Columns that the first GEMM writes. */
int32_t epf_preset_gemm1_columns(const epf_preset *preset);

#endif
