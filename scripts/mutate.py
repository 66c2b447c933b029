#!/usr/bin/env python3
"""Mutation testing of layout, route and schedule: is a test there that notices a changed line?

    scripts/mutate.py [--seed S] [--count N] [--jobs J] [--work DIR] [--report FILE] [--only NUMBER] [--begin NUMBER]

Draws N one-line mutants (default 200) of the files below from seed S, all alike from one seed; compiles the tests
with each in a copy of the tree under DIR (default build/mutate), and runs them until one fails: the core tests
first, the operator's for what they let through, under the address sanitizer.  A mutant that does not compile is replaced; one that changes no
object file at -O2 is the same program and counts for nothing.  Survivors are listed with their line.
"""
import argparse
import concurrent.futures
import os
import random
import re
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FILES = ["src/core/epf_route.h", "src/core/epf_sched.h", "src/core/epf_tile.h", "src/core/epf_window.h",
         "src/core/epf_counter.h", "src/api/epf_layout.c", "src/api/epf_preprocess.c"]
# Which tests are asked first: those of the file itself, then the operator's.
CORE = {"src/core/epf_route.h": ["test_route", "test_edges"],
        "src/core/epf_sched.h": ["test_sched", "test_roles", "test_edges", "test_two_ranks"],
        "src/core/epf_tile.h": ["test_tiles", "test_sched"], "src/core/epf_window.h": ["test_window"],
        "src/core/epf_counter.h": ["test_counter", "test_epoch", "test_two_ranks"]}
OP = [["test_op_random", "0", "15"], ["test_params"], ["test_refill"], ["test_op_layer"], ["test_op_alloc"],
      ["test_op_random", "100", "40"], ["test_params_pair"], ["test_op_lifecycle"]]
TIMEOUT = 180

# (pattern, replacements): each match of each pattern is a mutant for each replacement.
OPERATORS = [
    (r"(?<![<>=!-])<=(?!=)", ["<", "=="]), (r"(?<![<>=!-])>=(?!=)", [">", "=="]),
    (r"(?<= )<(?= )", ["<=", ">"]), (r"(?<= )>(?= )", [">=", "<"]),
    (r"(?<= )==(?= )", ["!="]), (r"(?<= )!=(?= )", ["=="]),
    (r"(?<= )&&(?= |$)", ["||"]), (r"(?<= )\|\|(?= |$)", ["&&"]),
    (r"(?<=[\w)\]] )\+(?= )", ["-"]), (r"(?<=[\w)\]] )-(?= )", ["+"]),
    (r"(?<=[\w)\]] )\*(?= )", ["+"]), (r"(?<= )/(?= )", ["*"]), (r"(?<= )%(?= )", ["/"]),
    (r"(?<= )<<(?= )", [">>"]), (r"(?<= )>>(?= )", ["<<"]), (r"(?<= )\|(?= )", ["&"]),
    (r"(?<= )\+=(?= )", ["-="]), (r"(?<= )-=(?= )", ["+="]), (r"(?<=[\w)\]])\+\+", ["--"]),
    (r"(?<![\w.\"])0(?![\w.])", ["1"]), (r"(?<![\w.\"])1(?![\w.])", ["0", "2"]), (r"(?<![\w.\"])-1(?![\w.])", ["0"]),
    (r"(?<=[ (])!(?=[\w(])", [""]), (r"\btrue\b", ["false"]), (r"\bfalse\b", ["true"]),
    (r"\bepf_min64\b", ["epf_max64"]), (r"\bepf_max64\b", ["epf_min64"]), (r"\bcontinue;", ["break;"]),
    (r"^(\s+)(?!\s|return|const|int|uint|size|bool|struct|epf_\w+ [*\w]|\}|break|continue|static|goto)"
     r"[\w*>.\[\](+ -]+ (=|\+=|-=) [^;]*;$", [r"\1;"]),
    (r"^(\s+)(?!\s|return)(?:\(void\))?\w+\([^;]*\);$", [r"\1;"]), (r"^(\s+)EPF_TRY\((.*)\);$", [r"\1(void)(\2);"]),
]


def code_lines(path):
    """(number, text) of lines that hold code, without comments, preprocessor and messages."""
    in_comment = False
    in_type = False
    with open(os.path.join(ROOT, path)) as file:
        for number, line in enumerate(file):
            text = re.sub(r"/\*.*?\*/", "", line.rstrip("\n"))
            if in_comment:
                in_comment = "*/" not in text
                continue
            if "/*" in text:
                in_comment = True
                text = text[:text.index("/*")]
            in_type = in_type or re.match(r"(typedef )?(struct|enum)\b.*\{$", text) is not None
            if in_type:
                in_type = not text.startswith("}")
                continue
            if text.strip() and not text.lstrip().startswith(("#", "_Static", "X(")) and '"' not in text \
                    and not text.rstrip().endswith("\\"):
                yield number, text.rstrip()


def candidates():
    found = []
    for path in FILES:
        for number, text in code_lines(path):
            for pattern, replacements in OPERATORS:
                for match in re.finditer(pattern, text):
                    for replacement in replacements:
                        mutated = text[:match.start()] + match.expand(replacement) + text[match.end():]
                        if mutated != text:
                            found.append((path, number, text, mutated))
    return found


def run(command, where, timeout):
    try:
        return subprocess.run(command, cwd=where, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              timeout=timeout, start_new_session=False).returncode
    except subprocess.TimeoutExpired:
        return "time"


class Tree:
    """A copy of the sources with a build of its own."""

    def __init__(self, where):
        self.source = os.path.join(where, "src")
        self.build = os.path.join(where, "build")
        os.makedirs(self.source, exist_ok=True)
        names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        for name in names.decode().split("\0"):
            if name and os.path.isfile(os.path.join(ROOT, name)) and not name.startswith(("bench/results", "docs/")):
                target = os.path.join(self.source, name)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                if not os.path.exists(target) or open(target, "rb").read() != open(os.path.join(ROOT, name), "rb").read():
                    shutil.copy2(os.path.join(ROOT, name), target)
        subprocess.run(["cmake", "-G", "Ninja", "-S", self.source, "-B", self.build, "-DCMAKE_BUILD_TYPE=None",
                        "-DCMAKE_C_FLAGS=-O0 -w -fsanitize=address", "-DEPFUSE_CUDA=OFF", "-DEPFUSE_BUILD_CLI=OFF",
                        "-DCMAKE_C_COMPILER_LAUNCHER=" + (shutil.which("ccache") or "")],
                       check=True, stdout=subprocess.DEVNULL)
        listed = subprocess.run(["ninja", "-C", self.build, "-t", "targets", "all"], capture_output=True,
                                text=True).stdout
        self.core = {path: [[name] for name in names if f"/{name}:" in listed] for path, names in CORE.items()}
        self.op = [command for command in OP if f"/{command[0]}:" in listed]
        self.paths = {}

    def compiles(self, targets):
        return run(["nice", "-n", "3", "ninja", "-j1", "-C", self.build] + targets, self.build, 900) == 0

    def program(self, name):
        if name not in self.paths:
            self.paths[name] = next(os.path.join(folder, name) for folder, _, names in os.walk(self.build) if name in names)
        return self.paths[name]

    def first_failure(self, commands):
        """Builds and runs one after the other, so that an early failure saves the later builds."""
        for command in commands:
            if not self.compiles([command[0]]):
                return "stillborn"
            result = run(["nice", "-n", "3", self.program(command[0])] + command[1:], self.build, TIMEOUT)
            if result != 0:
                return " ".join(command) + (f" ({result})" if result == "time" else "")
        return None

    def objects(self):
        """What the sources that see the mutated file compile to, at -O2."""
        made = []
        for source in ("src/api/epf_layout.c", "src/api/epf_preprocess.c", "src/api/epf_phase_args.c", "src/api/epf_op.c",
                       "src/api/epf_op_memory.c", "src/cpu/epf_exec.c", "src/cpu/epf_task_dispatch.c",
                       "src/cpu/epf_task_gemm.c", "src/cpu/epf_task_combine.c", "src/cpu/epf_task_grad.c",
                       "src/api/epf_combine.c", "src/api/epf_dispatch.c"):
            if os.path.exists(os.path.join(self.source, source)):
                made.append(subprocess.run(["gcc", "-std=c11", "-O2", "-w", "-D_GNU_SOURCE", "-S", "-o", "-", "-Isrc",
                                            "-Iinclude", source], cwd=self.source, capture_output=True).stdout)
        return made

    def judge(self, mutant, original_objects):
        path, number, text, mutated = mutant
        full = os.path.join(self.source, path)
        with open(full) as file:
            original = file.read()
        lines = original.split("\n")
        lines[number] = lines[number].replace(text, mutated, 1)
        try:
            with open(full, "w") as file:
                file.write("\n".join(lines))
            failed = self.first_failure(self.core.get(path, []))
            if failed is None and self.objects() == original_objects:
                return "same", ""
            if failed is None:
                failed = self.first_failure(self.op)
            if failed == "stillborn":
                return failed, ""
            return ("killed", failed) if failed is not None else ("survived", "")
        finally:
            with open(full, "w") as file:
                file.write(original)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--work", default=os.path.join(ROOT, "build/mutate"))
    parser.add_argument("--report", default="")
    parser.add_argument("--only", type=int, default=-1)
    parser.add_argument("--begin", type=int, default=0, help="go on here: the unchanged tests are taken to pass")
    arguments = parser.parse_args()
    drawn = candidates()
    random.Random(arguments.seed).shuffle(drawn)
    print(f"{len(drawn)} possible mutants, seed {arguments.seed}", flush=True)
    trees = [Tree(os.path.join(arguments.work, str(j))) for j in range(arguments.jobs)]
    begin = time.time()
    for tree in trees if arguments.begin == 0 else []:
        failed = tree.first_failure(sum(tree.core.values(), []) + tree.op)
        if failed:
            sys.exit(f"{failed} fails unchanged")
    print(f"built, and passed unchanged, in {time.time() - begin:.0f} s", flush=True)
    original = trees[0].objects()
    results = []
    free = list(trees)

    def work(index):
        tree = free.pop()
        outcome, by = tree.judge(drawn[index], original)
        free.append(tree)
        path, number, text, mutated = drawn[index]
        line = f"{index} {outcome} {path}:{number + 1}: {text.strip()}  ->  {mutated.strip()}  {by}"
        print(line, flush=True)
        return outcome, by, line

    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        if arguments.only >= 0:
            work(arguments.only)
            return
        at = arguments.begin
        while sum(r[0] in ("killed", "survived") for r in results) < arguments.count and at < len(drawn):
            missing = arguments.count - sum(r[0] in ("killed", "survived") for r in results)
            batch = range(at, min(at + missing, len(drawn)))
            results += pool.map(work, batch)
            at = batch.stop
    count = {name: sum(r[0] == name for r in results) for name in ("killed", "survived", "same", "stillborn")}
    by_core = sum(r[0] == "killed" and not r[1].startswith(("test_op", "test_params")) for r in results)
    summary = (f"{count['killed']} of {count['killed'] + count['survived']} mutants killed, {by_core} by the core tests; "
               f"{count['survived']} survived, {count['same']} were the same program, {count['stillborn']} did not "
               f"compile (seed {arguments.seed})")
    print(summary)
    if arguments.report:
        with open(arguments.report, "w") as file:
            file.write("\n".join([summary] + [r[2] for r in results if r[0] == "survived"]) + "\n")
    sys.exit(0 if count["killed"] >= 0.95 * arguments.count else 1)


if __name__ == "__main__":
    main()
