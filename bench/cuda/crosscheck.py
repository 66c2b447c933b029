#!/usr/bin/env python3
"""Checks `epfuse run` against transformers' own MoE blocks, on the CPU and on a CUDA device.

  crosscheck.py --epfuse build/bin/epfuse [--devices cpu,cuda] [--only NAME,...] [--out FILE.jsonl] [--keep DIR]

For each family a small random model is saved as transformers saves it; its last layer's block runs there on random
hidden states, in float32 on the saved weights.  The command must come within --tolerance of that, and pass its own
--check, on each device and number of ranks, with the same bits in both combine modes.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
import torch
import transformers
from safetensors.torch import save_file

SMALL = dict(vocab_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4, hidden_size=256,
             max_position_embeddings=64)
# name: class, dtype, config; widths as large as a test can afford, every expert dimension no multiple of a tile
FAMILIES = {
    "mixtral": ("Mixtral", torch.bfloat16,
                dict(SMALL, intermediate_size=544, num_local_experts=8, num_experts_per_tok=2)),
    "qwen3_moe": ("Qwen3Moe", torch.bfloat16,
                  dict(SMALL, intermediate_size=64, moe_intermediate_size=176, num_experts=64, num_experts_per_tok=8,
                       head_dim=64, norm_topk_prob=True)),
    "olmoe": ("Olmoe", torch.bfloat16,
              dict(SMALL, intermediate_size=128, num_experts=32, num_experts_per_tok=8)),
    "deepseek_v3": ("DeepseekV3", torch.bfloat16,
                    dict(SMALL, intermediate_size=64, moe_intermediate_size=144, kv_lora_rank=16, q_lora_rank=None,
                         qk_rope_head_dim=16, qk_nope_head_dim=16, v_head_dim=16, first_k_dense_replace=0,
                         n_routed_experts=64, num_experts_per_tok=8, n_shared_experts=1, n_group=8, topk_group=4,
                         routed_scaling_factor=2.5, norm_topk_prob=True)),
}


def make(name, folder, tokens):
    """Saves checkpoint, hidden states and transformers' output."""
    family, dtype, options = FAMILIES[name]
    torch.manual_seed(sum(map(ord, name)))
    model = getattr(transformers, family + "ForCausalLM")(getattr(transformers, family + "Config")(**options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.06)
        gate = model.model.layers[-1].mlp.gate
        gate.weight.normal_(0.0, 0.3)  # scores spread, so that rounding decides few choices
        if hasattr(gate, "e_score_correction_bias"):
            gate.e_score_correction_bias.uniform_(-0.5, 0.5)
    model.to(dtype).save_pretrained(folder)
    model = getattr(transformers, family + "ForCausalLM").from_pretrained(
        folder, dtype=torch.float32, experts_implementation="eager")
    hidden = torch.randn(1, tokens, model.config.hidden_size).to(dtype).float()
    with torch.no_grad():
        output = model.model.layers[-1].mlp(hidden)
    output = output[0] if isinstance(output, tuple) else output
    save_file({"hidden": hidden[0].contiguous(), "output": output.reshape(tokens, -1).contiguous()},
              folder / "io.safetensors")


def run(options, folder, device, ranks, mode):
    """One run of the command: (line for the table, its output or None)."""
    written = folder / f"{device}-{ranks}-{mode}.npy"
    command = [options.epfuse, "run", str(folder), "--layer", "0", "--input", f"{folder}/io.safetensors:hidden",
               "--expect", f"{folder}/io.safetensors:output", "--tolerance", str(options.tolerance), "--check",
               "--output", str(written), "--device", device, "--ranks", str(ranks), "--mode", mode, "--repeat", "3",
               "--timeout", "30", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    line = {"family": folder.name, "device": device, "ranks": ranks, "mode": mode, "exit": done.returncode}
    try:
        found = json.loads(done.stdout)
    except json.JSONDecodeError:
        line["error"] = done.stderr.strip() or "no JSON"
        return line, None
    check, expect = found["check"], found["expect"]
    line.update(relative=expect["relative_error"], worst=expect["max_error"], of_bound=check["max_error_over_bound"],
                misrouted=check["misrouted"], ties=check["routed_ties"], same_bits=found["same_bits"])
    return line, numpy.load(written) if done.returncode == 0 else None


def show(line):
    if "error" in line:
        found = line["error"][:90]
    else:
        found = (f"{line['relative']:.2e} {line['worst']:.2e} {line['of_bound']:8.3f} {line['misrouted']:9d} "
                 f"{line['ties']:5d}")
    good = line["exit"] == 0 and line.get("equal", True)
    print(f"{line['family']:12s} {line['device']:5s} {line['ranks']:5d} {line['mode']:13s} {found}  "
          f"{'ok' if good else 'MISMATCH'}", flush=True)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epfuse", required=True)
    parser.add_argument("--devices", default="cpu,cuda")
    parser.add_argument("--ranks", default="1,2,4,8")
    parser.add_argument("--only", default=",".join(FAMILIES))
    parser.add_argument("--tokens", type=int, default=333)
    parser.add_argument("--tolerance", type=float, default=0.02)
    parser.add_argument("--out")
    parser.add_argument("--keep")
    options = parser.parse_args()
    lines, bad = [], 0
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, {options.tokens} tokens")
    print(f"{'family':12s} {'dev':5s} {'ranks':>5s} {'mode':13s} relative worst    of bound misrouted  ties")
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.only.split(","):
            folder = pathlib.Path(options.keep or temporary) / name
            folder.mkdir(parents=True, exist_ok=True)
            make(name, folder, options.tokens)
            for device in options.devices.split(","):
                first = None
                for ranks in map(int, options.ranks.split(",")):
                    for mode in ("fuse_scatter", "serial"):
                        line, output = run(options, folder, device, ranks, mode)
                        if output is not None and first is not None:
                            line["equal"] = bool(numpy.array_equal(output.view("u4"), first.view("u4")))
                        first = output if first is None else first
                        bad += not show(line)
                        lines.append(line)
    if options.out:
        pathlib.Path(options.out).write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"{len(lines)} runs, {bad} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
