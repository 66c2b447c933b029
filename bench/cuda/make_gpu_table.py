#!/usr/bin/env python3
"""Writes the tables of docs/performance-gpu.md from bench/results/gpu-*.jsonl.

  make_gpu_table.py [--check]      --check: changes nothing; exit 1 if the document is out of date
"""
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "performance-gpu.md"
RESULTS = ROOT / "bench" / "results" / "gpu-h100.jsonl"
BEGIN, END = "<!-- table: {} -->", "<!-- end -->"
# shape: experts, rows, N, K, at least this times cuBLAS dense, and torch's grouped GEMM
SHAPES = {
    "dsv3_gemm1": ("32", "32768", "4096", "7168", 1.01, 1.05),
    "dsv3_gemm2": ("32", "32768", "7168", "2048", 0.95, 1.12),
    "qwen235_gemm1": ("16", "32768", "3072", "4096", 1.05, 1.08),
    "qwen235_gemm2": ("16", "32768", "4096", "1536", 1.10, 1.22),
    "mixtral_gemm1": ("1", "8192", "28672", "4096", 1.05, 1.05),
    "original_test": ("8", "8192", "960", "1536", 0.98, 1.57),
    "original_example": ("8", "2048", "2048", "7168", 0.70, 1.40),
}
FORMS = ("store", "swiglu", "swiglu_raw", "gather", "gkn", "rowptr", "wgrad", "f16")


def load():
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    return {(line["shape"], line["name"]): line for line in lines}, lines[0]


def mark(value, target):
    return f"{value:.3f}{'' if value >= target else ' (' + format(target, '.2f') + ')'}"


def main_table(results, machine):
    yield (f"{machine['device']}, torch {machine['torch']}, commit {machine['commit']}, {machine['rounds']} rounds; "
           f"8192^3 product {machine['matrix_tflops']:.0f} TFLOP/s, copy {machine['copy_gbs']:.0f} GB/s. "
           "In brackets: a target that is not reached.")
    yield ""
    yield "| shape | G | rows | N | K | us | TFLOP/s | % of matrix rate | x cuBLAS dense | x torch grouped |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for shape, (g, rows, n, k, dense, grouped) in SHAPES.items():
        line = results[shape, "store"]
        yield (f"| {shape} | {g} | {rows} | {n} | {k} | {line['us_p50']:.1f} | {line['tflops']:.0f} "
               f"| {100 * line['tflops'] / machine['matrix_tflops']:.0f} "
               f"| {mark(line['over_cublas_dense'], dense)} | {mark(line['over_torch_grouped'], grouped)} |")


def form_table(results, _):
    yield "| shape | " + " | ".join(FORMS) + " |"
    yield "|---" * (len(FORMS) + 1) + "|"
    for shape in [*SHAPES, "dsv3_decode"]:
        cells = (f"{results[shape, form]['tflops']:.0f}" for form in FORMS)
        yield f"| {shape} | " + " | ".join(cells) + " |"


def decode_table(results, _):
    yield "| what | us | % of the time to read the weights at the copy bandwidth |"
    yield "|---|---|---|"
    for name in ("torch_grouped", "cublas_loop", "store", "swiglu", "gather", "gkn", "f16"):
        line = results["dsv3_decode", name]
        yield f"| {name} | {line['us_p50']:.1f} | {line['pct_floor']:.1f} |"


def main():
    results, machine = load()
    old = DOCUMENT.read_text()
    new = old
    for name, table in (("main", main_table), ("forms", form_table), ("decode", decode_table)):
        begin = BEGIN.format(name)
        head, rest = new.split(begin, 1)
        new = head + begin + "\n" + "\n".join(table(results, machine)) + "\n" + END + rest.split(END, 1)[1]
    if "--check" not in sys.argv:
        DOCUMENT.write_text(new)
    elif new != old:
        print(f"{DOCUMENT} is out of date: run {sys.argv[0]}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
