#!/usr/bin/env bash
# docs/API.md from the public headers (docs/adr/0001-api-reference.md says why so).
#   scripts/make-api-docs.sh           writes it
#   scripts/make-api-docs.sh --check   exit 1 if what is there is not what would be written
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

made=$(mktemp)
trap 'rm -f "$made"' EXIT
# epfuse.h leads; its parts follow, and at the end what they all include.
headers=(epfuse epfuse_group epfuse_layer epfuse_dtype epfuse_status)
[ "$(find include/epfuse -name '*.h' | wc -l)" = "${#headers[@]}" ] || {
    echo "scripts/make-api-docs.sh does not name the headers that are in include/epfuse"
    exit 1
}
LC_ALL=C awk -f scripts/api-docs.awk $(printf 'include/epfuse/%s.h ' "${headers[@]}") | cat -s >"$made"
if [ "${1:-}" = --check ]; then
    if ! diff docs/API.md "$made"; then
        echo "docs/API.md is not what the headers say: run scripts/make-api-docs.sh"
        exit 1
    fi
    echo "docs/API.md says what the headers say"
else
    cat "$made" >docs/API.md
fi
