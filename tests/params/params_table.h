/*
 * params_table.h: what each field of each args struct may be, and the bad values that follow from it.
 */
#ifndef PARAMS_TABLE_H
#define PARAMS_TABLE_H

#include "params_world.h"

typedef enum params_kind {
    PARAMS_TENSOR,
    PARAMS_INT,
    PARAMS_SPECIAL, /* has cases of its own in params_special.c             */
    PARAMS_FREE     /* no value of its type is bad; `note` says why         */
} params_kind;

enum {
    ROWS_FREE = 1, /* any number of rows is legal                             */
    ROWS_MORE = 2, /* more rows than needed are legal                         */
    LAST_FREE = 4, /* the last dimension decides something else: it is named  */
    REQUIRED = 8,  /* may not be left out                                     */
    AUTO_OK = 16,  /* 0 is legal below `low`                                  */
    OPEN = 32      /* no bound above                                          */
};

typedef struct params_field {
    const char *name; /* inside the struct */
    const char *says; /* as the error text calls it */
    size_t offset;
    params_kind kind;
    int32_t flags;
    int32_t low, high, step; /* of an int: legal are low..high in steps */
    epf_status above;        /* what a value above `high` gets          */
    const char *note;
} params_field;

typedef struct params_table {
    params_call_id id;
    const params_field *fields;
    size_t num_fields;
} params_table;

extern const params_table params_tables[];
extern const size_t params_num_tables;

/* A bad call: arguments, what it is, what it must give. */
typedef struct params_bad {
    params_args args;
    char what[64];
    epf_status want;
} params_bad;

/* Spoils valid arguments in the index-th way; 1: done, 0: this way is legal here, -1: no more ways. */
int params_spoil(const params_field *field, int32_t index, params_bad *bad);

#endif
