#!/usr/bin/env python3
"""Tables and a plot of node.py's results.

  make_node_table.py RESULTS.jsonl... [--document FILE.md] [--plot FILE.svg]

Prints the tables as Markdown.  --document writes them between "<!-- table: node -->" and "<!-- end -->" instead;
--plot draws the layer's time beside its floor and the unfused side's (needs matplotlib).
"""
import argparse
import json
import pathlib
import sys

BEGIN, END = "<!-- table: node -->", "<!-- end -->"
PHASES = ("preprocess", "dispatch", "combine", "layer", "backward", "dispatch alone", "combine alone")
# What is aimed at on 8 GPUs: the layer within this many times its floor, over the unfused side, of the link alone.
MOST_OVER_FLOOR, LEAST_OVER_UNFUSED, LEAST_OF_LINK = 1.10, 1.4, 85.0
UNFUSED_TARGET = ("dsv3", "qwen3-235b")


def load(paths):
    return [json.loads(line) for path in paths for line in path.read_text().splitlines() if line]


def runs_of(lines):
    """{(ranks, gpus, mode, mps): lines}, several GPUs first."""
    runs = {}
    for line in lines:
        runs.setdefault((line["ranks"], line["gpus"], line["mode"], line.get("mps", False)), []).append(line)
    return dict(sorted(runs.items(), key=lambda item: (-item[0][1], item[0][0])))


def describe(lines):
    line = lines[-1]
    link = f"link {line['link_gbs']:.0f} GB/s" if line.get("link_gbs") else "no link"
    sharing = "" if line["ranks"] == line["gpus"] else ", which share the GPU" if line["gpus"] == 1 else ", which share"
    return (f"{line['ranks']} ranks ({line['mode']}{', MPS' if line.get('mps') else ''}) on {line['gpus']} "
            f"{line['device']}{sharing}; commit {line['commit'] or 'not named'}, torch {line['torch']}; of each rank: "
            f"8192^3 product {line['matrix_tflops']:.0f} TFLOP/s, copy {line['copy_gbs']:.0f} GB/s, {link}.")


def cases_of(lines):
    """{(shape, tokens, routing): {(phase, name): line}} in the order of the run."""
    cases = {}
    for line in lines:
        if line["op"] in PHASES and not line.get("sweep"):
            cases.setdefault((line["shape"], line["tokens"], line["routing"]), {})[line["op"], line["name"]] = line
    return cases


def us(line):
    return f"{line['us_p50']:.0f}" if line and line["us_p50"] >= 100 else f"{line['us_p50']:.1f}" if line else "-"


def unfused_of(case, phase):
    """The fastest of the unfused contenders."""
    others = [line for (of, name), line in case.items() if of == phase and "+" in name]
    return min(others, key=lambda line: line["us_p50"], default=None)


def best_of(case, phase):
    """The fastest of ours."""
    ours = [line for (of, name), line in case.items() if of == phase and "+" not in name]
    return min(ours, key=lambda line: line["us_p50"], default=None)


def times(cases):
    """Phase by phase: ours, and times faster than the fastest unfused contender."""
    yield "| shape | tokens | routing | " + " | ".join(PHASES[:5]) + " | combine, fuse_scatter over serial | rounds |"
    yield "|---" * 10 + "|"
    for (shape, tokens, routing), case in cases.items():
        cells = []
        for phase in PHASES[:5]:
            ours, other = best_of(case, phase), unfused_of(case, phase)
            over = f" ({other['us_p50'] / ours['us_p50']:.2f} x)" if ours and other else ""
            cells.append(us(ours) + over)
        rounds = min(line["rounds"] for line in case.values())
        scatter, serial = (case.get(("combine", name)) for name in ("fused", "serial"))
        over = f"{serial['us_p50'] / scatter['us_p50']:.2f} x" if scatter and serial else "-"
        yield f"| {shape} | {tokens} | {routing} | " + " | ".join(cells) + f" | {over} | {rounds} |"


def floors(cases):
    yield "| shape | tokens | routing | layer | floor | per cent | bound by | unfused | over unfused | rows that cross, saved |"
    yield "|---" * 10 + "|"
    for (shape, tokens, routing), case in cases.items():
        ours, other = best_of(case, "layer"), unfused_of(case, "layer")
        if not ours:
            continue
        over = other["us_p50"] / ours["us_p50"] if other else 0.0
        missed = over < LEAST_OVER_UNFUSED and shape in UNFUSED_TARGET
        far = ours["us_p50"] > MOST_OVER_FLOOR * ours["floor_us"]
        yield (f"| {shape} | {tokens} | {routing} | {us(ours)} | {ours['floor_us']:.0f} | {ours['pct_floor']:.0f}"
               f"{f' ({100 / MOST_OVER_FLOOR:.0f})' if far else ''} | {ours['bound']} | {us(other)} | "
               f"{over:.2f}{f' ({LEAST_OVER_UNFUSED})' if missed else ''} | {100 * ours.get('saved', 0):.0f} % |")


def links(lines, cases):
    rates = {line["name"]: line["gbs"] for line in lines if line["op"] == "link"}
    if not rates:
        return
    groups = {"one way": [], "both ways": []}
    for name, gbs in rates.items():
        if " to " in name and name != "all to all":
            groups["one way"].append(gbs)
        elif "both ways" in name:
            groups["both ways"].append(gbs)
    yield "| copies, GB/s out of each GPU | least | most |"
    yield "|---|---|---|"
    for name, found in {**groups, **{name: [rates[name]] for name in ("ring", "all to all") if name in rates}}.items():
        if found:
            yield f"| {name} | {min(found):.0f} | {max(found):.0f} |"
    yield ""
    yield "| alone | tokens | routing | what | us | GB/s | per cent of the link |"
    yield "|---" * 7 + "|"
    for (shape, tokens, routing), case in cases.items():
        for phase in PHASES[5:]:
            for (of, name), line in case.items():
                if of == phase and "gbs" in line:
                    percent = 100 * line["gbs"] / line["link_gbs"] if line.get("link_gbs") else 0.0
                    below = "+" not in name and percent < LEAST_OF_LINK
                    yield (f"| {shape} | {tokens} | {routing} | {phase.split()[0]}, {name} | {us(line)} | {line['gbs']:.0f} | "
                           f"{percent:.0f}{f' ({LEAST_OF_LINK:.0f})' if below else ''} |")


def swept(lines):
    """Each setting's time over the default's."""
    found = {}
    for line in lines:
        if line.get("sweep"):
            found.setdefault((line["shape"], line["tokens"], line["op"]), {})[line["name"]] = line
    if not found:
        return
    yield "| shape | tokens | phase | setting | us | times the default |"
    yield "|---" * 6 + "|"
    for (shape, tokens, phase), settings in found.items():
        for name, line in settings.items():
            plain = settings.get("serial" if name.startswith("serial") else "default", line)
            yield (f"| {shape} | {tokens} | {phase} | {name} | {us(line)} | "
                   f"{line['us_p50'] / plain['us_p50']:.3f} |")


def tables(lines):
    for run in runs_of(lines).values():
        cases = cases_of(run)
        yield describe(run)
        bad = [line for line in run if line["op"] == "error" and
               any(error == "inf" or error > 2e-2 for error in line["errors"].values())]
        yield f"Results that disagree: {len(bad)}. In brackets: a target for 8 GPUs that is not reached."
        parts = (("Microseconds, and times the fastest unfused contender", times(cases)),
                 ("The whole layer, microseconds", floors(cases)), ("Links", links(run, cases)),
                 ("Communication workers", swept(run)))
        for title, part in parts:
            rows = list(part)
            if len(rows) > 2:
                yield from ("", f"**{title}**", "", *rows)
        yield ""


def plot(lines, path):
    import matplotlib
    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    run = next(iter(runs_of(lines).values()))
    cases = {key: case for key, case in cases_of(run).items() if best_of(case, "layer")}
    shapes = list(dict.fromkeys(shape for shape, _, _ in cases))
    figure, axes = plt.subplots(1, len(shapes), figsize=(3.4 * len(shapes), 3.2), squeeze=False)
    for axis, shape in zip(axes[0], shapes):
        for routing, style in (("uniform", "-"), ("zipf", "--")):
            points = sorted((tokens, case) for (of, tokens, by), case in cases.items() if of == shape and by == routing)
            if not points:
                continue
            x = [tokens for tokens, _ in points]
            ours = [best_of(case, "layer") for _, case in points]
            unfused = [unfused_of(case, "layer") for _, case in points]
            axis.plot(x, [line["us_p50"] for line in ours], "C0o" + style, label=f"fused, {routing}")
            axis.plot(x, [line["floor_us"] for line in ours], "k." + style, label=f"floor, {routing}", linewidth=0.8)
            if all(unfused):
                axis.plot(x, [line["us_p50"] for line in unfused], "C1s" + style, label=f"unfused, {routing}")
        axis.set(title=shape, xscale="log", yscale="log", xlabel="tokens a rank")
        axis.set_xticks(sorted({tokens for of, tokens, _ in cases if of == shape}))
        axis.get_xaxis().set_major_formatter(matplotlib.ticker.ScalarFormatter())
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("us, the whole layer")
    axes[0][-1].legend(fontsize=7)
    line = run[-1]
    figure.suptitle(f"{line['ranks']} ranks on {line['gpus']} {line['device']}, commit {line['commit']}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=pathlib.Path, nargs="+")
    parser.add_argument("--document", type=pathlib.Path)
    parser.add_argument("--plot", type=pathlib.Path)
    options = parser.parse_args()
    lines = load(options.results)
    if not lines:
        sys.exit("make_node_table.py: no results")
    text = "\n".join(tables(lines)).rstrip() + "\n"
    if options.document:
        old = options.document.read_text()
        if BEGIN not in old:
            sys.exit(f"make_node_table.py: {options.document} has no {BEGIN}")
        head, rest = old.split(BEGIN, 1)
        options.document.write_text(head + BEGIN + "\n" + text + END + rest.split(END, 1)[1])
    else:
        print(text, end="")
    if options.plot:
        plot(lines, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
