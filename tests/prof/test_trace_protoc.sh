#!/bin/sh
# test_trace_protoc: protobuf's own decoder takes a trace file whole, and sees the packets in it.
# usage: test_trace_protoc.sh FILE
set -eu
file=$1
if ! command -v protoc > /dev/null 2>&1; then
    echo "skipped: protoc is not installed (protobuf-compiler)"
    exit 77
fi
text=$(protoc --decode_raw < "$file")

# Counts lines that match a pattern at packet level (two spaces) or deeper.
count() {
    printf '%s\n' "$text" | grep -c "$1" || true
}
expect() {
    if [ "$2" != "$3" ]; then
        echo "$1: $2, must be $3"
        exit 1
    fi
}
expect "clock snapshots" "$(count '^  6 {$')" 1
expect "interned data" "$(count '^  12 {$')" 3
expect "track descriptors" "$(count '^  60 {$')" 15
expect "track events" "$(count '^  11 {$')" 112
expect "begins" "$(count '^    9: 1$')" 56
expect "ends" "$(count '^    9: 2$')" 56
expect "flows that leave" "$(count '^    47: 0x')" 24
expect "flows that arrive" "$(count '^    48: 0x')" 24
