#!/usr/bin/env python3
"""Recomputes expected.npy from hidden.npy and model.safetensors with numpy alone.

    verify.py [--layer N] [--hidden FILE] [--expected FILE] [--folder DIR] [--tolerance REL]

Exits 0 if || ours - expected || / || expected || is at most the tolerance, 1 if not.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class Safetensors:
    """Tensors of one safetensors file by name, as fp32."""

    def __init__(self, path):
        self.bytes = np.memmap(path, dtype=np.uint8, mode="r")
        length = int(self.bytes[:8].view("<u8")[0])
        self.header = json.loads(self.bytes[8:8 + length].tobytes())
        self.start = 8 + length

    def __getitem__(self, name):
        entry = self.header[name]
        begin, end = entry["data_offsets"]
        raw = self.bytes[self.start + begin:self.start + end].tobytes()
        values = np.frombuffer(raw, dtype=DTYPES[entry["dtype"]])
        if entry["dtype"] == "BF16":    # the upper half of an fp32
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float32).reshape(entry["shape"])


def moe_block(tensors, config, layer, hidden):
    """The Qwen3-MoE block: softmax over all experts, top-k, SwiGLU experts, weighted sum."""
    prefix = f"model.layers.{layer}.mlp."
    logits = hidden @ tensors[prefix + "gate.weight"].T
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    chosen = np.argsort(-scores, axis=1, kind="stable")[:, :config["num_experts_per_tok"]]
    weights = np.take_along_axis(scores, chosen, axis=1)
    if config["norm_topk_prob"]:
        weights /= weights.sum(axis=1, keepdims=True)
    output = np.zeros_like(hidden)
    for expert in range(config["num_experts"]):
        token, slot = np.nonzero(chosen == expert)
        if token.size == 0:
            continue
        names = {n: tensors[f"{prefix}experts.{expert}.{n}_proj.weight"]
                 for n in ("gate", "up", "down")}
        rows = hidden[token]
        gate, up = rows @ names["gate"].T, rows @ names["up"].T
        result = (gate / (1.0 + np.exp(-gate)) * up) @ names["down"].T
        output[token] += result * weights[token, slot, None]
    return output, np.bincount(chosen.ravel(), minlength=config["num_experts"])


def main():
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=here)
    parser.add_argument("--layer", type=int)
    parser.add_argument("--hidden", type=Path)
    parser.add_argument("--expected", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-5)
    args = parser.parse_args()
    config = json.loads((args.folder / "config.json").read_text())
    layer = args.layer
    if layer is None:
        layer = json.loads((args.folder / "training.json").read_text())["layer"]
    hidden = np.load(args.hidden or args.folder / "hidden.npy").astype(np.float32)
    expected = np.load(args.expected or args.folder / "expected.npy").astype(np.float32)
    tensors = Safetensors(args.folder / "model.safetensors")
    ours, rows = moe_block(tensors, config, layer, hidden)
    relative = np.linalg.norm(ours.astype(np.float64) - expected) / np.linalg.norm(expected)
    worst = np.abs(ours - expected).max()
    print(f"layer {layer}: T = {hidden.shape[0]}, H = {hidden.shape[1]}, "
          f"E = {config['num_experts']}, top {config['num_experts_per_tok']}")
    print("rows per expert:", " ".join(map(str, rows)))
    print(f"relative error {relative:.2e}, largest absolute difference {worst:.2e} "
          f"of values up to {np.abs(expected).max():.3g}")
    if not relative <= args.tolerance:
        print(f"verify: over the tolerance {args.tolerance:g}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
