#!/usr/bin/env bash
# Checks and measures the CUDA backend on this machine's GPU, in the order in which a failure tells
# most: instructions, kernels, recordings, runs beside the CPU's, then speed. A quarter of an hour.
# Usage: check_gpu.sh [--build FOLDER] [--out FOLDER] [STEP...]
#   --build  a build with --preset cuda [build-cuda; configured and built for this GPU where missing]
#   --out    where logs go, one a command [gpu-check]
#   STEP     tests, sanitize, runs, kernels, training, inference [all of them, in this order]
# Goes on after a failure; the table of all commands stands last, and the exit code is 1 if any failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

build=build-cuda out=gpu-check steps=()
while [ $# -gt 0 ]; do
  case $1 in
    --build) build=${2:?--build names a folder} && shift 2 ;;
    --out) out=${2:?--out names a folder} && shift 2 ;;
    tests | sanitize | runs | kernels | training | inference) steps+=("$1") && shift ;;
    *) sed -n '2,/^[^#]/{/^#/p}' "$0" >&2 && exit 2 ;;
  esac
done
[ ${#steps[@]} -gt 0 ] || steps=(tests sanitize runs kernels training inference)
mkdir -p "$out"
quest=$build/apps/quest device_test=$build/tests/cuda_on_device/cuda_device_test
table=$out/table.txt
: >"$table"

# run NAME LIMIT_S COMMAND...: the output of a command or function in NAME.log, a line in the table.
run() {
  local name=$1 limit=$2 began=$SECONDS status=0
  shift 2
  [ "$(type -t "$1")" != function ] || set -- bash -c '"$@"' bash "$@"
  timeout "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
  printf '%-24s %s  %4d s  %s\n' "$name" "$([ $status -eq 0 ] && echo ok || echo "FAILED ($status)")" \
    $((SECONDS - began)) "$(tail -n 1 "$out/$name.log" | cut -c 1-90)" | tee -a "$table"
  return $status
}

build_here() {
  local capability
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
  [ "$capability" != 90 ] || capability=90a
  cmake --preset cuda -B "$build" -DQUEST_CUDA_ARCHITECTURES="$capability" &&
    cmake --build "$build" --target quest cuda_device_test cuda_speed
}

machine() {
  nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total,clocks.sm,clocks.max.sm,clocks.max.mem,power.limit \
    --format=csv
  nvcc --version 2>/dev/null | tail -n 2
  "$quest" --version
}

tests() {
  local first='TensorC*:Warpgroup.*:CodeProduct.*:SameBits.*:SameRowBits.*'
  run test_instructions 120 "$device_test" --gtest_filter='TensorC*:Warpgroup.*'
  run test_products 180 "$device_test" --gtest_filter='CodeProduct.*:SameBits.*:SameRowBits.*'
  run test_recordings 180 "$device_test" --gtest_filter='Recording.*'
  run test_kernels 400 "$device_test" --gtest_filter="-$first:Recording.*:*OnCpu.*"
  run selftest 60 "$quest" selftest --device cuda
}

sanitize() {
  local sanitized='TensorC*:Warpgroup.*:CodeProduct.*:*Quantize*:*Norm*:*Attention*:SameRowBits.*'
  sanitized+=':*CrossEntropy*:*Embedding*:*Narrow*:*Integer*:*PackedMatmul.OfRows*'
  command -v compute-sanitizer >/dev/null || {
    echo "sanitize: there is no compute-sanitizer on this machine" | tee -a "$table"
    return
  }
  local tool
  for tool in memcheck racecheck; do
    run "$tool" 240 compute-sanitizer --tool "$tool" --error-exitcode 9 "$device_test" \
      --gtest_filter="$sanitized:-*OnCpu.*"
  done
}

losses() { # of all steps in a run's log
  grep -o '"event":"step","step":[0-9]*,"loss":[0-9.]*' "$1/log.jsonl" | sed 's/.*://'
}
compare_losses() { # of two runs: the first step meets 1e-4, later ones 2 %, as roundings grow apart
  paste <(losses "$1") <(losses "$2") | awk '
    { d = ($1 - $2) / $1; if (d < 0) d = -d; if (NR == 1) first = d; if (d > most) most = d }
    END { printf "losses of %d steps differ by %.1e at first, by %.1e at most\n", NR, first, most
          exit !(NR > 5 && first < 1e-4 && most < 0.02) }'
}

compare_texts() { # of two logs of generate, without the line that tells the speed
  cmp <(grep -v '^quest: ' "$out/$1.log") <(grep -v '^quest: ' "$out/$2.log")
}

runs() {
  local work=$out/runs device
  rm -rf "$work" && mkdir "$work"
  "$quest" data synth --out "$work/text.txt" --tokens 2000000 --seed 1 >/dev/null 2>&1
  local train=("$quest" train --data "$work/text.txt" --preset micro --scheme w4a4 --dtype bf16
    --steps 40 --save-every 40 --log-every 1)
  # With attention in f32: that of AVX512_BF16 moves losses of bf16 in the fourth digit.
  run train_cpu 240 env QUEST_ISA=avx2 "${train[@]}" --out "$work/cpu" --device cpu
  run train_cuda 60 "${train[@]}" --out "$work/cuda" --device cuda
  run train_again 60 "${train[@]}" --out "$work/again" --device cuda
  run train_no_graphs 60 env QUEST_CUDA_GRAPHS=off "${train[@]}" --out "$work/plain" --device cuda
  run train_no_overlap 60 env QUEST_CUDA_OVERLAP=off "${train[@]}" --out "$work/apart" --device cuda
  run losses_like_cpu 10 compare_losses "$work/cpu" "$work/cuda"
  run same_bits_again 10 cmp "$work/cuda/model.safetensors" "$work/again/model.safetensors"
  run same_bits_no_graphs 10 cmp "$work/cuda/model.safetensors" "$work/plain/model.safetensors"
  run same_bits_no_overlap 10 cmp "$work/cuda/model.safetensors" "$work/apart/model.safetensors"
  run export 30 "$quest" export --model "$work/cuda" --out "$work/packed"
  local generate=("$quest" generate --model "$work/packed" --prompt "Once " --tokens 100 --temp 0)
  for device in cpu cuda; do
    run "generate_$device" 60 "${generate[@]}" --device $device
  done
  run generate_no_graphs 60 env QUEST_CUDA_GRAPHS=off "${generate[@]}" --device cuda
  run generate_no_overlap 60 env QUEST_CUDA_OVERLAP=off "${generate[@]}" --device cuda
  run same_text_no_graphs 10 compare_texts generate_cuda generate_no_graphs
  run same_text_no_overlap 10 compare_texts generate_cuda generate_no_overlap
}

kernels() {
  run cuda_speed 200 "$build/tests/cuda_on_device/cuda_speed"
  run kernels_800M 200 "$quest" bench kernels --device cuda --width 2048 --rows 8192
  run kernels_7B 200 "$quest" bench kernels --device cuda --width 4096 --rows 4096
}

# bench train with the most memory that the driver shows meanwhile, beside what `info` predicts.
bench_training() {
  local preset=$1 sizes=(--preset "$1" --dtype bf16 --batch-size 16 --seq-len 512 --device cuda)
  nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -lms 200 >"$out/memory_$preset.txt" &
  local watcher=$!
  "$quest" bench train "${sizes[@]}" --scheme w4a4
  local status=$?
  kill $watcher
  printf 'memory used at most, MiB, of the whole device: '
  sort -n "$out/memory_$preset.txt" | tail -n 1
  "$quest" info "${sizes[@]}" --vocab 32000 --scheme w4a4 --json | grep -o '"training_bytes".*'
  "$quest" bench train "${sizes[@]}" --scheme none,w4a4 || status=1
  "$quest" bench train "${sizes[@]}" --scheme w4a4 --backward float,int8 || status=1
  return $status
}

training() {
  for preset in 200M 800M; do
    run "train_$preset" 240 bench_training $preset
  done
}

inference() {
  run infer_800M 240 "$quest" bench infer --preset 800M --scheme none,w4a4,w1a1 --dtype bf16 \
    --batch 1,16 --device cuda
}

export build quest out
export -f build_here machine losses compare_losses compare_texts bench_training
[ -x "$quest" ] || run build 1800 build_here || exit 1
run machine 30 machine
for step in "${steps[@]}"; do
  echo "== $step"
  "$step"
done
echo "== all commands (logs in $out)"
cat "$table"
! grep -q FAILED "$table"
