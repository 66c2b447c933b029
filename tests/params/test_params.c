/*
 * test_params: every parameter of every public function at every kind of bad value.  Each bad call gives its
 * status and one line that names the parameter; the valid call right after it succeeds.
 *
 *     test_params [--list]      with --list: what was tried, for test_params_complete
 *
 * One rank, so that a refused call leaves nobody waiting; test_params_pair has two.
 */
#include <stdio.h>
#include <string.h>

#include "params_table.h"
#include "params_try.h"
#include "support/epf_check.h"

static void try_field(params_rank *r, params_call_id id, const params_field *field)
{
    const params_call *const c = &params_calls[id];
    params_bad bad;
    int done = 0;
    for (int32_t i = 0; done >= 0; i++) {
        memset(&bad, 0, sizeof bad);
        c->make(r, &bad.args);
        done = params_spoil(field, i, &bad);
        if (done == 1) {
            params_note(c->struct_name, field->name);
            params_refused(c->function, field->name, bad.what, c->call(r, &bad.args), bad.want,
                           field->says);
            params_works(r, id, field->name);
        }
    }
}

static void print_free(void)
{
    for (size_t t = 0; t < params_num_tables; t++) {
        const params_table *const table = &params_tables[t];
        for (size_t f = 0; f < table->num_fields; f++) {
            if (table->fields[f].kind == PARAMS_FREE) {
                printf("%s %s free: %s\n", params_calls[table->id].struct_name,
                       table->fields[f].name, table->fields[f].note);
            }
        }
    }
}

int main(int argc, char **argv)
{
    static params_rank r;
    epf_group *group;
    CHECK_OK(epf_group_create_threads(1, NULL, &group));
    params_open(&r, group);
    for (size_t t = 0; t < params_num_tables; t++) {
        for (size_t f = 0; f < params_tables[t].num_fields; f++) {
            try_field(&r, params_tables[t].id, &params_tables[t].fields[f]);
        }
    }
    params_special(&r);
    params_struct_sizes(&r);
    params_direct(&r);
    params_close(&r);
    epf_group_destroy(group);
    if (argc > 1 && strcmp(argv[1], "--list") == 0) {
        params_print_notes();
        print_free();
        return 0;
    }
#ifdef NDEBUG
    printf("%d bad calls refused, with NDEBUG\n", params_num_cases());
#else
    printf("%d bad calls refused\n", params_num_cases());
#endif
    CHECK(params_num_cases() >= 1700, "only %d bad calls", params_num_cases());
    return 0;
}
