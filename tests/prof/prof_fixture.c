/* prof_fixture.c: see prof_fixture.h. */
#include "prof_fixture.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

typedef struct clockwork {
    epf_prof_buffer *buffer;
    uint64_t now_ns;
} clockwork;

/* A record that begins now and takes `ns`; time goes on to its end. */
static epf_prof_record *record(clockwork *c, epf_prof_event event, int32_t task, uint64_t ns)
{
    epf_prof_record *const rec = epf_prof_begin(c->buffer, event, task);
    CHECK(rec != NULL, "the fixture's buffer is full");
    rec->begin_ns = c->now_ns;
    c->now_ns += ns;
    rec->end_ns = c->now_ns;
    return rec;
}

static uint32_t flow_idx(int32_t to_rank, int32_t worker)
{
    return (uint32_t)(to_rank * FIXTURE_WORKERS + worker);
}

static void make_worker(epf_prof *prof, int32_t rank, int32_t worker)
{
    clockwork c = {epf_prof_worker(prof, worker), 1000000 + 700 * (uint64_t)rank};
    epf_prof_record *rec = record(&c, EPF_PROF_DISPATCH_TOKEN_MAIN, worker, 20000);
    epf_prof_detail(rec, EPF_PROF_NONE, 128);
    for (int32_t to = 0; to < FIXTURE_RANKS; to++) {
        epf_prof_send(c.buffer, rec,
                      epf_prof_flow(7, rank, EPF_PROF_FLOW_DISPATCH, flow_idx(to, worker)));
    }
    rec = record(&c, EPF_PROF_GROUP_GEMM_WAIT, 10, 5000);
    for (int32_t from = 0; from < FIXTURE_RANKS; from++) {
        epf_prof_recv(c.buffer, rec,
                      epf_prof_flow(7, from, EPF_PROF_FLOW_DISPATCH, flow_idx(rank, worker)));
    }
    for (int32_t tile = 0; tile < FIXTURE_TILES; tile++) {
        rec = record(&c, EPF_PROF_GROUP_GEMM_MAIN, 10 + tile, 40000 + 1000 * (uint64_t)tile);
        epf_prof_detail(rec, tile % 2, 100 + tile);
    }
    rec = record(&c, EPF_PROF_COMBINE_SCATTER_TOKEN, 20, 9000);
    epf_prof_send(c.buffer, rec,
                  epf_prof_flow(7, rank, EPF_PROF_FLOW_COMBINE, flow_idx(0, worker)));
    c.now_ns += 3000; /* idle */
    if (rank == 0) {
        rec = record(&c, EPF_PROF_COMBINE_WAIT, 30, 2500);
        for (int32_t from = 0; from < FIXTURE_RANKS; from++) {
            epf_prof_recv(c.buffer, rec,
                          epf_prof_flow(7, from, EPF_PROF_FLOW_COMBINE, flow_idx(0, worker)));
        }
    }
    (void)record(&c, EPF_PROF_COMBINE_TOPK_REDUCE, 30, 12000);
}

static void make_host(epf_prof *prof, int32_t rank)
{
    clockwork c = {epf_prof_worker(prof, FIXTURE_WORKERS), 950000};
    epf_prof_record *const outer = record(&c, EPF_PROF_PREPROCESS, EPF_PROF_NONE, 10000);
    (void)record(&c, EPF_PROF_BARRIER_ALL, EPF_PROF_NONE, 20000 + (uint64_t)rank);
    outer->end_ns = c.now_ns + 500;
}

void fixture_make(epf_prof *profs[FIXTURE_RANKS])
{
    for (int32_t rank = 0; rank < FIXTURE_RANKS; rank++) {
        const epf_prof_config config = {rank, FIXTURE_WORKERS, 24};
        CHECK_OK(epf_prof_create(&config, &profs[rank]));
        for (int32_t worker = 0; worker < FIXTURE_WORKERS; worker++) {
            make_worker(profs[rank], rank, worker);
        }
        make_host(profs[rank], rank);
    }
    (void)epf_prof_begin(epf_prof_worker(profs[1], 0), EPF_PROF_COMBINE_WAIT, 99);
    epf_prof_worker(profs[2], 1)->num_lost++;
}

void fixture_destroy(epf_prof *profs[FIXTURE_RANKS])
{
    for (int32_t rank = 0; rank < FIXTURE_RANKS; rank++) {
        epf_prof_destroy(profs[rank]);
    }
}

const char *fixture_folder(const char *test)
{
    static char path[256];
    (void)snprintf(path, sizeof path, "%s.out", test);
    CHECK(mkdir(path, 0777) == 0 || errno == EEXIST, "%s: %s", path, strerror(errno));
    return path;
}

unsigned char *fixture_load(const char *path, size_t *num_bytes)
{
    FILE *const file = fopen(path, "rb");
    unsigned char *bytes;
    long size;
    CHECK(file != NULL, "%s: %s", path, strerror(errno));
    CHECK(fseek(file, 0, SEEK_END) == 0, "%s", path);
    size = ftell(file);
    rewind(file);
    bytes = malloc((size_t)size + 1);
    CHECK(bytes != NULL && fread(bytes, 1, (size_t)size, file) == (size_t)size, "%s", path);
    (void)fclose(file);
    *num_bytes = (size_t)size;
    return bytes;
}
