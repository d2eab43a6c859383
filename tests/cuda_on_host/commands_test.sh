#!/usr/bin/env bash
# Every command that takes --device, on the CUDA backend on the host: what it says and what it
# computes. Usage: commands_test.sh QUEST_WITH_CUDA QUEST_WITHOUT
set -euo pipefail
quest=$1 plain=$2
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
cd "$folder"

fail() {
  echo "FAILED: $*" >&2
  exit 1
}
loss() { sed 's/.*"loss": *\([0-9.]*\).*/\1/' <(tr -d '\n' <"$1"); }
close() { # close A B TOLERANCE
  awk -v a="$1" -v b="$2" -v t="$3" 'BEGIN { d = a - b; exit !(d <= t && -d <= t) }' ||
    fail "$1 and $2 differ by more than $3"
}

"$plain" data synth --out text.txt --tokens 600 --seed 1 >/dev/null 2>&1
size=(--layers 1 --width 32 --heads 2 --hidden 32 --seq-len 16 --batch-size 2 --threads 1)
"$quest" train --data text.txt --scheme w4a4 "${size[@]}" --steps 2 --save-every 2 --out run \
  --device cuda --sample-every 2 >train.log 2>&1 || { cat train.log; fail "train"; }
grep -q 'cuda:0 emulated on the host' train.log || fail "train names another device"
"$quest" train --data text.txt "${size[@]}" --out dry --device cuda --dry-run >dry.log
grep -q '^memory .* on the device: ' dry.log && grep -q 'the data stays on the host' dry.log ||
  { cat dry.log; fail "the memory of a dry run"; }
grep -q ' 0 B' dry.log && fail "a dry run names a size that is not known"
"$quest" eval --model run --data text.txt --device cuda --json >cuda.json 2>eval.log ||
  { cat eval.log; fail "eval"; }
"$plain" eval --model run --data text.txt --json >cpu.json 2>/dev/null
close "$(loss cuda.json)" "$(loss cpu.json)" 1e-4
"$plain" export --model run --out packed >/dev/null 2>&1
for device in cuda cuda:0; do
  "$quest" generate --model packed --prompt "Once" --tokens 8 --temp 0 --device $device \
    >generated.txt 2>generate.log || { cat generate.log; fail "generate"; }
done
"$plain" generate --model packed --prompt "Once" --tokens 8 --temp 0 >expected.txt 2>/dev/null
cmp -s generated.txt expected.txt || fail "generate: $(cat generated.txt expected.txt)"
echo "Hello" | "$quest" chat --model packed --tokens 4 --context 64 --temp 0 --device cuda >chat.log 2>&1 ||
  { cat chat.log; fail "chat"; }
"$quest" bench train --scheme w4a4 "${size[@]}" --device cuda --steps 1 --json >bench.json \
  2>bench.log || { cat bench.log; fail "bench train"; }
grep -q '"peak":"f32 product"' bench.json || fail "bench train compares with the CPU's peak"
"$quest" bench infer --preset nano --scheme w4a4 --vocab 64 --prefill 4 --decode 2 --repeat 1 \
  --device cuda --json >infer.json 2>infer.log || { cat infer.log; fail "bench infer"; }
grep -q '"device":"cuda:0 emulated on the host' infer.json || fail "bench infer runs elsewhere"
"$quest" bench kernels --device cuda --width 64 --rows 24 --samples 1 --sample-ms 1 >kernels.txt \
  2>kernels.log || { cat kernels.log; fail "bench kernels"; }
grep -q '^kernels   cuda:0 emulated on the host' kernels.txt || fail "bench kernels runs elsewhere"
grep -q "the device's own large products" kernels.txt || fail "bench kernels hides its rates"
grep -q '^matmul bf16  *24 x 512 x 64 ' kernels.txt || fail "bench kernels has other sizes"
bounds=$(sed -n 's/^[a-z].* %  //p' kernels.txt | sort -u | paste -sd,)
[[ $bounds == "bf16 product,f32 product,memory,product of codes" ]] ||
  fail "bench kernels compares with $bounds"

# What is wrong is said in one sentence.
refused() { # refused TEXT COMMAND...
  local text=$1
  shift
  if "$@" >refused.log 2>&1; then fail "accepted: $*"; fi
  grep -q "$text" refused.log || { cat refused.log; fail "$* does not say '$text'"; }
}
refused "there is no CUDA device 3" "$quest" eval --model run --data text.txt --device cuda:3
refused "no device 'cuda:x'" "$quest" eval --model run --data text.txt --device cuda:x
refused "this build has no CUDA backend" "$plain" eval --model run --data text.txt --device cuda
refused "device" "$plain" bench infer --device gpu
refused "no device 'gpu'" "$plain" bench kernels --device gpu
refused "no device 'gpu'" "$plain" train --data text.txt "${size[@]}" --steps 1 --out x --device gpu
echo "PASSED"
