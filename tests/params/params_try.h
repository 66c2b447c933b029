/*
 * params_try.h: a bad call is refused with its status and one line that names the argument; then a valid
 * call succeeds.
 */
#ifndef PARAMS_TRY_H
#define PARAMS_TRY_H

#include "params_world.h"

/* What was tried, for the count and for --list. */
void params_note(const char *function, const char *argument);
void params_print_notes(void);
int32_t params_num_cases(void);

/* Fails the test unless the status is `want` and the text of this thread's last error has `says` in one line. */
void params_refused(const char *function, const char *argument, const char *what, epf_status got,
                    epf_status want, const char *says);

/* The call with its valid arguments succeeds. */
void params_works(params_rank *r, params_call_id id, const char *after);

/* A call with a struct: refused, then a valid one. */
void params_try(params_rank *r, params_call_id id, const params_args *args, const char *argument,
                const char *what, epf_status want);

/* Cases that no table of ranges can say: pointers, flags that contradict, contents of index arrays. */
void params_special(params_rank *r);

/* struct_size of every struct, and of every _init_sized function. */
void params_struct_sizes(params_rank *r);

/* Every argument that is no struct. */
void params_direct(params_rank *r);

#endif
