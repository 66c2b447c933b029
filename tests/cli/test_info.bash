#!/usr/bin/env bash
# Every variable that the sources read is told; a profile that a run records can be summed up and drawn.
. "$(dirname "$0")/lib.bash"

expect 0 "" info
in_output '^epfuse [0-9]+\.[0-9]+\.[0-9]+'
in_output 'cpu   ok'
for dtype in bf16 fp32 fp16; do
    in_output "$dtype +[a-z]+ +chosen"
done
EPFUSE_GEMM=portable expect 0 "" info --env
in_output 'EPFUSE_GEMM +portable'
for name in $(grep -rhoE '"EPFUSE_[A-Z_]+"' "$source_dir/src" "$source_dir/cli" | tr -d '"' | sort -u); do
    in_output "^  $name "
done
[ "$("$epfuse" --version)" = "$("$epfuse" info | head -n 1)" ] || fail "two versions"

run_sample --ranks 4 --repeat 1 --profile seen
for phase in dispatch_group_gemm group_gemm_combine; do
    file=prof/mega/seen_${phase}_merged.perfetto-trace
    expect 0 "" trace $file --svg $phase.svg
    in_output '^4 ranks'
    in_output 'group_gemm_main +compute'
    grep -q '</svg>' $phase.svg || fail "$phase.svg"
    expect 0 "" trace prof/mega/seen_${phase}_rank_{1,3}.perfetto-trace
    in_output '^2 ranks'
done
expect 3 'cannot open' trace nowhere.perfetto-trace
expect 3 'byte 0' trace "$hidden"
expect 2 'no file given' trace
mkdir -p blocked && cd blocked && : >prof
expect 3 'prof' run "$sample" --layer 2 --input "$hidden" --ranks 4 --profile seen --output y.npy --timeout 5
cd ..
run_sample --ranks 2 --repeat 1
LC_ALL=C "$epfuse" run "$sample" --layer 2 --input "$hidden" --ranks 2 --repeat 1 >ascii.txt
LC_ALL=C grep -q '[^ -~]' ascii.txt && fail "bytes past ASCII without UTF-8"
grep -q '▁' out.txt || fail "no block characters with UTF-8"
finish "info, trace and text are as promised"
