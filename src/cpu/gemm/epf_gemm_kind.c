/* epf_gemm_kind.c: names of the providers, and which one serves a type on this machine. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/epf_error.h"
#include "cpu/gemm/epf_gemm_internal.h"

/* AUTO's order: first those that serve the type natively, then those that widen it;
 * docs/adr/0002-cpu-tile-gemm.md has the figures. */
enum { NUM_KINDS = 3 };
static const epf_gemm_kind preference[2][NUM_KINDS] = {
    {EPF_GEMM_ONEDNN, EPF_GEMM_LIBXSMM, EPF_GEMM_PORTABLE},
    {EPF_GEMM_LIBXSMM, EPF_GEMM_ONEDNN, EPF_GEMM_PORTABLE}};

const char *epf_gemm_kind_name(epf_gemm_kind kind)
{
    switch (kind) {
#define X(name, value, text) \
    case name:               \
        return text;
        EPF_GEMM_KIND_MAP(X)
#undef X
    default:
        return NULL;
    }
}

epf_status epf_gemm_kind_parse(const char *name, epf_gemm_kind *kind)
{
    EPF_CHECK_ARG(name != NULL && kind != NULL, "epf_gemm_kind_parse: NULL argument");
#define X(constant, value, text)   \
    if (strcmp(name, text) == 0) { \
        *kind = constant;          \
        return EPF_OK;             \
    }
    EPF_GEMM_KIND_MAP(X)
#undef X
    return EPF_FAIL(EPF_E_INVALID,
                    "GEMM provider '%.40s' is none of auto, onednn, libxsmm, portable", name);
}

const epf_gemm_provider *epf_gemm_provider_get(epf_gemm_kind kind)
{
    switch (kind) {
#if defined(EPF_HAVE_ONEDNN)
    case EPF_GEMM_ONEDNN:
        return &epf_gemm_onednn;
#endif
#if defined(EPF_HAVE_LIBXSMM)
    case EPF_GEMM_LIBXSMM:
        return &epf_gemm_libxsmm;
#endif
    case EPF_GEMM_PORTABLE:
        return &epf_gemm_portable;
    default:
        return NULL;
    }
}

static void query_one(epf_gemm_kind kind, epf_dtype dtype, epf_gemm_provider_info *info)
{
    const epf_gemm_provider *provider = epf_gemm_provider_get(kind);
    memset(info, 0, sizeof *info);
    info->kind = kind;
    info->built = provider != NULL;
    if (provider == NULL) {
        (void)snprintf(info->text, sizeof info->text, "not built in");
        return;
    }
    provider->query(dtype, info);
}

/* The index-th choice for a type: native providers first, then those that widen; false: no more. */
static bool query_choice(epf_dtype dtype, int32_t index, epf_gemm_provider_info *info)
{
    for (int widened = 0; widened <= 1; widened++) {
        for (int i = 0; i < NUM_KINDS; i++) {
            query_one(preference[widened][i], dtype, info);
            if (info->usable && (int)info->widened == widened && index-- == 0) {
                return true;
            }
        }
    }
    return false;
}

/* The portable provider is always usable: there is a first choice. */
static void query_auto(epf_dtype dtype, epf_gemm_provider_info *info)
{
    (void)query_choice(dtype, 0, info);
}

static epf_status kind_from_environment(epf_gemm_kind *kind)
{
    const char *name = secure_getenv("EPFUSE_GEMM");
    if (*kind != EPF_GEMM_AUTO || name == NULL || name[0] == '\0') {
        return EPF_OK;
    }
    if (epf_gemm_kind_parse(name, kind) != EPF_OK) {
        return EPF_FAIL(EPF_E_INVALID,
                        "EPFUSE_GEMM=%.40s is none of auto, onednn, libxsmm, portable", name);
    }
    return EPF_OK;
}

epf_status epf_gemm_provider_query(epf_gemm_kind kind, epf_dtype dtype,
                                   epf_gemm_provider_info *info)
{
    EPF_CHECK_ARG(info != NULL, "epf_gemm_provider_query: info is NULL");
    EPF_CHECK_ARG(epf_gemm_kind_name(kind) != NULL, "GEMM kind %d is none", (int)kind);
    EPF_CHECK_ARG(epf_dtype_is_token((int32_t)dtype),
                  "GEMM dtype is %s, must be fp32, bf16 or fp16", epf_dtype_name((int32_t)dtype));
    EPF_TRY(kind_from_environment(&kind));
    if (kind == EPF_GEMM_AUTO) {
        query_auto(dtype, info);
    } else {
        query_one(kind, dtype, info);
    }
    return EPF_OK;
}

epf_status epf_gemm_provider_resolve(epf_gemm_kind kind, epf_dtype dtype,
                                     const epf_gemm_provider **provider, bool *widened)
{
    epf_gemm_provider_info info;
    EPF_TRY(epf_gemm_provider_query(kind, dtype, &info));
    if (!info.usable) {
        return EPF_FAIL(EPF_E_UNSUPPORTED, "GEMM provider %s cannot serve %s here: %s",
                        epf_gemm_kind_name(info.kind), epf_dtype_name((int32_t)dtype), info.text);
    }
    *provider = epf_gemm_provider_get(info.kind);
    *widened = info.widened;
    return EPF_OK;
}

epf_status epf_gemm_choice(epf_gemm_kind asked, epf_dtype dtype, int32_t index, epf_gemm_kind *kind)
{
    epf_gemm_provider_info info;
    EPF_TRY(kind_from_environment(&asked));
    if (asked != EPF_GEMM_AUTO && index == 0) {
        *kind = asked;
        return EPF_OK;
    }
    if (asked != EPF_GEMM_AUTO || !query_choice(dtype, index, &info)) {
        return EPF_E_UNSUPPORTED; /* what the last one said stands */
    }
    *kind = info.kind;
    return EPF_OK;
}
