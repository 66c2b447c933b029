#!/usr/bin/env bash
# Every verb's help, and each kind of option at values that are none: one line, the code of usage.
. "$(dirname "$0")/lib.bash"
for verb in run plan bench trace verify info; do
    expect 0 "" $verb --help
    in_output "usage"
    "$epfuse" $verb --nonsense >/dev/null 2>&1
    [ $? -eq 2 ] || fail "$verb --nonsense is not refused as usage"
done
expect 2 "not understood|no option|usage" info x
for value in "" x 1x 0x1 -1 1.5 99999999999999999999; do
    expect 2 "ranks" plan --preset test --ranks "$value"
    expect 2 "tokens" bench --tokens "$value"
    expect 2 "memory" bench --memory "${value/1.5/-1.5}x"
    expect 2 "check-tokens" run "$sample" --layer 2 --input "$hidden" --check-tokens "${value:-x}"
done
for value in 0 -1 inf nan 1e9 x; do
    expect 2 "timeout" run "$sample" --layer 2 --input "$hidden" --timeout "$value"
done
expect 2 "dtype" bench --dtype int8
expect 2 "backend" run "$sample" --layer 2 --input "$hidden" --backend tpu
run_sample --ranks 2 --profile seen --check-tokens 5
profile=prof/mega/seen_group_gemm_combine_merged.perfetto-trace
expect 0 "" trace "$profile" --svg drawn.svg --title "one call" --width 800 --flows 10
grep -q '<svg' drawn.svg || fail "no drawing"
expect 2 "width" trace "$profile" --svg drawn.svg --width 10
expect 2 "flows" trace "$profile" --svg drawn.svg --flows -1
expect 3 "nowhere" trace nowhere
expect 3 "/proc" trace "$profile" --svg /proc/nowhere/drawn.svg

"$epfuse" >out.txt 2>err.txt
[ $? -eq 2 ] || fail "without a verb: not refused as usage"
grep -q "verify" err.txt || fail "without a verb: no list of verbs"
for word in help -h --help; do
    expect 0 "" $word
    in_output "verify"
done
expect 0 "" plan --preset test --ranks 2 --dtype fp32 --capacity 1.5
expect 0 "" plan --preset test --ranks 2 --dtype auto --json
expect 2 "ranks: 2000, must be" plan --preset test --ranks 2000
expect 2 "preset" plan --preset none
expect 3 "nowhere" plan nowhere --ranks 2 --layer 2
expect 2 "passes" bench --passes 0
expect 2 "at most" bench --repeat 1000 --passes 1000
expect 2 "at most 64" bench --workers 65
expect 4 "cuda" bench --device cuda
expect 2 "device" bench --device tpu
many=()
for _ in $(seq 17); do many+=(--only routing); done
expect 2 "more than 16 times" verify "${many[@]}"
expect 2 "seconds" verify --seconds 0
expect 2 "seed" verify --seed -1
run_sample --dtype auto --repeat 3 --timeout 30 --capacity 2
run_sample --dtype fp16 --mode serial --check-tokens 3 --check
# A bare tree may have the program and no pseudo-terminals.
if script -qec true /dev/null >/dev/null 2>&1 </dev/null; then # on a terminal: colours, and progress that is taken back
    TERM=xterm script -qec "'$epfuse' run '$sample' --layer 2 --input '$hidden' --ranks 2" /dev/null >out.txt </dev/null ||
        fail "a run on a terminal"
    in_output $'\033'
    NO_COLOR=1 TERM=xterm script -qec "'$epfuse' info" /dev/null >out.txt </dev/null || fail "info on a terminal"
    TERM=dumb script -qec "'$epfuse' info" /dev/null >out.txt </dev/null || fail "info on a dumb terminal"
fi
EPFUSE_RANK=1 EPFUSE_NUM_RANKS=2 EPFUSE_RENDEZVOUS=x "$epfuse" info >out.txt 2>err.txt || fail "info as rank 1"
EPFUSE_RANK=7 EPFUSE_NUM_RANKS=2 EPFUSE_RENDEZVOUS=x "$epfuse" info >out.txt 2>err.txt || fail "info as no rank"
EPFUSE_GEMM=nonsense "$epfuse" info >out.txt 2>err.txt
finish "each verb helps, and refuses options that are none"
