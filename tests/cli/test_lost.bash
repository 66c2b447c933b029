#!/usr/bin/env bash
# Ranks that never come or go away: exit code 5 within the timeout.  Ranks of launchers.
. "$(dirname "$0")/lib.bash"
job=test-$$-$RANDOM

EPFUSE_RANK=0 EPFUSE_NUM_RANKS=2 EPFUSE_RENDEZVOUS=$job-a \
    expect 5 'rank 1 did not come' run "$sample" --layer 2 --input "$hidden" --join --timeout 0.5 --output y.npy
EPFUSE_RANK=0 expect 2 'EPFUSE_NUM_RANKS' run "$sample" --layer 2 --input "$hidden" --join
EPFUSE_RANK=0 EPFUSE_NUM_RANKS=2 EPFUSE_RENDEZVOUS=$job-a \
    expect 2 '--ranks: 4, but epfuse started 2' run "$sample" --layer 2 --input "$hidden" --join --ranks 4

# Our own variables, and torchrun's.
run_sample --repeat 1 --output one.npy
for family in epfuse torchrun; do
    pids=()
    for rank in 0 1 2 3; do
        if [ $family = epfuse ]; then
            variables=(EPFUSE_RANK=$rank EPFUSE_NUM_RANKS=4 EPFUSE_RENDEZVOUS="$job-b")
        else
            variables=(RANK=$rank WORLD_SIZE=4 LOCAL_RANK=$rank LOCAL_WORLD_SIZE=4
                MASTER_ADDR=127.0.0.1 MASTER_PORT=$job)
        fi
        env "${variables[@]}" "$epfuse" run "$sample" --layer 2 --input "$hidden" --join --check \
            --output $family.npy >$family-$rank.txt 2>&1 &
        pids+=($!)
    done
    for rank in 0 1 2 3; do
        wait "${pids[$rank]}" || fail "rank $rank of $family: $(cat $family-$rank.txt)"
        [ $rank -eq 0 ] || [ ! -s $family-$rank.txt ] || fail "rank $rank of $family prints"
    done
    cmp one.npy $family.npy || fail "bits of ranks by $family"
done

if command -v mpirun >/dev/null; then
    root=()
    [ "$(id -u)" -ne 0 ] || root=(--allow-run-as-root)
    mpirun "${root[@]}" --oversubscribe -n 2 "$epfuse" run "$sample" --layer 2 --input "$hidden" \
        --join --repeat 1 --output mpi.npy >mpi.txt 2>&1 || fail "mpirun: $(tail -n 3 mpi.txt)"
    cmp one.npy mpi.npy || fail "bits of ranks by mpirun"
else
    echo "mpirun: not here, not tried"
fi

# One rank of four is killed in the midst of it.
"$epfuse" run "$sample" --layer 2 --input "$hidden" --ranks 4 --processes --repeat 10000 \
    --output y.npy >out.txt 2>err.txt &
parent=$!
children=
for _ in $(seq 100); do
    read -r children <"/proc/$parent/task/$parent/children" 2>/dev/null
    [ "$(wc -w <<<"$children")" -eq 4 ] && break
    sleep 0.05
done
if [ -n "$children" ]; then
    sleep 0.2
    read -r _ _ third _ <<<"$children"
    kill -9 "$third"
    wait $parent
    [ $? -eq 5 ] || fail "exit code after a rank was killed"
    grep -q 'rank 2 was ended by signal 9' err.txt || fail "message after a kill: $(cat err.txt)"
    [ ! -e y.npy ] || fail "an output after a kill"
else
    kill $parent
    wait $parent
    echo "the kernel does not list children: no rank was killed"
fi
finish "lost ranks end the others"
