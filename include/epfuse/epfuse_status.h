/*
 * epfuse_status.h: status codes and the export marker; included by epfuse.h.
 */
#ifndef EPFUSE_STATUS_H
#define EPFUSE_STATUS_H

#if defined(__GNUC__)
#define EPF_API __attribute__((visibility("default"), warn_unused_result))
#define EPF_API_VOID __attribute__((visibility("default")))
#else
#define EPF_API
#define EPF_API_VOID
#endif

/** Every status once: name, value and text all come from this list. */
#define EPF_STATUS_MAP(X)                                                                    \
    X(EPF_OK, 0, "success")                                                                  \
    X(EPF_E_INVALID, -1, "an argument is outside its documented range")                      \
    X(EPF_E_UNSUPPORTED, -2, "a valid request that this backend or machine cannot serve")    \
    X(EPF_E_NO_MEMORY, -3, "memory could not be allocated")                                  \
    X(EPF_E_CAPACITY, -4, "routing needs more rows than the buffers hold, and may not grow") \
    X(EPF_E_DEVICE, -5, "a device, driver or operating system call failed")                  \
    X(EPF_E_PEER, -6, "a peer rank died or reported a failure")                              \
    X(EPF_E_TIMEOUT, -7, "a wait outlasted the configured timeout")                          \
    X(EPF_E_STATE, -8, "the object is not in a state that allows this call")                 \
    X(EPF_E_FILE, -9, "a file could not be opened, read or written")                         \
    X(EPF_E_FORMAT, -10, "a file's content is not what its format demands")                  \
    X(EPF_E_INTERNAL, -11, "a bug in this library")

typedef enum epf_status {
#define X(name, value, text) name = (value),
    EPF_STATUS_MAP(X)
#undef X
} epf_status;

#endif
