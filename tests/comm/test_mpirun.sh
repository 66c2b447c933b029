#!/bin/sh
# Ranks started by whatever launchers this machine has find each other.
# usage: test_mpirun.sh <test_env program>
program=$1
found=0

try() { # name, command...
    name=$1
    shift
    command -v "$1" > /dev/null 2>&1 || return 0
    found=$((found + 1))
    printed=$("$@" 2>&1) || { echo "$name: $printed"; exit 1; }
    for rank in 0 1 2; do
        case $printed in
        *"rank $rank of 3: $name"*) ;;
        *) echo "$name: no rank $rank in: $printed"; exit 1 ;;
        esac
    done
    echo "$name: 3 ranks met"
}

# mpirun of Open MPI refuses root and more ranks than cores unless told otherwise.
OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_ALLOW_RUN_AS_ROOT OMPI_ALLOW_RUN_AS_ROOT_CONFIRM
try "Open MPI" mpirun.openmpi --oversubscribe -n 3 "$program" rank
try PMI mpiexec.hydra -n 3 "$program" rank
try PMI mpiexec.hydra -n 3 sh -c "'$program' rank; exit \$?"
try torchrun torchrun --no-python --nproc-per-node 3 "$program" rank
if [ $found = 0 ]; then
    echo "skipped: no mpirun.openmpi, mpiexec.hydra or torchrun here"
    exit 77
fi
