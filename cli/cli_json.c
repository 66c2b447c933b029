/* cli_json.c: JSON output. */
#include "cli_json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/epf_error.h"

enum { MOST_TEXT = 4096 };

epf_status cli_json_print(json_t *object)
{
    int failed;

    if (object == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "no memory for the JSON output");
    }
    failed = json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) != 0;
    json_decref(object);
    return failed || putchar('\n') == EOF
               ? EPF_FAIL(EPF_E_FILE, "standard output: cannot write the JSON")
               : EPF_OK;
}

json_t *cli_json_real(double value)
{
    return isfinite(value) ? json_real(value) : json_string(isnan(value) ? "nan" : "inf");
}

json_t *cli_json_text(const char *text)
{
    char plain[MOST_TEXT];
    json_t *value;

    if (text == NULL) {
        return json_null();
    }
    value = json_string(text);
    if (value != NULL) {
        return value;
    }
    (void)snprintf(plain, sizeof plain, "%s", text);
    for (char *c = plain; *c != '\0'; c++) {
        *c = (unsigned char)*c >= 0x80 ? '?' : *c;
    }
    return json_string(plain);
}
