#!/usr/bin/env python3
"""Runs the fuzz targets of the readers side by side until each has its count of executions, or time is up.

    scripts/fuzz.py --bin build/fuzz/fuzz --seconds 600 --cores 2 [--count 100000000] [--builds guard,fuzz]
    scripts/fuzz.py --bin build/fuzz/fuzz --each 60 --cores 2 --builds fuzz         one process a target
    scripts/fuzz.py --record OUT/fuzz.txt --json bench/results/reliability.jsonl    keeps what another machine printed

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
MAX_LEN = 1024
PIECES = {"guard": 10_000_000, "fuzz": 5_000_000}
FULL = 100_000_000
CLAIM = "readers survive what a fuzzer makes of good files"
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
                   f"-max_total_time={max(1, int(min(seconds, 1e6)))}", f"-max_len={MAX_LEN}",
                   "-print_final_stats=1", "-timeout=20", "-verbosity=1", "-close_fd_mask=0",
                   f"-artifact_prefix={options.out}/crash-{build}-{target}-{self.seed}-"]
        if target in DICTS:
            command.append(f"-dict={options.dict / DICTS[target]}")
        command.append(str(grown))
        seeds = options.corpus / target
        command += [str(seeds)] if seeds.is_dir() else []
        # What is freed is kept for as long as one run may need, not for 256 MB: half the time is saved.
        environment = {"ASAN_OPTIONS": "quarantine_size_mb=1", **os.environ}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)

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


    def words(self):
        """What a finding says of itself."""
        told = re.compile(r"ERROR|SUMMARY|CHECK\(|runtime error|^\s+#[0-5] |Test unit|Base64")
        lines = [x for x in self.log.read_text(errors="replace").splitlines() if told.search(x)]
        return "\n".join("    " + x[:300] for x in lines[:30])


def next_piece(options, done, running, findings):
    """(build, target, runs) of what is furthest behind, or None."""
    if options.each:
        fresh = [k for k in done if done[k] + running[k] == 0]
        return (*fresh[0], options.count) if fresh else None
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
            pieces.append(Piece(options, build, target, runs, options.each or left, len(results) + len(pieces)))
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
                print(piece.words())
        if not pieces and (left <= 2 or next_piece(options, done, running, findings) is None):
            return results
        time.sleep(0.05)


def machine():
    names = re.findall(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return names[0] if names else "unknown", os.cpu_count()


def pack(options):
    """What was found, and in a long run what the corpora grew by, each in one archive."""
    for name, files in (("crashes", sorted(options.out.glob("crash-*"))),
                        ("corpus", [] if options.each else sorted(options.work.glob("*/*")))):
        if files:
            with tarfile.open(options.out / f"{name}.tar.gz", "w:gz") as archive:
                for file in files:
                    archive.add(file, f"{file.parent.name}/{file.name}")


def totals(options, results):
    lines = []
    for build in options.builds:
        for target in options.targets:
            own = [r for r in results if (r["build"], r["target"]) == (build, target)]
            lines.append({"target": target, "build": build, "executions": sum(r["executions"] for r in own),
                          "edges": max((r["edges"] for r in own), default=0),
                          "findings": sum(r["exit"] != 0 for r in own)})
    return lines


def record(options, run, lines):
    """The line of the results, as `epfuse verify` writes them, with what each target and build did."""
    def least(*builds):
        return min(sum(x["executions"] for x in lines if x["target"] == t and x["build"] in builds) for t in TARGETS)

    findings = sum(x["findings"] for x in lines)
    line = {"promise": "fuzz", "claim": CLAIM, "result": "FAILED" if findings else "ok",
            "done": min(FULL, least("guard", "fuzz")), "target": FULL, "full": FULL, "unit": "executions of each reader",
            "note": f"at least {least('fuzz'):,} of each under ASan and UBSan, {least('guard'):,} with a page without "
                    "access behind the input", "reason": f"{findings} findings" if findings else "", "version": "0.1.0",
            **run, "targets": lines}
    with open(options.json, "a", encoding="utf-8") as file:
        file.write(json.dumps(line, separators=(",", ":")) + "\n")


def read_printed(options):
    """What main() printed."""
    run, lines = {}, []
    for text in options.record.read_text(encoding="utf-8").splitlines():
        if text.startswith("total "):
            pairs = dict(word.split("=") for word in text.split()[1:])
            lines.append({k: int(v) if v.isdigit() else v for k, v in pairs.items()})
        elif text.startswith("run "):
            run = json.loads(text[4:])
    return run, lines


def commit():
    file = pathlib.Path(__file__).with_name("commit")
    if file.exists():
        return file.read_text(encoding="utf-8").strip()
    git = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True,
                         check=False)
    return git.stdout.strip()


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/fuzz/fuzz")
    parser.add_argument("--corpus", type=pathlib.Path, default=ROOT / "fuzz/corpus")
    parser.add_argument("--dict", type=pathlib.Path, default=ROOT / "fuzz")
    parser.add_argument("--out", type=pathlib.Path, help="where findings and new inputs go")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--each", type=float, default=0, help="seconds of one process a target and build")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--count", type=int, default=FULL)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--builds", type=lambda text: text.split(","), default=["guard", "fuzz"])
    parser.add_argument("--targets", type=lambda text: text.split(","), default=list(TARGETS))
    parser.add_argument("--json", type=pathlib.Path, help="a line is appended")
    parser.add_argument("--record", type=pathlib.Path, help="only writes the line, from what a run printed")
    return parser.parse_args()


def main():
    options = parse()
    if options.record:
        record(options, *read_printed(options))
        return 0
    with tempfile.TemporaryDirectory(prefix="epfuse-fuzz-") as work:
        options.work = pathlib.Path(work)
        options.out = options.out or pathlib.Path.cwd()
        options.out.mkdir(parents=True, exist_ok=True)
        begin = time.monotonic()
        lines = totals(options, fuzz(options))
        pack(options)
    processor, cpus = machine()
    run = {"seed": options.seed, "seconds": round(time.monotonic() - begin, 1), "rev": commit(), "device": processor,
           "cpus": cpus, "processes": options.cores}
    print("run " + json.dumps(run))
    for line in lines:
        print("total " + " ".join(f"{k}={v}" for k, v in line.items()))
    if options.json:
        record(options, run, lines)
    return int(any(line["findings"] for line in lines))


if __name__ == "__main__":
    sys.exit(main())
