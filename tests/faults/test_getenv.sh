#!/usr/bin/env bash
# The library reads the environment through secure_getenv() only, which gives nothing to a process with more
# rights than its caller.  Usage: test_getenv.sh SOURCE_DIR
set -u
cd "$1" || exit 1
if grep -rnE '(^|[^_A-Za-z])(getenv|environ)\>' src --include='*.c' --include='*.cu' --include='*.h' --include='*.cuh' |
    grep -vE ':[[:space:]]*(/?\*)'; then
    echo "use secure_getenv() there"
    exit 1
fi
count=$(grep -rlE 'secure_getenv' src | wc -l)
[ "$count" -gt 0 ] || { echo "no source found"; exit 1; }
echo "$count files read the environment, none by getenv()"
