#!/usr/bin/env bash
# The floors of the four shapes that the project quotes, from the datasheet's rates.
. "$(dirname "$0")/lib.bash"

while read -r preset both; do
    expect 0 "" plan --preset "$preset"
    in_output "H100 SXM, datasheet .* $both\$"
done <<'TABLE'
dsv3 5\.83 ms
qwen3-235b 2\.71 ms
mixtral 5\.83 ms
example 972 us
TABLE
expect 0 "" plan --preset dsv3
in_output 'goes to 4\.63 other ranks: 34 % saved'
in_output '5\.77 TFLOP$'
expect 0 "" plan --preset mixtral
in_output 'goes to 1\.75 other ranks: 0 % saved'
# 32 experts of 3 x 7168 x 2048 bf16 each: 2.8 GB, which is the floor of a decode step.
expect 0 "" plan --preset dsv3 --tokens 128
in_output 'datasheet .*memory .*memory .* 8[0-9][0-9] us$'
expect 0 "" plan "$sample" --layer 2 --ranks 8 --tokens 38 --measure
in_output 'all ranks on this machine'
expect 0 "" plan --preset dsv3 --ranks 1 --buffers 2
in_output 'recv_tokens +set 1'
expect 2 '--ranks: 7 does not divide' plan --preset dsv3 --ranks 7
expect 2 'either --preset or one checkpoint' plan
expect 2 '--preset: "x"' plan --preset x
expect 2 '--layer is required' plan "$sample"
expect 2 'not a MoE layer' plan "$sample" --layer 0
finish "floors are those of the table"
