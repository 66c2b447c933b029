/*
 * test_file: a file being written is seen by nobody before its commit, whole after it, and never if
 * given up or if the commit fails; the same where the filesystem has no nameless files.
 */
#include "model/epf_file.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/model_kit.h"

typedef epf_status (*opener)(const char *path, epf_file_writer *writer);

static void check_content(const char *path, const char *text)
{
    epf_file_map map;
    CHECK_OK(epf_file_map_open(path, &map));
    CHECK(map.num_bytes == strlen(text) && memcmp(map.bytes, text, strlen(text)) == 0,
          "%s: content", path);
    epf_file_map_close(&map);
    epf_file_map_close(&map);
}

static void test_commit(opener open_writer, int extra)
{
    const int before = kit_count_files();
    epf_file_writer writer;
    struct stat info;
    CHECK_OK(open_writer(kit_path("a"), &writer));
    CHECK_OK(epf_file_writer_write(&writer, "hello ", 6));
    CHECK_OK(epf_file_writer_write(&writer, "", 0));
    CHECK_OK(epf_file_writer_write(&writer, "world", 5));
    CHECK(access(kit_path("a"), F_OK) != 0, "seen before the commit");
    CHECK(kit_count_files() == before + extra, "%d files while writing",
          kit_count_files() - before);
    CHECK_OK(epf_file_writer_commit(&writer));
    CHECK(kit_count_files() == before + 1, "one file after the commit");
    check_content(kit_path("a"), "hello world");
    CHECK(stat(kit_path("a"), &info) == 0 && (info.st_mode & 0777) == 0640, "mode %o",
          (unsigned)info.st_mode);
    CHECK(unlink(kit_path("a")) == 0, "unlink");
}

/* Two at once in one folder, one given up. */
static void test_two(opener open_writer)
{
    const int before = kit_count_files();
    epf_file_writer first;
    epf_file_writer second;
    CHECK_OK(open_writer(kit_path("a"), &first));
    CHECK_OK(open_writer(kit_path("a"), &second));
    CHECK_OK(epf_file_writer_write(&first, "first", 5));
    CHECK_OK(epf_file_writer_write(&second, "second", 6));
    CHECK_OK(epf_file_writer_commit(&second));
    epf_file_writer_abort(&first);
    epf_file_writer_abort(&first);
    check_content(kit_path("a"), "second");
    CHECK(kit_count_files() == before + 1, "the one given up left something");
    CHECK(unlink(kit_path("a")) == 0, "unlink");
}

/* A folder takes the target's name while it is being written. */
static void test_failed_commit(opener open_writer)
{
    const int before = kit_count_files();
    epf_file_writer writer;
    CHECK_OK(open_writer(kit_path("a"), &writer));
    CHECK(mkdir(kit_path("a"), 0700) == 0, "mkdir");
    kit_expect("commit", epf_file_writer_commit(&writer), EPF_E_FILE,
               "/a: cannot be written: Is a directory");
    CHECK(rmdir(kit_path("a")) == 0, "rmdir");
    CHECK(kit_count_files() == before, "a failed commit left something");
}

/* A bare name is written in the current folder. */
static void test_bare_name(opener open_writer)
{
    epf_file_writer writer;
    CHECK(chdir(kit_folder()) == 0, "chdir");
    CHECK_OK(open_writer("bare", &writer));
    CHECK_OK(epf_file_writer_write(&writer, "x", 1));
    CHECK_OK(epf_file_writer_commit(&writer));
    check_content("bare", "x");
    CHECK(unlink(kit_path("bare")) == 0 && chdir("/") == 0, "unlink");
}

static void test_no_folder(opener open_writer)
{
    epf_file_writer writer;
    kit_expect("no folder", open_writer("/nowhere/a", &writer), EPF_E_FILE,
               "/nowhere/a: cannot be written: No such file or directory");
    epf_file_writer_abort(&writer);
}

static void test_all(opener open_writer, int extra)
{
    test_commit(open_writer, extra);
    test_two(open_writer);
    test_failed_commit(open_writer);
    test_bare_name(open_writer);
    test_no_folder(open_writer);
}

int main(void)
{
    epf_file_writer probe;
    int nameless;
    (void)umask(0027);
    kit_write_text("empty", "");
    check_content(kit_path("empty"), "");
    CHECK_OK(epf_file_writer_open(kit_path("probe"), &probe));
    nameless = !probe.has_name;
    epf_file_writer_abort(&probe);
    test_all(epf_file_writer_open, nameless ? 0 : 1);
    test_all(epf_file_writer_open_named, 1);
    return 0;
}
