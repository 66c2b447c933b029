#!/usr/bin/env python3
"""Times the layer on several GPUs of one node, one process a GPU, against NCCL and torch's grouped GEMM.

  node.py LIBEPFUSE.so [--gemm LIBEPFGEMM.so] [--out FOLDER] [--minutes 8] [--ranks W] [--gpus G]
          [--parts links,cases,sweep,trace] [--shapes dsv3,...] [--tokens 8192,...] [--routings uniform,zipf]
          [--threads] [--mps] [--rounds 20] [--commit ID] [--list]

  links  copies between GPUs: each pair one way and both ways, a ring, all to all: what a link can do
  cases  for shape, tokens a rank and routing: preprocess, dispatch + GEMM, GEMM + combine (both modes), the whole
         layer forward and backward, dispatch and combine with next to no GEMM; beside NCCL's all-to-all with torch's
         grouped GEMM and index_add, taking turns; --gemm adds the same with our grouped GEMM
  sweep  how many workers send first, how many expand (two stages), how long a task is
  trace  the profiler's records of all ranks, where the library takes them

Results are compared with a plain computation of some tokens, weight gradients with the other side's.  Everything is
written as it comes: FOLDER/node.jsonl (a line per figure), FOLDER/node.log, FOLDER/traces.tar.gz.  A part that fails
or hangs is ended and named, and the rest goes on; nothing begins that would not end within --minutes.

Ranks share GPUs if there are fewer (--ranks W --gpus 1), to try this script: W processes, which take turns on a GPU
unless --mps starts a daemon that lets them run together, or --threads, W threads of one process, which do run together.
NCCL takes no two ranks on one GPU: threads then exchange rows by copies, processes copy rows of their own instead, so that
only the time means something, if little.  NVLink multicast stays off.

A time is the median over rounds of the slowest rank's, by device events behind a meeting of all ranks.
Exit 0: all parts ran and agreed; 1: not; 77: there is no GPU here.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent

# name: E, K, H, I, gated
SHAPES = {
    "dsv3": (256, 8, 7168, 2048, True),
    "qwen3-235b": (128, 8, 4096, 1536, True),
    "mixtral": (8, 2, 4096, 14336, True),
    "example": (64, 2, 7168, 2048, False),
}
TOKENS = (8192, 4096, 1024, 128)
ROUTINGS = ("uniform", "zipf")
PARTS = ("links", "cases", "sweep", "trace")
SWEPT, TRACED = ("dsv3", "qwen3-235b"), ("dsv3", 4096)
# Seconds that a job is given before it counts as hanging, and seconds it is expected to take at most.
LIMIT = {"links": 60, "case": 90, "sweep": 60, "trace": 60}
EXPECTED = {"links": 20, "case": 12, "sweep": 12, "trace": 10}
START_SECONDS = 15  # of the ranks' processes, until their first job
# Multicast off in everything that could use it.
ENVIRONMENT = {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1", "NVSHMEM_DISABLE_NVLS": "1",
               "GLOO_SOCKET_IFNAME": "lo", "PYTHONUNBUFFERED": "1"}
SKIPPED = 77


def words(text, known, what):
    chosen = [word for word in text.split(",") if word]
    for word in chosen:
        if word not in known:
            sys.exit(f"node.py: {what} {word}: must be of {', '.join(map(str, known))}")
    return chosen


def plan(options):
    """Jobs, what matters most first."""
    parts = words(options.parts, PARTS, "--parts")
    shapes = words(options.shapes, SHAPES, "--shapes")
    routings = words(options.routings, ROUTINGS, "--routings")
    tokens = [int(t) for t in options.tokens.split(",") if t]
    for shape in shapes:
        if SHAPES[shape][0] % options.ranks:
            sys.exit(f"node.py: {options.ranks} ranks do not divide the {SHAPES[shape][0]} experts of {shape}")
    jobs = [{"kind": "links"}] if "links" in parts else []
    cases = [{"kind": "case", "shape": shape, "tokens": t, "routing": routing}
             for routing in routings for t in tokens for shape in shapes]
    jobs += cases[:len(shapes)] if "cases" in parts else []  # the largest, in every shape
    swept = [shape for shape in shapes if shape in SWEPT] or shapes[:1]
    if "sweep" in parts:
        jobs += [{"kind": "sweep", "shape": shape, "tokens": t, "routing": routings[0]}
                 for t in tokens[:2] for shape in swept]
    if "trace" in parts:
        shape = TRACED[0] if TRACED[0] in shapes else shapes[0]
        t = TRACED[1] if TRACED[1] in tokens else tokens[0]
        jobs.append({"kind": "trace", "shape": shape, "tokens": t, "routing": routings[0]})
    jobs += cases[len(shapes):] if "cases" in parts else []
    return [{"number": number, **job} for number, job in enumerate(jobs)]


def name_of(job):
    return " ".join(str(job[key]) for key in ("kind", "shape", "tokens", "routing") if key in job)


def count_gpus():
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


class Mps:
    """A daemon of our own that lets processes run on one GPU at a time."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="epfuse-mps.")
        self.environment = {"CUDA_MPS_PIPE_DIRECTORY": self.folder, "CUDA_MPS_LOG_DIRECTORY": self.folder,
                            "CUDA_DEVICE_MAX_CONNECTIONS": "8"}  # all clients' come from one pool
        self.control([], ["-d"])

    def control(self, lines, arguments=()):
        subprocess.run(["nvidia-cuda-mps-control", *arguments], input="\n".join([*lines, ""]), text=True, timeout=60,
                       env={**os.environ, **self.environment}, check=True, stdout=subprocess.DEVNULL)

    def close(self):
        try:
            self.control(["quit"])
        except (OSError, subprocess.SubprocessError):
            pass
        shutil.rmtree(self.folder, ignore_errors=True)


class Ranks:
    """The processes of one start: they work off jobs and say so in a file."""

    def __init__(self, options, jobs, environment):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="epfuse-node."))
        self.progress = self.folder / "progress"
        self.progress.touch()
        config = {**vars(options), "out": str(options.out), "jobs": jobs, "progress": str(self.progress),
                  "store": str(self.folder / "store"), "shape_table": SHAPES, "expected": EXPECTED}
        (self.folder / "config.json").write_text(json.dumps(config))
        self.log = open(options.out / "node.log", "a")
        command = [sys.executable, str(HERE / "node_rank.py"), str(self.folder / "config.json")]
        self.processes = []
        for rank in range(1 if options.threads else options.ranks):
            variables = {**os.environ, **ENVIRONMENT, **environment, "RANK": str(rank),
                         "WORLD_SIZE": str(options.ranks), "LOCAL_RANK": str(rank % options.gpus),
                         "EPFUSE_RENDEZVOUS": self.folder.name}
            variables.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
            # The first rank's figures are shown as they come.
            out = None if rank == 0 else self.log
            self.processes.append(subprocess.Popen([*command, str(rank)], env=variables, cwd=options.out,
                                                   stdout=out, stderr=subprocess.STDOUT if rank else None))

    def steps(self):
        """(what, job number, text) of each line so far."""
        lines = [line.split(" ", 2) for line in self.progress.read_text().splitlines()]
        return [(line[0], int(line[1]), line[2] if len(line) > 2 else "") for line in lines if len(line) > 1]

    def has_ended(self):
        return all(process.poll() is not None for process in self.processes)

    def end(self):
        """Lets all go: those that a lost rank leaves waiting are ended."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
        for process in self.processes:
            process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def watch(ranks, jobs, deadline):
    """Until the ranks have ended or one job hangs; the steps they took, and why they did not get on."""
    limits = {job["number"]: LIMIT[job["kind"]] for job in jobs}
    seen, since, patience = 0, time.time(), 6 * START_SECONDS
    while True:
        ended = ranks.has_ended()
        lost = any(process.poll() not in (None, 0) for process in ranks.processes)
        steps = ranks.steps()
        if len(steps) != seen:
            seen, since = len(steps), time.time()
            patience = limits[steps[-1][1]] if steps[-1][0] == "begin" else 60
        if ended:
            return steps, ""
        if time.time() > deadline + 30:
            return steps, "the time was up"
        # A lost rank: the others notice within their own timeouts, or not.
        if time.time() - since > (min(patience, 30) if lost else patience):
            return steps, "a rank was lost" if lost else f"no end within {patience} s"
        time.sleep(0.2)


def work(options, jobs, environment):
    """Runs the jobs, with new processes after each failure; which failed or were left, which were skipped, and why."""
    deadline = options.deadline
    bad, skipped, left, tries = [], [], list(jobs), 2
    while left:
        if time.time() + START_SECONDS + EXPECTED[left[0]["kind"]] > deadline:
            bad += [f"{name_of(job)}: not begun, the time was up" for job in left]
            break
        ranks = Ranks(options, left, environment)
        try:
            steps, why = watch(ranks, left, deadline)
        finally:
            ranks.end()
        begun = {number for what, number, _ in steps if what == "begin"}
        done = {number for what, number, _ in steps if what in ("end", "late", "skip", "wrong")}
        texts = {number: text for what, number, text in steps if what in ("fail", "late", "wrong")}
        for job in left:
            number = job["number"]
            if number in texts or (number in begun and number not in done):
                bad.append(f"{name_of(job)}: {texts.get(number) or why or 'its ranks ended'}")
            skipped += [f"{name_of(job)}: {text}" for what, of, text in steps if what == "skip" and of == number]
        left = [job for job in left if job["number"] not in begun | done]
        tries -= not begun | done
        if tries == 0:  # they do not even start
            bad += [f"{name_of(job)}: {why or 'the ranks ended before it, see node.log'}" for job in left]
            break
    return bad, skipped


def pack_traces(folder):
    traces = sorted((folder / "prof").rglob("*.perfetto-trace")) if (folder / "prof").is_dir() else []
    if traces:
        with tarfile.open(folder / "traces.tar.gz", "w:gz") as archive:
            for trace in traces:
                archive.add(trace, trace.name)
        shutil.rmtree(folder / "prof")
    return len(traces)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("--gemm", default="")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("node"))
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--ranks", type=int, default=0, help="default: one a GPU")
    parser.add_argument("--gpus", type=int, default=0, help="default: all of 8, 4, 2 or 1 that are there")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--tokens", default=",".join(map(str, TOKENS)))
    parser.add_argument("--routings", default=",".join(ROUTINGS))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--case-seconds", type=float, default=8, help="rounds become fewer beyond that, 7 at least")
    parser.add_argument("--threads", action="store_true")
    parser.add_argument("--mps", action="store_true")
    parser.add_argument("--commit", default="")
    parser.add_argument("--list", action="store_true", help="show the plan only")
    options = parser.parse_args()
    there = count_gpus()
    if options.gpus == 0:
        options.gpus = next((n for n in (8, 4, 2, 1) if n <= there), 0)
    if options.list:
        options.gpus = options.gpus or 8
    elif there == 0:
        print("skipped: no GPU here")
        sys.exit(SKIPPED)
    elif options.gpus > there:
        sys.exit(f"node.py: --gpus {options.gpus}, but {there} are here")
    options.ranks = options.ranks or options.gpus
    if options.ranks < options.gpus:
        sys.exit(f"node.py: --ranks {options.ranks}, must be at least the {options.gpus} GPUs")
    if options.mps and options.threads:
        sys.exit("node.py: --mps is for processes")
    return options


def main():
    options = parse()
    jobs = plan(options)
    if options.list:
        for job in jobs:
            print(name_of(job))
        return 0
    for name in ("library", "gemm"):
        path = getattr(options, name)
        setattr(options, name, str(pathlib.Path(path).resolve()) if path else "")
    options.out.mkdir(parents=True, exist_ok=True)
    options.out = options.out.resolve()
    for name in ("node.jsonl", "node.log"):
        (options.out / name).unlink(missing_ok=True)
    options.deadline = time.time() + 60 * options.minutes
    mps = Mps() if options.mps else None
    shown = ("ranks", "gpus", "threads", "mps", "rounds", "minutes")
    print(json.dumps({name: getattr(options, name) for name in shown}), flush=True)
    try:
        bad, skipped = work(options, jobs, mps.environment if mps else {})
    finally:
        if mps:
            mps.close()
    print(f"{len(jobs) - len(bad) - len(skipped)} of {len(jobs)} jobs, {len(skipped)} skipped, "
          f"{pack_traces(options.out)} traces")
    for word, texts in (("SKIPPED", skipped), ("NOT DONE", bad)):
        for text in texts:
            print(f"{word:8s}  {text}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
