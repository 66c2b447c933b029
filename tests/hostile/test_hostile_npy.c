/* test_hostile_npy: attacks on .npy files.  In version 1 the dict begins at byte 10. */
#include <stdlib.h>
#include <string.h>

#include "hostile.h"
#include "model/epf_npy.h"
#include "support/epf_check.h"

#define F EPF_E_FORMAT
#define U EPF_E_UNSUPPORTED
#define D(descr, order, shape) \
    "{'descr': " descr ", 'fortran_order': " order ", 'shape': " shape ", }"
#define SHAPE(shape) D("'<f4'", "False", shape)
#define DESCR(descr) D(descr, "False", "(1,)")

static epf_status read_bytes(const void *bytes, size_t num_bytes)
{
    epf_npy *file;
    const epf_status st = epf_npy_parse("f", bytes, num_bytes, &file);
    if (st == EPF_OK) {
        epf_npy_close(file);
    }
    return st;
}

/* "dict|data" as version 1.0. */
static unsigned char *wrap(const unsigned char *text, size_t num_bytes, size_t *size)
{
    const unsigned char *const bar = memchr(text, '|', num_bytes);
    const size_t length = bar != NULL ? (size_t)(bar - text) : num_bytes;
    unsigned char *const file = malloc(num_bytes + 10);
    CHECK(file != NULL && length < 65536, "%zu bytes", num_bytes);
    memcpy(file, "\x93NUMPY\x01\x00", 8);
    file[8] = (unsigned char)(length & 0xff);
    file[9] = (unsigned char)(length >> 8);
    memcpy(file + 10, text, length);
    *size = 10 + length;
    if (bar != NULL) {
        memcpy(file + *size, bar + 1, num_bytes - length - 1);
        *size += num_bytes - length - 1;
    }
    return file;
}

static const hostile_case dicts[] = {
    {"empty dict", "", "header at byte 10: '{' was expected", F},
    {"list", "[]", "header at byte 10: '{' was expected", F},
    {"no members", "{}", "descr, fortran_order or shape is missing", F},
    {"cut", "{'descr': '<f4'", "header at byte 25: ',' or '}' was expected", F},
    {"cut in text", "{'descr': '<f4", "header at byte 20: a string is not closed", F},
    {"key not quoted", "{descr: '<f4'}", "header at byte 11: a quoted string was expected", F},
    {"no colon", "{'descr' '<f4'}", "':' was expected", F},
    {"key unknown", "{'dtype': '<f4'}", "header at byte 11: a key other than descr", F},
    {"key twice", "{'descr': '<f4', 'descr': '<f2'}",
     "a key other than descr, fortran_order, shape, or one", F},
    {"shape twice", "{'shape': (1,), 'shape': (2,)}", "or one of them twice", F},
    {"text behind", SHAPE("(1,)") "x|abcd", "something follows the dict", F},
    {"call behind", SHAPE("(1,)") "; __import__('os')|abcd", "something follows the dict", F},
    {"NUL behind", SHAPE("(1,)") "~x00|abcd", "something follows the dict", F},
    {"call as value", "{'descr': __import__('os').system('id')}",
     "header at byte 20: a quoted string", F},
    {"nested dicts", "~3000{{}", "a quoted string was expected", F},
    {"order missing", "{'descr': '<f4', 'shape': (1,)}|abcd",
     "descr, fortran_order or shape is missing", F},
    {"order 0", D("'<f4'", "0", "(1,)") "|abcd", "fortran_order: True or False was expected", F},
    {"order true", D("'<f4'", "true", "(1,)") "|abcd", "fortran_order: True or False was expected",
     F},
    {"Fortran order", D("'<f4'", "True", "(1,)") "|abcd",
     "Fortran order; only C order is supported", U},
    {"object type", DESCR("'|O'") "|abcd", "header at byte", F},
    {"object type unbarred", DESCR("'O'") "|abcd", "element type 'O' at byte 21", U},
    {"big endian", DESCR("'>f4'") "|abcd", "element type '>f4' at byte 21", U},
    {"f8", DESCR("'<f8'") "|abcdefgh", "element type '<f8' at byte 21", U},
    {"i4", DESCR("'<i4'") "|abcd", "element type '<i4'", U},
    {"text type", DESCR("'<U1000000000'") "|abcd", "element type '<U1000000000'", U},
    {"empty type", DESCR("''") "|abcd", "element type '' at byte 21", U},
    {"record", DESCR("[('a', '<f4')]") "|abcd", "descr at byte 20 is a record", U},
    {"type a number", DESCR("4") "|abcd", "header at byte 20: a quoted string was expected", F},
    {"type with escape code", DESCR("'~x1b[2J'") "|abcd", "element type '?[2J' at byte 21", U},
    {"type of 5000 letters", DESCR("'~5000{f}'") "|abcd", "element type 'ffff", U},
    {"shape -1", SHAPE("(-1,)") "|abcd", "a dimension (an integer of at least 0) was expected", F},
    {"shape 1.0", SHAPE("(1.0,)") "|abcd", "',' or ')' of the shape was expected", F},
    {"shape 1e0", SHAPE("(1e0,)") "|abcd", "',' or ')' of the shape was expected", F},
    {"shape 1L", SHAPE("(1L,)") "|abcd", "',' or ')' of the shape was expected", F},
    {"shape text", SHAPE("('1',)") "|abcd", "a dimension (an integer", F},
    {"shape a list", SHAPE("[1]") "|abcd", "'(' of the shape was expected", F},
    {"shape a number", SHAPE("1") "|abcd", "'(' of the shape was expected", F},
    {"shape in parentheses", SHAPE("(1)") "|abcd", "',' or ')' of the shape was expected", F},
    {"shape never closed", "{'descr': '<f4', 'fortran_order': False, 'shape': (1,",
     "a dimension (an integer", F},
    {"shape 2^63", SHAPE("(9223372036854775808,)") "|abcd", "a dimension overflows 64 bit", F},
    {"shape of 5000 digits", SHAPE("(~5000{9},)") "|abcd", "a dimension overflows 64 bit", F},
    {"product overflows", SHAPE("(4294967296, 4294967296)") "|abcd",
     "the product of its shape overflows 64 bit", F},
    {"bytes overflow to fit", SHAPE("(4611686018427387905,)") "|abcd", "overflows 64 bit", F},
    {"4 dimensions", SHAPE("(1, 1, 1, 1)") "|abcd", "has more than 3 dimensions", U},
    {"scalar", SHAPE("()") "|abcd", "a scalar; 1 to 3 dimensions are supported", U},
    {"huge shape", SHAPE("(1000000000000,)") "|abcd", "4 bytes of data at byte", F},
    {"one byte too few", SHAPE("(1,)") "|abc", "3 bytes of data at byte", F},
    {"one byte too many", SHAPE("(1,)") "|abcde", "5 bytes of data at byte", F},
    {"no data", SHAPE("(1,)"), "0 bytes of data at byte", F},
    {"data for no elements", SHAPE("(0,)") "|abcd", "4 bytes of data at byte", F},
};

static const hostile_case files[] = {
    {"empty file", "", "does not start with", F},
    {"only the magic", "~x93NUMPY", "does not start with", F},
    {"magic and version", "~x93NUMPY~x01~x00", "does not start with", F},
    {"magic without 0x93", "NUMPY~x01~x00~x00~x00~x00", "does not start with", F},
    {"a zip (npz)", "PK~x03~x04~20{z}", "does not start with", F},
    {"a pickle", "~x80~x04~20{p}", "does not start with", F},
    {"version 0.0", "~x93NUMPY~x00~x00~x02~x00{}", "version 0.0 at byte 6", U},
    {"version 1.1", "~x93NUMPY~x01~x01~x02~x00{}", "version 1.1 at byte 6", U},
    {"version 4.0", "~x93NUMPY~x04~x00~x02~x00{}", "version 4.0 at byte 6", U},
    {"version 255.255", "~x93NUMPY~xff~xff~x02~x00{}", "version 255.255 at byte 6", U},
    {"version 2 cut in length", "~x93NUMPY~x02~x00~x02~x00~x00",
     "ends inside the header length at byte 8", F},
    {"length too long", "~x93NUMPY~x01~x00~x03~x00{}", "header length 3 at byte 8", F},
    {"length 65535", "~x93NUMPY~x01~x00~xff~xff{}", "header length 65535 at byte 8", F},
    {"version 2 length 2^32 - 1", "~x93NUMPY~x02~x00~xff~xff~xff~xff{}",
     "header length 4294967295 at byte 8; at most", F},
    {"version 3 length 100 KB", "~x93NUMPY~x03~x00~xa0~x86~x01~x00~100000{ }",
     "header length 100000 at byte 8; at most 65536", F},
    {"length 0", "~x93NUMPY~x01~x00~x00~x00{}", "header at byte 10: '{' was expected", F},
};

int main(void)
{
    static const hostile_suite wrapped = {"npy", read_bytes, 1, 8192, wrap};
    static const hostile_suite raw = {"npy", read_bytes, 1, 8192, NULL};
    hostile_run(&wrapped, dicts, sizeof dicts / sizeof *dicts);
    hostile_run(&raw, files, sizeof files / sizeof *files);
    return hostile_end(&raw, 65);
}
