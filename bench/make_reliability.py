#!/usr/bin/env python3
"""Makes the tables of docs/RELIABILITY.md and docs/reliability/readers.md from the JSON lines that `epfuse verify --json`
and `scripts/fuzz.py --json` wrote.

    bench/make_reliability.py            writes them
    bench/make_reliability.py --check    exit 1 if what is there is not what would be written

Of several runs of a promise the last one that went furthest counts, but a failure hides what went before it, and only a
run that went at least as far hides a failure.  A table stands between `<!-- table NAME -->` and `<!-- end -->`; everything
else is left alone.
"""
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "RELIABILITY.md"
READERS = ROOT / "docs" / "reliability" / "readers.md"
RESULTS = ROOT / "bench" / "results"

# What others show for the same promise, as far as we know; "" where we know of nothing.
PEERS = {
    "routing": "",
    "layers": "row order depends on timing in the original, unless indices are given",
    "kills": "FlashInfer tests the eviction of a rank; NCCL has an abort flag and RAS; in DeepEP and NCCL EP the trap that "
             "ends a wait takes the CUDA context with it",
    "stops": "DeepEP and NCCL EP bound their waits, and trap; the original waits for ever",
    "leftovers": "",
    "bad-routing": "",
    "skew": "",
    "capacity": "",
    "huge": "the original's 32-bit offsets end at about 300,000 rows of 7168",
    "checks": "",
    "parameters": "",
    "allocations": "SQLite fails every allocation in its tests",
    "readers": "",
    "fuzz": "",
    "others": "",
    "protocol": "none of the fused peers checks its protocol by a model",
    "simulator": "TigerBeetle simulates from a seed; none of the fused peers does",
    "twins": "",
    "clean": "mimalloc has sanitizer builds; none of the fused peers checks its protocol under ThreadSanitizer",
}


def read_lines():
    return [json.loads(text) for path in sorted(RESULTS.glob("reliability*.jsonl")) for text in path.read_text().splitlines()]


def choose_runs(lines):
    """The run that counts for each promise, in the order of first appearance."""
    runs = {}
    for line in lines:
        best = runs.get(line["promise"])
        is_better = best is None or line["result"] == "FAILED" or line["done"] >= best["done"]
        if is_better:
            runs[line["promise"]] = line
    return [runs[name] for name in PEERS if name in runs]


def duration(seconds):
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def figure(line):
    if line["result"] == "skipped":
        return line["reason"]
    count = f"{line['done']:,}"
    if 0 < line["full"] != line["done"]:
        count += f" of {line['full']:,}"
    return f"{count} {line['unit']}, {duration(line['seconds'])}"


def promise_table(runs):
    rows = ["| | promise | held | what was run | measured | peers |", "|---|---|---|---|---|---|"]
    for line in runs:
        held = {"ok": "yes", "FAILED": "**no**: " + line["reason"], "skipped": "not run"}[line["result"]]
        rows.append(f"| `{line['promise']}` | {line['claim']} | {held} | {figure(line)} | "
                    f"{line['note']} | {PEERS[line['promise']]} |".replace("|  |", "| |"))
    return rows


def run_table(runs):
    rows = ["| promises | seed | commit | processor | CPUs |", "|---|---|---|---|---|"]
    groups = {}
    for line in runs:
        seed = line["seed"] if line["full"] > 0 else "the programs' own"
        key = (seed, line["rev"], line["device"], line["cpus"])
        groups.setdefault(key, []).append(f"`{line['promise']}`")
    for (seed, rev, device, cpus), names in groups.items():
        rows.append(f"| {', '.join(names)} | {seed} | {rev} | {device} | {cpus} |")
    return rows


def sum_line(runs):
    counts = [sum(line["result"] == kind for line in runs) for kind in ("ok", "FAILED", "skipped")]
    counted = [line for line in runs if line["full"] > 0]
    full = sum(line["result"] == "ok" and line["done"] >= line["full"] for line in counted)
    return [f"{counts[0]} passed, {counts[1]} failed, {counts[2]} skipped. {full} of the {len(counted)} that have a figure "
            "reached it."]


def fuzz_table(lines):
    """All runs together: executions of each reader and build, and the most edges that one process saw."""
    rows = ["| reader | under ASan and UBSan | edges | with a page behind the input | edges | findings |",
            "|---|---|---|---|---|---|"]
    targets = {}
    for line in lines:
        for part in line["targets"]:
            builds = targets.setdefault(part["target"], {"fuzz": [0, 0], "guard": [0, 0], "findings": 0})
            own = builds[part["build"]]
            own[0] += part["executions"]
            own[1] = max(own[1], part["edges"])
            builds["findings"] += part["findings"]
    for name, b in targets.items():
        rows.append(f"| {name} | {b['fuzz'][0]:,} | {b['fuzz'][1]} | {b['guard'][0]:,} | {b['guard'][1]} | {b['findings']} |")
    return rows


def fuzz_run_table(lines):
    rows = ["| processor | CPUs | processes | time | first seed | commit | executions |", "|---|---|---|---|---|---|---|"]
    for line in lines:
        count = sum(part["executions"] for part in line["targets"])
        rows.append(f"| {line['device']} | {line['cpus']} | {line['processes']} | {duration(line['seconds'])} | {line['seed']} | "
                    f"{line['rev']} | {count:,} |")
    return rows


def fill(page, tables):
    """The page's text as it is and as it should be."""
    text = page.read_text()
    made = text
    for name, rows in tables.items():
        pattern = rf"(<!-- table {name} -->\n).*?(<!-- end -->)"
        if not re.search(pattern, made, re.S):
            sys.exit(f"{page}: no place for table {name}")
        made = re.sub(pattern, lambda m, rows=rows: m[1] + "\n".join(rows) + "\n" + m[2], made, flags=re.S)
    return text, made


def main():
    lines = read_lines()
    runs = choose_runs(lines)
    fuzzed = [line for line in lines if "targets" in line]
    pages = {PAGE: {"promises": promise_table(runs), "runs": run_table(runs), "sum": sum_line(runs)},
             READERS: {"fuzz": fuzz_table(fuzzed), "fuzz-runs": fuzz_run_table(fuzzed)}}
    for page, tables in pages.items():
        text, made = fill(page, tables)
        if text != made and "--check" in sys.argv:
            sys.exit(f"{page} is not what bench/results says: run bench/make_reliability.py")
        if text != made:
            page.write_text(made)


if __name__ == "__main__":
    main()
