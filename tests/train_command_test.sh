#!/usr/bin/env bash
# `quest train` as its user meets it: exit codes, signals, resuming, refusals, JSON keys, config files.
# Usage: train_command_test.sh path/to/quest
set -u
quest=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export OMP_WAIT_POLICY=passive
failures=0

check() { # check NAME CONDITION...
  local name=$1
  shift
  if ! "$@"; then
    echo "FAILED: $name"
    failures=$((failures + 1))
  fi
}

"$quest" --version >/dev/null || exit 1
"$quest" data synth --out "$folder/train.txt" --tokens 2e4 >/dev/null 2>&1
"$quest" data synth --out "$folder/valid.txt" --tokens 600 --seed 1 >/dev/null 2>&1
steps=2000
tiny=(--data "$folder/train.txt" --val-data "$folder/valid.txt" --set model.layers=1
  --set model.width=64 --set model.heads=2 --set model.hidden=64 --batch-size 2 --seq-len 32
  --threads 1 --eval-every 0 --save-every 0)
train() { "$quest" train "${tiny[@]}" "$@"; }

# A run from end to end, and what its end says.
train --steps $steps --save-every 1000 --out "$folder/whole" --json >"$folder/whole.json" 2>"$folder/err"
check "a run ends well" test $? -eq 0
check "train --json has its keys" python3 -c "
import json, sys
run = json.load(open('$folder/whole.json'))
sys.exit(not (run['steps'] == $steps and run['out'] == '$folder/whole' and run['val_loss'] > 0
              and 0 < run['train_loss'] < 5.6 and run['tokens_per_second'] > 0))"
check "the opening block counts in whole numbers" grep -q \
  "2,000 steps of 64 tokens: 128,000 tokens, 6." "$folder/err"
"$quest" eval --model "$folder/whole" --data "$folder/valid.txt" --threads 1 --json \
  >"$folder/eval.json" 2>/dev/null
check "eval has its keys, and finds the loss that training ended with" python3 -c "
import json, sys
ev, run = json.load(open('$folder/eval.json')), json.load(open('$folder/whole.json'))
ok = all(ev[key] > 0 for key in ('loss', 'perplexity', 'bits_per_byte', 'tokens', 'accuracy'))
sys.exit(not (ok and abs(ev['loss'] - run['val_loss']) < 1e-4))"

# Stopped by a signal: saved, and resumed to the same bytes.
wait_for_step() { # wait_for_step RUN: until its log has a step
  for _ in $(seq 500); do
    grep -qs '"event":"step"' "$folder/$1/log.jsonl" && return 0
    sleep 0.02
  done
  return 1
}
same_model() { cmp "$folder/whole/model.safetensors" "$folder/$1/model.safetensors"; }
checkpoints() { find "$folder/$1/checkpoints" -name 'step-*' | sort; }
for stop in INT:130 TERM:143; do
  run=stopped-${stop%:*}
  "$quest" train "${tiny[@]}" --steps $steps --out "$folder/$run" >/dev/null 2>&1 &
  pid=$!
  check "a run begins" wait_for_step "$run"
  if [ "$run" = stopped-TERM ]; then
    kill -STOP $pid  # it keeps its lock and cannot end meanwhile
    train --steps $steps --out "$folder/$run" --overwrite >/dev/null 2>"$folder/err"
    check "a second run in one folder is an error" test $? -eq 1
    check "a second run in one folder is named" grep -q 'another run is writing' "$folder/err"
  fi
  kill "-${stop%:*}" $pid
  kill -CONT $pid
  wait $pid
  check "SIG${stop%:*} exits with ${stop#*:}" test $? -eq "${stop#*:}"
  check "SIG${stop%:*} saves a checkpoint" test "$(checkpoints "$run" | wc -l)" -eq 1
  check "SIG${stop%:*} leaves nothing half written" test -z "$(find "$folder/$run" -name '*.tmp')"
  "$quest" train --resume --out "$folder/$run" >/dev/null 2>"$folder/err"
  check "a stopped run resumes" test $? -eq 0
  check "resumed after SIG${stop%:*}, the model is that of a run never stopped" same_model "$run"
done

# The newest checkpoint is damaged: the one before is used, and the end is the same.
cp -r "$folder/whole" "$folder/damaged"
rm "$folder/damaged/model.safetensors"
newest=$(checkpoints damaged | tail -n 1)
printf '\xff' | dd of="$newest/model.safetensors" bs=1 seek=5000 conv=notrunc status=none
"$quest" train --resume --out "$folder/damaged" >/dev/null 2>"$folder/err"
check "a damaged checkpoint does not stop a resume" test $? -eq 0
check "a damaged checkpoint is named" grep -q "passed over.*$(basename "$newest")" "$folder/err"
check "an older checkpoint leads to the same model" same_model damaged

# Nothing is left to do.
"$quest" train --resume --out "$folder/whole" >"$folder/out" 2>"$folder/err"
check "a complete run resumes" test $? -eq 0
check "a complete run says so" grep -qx "the run is complete: step $steps of $steps" "$folder/err"
check "a complete run tells no speed and no time" test -z \
  "$(grep -Eh 'tokens/s|^time ' "$folder/out" "$folder/err")"

# Folders that hold something.
train --steps 2 --out "$folder/whole" >/dev/null 2>"$folder/err"
check "an existing run is refused" test $? -eq 1
check "the refusal names --overwrite" grep -q -- '--overwrite' "$folder/err"
check "a refused run changes nothing" test "$(checkpoints whole | wc -l)" -eq 2
mkdir "$folder/mine" && echo text >"$folder/mine/notes.txt"
train --steps 2 --out "$folder/mine" --overwrite >/dev/null 2>&1
check "--overwrite touches nothing but runs" test $? -eq 1 -a -s "$folder/mine/notes.txt"
train --steps 2 --out "$folder/damaged" --overwrite --json >"$folder/short.json" 2>/dev/null
check "--overwrite replaces a run" grep -q '"steps":2,' "$folder/short.json"
check "--overwrite removes what was there" test "$(basename "$(checkpoints damaged)")" = step-00000002

# Folders that hold no run, and what a run cannot go on with.
refused() { # refused CODE TEXT ARGUMENTS...: of `quest train`; its exit code, and a part of its error
  local code=$1 text=$2
  shift 2
  "$quest" train "$@" >/dev/null 2>"$folder/err"
  [ $? -eq "$code" ] && grep -Eq -- "^quest: error: $text" "$folder/err"
}
check "what holds no run is not advised to be replaced" refused 1 \
  '[^ ]*/mine holds something, but no run; choose another --out$' "${tiny[@]}" --out "$folder/mine"
resume=(--resume --out "$folder/whole")
check "another scheme is refused by its setting" refused 2 \
  'the run began with scheme.default = "w4a4", so it cannot go on with "w2a2": its weights are' \
  "${resume[@]}" --scheme w2a2 --lr 1
check "and nothing else is said" test "$(wc -l <"$folder/err")" -eq 1
check "so is a scheme of a layer" refused 2 \
  'the run began with scheme.layers = \[\], so it cannot go on with \["\*.down=w8a8"\]' \
  "${resume[@]}" --scheme-layer '*.down=w8a8'
check "so is another model" refused 2 \
  'the run began with model.width = 64, so it cannot go on with 128: its weights are' \
  "${resume[@]}" --width 128
"$quest" train "${resume[@]}" --scheme 'w4a4 hadamard trust' --head-dim 32 >/dev/null 2>"$folder/err"
check "the same model in other words is none" test $? -eq 0

# A run that diverges.
train --steps 50 --lr 1e30 --warmup 0 --out "$folder/wild" >/dev/null 2>"$folder/err"
check "a loss that is not finite exits with 3" test $? -eq 3
check "a loss that is not finite names the layer" grep -Eq \
  'quest: error: .*(blocks\.0|model\.|embed|lm_head|head)' "$folder/err"
check "it says what --resume does without a checkpoint" grep -q \
  -- '--resume, from the last checkpoint or, if none was saved, from the beginning$' "$folder/err"
"$quest" train --resume --lr 1e-3 --steps 3 --out "$folder/wild" >/dev/null 2>"$folder/err"
check "and so it does" test $? -eq 0

# Plans and config files.
train --steps 7 --dry-run --out "$folder/never" --json >"$folder/plan.json" 2>/dev/null
check "--dry-run tells the plan" grep -q '"steps":7,"tokens":448,' "$folder/plan.json"
check "--dry-run makes nothing" test ! -e "$folder/never"
train --steps 7 --print-config >"$folder/a.toml"
dry=("${tiny[@]}" --steps 7 --dry-run)
check "--dry-run tells that --out holds a run" refused 1 '.*/whole exists and is not empty; use --res' \
  "${dry[@]}" --out "$folder/whole"
check "--dry-run tells that --out is no folder" refused 1 '.*/train.txt is not a folder$' \
  "${dry[@]}" --out "$folder/train.txt/below"
check "--dry-run tells that there is no run to replace" refused 1 '.*/mine does not hold a run' \
  "${dry[@]}" --out "$folder/mine" --overwrite
check "--dry-run tells that --init is another model" refused 1 \
  '--init .*/whole and this run are different models: layers: 1 and 2$' \
  "${dry[@]}" --out "$folder/never" --init "$folder/whole" --layers 2
check "--dry-run tells that --init is no file of weights" refused 1 '.*/a.toml' \
  "${dry[@]}" --out "$folder/never" --init "$folder/a.toml"
check "--dry-run is content with an --init that fits, and a run to replace" "$quest" train \
  "${dry[@]}" --out "$folder/whole" --overwrite --init "$folder/whole" --json
check "and leaves it" same_model whole
"$quest" train --config "$folder/a.toml" --print-config >"$folder/b.toml"
check "--print-config prints all settings" grep -q '^steps = 7 ' "$folder/a.toml"
check "a printed config reads back the same" cmp "$folder/a.toml" "$folder/b.toml"
train --steps 2 --set train.lrr=1 --out "$folder/never" >/dev/null 2>"$folder/err"
check "an unknown key is a usage error" test $? -eq 2
check "an unknown key gets the nearest one" grep -q "nearest is 'train.lr'" "$folder/err"

exit $((failures > 0))
