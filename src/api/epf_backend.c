/* epf_backend.c: which backends this build has. */
#include "api/epf_backend.h"

epf_status epf_backend_find(int32_t backend, const epf_backend_ops **found)
{
    EPF_CHECK_ARG(backend == EPF_BACKEND_CPU || backend == EPF_BACKEND_CUDA,
                  "backend: %d, must be %d (CPU) or %d (CUDA)", backend, (int)EPF_BACKEND_CPU,
                  (int)EPF_BACKEND_CUDA);
    *found = &epf_backend_cpu;
    if (backend == EPF_BACKEND_CUDA) {
#if defined(EPF_HAS_CUDA)
        *found = &epf_backend_cuda;
#else
        return EPF_FAIL(EPF_E_UNSUPPORTED,
                        "backend: %d (CUDA), but this library was built without "
                        "it: configure with -DEPFUSE_CUDA=ON",
                        backend);
#endif
    }
    return EPF_OK;
}
