#!/usr/bin/env bash
# epfuse verify: its options, its lines, its JSON and its exit code.
. "$(dirname "$0")/../cli/lib.bash"

expect 0 "" verify --list
for name in routing layers kills stops leftovers bad-routing skew capacity huge checks others; do
    in_output "^$name "
done
expect 2 'is no promise' verify --only nothing
expect 2 'must be a number' verify --seconds never
expect 2 'is not understood' verify routing
expect 0 "" verify --only routing --only bad-routing --seed 9 --json lines.jsonl
in_output '^routing +ok .*: 1,000,000 of 100,000,000 routings, .*seed 9'
in_output '^bad-routing +ok .*: 200 of 10,000 bad calls, .*seed 9'
in_output '^2 passed, 0 failed, 0 skipped$'
expect 0 "" verify --all --only layers --seconds 0.5 --json lines.jsonl
in_output '^layers +ok .* of 1,000,000 layers'
[ "$(wc -l <lines.jsonl)" -eq 3 ] || fail "not a line of JSON for each promise"
if command -v python3 >/dev/null; then
    python3 - <<'PY' || fail "the JSON says something else"
import json
lines = [json.loads(text) for text in open("lines.jsonl")]
assert [line["promise"] for line in lines] == ["routing", "bad-routing", "layers"]
assert lines[0]["done"] == lines[0]["target"] == 10**6 and lines[0]["full"] == 10**8
assert 0 < lines[2]["done"] < lines[2]["target"] == lines[2]["full"] == 10**6
for line in lines:
    assert line["result"] == "ok" and line["rev"] and line["device"] and line["cpus"] > 0
PY
fi
expect 3 'cannot write' verify --only bad-routing --json nowhere/lines.jsonl
expect 3 'writing failed' verify --only bad-routing --json /dev/full
expect 0 "" verify --only others --only simulator --only clean --only fuzz --tests-dir nowhere
in_output '^simulator +skipped '
in_output '^fuzz +skipped '
in_output '^others +skipped '
finish "verify runs what it says and says what it ran"
