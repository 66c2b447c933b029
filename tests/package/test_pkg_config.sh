#!/usr/bin/env bash
# A C++17 program outside of this tree is built with the flags of pkg-config alone, shared and static,
# from a copy of the installed tree that was moved.  Usage: test_pkg_config.sh LIBDIR WORK_DIR
set -eu
libdir=$1
work=$2
here=$(cd "$(dirname "$0")" && pwd)

skip() { echo "skipped: $1"; exit 77; }
command -v pkg-config >/dev/null || skip "no pkg-config"
[ -n "$CXX" ] && [ "${CXX%-NOTFOUND}" = "$CXX" ] || skip "no C++ compiler"

stage=$(cd "$libdir" && cd "$(pkg-config --variable=prefix ./pkgconfig/epfuse.pc)" && pwd)
rm -rf "$work"
mkdir -p "$work"
cp -a "$stage" "$work/moved"
libdir=$work/moved${libdir#"$stage"}
export PKG_CONFIG_PATH=$libdir/pkgconfig
read -r -a compile <<<"$(pkg-config --cflags epfuse)"
read -r -a shared <<<"$(pkg-config --libs epfuse)"
read -r -a static <<<"$(pkg-config --static --libs epfuse)"
static=("${static[@]/#-lepfuse/-l:libepfuse.a}")

build() {
    local program=$1
    shift
    "$CXX" -std=c++17 -Wall -Wextra -pedantic -Werror "${compile[@]}" -o "$program" \
        "$here/consumer_cxx/consumer.cc" "$@"
}
build "$work/consumer_shared" "${shared[@]}"
build "$work/consumer_static" "${static[@]}"
LD_LIBRARY_PATH=$libdir "$work/consumer_shared" "$(pkg-config --modversion epfuse)"
"$work/consumer_static" "$(pkg-config --modversion epfuse)"
