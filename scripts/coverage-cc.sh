#!/usr/bin/env bash
# The compiler of scripts/coverage.sh: tests are not measured, and fast; the reference's long loops and the
# tile kernels are measured at -O1.  Usage: coverage-cc.sh COMPILER ARGS...
arguments=()
for argument in "$@"; do
    case " $* " in
        *" -c "*/tests/*.c\ * | *" -c "*/fuzz/*.c\ *)
            case $argument in
                --coverage | -fprofile-update=*) continue ;;
                -O0) argument=-O2 ;;
            esac ;;
        *" -c "*/src/reference/* | *" -c "*/src/cpu/* | *" -c "*/src/core/*) [ "$argument" != -O0 ] || argument=-O1 ;;
    esac
    arguments+=("$argument")
done
if command -v ccache >/dev/null; then exec ccache "${arguments[@]}"; fi
exec "${arguments[@]}"
