#!/usr/bin/env python3
"""Times the grouped GEMM beside its peers on one GPU, all of them taking turns.

  bench_gemm.py LIBRARY[,LIBRARY B,...] [--out FILE.jsonl] [--only NAME,...] [--ours NAME,...] [--rounds 20] [--commit ID]

Peers: cuBLAS (one dense product of the same FLOP, and one call per expert) and torch's grouped GEMM.  Inputs are
normal, rows multinomial (seed 0); a figure is the median over rounds by device events; FLOP of useful rows only.
Each of our kernels is also compared with the per-expert product before it is timed.
"""
import argparse
import json
import random
import statistics
import sys

import numpy
import torch

from gemm_library import Library

# name: experts, rows, N, K
SHAPES = {
    "dsv3_gemm1": (32, 32768, 4096, 7168),
    "dsv3_gemm2": (32, 32768, 7168, 2048),
    "qwen235_gemm1": (16, 32768, 3072, 4096),
    "qwen235_gemm2": (16, 32768, 4096, 1536),
    "mixtral_gemm1": (1, 8192, 28672, 4096),
    "original_test": (8, 8192, 960, 1536),
    "original_example": (8, 2048, 2048, 7168),
    "dsv3_decode": (32, 1024, 4096, 7168),
}
# name: what it is besides rows in place, [G, N, K], stored
FORMS = ("store", "swiglu", "swiglu_raw", "gather", "gkn", "rowptr", "wgrad", "f16")


def timed(contenders, rounds, warmup=3):
    """Medians in ms of each contender, taking turns in an order of each round's own: the power that one draws
    slows the next one down."""
    events = {name: [] for name in contenders}
    for turn in range(warmup + rounds):
        torch.cuda._sleep(1000000)  # the host gets ahead, so that no launch is waited for
        order = list(contenders.items())
        random.Random(turn).shuffle(order)
        for name, launch in order:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            launch(turn)
            end.record()
            if turn >= warmup:
                events[name].append((start, end))
    torch.cuda.synchronize()
    return {name: statistics.median(s.elapsed_time(e) for s, e in pairs) for name, pairs in events.items()}


def relative_error(out, wanted):
    out, wanted = out.float(), wanted.float()
    return ((out - wanted).norm() / wanted.norm()).item()


class Case:
    """Inputs of one shape; `sets` of them where one would fit in the L2 cache."""

    def __init__(self, shape, dtype=torch.bfloat16):
        self.g, self.m, self.n, self.k = SHAPES[shape]
        counts = numpy.random.RandomState(0).multinomial(self.m, [1.0 / self.g] * self.g)
        self.ends = numpy.cumsum(counts)
        self.rows = torch.tensor(counts, dtype=torch.int32, device="cuda")
        self.offs = torch.tensor(self.ends, dtype=torch.int32, device="cuda")
        one = 2 * (self.m * self.k + self.g * self.n * self.k + self.m * self.n)
        self.sets = 4 if one < 2e8 else 1
        torch.manual_seed(0)
        normal = lambda *size: [torch.randn(*size, device="cuda", dtype=dtype) for _ in range(self.sets)]
        self.a = normal(self.m, self.k)
        self.b = [b.mul_(self.k ** -0.5) for b in normal(self.g, self.n, self.k)]
        self.c = [torch.empty(self.m, self.n, device="cuda", dtype=dtype) for _ in range(self.sets)]
        self.flop = 2.0 * self.m * self.n * self.k

    def segments(self):
        begin = 0
        for g, end in enumerate(self.ends):
            yield g, begin, int(end)
            begin = int(end)

    def turns(self, make):
        launches = [make(i) for i in range(self.sets)]
        return lambda turn: launches[turn % self.sets]()


def peers(case):
    def grouped(i):
        call = getattr(torch.nn.functional, "grouped_mm", None) or torch._grouped_mm
        bt = case.b[i].transpose(1, 2)
        return lambda: call(case.a[i], bt, offs=case.offs)

    def dense(i):
        return lambda: torch.mm(case.a[i], case.b[i][0].t(), out=case.c[i])

    def loop(i):
        def launch():
            for g, begin, end in case.segments():
                torch.mm(case.a[i][begin:end], case.b[i][g].t(), out=case.c[i][begin:end])
        return launch
    return {"cublas_dense": case.turns(dense), "torch_grouped": case.turns(grouped),
            "cublas_loop": case.turns(loop)}


def reference(case, i=0):
    out = torch.empty_like(case.c[i])
    for g, begin, end in case.segments():
        torch.mm(case.a[i][begin:end], case.b[i][g].t(), out=out[begin:end])
    return out


def swiglu_reference(y):
    gate, up = y.float().chunk(2, dim=1)
    return torch.nn.functional.silu(gate) * up


def ours(library, case, form, tune):
    """(contender, check): check() is the relative error of what the contender left."""
    c, n, half = case.c, case.n, case.n // 2
    if form == "wgrad":
        dy = [torch.randn(case.m, n, device="cuda", dtype=x.dtype) for x in case.a]
        out = torch.empty(case.g, n, case.k, device="cuda", dtype=case.a[0].dtype)

        def check():
            wanted = torch.stack([dy[0][b:e].t() @ case.a[0][b:e] for _, b, e in case.segments()])
            return relative_error(out, wanted)
        return case.turns(lambda i: library.prepare(dy[i], case.a[i], out, case.rows, weight_grad=1, **tune)), check
    if form in ("swiglu", "swiglu_raw"):
        act = torch.empty(case.m, half, device="cuda", dtype=c[0].dtype)
        more = dict(epilogue=1, **({"raw": c[0]} if form == "swiglu_raw" else {}))
        return (case.turns(lambda i: library.prepare(case.a[i], case.b[i], act, case.rows, **more, **tune)),
                lambda: relative_error(act, swiglu_reference(reference(case))))
    if form == "gather":
        order = torch.randperm(case.m, device="cuda", dtype=torch.int32)
        moved = [torch.empty_like(a) for a in case.a]
        for a, to in zip(case.a, moved):
            to[order.long()] = a
        return (case.turns(lambda i: library.prepare(moved[i], case.b[i], c[i], case.rows, gather=order, **tune)),
                lambda: relative_error(c[0], reference(case)))
    if form == "gkn":
        turned = [b.transpose(1, 2).contiguous() for b in case.b]
        return (case.turns(lambda i: library.prepare(case.a[i], turned[i], c[i], case.rows, b_n_major=1, **tune)),
                lambda: relative_error(c[0], reference(case)))
    if form == "rowptr":
        order = torch.randperm(case.m, device="cuda")
        to = [c[i].data_ptr() + order * (n * 2) for i in range(case.sets)]
        return (case.turns(lambda i: library.prepare(case.a[i], case.b[i], c[i], case.rows, row_ptr=to[i], **tune)),
                lambda: relative_error(c[0][order], reference(case)))
    a, b = case.a, case.b
    if form == "f16":
        a, b, c = ([x.half() for x in group] for group in (a, b, c))
    return (case.turns(lambda i: library.prepare(a[i], b[i], c[i], case.rows, **tune)),
            lambda: relative_error(c[0], reference(case)))


def parse_ours(text):
    """[b:]form[/nBLOCK_N][/cCLUSTER_MxCLUSTER_N][/gGROUP_M][/last|/turn][/swap|/noswap]
[/static], e.g. store/n256/c2x1/g8."""
    form, *parts = text.split("/")
    tune = {}
    for part in parts:
        if part in ("swap", "noswap"):
            tune["swapped"] = 1 if part == "swap" else -1
        elif part[0] == "n":
            tune["block_n"] = int(part[1:])
        elif part == "static":
            tune["dynamic"] = 0
        elif part in ("last", "turn"):
            tune["short_last"] = 1 if part == "last" else -1
        elif part[0] == "g":
            tune["group_m"] = int(part[1:])
        else:
            tune["cluster_m"], tune["cluster_n"] = map(int, part[1:].split("x"))
    return form, tune


def copy_bandwidth():
    x = torch.empty(2 ** 31, device="cuda", dtype=torch.uint8).random_()
    y = torch.empty_like(x)
    ms = timed({"copy": lambda turn: y.copy_(x)}, 10)["copy"]
    return 2 * x.numel() / ms / 1e6


def matrix_rate():
    x, y, z = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    ms = timed({"mm": lambda turn: torch.mm(x, y, out=z)}, 20)["mm"]
    return 2 * 8192.0 ** 3 / ms / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("api", metavar="library")
    parser.add_argument("--out")
    parser.add_argument("--only", default=",".join(SHAPES))
    parser.add_argument("--ours", default="store")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--commit", default="")
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    libraries = {f"{chr(97 + i)}:": Library(path) for i, path in enumerate(options.api.split(","))}
    machine = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "commit": options.commit,
               "copy_gbs": round(copy_bandwidth(), 1), "matrix_tflops": round(matrix_rate(), 1)}
    print(json.dumps(machine))
    print("columns: time, rate, times cuBLAS's dense product, times torch's grouped GEMM")
    out = open(options.out, "a") if options.out else None
    bad = 0
    for shape in options.only.split(","):
        case = Case(shape)
        contenders = {} if options.no_peers else peers(case)
        errors = {}
        for name in options.ours.split(","):
            library = libraries[name[:2] if name[1] == ":" else "a:"]
            form, tune = parse_ours(name[2:] if name[1] == ":" else name)
            try:
                contender, check = ours(library, case, form, tune)
                contender(0)
                errors[name] = check()
            except RuntimeError as error:
                print(f"  {shape} {name}: {error}", file=sys.stderr)
                bad += "no grouped GEMM kernel" not in str(error)
                continue
            contenders[name] = contender
        times = timed(contenders, options.rounds)
        for name, ms in times.items():
            rate = case.flop / ms / 1e9
            line = {"op": "grouped_gemm", "shape": shape, "name": name, "rounds": options.rounds,
                    "us_p50": round(ms * 1e3, 2), "tflops": round(rate, 1), **machine}
            text = f"{shape:16s} {name:22s} {ms * 1e3:8.1f} us {rate:6.1f} TF/s"
            for peer in ("cublas_dense", "torch_grouped"):
                if peer in times:
                    line["over_" + peer] = round(times[peer] / ms, 3)
                    text += f" {times[peer] / ms:6.3f}"
            if shape.endswith("decode"):
                floor = 2.0 * case.g * case.n * case.k / machine["copy_gbs"] / 1e6
                line["pct_floor"] = round(100 * floor / ms, 1)
                text += f" {100 * floor / ms:.1f}%floor"
            if name in errors:
                line["error"] = errors[name]
                wrong = not errors[name] < 1e-2
                bad += wrong
                text += f" err {errors[name]:.0e}{' WRONG' if wrong else ''}"
            print(text, flush=True)
            if out:
                out.write(json.dumps(line) + "\n")
        del case, contenders
        torch.cuda.empty_cache()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
