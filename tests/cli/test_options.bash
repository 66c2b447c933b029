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
EPFUSE_RANK=1 EPFUSE_NUM_RANKS=2 EPFUSE_RENDEZVOUS=x "$epfuse" info >out.txt 2>err.txt || fail "info as rank 1"
EPFUSE_RANK=7 EPFUSE_NUM_RANKS=2 EPFUSE_RENDEZVOUS=x "$epfuse" info >out.txt 2>err.txt || fail "info as no rank"
EPFUSE_GEMM=nonsense "$epfuse" info >out.txt 2>err.txt
finish "each verb helps, and refuses options that are none"
