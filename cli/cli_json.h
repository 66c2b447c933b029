/* cli_json.h: what jansson does not do by itself; a failed json_pack() is reported by the print. */
#ifndef EPF_CLI_JSON_H
#define EPF_CLI_JSON_H

#include <jansson.h>

#include "epfuse/epfuse_status.h"

/* Prints `object` and a line end to stdout and gives it back; NULL is EPF_E_NO_MEMORY. */
epf_status cli_json_print(json_t *object);

/* A finite number as it is, any other as a string: JSON knows no NaN. */
json_t *cli_json_real(double value);

/* A string that may be NULL or no UTF-8: null, or '?' for each such byte. */
json_t *cli_json_text(const char *text);

#endif
