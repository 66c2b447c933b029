#!/usr/bin/env bash
# What README.md tells people to type works.  Of its commands, those of epfuse run as from the source folder
# (of bench only the options are looked at: it takes long); "./epf" commands must name a verb of ./epf.  C
# blocks with a main(), and the programs of examples/, are built against the library and run.
# Usage: test_readme.sh SOURCE_DIR EPFUSE STATIC_LIBRARY "LINKER FLAGS"
set -eu
epfuse=$2
library=$3
read -r -a flags <<<"$4"
cd "$1"
[ -e README.md ] || { echo "skipped: no README.md yet"; exit 77; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The blocks of one language, a line "#:" and a number before each.
blocks() {
    awk -v fence='```'"$1" '
        /^```/ { inside = !inside && $0 == fence; if (inside) print "#:" ++n; next }
        inside' README.md
}
# Commands: all of sh blocks; of indented blocks those after "$ " and those of ./epf.
commands() {
    {
        blocks sh
        awk '/^```/ { fenced = !fenced } !fenced && sub(/^    /, "") && (sub(/^\$ /, "") || /^\.\/epf /)' README.md
    } | awk '{ if (sub(/\\$/, "")) printf "%s", $0; else print }'
}

# Commands run in a folder that looks like this one, so that what they write does not stay.
mkdir "$work/tree"
ln -s "$PWD"/* "$work/tree/"

checked=0
while IFS= read -r line; do
    read -r -a words <<<"$line"
    case ${words[0]:-} in
        ./epf)
            grep -qE "^    ${words[1]}\)" epf || { echo "README: ./epf has no verb ${words[1]}"; exit 1; }
            ;;
        epfuse | */epfuse)
            command=${line#*epfuse}
            if [ "${words[1]}" = bench ]; then
                command=" bench --help"
            fi
            echo "\$ epfuse$command"
            (cd "$work/tree" && PATH=${epfuse%/*}:$PATH bash -o pipefail -c "timeout 100 epfuse$command") \
                >"$work/output" 2>&1 || { tail -n 20 "$work/output"; exit 1; }
            ;;
        *) continue ;;
    esac
    checked=$((checked + 1))
done < <(commands)

blocks c | awk -v work="$work" '/^#:/ { file = work "/block" substr($0, 3) ".c"; next } { print >file }'
for source in "$work"/block*.c examples/*.c; do
    if [ -e "$source" ] && grep -q 'int main' "$source"; then
        "$CC" -std=c11 -Wall -Wextra -Werror -Iinclude -o "$work/program" "$source" "$library" "${flags[@]}"
        timeout 100 "$work/program"
        checked=$((checked + 1))
    fi
done
[ $checked -gt 0 ] || { echo "README.md has no command"; exit 1; }
echo "$checked commands and programs of README.md work"
