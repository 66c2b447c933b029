#!/usr/bin/env bash
# Lays out every C and CUDA source as .clang-format says.  Only version 14 is used: others differ in detail.
#   scripts/format.sh --check [FILE...]      names those that differ; exit 1 if any, 77 without clang-format 14
#   scripts/format.sh --rewrite [FILE...]    rewrites them
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."

tool=
for candidate in clang-format-14 clang-format; do
    if "$candidate" --version 2>/dev/null | grep -q 'version 14\.'; then
        tool=$candidate
        break
    fi
done
if [ -z "$tool" ]; then
    echo "skipped: no clang-format 14 (Debian 12, Ubuntu 24.04: apt-get install clang-format-14)"
    exit 77
fi

# Where a comment padded to a column makes its line too long, the padding goes first: clang-format would
# break the code before it.
lay_out() {
    sed -E '/^.{101}/s,([^ ].*[^ ]) +\*/$,\1 */,' "$1" | "$tool" --assume-filename="$1"
}

action=${1:-}
files=("${@:2}")
if [ ${#files[@]} -eq 0 ]; then
    mapfile -t files < <(find src include cli bench tests examples -type f \
        \( -name '*.c' -o -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' \) 2>/dev/null |
        grep -v '^src/cuda/sm90/' | sort) # PTX in strings, laid out by hand
fi
case $action in
    --rewrite)
        for file in "${files[@]}"; do
            lay_out "$file" >"$file.formatted"
            cmp -s "$file.formatted" "$file" || cat "$file.formatted" >"$file"
            rm -f "$file.formatted"
        done
        ;;
    --check)
        status=0
        for file in "${files[@]}"; do
            if ! lay_out "$file" | cmp -s - "$file"; then
                echo "$file: ./epf format would change it, at least here:"
                lay_out "$file" | diff "$file" - | head -n 6 || true
                status=1
            fi
        done
        [ $status -eq 0 ] && echo "${#files[@]} files are laid out as .clang-format says"
        exit $status
        ;;
    *)
        sed -n '3,4s/^# *//p' "$0"
        exit 2
        ;;
esac
