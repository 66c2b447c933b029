/* epf_trace_svg.c: see epf_trace_svg.h. */
#include "prof/epf_trace_svg.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "prof/epf_prof_file.h"
#include "prof/epf_svg_text.h"
#include "prof/epf_trace_flow.h"
#include "prof/epf_trace_lane.h"
#include "prof/epf_trace_summary.h"

enum {
    DEFAULT_WIDTH = 1200,
    DEFAULT_MAX_BYTES = 300000,
    MARGIN_LEFT = 84, /* room for lane names */
    MARGIN_RIGHT = 24,
    TITLE_HEIGHT = 40,
    LEGEND_HEIGHT = 26,
    PANEL_TITLE_HEIGHT = 26,
    PANEL_GAP = 14,
    AXIS_HEIGHT = 34,
    LANES_HEIGHT = 560, /* of all panels together, as far as lanes stay between these: */
    MAX_LANES_SHOWN = 1024,
    LANE_MIN = 4,
    LANE_MAX = 18,
    IDLE = EPF_PROF_NUM_CATEGORIES, /* one more colour */
    NUM_COLOURS
};

/* Colours by category, idle last; light and dark surroundings. */
static const char style[] =
    "<style>text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;font-size:12px;"
    "fill:#57606a}.b{fill:#fff}.h{font-size:17px;font-weight:600;fill:#1f2328}"
    ".p{font-size:13px;font-weight:600;fill:#1f2328}.m{text-anchor:middle}.e{text-anchor:end}"
    ".w{font-size:9px;text-anchor:end}path,line{fill:none}.g{stroke:#d0d7de;stroke-width:1}"
    ".f{stroke:#1f2328;stroke-width:.7;stroke-opacity:.45}.z{stroke:#1f2328;stroke-width:1.2;"
    "stroke-dasharray:3 3}"
    ".c0{stroke:#2f6fd6}.c1{stroke:#f0982d}.c2{stroke:#e5a3a3}.c3{stroke:#8a63d2}"
    ".c4{stroke:#e6eaee}"
    "@media(prefers-color-scheme:dark){text{fill:#9198a1}.b{fill:#0d1117}.h,.p{fill:#f0f6fc}"
    ".g{stroke:#30363d}.f,.z{stroke:#f0f6fc}.c0{stroke:#4a8cf7}.c1{stroke:#e39a3b}"
    ".c2{stroke:#8e4b4f}.c3{stroke:#9d7be0}.c4{stroke:#1b222b}}</style>\n";

typedef struct panel {
    const epf_trace *trace;
    const char *title;
    epf_trace_summary *summary;
    epf_trace_flow *flows;
    uint64_t num_flows;
    uint64_t begin_ns, end_ns; /* what is shown */
    uint32_t num_shown;        /* lanes */
    double top;                /* of the first lane; px */
} panel;

typedef struct drawing {
    FILE *out;
    epf_trace_svg_config config;
    panel panels[EPF_TRACE_SVG_MAX_PANELS];
    int32_t num_panels;
    double width, height, plot_width;
    double lane_height, lane_gap, rank_gap;
    double px_per_ns;
    double bin_px; /* the narrowest thing drawn */
    uint32_t num_bins;
    double *bins; /* [num_bins][NUM_COLOURS] ns of each colour in one lane's bins */
} drawing;

/* Times outside of what is shown end at its edges. */
static double x_of(const drawing *d, const panel *p, uint64_t time_ns)
{
    const double ns = time_ns <= p->begin_ns ? 0 : (double)(time_ns - p->begin_ns);
    return MARGIN_LEFT + fmin(ns * d->px_per_ns, d->plot_width);
}

static bool shown(const drawing *d, const epf_trace_lane *lane)
{
    return lane->worker != EPF_TRACE_HOST || d->config.show_hosts;
}

/* The middle of lane `lane_idx` of the panel; ranks stand a little apart. */
static double y_of(const drawing *d, const panel *p, uint32_t lane_idx)
{
    double y = p->top + d->lane_height / 2;
    int32_t rank = -1;
    for (uint32_t i = 0; i <= lane_idx; i++) {
        const epf_trace_lane *const lane = &p->trace->lanes[i];
        if (!shown(d, lane)) {
            continue;
        }
        if (rank >= 0) {
            y += d->lane_height + (lane->rank == rank ? d->lane_gap : d->rank_gap);
        }
        rank = lane->rank;
    }
    return y;
}

static uint32_t last_shown(const drawing *d, const panel *p)
{
    uint32_t last = 0;
    for (uint32_t i = 0; i < p->trace->num_lanes; i++) {
        last = shown(d, &p->trace->lanes[i]) ? i : last;
    }
    return last;
}

/* The lower edge of the last lane. */
static double panel_bottom(const drawing *d, const panel *p)
{
    return y_of(d, p, last_shown(d, p)) + d->lane_height / 2;
}

static void draw_text(const drawing *d, const char *class, double x, double y, const char *text)
{
    fprintf(d->out, "<text class=\"%s\" x=\"%.4g\" y=\"%.5g\">", class, x, y);
    epf_svg_put_text(d->out, text);
    fputs("</text>\n", d->out);
}

/* Lanes --------------------------------------------------------------------------------------- */

typedef struct lane_pass {
    drawing *d;
    const panel *p;
    const epf_trace_lane *lane;
    uint32_t open[EPF_LANE_MAX_DEPTH]; /* categories, outermost first */
    int32_t depth;
    uint64_t now_ns;
} lane_pass;

/* Adds [from_ns, to_ns) to the bins it touches. */
static void fill(const lane_pass *l, uint32_t colour, uint64_t from_ns, uint64_t to_ns)
{
    const drawing *const d = l->d;
    const double bin_ns = d->bin_px / d->px_per_ns;
    double from, to;
    if (to_ns <= l->p->begin_ns || from_ns >= l->p->end_ns) {
        return;
    }
    from = from_ns <= l->p->begin_ns ? 0 : (double)(from_ns - l->p->begin_ns) / bin_ns;
    to = (double)((to_ns < l->p->end_ns ? to_ns : l->p->end_ns) - l->p->begin_ns) / bin_ns;
    for (uint32_t i = (uint32_t)from; i < d->num_bins && i < to; i++) {
        d->bins[i * NUM_COLOURS + colour] += fmin(to, i + 1.0) - fmax(from, i);
    }
}

/* Time goes on to `to_ns`; it belongs to the innermost open slice. */
static void advance(lane_pass *l, uint64_t to_ns)
{
    if (l->depth > 0) {
        fill(l, l->open[l->depth - 1], l->now_ns, to_ns);
    }
    l->now_ns = to_ns;
}

static epf_status slice_begin(void *self, const epf_lane_slice *slice)
{
    lane_pass *const l = self;
    const epf_prof_record *const rec = &l->lane->records[slice->idx];
    advance(l, rec->begin_ns);
    l->open[l->depth++] = l->p->trace->events[rec->event].category;
    return EPF_OK;
}

static epf_status slice_end(void *self, const epf_lane_slice *slice)
{
    lane_pass *const l = self;
    advance(l, l->lane->records[slice->idx].end_ns);
    l->depth--;
    return EPF_OK;
}

/* What took most of a bin. */
static uint32_t colour_of(const double *bin)
{
    double idle = 1;
    uint32_t most = IDLE;
    for (uint32_t i = 0; i < IDLE; i++) {
        idle -= bin[i];
    }
    for (uint32_t i = 0; i < IDLE; i++) {
        if (bin[i] > 1e-9 && bin[i] >= (most == IDLE ? idle : bin[most])) {
            most = i;
        }
    }
    return most;
}

/* One path for all runs of bins of one colour: horizontal strokes as high as the lane. */
static void draw_runs(const drawing *d, uint32_t colour, double y)
{
    double at = 0; /* where the pen is */
    bool any = false;
    for (uint32_t i = 0; i < d->num_bins;) {
        uint32_t end = i;
        while (end < d->num_bins && colour_of(d->bins + end * NUM_COLOURS) == colour) {
            end++;
        }
        if (end == i) {
            i++;
            continue;
        }
        if (!any) {
            fprintf(d->out, "<path class=\"c%u\" d=\"M%.5g %.5g", colour,
                    MARGIN_LEFT + i * d->bin_px, y);
        } else {
            fprintf(d->out, "m%.5g 0", i * d->bin_px - at);
        }
        fprintf(d->out, "h%.5g", (end - i) * d->bin_px);
        at = end * d->bin_px;
        any = true;
        i = end;
    }
    if (any) {
        fputs("\"/>\n", d->out);
    }
}

/* Idle is the whole lane's background; what a worker did is drawn over it. */
static epf_status draw_lane(drawing *d, const panel *p, uint32_t lane_idx)
{
    lane_pass pass = {.d = d, .p = p, .lane = &p->trace->lanes[lane_idx]};
    const epf_lane_visitor visitor = {slice_begin, slice_end, &pass};
    const double y = y_of(d, p, lane_idx);
    epf_lane_walk walk;
    epf_status st;
    memset(d->bins, 0, (size_t)d->num_bins * NUM_COLOURS * sizeof *d->bins);
    EPF_TRY(epf_lane_open(&walk, p->trace, pass.lane));
    st = epf_lane_visit(&walk, &visitor);
    epf_lane_close(&walk);
    EPF_TRY(st);
    fprintf(d->out, "<path class=\"c%d\" d=\"M%d %.5gH%.5g\"/>\n", IDLE, MARGIN_LEFT, y,
            x_of(d, p, p->end_ns));
    for (uint32_t i = 0; i < IDLE; i++) {
        draw_runs(d, i, y);
    }
    return EPF_OK;
}

/* The rank's name in the middle of its lanes; the workers' numbers where lanes are high enough. */
static void draw_names(const drawing *d, const panel *p)
{
    double drawn_y = -100;
    for (uint32_t i = 0; i < p->trace->num_lanes; i++) {
        const epf_trace_lane *const lane = &p->trace->lanes[i];
        uint32_t last = i;
        char name[32];
        double y;
        if (!shown(d, lane)) {
            continue;
        }
        if (d->lane_height >= 9) {
            (void)snprintf(name, sizeof name, lane->worker == EPF_TRACE_HOST ? "host" : "%d",
                           lane->worker);
            draw_text(d, "w", MARGIN_LEFT - 6, y_of(d, p, i) + 3, name);
        }
        if (i > 0 && shown(d, lane - 1) && lane[-1].rank == lane->rank) {
            continue;
        }
        while (last + 1 < p->trace->num_lanes && p->trace->lanes[last + 1].rank == lane->rank) {
            last++;
        }
        y = (y_of(d, p, i) + y_of(d, p, last)) / 2 + 4;
        if (y - drawn_y >= 12) {
            (void)snprintf(name, sizeof name, "rank %d", lane->rank);
            draw_text(d, "", 12, y, name);
            drawn_y = y;
        }
    }
}

/* Flows --------------------------------------------------------------------------------------- */

/* Between two different lanes that are drawn, within the time that is shown. */
static bool flow_shown(const drawing *d, const panel *p, const epf_trace_flow *flow)
{
    const epf_trace_lane *const lanes = p->trace->lanes;
    return flow->from.lane_idx != flow->to.lane_idx && shown(d, &lanes[flow->from.lane_idx]) &&
           shown(d, &lanes[flow->to.lane_idx]) && flow->from.begin_ns >= p->begin_ns &&
           flow->to.begin_ns <= p->end_ns && flow->to.begin_ns >= p->begin_ns;
}

/* From where the sender ended, or at the latest where the receiver began, to there. */
static void draw_flow(const drawing *d, const panel *p, const epf_trace_flow *flow)
{
    const double x2 = x_of(d, p, flow->to.begin_ns);
    const double x1 = fmin(x_of(d, p, flow->from.end_ns), x2);
    const double y1 = y_of(d, p, flow->from.lane_idx);
    const double y2 = y_of(d, p, flow->to.lane_idx);
    const double bend = fmax((x2 - x1) / 2, 6);
    fprintf(d->out, "M%.1f %.1fC%.1f %.1f %.1f %.1f %.1f %.1f", x1, y1, x1 + bend, y1, x2 - bend,
            y2, x2, y2);
}

/* All in one path: a few hundred curves would double the file as elements of their own. */
static void draw_flows(const drawing *d, const panel *p)
{
    uint64_t num_shown = 0, turn = 0;
    const uint64_t most = (uint64_t)d->config.max_flows;
    for (uint64_t i = 0; i < p->num_flows; i++) {
        num_shown += flow_shown(d, p, &p->flows[i]);
    }
    if (num_shown == 0 || most == 0) {
        return;
    }
    fputs("<path class=\"f\" d=\"", d->out);
    for (uint64_t i = 0; i < p->num_flows; i++) {
        if (!flow_shown(d, p, &p->flows[i])) {
            continue;
        }
        /* Of num_shown, evenly, those where turn * most / num_shown takes its next value. */
        if (num_shown <= most || turn * most / num_shown != (turn + 1) * most / num_shown) {
            draw_flow(d, p, &p->flows[i]);
        }
        turn++;
    }
    fputs("\"/>\n", d->out);
}

/* Frame --------------------------------------------------------------------------------------- */

/* One axis below all panels; its grid runs up behind them. */
static void draw_axis(const drawing *d)
{
    const double longest_ns = d->plot_width / d->px_per_ns;
    const epf_svg_unit unit = epf_svg_unit_for(longest_ns, 2);
    const double step = epf_svg_tick_step(longest_ns / unit.ns);
    const double top = d->panels[0].top - 4;
    const double bottom = d->height - AXIS_HEIGHT;
    fputs("<path class=\"g\" d=\"", d->out);
    for (int i = 0; i * step * unit.ns <= longest_ns * 1.0001; i++) {
        fprintf(d->out, "M%.1f %.1fV%.1f", MARGIN_LEFT + i * step * unit.ns * d->px_per_ns, top,
                bottom + 4);
    }
    fputs("\"/>\n", d->out);
    for (int i = 0; i * step * unit.ns <= longest_ns * 1.0001; i++) {
        char text[32];
        (void)snprintf(text, sizeof text, "%.6g%s%s", i * step, i == 0 ? " " : "",
                       i == 0 ? unit.name : "");
        draw_text(d, "m", MARGIN_LEFT + i * step * unit.ns * d->px_per_ns, bottom + 18, text);
    }
}

static void draw_legend(const drawing *d, double y)
{
    static const char *const idle = "idle";
    double x = MARGIN_LEFT;
    for (uint32_t i = 0; i < NUM_COLOURS; i++) {
        const char *const name = i == IDLE ? idle : epf_prof_category_names[i];
        fprintf(d->out, "<path class=\"c%u\" stroke-width=\"12\" d=\"M%.5g %.5gh18\"/>\n", i, x, y);
        draw_text(d, "", x + 24, y + 4, name);
        x += 34 + 7.2 * (double)strlen(name) + 12;
    }
    if (d->config.max_flows > 0) {
        fprintf(d->out, "<path class=\"f\" d=\"M%.5g %.5gc8 0 10 -6 18 -6\"/>\n", x, y + 3);
        draw_text(d, "", x + 24, y + 4, "send to wait");
    }
}

/* The title to the left, the workers' shares to the right, as long as the whole trace is shown. */
static void draw_panel_title(const drawing *d, const panel *p)
{
    const epf_trace_shares *const all = &p->summary->all;
    const double whole =
        (double)all->num_lanes * (double)(p->summary->end_ns - p->summary->begin_ns);
    const bool is_whole =
        whole > 0 && p->begin_ns == p->summary->begin_ns && p->end_ns == p->summary->end_ns;
    char text[160], time[32];
    int length = 0;
    if (p->title != NULL) {
        draw_text(d, "p", MARGIN_LEFT, p->top - 10, p->title);
    }
    epf_svg_format_time(time, sizeof time, (double)(p->end_ns - p->begin_ns));
    for (int i = 0; i < EPF_PROF_NUM_CATEGORIES && is_whole; i++) {
        length += snprintf(text + length, sizeof text - (size_t)length, "%s %.0f%%  \302\267  ",
                           epf_prof_category_names[i], 100 * (double)all->ns[i] / whole);
    }
    if (is_whole) {
        (void)snprintf(text + length, sizeof text - (size_t)length, "idle %.0f%%  of  %s",
                       100 * (double)all->idle_ns / whole, time);
    }
    draw_text(d, "e", d->width - MARGIN_RIGHT, p->top - 10, is_whole ? text : time);
}

static epf_status draw_panel(drawing *d, const panel *p)
{
    const double end_x = x_of(d, p, p->end_ns);
    draw_panel_title(d, p);
    fprintf(d->out, "<g stroke-width=\"%.4g\">\n", d->lane_height);
    for (uint32_t i = 0; i < p->trace->num_lanes; i++) {
        if (shown(d, &p->trace->lanes[i])) {
            EPF_TRY(draw_lane(d, p, i));
        }
    }
    fputs("</g>\n", d->out);
    draw_names(d, p);
    draw_flows(d, p);
    fprintf(d->out, "<path class=\"z\" d=\"M%.1f %.1fV%.1f\"/>\n", end_x, p->top - 4,
            panel_bottom(d, p) + 4);
    return EPF_OK;
}

static epf_status draw(drawing *d)
{
    const char *const title = d->config.title;
    fprintf(d->out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.5g %.5g\" width=\"%.5g\" "
            "height=\"%.5g\" role=\"img\">\n<title>",
            d->width, d->height, d->width, d->height);
    epf_svg_put_text(d->out, title != NULL ? title : "timeline");
    fprintf(d->out, "</title>\n%s<rect class=\"b\" width=\"%.5g\" height=\"%.5g\" rx=\"8\"/>\n",
            style, d->width, d->height);
    if (title != NULL) {
        draw_text(d, "h", MARGIN_LEFT, 28, title);
    }
    draw_axis(d);
    draw_legend(d, (title != NULL ? TITLE_HEIGHT : 8) + LEGEND_HEIGHT / 2.0);
    for (int32_t i = 0; i < d->num_panels; i++) {
        EPF_TRY(draw_panel(d, &d->panels[i]));
    }
    fputs("</svg>\n", d->out);
    return EPF_OK;
}

/* Layout -------------------------------------------------------------------------------------- */

/* What is drawn of a trace that is asked for; the caller frees p->summary and p->flows. */
static epf_status panel_open(drawing *d, panel *p, const epf_trace_panel *asked)
{
    uint64_t num_unmatched;
    p->trace = asked->trace;
    p->title = asked->title;
    EPF_TRY(epf_trace_summarize(p->trace, &p->summary));
    if (d->config.max_flows > 0) {
        EPF_TRY(epf_trace_match_flows(p->trace, &p->flows, &p->num_flows, &num_unmatched));
    }
    p->begin_ns = p->summary->begin_ns + asked->from_ns;
    p->end_ns = asked->to_ns == 0 ? p->summary->end_ns : p->summary->begin_ns + asked->to_ns;
    EPF_CHECK_ARG(p->begin_ns < p->end_ns, "picture: nothing happens from %llu to %llu ns",
                  (unsigned long long)asked->from_ns, (unsigned long long)asked->to_ns);
    for (uint32_t i = 0; i < p->trace->num_lanes; i++) {
        p->num_shown += shown(d, &p->trace->lanes[i]);
    }
    EPF_CHECK_ARG(p->num_shown > 0 && p->num_shown <= MAX_LANES_SHOWN,
                  "picture: the trace has %u workers, must be 1 .. %d", p->num_shown,
                  MAX_LANES_SHOWN);
    return EPF_OK;
}

/* Lanes share LANES_HEIGHT; all panels share one scale, the longest fills the width. */
static void place(drawing *d)
{
    uint32_t num_lanes = 0;
    double longest_ns = 0;
    double y = (d->config.title != NULL ? TITLE_HEIGHT : 8) + LEGEND_HEIGHT;
    for (int32_t i = 0; i < d->num_panels; i++) {
        num_lanes += d->panels[i].num_shown;
        longest_ns = fmax(longest_ns, (double)(d->panels[i].end_ns - d->panels[i].begin_ns));
    }
    d->lane_height = fmin(fmax(floor((double)LANES_HEIGHT / num_lanes), LANE_MIN), LANE_MAX);
    d->lane_gap = d->lane_height >= 8 ? 2 : 1;
    d->rank_gap = d->lane_height >= 8 ? 7 : 3;
    d->width = d->config.width_px;
    d->plot_width = d->width - MARGIN_LEFT - MARGIN_RIGHT;
    d->px_per_ns = d->plot_width / longest_ns;
    for (int32_t i = 0; i < d->num_panels; i++) {
        d->panels[i].top = y + PANEL_TITLE_HEIGHT;
        y = panel_bottom(d, &d->panels[i]) + PANEL_GAP;
    }
    d->height = ceil(y - PANEL_GAP + AXIS_HEIGHT + 4);
}

/* Draws with ever wider bins until the file is small enough. */
static epf_status draw_to_fit(drawing *d)
{
    const uint64_t max_bytes = d->config.max_bytes;
    for (d->bin_px = 0.5; d->bin_px <= 16; d->bin_px *= 2) {
        long size;
        d->num_bins = (uint32_t)ceil(d->plot_width / d->bin_px);
        rewind(d->out);
        EPF_TRY(draw(d));
        size = ftell(d->out);
        if (fflush(d->out) != 0 || size < 0 || ftruncate(fileno(d->out), size) != 0) {
            return EPF_FAIL(EPF_E_FILE, "picture: cannot write: %s", strerror(errno));
        }
        if ((uint64_t)size <= max_bytes) {
            return EPF_OK;
        }
    }
    return EPF_FAIL(EPF_E_CAPACITY, "picture: does not fit %llu bytes",
                    (unsigned long long)max_bytes);
}

static epf_status write_picture(drawing *d, const char *path)
{
    epf_prof_file *const file = epf_alloc(1, sizeof *file);
    epf_status st;
    d->bins = epf_alloc((size_t)ceil(d->plot_width / 0.5), NUM_COLOURS * sizeof *d->bins);
    if (file == NULL || d->bins == NULL) {
        st = EPF_FAIL(EPF_E_NO_MEMORY, "%s: no memory for buffers", path);
        goto done;
    }
    EPF_TRY_GOTO(epf_prof_file_open(file, path), done);
    d->out = file->stream;
    st = draw_to_fit(d);
    if (st == EPF_OK) {
        st = epf_prof_file_commit(file);
    }
    epf_prof_file_discard(file);
done:
    epf_free(d->bins);
    epf_free(file);
    return st;
}

epf_status epf_trace_svg(const epf_trace_panel *panels, int32_t num_panels,
                         const epf_trace_svg_config *config, const char *path)
{
    drawing *d;
    epf_status st;
    EPF_CHECK_ARG(num_panels >= 1 && num_panels <= EPF_TRACE_SVG_MAX_PANELS,
                  "picture: %d traces, must be 1 .. %d", num_panels, EPF_TRACE_SVG_MAX_PANELS);
    EPF_CHECK_ARG(config->width_px == 0 || (config->width_px >= 400 && config->width_px <= 4000),
                  "picture: width is %d, must be 400 .. 4000, or 0", config->width_px);
    EPF_CHECK_ARG(config->max_flows >= 0, "picture: max_flows is %d, must not be negative",
                  config->max_flows);
    d = epf_alloc(1, sizeof *d);
    if (d == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "picture: %zu bytes", sizeof *d);
    }
    d->config = *config;
    d->config.width_px = config->width_px == 0 ? DEFAULT_WIDTH : config->width_px;
    d->config.max_bytes = config->max_bytes == 0 ? DEFAULT_MAX_BYTES : config->max_bytes;
    d->num_panels = num_panels;
    for (int32_t i = 0; i < num_panels; i++) {
        EPF_TRY_GOTO(panel_open(d, &d->panels[i], &panels[i]), done);
    }
    place(d);
    st = write_picture(d, path);
done:
    for (int32_t i = 0; i < num_panels; i++) {
        epf_trace_summary_destroy(d->panels[i].summary);
        epf_free(d->panels[i].flows);
    }
    epf_free(d);
    return st;
}
