/*
 * test_trace_svg: the picture is well-formed, shows every lane once, in the right place and colour,
 * escapes what it is given, and fits the size asked for.
 */
#include <limits.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "prof/epf_trace_svg.h"
#include "prof_fixture.h"

static int count(const char *text, const char *what)
{
    int n = 0;
    for (const char *at = strstr(text, what); at != NULL; at = strstr(at + 1, what)) {
        n++;
    }
    return n;
}

/* Tags close in the order they opened, attributes are quoted, and no stray < or & is left. */
static void check_wellformed(const char *text)
{
    char open[16][16];
    int depth = 0;
    for (const char *at = strchr(text, '<'); at != NULL; at = strchr(at, '<')) {
        const char *const end = strchr(at, '>');
        const size_t name = strcspn(at + 1, " />");
        CHECK(end != NULL && strcspn(at + 1, "<") > (size_t)(end - at - 1), "%.40s", at);
        if (at[1] == '/') {
            CHECK(depth > 0, "%.40s", at);
            depth--;
            CHECK(strncmp(at + 2, open[depth], strlen(open[depth])) == 0, "%.40s closes %s", at,
                  open[depth]);
        } else if (end[-1] != '/') {
            CHECK(depth < 16 && name < 16, "%.40s", at);
            memcpy(open[depth], at + 1, name);
            open[depth++][name] = '\0';
        }
        at = end;
    }
    CHECK(depth == 0, "%d tags stay open", depth);
    for (const char *at = strchr(text, '&'); at != NULL; at = strchr(at + 1, '&')) {
        CHECK(strncmp(at, "&amp;", 5) == 0 || strncmp(at, "&lt;", 4) == 0 ||
                  strncmp(at, "&gt;", 4) == 0,
              "%.10s", at);
    }
    CHECK(strstr(text, "nan") == NULL && strstr(text, "inf") == NULL && strstr(text, "e+") == NULL,
          "a number that is none");
}

static char *draw(const epf_trace_panel *panels, int32_t num_panels,
                  const epf_trace_svg_config *config, size_t *size)
{
    char path[PATH_MAX];
    char *text;
    (void)snprintf(path, sizeof path, "%s/drawn.svg", fixture_folder("test_trace_svg"));
    CHECK_OK(epf_trace_svg(panels, num_panels, config, path));
    text = (char *)fixture_load(path, size);
    text[*size] = '\0';
    check_wellformed(text);
    return text;
}

static void check_two_panels(const epf_trace *trace)
{
    const epf_trace_panel panels[] = {{trace, "above <one> & other", 0, 0}, {trace, NULL, 0, 0}};
    epf_trace_svg_config config = {"A \"title\"", 0, 10, false, 0};
    size_t size;
    char *text = draw(panels, 2, &config, &size);
    CHECK(strstr(text, "above &lt;one&gt; &amp; other") != NULL, "the title");
    CHECK(count(text, ">rank 1</text>") == 2, "%d", count(text, ">rank 1</text>"));
    /* One background per worker and one in the legend. */
    CHECK(count(text, "class=\"c4\"") == 2 * 6 + 1, "%d", count(text, "class=\"c4\""));
    CHECK(count(text, "class=\"f\"") == 2 + 1, "flows of each panel, and the legend's");
    CHECK(strstr(text, ">host</text>") == NULL, "hosts were not asked for");
    free(text);
    config.show_hosts = true;
    config.max_flows = 0;
    text = draw(panels, 1, &config, &size);
    CHECK(count(text, ">host</text>") == 3, "%d", count(text, ">host</text>"));
    CHECK(count(text, "class=\"f\"") == 0, "no flows");
    free(text);
}

/* A lane that computes for the first half and waits for the last quarter: where the strokes are. */
static void check_place(void)
{
    const epf_prof_config config = {0, 1, 4};
    const epf_trace_svg_config svg = {NULL, 84 + 24 + 800, 0, false, 0};
    epf_trace_panel panel = {NULL, NULL, 0, 0};
    epf_prof_buffer *lane;
    epf_prof_record *rec;
    epf_trace *trace;
    epf_prof *prof;
    size_t size;
    char *text;
    CHECK_OK(epf_prof_create(&config, &prof));
    lane = epf_prof_worker(prof, 0);
    rec = epf_prof_begin(lane, EPF_PROF_GROUP_GEMM_MAIN, 0);
    rec->begin_ns = 5000, rec->end_ns = 7000;
    rec = epf_prof_begin(lane, EPF_PROF_COMBINE_WAIT, 0);
    rec->begin_ns = 8000, rec->end_ns = 9000;
    CHECK_OK(epf_trace_from_profs(&prof, 1, &trace));
    panel.trace = trace;
    text = draw(&panel, 1, &svg, &size);
    CHECK(strstr(text, "<path class=\"c0\" d=\"M84 69h400\"/>") != NULL, "%s", text);
    CHECK(strstr(text, "<path class=\"c2\" d=\"M684 69h200\"/>") != NULL, "%s", text);
    free(text);
    panel.from_ns = 1000; /* the second half of the compute, and on to 3 us */
    panel.to_ns = 3000;
    text = draw(&panel, 1, &svg, &size);
    CHECK(strstr(text, "<path class=\"c0\" d=\"M84 69h400\"/>") != NULL, "%s", text);
    CHECK(count(text, "class=\"c2\"") == 1, "the wait is outside: only the legend has its colour");
    free(text);
    epf_trace_destroy(trace);
    epf_prof_destroy(prof);
}

/* A profile of many tiny records: the picture gets coarser, not larger. */
static void check_size(void)
{
    enum { RECORDS = 20000 };
    const epf_prof_config config = {0, 1, RECORDS};
    epf_trace_svg_config svg = {NULL, 0, 0, false, 9000};
    epf_trace_panel panel = {NULL, NULL, 0, 0};
    epf_trace *trace;
    epf_prof *prof;
    uint64_t now_ns = 1;
    size_t size;
    char path[PATH_MAX];
    CHECK_OK(epf_prof_create(&config, &prof));
    for (int i = 0; i < RECORDS; i++) {
        epf_prof_record *const rec = epf_prof_begin(
            epf_prof_worker(prof, 0),
            i % 2 == 0 ? EPF_PROF_GROUP_GEMM_MAIN : EPF_PROF_COMBINE_SCATTER_TOKEN, i);
        rec->begin_ns = now_ns;
        now_ns += 100 + (uint64_t)(i % 61) * (uint64_t)(i % 53);
        rec->end_ns = now_ns;
    }
    CHECK_OK(epf_trace_from_profs(&prof, 1, &trace));
    panel.trace = trace;
    free(draw(&panel, 1, &svg, &size));
    CHECK(size <= 9000 && size > 2500, "%zu bytes", size);
    svg.max_bytes = 1000;
    (void)snprintf(path, sizeof path, "%s/never.svg", fixture_folder("test_trace_svg"));
    CHECK(epf_trace_svg(&panel, 1, &svg, path) == EPF_E_CAPACITY, "less than its own frame");
    CHECK(fopen(path, "rb") == NULL, "a file was left behind");
    epf_trace_destroy(trace);
    epf_prof_destroy(prof);
}

/* Each allocation fails once: an error, no leak, and no file. */
static void check_no_memory(const epf_trace *trace)
{
    const epf_trace_panel panels[] = {{trace, "one", 0, 0}, {trace, "two", 0, 0}};
    const epf_trace_svg_config config = {"both", 0, 10, true, 0};
    char path[PATH_MAX];
    uint64_t num_failed = 0;
    epf_status st;
    (void)snprintf(path, sizeof path, "%s/memory.svg", fixture_folder("test_trace_svg"));
    (void)remove(path);
    for (uint64_t nth = 1;; nth++, num_failed++) {
        epf_alloc_fail_at(nth);
        st = epf_trace_svg(panels, 2, &config, path);
        if (st == EPF_OK) {
            break;
        }
        CHECK(st == EPF_E_NO_MEMORY, "allocation %d: status %d", (int)nth, (int)st);
        CHECK(fopen(path, "rb") == NULL, "a file was left behind");
    }
    epf_alloc_fail_at(0);
    CHECK(num_failed > 20, "%d allocations", (int)num_failed);
}

static void check_refused(const epf_trace *trace)
{
    const epf_trace_panel panel = {trace, NULL, 0, 0};
    const epf_trace_panel late = {trace, NULL, 1000000000, 0};
    const epf_trace_svg_config config = {NULL, 0, 0, false, 0};
    const epf_trace_svg_config narrow = {NULL, 399, 0, false, 0};
    const epf_trace_svg_config negative = {NULL, 0, -1, false, 0};
    CHECK(epf_trace_svg(&panel, 0, &config, "x.svg") == EPF_E_INVALID, "no panel");
    CHECK(epf_trace_svg(&panel, 9, &config, "x.svg") == EPF_E_INVALID, "nine panels");
    CHECK(epf_trace_svg(&panel, 1, &narrow, "x.svg") == EPF_E_INVALID, "narrow");
    CHECK(epf_trace_svg(&panel, 1, &negative, "x.svg") == EPF_E_INVALID, "negative");
    CHECK(epf_trace_svg(&late, 1, &config, "x.svg") == EPF_E_INVALID, "after the end");
    CHECK(epf_trace_svg(&panel, 1, &config, "/proc/no/x.svg") == EPF_E_FILE, "unwritable");
}

int main(void)
{
    epf_prof *profs[FIXTURE_RANKS];
    epf_trace *trace;
    fixture_make(profs);
    CHECK_OK(epf_trace_from_profs(profs, FIXTURE_RANKS, &trace));
    check_two_panels(trace);
    check_place();
    check_size();
    check_refused(trace);
    check_no_memory(trace);
    epf_trace_destroy(trace);
    fixture_destroy(profs);
    return 0;
}
