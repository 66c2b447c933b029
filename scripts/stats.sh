#!/usr/bin/env bash
# The size of each room, and what is over its budget (CONTRIBUTING.md).  A report: it never fails.
# Functions are found by their braces in column one, as .clang-format sets them.
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."

find include src cli python bench tests examples -type f \
    \( -name '*.c' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' -o -name '*.cc' -o -name '*.py' \) \
    2>/dev/null | sort | xargs awk '
    function room_of(path, parts, n) {
        n = split(path, parts, "/")
        return (parts[1] == "src" || parts[1] == "tests") && n > 2 ? parts[1] "/" parts[2] : parts[1]
    }
    function end_of_file() {
        if (path == "") return
        if (in_file > longest[room]) longest[room] = in_file
        if (in_file > 600) over[++num_over] = sprintf("%s: %d lines (600)", path, in_file)
    }
    FNR == 1 {
        end_of_file()
        path = FILENAME; room = room_of(path); in_file = 0; in_comment = 0; open = 0
        kernel = path ~ /\.cuh?$/
        files[room]++
    }
    {
        in_file++; lines[room]++
        text = $0
        if (in_comment || text ~ /^[ \t]*(\/\*|\/\/)/ || (path ~ /\.py$/ && text ~ /^[ \t]*#/)) comments[room]++
        else if (text ~ /\/\*|\/\//) comments[room] += 0.5
        if (text ~ /\/\*/) in_comment = 1
        if (text ~ /\*\//) in_comment = 0
    }
    /^[A-Za-z_].*\(/ { head = $0 }
    /^\{/ { open = FNR }
    /^\}/ {
        if (open > 0) {
            size = FNR - open - 1; num_functions[room]++
            if (size > biggest[room]) biggest[room] = size
            budget = kernel ? 120 : 60
            if (size > budget)
                over[++num_over] = sprintf("%s:%d: %d lines (%d): %s", path, open, size, budget, head)
        }
        open = 0
    }
    END {
        end_of_file()
        printf "%-18s %6s %7s %9s %9s %10s %13s\n", "room", "files", "lines", "comments", "functions",
               "long. file", "long. function"
        for (room in files) {
            printf "%-18s %6d %7d %8.0f%% %9d %10d %13d\n", room, files[room], lines[room],
                   100 * comments[room] / lines[room], num_functions[room], longest[room],
                   biggest[room] | "sort"
        }
        close("sort")
        printf "\nover budget: %d\n", num_over
        for (i = 1; i <= num_over; i++) print "  " over[i]
    }'
