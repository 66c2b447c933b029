#!/usr/bin/env python3
"""Runs the fuzz targets of the readers side by side until each has its count of executions, or time is up.

    scripts/fuzz.py --bin build/fuzz/fuzz --seconds 600 --cores 2 [--count 100000000] [--builds guard,fuzz]

Every target has two builds: `fuzz_NAME` under ASan and UBSan, `guard_NAME` without them (fuzz/CMakeLists.txt).
Work is cut into pieces with a seed each; the build named first is served first, and of one build the target
that is furthest behind.  One line a piece, one line a target and build at the end; 1 where anything was found.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import time

TARGETS = ("safetensors", "index", "config", "npy", "trace", "frames")
DICTS = {"safetensors": "json.dict", "index": "json.dict", "config": "json.dict", "npy": "npy.dict"}
MAX_LEN = {"safetensors": 2048, "index": 1024, "config": 1024, "npy": 512, "trace": 1024, "frames": 512}
PIECES = {"guard": 10_000_000, "fuzz": 5_000_000}
ROOT = pathlib.Path(__file__).resolve().parent.parent


class Piece:
    """One process."""

    def __init__(self, options, build, target, runs, seconds, number):
        self.build, self.target, self.runs, self.begin = build, target, runs, time.monotonic()
        self.seed = options.seed + number
        self.log = options.work / f"{build}-{target}-{self.seed}.log"
        grown = options.work / target
        grown.mkdir(exist_ok=True)
        command = [str(options.bin / f"{build}_{target}"), f"-seed={self.seed}", f"-runs={runs}",
                   f"-max_total_time={max(1, int(seconds))}", f"-max_len={MAX_LEN[target]}",
                   "-print_final_stats=1", "-timeout=20", "-verbosity=1", "-close_fd_mask=0",
                   f"-artifact_prefix={options.out}/crash-{build}-{target}-{self.seed}-"]
        if target in DICTS:
            command.append(f"-dict={options.dict / DICTS[target]}")
        command.append(str(grown))
        seeds = options.corpus / target
        command += [str(seeds)] if seeds.is_dir() else []
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def result(self):
        text = self.log.read_text(errors="replace")
        count = re.findall(r"number_of_executed_units:\s*(\d+)", text)
        edges = re.findall(r"cov: (\d+)", text)
        if not count:  # a finding: the last line of progress
            count = re.findall(r"^#(\d+)\t", text, re.M)[-1:]
        seconds = time.monotonic() - self.begin
        executions = int(count[0]) if count else 0
        return {"target": self.target, "build": self.build, "seed": self.seed, "executions": executions,
                "per_second": round(executions / seconds), "edges": int(edges[-1]) if edges else 0,
                "exit": self.process.returncode}


def next_piece(options, done, running, findings):
    """(build, target, runs) of what is furthest behind, or None."""
    for build in options.builds:
        waiting = {t: done[build, t] + running[build, t] for t in options.targets
                   if findings[build, t] < 2 and done[build, t] + running[build, t] < options.count}
        if waiting:
            target = min(waiting, key=waiting.get)
            return build, target, min(PIECES[build], options.count - waiting[target])
    return None


def fuzz(options):
    keys = [(b, t) for b in options.builds for t in options.targets]
    done, running, findings = ({k: 0 for k in keys} for _ in range(3))
    pieces, results, begin = [], [], time.monotonic()
    while True:
        left = options.seconds - (time.monotonic() - begin)
        while left > 2 and len(pieces) < options.cores:
            chosen = next_piece(options, done, running, findings)
            if chosen is None:
                break
            build, target, runs = chosen
            pieces.append(Piece(options, build, target, runs, left, len(results) + len(pieces)))
            running[build, target] += runs
        for piece in [p for p in pieces if p.process.poll() is not None]:
            pieces.remove(piece)
            result, key = piece.result(), (piece.build, piece.target)
            running[key] -= piece.runs
            done[key] += result["executions"]
            findings[key] += result["exit"] != 0
            results.append(result)
            print(" ".join(f"{k}={v}" for k, v in result.items()), flush=True)
            if result["exit"] != 0:
                print("    " + "\n    ".join(piece.log.read_text(errors="replace").splitlines()[-25:]))
        if not pieces and (left <= 2 or next_piece(options, done, running, findings) is None):
            return results
        time.sleep(0.05)


def machine():
    names = re.findall(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return f"{names[0] if names else 'unknown'}, {os.cpu_count()} CPUs"


def pack(options):
    """What was found, and what the corpora grew by, each in one archive."""
    for name, files in (("crashes", sorted(options.out.glob("crash-*"))),
                        ("corpus", sorted(options.work.glob("*/*")))):
        if files:
            with tarfile.open(options.out / f"{name}.tar.gz", "w:gz") as archive:
                for file in files:
                    archive.add(file, f"{file.parent.name}/{file.name}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/fuzz/fuzz")
    parser.add_argument("--corpus", type=pathlib.Path, default=ROOT / "fuzz/corpus")
    parser.add_argument("--dict", type=pathlib.Path, default=ROOT / "fuzz")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--count", type=int, default=100_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--builds", type=lambda text: text.split(","), default=["guard", "fuzz"])
    parser.add_argument("--targets", type=lambda text: text.split(","), default=list(TARGETS))
    parser.add_argument("--json", type=pathlib.Path, help="appends a line for each target and build")
    return parser.parse_args()


def main():
    options = parse()
    options.work = pathlib.Path(tempfile.mkdtemp(prefix="epfuse-fuzz-"))
    options.out = options.out or options.work
    options.out.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    results = fuzz(options)
    print(f"machine: {machine()}; cores {options.cores}; {time.monotonic() - begin:.0f} s; "
          f"first seed {options.seed}")
    failed = 0
    for build in options.builds:
        for target in options.targets:
            own = [r for r in results if (r["build"], r["target"]) == (build, target)]
            findings = sum(r["exit"] != 0 for r in own)
            failed += findings
            line = {"target": target, "build": build, "executions": sum(r["executions"] for r in own),
                    "edges": max((r["edges"] for r in own), default=0), "findings": findings}
            print("total " + " ".join(f"{k}={v}" for k, v in line.items()))
            if options.json:
                with open(options.json, "a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
    pack(options)
    return int(failed > 0)


sys.exit(main())
