#!/usr/bin/env bash
#
# Verifies the models of the cross-rank protocol with Spin, exhaustively, and their broken twins, which must
# fail.  A line a run, then "N passed, N failed".
#
#   run_models.sh [--nightly] [NAME...]   all models, or those named: reuse, saving, ...
#
# --nightly adds what takes minutes: three ranks at full length.  Each run is
#   safety    no assertion fails and no state is a dead end before every rank has returned
#   covered   safety, and every statement of the model is reached
#   returns   no cycle but such as return from a call again and again (of epochs, which never ends; the others
#             have none at all), so with the above every rank returns, whatever the scheduler does
#   twin      must fail, with a counterexample; printed with --trail
#
# 77 with a reason where there is no spin or no C compiler.

set -euo pipefail
export LC_ALL=C
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)

nightly=false
trail=false
names=()
for argument in "$@"; do
    case $argument in
        --nightly) nightly=true ;;
        --trail) trail=true ;;
        -*) echo "usage: run_models.sh [--nightly] [--trail] [NAME...]" >&2; exit 2 ;;
        *) names+=("$argument") ;;
    esac
done

cc=${CC:-cc}
for tool in spin "$cc"; do
    if ! command -v "$tool" >/dev/null; then
        echo "skipped: no $tool (Debian, Ubuntu: apt-get install spin gcc)"
        exit 77
    fi
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0

wanted() {
    local name
    [ ${#names[@]} -gt 0 ] || return 0
    for name in "${names[@]}"; do
        [ "$name" != "$1" ] || return 0
    done
    return 1
}

# "search MODE MODEL DEFINES...": leaves the verifier's words in $work/out; false if it could not run.
search() {
    local mode=$1 model=$2 build=(-w -DCOLLAPSE -DMEMLIM=12000) options=(-m200000)
    shift 2
    case $mode in
        safety | covered) build+=(-O1 -DSAFETY) ;;
        twin) build+=(-O0 -DSAFETY) options+=(-w18) ;; # found at once: no room for millions of states
        returns) build+=(-O1 -DNP) options+=(-l) ;;
    esac
    rm -f "$work"/*
    (cd "$work" && spin -a "$@" "$here/$model.pml" >spin.log 2>&1 &&
        "$cc" "${build[@]}" -o pan pan.c >>spin.log 2>&1) || {
        cat "$work/spin.log"
        return 1
    }
    (cd "$work" && ./pan "${options[@]}" >out 2>&1) || true
    if ! grep -q 'errors: [0-9]' "$work/out" || grep -qE 'max search depth|out of memory|aborting' "$work/out"; then
        cat "$work/out"
        return 1
    fi
}

# What of a process no run reached, its end aside: a model that does not do what it says proves nothing.
unreached() {
    grep -E '\.pml:[0-9]+, state [0-9]+,' "$work/out" | grep -v '"-end-"' || true
}

# "check MODE MODEL DEFINES...": one line.
check() {
    local mode=$1 model=$2 errors states seconds verdict=passed text start=$EPOCHREALTIME
    wanted "$model" || return 0
    shift 2
    if search "$mode" "$model" "$@"; then
        errors=$(sed -nE 's/.*errors: ([0-9]+).*/\1/p' "$work/out")
        states=$(sed -nE 's/^ *([0-9.e+]+) states, stored.*/\1/p' "$work/out" | head -n 1)
        text=$(grep -m 1 -E '^pan:[0-9]+:' "$work/out" | sed -E 's/^pan:[0-9]+: //; s/ \(at depth.*//' | cut -c 1-60 || true)
    else
        errors=none
        states=0
        text='not verified'
    fi
    case $mode in
        twin*) [ "$errors" != none ] && [ "$errors" -gt 0 ] || verdict=FAILED ;;
        *) [ "$errors" = 0 ] || verdict=FAILED ;;
    esac
    if [ "$mode" = covered ] && [ $verdict = passed ] && [ -n "$(unreached)" ]; then
        unreached
        text='parts never reached'
        verdict=FAILED
    fi
    seconds=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
    printf '%-6s %-12s %-8s %-36s %12.0f states %6s s  %s\n' "$verdict" "$mode" "$model" "${*//-D/}" \
        "$states" "$seconds" "$text"
    if [ "$verdict" = passed ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
    fi
    if $trail && [[ $mode == twin* || $verdict == FAILED ]] && ls "$work"/*.trail >/dev/null 2>&1; then
        (cd "$work" && spin -t -p "$@" "$here/$model.pml" 2>&1 | tail -n 60) || true
    fi
}

# "both MODEL DEFINES...", "twins MODEL DEFINES... -- TWIN..."
both() {
    check covered "$@"
    check returns "$@"
}

twins() {
    local model=$1 defines=() twin
    shift
    while [ "$1" != -- ]; do
        defines+=("$1")
        shift
    done
    shift
    for twin in "$@"; do
        check twin "$model" "${defines[@]}" "-DTWIN_$twin"
    done
}

both reuse -DW=2
check safety reuse -DW=2 -DCALLS=4
check safety reuse -DW=3
twins reuse -DW=2 -- FREE_EPOCH_EARLY FREE_EPOCH_NONE ENTERED_RELAXED DISPATCH_UNASKED OWNER_ONLY \
    FLAG_RELAXED FLAG_BEFORE_DATA
both saving -DW=2
check safety saving -DW=3
twins saving -DW=2 -- FLAG_RELAXED FLAG_BEFORE_DATA FLAG_BESIDE_CARRIER CARRIER_READ_EARLY OLD_FLAG NO_JOIN
both epochs -DW=2
twins epochs -DW=2 -- NO_FIRST_MEETING NO_SECOND_MEETING NOT_ZEROED LOCAL_KEPT FREE_EPOCH_KEPT
both serial -DW=2
check safety serial -DW=2 -DTWO_EACH
twins serial -DW=2 -- ONE_TILE_EARLY BARRIER_RELAXED ADD_RELAXED COUNT_BEFORE_STORE COUNT_GOES_ON \
    BARRIER_OF_BEFORE EMPTY_RANK_SILENT
check covered scatter -DW=2
check returns scatter -DW=2 -DCALLS=1
twins scatter -DW=2 -- ONE_TILE_EARLY FLAG_RELAXED ADD_RELAXED COUNT_BEFORE_STORE COUNT_OF_ANY_CALL \
    FLAG_BEFORE_PUSH
both abort -DW=2 -DEVENTS=2
both abort -DW=2 -DEVENTS=2 -DTWO_WORKERS
check safety abort -DW=3 -DCALLS=1
twins abort -DW=2 -- ABORT_BEFORE_RECORD ABORT_RELAXED TELLS_ITSELF_ONLY WAIT_IGNORES_ABORT
twins abort -DW=2 -DEVENTS=2 -- DEATH_UNSEEN ONE_RECORD_FOR_ALL
both preprocess -DW=2
twins preprocess -DW=2 -- ONE_HALF POSTED_RELAXED POSTED_BEFORE_COUNTS REFUSAL_KEPT SOURCES_UNASKED \
    OWN_SOURCES_ONLY
both reset -DW=2
check safety reset -DW=2 -DFAILS=3
check safety reset -DW=3
twins reset -DW=2 -- ZEROED_FIRST NO_SECOND_MEETING ABORT_KEPT EPOCH_KEPT WINDOWS_KEPT FAILED_RESET_USABLE

if $nightly; then
    check returns reuse -DW=3
    check safety reuse -DW=3 -DCALLS=4
    check returns saving -DW=3
    check safety saving -DW=3 -DCALLS=3
    both epochs -DW=3
    both serial -DW=3
    check safety serial -DW=3 -DTWO_EACH
    check safety scatter -DW=3
    check returns scatter -DW=3
    both abort -DW=3 -DEVENTS=2
    check safety abort -DW=3 -DEVENTS=2 -DTWO_WORKERS
    both preprocess -DW=3
    check returns reset -DW=3
    check safety reset -DW=3 -DFAILS=3
fi

echo "$passed passed, $failed failed"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
