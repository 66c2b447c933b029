#!/usr/bin/env bash
# Every #include "..." goes in a direction that rooms.txt allows.  Usage: test_rooms.sh SOURCE_DIR
set -eu
table=$(cd "$(dirname "$0")" && pwd)/rooms.txt
cd "$1"

# The room of an included path, seen from a file: src/ROOM, or the file's own folder.
check_file() {
    local file=$1 room=$2 allowed=$3 line target
    grep -nE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' "$file" | while IFS= read -r line; do
        target=${line#*\"}
        target=${target%%\"*}
        case $target in
            epfuse/*) [ -e "include/$target" ] || echo "$file:${line%%:*}: no include/$target" ;;
            *)
                if [ -e "src/$target" ]; then
                    case " $allowed ${room#src/} " in
                        *" ${target%%/*} "*) ;;
                        *) echo "$file:${line%%:*}: $room may not include $target" ;;
                    esac
                elif [ ! -e "$(dirname "$file")/$target" ] && [ ! -e "$room/$target" ]; then
                    echo "$file:${line%%:*}: $target is in no room"
                fi
                ;;
        esac
    done
}

findings=$(mktemp)
trap 'rm -f "$findings"' EXIT
checked=0
while IFS=: read -r room allowed; do
    case $room in '' | \#*) continue ;; esac
    [ -d "$room" ] || continue
    while IFS= read -r file; do
        check_file "$file" "$room" "$allowed" >>"$findings"
        checked=$((checked + 1))
    done < <(find "$room" -type f \( -name '*.c' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \))
done <"$table"

for folder in src/*/; do
    grep -q "^${folder%/}:" "$table" || echo "${folder%/}: a room that rooms.txt does not know" >>"$findings"
done
cat "$findings"
[ ! -s "$findings" ] || exit 1
[ "$checked" -gt 0 ] || { echo "no source found"; exit 1; }
echo "$checked files include only what they may"
