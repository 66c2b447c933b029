# lib.bash: what the tests of the command share.  Usage of each: TEST EPFUSE SOURCE_DIR
set -u
export LC_ALL=C.UTF-8
unset NO_COLOR EPFUSE_RANK EPFUSE_NUM_RANKS EPFUSE_RENDEZVOUS
epfuse=$(readlink -f "$1")
source_dir=$(readlink -f "$2")
sample=$source_dir/examples/sample
hidden=$sample/hidden.npy
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
failures=0

fail() {
    printf 'FAILED: %s\n' "$*"
    failures=$((failures + 1))
}

# expect CODE PATTERN ARGUMENTS...: the exit code, one line on stderr that matches (none if PATTERN is
# empty), and after a failure no output file.
expect() {
    local code=$1 pattern=$2 found lines
    shift 2
    "$epfuse" "$@" >out.txt 2>err.txt </dev/null
    found=$?
    lines=$(wc -l <err.txt)
    [ "$found" -eq "$code" ] || fail "exit $found, not $code: epfuse $* ($(head -c 300 err.txt))"
    if [ -z "$pattern" ]; then
        [ "$lines" -eq 0 ] || fail "text on stderr: epfuse $*: $(head -c 300 err.txt)"
    else
        [ "$lines" -eq 1 ] || fail "$lines lines on stderr, not 1: epfuse $*"
        grep -qE -- "$pattern" err.txt || fail "no \"$pattern\" in: $(cat err.txt)"
    fi
    if [ "$code" -gt 1 ]; then
        ls y.* .y* >/dev/null 2>&1 && fail "an output file is left: epfuse $*"
    fi
    return 0
}

# The sample's layer with more arguments, which must succeed.
run_sample() {
    expect 0 "" run "$sample" --layer 2 --input "$hidden" "$@"
}

# in_output PATTERN: of the last command.
in_output() {
    grep -qE -- "$1" out.txt || fail "no \"$1\" in the output of the last command: $(head -c 600 out.txt)"
}

finish() {
    [ "$failures" -eq 0 ] || { echo "$failures failures"; exit 1; }
    echo "$1"
    exit 0
}
