/* cli_plan_print.c: a plan as a table or as JSON. */
#include <stdio.h>

#include "cli_json.h"
#include "cli_plan.h"
#include "cli_text.h"
#include "core/epf_dtype.h"

enum { BAR_COLUMNS = 24 };

static void print_memory(const plan *p)
{
    char text[CLI_NUMBER_BYTES], bar[CLI_BAR_BYTES], set[32];
    uint64_t small = 0, padding = 0;

    printf("%ssymmetric memory of a rank, capacity %g%s\n", cli_bold(), p->capacity, cli_plain());
    for (int32_t i = 0; i < p->num_buffers; i++) {
        const epf_buffer_info *b = &p->buffers[i];
        padding += b->padding;
        if (b->bytes * 1000 < p->symmetric_bytes) {
            small += b->bytes;
            continue;
        }
        if (p->num_sets > 1 && b->buffer_set >= 0) {
            (void)snprintf(set, sizeof set, " set %d", b->buffer_set);
        } else {
            (void)snprintf(set, sizeof set, "%*s", p->num_sets > 1 ? 6 : 0, "");
        }
        cli_line("  %-16s%s %10s  %s", b->name, set, cli_bytes((double)b->bytes, text),
                 cli_bar((double)b->bytes, (double)p->symmetric_bytes, BAR_COLUMNS, bar));
    }
    printf("  %-16s%s %10s\n", "small ones", p->num_sets > 1 ? "      " : "",
           cli_bytes((double)(small + padding), text));
    printf("  %-16s%s %10s  (%llu bytes)\n\n", "all", p->num_sets > 1 ? "      " : "",
           cli_bytes((double)p->symmetric_bytes, text), (unsigned long long)p->symmetric_bytes);
}

static void print_row(const char *name, const char *unit, double first, double second)
{
    char a[CLI_NUMBER_BYTES], b[CLI_NUMBER_BYTES], c[CLI_NUMBER_BYTES];
    printf("%-34s %18s %18s %12s\n", name, cli_si(first, unit, a), cli_si(second, unit, b),
           cli_si(first + second, unit, c));
}

static void print_floor(const char *name, const plan_floor *f)
{
    char a[CLI_NUMBER_BYTES], b[CLI_NUMBER_BYTES];
    char first[64], second[64];
    (void)snprintf(first, sizeof first, "%s %s", f->dispatch_limit, cli_time(f->dispatch, a));
    (void)snprintf(second, sizeof second, "%s %s", f->combine_limit, cli_time(f->combine, b));
    printf("%-34s %18s %18s %12s\n", name, first, second, cli_time(f->both, a));
}

static void print_floors(const plan *p)
{
    const bool is_half = epf_dtype_bytes(p->shape.dtype) == 2;
    plan_floor f = plan_floor_of(p, &cli_rates_h100_spec);

    printf("\n%sfloor, and what binds%s%s\n", cli_bold(), cli_plain(),
           is_half ? "" : "; the matrix rates of the H100 are those of bf16 all the same");
    print_floor(cli_rates_h100_spec.name, &f);
    f = plan_floor_of(p, &cli_rates_h100_sustained);
    print_floor(cli_rates_h100_sustained.name, &f);
    f = plan_floor_in_turns(p, &cli_rates_h100_sustained);
    f.dispatch_limit = f.combine_limit = "";
    print_floor("  without overlap of the two", &f);
    if (p->has_machine) {
        f = plan_floor_here(p);
        print_floor("all ranks on this machine", &f);
    }
    printf(
        "\nrates: datasheet %.0f TFLOP/s bf16, %.2f TB/s memory, %.0f GB/s links; sustained %.0f, "
        "%.2f, %.0f",
        cli_rates_h100_spec.flop_per_s / 1e12, cli_rates_h100_spec.memory_bytes_per_s / 1e12,
        cli_rates_h100_spec.link_bytes_per_s / 1e9, cli_rates_h100_sustained.flop_per_s / 1e12,
        cli_rates_h100_sustained.memory_bytes_per_s / 1e12,
        cli_rates_h100_sustained.link_bytes_per_s / 1e9);
    if (p->has_machine) {
        char flop[CLI_NUMBER_BYTES], memory[CLI_NUMBER_BYTES];
        printf("; here %s, %s with %d threads", cli_si(p->machine.flop_per_s, "FLOP/s", flop),
               cli_si(p->machine.memory_bytes_per_s, "B/s", memory), p->num_threads);
    }
    printf("\n");
}

void plan_print_table(const plan *p)
{
    const cli_shape *s = &p->shape;
    const double row = epf_dtype_bytes(s->dtype) * (double)s->hidden;

    printf("%sepfuse plan%s  %s\n", cli_bold(), cli_plain(), p->name);
    printf("H %lld, GEMM 1 writes %lld columns, GEMM 2 reads %lld, E %d, K %d, %s\n",
           (long long)s->hidden, (long long)s->gemm1_columns, (long long)s->intermediate,
           s->num_experts, s->topk, epf_dtype_name(s->dtype));
    printf(
        "%d rank%s of %d tokens, uniform routing: %.0f rows, %.1f of %d experts used on each\n\n",
        s->num_ranks, s->num_ranks == 1 ? "" : "s", p->tokens, p->work.rows, p->work.experts,
        s->num_experts / s->num_ranks);
    print_memory(p);
    printf("%s%-34s %18s %18s %12s%s\n", cli_bold(), "each rank", "dispatch + GEMM 1",
           "GEMM 2 + combine", "both", cli_plain());
    print_row("arithmetic", "FLOP", p->dispatch.flop, p->combine.flop);
    print_row("memory, read and written", "B", p->dispatch.memory_bytes, p->combine.memory_bytes);
    print_row("links, out", "B", p->dispatch.link_bytes, p->combine.link_bytes);
    print_row("links, out, without token saving", "B", p->work.slots * row, p->combine.link_bytes);
    if (p->work.slots > 0) {
        printf("a token goes to %.2f other ranks: %.0f %% saved by sending it to each once\n",
               p->work.sent / p->work.tokens, 100 * (1 - p->work.sent / p->work.slots));
    }
    print_floors(p);
}

/* ---- JSON ---- */

static json_t *cost_json(const cli_cost *c)
{
    return json_pack("{s:f, s:f, s:f}", "flop", c->flop, "memory_bytes", c->memory_bytes,
                     "link_bytes", c->link_bytes);
}

static json_t *floor_json(const plan_floor *f)
{
    return json_pack("{s:f, s:f, s:f, s:s, s:s}", "dispatch_seconds", f->dispatch,
                     "combine_seconds", f->combine, "seconds", f->both, "dispatch_limit",
                     f->dispatch_limit, "combine_limit", f->combine_limit);
}

static json_t *floors_json(const plan *p)
{
    const plan_floor spec = plan_floor_of(p, &cli_rates_h100_spec);
    const plan_floor sustained = plan_floor_of(p, &cli_rates_h100_sustained);
    const plan_floor turns = plan_floor_in_turns(p, &cli_rates_h100_sustained);
    json_t *floors =
        json_pack("{s:o, s:o, s:o}", "h100_datasheet", floor_json(&spec), "h100_sustained",
                  floor_json(&sustained), "h100_in_turns", floor_json(&turns));
    if (p->has_machine) {
        const plan_floor here = plan_floor_here(p);
        (void)json_object_set_new(floors, "this_machine", floor_json(&here));
    }
    return floors;
}

static json_t *memory_json(const plan *p)
{
    json_t *buffers = json_array();
    for (int32_t i = 0; i < p->num_buffers; i++) {
        const epf_buffer_info *b = &p->buffers[i];
        (void)json_array_append_new(
            buffers, json_pack("{s:s, s:i, s:I, s:I}", "name", b->name, "set", b->buffer_set,
                               "bytes", (json_int_t)b->bytes, "padding", (json_int_t)b->padding));
    }
    return json_pack("{s:I, s:f, s:o}", "bytes", (json_int_t)p->symmetric_bytes, "capacity",
                     p->capacity, "buffers", buffers);
}

epf_status plan_print_json(const plan *p)
{
    const cli_shape *s = &p->shape;
    json_t *shape =
        json_pack("{s:I, s:I, s:I, s:i, s:i, s:i, s:i, s:s}", "hidden", (json_int_t)s->hidden,
                  "gemm1_columns", (json_int_t)s->gemm1_columns, "intermediate",
                  (json_int_t)s->intermediate, "num_experts", s->num_experts, "topk", s->topk,
                  "ranks", s->num_ranks, "tokens", p->tokens, "dtype", epf_dtype_name(s->dtype));
    return cli_json_print(
        json_pack("{s:s, s:o, s:o, s:o, s:f, s:f, s:f, s:o, s:o, s:o}", "version", epf_version(),
                  "name", cli_json_text(p->name), "shape", shape, "symmetric_memory",
                  memory_json(p), "rows_per_rank", p->work.rows, "tokens_sent", p->work.sent,
                  "tokens_sent_without_saving", p->work.slots, "dispatch", cost_json(&p->dispatch),
                  "combine", cost_json(&p->combine), "floors", floors_json(p)));
}
