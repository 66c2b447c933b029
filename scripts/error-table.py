#!/usr/bin/env python3
"""Which test program makes which error: docs/reliability/errors.md from the sources and a recorded run.

    scripts/error-table.py BUILD            after scripts/coverage.sh: writes the table
    scripts/error-table.py --check          the table knows every status, and a test makes each

A site is a place in src/ or cli/, outside of devices' code, that decides on an error: an EPF_FAIL or an EPF_CHECK_ARG.  Sites that no
test reached are listed with their text; those that none can reach say why in a comment on their line:
/* unreached: reason */.
"""
import collections
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TABLE = os.path.join(ROOT, "docs/reliability/errors.md")


def statuses():
    """{value: name} of the public header."""
    with open(os.path.join(ROOT, "include/epfuse/epfuse_status.h")) as file:
        return {int(value): name for name, value in re.findall(r"X\((EPF_\w+), (-?\d+),", file.read())}


def is_for_devices(path):
    """Code that runs only where there is a device, and so in no test of the run."""
    return "/cuda/" in path or path in ("cli/bench_device.c", "src/api/epf_backend_cuda.c")


def sites():
    """{(file, line): (end line, text)} of every EPF_FAIL and EPF_CHECK_ARG in src/ and cli/."""
    found = {}
    for folder in ("src", "cli"):
        for path, _, names in os.walk(os.path.join(ROOT, folder)):
            for name in names:
                full = os.path.join(path, name)
                relative = os.path.relpath(full, ROOT)
                if not name.endswith((".c", ".h")) or name == "epf_error.h" or is_for_devices(relative):
                    continue
                with open(full) as file:
                    source = file.read()
                for match in re.finditer(r"\bEPF_(?:FAIL|CHECK_ARG)\(", source):
                    if source[source.rfind("\n", 0, match.start()) + 1:].startswith("#define"):
                        continue
                    first = source.count("\n", 0, match.start()) + 1
                    end, depth = match.end(), 1
                    while depth > 0:
                        if source[end] == '"':
                            end += re.match(r'"(?:\\.|[^"\\])*"', source[end:]).end() - 1
                        depth += (source[end] == "(") - (source[end] == ")")
                        end += 1
                    body = source[match.end():end - 1]
                    text = re.search(r'"((?:\\.|[^"\\])*)"', body)
                    line_end = source.find("\n", end)
                    reason = re.search(r"/\* unreached: (.*?) \*/", source[match.start():line_end])
                    found[(relative, first)] = (source.count("\n", 0, end) + 1,
                                                text.group(1) if text else "(text of a caller)",
                                                reason.group(1) if reason else None)
    return found


def read_run(build):
    """[(file, line, status, program)], each once."""
    folder = os.path.join(build, "sites")
    rows = set()
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), errors="replace") as file:
            for line in file:
                match = re.match(r"(\S+):(\d+) (-?\d+) (\S+)$", line)
                if match:
                    path, number, status, program = match.groups()
                    rows.add((os.path.relpath(path, ROOT), int(number), int(status), program))
    return rows


def write(build):
    names = statuses()
    known = sites()
    reached = collections.defaultdict(set)   # site -> programs
    by_status = collections.defaultdict(lambda: (set(), set()))
    for path, line, status, program in read_run(build):
        if not path.startswith(("src/", "cli/")):
            continue
        for (file, first), (last, _, _) in known.items():
            if file == path and first <= line <= last:
                reached[(file, first)].add(program)
                by_status[status][0].add((file, first))
        by_status[status][1].add(program)
    missed = sorted(site for site in known if site not in reached and known[site][2] is None)
    excused = sorted(site for site in known if site not in reached and known[site][2] is not None)
    with open(TABLE, "w") as out:
        out.write("# Which test makes which error\n\n"
                  "Made by `scripts/error-table.py` from the sources and one run of the suite "
                  "(`scripts/coverage.sh`).\n"
                  "A site is a place that decides on an error and records its text.\n\n"
                  f"{len(known)} sites; {len(known) - len(missed) - len(excused)} reached by a test, "
                  f"{len(missed)} not, {len(excused)} cannot be.\n\n"
                  "| status | sites reached | test programs |\n|---|---|---|\n")
        for value in sorted(names, reverse=True):
            places, programs = by_status[value]
            if value == 0:
                continue
            shown = sorted(programs)
            out.write(f"| {names[value]} | {len(places)} | {', '.join(shown[:8])}"
                      f"{f' and {len(shown) - 8} more' if len(shown) > 8 else ''} |\n")
        for title, group in (("Not reached", missed), ("Cannot be reached", excused)):
            out.write(f"\n## {title}\n\n")
            for site in group:
                _, text, reason = known[site]
                out.write(f"- `{site[0]}`: \"{text}\"{': ' + reason if reason else ''}\n")
        out.write("\n## Every site\n\n| file | text | tests |\n|---|---|---|\n")
        for site in sorted(known):
            programs = sorted(reached[site])
            text = known[site][1].replace("|", "\\|")
            out.write(f"| {site[0]} | {text} | {', '.join(programs[:3])}"
                      f"{f' +{len(programs) - 3}' if len(programs) > 3 else ''} |\n")
    print(f"{len(known)} sites, {len(missed)} not reached, {len(excused)} excused; "
          f"{sum(bool(by_status[v][1]) for v in names if v)} of {len(names) - 1} statuses have a test")


def check():
    with open(TABLE) as file:
        rows = {row[0]: row[1] for row in re.findall(r"^\| (EPF_E_\w+) \| \d+ \| (.*) \|$", file.read(), re.M)}
    bad = [name for value, name in statuses().items() if value != 0 and not rows.get(name, "").strip()]
    for name in bad:
        print(f"{name}: no test makes it (docs/reliability/errors.md)")
    for name, programs in rows.items():
        for program in re.findall(r"\btest_\w+", programs):
            rest = re.sub(r"^test_(?:[a-z]+_)?", "", program)  # test_comm_link is tests/comm/test_link.c
            sources = {f"{program}.c", f"test_{rest}.c", f"fuzz_{rest}.c"}
            if not any(sources & set(names) for _, _, names in os.walk(os.path.join(ROOT, "tests"))):
                print(f"{name}: {program} is no test any more; run scripts/coverage.sh and this script")
                bad.append(program)
    print(f"{len(rows)} statuses, each made by a test" if not bad else "failed")
    return bool(bad)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(check() if sys.argv[1] == "--check" else write(sys.argv[1]))
