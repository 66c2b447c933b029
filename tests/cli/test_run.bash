#!/usr/bin/env bash
# The sample over 1, 2, 8 and 32 ranks, threads and processes, both modes: checked, and the same bits.
. "$(dirname "$0")/lib.bash"

count=0
for ranks in 1 8; do
    for started in threads processes; do
        for mode in serial fuse_scatter; do
            flags=(--ranks $ranks --mode $mode --check --repeat 2)
            [ $started = threads ] || flags+=(--processes)
            run_sample "${flags[@]}" --output $ranks-$started-$mode.npy
            in_output "all with the same bits"
            [ "$(grep -c 'check .* ok$' out.txt)" -eq 2 ] || fail "two checks of $ranks $started $mode"
            cmp 1-threads-serial.npy $ranks-$started-$mode.npy || fail "bits of $ranks $started $mode"
            count=$((count + 1))
        done
    done
done
run_sample --ranks 32 --workers 2 --repeat 1 --output uneven.npy
cmp 1-threads-serial.npy uneven.npy || fail "bits of 32 ranks, 2 workers each"
run_sample --capacity 0.1 --ranks 4 --repeat 1 --output small.npy
cmp 1-threads-serial.npy small.npy || fail "bits after buffers grew"

# What transformers computed in fp32 from the same bf16 weights: bf16 rounds tokens, h, y and the sum, 2^-9
# each in the mean square of a uniform error; fp32 differs by the order of sums only.
run_sample --ranks 8 --expect "$sample/expected.npy" --tolerance 0.008
run_sample --ranks 8 --dtype fp16 --check --expect "$sample/expected.npy" --tolerance 0.001
run_sample --ranks 8 --dtype fp32 --check --expect "$sample/expected.npy" --tolerance 2e-6

# Both file types carry the same fp32 numbers: the tail of the .safetensors is that of the .npy.
run_sample --repeat 1 --output y.safetensors
bytes=$((303 * 128 * 4))
cmp <(tail -c $bytes y.safetensors) <(tail -c $bytes 1-threads-serial.npy) || fail "y.safetensors"
expect 0 "" run "$sample" --layer 1 --input y.safetensors:hidden_states --ranks 2 --check
rm -f y.*

# Three dimensions come back as three; the header keeps its length.
LC_ALL=C sed 's/(303, 128), }/(3,101,128),}/' "$hidden" >deep.npy
expect 0 "" run "$sample" --layer 2 --input deep.npy --ranks 8 --repeat 1 --output deep-out.npy
LC_ALL=C grep -aq '(3, *101, *128' deep-out.npy || fail "the shape of deep-out.npy"
cmp <(tail -c $bytes deep-out.npy) <(tail -c $bytes 1-threads-serial.npy) || fail "deep-out.npy"

# Two shards, each needed for some of the layer's tensors.
mkdir shards
cp "$sample/config.json" shards
cp "$sample/model.safetensors" shards/a.safetensors
cp "$sample/model.safetensors" shards/b.safetensors
{
    printf '{"weight_map": {"model.layers.2.mlp.gate.weight": "a.safetensors"'
    for expert in $(seq 0 31); do
        for name in gate up down; do
            shard=a
            [ $((expert % 3)) -eq 0 ] || shard=b
            printf ', "model.layers.2.mlp.experts.%d.%s_proj.weight": "%s.safetensors"' \
                "$expert" $name $shard
        done
    done
    printf '}}'
} >shards/model.safetensors.index.json
for started in "" --processes; do
    # shellcheck disable=SC2086
    expect 0 "" run shards --layer 2 --input "$hidden" --ranks 4 --repeat 1 $started --output shards.npy
    cmp 1-threads-serial.npy shards.npy || fail "bits of two shards $started"
done

# One token on 8 ranks leaves 7 without any.
expect 0 "" run "$sample" --layer 2 --input "$sample/model.safetensors:model.norm.weight" --ranks 8 --check
in_output '^ +7 +0 '
finish "$count ways to run the sample give the same bits, all within bounds"
