/* cli_options.h: values of options, checked; errors are recorded for cli_fail_status(). */
#ifndef EPF_CLI_OPTIONS_H
#define EPF_CLI_OPTIONS_H

#include <getopt.h>
#include <stdint.h>

#include "epfuse/epfuse.h"

/* The next option of the verb, or -1 at the end; '?' after printing what is wrong with it. */
int cli_next_option(int argc, char **argv, const struct option *options);

/* A whole number in least .. most. */
epf_status cli_parse_int(const char *option, const char *text, int64_t least, int64_t most,
                         int64_t *value);
epf_status cli_parse_int32(const char *option, const char *text, int32_t least, int32_t *value);

/* A finite number above 0. */
epf_status cli_parse_positive(const char *option, const char *text, double *value);

/* "auto" (0), "bf16", "fp32", "fp16". */
epf_status cli_parse_dtype(const char *text, int32_t *dtype);

#endif
