#!/usr/bin/env bash
# Runs what needs a GPU from a folder that was built elsewhere: nothing is compiled here.
#
#   gpu-suite.sh pack BUILD ARCHIVE.tar.xz     on the machine that built: programs, libraries, list of tests
#   gpu-suite.sh BUILD|ARCHIVE [STAGE...]      on the GPU machine; stages, default "tests mps":
#
#     tests       every program that CTest labels gpu, short ones first      EPFUSE_SUITE_ONLY=REGEX: these only
#     mps         ranks as processes, under an MPS daemon of this script
#     sanitizers  compute-sanitizer memcheck, racecheck, synccheck, initcheck on small sizes   EPFUSE_SUITE_ONLY: as above
#     full        100,000 layers back to back under random delays, each compared
#     crosscheck  bench/cuda/crosscheck.py: the command against transformers
#     bench       bench/cuda/bench_layer.py: a short run
#     node        on several GPUs: one process on each, by both ways they share memory; then bench/cuda/node.py
#
# PASS, FAIL, SKIP or NOT RUN (the stage's time was up) for each program, a count at the end; exit 1 if anything
# failed or did not run.  Each stage has a limit of its own, EPFUSE_SUITE_LIMIT=SECONDS sets another; tests and
# mps together stay under five minutes.  A few files under $OUT (default ./gpu-suite): summary.txt; failed.log,
# the end of what each failed program said; logs.tar.gz, all that all programs said; results of crosscheck, bench.
set -u

ROOT=$(cd "$(dirname "$0")/.." && pwd)
OUT=${OUT:-$PWD/gpu-suite}
passed=0 failed=0 skipped=0 not_run=0
LEAST=20 # seconds that a program is given at least

# One line a test, cheap ones first: name, seconds, environment (A=1;B=2), folder, program and arguments, tab
# between them.  CTest's COST is about the seconds it takes.
list_tests() {
  python3 - "$1" <<'PY'
import pathlib, re, sys
build = pathlib.Path(sys.argv[1]).resolve()
word = re.compile(r'\[=*\[(.*?)\]=*\]|"((?:[^"\\]|\\.)*)"|([^\s()"]+)', re.S)
lines = []
for file in sorted(build.glob("tests/*/CTestTestfile.cmake")):
    commands, properties = {}, {}
    for call in re.finditer(r'^(add_test|set_tests_properties)\((.*?)\)\s*$', file.read_text(), re.S | re.M):
        words = ["".join(parts) for parts in word.findall(call[2])]
        if call[1] == "add_test":
            commands[words[0]] = words[1:]
        elif "PROPERTIES" in words:
            pairs = words[words.index("PROPERTIES") + 1:]
            properties.setdefault(words[0], {}).update(zip(pairs[::2], pairs[1::2]))
    for name, command in commands.items():
        facts = properties.get(name, {})
        if "gpu" in facts.get("LABELS", "").split(";"):
            program = file.parent / pathlib.Path(command[0]).name
            line = (name, facts.get("TIMEOUT", "300"), facts.get("ENVIRONMENT", "-"), str(file.parent),
                    " ".join([str(program), *command[1:]]))
            lines.append((float(facts.get("COST", "0")), "\t".join(line)))
print(*(line for _, line in sorted(lines, key=lambda pair: pair[0])), sep="\n")
PY
}

pack() {
  local build=$1 archive=$2 stage
  stage=$(mktemp -d)
  while IFS=$'\t' read -r _ _ _ folder command; do
    local to=$stage/tests/${folder##*/}
    mkdir -p "$to"
    cp -u "${command%% *}" "$to/" || return 1
    cp -u "$folder/CTestTestfile.cmake" "$to/"
  done < <(list_tests "$build")
  mkdir -p "$stage/bin" "$stage/lib"
  cp "$build/bin/epfuse" "$stage/bin/" || return 1
  find "$build" -maxdepth 3 \( -name 'libepfuse.so*' -o -name libepfgemm.so \) -exec cp -P {} "$stage/lib/" \;
  # What the programs link beside the system's own libraries.
  ldd "$stage"/tests/*/test_* "$stage/bin/epfuse" 2>/dev/null |
    awk '/(dnnl|xsmm|jansson|gomp|blas|gfortran|quadmath|numa)[^ ]* => \// {print $3}' | sort -u |
    xargs -r -I{} cp -L {} "$stage/lib/"
  find "$stage" -type f -perm -u+x -exec strip {} + 2>/dev/null
  tar -C "$stage" -cf - . | xz -T2 --lzma2=preset=3,dict=256MiB > "$archive"
  rm -rf "$stage"
  ls -l "$archive"
}

say() { # RESULT NAME SECONDS [reason]
  printf '%-7s %-32s %4s s  %s\n' "$1" "$2" "$3" "${4:-}" | tee -a "$OUT/summary.txt"
  case $1 in
    PASS) passed=$((passed + 1)) ;;
    FAIL) failed=$((failed + 1)) ;;
    SKIP) skipped=$((skipped + 1)) ;;
    *) not_run=$((not_run + 1)) ;;
  esac
}

# NAME LIMIT COMMAND...: one program, its output in $LOGS/NAME.log.
one() {
  local name=$1 limit=$2 log begin rc why
  shift 2
  log=$LOGS/$name.log begin=$SECONDS
  timeout -k 10 "$limit" "$@" > "$log" 2>&1
  rc=$?
  why=$(tail -n 1 "$log" | cut -c1-150)
  case $rc in
    0) say PASS "$name" $((SECONDS - begin)) "$why" ;;
    77) say SKIP "$name" $((SECONDS - begin)) "$why" ;;
    124 | 137) say FAIL "$name" $((SECONDS - begin)) "no end within $limit s" ;;
    *) say FAIL "$name" $((SECONDS - begin)) "exit $rc: $(grep -m1 -E '[a-z]:[0-9]+: ' "$log" | cut -c1-300)" ;;
  esac
  case $rc in
    0 | 77) ;;
    *) { echo "=== $name, exit $rc"; tail -n 40 "$log"; echo; } >> "$OUT/failed.log" ;;
  esac
}

# NAME LIMIT END COMMAND...: the same, as long as END, in seconds of this script, leaves it time.
one_before() {
  local name=$1 limit=$2 left=$(($3 - SECONDS))
  shift 3
  if ((left < LEAST)); then
    say "NOT RUN" "$name" 0 "the stage's time was up"
  else
    one "$name" $((limit < left ? limit : left)) "$@"
  fi
}

# PATTERN LIMIT [PREFIX]: tests whose names match, all of them within LIMIT seconds.
run_tests() {
  local end=$((SECONDS + ${EPFUSE_SUITE_LIMIT:-$2}))
  while IFS=$'\t' read -r name limit environment _ command <&3; do
    [[ $name =~ $1 ]] || continue
    [ "$environment" = - ] && environment=
    # shellcheck disable=SC2086  # the list holds words
    one_before "${3:-}$name" "$limit" "$end" env ${environment//;/ } $command
  done 3< <(list_tests "$BUILD")
}

stage_tests() {
  run_tests "${EPFUSE_SUITE_ONLY:-.}" 240
}

stage_mps() {
  if ! command -v nvidia-cuda-mps-control > /dev/null; then
    say SKIP mps 0 "no nvidia-cuda-mps-control"
    return
  fi
  CUDA_MPS_PIPE_DIRECTORY=$(mktemp -d /tmp/epfuse-mps.XXXXXX)
  CUDA_MPS_LOG_DIRECTORY=$CUDA_MPS_PIPE_DIRECTORY
  export CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
  local connections=$CUDA_DEVICE_MAX_CONNECTIONS # all clients' come from one pool; a process is one rank
  export CUDA_DEVICE_MAX_CONNECTIONS=8
  if timeout 20 nvidia-cuda-mps-control -d > "$LOGS/mps.log" 2>&1; then
    run_tests 'processes|memory_cuda' 60 mps.
    echo quit | timeout 30 nvidia-cuda-mps-control >> "$LOGS/mps.log" 2>&1
    cp "$CUDA_MPS_LOG_DIRECTORY"/*.log "$LOGS/" 2> /dev/null
  else
    say SKIP mps 0 "the daemon does not start: $(tail -n 1 "$LOGS/mps.log")"
  fi
  rm -rf "$CUDA_MPS_PIPE_DIRECTORY"
  unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
  export CUDA_DEVICE_MAX_CONNECTIONS=$connections
}

# Each tensor is an allocation of its own here, so that a read past its end is found.  Ranks on one device have to run side
# by side; initcheck makes their launches wait for each other, and so do memcheck and synccheck in the backward pass.
stage_sanitizers() {
  local tool name tools program arguments end=$((SECONDS + ${EPFUSE_SUITE_LIMIT:-560}))
  if ! command -v compute-sanitizer > /dev/null; then
    say SKIP sanitizers 0 "no compute-sanitizer"
    return
  fi
  for tool in memcheck synccheck initcheck racecheck; do
    while read -r name tools program arguments <&3; do
      [[ $tool =~ $tools && $tool.$name =~ ${EPFUSE_SUITE_ONLY:-.} ]] || continue
      # shellcheck disable=SC2086  # arguments are words
      one_before "$tool.$name" 150 "$end" env EPFUSE_TEST_BACKEND=cuda EPFUSE_TEST_DEVICE_MALLOC=1 \
        compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20 "$BUILD/tests/$program" $arguments
    done 3<<- 'END'
	serial . op/test_op_zoo threads W1E4K2T40H72N64/zipf/seed1
	scatter . op/test_op_zoo threads W1E4K2T150H64N72/duplicates/seed2/fuse_scatter
	serial2 mem|sync|race op/test_op_zoo threads W2E4K2T40H64N64/zipf/seed3
	scatter2 mem|sync|race op/test_op_zoo threads W2E4K2T40H64N64/some_dropped/seed4/fuse_scatter
	layer . op/test_op_layer W1E4K2T13H40N48/zipf/seed91/normal
	layer2 race op/test_op_layer W2E4K2T13H40N48/zipf/seed91/normal
	gemm . cuda/test_gemm_cuda 1 3
	graph . cuda/test_op_graph W1E4K2T40H72N64
	END
  done
}

# The figure that takes minutes: 100,000 layers back to back under random delays, each compared.
stage_full() {
  local end=$((SECONDS + ${EPFUSE_SUITE_LIMIT:-400}))
  one_before full.stress 400 "$end" env EPFUSE_TEST_BACKEND=cuda "$BUILD/tests/cuda/test_op_stress" 1 8500 20
}

stage_crosscheck() {
  one crosscheck "${EPFUSE_SUITE_LIMIT:-280}" python3 "$ROOT/bench/cuda/crosscheck.py" --epfuse "$BUILD/bin/epfuse" \
    --out "$OUT/crosscheck.jsonl"
  cat "$LOGS/crosscheck.log"
}

stage_bench() {
  # shellcheck disable=SC2086  # options are words
  one bench "${EPFUSE_SUITE_LIMIT:-480}" python3 "$ROOT/bench/cuda/bench_layer.py" "$LIBRARY" --out "$OUT/layer.jsonl" \
    ${EPFUSE_BENCH_OPTIONS:-}
  cat "$LOGS/bench.log"
}

# Ranks as threads, each on a device of its own, are in the stage tests.
stage_node() {
  local gpus transport own
  gpus=$(nvidia-smi -L 2> /dev/null | grep -c '^GPU ')
  for own in 2 4 8; do
    ((own <= gpus && gpus > 1)) || continue
    for transport in ipc nvshmem; do
      one "node.memory.$transport.$own" 60 "$BUILD/tests/cuda/test_memory_cuda" "$transport" "$own"
      one "node.op.$transport.$own" 60 env EPFUSE_TEST_BACKEND=cuda "EPFUSE_CUDA_TRANSPORT=$transport" \
        "$BUILD/tests/cuda/test_op_processes" "$own"
    done
  done
  # shellcheck disable=SC2046,SC2086  # options are words
  one node "${EPFUSE_SUITE_LIMIT:-560}" python3 "$ROOT/bench/cuda/node.py" "$LIBRARY" --out "$OUT/node" --minutes 7 \
    $(find "$BUILD" -maxdepth 3 -name libepfgemm.so -printf '--gemm %p') ${EPFUSE_NODE_OPTIONS:-}
  cat "$LOGS/node.log"
}

if [ "${1:-}" = pack ]; then
  pack "$2" "$3"
  exit
fi
[ $# -ge 1 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2; }
BUILD=$1
shift
if [ -f "$BUILD" ]; then # an archive
  unpacked=$(mktemp -d /tmp/epfuse-suite.XXXXXX)
  tar -C "$unpacked" -xJf "$BUILD" || exit 2
  BUILD=$unpacked
fi
BUILD=$(cd "$BUILD" && pwd)
LIBRARY=$(find "$BUILD" -maxdepth 2 -name libepfuse.so | head -n 1)
export LD_LIBRARY_PATH=$BUILD/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
# Streams that share a hardware queue wait for each other, as ranks on one device must not.
export CUDA_DEVICE_MAX_CONNECTIONS=${CUDA_DEVICE_MAX_CONNECTIONS:-32}
# No NVLink multicast, whoever could use it.
export NVSHMEM_DISABLE_NVLS=1 NCCL_NVLS_ENABLE=0 TORCH_SYMM_MEM_DISABLE_MULTICAST=1
if [ -z "${EPFUSE_NVSHMEM_LIB:-}" ]; then # where pip has put it
  nvshmem=$(python3 -c 'import nvidia.nvshmem as m; print(list(m.__path__)[0])' 2> /dev/null)/lib/libnvshmem_host.so.3
  [ ! -f "$nvshmem" ] || export EPFUSE_NVSHMEM_LIB=$nvshmem
fi
mkdir -p "$OUT"
LOGS=$(mktemp -d /tmp/epfuse-logs.XXXXXX)
trap 'tar -C "$LOGS" -czf "$OUT/logs.tar.gz" .; rm -rf "$LOGS" "${unpacked:-}"' EXIT
trap 'exit 1' INT TERM
rm -f "$OUT/failed.log"
: > "$OUT/summary.txt"
[ $# -gt 0 ] || set -- tests mps
for stage in "$@"; do
  case $stage in
    tests | mps | sanitizers | full | crosscheck | bench | node) "stage_$stage" ;;
    *) echo "gpu-suite.sh: no stage $stage"; exit 2 ;;
  esac
done
echo "passed $passed, failed $failed, skipped $skipped, not run $not_run" | tee -a "$OUT/summary.txt"
[ $((failed + not_run)) -eq 0 ]
