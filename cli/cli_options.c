/* cli_options.c: values of options. */
#include "cli_options.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/epf_error.h"
#include "cli.h"
#include "core/epf_dtype.h"

int cli_next_option(int argc, char **argv, const struct option *options)
{
    /* A leading ':' tells a missing value from an unknown option; getopt itself stays silent. */
    const int current = optind;
    int found;

    opterr = 0;
    found = getopt_long(argc, argv, ":h", options, NULL);
    if (found == ':') {
        (void)cli_fail(CLI_USAGE, "%s: option %s needs a value", argv[0], argv[optind - 1]);
        return '?';
    }
    if (found == '?') {
        (void)cli_fail(CLI_USAGE,
                       "%s: \"%.60s\" is no option, or takes no value; see epfuse %s --help",
                       argv[0], argv[optind > current ? optind - 1 : current], argv[0]);
    }
    return found;
}

epf_status cli_parse_int(const char *option, const char *text, int64_t least, int64_t most,
                         int64_t *value)
{
    char *end;
    long long number;

    errno = 0;
    number = strtoll(text, &end, 10);
    EPF_CHECK_ARG(errno == 0 && end != text && *end == '\0' && number >= least && number <= most,
                  "%s: \"%.40s\", must be a number in %" PRId64 "..%" PRId64, option, text, least,
                  most);
    *value = number;
    return EPF_OK;
}

epf_status cli_parse_int32(const char *option, const char *text, int32_t least, int32_t *value)
{
    int64_t wide = 0;
    EPF_TRY(cli_parse_int(option, text, least, INT32_MAX, &wide));
    *value = (int32_t)wide;
    return EPF_OK;
}

epf_status cli_parse_positive(const char *option, const char *text, double *value)
{
    char *end;
    const double number = strtod(text, &end);
    EPF_CHECK_ARG(end != text && *end == '\0' && isfinite(number) && number > 0,
                  "%s: \"%.40s\", must be a number above 0", option, text);
    *value = number;
    return EPF_OK;
}

epf_status cli_parse_dtype(const char *text, int32_t *dtype)
{
    static const int32_t types[] = {EPF_DTYPE_BF16, EPF_DTYPE_F32, EPF_DTYPE_F16};

    *dtype = 0;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(text, epf_dtype_name(types[i])) == 0) {
            *dtype = types[i];
        }
    }
    EPF_CHECK_ARG(*dtype != 0 || strcmp(text, "auto") == 0,
                  "--dtype: \"%.40s\", must be auto, bf16, fp32 or fp16", text);
    return EPF_OK;
}
