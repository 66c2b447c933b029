#!/usr/bin/env bash
# --json of every verb is one object of JSON, and says what the table says.
. "$(dirname "$0")/lib.bash"
command -v python3 >/dev/null || { echo "skipped: no python3 to read JSON with"; exit 77; }

# says EXPRESSION ARGUMENTS...: a Python expression over d, the parsed output.
says() {
    local expression=$1
    shift
    expect "${code:-0}" "" "$@" --json
    python3 -c "import json, sys; d = json.load(open('out.txt')); sys.exit(not ($expression))" ||
        fail "$expression is not true of epfuse $*"
}
run=(run "$sample" --layer 2 --input "$hidden" --ranks 8)
says 'd["check"]["passed"] and d["check"]["tokens"] == 303' "${run[@]}" --check
says 'sum(r["rows"] for r in d["per_rank"]) == 303 * 4 and len(d["per_rank"]) == 8' "${run[@]}"
says 'sum(map(sum, (r["expert_rows"] for r in d["per_rank"]))) == 1212' "${run[@]}" --processes
says 'd["phases"][-1]["name"] == "whole layer" and d["run"]["repeat"] == 3' "${run[@]}" --repeat 3
code=1 says 'not d["expect"]["passed"]' "${run[@]}" --expect "$hidden"
code=0
says 'abs(d["floors"]["h100_datasheet"]["seconds"] - 5.83e-3) < 5e-6' plan --preset dsv3
says 'd["symmetric_memory"]["bytes"] == sum(b["bytes"] + b["padding"] for b in d["symmetric_memory"]["buffers"])' \
    plan --preset dsv3 --ranks 4
says 'len([p for p in d["tile_products"] if p["chosen"]]) == 3' info
says 'any(v["name"] == "EPFUSE_GEMM" for v in d["environment"])' info --env
run_sample --ranks 2 --profile seen
says 'd["all"]["workers"] >= 2' trace prof/mega/seen_group_gemm_combine_merged.perfetto-trace
finish "JSON of every verb parses"
