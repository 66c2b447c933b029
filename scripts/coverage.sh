#!/usr/bin/env bash
#
# Lines and branches of the host C under src/ and cli/ that the tests reach, and which test program makes
# which error.  What runs only where there is a device is left out: src/cuda/ and cli/bench_device.c.
#
#     scripts/coverage.sh [--no-run] [CTEST_ARGS...]
#
# Builds build/coverage (override: EPF_COVERAGE_BUILD), runs the suite once, and writes there coverage.txt,
# coverage.json and the folder sites/ (for scripts/error-table.py).  --no-run: only reports what the last run left.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
build=${EPF_COVERAGE_BUILD:-build/coverage}
root=$PWD

command -v gcovr >/dev/null || { echo "coverage.sh needs gcovr: pip install gcovr" >&2; exit 1; }
if [ "${1-}" = --no-run ]; then
    shift
else
    flags="-O0 -g -w --coverage -fprofile-update=atomic -I$root/src -I$root/include -D_GNU_SOURCE"
    flags+=" -include $root/scripts/coverage-hook.h"
    cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=None -DCMAKE_C_FLAGS="$flags" \
        -DCMAKE_C_COMPILER_LAUNCHER="$root/scripts/coverage-cc.sh" -DEPFUSE_CUDA=OFF >/dev/null
    nice -n 10 cmake --build "$build" -j2 -- -k >"$build/build.log" 2>&1 ||
        grep -E 'error:|Error ' "$build/build.log" >&2 # what does not build is not measured
    find "$build" -name '*.gcda' -delete
    rm -rf "$build/sites"
    mkdir -p "$build/sites"
    EPF_ERROR_SITES=$root/$build/sites GCOV_ERROR_FILE=/dev/null \
        nice -n 10 ctest --test-dir "$build" -LE 'nightly|style|package|slow' --timeout 600 "$@" ||
        echo "some tests failed: their coverage counts all the same" >&2
fi

nice -n 10 gcovr --root . --object-directory "$build" --filter 'src/' --filter 'cli/' \
    --exclude 'src/cuda/' --exclude 'cli/bench_device' --exclude-unreachable-branches --exclude-throw-branches --gcov-ignore-errors all \
    --gcov-ignore-parse-errors all --merge-mode-functions separate --json "$build/coverage.json" -j 2 "$build" \
    2>"$build/gcovr.log"
scripts/coverage-report.py "$build/coverage.json" | tee "$build/coverage.txt"
