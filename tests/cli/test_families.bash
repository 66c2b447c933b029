#!/usr/bin/env bash
# Every family of models against what transformers computed, shared experts and all, over 1 and 4 ranks.
. "$(dirname "$0")/lib.bash"
data=$source_dir/tests/model/data

count=0
for config in "$data"/*/config.json; do
    family=$(dirname "$config")
    io=$family/io.safetensors
    for layer in 0 1; do # some have a dense layer first
        "$epfuse" plan "$family" --layer $layer >/dev/null 2>&1 && break
    done
    for ranks in 1 4; do
        expect 0 "" run "$family" --layer $layer --input "$io:hidden" --ranks $ranks --dtype fp32 \
            --check --repeat 1 --expect "$io:output" --tolerance 1e-6 --output $ranks.npy
    done
    cmp 1.npy 4.npy || fail "bits of $family over 4 ranks"
    expect 0 "" run "$family" --layer $layer --input "$io:hidden" --ranks 2 --processes --dtype bf16 \
        --check --repeat 1
    count=$((count + 1))
done
[ $count -ge 9 ] || fail "only $count families in $data"
finish "$count families agree with transformers"
