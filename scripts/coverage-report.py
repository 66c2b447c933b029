#!/usr/bin/env python3
"""Lines and branches that the tests reached, from gcovr's JSON: coverage-report.py COVERAGE_JSON [--missed FILE_PART]

What no test can reach without breaking the kernel under it is listed in coverage-unreached.txt: a file, a regular
expression of its line, the reason.  Only what was missed is taken out, never what was reached.
"""
import json
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)


def read_reasons():
    reasons = []
    with open(os.path.join(HERE, "coverage-unreached.txt")) as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                path, pattern, reason = re.split(r"\t+", line.rstrip("\n"))
                reasons.append([re.compile(path), re.compile(pattern), reason, 0])
    return reasons


def main():
    with open(sys.argv[1]) as file:
        data = json.load(file)
    part = sys.argv[3] if len(sys.argv) > 3 and sys.argv[2] == "--missed" else None
    reasons = read_reasons()
    total = {"lines": [0, 0, 0], "branches": [0, 0, 0]}  # all, missed, excused
    rows = []
    for entry in data["files"]:
        path = entry["file"]
        with open(os.path.join(ROOT, path)) as file:
            source = file.read().split("\n")
        own = [0, 0, 0, 0]
        for line in entry["lines"]:
            if line.get("gcovr/noncode") or line.get("gcovr/excluded"):
                continue
            text = source[line["line_number"] - 1]
            branches = [b for b in line.get("branches", []) if not b.get("gcovr/excluded")]
            missed = sum(b["count"] == 0 for b in branches)
            total["lines"][0] += 1
            total["branches"][0] += len(branches)
            if line["count"] > 0 and missed == 0:
                continue
            reason = next((r for r in reasons if r[0].search(path) and r[1].search(text)), None)
            if reason is not None:
                reason[3] += 1
            column = 2 if reason is not None else 1
            total["lines"][column] += line["count"] == 0
            total["branches"][column] += missed
            if reason is None:
                own[0] += line["count"] == 0
                own[1] += missed
                if part is not None and part in path:
                    print(f"{path}:{line['line_number']}: {'-' if line['count'] == 0 else missed} {text.strip()}")
        rows.append((own[1], own[0], path))
    if part is not None:
        return
    for branches, lines, path in sorted(rows, reverse=True)[:20]:
        print(f"{path}: {lines} lines, {branches} branches missed")
    for name, (everything, missed, excused) in total.items():
        reached = everything - missed - excused
        print(f"{name}: {reached} of {everything} reached ({100 * reached / everything:.1f} %); without {excused} that "
              f"cannot be: {100 * reached / (everything - excused):.1f} %")
    for path, pattern, reason, count in reasons:
        if count == 0:
            print(f"coverage-unreached.txt: {path.pattern} {pattern.pattern}: nothing missed there")


if __name__ == "__main__":
    main()
