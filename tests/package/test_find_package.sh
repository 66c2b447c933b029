#!/usr/bin/env bash
# A C project outside of this tree finds the installed library with find_package(), builds against the
# shared and the static library, and runs.  Usage: test_find_package.sh STAGE WORK_DIR
set -eu
stage=$1
work=$2
source=$(cd "$(dirname "$0")/consumer_c" && pwd)

rm -rf "$work"
"$CMAKE" -S "$source" -B "$work" -DCMAKE_PREFIX_PATH="$stage" -DCMAKE_C_COMPILER="$CC" \
    -DCMAKE_BUILD_TYPE=Release
"$CMAKE" --build "$work"
for program in "$work/consumer_shared" "$work/consumer_static"; do
    "$program"
done
if ldd "$work/consumer_static" | grep libepfuse; then
    echo "consumer_static was linked with the shared library"
    exit 1
fi
if "$CMAKE" -S "$source" -B "$work/newer" -DCMAKE_PREFIX_PATH="$stage" -DWANTED_VERSION=99.0 \
    >"$work/newer.log" 2>&1; then
    echo "find_package(epfuse 99.0) was satisfied"
    exit 1
fi
