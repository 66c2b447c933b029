#include "support/epf_problem.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/epf_dtype.h"
#include "support/epf_check.h"
#include "support/epf_rng.h"
#include "support/epf_space.h"

enum { DEFAULT_BLOCK_M = 128 };

typedef struct reader {
    const char *at;
    char *why;
} reader;

static bool refuse(const reader *in, const char *what)
{
    (void)snprintf(in->why, EPF_PROBLEM_TEXT, "%s at \"%.40s\"", what, in->at);
    return false;
}

/* A letter and a number in low..high. */
static bool read_number(reader *in, char letter, int32_t high, int32_t *number)
{
    char *end;
    long value;

    if (*in->at != letter || in->at[1] < '0' || in->at[1] > '9') {
        return refuse(in, "a letter of W E K T H N with its number is missing");
    }
    errno = 0;
    value = strtol(in->at + 1, &end, 10);
    if (errno != 0 || value > high) {
        return refuse(in, "a number is too large");
    }
    in->at = end;
    *number = (int32_t)value;
    return true;
}

static bool read_options(reader *in, epf_problem *p)
{
    char *end;

    if (*in->at == 'M' && !read_number(in, 'M', 1024, &p->block_m)) {
        return false;
    }
    if (*in->at == 'C') {
        p->capacity = strtod(in->at + 1, &end);
        in->at = end;
    }
    return *in->at == '/' || refuse(in, "expected /routing");
}

/* The next /name; its length, 0 at the end of the text. */
static size_t next_part(reader *in, const char **part)
{
    size_t length;

    if (*in->at != '/') {
        return 0;
    }
    *part = in->at + 1;
    length = strcspn(*part, "/");
    in->at = *part + length;
    return length;
}

static bool is(const char *part, size_t length, const char *name)
{
    return strlen(name) == length && memcmp(part, name, length) == 0;
}

static bool read_routing(reader *in, epf_problem *p)
{
    const char *part = "";
    const size_t length = next_part(in, &part);

    for (const char *const *name = epf_zoo_names(); *name != NULL; name++) {
        if (is(part, length, *name)) {
            p->routing = *name;
            return true;
        }
    }
    return refuse(in, "no such routing before");
}

static bool read_seed(reader *in, epf_problem *p)
{
    const char *part = "";
    const size_t length = next_part(in, &part);
    char *end;

    if (length < 5 || memcmp(part, "seed", 4) != 0 || part[4] < '0' || part[4] > '9') {
        return refuse(in, "expected /seed<number> before");
    }
    p->seed = strtoull(part + 4, &end, 10);
    return end == part + length || refuse(in, "expected /seed<number> before");
}

static bool read_dtype(const char *part, size_t length, epf_dtype *dtype)
{
    for (int32_t d = EPF_DTYPE_F32; d <= EPF_DTYPE_F16; d++) {
        if (is(part, length, epf_dtype_name(d))) {
            *dtype = (epf_dtype)d;
            return true;
        }
    }
    return false;
}

static bool read_suffixes(reader *in, epf_problem *p)
{
    while (*in->at == '/') {
        const char *part = "";
        const size_t length = next_part(in, &part);
        if (is(part, length, "normal")) {
            p->normal = true;
        } else if (is(part, length, "fuse_scatter")) {
            p->fuse_scatter = true;
        } else if (*part == 'w' && read_dtype(part + 1, length - 1, &p->weight_dtype)) {
            continue;
        } else if (!read_dtype(part, length, &p->dtype)) {
            return refuse(in, "an unknown suffix before");
        }
    }
    return *in->at == '\0' || refuse(in, "text is left");
}

static bool check_ranges(const reader *in, const epf_problem *p)
{
    if (p->num_ranks < 1 || p->num_experts < 1 || p->num_experts % p->num_ranks != 0) {
        return refuse(in, "E must be a positive multiple of W");
    }
    if (p->num_topk < 1 || p->max_tokens < 1 || p->block_m < 1) {
        return refuse(in, "K, T and M must be positive");
    }
    if (p->hidden < 8 || p->hidden % 8 != 0 || p->num_columns < 8 || p->num_columns % 8 != 0) {
        return refuse(in, "H and N must be positive multiples of 8");
    }
    if (!(p->capacity > 0 && p->capacity <= p->num_ranks)) {
        return refuse(in, "C must be above 0, at most W");
    }
    return true;
}

bool epf_problem_parse(const char *text, epf_problem *problem, char why[EPF_PROBLEM_TEXT])
{
    reader in = {text, why};
    epf_problem *p = problem;

    memset(p, 0, sizeof *p);
    p->block_m = DEFAULT_BLOCK_M;
    p->dtype = EPF_DTYPE_BF16;
    p->weight_dtype = EPF_DTYPE_F32;
    if (!read_number(&in, 'W', EPF_PROBLEM_MAX_RANKS, &p->num_ranks) ||
        !read_number(&in, 'E', 4096, &p->num_experts) || !read_number(&in, 'K', 32, &p->num_topk) ||
        !read_number(&in, 'T', 65536, &p->max_tokens) ||
        !read_number(&in, 'H', 65536, &p->hidden) ||
        !read_number(&in, 'N', 65536, &p->num_columns)) {
        return false;
    }
    p->capacity = p->num_ranks;
    return read_options(&in, p) && read_routing(&in, p) && read_seed(&in, p) &&
           read_suffixes(&in, p) && check_ranges(&in, p);
}

const char *epf_problem_print(const epf_problem *problem, char text[EPF_PROBLEM_TEXT])
{
    const epf_problem *p = problem;
    char block[16] = "";
    char capacity[32] = "";

    if (p->block_m != DEFAULT_BLOCK_M) {
        (void)snprintf(block, sizeof block, "M%d", p->block_m);
    }
    if (p->capacity != p->num_ranks) {
        (void)snprintf(capacity, sizeof capacity, "C%.9g", p->capacity);
    }
    (void)snprintf(text, EPF_PROBLEM_TEXT, "W%dE%dK%dT%dH%dN%d%s%s/%s/seed%llu%s%s%s%s%s%s",
                   p->num_ranks, p->num_experts, p->num_topk, p->max_tokens, p->hidden,
                   p->num_columns, block, capacity, p->routing, (unsigned long long)p->seed,
                   p->dtype == EPF_DTYPE_BF16 ? "" : "/",
                   p->dtype == EPF_DTYPE_BF16 ? "" : epf_dtype_name((int32_t)p->dtype),
                   p->weight_dtype == EPF_DTYPE_F32 ? "" : "/w",
                   p->weight_dtype == EPF_DTYPE_F32 ? "" : epf_dtype_name((int32_t)p->weight_dtype),
                   p->normal ? "/normal" : "", p->fuse_scatter ? "/fuse_scatter" : "");
    return text;
}

/* A device has tiles of one height. */
static epf_problem on_backend(epf_problem problem)
{
    problem.block_m = epf_space_is_device() ? DEFAULT_BLOCK_M : problem.block_m;
    return problem;
}

epf_problem epf_problem_of(const char *text)
{
    epf_problem problem;
    char why[EPF_PROBLEM_TEXT];

    CHECK(epf_problem_parse(text, &problem, why), "%s: %s", text, why);
    return on_backend(problem);
}

/* Small numbers more often than large ones, so that edges are met. */
static int32_t skewed(epf_rng *rng, int32_t low, int32_t high)
{
    return low + (int32_t)((double)(high - low + 1) * pow(epf_rng_uniform(rng), 2.5));
}

epf_problem epf_problem_random(uint64_t number, int32_t max_ranks)
{
    epf_rng rng = epf_rng_make(number, 1);
    epf_problem p = {.seed = number, .dtype = EPF_DTYPE_BF16, .weight_dtype = EPF_DTYPE_F32};
    int32_t num_names = 0;

    while (epf_zoo_names()[num_names] != NULL) {
        num_names++;
    }
    p.num_ranks = epf_rng_range(&rng, 1, max_ranks);
    p.num_experts = p.num_ranks * skewed(&rng, 1, 6);
    p.num_topk = skewed(&rng, 1, 8);
    p.max_tokens = skewed(&rng, 1, 40);
    p.hidden = 8 * skewed(&rng, 1, 12);
    p.num_columns = 8 * skewed(&rng, 1, 12);
    p.block_m = epf_rng_below(&rng, 3) == 0 ? DEFAULT_BLOCK_M : 1 << epf_rng_range(&rng, 2, 6);
    p.capacity = epf_rng_below(&rng, 3) == 0 ? 1 : p.num_ranks;
    p.routing = epf_zoo_names()[epf_rng_below(&rng, num_names)];
    p.dtype = (epf_dtype)epf_rng_range(&rng, EPF_DTYPE_F32, EPF_DTYPE_F16);
    p.weight_dtype = epf_rng_below(&rng, 2) == 0 ? EPF_DTYPE_F32 : EPF_DTYPE_BF16;
    p.fuse_scatter = epf_rng_below(&rng, 2) == 0;
    if (epf_space_is_device()) { /* no fp32; more rows, as its tiles are larger */
        p.dtype = p.dtype == EPF_DTYPE_F32 ? EPF_DTYPE_BF16 : p.dtype;
        p.max_tokens *= 1 + (int32_t)(number % 8);
    }
    return on_backend(p);
}
