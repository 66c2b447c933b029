/*
 * test_npy: .npy files of all three versions are read, what is written is read back, and everything
 * else is refused with its reason.  The dict begins at byte 10 in version 1, at byte 12 after it.
 */
#include "model/epf_npy.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "model/model_kit.h"

#define DICT(descr, order, shape) \
    "{'descr': " descr ", 'fortran_order': " order ", 'shape': " shape ", }"

typedef struct hostile {
    const char *dict;
    uint64_t data_bytes;
    epf_status status;
    const char *part;
} hostile;

static const hostile cases[] = {
    {"", 0, EPF_E_FORMAT, "header at byte 10: '{' was expected"},
    {"{", 0, EPF_E_FORMAT, "header at byte 11: a quoted string was expected"},
    {"{}", 0, EPF_E_FORMAT, "descr, fortran_order or shape is missing"},
    {"{'descr'", 0, EPF_E_FORMAT, "header at byte 18: ':' was expected"},
    {"{'descr", 0, EPF_E_FORMAT, "header at byte 11: a string is not closed"},
    {"{'descr\":", 0, EPF_E_FORMAT, "header at byte 11: a string is not closed"},
    {"{'descr':", 0, EPF_E_FORMAT, "header at byte 19: a quoted string was expected"},
    {"{'descr': <f4}", 0, EPF_E_FORMAT, "header at byte 20: a quoted string was expected"},
    {"{'descr': '<f4' 'shape': (1,)}", 4, EPF_E_FORMAT, "byte 26: ',' or '}' was expected"},
    {"{'descr': '<f4', 'descr': '<f4'}", 4, EPF_E_FORMAT, "byte 27: a key other than"},
    {"{'name': 'x'}", 0, EPF_E_FORMAT, "byte 11: a key other than descr"},
    {"{'descr': '<f4', 'shape': (1,), }", 4, EPF_E_FORMAT, "or shape is missing"},
    {DICT("'<f4'", "false", "(1,)"), 4, EPF_E_FORMAT, "byte 44: fortran_order: True or False"},
    {DICT("'<f4'", "0", "(1,)"), 4, EPF_E_FORMAT, "fortran_order: True or False"},
    {DICT("'<f4'", "False", "1"), 4, EPF_E_FORMAT, "byte 60: '(' of the shape was expected"},
    {DICT("'<f4'", "False", "[1]"), 4, EPF_E_FORMAT, "'(' of the shape was expected"},
    {DICT("'<f4'", "False", "(1)"), 4, EPF_E_FORMAT, "byte 62: ',' or ')' of the shape"},
    {DICT("'<f4'", "False", "(-1,)"), 4, EPF_E_FORMAT, "byte 61: a dimension (an integer"},
    {DICT("'<f4'", "False", "(1.0,)"), 4, EPF_E_FORMAT, "byte 62: ',' or ')' of the shape"},
    {DICT("'<f4'", "False", "(0x1,)"), 4, EPF_E_FORMAT, "byte 62: ',' or ')' of the shape"},
    {DICT("'<f4'", "False", "(,)"), 4, EPF_E_FORMAT, "byte 61: a dimension"},
    {DICT("'<f4'", "False", "(1,,)"), 4, EPF_E_FORMAT, "byte 63: a dimension"},
    {DICT("'<f4'", "False", "(1"), 4, EPF_E_FORMAT, "byte 64: a dimension (an integer"},
    {DICT("'<f4'", "False", "(9223372036854775808,)"), 4, EPF_E_FORMAT, "overflows 64 bit"},
    {DICT("'<f4'", "False", "(99999999999999999999999,)"), 4, EPF_E_FORMAT, "overflows 64 bit"},
    {DICT("'<f4'", "False", "(4294967296, 4294967296)"), 4, EPF_E_FORMAT,
     "the product of its shape overflows 64 bit"},
    {DICT("'<f4'", "False", "(4611686018427387905,)"), 4, EPF_E_FORMAT, "overflows 64 bit"},
    {DICT("'<f4'", "False", "(2,)"), 4, EPF_E_FORMAT, "4 bytes of data at byte 67, but shape and"},
    {DICT("'<f4'", "False", "(2,)"), 9, EPF_E_FORMAT, "9 bytes of data at byte 67, but shape and"},
    {DICT("'<f4'", "False", "(0,)"), 4, EPF_E_FORMAT, "but shape and type need 0"},
    {DICT("'<f4'", "False", "(1,)") " x", 4, EPF_E_FORMAT, "something follows the dict"},
    {DICT("'<f4'", "False", "(1,)") "{}", 4, EPF_E_FORMAT, "something follows the dict"},
    {DICT("'<f8'", "False", "(1,)"), 8, EPF_E_UNSUPPORTED, "element type '<f8' at byte 21"},
    {DICT("'>f4'", "False", "(1,)"), 4, EPF_E_UNSUPPORTED, "element type '>f4'"},
    {DICT("'|u1'", "False", "(1,)"), 1, EPF_E_UNSUPPORTED, "element type '|u1'"},
    {DICT("'<i8'", "False", "(1,)"), 8, EPF_E_UNSUPPORTED, "'<f4' and '<f2' are supported"},
    {DICT("'|O'", "False", "(1,)"), 8, EPF_E_UNSUPPORTED, "element type '|O'"},
    {DICT("''", "False", "(1,)"), 8, EPF_E_UNSUPPORTED, "element type ''"},
    {DICT("[('a', '<f4')]", "False", "(1,)"), 4, EPF_E_UNSUPPORTED, "descr at byte 20 is a record"},
    {DICT("'<f4'", "True", "(1, 2)"), 8, EPF_E_UNSUPPORTED, "Fortran order; only C order"},
    {DICT("'<f4'", "False", "()"), 4, EPF_E_UNSUPPORTED, "a scalar; 1 to 3 dimensions"},
    {DICT("'<f4'", "False", "(1, 1, 1, 1)"), 4, EPF_E_UNSUPPORTED, "more than 3 dimensions"},
};

static void refuse(kit_bytes file, epf_status status, const char *part)
{
    epf_npy *opened = NULL;
    kit_expect(part, epf_npy_parse("f.npy", file.bytes, file.num_bytes, &opened), status, part);
    CHECK(opened == NULL, "output written on failure");
    CHECK(strncmp(epf_check_library_text(), "f.npy: ", 7) == 0, "no file named");
    kit_free(&file);
}

static void refuse_byte(uint64_t position, unsigned char value, epf_status status, const char *part)
{
    kit_bytes file = kit_npy(1, DICT("'<f4'", "False", "(1,)"), 4);
    file.bytes[position] = value;
    refuse(file, status, part);
}

static void test_hostile(void)
{
    kit_bytes file;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        refuse(kit_npy(1, cases[i].dict, cases[i].data_bytes), cases[i].status, cases[i].part);
    }
    refuse_byte(0, 'N', EPF_E_FORMAT, "does not start with \\x93NUMPY");
    refuse_byte(6, 0, EPF_E_UNSUPPORTED, "version 0.0 at byte 6");
    refuse_byte(6, 4, EPF_E_UNSUPPORTED, "version 4.0 at byte 6; 1.0, 2.0 and 3.0 are known");
    refuse_byte(7, 1, EPF_E_UNSUPPORTED, "version 1.1 at byte 6");
    refuse_byte(9, 1, EPF_E_FORMAT, "header length 313 at byte 8; at most 65536, and 61 bytes");
    file = kit_npy(2, DICT("'<f4'", "False", "(1,)"), 4);
    file.bytes[11] = 0xff;
    refuse(file, EPF_E_FORMAT, "header length 4278190137 at byte 8; at most 65536");
    file = kit_npy(3, DICT("'<f4'", "False", "(1,)"), 4);
    file.num_bytes = 11;
    refuse(file, EPF_E_FORMAT, "ends inside the header length at byte 8");
    for (uint64_t bytes = 0; bytes < 75; bytes++) {
        kit_bytes whole = kit_npy(1, DICT("'<f4'", "False", "(2,)"), 8);
        const kit_bytes cut = {epf_test_alloc((size_t)bytes + 1, 1), bytes};
        CHECK(whole.num_bytes == 75, "%llu bytes", (unsigned long long)whole.num_bytes);
        memcpy(cut.bytes, whole.bytes, (size_t)bytes);
        kit_free(&whole);
        refuse(cut, EPF_E_FORMAT, "f.npy: ");
    }
}

static void accept(int version, const char *dict, uint64_t data_bytes, int32_t num_dims)
{
    kit_bytes file = kit_npy(version, dict, data_bytes);
    epf_npy *opened = NULL;
    const epf_tensor_view *view;
    CHECK_OK(epf_npy_parse("f.npy", file.bytes, file.num_bytes, &opened));
    view = epf_npy_view(opened);
    CHECK(view->num_dims == num_dims && view->num_bytes == data_bytes &&
              view->file_offset == file.num_bytes - data_bytes &&
              view->data == file.bytes + view->file_offset,
          "%s", dict);
    epf_npy_close(opened);
    kit_free(&file);
}

static void test_accepted(void)
{
    for (int version = 1; version <= 3; version++) {
        accept(version, DICT("'<f4'", "False", "(3,)") "          \n", 12, 1);
        accept(version, DICT("'<f2'", "False", "(3, 2)") "\n", 12, 2);
    }
    accept(1, DICT("\"<f4\"", "False", "(1, 2, 3)"), 24, 3);
    accept(1, "{\"shape\":(2,3,),\"fortran_order\":False,\"descr\":'<f2'}", 12, 2);
    accept(1, DICT("'<f4'", "False", "(0, 9223372036854775807)"), 0, 2);
}

static void round_trip(epf_file_dtype dtype, int32_t num_dims, const int64_t *shape)
{
    static const unsigned char data[64] = {1, 2, 3, 250};
    const epf_tensor_view view = epf_tensor_view_of("", dtype, num_dims, shape, data);
    const epf_tensor_view *back;
    epf_npy *file;
    CHECK_OK(epf_npy_write(kit_path("x.npy"), &view));
    CHECK_OK(epf_npy_open(kit_path("x.npy"), &file));
    back = epf_npy_view(file);
    CHECK(back->dtype == dtype && back->num_dims == num_dims && back->file_offset % 64 == 0 &&
              memcmp(back->shape, shape, (size_t)num_dims * sizeof shape[0]) == 0 &&
              back->num_bytes == view.num_bytes &&
              memcmp(back->data, data, (size_t)view.num_bytes) == 0,
          "%d dimensions of %s", num_dims, epf_file_dtype_name(dtype));
    epf_npy_close(file);
}

static void test_round_trips(void)
{
    const int64_t shape[] = {2, 4, 2};
    const int64_t empty[] = {0, INT32_MAX, 1};
    for (int32_t num_dims = 1; num_dims <= 3; num_dims++) {
        round_trip(EPF_FILE_F32, num_dims, shape);
        round_trip(EPF_FILE_F16, num_dims, shape);
        round_trip(EPF_FILE_F32, num_dims, empty);
    }
}

static void test_bad_views(void)
{
    static const float data[4];
    const int64_t shape[] = {2, 2, 1, 1};
    epf_tensor_view view = epf_tensor_view_of("", EPF_FILE_F32, 4, shape, data);
    const int before = kit_count_files();
    kit_expect("4 dimensions", epf_npy_write(kit_path("y.npy"), &view), EPF_E_INVALID, "1 to 3");
    view.num_dims = 2;
    view.dtype = EPF_FILE_BF16;
    kit_expect("bf16", epf_npy_write(kit_path("y.npy"), &view), EPF_E_INVALID, "type BF16");
    view.dtype = EPF_FILE_F16;
    kit_expect("size", epf_npy_write(kit_path("y.npy"), &view), EPF_E_INVALID, "do not fit");
    view.dtype = EPF_FILE_F32;
    kit_expect("folder", epf_npy_write("/nowhere/y.npy", &view), EPF_E_FILE, "cannot be written");
    CHECK(kit_count_files() == before, "a failed write left something");
}

/* The disk is full in the middle of the file. */
static void test_full_disk(void)
{
    const struct rlimit small = {4096, RLIM_INFINITY};
    static const float data[4000];
    const int64_t many = 4000;
    const epf_tensor_view view = epf_tensor_view_of("", EPF_FILE_F32, 1, &many, data);
    const int before = kit_count_files();
    struct rlimit old;
    CHECK(signal(SIGXFSZ, SIG_IGN) != SIG_ERR && getrlimit(RLIMIT_FSIZE, &old) == 0 &&
              setrlimit(RLIMIT_FSIZE, &small) == 0,
          "setrlimit");
    kit_expect("full disk", epf_npy_write(kit_path("z.npy"), &view), EPF_E_FILE,
               "z.npy: cannot be written: File too large");
    CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0, "setrlimit");
    CHECK(kit_count_files() == before, "a failed write left something");
}

int main(void)
{
    test_hostile();
    test_accepted();
    test_round_trips();
    test_bad_views();
    test_full_disk();
    epf_npy_close(NULL);
    return 0;
}
