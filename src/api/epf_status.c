/* epf_status.c: version, statuses and the last error as text. */
#include "base/epf_error.h"
#include "epfuse/epfuse.h"

#define TEXT_OF(x) #x
#define VERSION_TEXT(major, minor, patch) TEXT_OF(major) "." TEXT_OF(minor) "." TEXT_OF(patch)

const char *epf_version(void)
{
    return VERSION_TEXT(EPF_VERSION_MAJOR, EPF_VERSION_MINOR, EPF_VERSION_PATCH);
}

const char *epf_status_text(epf_status status)
{
    switch ((int)status) {
#define X(name, value, text) \
    case (value):            \
        return (text);
        EPF_STATUS_MAP(X)
#undef X
    default:
        return "no status of this library";
    }
}

const char *epf_status_name(epf_status status)
{
    switch ((int)status) {
#define X(name, value, text) \
    case (value):            \
        return #name;
        EPF_STATUS_MAP(X)
#undef X
    default:
        return "unknown";
    }
}

const char *epf_last_error(void)
{
    return epf_error_text();
}
