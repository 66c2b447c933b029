#!/usr/bin/env bash
# Every public header compiles alone, as strict C11 and as C++17.  Usage: test_headers_alone.sh INCLUDE_DIR
set -eu
include=$1
warnings=(-Wall -Wextra -Wshadow -Wconversion -pedantic -Werror)

for header in "$include"/epfuse/*.h; do
    "$CC" -std=c11 -Wstrict-prototypes "${warnings[@]}" -I"$include" -fsyntax-only -x c "$header"
    printf 'C11    %s\n' "${header##*/}"
done
if [ -z "$CXX" ] || [ "${CXX%-NOTFOUND}" != "$CXX" ]; then
    echo "skipped: no C++ compiler"
    exit 77
fi
for header in "$include"/epfuse/*.h; do
    "$CXX" -std=c++17 "${warnings[@]}" -I"$include" -fsyntax-only -x c++ "$header"
    printf 'C++17  %s\n' "${header##*/}"
done
