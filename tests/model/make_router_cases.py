#!/usr/bin/env python3
"""Makes tests/model/data: one tiny checkpoint per router, and what transformers computes with it.

    make_router_cases.py [FOLDER]         (needs torch, transformers, safetensors, numpy)

Each case is a folder as transformers' save_pretrained() writes it, and io.safetensors with
    hidden [T, H], topk_idx [T, K], topk_weight [T, K], output [T, H]
of the MoE block of the last layer, run in float32 on the saved weights.  The tests need no Python;
this script is for making the files again.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

TOKENS = 24
SMALL = dict(vocab_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
             hidden_size=16, max_position_embeddings=16)
DEEPSEEK = dict(SMALL, intermediate_size=8, moe_intermediate_size=8, kv_lora_rank=4, q_lora_rank=None,
                qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=4, first_k_dense_replace=0)

CASES = {
    "mixtral": ("Mixtral", torch.bfloat16, dict(SMALL, intermediate_size=24, num_local_experts=8,
                                                num_experts_per_tok=2)),
    "qwen2_moe": ("Qwen2Moe", torch.float16,
                  dict(SMALL, intermediate_size=8, moe_intermediate_size=8, num_experts=12,
                       num_experts_per_tok=4, shared_expert_intermediate_size=24)),
    "qwen3_moe": ("Qwen3Moe", torch.bfloat16,
                  dict(SMALL, intermediate_size=8, moe_intermediate_size=8, num_experts=24,
                       num_experts_per_tok=6, head_dim=8, norm_topk_prob=True)),
    "qwen3_moe_plain": ("Qwen3Moe", torch.float32,
                        dict(SMALL, intermediate_size=8, moe_intermediate_size=8, num_experts=8,
                             num_experts_per_tok=8, head_dim=8, norm_topk_prob=False,
                             num_hidden_layers=2, decoder_sparse_step=2)),
    "olmoe": ("Olmoe", torch.bfloat16, dict(SMALL, intermediate_size=8, num_experts=16,
                                            num_experts_per_tok=4)),
    "deepseek_v2_greedy": ("DeepseekV2", torch.bfloat16,
                           dict(DEEPSEEK, n_routed_experts=16, num_experts_per_tok=4,
                                n_shared_experts=2, topk_method="greedy", n_group=1, topk_group=1,
                                routed_scaling_factor=1.0)),
    "deepseek_v2_groups": ("DeepseekV2", torch.bfloat16,
                           dict(DEEPSEEK, n_routed_experts=20, num_experts_per_tok=6,
                                n_shared_experts=1, topk_method="group_limited_greedy", n_group=5,
                                topk_group=2, routed_scaling_factor=16.0, num_hidden_layers=2,
                                first_k_dense_replace=1)),
    "deepseek_v3": ("DeepseekV3", torch.bfloat16,
                    dict(DEEPSEEK, n_routed_experts=24, num_experts_per_tok=5, n_shared_experts=1,
                         n_group=6, topk_group=3, routed_scaling_factor=2.5, norm_topk_prob=True)),
    "deepseek_v3_plain": ("DeepseekV3", torch.float32,
                          dict(DEEPSEEK, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=1,
                               n_group=2, topk_group=1, routed_scaling_factor=1.0,
                               norm_topk_prob=False)),
}


def build(name, family, dtype, options):
    """A model with weights wide enough that scores spread and experts differ."""
    config = getattr(transformers, family + "Config")(**options)
    torch.manual_seed(sum(map(ord, name)))
    model = getattr(transformers, family + "ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.4)
        block = model.model.layers[-1].mlp
        if hasattr(block.gate, "e_score_correction_bias"):  # negative sums happen, too
            block.gate.e_score_correction_bias.uniform_(-1.5, 0.5)
    return model.to(dtype)


def main():
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data"
    for name, (family, dtype, options) in CASES.items():
        folder = root / name
        shutil.rmtree(folder, ignore_errors=True)
        shard = "8KB" if name == "deepseek_v3" else "1GB"
        build(name, family, dtype, options).save_pretrained(folder, max_shard_size=shard)
        (folder / "generation_config.json").unlink(missing_ok=True)
        model = getattr(transformers, family + "ForCausalLM").from_pretrained(
            folder, dtype=torch.float32, experts_implementation="eager")
        block = model.model.layers[-1].mlp
        hidden = torch.randn(1, TOKENS, model.config.hidden_size)
        with torch.no_grad():
            _, weight, idx = block.gate(hidden[0])
            output = block(hidden)
        save_file({"hidden": hidden[0].contiguous(), "topk_idx": idx.int().contiguous(),
                   "topk_weight": weight.float().contiguous(), "output": output[0].contiguous()},
                  folder / "io.safetensors")
        for file in folder.iterdir():
            file.chmod(0o644)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    (root / "versions.json").write_text(json.dumps(versions) + "\n")


if __name__ == "__main__":
    main()
