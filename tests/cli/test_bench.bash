#!/usr/bin/env bash
# bench at a size that takes a second: the table, the JSON lines, the drawing, and what it refuses.
. "$(dirname "$0")/lib.bash"
small=(bench --preset test --ranks 2 --tokens 16 --workers 2 --repeat 2 --memory 0.01)
expect 0 "" "${small[@]}" --json y.jsonl --svg y.svg
in_output 'dispatch'
[ -s y.jsonl ] || fail "no JSON lines"
grep -q '<svg' y.svg || fail "no drawing"
head -1 y.jsonl | grep -q '^{.*}$' || fail "no object a line: $(head -c 200 y.jsonl)"
rm -f y.jsonl y.svg
expect 0 "" "${small[@]}" --dtype fp32 --routing zipf --experts 4 --seed 3
expect 0 "" bench --preset qwen3-235b --ranks 2 --tokens 4 --experts 8 --workers 1 --repeat 1
in_output 'SwiGLU|swiglu'
tiny=(bench --preset test --ranks 1 --tokens 4 --workers 1 --repeat 1 --passes 2 --experts 2 --memory 0.01)
expect 0 "" "${tiny[@]}" --device cpu --dtype auto
expect 3 "cannot write" "${tiny[@]}" --json nowhere/y.jsonl
expect 3 "writing failed" "${tiny[@]}" --json /dev/full
expect 3 "nowhere" "${tiny[@]}" --svg /proc/nowhere/y.svg
expect 0 "" bench --help
expect 2 "routing" bench --routing none
expect 2 "repeat" bench --repeat 1001
expect 2 "preset" bench --preset none
expect 2 "at most 64" bench --ranks 65
expect 2 "no option" bench x
finish "bench measures a small case, and refuses what it must"
