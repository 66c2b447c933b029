#!/usr/bin/env bash
# The library neither prints nor ends its caller's process, and allocates in one place only.  Comments and
# strings do not count; allowed_calls.txt names the exceptions.  Usage: test_calls.sh SOURCE_DIR
set -eu
allowed=$(cd "$(dirname "$0")" && pwd)/allowed_calls.txt
cd "$1"

find src -type f \( -name '*.c' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \) | sort | xargs awk -v allowed="$allowed" '
    BEGIN {
        while ((getline line < allowed) > 0)
            if (line !~ /^#/ && split(line, words, " ") > 2) may[words[1], words[2]] = 1
        names = "exit|_exit|_Exit|quick_exit|abort|assert|printf|vprintf|puts|putchar|perror|__trap|" \
                "malloc|calloc|realloc|free|aligned_alloc|posix_memalign|strdup|strndup|asprintf"
        pattern = "(^|[^A-Za-z0-9_.>])(" names ")[ ]*\\("
        stream = "(^|[^A-Za-z0-9_])v?f(printf|puts|write)[ ]*\\([^;]*std(out|err)"
    }
    FNR == 1 { in_comment = 0; files++; seen[FILENAME] = 1 }
    {
        text = $0
        gsub(/\\"/, "", text)
        gsub(/"[^"]*"/, "\"\"", text)
        if (in_comment) {
            if (!sub(/^.*\*\//, "", text)) next
            in_comment = 0
        }
        gsub(/\/\*([^*]|\*[^\/])*\*\//, "", text)
        sub(/\/\/.*/, "", text)
        if (sub(/\/\*.*/, "", text)) in_comment = 1
        if (text ~ /^[ ]*#[ ]*define/ && text ~ /epf_free|epf_alloc/) next
        if (match(text, stream)) report("fprintf to stdout or stderr")
        while (match(text, pattern)) {
            call = substr(text, RSTART, RLENGTH)
            text = substr(text, RSTART + RLENGTH)
            gsub(/[^A-Za-z0-9_]/, "", call)
            report(call)
        }
    }
    function report(call) {
        if ((FILENAME, call) in may) { used[FILENAME, call] = 1; return }
        printf "%s:%d: %s: not in the library (tests/style/allowed_calls.txt)\n", FILENAME, FNR, call
        bad = 1
    }
    END {
        for (key in may)
            if (!(key in used)) {
                split(key, words, SUBSEP)
                if (!(words[1] in seen)) continue
                printf "allowed_calls.txt: %s does not call %s any more\n", words[1], words[2]
                bad = 1
            }
        if (files == 0) { print "no source found"; exit 1 }
        if (!bad) printf "%d files print nothing, end nothing, allocate in one place\n", files
        exit bad
    }'
