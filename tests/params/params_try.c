/* params_try.c: bad calls, counted. */
#include "params_try.h"

#include <stdio.h>
#include <string.h>

#include "support/epf_check.h"

enum { MAX_NOTES = 512 };

typedef struct note {
    const char *function, *argument;
    int32_t count;
} note;

static note notes[MAX_NOTES];
static int32_t num_notes;
static int32_t num_cases;

void params_note(const char *function, const char *argument)
{
    int32_t i = 0;
    while (i < num_notes &&
           (strcmp(notes[i].function, function) != 0 || strcmp(notes[i].argument, argument) != 0)) {
        i++;
    }
    CHECK(i < MAX_NOTES, "more than %d arguments", (int)MAX_NOTES);
    notes[i].function = function;
    notes[i].argument = argument;
    notes[i].count++;
    num_notes = i == num_notes ? num_notes + 1 : num_notes;
    num_cases++;
}

void params_print_notes(void)
{
    for (int32_t i = 0; i < num_notes; i++) {
        printf("%s %s %d\n", notes[i].function, notes[i].argument, notes[i].count);
    }
}

int32_t params_num_cases(void)
{
    return num_cases;
}

void params_refused(const char *function, const char *argument, const char *what, epf_status got,
                    epf_status want, const char *says)
{
    const char *const text = epf_last_error();
    CHECK(got == want, "%s, %s %s: status %d, want %d: %s", function, argument, what, got, want,
          text);
    CHECK(strstr(text, says) != NULL, "%s, %s %s: the text does not say %s: %s", function, argument,
          what, says, text);
    CHECK(strchr(text, '\n') == NULL, "%s, %s %s: more than one line: %s", function, argument, what,
          text);
}

void params_works(params_rank *r, params_call_id id, const char *after)
{
    params_args args;
    epf_status st;
    memset(&args, 0, sizeof args);
    params_calls[id].make(r, &args);
    st = params_calls[id].call(r, &args);
    CHECK(st == EPF_OK, "%s after %s: status %d: %s", params_calls[id].function, after, st,
          epf_last_error());
}

void params_try(params_rank *r, params_call_id id, const params_args *args, const char *argument,
                const char *what, epf_status want)
{
    const params_call *const c = &params_calls[id];
    const char *const dot = strrchr(argument, '.');
    params_note(c->struct_name, argument);
    params_refused(c->function, argument, what, c->call(r, args), want,
                   dot != NULL ? dot + 1 : argument);
    params_works(r, id, argument);
}
