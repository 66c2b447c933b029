"""What node.py times on each rank: a problem, our operator, and the same put together from NCCL and torch."""
import ctypes
import math

import torch

from epfuse_library import BF16, F32, I32, Rank

SERIAL, FUSE_SCATTER = 0, 1
THIN = 64  # columns, or inner size, of a product that is next to nothing beside its communication
ZIPF_EXPONENT = 1.0
PERMUTATION_SEED, SAMPLE = 99, 16


class Problem:
    """One rank's inputs.  Everything follows from seeds, so that each rank can make any other's, and any expert."""

    def __init__(self, world, table, shape, tokens, routing):
        self.world, self.name, self.routing, self.t = world, shape, routing, tokens
        self.e, self.k, self.h, self.i, self.gated = table
        self.n = 2 * self.i if self.gated else self.i
        self.w, self.rank, self.l = world.num_ranks, world.rank, self.e // world.num_ranks
        self.x = self.normal(1000 + self.rank, 1, self.t, self.h)
        self.dy = self.normal(2000 + self.rank, 1, self.t, self.h)
        self.ids, self.weight = self.routing_of(self.rank)
        experts = [self.expert(self.rank * self.l + e) for e in range(self.l)]
        self.w1, self.w2 = (torch.stack([expert[i] for expert in experts]) for i in range(2))
        self.count()

    def generator(self, seed):
        return torch.Generator(device="cuda").manual_seed(seed)

    def normal(self, seed, scale, *size):
        return torch.randn(*size, device="cuda", dtype=torch.bfloat16, generator=self.generator(seed)).mul_(scale)

    def expert(self, e):
        return (self.normal(10000 + 2 * e, self.h ** -0.5, self.n, self.h),
                self.normal(10001 + 2 * e, self.i ** -0.5, self.h, self.i))

    def routing_of(self, rank):
        """K experts a token, distinct, uniform or by popularity 1 / place, places drawn over all ranks' experts."""
        generator = self.generator(3000 + rank)
        score = torch.rand(self.t, self.e, device="cuda", generator=generator)
        if self.routing == "zipf":
            place = torch.randperm(self.e, generator=torch.Generator().manual_seed(PERMUTATION_SEED)).cuda()
            score = -torch.log(-torch.log(score.clamp(1e-9, 1 - 1e-7))) - ZIPF_EXPONENT * torch.log(place + 1.0)
        ids = score.topk(self.k, dim=1).indices.int()
        return ids, torch.rand(self.t, self.k, device="cuda", generator=generator) / self.k

    def count(self):
        """Rows of every rank, and rows that cross between ranks: with and without each token crossing once."""
        rows = torch.zeros(self.w, self.w, dtype=torch.int64)  # [from, to]
        once = torch.zeros(self.w, self.w, dtype=torch.int64)
        experts = torch.zeros(self.e, dtype=torch.int64)
        for source in range(self.w):
            ids = self.routing_of(source)[0].long()
            owner = ids // self.l
            rows[source] = torch.bincount(owner.flatten(), minlength=self.w).cpu()
            reached = torch.zeros(self.t, self.w, dtype=torch.bool, device="cuda").scatter_(1, owner, True)
            once[source] = reached.sum(0).cpu()
            experts += torch.bincount(ids.flatten(), minlength=self.e).cpu()
        self.rows_of_rank = rows.sum(0).tolist()
        self.rows, self.max_rows = self.rows_of_rank[self.rank], max(self.rows_of_rank)
        self.used = [int((experts[r * self.l:(r + 1) * self.l] > 0).sum()) for r in range(self.w)]
        self.pair_rows = rows
        away = 1 - torch.eye(self.w, dtype=torch.int64)
        self.sent_once, self.sent_all = once * away, rows * away

    def bytes_moved(self, rows):
        """Of the busiest direction of the busiest rank."""
        return 2.0 * self.h * max(rows.sum(0).max().item(), rows.sum(1).max().item())

    def memory(self):
        """Bytes on a GPU, roughly, of a case with its contenders."""
        weights = 2.0 * self.l * self.h * (self.n + self.i)
        return 4 * weights + 2.0 * self.max_rows * (10 * self.h + 8 * self.n)

    def floors(self, machine):
        """{phase: (microseconds, FLOP of all ranks, what bounds it)}: the slowest rank's largest of arithmetic, memory
        and link, each at the rate measured here, phases one after another."""
        out = self.bytes_moved(self.sent_once), self.bytes_moved(self.sent_all)
        totals = {}

        def step(phase, flop_of_row, weight_bytes, row_bytes, moved):
            times = {"matrix": max(flop_of_row * rows for rows in self.rows_of_rank) / machine["matrix_tflops"] / 1e6,
                     "memory": max(weight_bytes * used + row_bytes * rows for used, rows in
                                   zip(self.used, self.rows_of_rank)) / machine["copy_gbs"] / 1e3,
                     "link": moved / machine["link_gbs"] / 1e3 if machine.get("link_gbs") else 0.0}
            bound = max(times, key=times.get)
            us, flop, bounds = totals.get(phase, (0.0, 0.0, []))
            totals[phase] = (us + times[bound], flop + flop_of_row * sum(self.rows_of_rank), [*bounds, bound])

        h, i, n, tokens = self.h, self.i, self.n, 2.0 * self.t * self.h / max(self.rows, 1)
        for phase in ("dispatch", "layer"):
            step(phase, 2.0 * n * h, 2.0 * n * h, 2.0 * i + tokens, out[0])
        for phase in ("combine", "layer"):
            step(phase, 2.0 * i * h, 2.0 * i * h, 2.0 * i + tokens, out[1])
        step("backward", 2.0 * i * h, 2.0 * i * h, 2.0 * (h + i) + tokens, out[0])
        step("backward", 2.0 * (2 * n + i) * h, 2.0 * (2 * n + i) * h, 2.0 * (2 * h + n + i) + tokens, out[1])
        for phase, moved in zip(("dispatch alone", "combine alone"), out):
            if machine.get("link_gbs"):
                totals[phase] = (moved / machine["link_gbs"] / 1e3, 0.0, ["link"])
        return totals

    def activate(self, y, scale):
        if not self.gated:
            return y
        gate, up = y.chunk(2, dim=1)
        return torch.nn.functional.silu(gate) * up * scale[:, None].to(y.dtype)

    def expected(self):
        """Of this rank's first tokens: output, gradients of input and routing weights, in fp32 by autograd."""
        size = min(SAMPLE, self.t)
        x, weight = (t[:size].float().requires_grad_() for t in (self.x, self.weight))
        out = torch.zeros(size, self.h, device="cuda")
        with torch.autograd.set_multithreading_enabled(False):
            grads = [torch.zeros_like(x), torch.zeros_like(weight)]
            for e in torch.unique(self.ids[:size]).tolist():
                token, k = torch.nonzero(self.ids[:size] == e, as_tuple=True)
                w1, w2 = (t.float() for t in self.expert(e))
                part = self.activate(x[token] @ w1.T, weight[token, k]) @ w2.T
                out.index_add_(0, token, part.detach())
                each = torch.autograd.grad(part, (x, weight), self.dy[:size].float()[token], allow_unused=True)
                for grad, one in zip(grads, each):
                    grad += one if one is not None else 0
        return out, grads[0], grads[1]


class Fused:
    """Our operator on this rank."""

    def __init__(self, library, group, problem, stream):
        self.api, self.p, p = library, problem, problem
        self.rank = Rank(library, group, p.rank, backend=library.constants["EPF_BACKEND_CUDA"], max_tokens=p.t,
                         hidden=p.h, topk=p.k, num_tot_experts=p.e, dtype=BF16,
                         capacity=min(float(p.w), 1.02 * p.max_rows / (p.t * p.k) + 0.02),
                         allow_regrow=False, device=torch.cuda.current_device(), stream=stream.cuda_stream)
        self.rank.open()
        self.prepare()
        self.settle()
        for step in self.steps():  # memory is taken by the first calls
            self.launch(step)()
            self.rank.synchronize()
        if p.gated:  # the layer's own layout is known from here on
            function = library.lib.epf_layer_context_layout
            function.restype = ctypes.c_void_p
            view = library.structs["epf_layout_view"]()
            library.call("epf_layout_get", ctypes.c_void_p(function(self.rank.context)), ctypes.byref(view))

    def tensor(self, tensor, rows=None):
        dtype = {torch.bfloat16: BF16, torch.float32: F32, torch.int32: I32}[tensor.dtype]
        return self.api.tensor(tensor.data_ptr(), dtype, tensor.shape[0] if rows is None else rows,
                                   *tensor.shape[1:])

    def prepare(self):
        p, rank, make = self.p, self.rank, self.api.make
        x, ids, weight, w1, w2 = (self.tensor(t) for t in (p.x, p.ids, p.weight, p.w1, p.w2))
        self.args = {"preprocess": make("epf_preprocess_args", exp_indices=ids)}
        rank.preprocess(self.args["preprocess"])
        rows = rank.view().num_recv_rows
        if rows != p.rows:
            raise RuntimeError(f"preprocess counts {rows} rows, there are {p.rows}")
        empty = lambda *size: torch.empty(*size, device="cuda", dtype=torch.bfloat16)
        at_least = max(rows, 1)
        self.hidden, self.out = empty(at_least, p.i), empty(p.t, p.h)
        self.grads = [torch.empty_like(t) for t in (p.x, p.weight, p.w1, p.w2)] if p.gated else []
        self.thin_w1, self.thin_w2 = p.w1[:, :THIN].contiguous(), p.w2[:, :, :THIN].contiguous()
        self.thin_out, self.thin_in = empty(at_least, THIN), torch.zeros(at_least, THIN, device="cuda").bfloat16()
        hidden, out = self.tensor(self.hidden, rows), self.tensor(self.out)
        dispatch = dict(layout=rank.layout, input=x, weight=weight, use_block_wise_barrier=True)
        combine = dict(layout=rank.layout, combine_output=out)
        self.args["dispatch"] = make("epf_dispatch_group_gemm_args", gemm_weight=w1, **dispatch)
        if p.gated:
            self.args["dispatch"].activation = self.api.constants["EPF_ACTIVATION_SWIGLU"]
            self.args["dispatch"].activation_output = hidden
            self.args["dispatch"].keep_gemm_output = False
        else:
            self.args["dispatch"].gemm_output_data = hidden
        self.args["dispatch alone"] = make("epf_dispatch_group_gemm_args", gemm_weight=self.tensor(self.thin_w1),
                                           gemm_output_data=self.tensor(self.thin_out, rows), **dispatch)
        for suffix, mode in (("", FUSE_SCATTER), (" serial", SERIAL)):
            self.args["combine" + suffix] = make("epf_group_gemm_combine_args", gemm_input_data=hidden,
                                                 gemm_weight=w2, combine_mode=mode, **combine)
            self.args["combine alone" + suffix] = make(
                "epf_group_gemm_combine_args", gemm_input_data=self.tensor(self.thin_in, rows),
                gemm_weight=self.tensor(self.thin_w2), combine_mode=mode, **combine)
        if p.gated:
            weights = self.api.structs["epf_layer_weights"](w13=w1, w2=w2)
            self.args["forward"] = make("epf_layer_forward_args", input=x, exp_indices=ids, weight=weight,
                                        weights=weights, output=out, combine_mode=FUSE_SCATTER)
            names = ("grad_input", "grad_weight", "grad_w13", "grad_w2")
            self.args["backward"] = make("epf_layer_backward_args", grad_output=self.tensor(p.dy), w13=w1, w2=w2,
                                         **{name: self.tensor(t) for name, t in zip(names, self.grads)})

    def settle(self):
        """Before calls that wait for other ranks' on a shared GPU: a kernel that torch has yet to load, or memory to be
        given back, would wait for them, too."""
        torch.cuda.current_stream().synchronize()
        self.p.world.barrier()

    def steps(self):
        return list(self.args)

    def launch(self, *steps):
        calls = [(getattr(self.rank, step.split(" ")[0]), self.args[step]) for step in steps]

        def contender():
            for call, args in calls:
                call(args)
        return contender

    def contenders(self):
        """{(phase, name): launch}"""
        made = {(phase, "fused"): self.launch(phase) for phase in
                ("preprocess", "dispatch", "combine", "dispatch alone", "combine alone")}
        made["combine", "serial"] = self.launch("combine serial")
        made["combine alone", "serial"] = self.launch("combine alone serial")
        made["layer", "parts"] = self.launch("preprocess", "dispatch", "combine")
        if self.p.gated:
            made["layer", "fused"] = self.launch("forward")
            made["backward", "fused"] = self.launch("backward")
        return made

    def close(self):
        self.api.call("epf_op_finalize", self.rank.op)
        self.rank.close()


class Exchange(torch.autograd.Function):
    """Rows to all ranks; backward, their gradients come back."""

    @staticmethod
    def forward(context, rows, send, recv, exchange):
        context.splits, context.exchange = (recv, send), exchange
        return exchange(rows, send, recv)

    @staticmethod
    def backward(context, grad):
        return context.exchange(grad.contiguous(), *context.splits), None, None, None


class Unfused:
    """A layer that a user would put together: sort, all to all, grouped GEMM, SwiGLU, grouped GEMM, back, add up."""

    def __init__(self, problem, exchange, gemm=None):
        self.p, self.exchange, self.gemm = problem, exchange, gemm
        self.route()

    def route(self):
        p = self.p
        flat = p.ids.flatten().long()
        self.order = torch.argsort(flat, stable=True)
        self.token = self.order // p.k
        self.scale = p.weight.flatten()[self.order]
        count = torch.zeros(p.e, device="cuda", dtype=torch.int64)
        count = count.index_add_(0, flat, torch.ones_like(flat)).view(p.w, p.l)
        each = [p.l] * p.w
        got = self.exchange.counts(count.view(-1), each).view(p.w, p.l)  # [from, local expert]
        self.send, self.recv = torch.stack((count.sum(1), got.sum(1))).tolist()
        num = sum(self.recv)
        # Rows come by source, then expert; the product wants them by expert, then source.
        begin = (got.flatten().cumsum(0) - got.flatten()).view(p.w, p.l).T.flatten()
        sizes = got.T.flatten()
        shift = begin - (sizes.cumsum(0) - sizes)
        self.by_expert = torch.repeat_interleave(shift, sizes, output_size=num) + torch.arange(num, device="cuda")
        self.by_source = torch.empty_like(self.by_expert)
        self.by_source[self.by_expert] = torch.arange(num, device="cuda")
        self.rows = got.sum(0)
        self.offs = self.rows.cumsum(0).int()

    def swap(self, rows, back=False):
        splits = (self.recv, self.send) if back else (self.send, self.recv)
        return Exchange.apply(rows, *splits, self.exchange)

    def grouped(self, a, b):
        call = getattr(torch.nn.functional, "grouped_mm", None) or torch._grouped_mm
        return call(a, b.transpose(1, 2), offs=self.offs)

    def sent_rows(self, x, scale):
        rows = self.swap(x.index_select(0, self.token)).index_select(0, self.by_expert)
        if self.p.gated:
            scale = self.swap(scale).index_select(0, self.by_expert)
        return rows, scale

    def summed(self, y, x):
        back = self.swap(y.index_select(0, self.by_source), back=True)
        return torch.zeros_like(x).index_add(0, self.token, back)

    def dispatch(self):
        rows, scale = self.sent_rows(self.p.x, self.scale)
        self.hidden = self.p.activate(self.grouped(rows, self.p.w1), scale)

    def combine(self):
        self.out = self.summed(self.grouped(self.hidden, self.p.w2), self.p.x)

    def forward(self):
        self.route()
        self.dispatch()
        self.combine()

    def dispatch_alone(self):
        self.came = self.exchange(self.packed, self.send, self.recv)

    def combine_alone(self):
        self.went = self.exchange(self.came, self.recv, self.send)

    def own_product(self, a, b, columns, scale=None):
        c = torch.empty(a.shape[0], columns, device="cuda", dtype=a.dtype)
        more = dict(epilogue=1, row_weight=scale) if scale is not None else {}
        self.gemm.prepare(a, b, c, self.rows.int(), **more)()
        return c

    def dispatch_own(self):
        rows, scale = self.sent_rows(self.p.x, self.scale)
        self.hidden_own = self.own_product(rows, self.p.w1, self.p.i, scale if self.p.gated else None)

    def combine_own(self):
        self.out = self.summed(self.own_product(self.hidden_own, self.p.w2, self.p.h), self.p.x)

    def forward_own(self):
        self.route()
        self.dispatch_own()
        self.combine_own()

    def graph(self):
        """Leaves and output of a forward pass that keeps what backward needs."""
        p = self.p
        self.leaves = [t.detach().requires_grad_() for t in (p.x, p.weight, p.w1, p.w2)]
        x, weight, w1, w2 = self.leaves
        rows, scale = self.sent_rows(x, weight.flatten()[self.order])
        self.kept = self.summed(self.grouped(p.activate(self.grouped(rows, w1), scale), w2), x)

    def backward(self):
        with torch.autograd.set_multithreading_enabled(False):  # ranks may be threads that meet in here
            self.grads = torch.autograd.grad(self.kept, self.leaves, self.p.dy, retain_graph=True)

    def contenders(self):
        name = self.exchange.name + "+torch"
        self.packed = self.p.x.index_select(0, self.token)
        self.dispatch()
        self.dispatch_alone()
        made = {("preprocess", name): self.route, ("dispatch", name): self.dispatch, ("combine", name): self.combine,
                ("layer", name): self.forward, ("dispatch alone", name): self.dispatch_alone,
                ("combine alone", name): self.combine_alone}
        if self.p.gated:
            self.graph()
            made["backward", name] = self.backward
        if self.gemm is not None:
            own = self.exchange.name + "+own"
            self.dispatch_own()
            made.update({("dispatch", own): self.dispatch_own, ("combine", own): self.combine_own,
                         ("layer", own): self.forward_own})
        return made


def relative_error(got, wanted):
    got, wanted = got.float(), wanted.float()
    norm = wanted.norm().item()
    error = (got - wanted).norm().item()
    return error / norm if norm > 0 and math.isfinite(error) else (0.0 if error == 0 else math.inf)


def errors_of(problem, fused, unfused):
    """{what: relative error} on this rank, all outputs written anew."""
    wanted, grad_x, grad_weight = problem.expected()
    size = wanted.shape[0]

    def run(*steps):
        for tensor in (fused.out, *fused.grads):
            tensor.fill_(math.nan)
        fused.settle()
        fused.launch(*steps)()
        fused.rank.synchronize()

    run("preprocess", "dispatch", "combine")
    errors = {"parts": relative_error(fused.out[:size], wanted)}
    run("combine serial")
    errors["serial"] = relative_error(fused.out[:size], wanted)
    if problem.gated:
        run("forward", "backward")
        errors["layer"] = relative_error(fused.out[:size], wanted)
        errors["grad_x"] = relative_error(fused.grads[0][:size], grad_x)
        errors["grad_weight"] = relative_error(fused.grads[1][:size], grad_weight)
    if unfused is None or not unfused.exchange.is_exact:
        return errors
    unfused.forward()
    errors[unfused.exchange.name + "+torch"] = relative_error(unfused.out[:size], wanted)
    if problem.gated:
        unfused.graph()
        unfused.backward()
        for name, got, want in zip(("x", "weight", "w13", "w2"), fused.grads, unfused.grads):
            errors[f"grad_{name} to torch"] = relative_error(got, want)
    if unfused.gemm is not None:
        unfused.forward_own()
        errors[unfused.exchange.name + "+own"] = relative_error(unfused.out[:size], wanted)
    return errors
