/*
 * test_trace_hostile: files that lie.  A trace cut off at every byte, with bits flipped, or of random
 * bytes is read or refused with EPF_E_FORMAT and a byte offset, and never more; memory that runs out
 * at any allocation is an error and not a leak.
 */
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/epf_alloc.h"
#include "prof/epf_trace_summary.h"
#include "prof_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size); /* fuzz_trace.c */

enum { NUM_FLIPS = 20000, NUM_RANDOM = 2000 };

static uint64_t random_state = 88172645463325252u;

/* xorshift64: the same sequence everywhere. */
static uint64_t random_bits(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* Parses a copy of exactly these bytes, so that a read past the end is seen. */
static epf_status parse(const unsigned char *bytes, size_t size)
{
    unsigned char *const copy = malloc(size > 0 ? size : 1);
    epf_trace *trace;
    epf_status st;
    CHECK(copy != NULL, "memory");
    memcpy(copy, bytes, size);
    st = epf_trace_parse(copy, size, "bytes", &trace);
    CHECK((st == EPF_OK) == (trace != NULL), "status %d", (int)st);
    epf_trace_destroy(trace);
    free(copy);
    if (st != EPF_OK) {
        CHECK(st == EPF_E_FORMAT, "status %d", (int)st);
        CHECK(strncmp(epf_error_text(), "bytes: byte ", 12) == 0, "%s", epf_error_text());
    }
    return st;
}

static void check_truncations(const unsigned char *bytes, size_t size)
{
    size_t num_good = 0;
    for (size_t i = 0; i < size; i++) {
        num_good += parse(bytes, i) == EPF_OK;
    }
    /* Between packets, where no slice is open, a cut cannot be told from an end. */
    CHECK(num_good > 0 && num_good < 100, "%zu of %zu cuts were read", num_good, size);
    CHECK(parse(bytes, size) == EPF_OK, "%s", epf_error_text());
    CHECK(parse(bytes, 0) == EPF_E_FORMAT, "an empty file");
}

static void check_flips(const unsigned char *bytes, size_t size)
{
    unsigned char *const copy = malloc(size);
    CHECK(copy != NULL, "memory");
    for (int i = 0; i < NUM_FLIPS; i++) {
        const int num_bits = 1 + (int)(random_bits() % 8);
        memcpy(copy, bytes, size);
        for (int j = 0; j < num_bits; j++) {
            copy[random_bits() % size] ^= (unsigned char)(1u << (random_bits() % 8));
        }
        (void)parse(copy, size);
        (void)LLVMFuzzerTestOneInput(copy, size);
    }
    free(copy);
}

static void check_random(void)
{
    unsigned char bytes[256];
    for (int i = 0; i < NUM_RANDOM; i++) {
        const size_t size = random_bits() % sizeof bytes;
        for (size_t j = 0; j < size; j++) {
            bytes[j] = (unsigned char)random_bits();
        }
        (void)parse(bytes, size);
    }
}

/* Small lies, each with the words that the error must use. */
static void check_lies(void)
{
    static const struct lie {
        const char *bytes;
        size_t size;
        const char *text;
    } lies[] = {
        {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11, "not a protobuf field"}, /* length */
        {"\x0a\x05\x08\x01", 4, "not a protobuf field"},
        {"\x0b", 1, "not a protobuf field"}, /* a group */
        {"\x12\x00", 2, "no trace packet"},
        {"\x0a\x00", 2, "ends before any rank"},
        /* packet { track_descriptor { uuid: 5 } }: no rank above 16 bits */
        {"\x0a\x05\xe2\x03\x02\x08\x05", 7, "no rank's and no worker's"},
        /* packet { track_descriptor { uuid: 65538 } }: worker 0 of rank 0, unknown so far */
        {"\x0a\x07\xe2\x03\x04\x08\x82\x80\x04", 9, "not described"},
        /* packet { track_event { } } */
        {"\x0a\x02\x5a\x00", 4, "was not described"},
        /* packet { interned_data { event_categories { iid: 2 name: "wait" } } } */
        {"\x0a\x0c\x62\x0a\x0a\x08\x08\x02\x12\x04wait", 14, "numbered 1, 2"},
        /* ... { iid: 1 name: "wail" } */
        {"\x0a\x0c\x62\x0a\x0a\x08\x08\x01\x12\x04wail", 14, "unknown category"},
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        CHECK(parse((const unsigned char *)lies[i].bytes, lies[i].size) == EPF_E_FORMAT, "%zu", i);
        CHECK(strstr(epf_error_text(), lies[i].text) != NULL, "%zu: %s", i, epf_error_text());
    }
}

/* The size of the packet at `bytes`: a tag, a length of one or two bytes, and what it says. */
static size_t packet_size(const unsigned char *bytes)
{
    return bytes[1] < 0x80 ? 2u + bytes[1] : 3u + (bytes[1] & 0x7fu) + 128u * bytes[2];
}

/* One slice begun inside the other, far deeper than any worker nests: the file's first event again and
   again. */
static void check_depth(const unsigned char *bytes)
{
    enum { DEEP = 1000, NUM_BEFORE_EVENTS = 7 }; /* clocks, names, root, rank, host, two workers */
    size_t head = 0, event;
    unsigned char *deep;
    for (int i = 0; i < NUM_BEFORE_EVENTS; i++) {
        head += packet_size(bytes + head);
    }
    event = packet_size(bytes + head);
    deep = malloc(head + DEEP * event);
    CHECK(deep != NULL, "memory");
    memcpy(deep, bytes, head);
    for (int i = 0; i < DEEP; i++) {
        memcpy(deep + head + (size_t)i * event, bytes + head, event);
    }
    CHECK(parse(deep, head + DEEP * event) == EPF_E_FORMAT, "%d deep", DEEP);
    CHECK(strstr(epf_error_text(), "nested too deep") != NULL, "%s", epf_error_text());
    free(deep);
}

static void check_paths(const char *folder)
{
    char path[PATH_MAX];
    epf_trace *trace;
    CHECK(epf_trace_read("no/such/file", &trace) == EPF_E_FILE && trace == NULL, "missing");
    CHECK(strstr(epf_error_text(), "no/such/file") != NULL, "%s", epf_error_text());
    CHECK(epf_trace_read(folder, &trace) == EPF_E_FILE, "a folder");
    (void)snprintf(path, sizeof path, "%s/pipe", folder);
    CHECK(mkfifo(path, 0600) == 0 || errno == EEXIST, "%s", strerror(errno));
    CHECK(epf_trace_read(path, &trace) == EPF_E_FILE, "a pipe must not be waited for");
    CHECK(epf_trace_read("/dev/zero", &trace) == EPF_E_FILE, "a device");
}

/* A file that cannot be written leaves nothing behind, and the old one in place. */
static void check_unwritable(epf_prof *prof, const char *folder)
{
    char path[PATH_MAX], below[PATH_MAX + 16];
    const char *const with_missing[] = {path, "no/such/file"};
    const char *const good[] = {path};
    struct stat before, after;
    CHECK_OK(epf_prof_write(prof, folder, "kept"));
    (void)snprintf(path, sizeof path, "%s/kept_rank_0.perfetto-trace", folder);
    CHECK(stat(path, &before) == 0, "%s", path);
    CHECK(epf_trace_merge(with_missing, 2, path) == EPF_E_FILE, "a missing file");
    CHECK(stat(path, &after) == 0 && after.st_ino == before.st_ino, "the old file is gone");
    (void)snprintf(below, sizeof below, "%s/below", path);
    CHECK(epf_trace_merge(good, 1, below) == EPF_E_FILE, "a folder that is a file");
    CHECK(strstr(epf_error_text(), path) != NULL, "%s", epf_error_text());
    CHECK(epf_prof_write(prof, "/proc/no", "kept") == EPF_E_FILE, "a folder nobody can make");
    CHECK(epf_prof_write(prof, folder, "../kept") == EPF_E_INVALID, "a name that is a path");
}

static void check_no_memory(epf_prof **profs, const char *folder)
{
    char path[PATH_MAX];
    epf_trace_summary *summary;
    epf_trace *trace;
    uint64_t num_failed = 0;
    const char *const paths[] = {path};
    char again[PATH_MAX];
    (void)snprintf(path, sizeof path, "%s/memory_merged.perfetto-trace", folder);
    (void)snprintf(again, sizeof again, "%s/memory_again.perfetto-trace", folder);
    for (uint64_t nth = 1;; nth++, num_failed++) {
        epf_status st;
        epf_alloc_fail_at(nth);
        st = epf_prof_write_merged(profs, FIXTURE_RANKS, folder, "memory");
        if (st == EPF_OK) {
            st = epf_trace_read(path, &trace);
        }
        if (st == EPF_OK) {
            st = epf_trace_summarize(trace, &summary);
            epf_trace_destroy(trace);
        }
        if (st == EPF_OK) {
            epf_trace_summary_destroy(summary);
            st = epf_trace_merge(paths, 1, again);
        }
        if (st == EPF_OK) {
            break;
        }
        CHECK(st == EPF_E_NO_MEMORY, "allocation %d: status %d: %s", (int)nth, (int)st,
              epf_error_text());
    }
    epf_alloc_fail_at(0);
    CHECK(num_failed > 20, "%d allocations", (int)num_failed);
}

int main(void)
{
    const char *const folder = fixture_folder("test_trace_hostile");
    epf_prof *profs[FIXTURE_RANKS];
    char path[PATH_MAX];
    unsigned char *bytes;
    size_t size;
    fixture_make(profs);
    CHECK_OK(epf_prof_write_merged(profs, FIXTURE_RANKS, folder, "small"));
    (void)snprintf(path, sizeof path, "%s/small_merged.perfetto-trace", folder);
    bytes = fixture_load(path, &size);
    check_truncations(bytes, size);
    check_flips(bytes, size);
    check_random();
    check_lies();
    check_depth(bytes);
    check_paths(folder);
    check_unwritable(profs[0], folder);
    check_no_memory(profs, folder);
    free(bytes);
    fixture_destroy(profs);
    return 0;
}
