/*
 * test_prof_file: traces that cannot be written or read for reasons of paths, files, counts and memory:
 * each its own error, and nothing left behind.
 */
#include <dirent.h>
#include <limits.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/epf_alloc.h"
#include "prof/epf_prof_file.h"
#include "prof/epf_trace.h"
#include "prof_fixture.h"

enum { MOST_ALLOCATIONS = 2000 };

#define CHECK_ERROR(wanted, text, expression)                                                 \
    do {                                                                                      \
        const epf_status check_status = (expression);                                         \
        CHECK(check_status == (wanted) && strstr(epf_error_text(), (text)) != NULL,           \
              "status %d, want %d with \"%s\": %s", (int)check_status, (int)(wanted), (text), \
              epf_error_text());                                                              \
    } while (0)

static const char *in(const char *folder, const char *name)
{
    static char path[2 * PATH_MAX];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* Files and folders in a folder; with `clear`, removed: an earlier run's. */
static int num_entries(const char *folder, int clear)
{
    DIR *const dir = opendir(folder);
    const struct dirent *entry;
    int count = 0;
    CHECK(dir != NULL, "%s", folder);
    while ((entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] != '.') {
            count++;
            CHECK(!clear || remove(in(folder, entry->d_name)) == 0, "%s stays", entry->d_name);
        }
    }
    (void)closedir(dir);
    return count;
}

static void check_paths(const char *folder)
{
    static char longest[2 * PATH_MAX];
    struct rlimit limit, none;
    epf_prof_file file;
    memset(longest, 'x', sizeof longest - 1);
    CHECK_ERROR(EPF_E_INVALID, "path: empty", epf_prof_file_open(&file, ""));
    CHECK_ERROR(EPF_E_INVALID, "must be less than", epf_prof_file_open(&file, longest));
    CHECK_ERROR(EPF_E_FILE, "cannot create", epf_prof_file_open(&file, "/proc/self/x"));
    CHECK_OK(epf_prof_file_open(&file, in(folder, "made")));
    CHECK_OK(epf_prof_file_commit(&file));
    CHECK_ERROR(EPF_E_FILE, "cannot make folder",
                epf_prof_file_open(&file, in(folder, "made/x/y")));
    CHECK_ERROR(EPF_E_FILE, "cannot create", epf_prof_file_open(&file, in(folder, "made/x")));
    CHECK_OK(epf_prof_file_open(&file, in(folder, "other")));
    epf_prof_file_discard(&file);
    epf_prof_file_discard(&file);
    CHECK(mkdir(in(folder, "taken"), 0700) == 0, "mkdir");
    CHECK_OK(epf_prof_file_open(&file, in(folder, "taken")));
    CHECK_ERROR(EPF_E_FILE, "cannot write", epf_prof_file_commit(&file));
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0, "limit");
    none = limit;
    none.rlim_cur = 0;
    CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0, "limit");
    CHECK_ERROR(EPF_E_FILE, "cannot create", epf_prof_file_open(&file, in(folder, "none")));
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0, "limit");
    CHECK(num_entries(folder, 0) == 2, "%d files are left", num_entries(folder, 0));
}

static void check_counts(const char *folder)
{
    static char longest[2 * PATH_MAX];
    const epf_prof_config many = {7, EPF_TRACE_MAX_LANES, 1};
    epf_prof *profs[FIXTURE_RANKS];
    epf_prof *large = NULL;
    epf_trace *trace = NULL;
    fixture_make(profs);
    memset(longest, 'x', sizeof longest - 1);
    CHECK_ERROR(EPF_E_INVALID, "0 profiles", epf_trace_from_profs(profs, 0, &trace));
    CHECK_ERROR(EPF_E_INVALID, "too long", epf_prof_write(profs[0], longest, "name"));
    CHECK_ERROR(EPF_E_INVALID, "too long", epf_prof_write_merged(profs, 3, longest, "name"));
    CHECK_ERROR(EPF_E_INVALID, "profile_file_name", epf_prof_write(profs[0], folder, "a/b"));
    CHECK_ERROR(EPF_E_INVALID, "profile_file_name", epf_prof_write_merged(profs, 3, folder, "a/b"));
    if (epf_prof_create(&many, &large) == EPF_OK) {
        CHECK_ERROR(EPF_E_INVALID, "workers in all", epf_trace_from_profs(&large, 1, &trace));
        epf_prof_destroy(large);
    }
    fixture_destroy(profs);
}

static void check_reading(const char *folder)
{
    static char paths_text[2][2 * PATH_MAX];
    const char *const paths[] = {paths_text[0], paths_text[1]};
    epf_prof *profs[FIXTURE_RANKS];
    epf_trace *trace = NULL;
    epf_status st = EPF_E_NO_MEMORY;
    fixture_make(profs);
    CHECK_OK(epf_prof_write_merged(profs, FIXTURE_RANKS, folder, "call"));
    CHECK_OK(epf_prof_write(profs[0], folder, "call"));
    CHECK_OK(epf_prof_write(profs[1], folder, "call"));
    fixture_destroy(profs);
    for (int32_t r = 0; r < 2; r++) {
        (void)snprintf(paths_text[r], sizeof paths_text[r], "%s/call_rank_%d.perfetto-trace",
                       folder, r);
    }
    CHECK_ERROR(EPF_E_FILE, folder, epf_trace_read(folder, &trace));
    CHECK_ERROR(EPF_E_FILE, "nowhere", epf_trace_read(in(folder, "nowhere"), &trace));
    for (uint64_t n = 1; n < MOST_ALLOCATIONS && st == EPF_E_NO_MEMORY; n++) {
        epf_alloc_fail_at(n);
        st = epf_trace_read_all(paths, 2, &trace);
        epf_alloc_fail_at(0);
        CHECK(st == EPF_E_NO_MEMORY || st == EPF_OK, "allocation %d: status %d: %s", (int)n,
              (int)st, epf_error_text());
    }
    CHECK_OK(st);
    st = EPF_E_NO_MEMORY;
    for (uint64_t n = 1; n < MOST_ALLOCATIONS && st == EPF_E_NO_MEMORY; n++) {
        epf_alloc_fail_at(n);
        st = epf_trace_write(trace, in(folder, "again"));
        epf_alloc_fail_at(0);
    }
    CHECK_OK(st);
    epf_trace_destroy(trace);
}

int main(void)
{
    char folder[PATH_MAX];
    (void)snprintf(folder, sizeof folder, "%s", fixture_folder("prof_file"));
    (void)num_entries(folder, 1);
    check_paths(folder);
    check_counts(folder);
    check_reading(folder);
    return 0;
}
