#!/usr/bin/env python3
"""Makes the tables of docs/PERFORMANCE.md from the JSON lines of bench/results.

    bench/make_tables.py            writes them
    bench/make_tables.py --check    exit 1 if what is there is not what would be written

A table stands between `<!-- table NAME -->` and `<!-- end -->`; everything else is left alone.
"""
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "PERFORMANCE.md"
LAYERS = ("layer_fused", "layer_serial", "layer_unfused")


def read_lines(name):
    """The lines of one results file, the newest of each (shape, op) winning."""
    newest = {}
    for text in (ROOT / "bench" / "results" / name).read_text().splitlines():
        line = json.loads(text)
        newest[(line["shape"], line["op"])] = line
    by_shape = {}
    for (shape, op), line in newest.items():
        by_shape.setdefault(shape, {})[op] = line
    return by_shape


def duration(us):
    return f"{us / 1e6:.2f} s" if us >= 1e6 else f"{us / 1e3:.2f} ms" if us >= 1e3 else f"{us:.0f} us"


def ratio(line):
    return f"{line['ratio_p50']:.3f} ({line['ratio_low']:.3f} to {line['ratio_high']:.3f})"


def layer_table(by_shape):
    rows = ["| shape | fused | per cent of floor | serial | unfused | unfused / fused | unfused / serial | tiles, GFLOP/s | "
            "of the dense product | dispatch + combine, GB/s | of memcpy |",
            "|---|---|---|---|---|---|---|---|---|---|---|"]
    for shape, ops in by_shape.items():
        fused, serial, unfused = (ops[name] for name in LAYERS)
        moves = [ops["unfused_dispatch"], ops["unfused_combine"]]
        copied = sum(m["gbs"] * m["us_p50"] for m in moves) / sum(m["us_p50"] for m in moves)
        rows.append(
            f"| `{shape}` | {duration(fused['us_p50'])} | {fused['pct_floor']:.0f} | "
            f"{duration(serial['us_p50'])} | {duration(unfused['us_p50'])} | "
            f"{ratio(ops['unfused_over_fused'])} | {ratio(ops['unfused_over_serial'])} | {fused['tile_gflops']:.0f} | "
            f"{100 * fused['tile_gflops'] / fused['dense_gflops']:.0f} % | {copied:.2f} | "
            f"{100 * copied / fused['copy_gbs']:.0f} % |")
    return rows


def ceiling_table(by_shape):
    rows = ["| shape | threads | dense product, GFLOP/s | memcpy, GB/s | library | runs | commit | device |",
            "|---|---|---|---|---|---|---|---|"]
    for shape, ops in by_shape.items():
        line = ops["layer_fused"]
        rows.append(f"| `{shape}` | {line['threads']} | {line['dense_gflops']:.0f} | {line['copy_gbs']:.1f} | "
                    f"{line['library']} | {line['n']} | {line['rev']} | {line['device']} |")
    return rows


def main():
    lines = read_lines("cpu-layer.jsonl")
    tables = {"cpu-layer": layer_table(lines), "cpu-ceilings": ceiling_table(lines)}
    page = PAGE.read_text()
    made = page
    for name, rows in tables.items():
        pattern = rf"(<!-- table {name} -->\n).*?(<!-- end -->)"
        if not re.search(pattern, made, re.S):
            sys.exit(f"{PAGE}: no place for table {name}")
        made = re.sub(pattern, lambda m, rows=rows: m[1] + "\n".join(rows) + "\n" + m[2], made, flags=re.S)
    if "--check" in sys.argv:
        sys.exit(0 if made == page else f"{PAGE} is not what bench/results says: run bench/make_tables.py")
    PAGE.write_text(made)


if __name__ == "__main__":
    main()
