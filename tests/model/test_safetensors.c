/*
 * test_safetensors: legal files are read as they are, and what is written is read back; files that
 * cannot be opened or written are refused, and a failed write leaves nothing.
 */
#include "model/epf_safetensors.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/model_kit.h"

static epf_safetensors *parse(const kit_bytes *file)
{
    epf_safetensors *opened = NULL;
    CHECK_OK(epf_safetensors_parse("f.safetensors", file->bytes, file->num_bytes, &opened));
    return opened;
}

static void check_view(const epf_safetensors *file, const char *name, const char *dtype,
                       uint64_t offset, uint64_t num_bytes)
{
    epf_tensor_view view;
    CHECK(epf_safetensors_find(file, name, &view), "%s not found", name);
    CHECK(strcmp(view.name, name) == 0, "%s has the name %s", name, view.name);
    CHECK(strcmp(epf_file_dtype_name(view.dtype), dtype) == 0, "%s: dtype %s", name,
          epf_file_dtype_name(view.dtype));
    CHECK(view.file_offset == offset && view.num_bytes == num_bytes, "%s: [%llu, +%llu)", name,
          (unsigned long long)view.file_offset, (unsigned long long)view.num_bytes);
}

/* Order in the header is not order in the data; blanks everywhere; an odd header length. */
static void test_order(void)
{
    static const char header[] =
        "{ \"z\" : {\"data_offsets\" : [6,10], \"dtype\":\"F32\" ,\"shape\":[]},\n"
        "\t\"__metadata__\":{\"format\":\"pt\",\"note\":\"\\u00fc\\n\\\"\"},"
        "\"a\":{\"dtype\":\"BF16\",\"shape\":[1,3],\"data_offsets\":[0,6],\"extra\":{\"x\":[1]}}} "
        "\n ";
    kit_bytes file = kit_safetensors(header, 10);
    epf_safetensors *opened = parse(&file);
    const uint64_t data = 8 + sizeof header - 1;
    epf_tensor_view view;
    CHECK(epf_safetensors_count(opened) == 2, "count");
    check_view(opened, "a", "BF16", data, 6);
    check_view(opened, "z", "F32", data + 6, 4);
    epf_safetensors_at(opened, 0, &view);
    CHECK(strcmp(view.name, "a") == 0 && view.num_dims == 2 && view.shape[0] == 1 &&
              view.shape[1] == 3 && epf_tensor_num_elements(&view) == 3,
          "tensor 0 is %s", view.name);
    CHECK(memcmp(view.data, "\0\1\2\3\4\5", 6) == 0, "data of a");
    epf_safetensors_at(opened, 1, &view);
    CHECK(strcmp(view.name, "z") == 0 && view.num_dims == 0 && epf_tensor_num_elements(&view) == 1,
          "tensor 1 is %s", view.name);
    CHECK(!epf_safetensors_find(opened, "", &view) && !epf_safetensors_find(opened, "aa", &view) &&
              !epf_safetensors_find(opened, "__metadata__", &view),
          "found what is not there");
    epf_safetensors_close(opened);
    kit_free(&file);
}

/* Empty tensors share offsets with their neighbours; sub-byte types fill whole bytes together. */
static void test_empty_and_small(void)
{
    kit_bytes file = kit_safetensors(
        "{\"e0\":{\"dtype\":\"F64\",\"shape\":[0,5],\"data_offsets\":[0,0]},"
        "\"f4\":{\"dtype\":\"F4\",\"shape\":[2,3],\"data_offsets\":[0,3]},"
        "\"e1\":{\"dtype\":\"I8\",\"shape\":[7,0],\"data_offsets\":[3,3]},"
        "\"f6\":{\"dtype\":\"F6_E2M3\",\"shape\":[4],\"data_offsets\":[3,6]},"
        "\"\\u00e9\\ud83d\\ude00\":{\"dtype\":\"BOOL\",\"shape\":[1],\"data_offsets\":[6,7]},"
        "\"e2\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[7,7]}}",
        7);
    epf_safetensors *opened = parse(&file);
    const uint64_t data = file.num_bytes - 7;
    check_view(opened, "e0", "F64", data, 0);
    check_view(opened, "f4", "F4", data, 3);
    check_view(opened, "e1", "I8", data + 3, 0);
    check_view(opened, "f6", "F6_E2M3", data + 3, 3);
    check_view(opened, "\xc3\xa9\xf0\x9f\x98\x80", "BOOL", data + 6, 1);
    check_view(opened, "e2", "U8", data + 7, 0);
    epf_safetensors_close(opened);
    kit_free(&file);

    file = kit_safetensors("{}", 0);
    opened = parse(&file);
    CHECK(epf_safetensors_count(opened) == 0, "a file without tensors");
    epf_safetensors_close(opened);
    kit_free(&file);
}

/* Every dtype of the list, one element of eight each, found under its own name. */
static void test_every_dtype(void)
{
    epf_tensor_view tensors[EPF_FILE_DTYPE_COUNT];
    unsigned char data[64];
    const int64_t eight = 8;
    epf_safetensors *file;
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (unsigned char)(i * 7);
    }
    for (int i = 0; i < EPF_FILE_DTYPE_COUNT; i++) {
        const epf_file_dtype dtype = (epf_file_dtype)i;
        tensors[i] = epf_tensor_view_of(epf_file_dtype_name(dtype), dtype, 1, &eight, data);
    }
    CHECK_OK(epf_safetensors_write(kit_path("all.safetensors"), tensors, EPF_FILE_DTYPE_COUNT));
    CHECK_OK(epf_safetensors_open(kit_path("all.safetensors"), &file));
    CHECK(epf_safetensors_count(file) == EPF_FILE_DTYPE_COUNT, "count");
    for (int i = 0; i < EPF_FILE_DTYPE_COUNT; i++) {
        epf_tensor_view view;
        epf_safetensors_at(file, i, &view);
        CHECK(view.dtype == tensors[i].dtype && strcmp(view.name, tensors[i].name) == 0, "%s",
              tensors[i].name);
        CHECK(view.num_bytes == epf_file_dtype_bits(view.dtype), "%s: %llu bytes", view.name,
              (unsigned long long)view.num_bytes);
        CHECK(memcmp(view.data, data, (size_t)view.num_bytes) == 0, "%s: data", view.name);
    }
    epf_safetensors_close(file);
}

static void test_dtype_names(void)
{
    for (int i = 0; i < EPF_FILE_DTYPE_COUNT; i++) {
        const char *name = epf_file_dtype_name((epf_file_dtype)i);
        const epf_dtype dtype = epf_file_dtype_to_dtype((epf_file_dtype)i);
        CHECK(epf_file_dtype_parse(name, strlen(name)) == (epf_file_dtype)i, "%s", name);
        CHECK(dtype == 0 || epf_file_dtype_of(dtype) == (epf_file_dtype)i, "%s", name);
    }
    CHECK(strcmp(epf_file_dtype_name(EPF_FILE_DTYPE_COUNT), "?") == 0 &&
              epf_file_dtype_bits(EPF_FILE_DTYPE_COUNT) == 0 &&
              epf_file_dtype_of(EPF_DTYPE_U8) == EPF_FILE_DTYPE_COUNT,
          "no type");
}

static void test_write_shapes(void)
{
    static const float data[24] = {1.0f, -2.0f, 3.5f};
    const int64_t shape[] = {2, 3, 4, 1, 1, 1, 1, 1};
    const int64_t empty[] = {0, 9};
    epf_tensor_view tensors[3];
    epf_tensor_view view;
    epf_safetensors *file;
    tensors[0] = epf_tensor_view_of("full", EPF_FILE_F32, 8, shape, data);
    tensors[1] = epf_tensor_view_of("empty", EPF_FILE_F16, 2, empty, NULL);
    tensors[2] = epf_tensor_view_of("scalar", EPF_FILE_F32, 0, NULL, data + 2);
    CHECK_OK(epf_safetensors_write(kit_path("w.safetensors"), tensors, 3));
    CHECK_OK(epf_safetensors_open(kit_path("w.safetensors"), &file));
    CHECK(epf_safetensors_find(file, "full", &view) && view.num_dims == 8 &&
              memcmp(view.shape, shape, sizeof shape) == 0 &&
              memcmp(view.data, data, sizeof data) == 0 && view.file_offset % 8 == 0,
          "full");
    CHECK(epf_safetensors_find(file, "scalar", &view) && view.num_dims == 0 &&
              memcmp(view.data, &data[2], 4) == 0,
          "scalar");
    epf_safetensors_close(file);
    CHECK_OK(epf_safetensors_write(kit_path("w.safetensors"), NULL, 0));
    CHECK_OK(epf_safetensors_open(kit_path("w.safetensors"), &file));
    CHECK(epf_safetensors_count(file) == 0, "replaced by an empty one");
    epf_safetensors_close(file);
}

static void refuse_write(const epf_tensor_view *tensors, int64_t count, const char *part)
{
    kit_expect(part, epf_safetensors_write(kit_path("bad.safetensors"), tensors, count),
               EPF_E_INVALID, part);
}

static void test_bad_views(void)
{
    static const float data[4];
    const int64_t four = 4;
    const int64_t negative = -4;
    const epf_tensor_view good = epf_tensor_view_of("a", EPF_FILE_F32, 1, &four, data);
    const epf_tensor_view twice[2] = {good, good};
    epf_tensor_view bad = good;
    refuse_write(NULL, 1, "NULL or 1");
    refuse_write(twice, 2, "two are named 'a'");
    bad.name = "";
    refuse_write(&bad, 1, "name is missing");
    bad.name = "a\"b";
    refuse_write(&bad, 1, "name has byte 0x22 at 1");
    bad.name = "__metadata__";
    refuse_write(&bad, 1, "'__metadata__' is no name");
    bad = good;
    bad.dtype = EPF_FILE_DTYPE_COUNT;
    refuse_write(&bad, 1, "bad dtype");
    bad = good;
    bad.num_dims = 9;
    refuse_write(&bad, 1, "number of dimensions");
    bad = good;
    bad.shape[0] = negative;
    refuse_write(&bad, 1, "shape[0] = -4");
    bad = good;
    bad.num_bytes = 15;
    refuse_write(&bad, 1, "15 bytes do not fit");
    bad = good;
    bad.data = NULL;
    refuse_write(&bad, 1, "do not fit shape");
    CHECK(access(kit_path("bad.safetensors"), F_OK) != 0, "a refused file was written");
}

static void refuse_open(const char *path, const char *part)
{
    epf_safetensors *file;
    kit_expect(path, epf_safetensors_open(path, &file), EPF_E_FILE, part);
}

static void test_unreadable(void)
{
    refuse_open(kit_path("missing.safetensors"), "cannot be opened: No such file");
    refuse_open(kit_folder(), "is not a regular file");
    refuse_open("/dev/null", "/dev/null: is not a regular file");
    CHECK(mkfifo(kit_path("fifo"), 0600) == 0, "mkfifo");
    refuse_open(kit_path("fifo"), "is not a regular file");
}

static void refuse_target(const char *path, const char *part)
{
    static const float data[4];
    const int64_t four = 4;
    const epf_tensor_view view = epf_tensor_view_of("a", EPF_FILE_F32, 1, &four, data);
    kit_expect(path, epf_safetensors_write(path, &view, 1), EPF_E_FILE, part);
}

static void test_unwritable(void)
{
    const int before = kit_count_files();
    refuse_target("/nowhere/x.safetensors", "/nowhere/x.safetensors: cannot be written: No such");
    refuse_target(kit_folder(), "exists and is not a regular file");
    refuse_target("/dev/null", "/dev/null: exists and is not a regular file");
    refuse_target(kit_path("fifo"), "exists and is not a regular file");
    refuse_target(kit_path("w.safetensors/x"), "cannot be written: Not a directory");
    CHECK(kit_count_files() == before, "a failed write left something");
}

/* The disk is full in the middle of the file: the old file stays, and nothing else. */
static void test_full_disk(void)
{
    const struct rlimit small = {4096, RLIM_INFINITY};
    struct rlimit old;
    const int64_t many = 100000;
    float *data = epf_test_alloc((size_t)many, sizeof data[0]);
    const epf_tensor_view view = epf_tensor_view_of("a", EPF_FILE_F32, 1, &many, data);
    epf_safetensors *file;
    int before;
    kit_write_text("keep.safetensors", "old");
    before = kit_count_files();
    CHECK(signal(SIGXFSZ, SIG_IGN) != SIG_ERR && getrlimit(RLIMIT_FSIZE, &old) == 0 &&
              setrlimit(RLIMIT_FSIZE, &small) == 0,
          "setrlimit");
    kit_expect("full disk", epf_safetensors_write(kit_path("keep.safetensors"), &view, 1),
               EPF_E_FILE, "keep.safetensors: cannot be written: File too large");
    CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0, "setrlimit");
    CHECK(kit_count_files() == before, "a failed write left something");
    kit_expect("old file", epf_safetensors_open(kit_path("keep.safetensors"), &file), EPF_E_FORMAT,
               "3 bytes; a safetensors file has at least 8");
    free(data);
}

/* A link stays a link, and the file behind it is replaced. */
static void test_symlink(void)
{
    const int64_t two = 2;
    static const float data[2] = {1.0f, 2.0f};
    const epf_tensor_view view = epf_tensor_view_of("a", EPF_FILE_F32, 1, &two, data);
    epf_safetensors *file;
    struct stat info;
    kit_write_text("real.safetensors", "old");
    CHECK(symlink("real.safetensors", kit_path("link.safetensors")) == 0, "symlink");
    CHECK_OK(epf_safetensors_write(kit_path("link.safetensors"), &view, 1));
    CHECK(lstat(kit_path("link.safetensors"), &info) == 0 && S_ISLNK(info.st_mode), "link is gone");
    CHECK_OK(epf_safetensors_open(kit_path("real.safetensors"), &file));
    epf_safetensors_close(file);
    CHECK(symlink("nothing", kit_path("dangling.safetensors")) == 0, "symlink");
    refuse_target(kit_path("dangling.safetensors"), "is a symbolic link to nothing");
}

int main(void)
{
    test_order();
    test_empty_and_small();
    test_every_dtype();
    test_dtype_names();
    test_write_shapes();
    test_bad_views();
    test_unreadable();
    test_unwritable();
    test_full_disk();
    test_symlink();
    epf_safetensors_close(NULL);
    return 0;
}
