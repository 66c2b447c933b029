#!/usr/bin/env python3
"""Makes the sample checkpoint in examples/sample: a small, really trained Qwen3-MoE language model.

Three steps, so that the one on the GPU stays short:

  train_sample.py prepare --data DIR [--root ROOT]   corpus, tokenizer, token files (CPU)
  train_sample.py train --data DIR --out OUT         model, hidden states, statistics (GPU or CPU)
  train_sample.py plot LOSS.csv LOSS.svg             the loss curve as a drawing (no packages)

`prepare` needs numpy and tokenizers, and reads the Debian packages perl-doc, python3.11-doc,
debian-policy and base-files, installed under ROOT. `train` needs torch and transformers >= 5.
"""

import argparse
import csv
import gzip
import hashlib
import json
import math
import re
import shutil
import sys
import time
from pathlib import Path

VOCAB = 1024
END_OF_TEXT = "<|endoftext|>"
LAYER = 2            # the middle one of the MoE layers 1, 2, 3
SEQUENCE = 512
PARAGRAPH_TOKENS = 400

# The published form of a Qwen3-MoE configuration. Layer 0 is dense, so that the checkpoint also
# has a layer which is not MoE.
CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "decoder_sparse_step": 1,
    "eos_token_id": 0,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.05,
    "intermediate_size": 256,
    "max_position_embeddings": 1024,
    "max_window_layers": 4,
    "mlp_only_layers": [0],
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "output_router_logits": False,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "router_aux_loss_coef": 0.001,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": VOCAB,
}

# (package, licence, folder, file pattern). Generated tables of contents and Unicode tables are
# no prose and are left out, and so are the pages in other languages than English.
SOURCES = [
    ("perl-doc", "GPL-1+ or Artistic", "usr/share/perl", "**/*.pod"),
    ("python3.11-doc", "Python-2.0 (PSF), examples 0BSD", "usr/share/doc/python3.11/html/_sources",
     "**/*.rst.txt"),
    ("debian-policy", "GPL-2+, parts BSD-3-clause", "usr/share/doc/debian-policy", "*.txt.gz"),
    ("base-files", "licence texts, verbatim copying allowed", "usr/share/common-licenses", "*"),
]
LEFT_OUT = {"perltoc.pod", "perluniprops.pod", "perlcn.pod", "perljp.pod", "perlko.pod",
            "perltw.pod"}
# Never trained on: the paragraph comes from the CC0 legal code, whose text is itself under CC0.
HELD_OUT = "CC0-1.0"


# ---------------------------------------------------------------------------- prepare

def read_text(path):
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    return data.decode("utf-8", errors="replace").replace("\r\n", "\n")


def gather(root):
    """All documents as dicts of name, package, licence, text and heldout; each file once."""
    documents = []
    for package, licence, folder, pattern in SOURCES:
        base = Path(root) / folder
        if not base.is_dir():
            base = Path("/") / folder
        seen = set()
        for path in sorted(base.glob(pattern)):
            real = path.resolve()
            if not path.is_file() or path.name in LEFT_OUT or real in seen:
                continue
            seen.add(real)
            name = f"{package}/{path.relative_to(base)}"
            digest = hashlib.sha256(name.encode()).digest()
            documents.append({"name": name, "package": package, "licence": licence,
                              "text": read_text(path),
                              "heldout": path.name == HELD_OUT or digest[0] < 10})
        if not seen:
            sys.exit(f"prepare: nothing found in {base}; install the package {package}")
    return documents


def pick_paragraph(documents, count_tokens):
    """The opening sentences of the held-out document's prose, as many as fit the token limit."""
    text = next(d["text"] for d in documents if d["name"].endswith("/" + HELD_OUT))
    prose = text[text.index("The laws of most"):]
    ends = [m.end() for m in re.finditer(r"\.(?=\s)", prose)]
    return prose[:max(end for end in ends if count_tokens(prose[:end]) <= PARAGRAPH_TOKENS)] + "\n"


def check_unseen(paragraph, documents):
    """No 60 characters of the paragraph, white space aside, may stand in the training text."""
    squeeze = lambda text: re.sub(r"\s+", " ", text)
    trained = "\n".join(squeeze(d["text"]) for d in documents if not d["heldout"])
    flat = squeeze(paragraph)
    for start in range(len(flat) - 59):
        if flat[start:start + 60] in trained:
            sys.exit(f"prepare: the paragraph is in the training text: {flat[start:start + 60]!r}")


def train_tokenizer(documents):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=[END_OF_TEXT], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator((d["text"] for d in documents if not d["heldout"]), trainer)
    return tokenizer


def prepare(args):
    import numpy as np
    data = Path(args.data)
    data.mkdir(parents=True, exist_ok=True)
    documents = gather(args.root)
    tokenizer = train_tokenizer(documents)
    tokenizer.save(str(data / "tokenizer.json"), pretty=False)
    paragraph = pick_paragraph(documents, lambda text: len(tokenizer.encode(text).ids))
    check_unseen(paragraph, documents)
    (data / "paragraph.txt").write_text(paragraph)

    corpus = {"sources": {}, "train": {"files": 0, "bytes": 0, "tokens": 0},
              "heldout": {"files": 0, "bytes": 0, "tokens": 0}}
    streams = {"train": [], "heldout": []}
    for document in documents:
        split = "heldout" if document["heldout"] else "train"
        ids = tokenizer.encode(document["text"]).ids + [0]
        streams[split].append(np.array(ids, dtype=np.uint16))
        size = len(document["text"].encode())
        for part in (corpus[split], corpus["sources"].setdefault(
                document["package"], {"licence": document["licence"], "files": 0, "bytes": 0,
                                      "tokens": 0})):
            part["files"] += 1
            part["bytes"] += size
            part["tokens"] += len(ids)
    for split, parts in streams.items():
        np.save(data / f"{split}.npy", np.concatenate(parts))
    (data / "corpus.json").write_text(json.dumps(corpus, indent=1))
    print(json.dumps(corpus, indent=1))
    print("paragraph:", len(tokenizer.encode(paragraph).ids), "tokens")


# ---------------------------------------------------------------------------- train

def build_model(args, device, dtype, experts):
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
    torch.manual_seed(args.seed)
    settings = {k: v for k, v in CONFIG.items()
                if k not in ("architectures", "model_type", "torch_dtype")}
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**settings))
    model.set_experts_implementation(experts)
    frequencies = model.model.rotary_emb.inv_freq.clone()
    model.to(device=device, dtype=dtype)
    model.model.rotary_emb.inv_freq = frequencies.to(device)    # positions stay exact in fp32
    return model


class Batches:
    """Random windows of the training tokens, and fixed ones of the held-out tokens."""

    def __init__(self, args, device):
        import numpy as np
        import torch
        self.torch, self.device, self.batch = torch, device, args.batch
        load = lambda split: torch.from_numpy(
            np.load(Path(args.data) / f"{split}.npy").astype(np.int32)).to(device)
        self.train, heldout = load("train"), load("heldout")
        windows = heldout.numel() // SEQUENCE
        self.heldout = heldout[:windows * SEQUENCE].view(windows, SEQUENCE).long()
        self.span = torch.arange(SEQUENCE, device=device)

    def next(self):
        start = self.torch.randint(self.train.numel() - SEQUENCE, (self.batch, 1),
                                   device=self.device)
        return self.train[start + self.span].long()


class MasterWeights:
    """AdamW on fp32 copies of the parameters, which the model holds in its own dtype."""

    def __init__(self, model, args):
        import torch
        self.torch = torch
        self.live = [p for p in model.parameters() if p.requires_grad]
        self.master = [p.detach().float().clone() for p in self.live]
        matrices = [m for m in self.master if m.dim() > 1]
        vectors = [m for m in self.master if m.dim() <= 1]
        self.adam = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
            lr=args.lr, betas=(0.9, 0.98), fused=self.live[0].is_cuda)

    def step(self, rate):
        for group in self.adam.param_groups:
            group["lr"] = rate
        for live, master in zip(self.live, self.master):
            master.grad = live.grad.float()
            live.grad = None
        self.torch.nn.utils.clip_grad_norm_(self.master, 1.0)
        self.adam.step()
        with self.torch.no_grad():
            self.torch._foreach_copy_(self.live, self.master)


def heldout_loss(model, windows, batch):
    """Mean nats per token over the given windows, without the router's auxiliary loss."""
    import torch
    total = 0.0
    model.eval()
    with torch.no_grad():
        for part in windows.split(batch):
            total += model(input_ids=part, labels=part).loss.item() * len(part)
    model.train()
    return total / len(windows)


def fastest_experts(args, device, dtype, batches):
    """Which of transformers' expert implementations trains fastest here; one of them may fail."""
    times = {}
    for experts in ("grouped_mm", "eager"):
        try:
            model = build_model(args, device, dtype, experts)
            for attempt in range(4):
                if attempt == 1:
                    start = time.monotonic()
                tokens = batches.next()
                loss = model(input_ids=tokens, labels=tokens).loss
                loss.backward()
                if not math.isfinite(sum(p.grad.float().sum().item() for p in model.parameters())):
                    raise ArithmeticError("gradients are not finite")
            times[experts] = time.monotonic() - start
        except Exception as error:
            print(f"experts {experts}: {type(error).__name__}: {error}"[:300], flush=True)
    print("experts, seconds for three steps:", times, flush=True)
    return min(times, key=times.get)


def learning_rate(args, progress):
    """Linear warm-up over the first 2 %, then a cosine down to nothing."""
    if progress < 0.02:
        return args.lr * max(progress, 0.001) / 0.02
    return args.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, (progress - 0.02) / 0.98)))


def training_loop(args, model, batches, log):
    """Trains for args.seconds; the schedule follows the clock. Returns the number of steps."""
    import torch
    weights = MasterWeights(model, args)
    few = batches.heldout[:: max(1, len(batches.heldout) // args.batch)][:args.batch]
    since, steps, shown, paused = [], 0, -1, 0.0
    rows = csv.writer(log)
    rows.writerow(["step", "seconds", "tokens", "learning_rate", "train_nats", "heldout_nats",
                   "router_aux"])
    start = time.monotonic()
    while True:
        progress = (time.monotonic() - start - paused) / args.seconds
        if int(progress * args.points) > shown or progress >= 1.0:
            shown, pause = int(progress * args.points), time.monotonic()
            held = heldout_loss(model, few, args.batch)
            train, aux = torch.stack(since).mean(0).tolist() if since else (math.nan, math.nan)
            rows.writerow([steps, f"{progress * args.seconds:.2f}",
                           steps * args.batch * SEQUENCE, f"{learning_rate(args, progress):.3e}",
                           f"{train:.4f}", f"{held:.4f}", f"{aux:.4f}"])
            log.flush()
            print(f"step {steps} train {train:.4f} heldout {held:.4f} aux {aux:.3f}", flush=True)
            since, paused = [], paused + time.monotonic() - pause
        if progress >= 1.0:
            return steps
        tokens = batches.next()
        result = model(input_ids=tokens, labels=tokens, output_router_logits=True)
        result.loss.backward()
        weights.step(learning_rate(args, progress))
        plain = result.loss - CONFIG["router_aux_loss_coef"] * result.aux_loss
        since.append(torch.stack([plain.detach(), result.aux_loss.detach()]))
        steps += 1
        if steps % 10 == 0 and plain.is_cuda:
            torch.cuda.synchronize()    # keeps the clock of the schedule honest


def published_tensors(model):
    """The state dict in bf16 under HuggingFace's published names: one tensor per expert matrix."""
    import torch
    tensors = {}
    for name, value in model.state_dict().items():
        value = value.detach().to("cpu", torch.bfloat16)
        if name.endswith("mlp.experts.gate_up_proj"):
            base, half = name[:-len("gate_up_proj")], value.shape[1] // 2
            for expert, both in enumerate(value):
                tensors[f"{base}{expert}.gate_proj.weight"] = both[:half].contiguous()
                tensors[f"{base}{expert}.up_proj.weight"] = both[half:].contiguous()
        elif name.endswith("mlp.experts.down_proj"):
            base = name[:-len("down_proj")]
            for expert, one in enumerate(value):
                tensors[f"{base}{expert}.down_proj.weight"] = one.contiguous()
        elif name != "lm_head.weight":      # tied to the embedding, as config.json says
            tensors[name] = value.contiguous()
    return tensors


def reload_fp32(out, device):
    """The checkpoint as transformers reads it from the folder, computed in fp32."""
    import torch
    from transformers import Qwen3MoeForCausalLM
    torch.backends.cuda.matmul.allow_tf32 = False
    model = Qwen3MoeForCausalLM.from_pretrained(out, dtype=torch.float32)
    model.set_experts_implementation("eager")
    return model.to(device).eval()


def capture_block(model, tokenizer, text):
    """What enters and leaves the MoE block of LAYER for the text, as fp32 arrays [T, H]."""
    import torch
    caught = {}
    first = lambda value: value[0] if isinstance(value, tuple) else value
    hook = model.model.layers[LAYER].mlp.register_forward_hook(
        lambda module, inputs, output: caught.update(hidden=first(inputs), expected=first(output)))
    ids = torch.tensor([tokenizer.encode(text).ids])
    with torch.no_grad():
        loss = model(input_ids=ids, labels=ids).loss.item()
    hook.remove()
    return {k: v[0].float().numpy().copy() for k, v in caught.items()}, ids, loss


def count_experts(model, windows):
    """Rows per expert: {layer: [rows of expert 0, 1, ...]} over the given token windows."""
    import torch
    counts, hooks = {}, []

    def counter(layer):
        def hook(module, inputs, output):
            rows = torch.bincount(output[2].flatten(), minlength=CONFIG["num_experts"])
            counts[layer] = counts.get(layer, 0) + rows.cpu()
        return hook

    for layer, block in enumerate(model.model.layers):
        if hasattr(block.mlp, "gate") and hasattr(block.mlp, "experts"):
            hooks.append(block.mlp.gate.register_forward_hook(counter(layer)))
    with torch.no_grad():
        for part in windows.split(32):
            model(input_ids=part)
    for hook in hooks:
        hook.remove()
    return {layer: rows.tolist() for layer, rows in counts.items()}


def skew(counts):
    """The figures of one layer's load: its rows per expert, and how far from even they are."""
    total, experts = sum(counts), len(counts)
    shares = [c / total for c in counts]
    entropy = -sum(s * math.log(s) for s in shares if s > 0) / math.log(experts)
    ranks = [sum(counts[r * experts // 8:(r + 1) * experts // 8]) for r in range(8)]
    return {"rows": counts, "max_over_mean": round(max(shares) * experts, 3),
            "min_over_mean": round(min(shares) * experts, 3),
            "unused_experts": counts.count(0), "entropy_of_even": round(entropy, 4),
            "max_over_mean_of_8_ranks": round(max(ranks) / total * 8, 3)}


def sample_text(model, tokenizer, prompts, device):
    """Continues each prompt by 120 tokens, drawn at temperature 0.7 from the best 40."""
    import torch
    torch.manual_seed(1)
    texts = []
    for prompt in prompts:
        ids = torch.tensor([tokenizer.encode(prompt).ids], device=device)
        with torch.no_grad():
            for _ in range(120):
                logits = model(input_ids=ids[:, -SEQUENCE:]).logits[0, -1] / 0.7
                best = torch.topk(logits, 40)
                pick = best.indices[torch.multinomial(best.values.softmax(-1), 1)]
                ids = torch.cat([ids, pick[None]], 1)
        texts.append(tokenizer.decode(ids[0].tolist(), skip_special_tokens=False))
    return texts


def export(args, model, batches, facts):
    """Writes the checkpoint, reads it back through transformers and records its behaviour."""
    import numpy as np
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer
    out, data = Path(args.out), Path(args.data)
    save_file(published_tensors(model), out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    shutil.copyfile(data / "tokenizer.json", out / "tokenizer.json")
    shutil.copyfile(data / "paragraph.txt", out / "paragraph.txt")

    tokenizer = Tokenizer.from_file(str(data / "tokenizer.json"))
    paragraph = (data / "paragraph.txt").read_text().rstrip("\n")
    arrays, ids, loss = capture_block(reload_fp32(out, "cpu"), tokenizer, paragraph)
    for name, array in arrays.items():
        np.save(out / f"{name}.npy", array)

    device = batches.train.device
    fp32 = reload_fp32(out, device)
    corpus = json.loads((data / "corpus.json").read_text())
    bits = lambda nats, part: nats / math.log(2) * part["tokens"] / part["bytes"]
    held = heldout_loss(fp32, batches.heldout, 32)
    fp32.eval()
    seen = heldout_loss(fp32, torch.stack([batches.next()[0] for _ in range(256)]), 32)
    fp32.eval()
    facts.update({
        "layer": LAYER, "paragraph_tokens": ids.shape[1],
        "train_nats_per_token": seen, "train_bits_per_byte": bits(seen, corpus["train"]),
        "heldout_nats_per_token": held, "heldout_bits_per_byte": bits(held, corpus["heldout"]),
        "paragraph_nats_per_token": loss,
        "paragraph_bits_per_byte": bits(loss, {"tokens": ids.shape[1] - 1,
                                               "bytes": len(paragraph.encode())}),
        "parameters": sum(p.numel() for p in fp32.parameters()),
        "routing_heldout": {k: skew(v) for k, v in
                            count_experts(fp32, batches.heldout).items()},
        "routing_paragraph": {k: skew(v) for k, v in count_experts(fp32, ids.to(device)).items()},
        "corpus": corpus,
        "generated": sample_text(fp32, tokenizer, ["If the file", "This licence",
                                                   "=head2 "], device)})
    (out / "training.json").write_text(json.dumps(facts, indent=1) + "\n")


def train(args):
    import torch
    import transformers
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    batches = Batches(args, device)
    experts = args.experts or fastest_experts(args, device, dtype, batches)
    model = build_model(args, device, dtype, experts).train()
    begin = time.monotonic()
    with open(out / "loss.csv", "w", newline="") as log:
        steps = training_loop(args, model, batches, log)
    facts = {"device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
             "torch": torch.__version__, "transformers": transformers.__version__,
             "experts_implementation": experts, "training_dtype": str(dtype),
             "seconds": args.seconds, "wall_seconds": round(time.monotonic() - begin, 1),
             "steps": steps, "batch": args.batch, "sequence": SEQUENCE, "seed": args.seed,
             "peak_learning_rate": args.lr, "tokens_seen": steps * args.batch * SEQUENCE}
    export(args, model, batches, facts)
    print(json.dumps({k: v for k, v in facts.items() if k != "corpus"})[:6000])


# ---------------------------------------------------------------------------- plot

def plot(args):
    """Draws the two curves of a loss file as SVG, nats per token over tokens seen."""
    with open(args.csv, newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["train_nats"] != "nan"]
    million = [float(r["tokens"]) / 1e6 for r in rows]
    curves = [("training", "#1f6feb", [float(r["train_nats"]) for r in rows]),
              ("held-out", "#d1242f", [float(r["heldout_nats"]) for r in rows])]
    values = [v for _, _, ys in curves for v in ys]
    low, high = math.floor(min(values)), math.ceil(max(values))
    x = lambda v: 56 + 560 * v / max(million)
    y = lambda v: 24 + 260 * (high - v) / (high - low)
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" width="640" height="340" '
             'viewBox="0 0 640 340" font-family="sans-serif" font-size="12">',
             '<title>Loss of the sample model while it was trained</title>',
             '<rect width="640" height="340" fill="#ffffff"/>']
    for tick in range(low, high + 1):
        parts.append(f'<path d="M56 {y(tick):.1f}H616" stroke="#d0d7de"/>'
                     f'<text x="48" y="{y(tick) + 4:.1f}" text-anchor="end">{tick}</text>')
    step = 10 ** math.floor(math.log10(max(million)))
    step = step / 2 if max(million) / step < 3 else step
    for i in range(int(max(million) / step) + 1):
        parts.append(f'<text x="{x(i * step):.1f}" y="304" text-anchor="middle">'
                     f'{i * step:g}</text>')
    for row, (name, colour, ys) in enumerate(curves):
        points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(million, ys))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" '
                     f'stroke-width="1.6"/><text x="604" y="{44 + 18 * row}" text-anchor="end" '
                     f'fill="{colour}">{name}, last {ys[-1]:.2f}</text>')
    parts.append('<text x="336" y="328" text-anchor="middle">million tokens seen</text>'
                 '<text x="16" y="154" text-anchor="middle" transform="rotate(-90 16 154)">'
                 'loss, nats per token</text></svg>')
    Path(args.svg).write_text("\n".join(parts) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("prepare")
    verb.add_argument("--data", required=True)
    verb.add_argument("--root", default="/")
    verb.set_defaults(run=prepare)
    verb = verbs.add_parser("train")
    verb.add_argument("--data", required=True)
    verb.add_argument("--out", required=True)
    verb.add_argument("--seconds", type=float, default=110.0)
    verb.add_argument("--batch", type=int, default=64)
    verb.add_argument("--lr", type=float, default=3e-3)
    verb.add_argument("--points", type=int, default=100, help="lines of the loss file")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--experts", choices=("grouped_mm", "eager"))
    verb.set_defaults(run=train)
    verb = verbs.add_parser("plot")
    verb.add_argument("csv")
    verb.add_argument("svg")
    verb.set_defaults(run=plot)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
