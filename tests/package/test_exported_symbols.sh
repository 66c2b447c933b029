#!/usr/bin/env bash
# The shared library exports exactly the functions that the public headers declare.
# Usage: test_exported_symbols.sh INCLUDE_DIR LIBRARY
set -eu
include=$1
library=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A declared function is an epf_ name straight before "("; a pointer type has ")" there.
printf '#include <epfuse/%s>\n' $(cd "$include/epfuse" && ls ./*.h) |
    "$CC" -std=c11 -I"$include" -E -P -x c - |
    grep -oE '\bepf_[a-z0-9_]+ *\(' | tr -d ' (' | sort -u >"$work/declared"
nm --dynamic --defined-only --extern-only "$library" |
    awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort -u >"$work/exported"

[ -s "$work/declared" ] || { echo "no function found in the headers"; exit 1; }
if ! diff "$work/declared" "$work/exported" >"$work/difference"; then
    echo "declared in a header but not exported (<), exported but not declared (>):"
    grep '^[<>]' "$work/difference"
    exit 1
fi
echo "$(wc -l <"$work/exported") functions, declared and exported"
