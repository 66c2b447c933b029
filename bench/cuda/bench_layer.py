#!/usr/bin/env python3
"""Times the layer and its phases on one GPU: fused, our kernels one after another, and torch's grouped GEMM.

  bench_layer.py LIBEPFUSE.so [--gemm LIBEPFGEMM.so] [--out FILE.jsonl] [--only NAME,...] [--ranks 1,8]
                 [--rounds 20] [--commit ID]

All contenders of a shape take turns in one run.  W > 1 are virtual ranks: threads' groups that share the GPU, each
with its share of SMs and of tokens and experts, so that the work of all of them is that of W = 1.  Inputs are
normal, routing uniform (seed 0); a time is the median over rounds by device events, from the first rank's start to
the last rank's end.  Floors: the larger of FLOP at the rate of an 8192^3 product and bytes at a copy's bandwidth,
each weight and activation once, both measured here.  --gemm adds our grouped GEMM alone between torch's index
operations.  Outputs are compared before anything is timed.
"""
import os

os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # or ranks that wait for each other share a queue

import argparse
import ctypes
import json
import statistics
import sys

import torch

import epfuse_library
from epfuse_library import BF16, F32, I32, Library, Rank, on_all

# name: E, T, K, H, I, gated: of all ranks together, one GPU's share of the layer over eight
SHAPES = {
    "dsv3": (32, 4096, 8, 7168, 2048, True),
    "qwen3-235b": (16, 4096, 8, 4096, 1536, True),
    "mixtral": (8, 4096, 2, 4096, 14336, True),
    "example": (8, 1024, 2, 7168, 2048, False),
    "test": (8, 1024, 8, 1536, 960, False),
    "dsv3-decode": (32, 128, 8, 7168, 2048, True),
}
SERIAL, FUSE_SCATTER = 0, 1


class Problem:
    def __init__(self, name):
        self.name = name
        self.e, self.t, self.k, self.h, self.i, self.gated = SHAPES[name]
        self.n = 2 * self.i if self.gated else self.i
        torch.manual_seed(0)
        normal = lambda scale, *size: torch.randn(*size, device="cuda", dtype=torch.bfloat16).mul_(scale)
        self.x = normal(1, self.t, self.h)
        self.w1 = normal(self.h ** -0.5, self.e, self.n, self.h)
        self.w2 = normal(self.i ** -0.5, self.e, self.h, self.i)
        self.dy = normal(1, self.t, self.h)
        self.ids = torch.rand(self.t, self.e, device="cuda").topk(self.k, dim=1).indices.int()
        self.weight = torch.rand(self.t, self.k, device="cuda", dtype=torch.float32) / self.k
        self.rows = self.t * self.k

    def floors(self, machine):
        """Microseconds by phase."""
        gemm1 = 2.0 * self.rows * self.n * self.h
        gemm2 = 2.0 * self.rows * self.i * self.h
        bytes1 = 2.0 * (self.e * self.n * self.h + self.t * self.h + self.rows * self.i)
        bytes2 = 2.0 * (self.e * self.i * self.h + self.t * self.h + self.rows * self.i)
        bytes_back = 2.0 * (2 * self.e * (self.n + self.i) * self.h + 2 * self.t * self.h +
                            2 * self.rows * (self.n + self.i))
        at = lambda flop, size: max(flop / machine["matrix_tflops"] / 1e6, size / machine["copy_gbs"] / 1e3)
        phases = {"dispatch": (gemm1, bytes1), "combine": (gemm2, bytes2),
                  "layer": (gemm1 + gemm2, bytes1 + bytes2), "backward": (2 * (gemm1 + gemm2), bytes_back)}
        return {name: (at(*work), work[0]) for name, work in phases.items()}


class Ours:
    """The operator over `num_ranks` virtual ranks; launches are made by one thread, rank after rank."""

    def __init__(self, library, problem, num_ranks):
        self.api, self.p, self.w = library, problem, num_ranks
        self.streams = [torch.cuda.Stream() for _ in range(num_ranks)]
        p, w = problem, num_ranks
        self.out = torch.empty_like(p.x)
        self.grad_x, self.grad_weight = torch.empty_like(p.x), torch.empty_like(p.weight)
        self.grad_w1, self.grad_w2 = torch.empty_like(p.w1), torch.empty_like(p.w2)
        self.ranks = [
            Rank(library, group, rank, backend=library.constants["EPF_BACKEND_CUDA"], max_tokens=p.t // w,
                 hidden=p.h, topk=p.k, num_tot_experts=p.e, dtype=BF16, capacity=float(min(w, 2)),
                 allow_regrow=False, stream=self.streams[rank].cuda_stream)
            for rank, group in enumerate(library.threads_group(w))]
        on_all(self.ranks, lambda r: r.open())
        self.args = on_all(self.ranks, self.prepare)
        on_all(self.ranks, self.warm_up)

    def part(self, tensor, rank):
        """This rank's share of a tensor whose first dimension is tokens or experts."""
        size = tensor.shape[0] // self.w
        return tensor[rank * size:(rank + 1) * size]

    def tensor(self, tensor):
        dtype = {torch.bfloat16: BF16, torch.float32: F32, torch.int32: I32}[tensor.dtype]
        return self.api.tensor(tensor.data_ptr(), dtype, *tensor.shape)

    def prepare(self, rank):
        p, r, make = self.p, rank.rank, self.api.make
        x, ids, weight = (self.tensor(self.part(t, r)) for t in (p.x, p.ids, p.weight))
        w1, w2 = (self.tensor(self.part(t, r)) for t in (p.w1, p.w2))
        args = {"preprocess": make("epf_preprocess_args", exp_indices=ids)}
        rank.preprocess(args["preprocess"])
        rows = rank.view().num_recv_rows
        rank.hidden = torch.empty(max(rows, 1), p.i, device="cuda", dtype=torch.bfloat16)
        hidden = self.api.tensor(rank.hidden.data_ptr(), BF16, rows, p.i)
        args["dispatch"] = make("epf_dispatch_group_gemm_args", layout=rank.layout, input=x, weight=weight,
                                gemm_weight=w1, use_block_wise_barrier=True)
        if p.gated:
            args["dispatch"].activation = self.api.constants["EPF_ACTIVATION_SWIGLU"]
            args["dispatch"].activation_output = hidden
            args["dispatch"].keep_gemm_output = False
        else:
            args["dispatch"].gemm_output_data = hidden
        for name, mode in (("combine", FUSE_SCATTER), ("combine_serial", SERIAL)):
            args[name] = make("epf_group_gemm_combine_args", layout=rank.layout, gemm_input_data=hidden,
                              gemm_weight=w2, combine_mode=mode, combine_output=self.tensor(self.part(self.out, r)))
        if p.gated:
            weights = self.api.structs["epf_layer_weights"](w13=w1, w2=w2)
            args["forward"] = make("epf_layer_forward_args", input=x, exp_indices=ids, weight=weight, weights=weights,
                                   output=self.tensor(self.part(self.out, r)), combine_mode=FUSE_SCATTER)
            args["backward"] = make(
                "epf_layer_backward_args", grad_output=self.tensor(self.part(p.dy, r)), w13=w1, w2=w2,
                grad_input=self.tensor(self.part(self.grad_x, r)),
                grad_weight=self.tensor(self.part(self.grad_weight, r)),
                grad_w13=self.tensor(self.part(self.grad_w1, r)), grad_w2=self.tensor(self.part(self.grad_w2, r)))
        return args

    def warm_up(self, rank):
        """Each call once by its own thread: memory is taken where ranks may wait for each other."""
        for step in self.steps():
            getattr(rank, step.removesuffix("_serial"))(self.args[rank.rank][step])
            rank.synchronize()
        if self.p.gated:
            rank.api.call("epf_layout_get", ctypes.c_void_p(self.layout_of(rank)),
                              ctypes.byref(self.api.structs["epf_layout_view"]()))

    def layout_of(self, rank):
        function = self.api.lib.epf_layer_context_layout
        function.restype = ctypes.c_void_p
        return function(rank.context)

    def steps(self):
        return ["preprocess", "dispatch", "combine", "combine_serial"] + (
            ["forward", "backward"] if self.p.gated else [])

    def launch(self, *steps):
        """A contender: the steps on all ranks, forked from the current stream and joined to it."""
        def contender():
            main = torch.cuda.current_stream()
            for stream in self.streams:
                stream.wait_stream(main)
            for step in steps:
                for rank in self.ranks:
                    getattr(rank, step.removesuffix("_serial"))(self.args[rank.rank][step])
            for stream in self.streams:
                main.wait_stream(stream)
        return contender

    def check(self):
        torch.cuda.synchronize()
        for rank in self.ranks:
            rank.synchronize()

    def close(self):
        self.check()
        on_all(self.ranks, lambda r: r.close())


class Torch:
    """A layer that a user would put together: sort, gather rows, grouped GEMM, SwiGLU, grouped GEMM, add up."""

    def __init__(self, problem, gemm=None):
        self.p, self.gemm = problem, gemm
        self.route()
        p = problem
        if gemm is not None:
            empty = lambda n: torch.empty(p.rows, n, device="cuda", dtype=torch.bfloat16)
            self.act, self.y = empty(p.i), empty(p.h)
            self.counts = self.count.int()

    def route(self):
        p = self.p
        flat = p.ids.flatten().long()
        self.order = torch.argsort(flat, stable=True)
        self.token = self.order // p.k
        self.count = torch.zeros(p.e, device="cuda", dtype=torch.int64).index_add_(0, flat, torch.ones_like(flat))
        self.offs = torch.cumsum(self.count, 0).int()
        self.scale = p.weight.flatten()[self.order]

    def grouped(self, a, b):
        call = getattr(torch.nn.functional, "grouped_mm", None) or torch._grouped_mm
        return call(a, b.transpose(1, 2), offs=self.offs)

    def activate(self, y, scale):
        if not self.p.gated:
            return y
        gate, up = y.chunk(2, dim=1)
        return torch.nn.functional.silu(gate) * up * scale[:, None].to(y.dtype)

    def dispatch(self):
        self.hidden = self.activate(self.grouped(self.p.x.index_select(0, self.token), self.p.w1), self.scale)

    def combine(self):
        y = self.grouped(self.hidden, self.p.w2)
        self.out = torch.zeros_like(self.p.x).index_add_(0, self.token, y)

    def forward(self):
        self.route()
        self.dispatch()
        self.combine()

    def dispatch_own(self):
        p = self.p
        rows = p.x.index_select(0, self.token)
        more = dict(epilogue=1, row_weight=self.scale) if p.gated else {}
        self.gemm.prepare(rows, p.w1, self.act, self.counts, **more)()
        self.kept = rows

    def combine_own(self):
        self.gemm.prepare(self.act, self.p.w2, self.y, self.counts)()
        self.out = torch.zeros_like(self.p.x).index_add_(0, self.token, self.y)

    def forward_own(self):
        self.route()
        self.counts = self.count.int()
        self.dispatch_own()
        self.combine_own()

    def graph(self):
        """Leaves and the output of a forward pass that keeps what backward needs."""
        p = self.p
        self.leaves = [t.detach().requires_grad_() for t in (p.x, p.weight, p.w1, p.w2)]
        x, weight, w1, w2 = self.leaves
        scale = weight.flatten()[self.order]
        hidden = self.activate(self.grouped(x.index_select(0, self.token), w1), scale)
        self.kept_out = torch.zeros_like(x).index_add(0, self.token, self.grouped(hidden, w2))

    def backward(self):
        self.grads = torch.autograd.grad(self.kept_out, self.leaves, self.p.dy, retain_graph=True)


def timed(contenders, rounds, warmup=3):
    """Sorted microseconds of each contender, taking turns."""
    events = {name: [] for name in contenders}
    for turn in range(warmup + rounds):
        for name, launch in contenders.items():
            torch.cuda._sleep(3000000)  # the host gets ahead, so that no launch is waited for
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            launch()
            end.record()
            if turn >= warmup:
                events[name].append((start, end))
        torch.cuda.synchronize()
    return {name: sorted(1e3 * s.elapsed_time(e) for s, e in pairs) for name, pairs in events.items()}


def relative_error(out, wanted):
    out, wanted = out.float(), wanted.float()
    return ((out - wanted).norm() / wanted.norm()).item()


def measure_machine():
    x = torch.empty(2 ** 30, device="cuda", dtype=torch.uint8).random_()
    y = torch.empty_like(x)
    a, b, c = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    us = timed({"copy": lambda: y.copy_(x), "mm": lambda: torch.mm(a, b, out=c)}, 20)
    return {"copy_gbs": round(2 * x.numel() / statistics.median(us["copy"]) / 1e3, 1),
            "matrix_tflops": round(2 * 8192.0 ** 3 / statistics.median(us["mm"]) / 1e6, 1)}


def contenders_of(problem, ours, assembled):
    """(phase, name): what is timed."""
    made = {}
    for w, mine in ours.items():
        name = f"fused_w{w}"
        made["preprocess", name] = mine.launch("preprocess")
        made["dispatch", name] = mine.launch("dispatch")
        made["combine", name] = mine.launch("combine")
        made["combine", f"serial_w{w}"] = mine.launch("combine_serial")
        made["layer", f"parts_w{w}"] = mine.launch("preprocess", "dispatch", "combine")
        if problem.gated:
            made["layer", name] = mine.launch("forward")
            made["backward", name] = mine.launch("backward")
    made["preprocess", "torch"] = assembled.route
    made["dispatch", "torch"], made["combine", "torch"] = assembled.dispatch, assembled.combine
    made["layer", "torch"] = assembled.forward
    if problem.gated:
        assembled.graph()
        made["backward", "torch"] = assembled.backward
    if assembled.gemm is not None:
        made["dispatch", "unfused"], made["combine", "unfused"] = assembled.dispatch_own, assembled.combine_own
        made["layer", "unfused"] = assembled.forward_own
    return made


def compare(problem, ours, assembled):
    """Relative errors against torch; True if all are small."""
    errors = {}
    assembled.forward()
    wanted = assembled.out.clone()
    if assembled.gemm is not None:
        assembled.forward_own()
        errors["unfused"] = relative_error(assembled.out, wanted)
    for w, mine in ours.items():
        mine.out.zero_()
        torch.cuda.synchronize()
        mine.launch("preprocess", "dispatch", "combine")()
        mine.check()
        errors[f"parts_w{w}"] = relative_error(mine.out, wanted)
        if problem.gated:
            assembled.graph()
            assembled.backward()
            mine.launch("forward", "backward")()
            mine.check()
            errors[f"fused_w{w}"] = relative_error(mine.out, wanted)
            grads = (mine.grad_x, mine.grad_weight, mine.grad_w1, mine.grad_w2)
            for name, got, want in zip(("x", "weight", "w13", "w2"), grads, assembled.grads):
                errors[f"grad_{name}_w{w}"] = relative_error(got, want)
    for name, error in errors.items():
        print(f"  {problem.name:12s} {name:16s} relative error {error:.1e}{'' if error < 2e-2 else '  WRONG'}")
    return all(error < 2e-2 for error in errors.values())


def run_shape(name, library, gemm, options, machine):
    problem = Problem(name)
    floors = problem.floors(machine)
    assembled = Torch(problem, gemm)
    ours = {w: Ours(library, problem, w) for w in map(int, options.ranks.split(","))}
    good = compare(problem, ours, assembled)
    times = timed(contenders_of(problem, ours, assembled), options.rounds)
    medians = {key: statistics.median(us) for key, us in times.items()}
    lines = []
    for (phase, contender), us in times.items():
        line = {"op": phase, "shape": name, "name": contender, "us_p50": round(medians[phase, contender], 2),
                "us_p10": round(us[len(us) // 10], 2), "us_p90": round(us[len(us) * 9 // 10], 2),
                "rounds": options.rounds, **machine}
        text = f"{name:12s} {phase:10s} {contender:10s} {line['us_p50']:10.1f} us"
        if phase in floors:
            floor, flop = floors[phase]
            line["tflops"] = round(flop / line["us_p50"] / 1e6, 1)
            line["floor_us"], line["pct_floor"] = round(floor, 2), round(100 * floor / line["us_p50"], 1)
            text += f" {line['tflops']:7.1f} TFLOP/s {line['pct_floor']:6.1f} % of the floor"
        for other in ("torch", "unfused"):
            if (phase, other) in medians and other != contender:
                line["over_" + other] = round(medians[phase, other] / line["us_p50"], 3)
                text += f"  {line['over_' + other]:.2f} x {other}"
        print(text, flush=True)
        lines.append(line)
    for mine in ours.values():
        mine.close()
    return good, lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("api", metavar="library")
    parser.add_argument("--gemm")
    parser.add_argument("--out")
    parser.add_argument("--only", default=",".join(SHAPES))
    parser.add_argument("--ranks", default="1,8")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--commit", default="")
    options = parser.parse_args()
    library = Library(options.api)
    gemm = None
    if options.gemm:
        import gemm_library
        gemm = gemm_library.Library(options.gemm)
    machine = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "commit": options.commit,
               **measure_machine()}
    print(json.dumps(machine), flush=True)
    bad = 0
    for name in options.only.split(","):
        try:
            good, lines = run_shape(name, library, gemm, options, machine)
        except (epfuse_library.Error, RuntimeError) as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            bad += 1
            continue
        bad += not good
        if options.out:
            with open(options.out, "a") as out:
                out.writelines(json.dumps(line) + "\n" for line in lines)
        torch.cuda.empty_cache()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
