"""One process of node.py: its ranks (one, or with --threads all) work off the jobs of a plan.

  node_rank.py CONFIG.json RANK      node_rank.py links GPUS: rates of copies between GPUs, as JSON
"""
import ctypes
import datetime
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import threading
import time
import traceback

import torch
import torch.distributed as dist

import epfuse_library
import gemm_library
from node_layer import Fused, Problem, Unfused, errors_of

WARMUP, LEAST_ROUNDS, MOST_ERROR = 3, 7, 2e-2
SLEEP_CYCLES = 4000000  # the host gets ahead, so that no launch is waited for
PATIENCE = 45.0  # seconds that a rank waits for the others
COPY_BYTES, COPIES = 2 ** 28, 8


class Processes:
    """Ranks are processes: torch's gloo for words, NCCL for rows where each has a GPU of its own."""

    def __init__(self, config, rank):
        self.rank, self.num_ranks = rank, config["ranks"]
        wait = datetime.timedelta(seconds=PATIENCE)
        dist.init_process_group("gloo", init_method="file://" + config["store"], rank=self.rank,
                                world_size=self.num_ranks, timeout=wait)
        self.nccl, self.why_not = None, "NCCL takes no two ranks on one GPU"
        if config["ranks"] <= config["gpus"]:
            self.nccl = dist.new_group(backend="nccl", timeout=wait)
            dist.all_reduce(torch.ones(1, device="cuda"), group=self.nccl)
        self.word = torch.zeros(1, device="cuda")
        self.mode = "processes"

    def gather(self, word):
        words = [None] * self.num_ranks
        dist.all_gather_object(words, word)
        return words

    def barrier(self):
        dist.barrier()

    def make_group(self, library):
        return library.process_group(self.rank, self.num_ranks, os.environ["EPFUSE_RENDEZVOUS"])

    def exchange(self, problem):
        return NcclRows(self.nccl) if self.nccl else OwnRows(problem)


class Threads:
    """Ranks are threads of this process."""

    def __init__(self, shared, rank):
        self.shared, self.rank, self.num_ranks = shared, rank, shared.num_ranks
        self.nccl, self.why_not = None, "NCCL takes one rank a process"
        self.mode = "threads"

    def gather(self, word):
        shared = self.shared
        shared.words[self.rank] = word
        self.barrier()
        words = list(shared.words)
        self.barrier()
        return words

    def barrier(self):
        self.shared.barrier.wait(PATIENCE)

    def make_group(self, _):
        return self.shared.groups[self.rank]

    def exchange(self, _):
        return CopiedRows(self)


class Shared:
    def __init__(self, library, num_ranks):
        self.num_ranks, self.words = num_ranks, [None] * num_ranks
        self.barrier = threading.Barrier(num_ranks)
        self.groups = library.threads_group(num_ranks)


class NcclRows:
    name, is_exact = "nccl", True

    def __init__(self, group):
        self.group = group

    def __call__(self, rows, send, recv):
        out = rows.new_empty((sum(recv), *rows.shape[1:]))
        dist.all_to_all_single(out, rows, recv, send, group=self.group)
        return out

    def counts(self, count, each):
        return self(count, each, each)


class CopiedRows:
    """Each thread takes its rows from the others' tensors, behind what their streams have written."""
    name, is_exact = "copies", True

    def __init__(self, world):
        self.world = world

    def __call__(self, rows, send, recv):
        stream, rank = torch.cuda.current_stream(), self.world.rank
        written = torch.cuda.Event()
        written.record(stream)
        parts = []
        for theirs, splits, event in self.world.gather((rows, send, written)):
            stream.wait_event(event)
            begin = sum(splits[:rank])
            parts.append(theirs[begin:begin + splits[rank]].to(rows.device))
            if theirs.device == rows.device:
                theirs.record_stream(stream)
        return torch.cat(parts)

    def counts(self, count, each):
        return self(count, each, each)


class OwnRows:
    """As many rows as would come, of this rank's own: for the time of a copy alone."""
    name, is_exact = "own copies", False

    def __init__(self, problem):
        first = problem.rank * problem.l
        count = [torch.bincount(problem.routing_of(source)[0].flatten(), minlength=problem.e)[first:first + problem.l]
                 for source in range(problem.w)]
        self.count = torch.cat(count)

    def __call__(self, rows, send, recv):
        return rows.index_select(0, torch.arange(sum(recv), device=rows.device) % max(rows.shape[0], 1))

    def counts(self, count, each):
        return self.count


def rates():
    """TFLOP/s of a large product, GB/s of a large copy, of the current device."""
    x = torch.empty(2 ** 29, device="cuda", dtype=torch.uint8).random_()
    y = torch.empty_like(x)
    a, b, c = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(3))

    def median(launch, count=12):
        pairs = []
        for _ in range(count):
            pair = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            pair[0].record()
            launch()
            pair[1].record()
            pairs.append(pair)
        torch.cuda.current_stream().synchronize()
        return statistics.median(start.elapsed_time(end) for start, end in pairs[2:])

    return {"copy_gbs": 2 * x.numel() / median(lambda: y.copy_(x)) / 1e6,
            "matrix_tflops": 2 * 8192.0 ** 3 / median(lambda: torch.mm(a, b, out=c)) / 1e9}


class Links:
    """Copies between all GPUs of the node, by one process."""

    def __init__(self, count):
        self.driver = ctypes.CDLL("libcuda.so.1")
        self.driver.cuMemcpyAsync.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p]
        pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
        blank = lambda device: torch.empty(COPY_BYTES, device=f"cuda:{device}", dtype=torch.uint8)
        self.source = [blank(i).random_() for i in range(count)]
        self.target = {(i, j): blank(j) for i, j in pairs}
        self.streams = {(i, j): torch.cuda.Stream(device=i) for i, j in pairs}
        for (i, j), target in self.target.items():
            target.copy_(self.source[i])  # opens the way between the two
        for i in range(count):
            torch.cuda.synchronize(i)

    def run(self, pairs):
        """GB/s of each copy, all at once."""
        events = {}
        for i, j in pairs:
            with torch.cuda.device(i), torch.cuda.stream(self.streams[i, j]):
                torch.cuda._sleep(SLEEP_CYCLES)
                events[i, j] = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
                events[i, j][0].record()
                for _ in range(COPIES):
                    error = self.driver.cuMemcpyAsync(self.target[i, j].data_ptr(), self.source[i].data_ptr(),
                                                      COPY_BYTES, self.streams[i, j].cuda_stream)
                    if error:
                        raise RuntimeError(f"cuMemcpyAsync from GPU {i} to {j}: error {error}")
                events[i, j][1].record()
        for pair in pairs:
            self.streams[pair].synchronize()
        return {pair: COPIES * COPY_BYTES / start.elapsed_time(end) / 1e6 for pair, (start, end) in events.items()}

    def patterns(self, count):
        """(name, kind, lowest rate out of a GPU)"""
        out = lambda rates: min(sum(rate for (i, _), rate in rates.items() if i == gpu) for gpu in {i for i, _ in rates})
        median = lambda pairs: statistics.median(out(self.run(pairs)) for _ in range(3))
        pairs = list(self.target)
        yield from ((f"{i} to {j}", "one way", median([(i, j)])) for i, j in pairs)
        yield from ((f"{i} and {j}, both ways", "both ways", median([(i, j), (j, i)])) for i, j in pairs if i < j)
        yield "ring", "ring", median([(i, (i + 1) % count) for i in range(count)])
        yield "all to all", "all to all", median(pairs)


class Worker:
    """One rank."""

    def __init__(self, config, world, library):
        self.config, self.world, self.api = config, world, library
        self.is_first = world.rank == 0
        self.stream = torch.cuda.Stream()
        self.group = world.make_group(library)
        self.gemm = gemm_library.Library(config["gemm"]) if config["gemm"] else None
        self.sharing = -(-config["ranks"] // config["gpus"])  # ranks of a GPU

    # --- words ---------------------------------------------------------------------------------

    def note(self, what, job, text=""):
        with open(self.config["progress"], "a") as file:
            file.write(f"{what} {job['number']} {' '.join(text.split())}\n")

    def put(self, line):
        """A line of results, of the first rank."""
        if self.is_first:
            with open(pathlib.Path(self.config["out"]) / "node.jsonl", "a") as file:
                file.write(json.dumps(line) + "\n")

    def say(self, text):
        if self.is_first:
            print(text, flush=True)

    def decide(self, word):
        """The first rank's word, on all."""
        return self.world.gather(word)[0]

    # --- the machine ---------------------------------------------------------------------------

    def known_link(self):
        path = pathlib.Path(self.config["out"]) / "node.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return next((line["gbs"] for line in lines if line["op"] == "link" and line["name"] == "ceiling"), None)

    def measure(self):
        """The slowest rank's rates; ranks that share a GPU share what one of them measures alone."""
        alone = self.sharing > 1
        own = rates() if not alone or self.world.rank < self.config["gpus"] else None
        torch.cuda.empty_cache()
        measured = [one for one in self.world.gather(own) if one]
        self.machine = {
            "device": torch.cuda.get_device_name(), "torch": torch.__version__, "commit": self.config["commit"],
            "ranks": self.config["ranks"], "gpus": self.config["gpus"], "mode": self.world.mode,
            **({"mps": True} if self.config["mps"] else {}),
            **{name: round(min(one[name] for one in measured) / self.sharing, 1) for name in measured[0]}}
        self.machine["link_gbs"] = self.decide(self.known_link()) if self.config["gpus"] > 1 else None
        self.say(json.dumps(self.machine))
        if self.world.nccl is None:
            self.say(f"no NCCL: {self.world.why_not}")

    def links(self, job):
        if self.config["gpus"] == 1:
            return "one GPU: there is no link"
        ceiling = None
        if self.is_first:  # by a process of its own, whose ways between GPUs end with it
            done = subprocess.run([sys.executable, __file__, "links", str(self.config["gpus"])], capture_output=True,
                                  text=True, timeout=PATIENCE - 5)
            if done.returncode:
                raise RuntimeError(f"links: {done.stderr[-300:]}")
            best = {}
            for name, kind, gbs in json.loads(done.stdout):
                best.setdefault(kind, []).append(gbs)
                self.put({"op": "link", "name": name, "gbs": round(gbs, 1), **self.machine})
            for kind, all_gbs in best.items():
                print(f"link {kind:12s} {min(all_gbs):7.1f} to {max(all_gbs):7.1f} GB/s out of a GPU", flush=True)
            ceiling = round(max(statistics.median(all_gbs) for all_gbs in best.values()), 1)
            self.put({"op": "link", "name": "ceiling", "gbs": ceiling, **self.machine})
        self.machine["link_gbs"] = self.decide(ceiling)
        return ""

    # --- times ---------------------------------------------------------------------------------

    def meet(self):
        """All ranks' devices go on from here together."""
        self.world.barrier()
        torch.cuda._sleep(SLEEP_CYCLES)
        if self.world.nccl is not None:
            dist.all_reduce(self.world.word, group=self.world.nccl)

    def timed(self, contenders, fused):
        """Sorted microseconds of each contender, taking turns: of each round the slowest rank's."""
        events = {name: [] for name in contenders}
        rounds, turn, begin = self.config["rounds"], 0, 0.0
        while turn < WARMUP + rounds:
            for name, launch in contenders.items():
                pair = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
                self.meet()
                pair[0].record()
                launch()
                pair[1].record()
                if turn >= WARMUP:
                    events[name].append(pair)
            fused.rank.synchronize()
            turn += 1
            if turn == WARMUP - 1:
                begin = time.time()
            if turn == WARMUP:
                fit = int(self.config["case_seconds"] / max(time.time() - begin, 1e-3))
                rounds = self.decide(max(min(rounds, fit), min(rounds, LEAST_ROUNDS)))
        self.stream.synchronize()
        own = {name: [1e3 * start.elapsed_time(end) for start, end in pairs] for name, pairs in events.items()}
        ranks = self.world.gather(own)
        return {name: sorted(max(each) for each in zip(*(rank[name] for rank in ranks))) for name in contenders}

    def report(self, problem, times, note=None):
        """Lines of (phase, name) with what they say of the floor, the link, the unfused side."""
        floors = problem.floors(self.machine)
        medians = {key: statistics.median(us) for key, us in times.items()}
        moved = {"dispatch alone": (problem.sent_once, problem.sent_all),
                 "combine alone": (problem.sent_all, problem.sent_all)}
        ours = {name for _, name in times if "+" not in name}
        for (phase, name), us in times.items():
            us_p50 = medians[phase, name]
            line = {"op": phase, "shape": problem.name, "tokens": problem.t, "routing": problem.routing, "name": name,
                    "us_p50": round(us_p50, 2), "us_p10": round(us[len(us) // 10], 2),
                    "us_p90": round(us[len(us) * 9 // 10], 2), "rounds": len(us), "max_rows": problem.max_rows,
                    "align": "nccl" if self.world.nccl is not None else "host", **(note or {}), **self.machine}
            text = f"{problem.name:11s} {problem.t:5d} {problem.routing:8s} {phase:15s} {name:28s} {us_p50:10.1f} us"
            if phase in floors:
                floor, flop, bounds = floors[phase]
                line.update(floor_us=round(floor, 2), pct_floor=round(100 * floor / us_p50, 1), bound="+".join(bounds))
                if flop:
                    line["tflops"] = round(flop / problem.w / us_p50 / 1e6, 1)
                    text += f" {line['tflops']:6.1f} TFLOP/s"
                text += f" {line['pct_floor']:5.1f} % of the floor ({line['bound']})"
            if phase in moved and self.config["gpus"] > 1:
                line["gbs"] = round(problem.bytes_moved(moved[phase][name not in ours]) / us_p50 / 1e3, 1)
                text += f" {line['gbs']:6.1f} GB/s"
            for other in sorted({other for _, other in times if "+" in other and name in ours}):
                if (phase, other) in medians:
                    line["over_" + other.replace(" ", "_")] = ratio = round(medians[phase, other] / us_p50, 3)
                    text += f"  {ratio:.2f} x {other}"
            self.put(line)
            self.say(text)

    # --- jobs ----------------------------------------------------------------------------------

    def problem_of(self, job):
        return Problem(self.world, self.config["shape_table"][job["shape"]], job["shape"], job["tokens"], job["routing"])

    def too_large(self, problem):
        torch.cuda.synchronize()
        self.world.barrier()
        free = min(self.world.gather(torch.cuda.mem_get_info()[0]))
        need = problem.memory() * self.sharing
        return f"needs about {need / 2 ** 30:.0f} GiB a GPU, {free / 2 ** 30:.0f} are free" if need > free else ""

    def case(self, job):
        problem = self.problem_of(job)
        why = self.too_large(problem)
        if why:
            return why
        fused = Fused(self.api, self.group, problem, self.stream)
        unfused = Unfused(problem, self.world.exchange(problem), self.gemm)
        wrong = self.compare(problem, fused, unfused)
        saved = 1 - problem.sent_once.sum().item() / max(problem.sent_all.sum().item(), 1)
        self.report(problem, self.timed({**fused.contenders(), **unfused.contenders()}, fused),
                    {"saved": round(saved, 3)})
        fused.close()
        return wrong

    def compare(self, problem, fused, unfused):
        """'' if all are right, else 'wrong ...'."""
        every = self.world.gather(errors_of(problem, fused, unfused))
        worst = {name: max(one[name] for one in every) for name in every[0]}
        bad = {name: error for name, error in worst.items() if not error < MOST_ERROR}
        self.put({"op": "error", "shape": problem.name, "tokens": problem.t, "routing": problem.routing,
                  "errors": {name: error if math.isfinite(error) else "inf" for name, error in worst.items()},
                  **self.machine})
        self.say(f"{problem.name:11s} {problem.t:5d} {problem.routing:8s} relative errors at most "
                 f"{max(worst.values()):.1e} of {', '.join(worst)}")
        return "wrong " + ", ".join(f"{name} {error:.1e}" for name, error in bad.items()) if bad else ""

    def settings(self, fused):
        """{(phase, name): launch} of the sweep; settings that the library refuses are left out."""
        sms = torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count
        ctas = sms // self.sharing // 2 * 2
        share = lambda part: max(2, int(ctas * part) // 2 * 2)
        wanted = [("dispatch", {})]
        wanted += [("dispatch", {"optional_sm": share(part)}) for part in (1 / 8, 1 / 4, 1 / 2, 3 / 4)]
        wanted += [("dispatch", {"optional_sm": share(part), "num_tail_sms": share(tail)})
                   for part, tail in ((1 / 8, 1 / 8), (1 / 4, 1 / 4), (1 / 4, 1 / 2), (1 / 2, 1 / 4), (3 / 4, 1 / 8))]
        wanted += [("dispatch", {"num_warps": num}) for num in (4, 8, 32)]
        wanted += [(phase, knobs) for phase in ("combine", "combine serial")
                   for knobs in ({}, {"num_warps": 8}, {"num_warps": 16})]
        wanted += [("combine", {"optional_sm": share(part)}) for part in (1 / 16, 1 / 8, 1 / 4)]
        wanted += [("combine", {"optional_sm": share(1 / 8), "num_reduce_sms": share(1 / 8)})]
        made, refused = {}, []
        for phase, knobs in wanted:
            args = type(fused.args[phase]).from_buffer_copy(fused.args[phase])
            for name, value in knobs.items():
                setattr(args, name, value)
            name = " ".join([*phase.split(" ")[1:], *(f"{knob}={value}" for knob, value in knobs.items())] or ["default"])
            launch = lambda call=getattr(fused.rank, phase.split(" ")[0]), args=args: call(args)
            try:
                launch()
                fused.rank.synchronize()
                made[phase.split(" ")[0], name] = launch
            except epfuse_library.Error as error:
                refused.append(f"{name}: {error}")
        return made, refused

    def sweep(self, job):
        problem = self.problem_of(job)
        why = self.too_large(problem)
        if why:
            return why
        fused = Fused(self.api, self.group, problem, self.stream)
        made, refused = self.settings(fused)
        for text in refused:
            self.say(f"left out: {text}")
        self.report(problem, self.timed(made, fused), {"sweep": True})
        fused.close()
        return ""

    def trace(self, job):
        problem = self.problem_of(job)
        why = self.too_large(problem)
        if why:
            return why
        fused = Fused(self.api, self.group, problem, self.stream)
        for phase in ("dispatch", "combine"):
            args = type(fused.args[phase]).from_buffer_copy(fused.args[phase])
            args.enable_profiler = True
            args.profile_file_name = f"node_{problem.name}_{problem.t}_{phase}".encode()
            try:
                self.meet()
                getattr(fused.rank, phase)(args)
                fused.rank.synchronize()
            except epfuse_library.Error as error:
                why = f"refused: {error}"
        fused.close()
        self.world.barrier()
        files = list(pathlib.Path("prof").rglob("*.perfetto-trace"))
        return why or ("" if len(files) >= 2 * self.world.num_ranks else f"{len(files)} files were left")

    def expects_to_end(self, job):
        return self.decide(time.time() + self.config["expected"][job["kind"]] < self.config["deadline"])

    def run(self):
        self.measure()
        for job in self.config["jobs"]:
            self.job = job
            if not self.expects_to_end(job):
                if self.is_first:
                    self.note("late", job, "not begun, the time was up")
                continue
            if self.is_first:
                self.note("begin", job)
            text = getattr(self, job["kind"])(job)
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            self.world.barrier()
            if self.is_first:
                what = "wrong" if text.startswith("wrong") else "skip" if text else "end"
                self.note(what, job, text)
                if text:
                    print(f"{job['kind']} {job.get('shape', '')} {job.get('tokens', '')}: {text}", flush=True)


def run_rank(config, world, library):
    """False if it failed, which is noted."""
    torch.cuda.set_device(world.rank % config["gpus"])
    worker = Worker(config, world, library)
    worker.job = config["jobs"][0]
    try:
        with torch.cuda.stream(worker.stream):
            worker.run()
    except Exception as error:  # whatever it was: the others are told by its absence
        traceback.print_exc()
        if not isinstance(error, threading.BrokenBarrierError):
            worker.note("fail", worker.job, f"rank {world.rank}: {type(error).__name__}: {error}"[:400])
        return False
    return True


def run_threads(config, library):
    shared = Shared(library, config["ranks"])
    good = [False] * config["ranks"]

    def body(rank):
        good[rank] = run_rank(config, Threads(shared, rank), library)
        if not good[rank]:
            shared.barrier.abort()

    threads = [threading.Thread(target=body, args=(rank,)) for rank in range(config["ranks"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return all(good)


def main():
    if sys.argv[1] == "links":
        count = int(sys.argv[2])
        print(json.dumps(list(Links(count).patterns(count))))
        return
    config = json.loads(pathlib.Path(sys.argv[1]).read_text())
    library = epfuse_library.Library(config["library"])
    if config["threads"]:
        good = run_threads(config, library)
    else:
        rank = int(sys.argv[2])
        torch.cuda.set_device(rank % config["gpus"])
        good = run_rank(config, Processes(config, rank), library)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if good else 1)  # ends what a failure left running, and NCCL's threads


if __name__ == "__main__":
    main()
