#!/usr/bin/env bash
# Every mistake: its exit code, one line that names file, tensor, byte or option, and no output file.
. "$(dirname "$0")/lib.bash"
run=(run "$sample" --layer 2 --input "$hidden" --output y.npy)

# ---- usage: 2 ----
expect 2 'is no verb' frobnicate
expect 2 'checkpoint folders given' run --layer 2 --input "$hidden"
expect 2 'checkpoint folders given' run "$sample" "$sample" --layer 2 --input "$hidden"
expect 2 '--input is required' run "$sample" --layer 2
expect 2 '--layer is required' run "$sample" --input "$hidden"
expect 2 '"--frob" is no option' "${run[@]}" --frob
expect 2 '"-x" is no option' "${run[@]}" -x
expect 2 '--ranks needs a value' "${run[@]}" --ranks
expect 2 '--ranks: "0", must be a number in 1\.\.' "${run[@]}" --ranks 0
expect 2 '--ranks: "8x"' "${run[@]}" --ranks 8x
expect 2 '--ranks: 5 does not divide the 32 experts' "${run[@]}" --ranks 5
expect 2 '--mode: "fast"' "${run[@]}" --mode fast
expect 2 '--dtype: "int8"' "${run[@]}" --dtype int8
expect 2 '--device: "tpu"' "${run[@]}" --device tpu
expect 2 '--timeout: "0"' "${run[@]}" --timeout 0
expect 2 '--capacity: "nan"' "${run[@]}" --capacity nan
expect 2 '--join and --processes' "${run[@]}" --join --processes
expect 2 '--join: no variables' "${run[@]}" --join
expect 2 'profile_file_name' "${run[@]}" --profile ../x
expect 2 'layer 0 is not a MoE layer: mlp_only_layers' run "$sample" --layer 0 --input "$hidden" --output y.npy
expect 2 'layer 4 is out of range' run "$sample" --layer 4 --input "$hidden" --output y.npy
expect 2 'must end with' run "$sample" --layer 2 --input "$sample/config.json" --output y.npy
expect 2 'must end with' "${run[@]}" --output y.txt

# ---- devices: 4 ----
expect 4 '--device cuda' "${run[@]}" --device cuda

# ---- files: 3 ----
expect 3 '/nowhere/config.json: cannot be opened' run /nowhere --layer 2 --input "$hidden" --output y.npy
expect 3 '/nowhere.npy: cannot be opened' run "$sample" --layer 2 --input /nowhere.npy --output y.npy
expect 3 '/nowhere/y.npy: cannot be written' "${run[@]}" --output /nowhere/y.npy
cp "$hidden" same.npy
expect 2 'same.npy: would be written over ./same.npy' run "$sample" --layer 2 --input ./same.npy --output same.npy
cmp -s "$hidden" same.npy || fail "a refused run touched its input"
mkdir taken.npy
expect 3 'taken.npy' "${run[@]}" --output taken.npy
expect 3 'no_such_tensor' run "$sample" --layer 2 --input "$sample/model.safetensors:no_such_tensor"
expect 3 '\[128, 64\].*128' run "$sample" --layer 2 --output y.npy \
    --input "$sample/model.safetensors:model.layers.2.mlp.experts.0.down_proj.weight"
expect 3 '1 tokens, must be 303' "${run[@]}" --expect "$sample/model.safetensors:model.norm.weight"

head -c 100000 "$hidden" >short.npy
expect 3 'short.npy: .*byte' run "$sample" --layer 2 --input short.npy --output y.npy

# broken TEXT PATTERN SED: a copy of the sample whose files were changed by sed.
broken() {
    rm -rf broken
    mkdir broken
    cp "$sample"/{config.json,model.safetensors} broken
    sed -i "$2" "broken/$1"
    expect 3 "$3" run broken --layer 2 --input "$hidden" --output y.npy --ranks 4
}
# Same length, so that the header stays true to the file.
broken model.safetensors 's/layers.2.mlp.experts.3.up_proj/layers.2.mlp.experts.3.ux_proj/' \
    'broken.*experts.3.up_proj.weight'
broken model.safetensors 's/layers.2.mlp.gate.weight/layers.2.mlp.gone.weight/' 'layers.2.mlp.gate.weight'
broken config.json 's/"moe_intermediate_size": 64/"moe_intermediate_size": 72/' \
    'experts.0.gate_proj.weight.*\[64, 128\].*\[72, 128\]'
broken config.json 's/"num_experts_per_tok": 4/"num_experts_per_tok": 33/' 'config.json.*num_experts_per_tok.*33'
broken config.json 's/"qwen3_moe"/"gpt2"/' 'config.json.*model_type.*gpt2'
broken config.json 's/{/[/' 'config.json.*byte'
head -c 3000000 "$sample/model.safetensors" >broken/model.safetensors
cp "$sample/config.json" broken
expect 3 'broken/model.safetensors: .*byte' run broken --layer 2 --input "$hidden" --output y.npy
printf '\377\377\377\377\377\377\377\177{}' >broken/model.safetensors
expect 3 'broken/model.safetensors: .*byte 0' run broken --layer 2 --input "$hidden" --output y.npy

# A NaN in token 200, which rank 5 of 8 holds: every rank must hear of it.
cp "$hidden" nan.npy
data=$(($(wc -c <"$hidden") - 303 * 128 * 4))
printf '\000\000\300\177' | dd of=nan.npy bs=1 seek=$((data + 200 * 128 * 4)) conv=notrunc status=none
expect 3 'nan.npy: .*token 200' run "$sample" --layer 2 --input nan.npy --ranks 8 --output y.npy
expect 3 'nan.npy: .*token 200' run "$sample" --layer 2 --input nan.npy --ranks 8 --processes --output y.npy

# An output that was there before is untouched by a failure.
echo precious >kept.npy
expect 3 'token 200' run "$sample" --layer 2 --input nan.npy --output kept.npy
grep -qx precious kept.npy || fail "a failed run touched kept.npy"

# A full disk, found while printing.
"$epfuse" info >/dev/full 2>err.txt
[ $? -eq 3 ] || fail "exit code of a table that could not be written"
grep -q 'standard output' err.txt || fail "message of a table that could not be written"

# ---- mismatch: 1 ----
expect 1 "" run "$sample" --layer 2 --input "$hidden" --expect "$sample/expected.npy" --tolerance 1e-6
in_output 'expect .*MISMATCH'
expect 1 "" run "$sample" --layer 2 --input "$hidden" --expect "$hidden"
finish "each mistake has its code and its line"
