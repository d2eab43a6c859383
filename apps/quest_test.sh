#!/usr/bin/env bash
# Tests of the binary itself: exit codes, streams and broken pipes. Usage: quest_test.sh path/to/quest
set -u
quest=$1
failures=0

check() { # check NAME CONDITION...
  local name=$1
  shift
  if ! "$@"; then
    echo "FAILED: $name"
    failures=$((failures + 1))
  fi
}

out=$("$quest" --version) && check "--version names the program" test "${out%% *}" = quest

"$quest" >/dev/null 2>&1
check "no command is a usage error" test $? -eq 2

err=$("$quest" no-such-command 2>&1 >/dev/null)
check "an unknown command is a usage error" test "${err:0:13}" = "quest: error:"
check "an error is one line" test "$(wc -l <<<"$err")" -eq 1

err=$("$quest" info --preset nano --device gpu 2>&1 >/dev/null)
check "an unknown device is a usage error" test $? -eq 2
check "an unknown device is named" test "${err:0:34}" = "quest: error: there is no device '"

check "a device's memory has no program in it" test -z \
  "$("$quest" info --preset nano --device cuda | grep ' program ')"
check "the CPU's has one" grep -q '^  program  *[0-9]' <("$quest" info --preset nano)

# The reader leaves before anything is written.
err=$( { sleep 0.2; "$quest" --help; echo "status $?" >&2; } 2>&1 >/dev/null | cat)
check "help ends well" test "$err" = "status 0"
err=$( { { sleep 0.2; "$quest" --help 2>&1 >&3; echo "status $?"; } 3>&1 >&4 | :; } 4>&1)
check "a closed pipe is quiet" test "$err" = "status 0"

if [ -w /dev/full ]; then
  err=$("$quest" --help 2>&1 >/dev/full)
  check "a full disk is an error" test $? -eq 1
  check "a full disk is named" test "$err" = \
    "quest: error: cannot write to standard output: No space left on device"
fi

"$quest" --help >&- 2>&-
check "closed streams do no harm" test $? -eq 0

# Every help fits a screen, also those of commands in groups.
commands_of() { # commands_of COMMAND...: the names that its help lists
  "$quest" "$@" --help | sed -n '/^Commands:/,/^$/p' | sed -n 's/^  \([a-z]*\) .*/\1/p'
}
fits_a_screen() {
  local help
  help=$("$quest" "$@" --help) || return 1
  [ "$(wc -l <<<"$help")" -le 40 ] || return 1
  [ "$(wc -L <<<"$help")" -le 100 ] || return 1
}
check "quest has commands" test -n "$(commands_of)"
check "quest --help fits a screen" fits_a_screen
for command in $(commands_of); do
  check "quest $command --help fits a screen" fits_a_screen "$command"
  for inner in $(commands_of "$command"); do
    check "quest $command $inner --help fits a screen" fits_a_screen "$command" "$inner"
  done
done

# quest info: JSON on stdout alone, and a printed config is a config.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$quest" info --preset 30M --vocab 32000 --json >"$folder/info.json"
check "info --json is JSON with the published count" python3 -c "
import json, sys
sys.exit(json.load(open('$folder/info.json'))['non_embedding_parameters'] != 30482560)"
"$quest" info --preset micro --lr-typo 1 >"$folder/out" 2>/dev/null
check "a wrong flag is a usage error" test $? -eq 2
check "a usage error prints nothing on stdout" test ! -s "$folder/out"
"$quest" info --preset micro --set train.lr=3e-4 --print-config >"$folder/a.toml"
"$quest" info --config "$folder/a.toml" --print-config >"$folder/b.toml"
check "a printed config reads back the same" cmp "$folder/a.toml" "$folder/b.toml"
"$quest" info --model "$folder" 2>"$folder/err"
check "a folder without a model is an error" test $? -eq 1
check "a folder without a model is named" grep -q "$folder has no model.safetensors" "$folder/err"
"$quest" info --preset nano --layers 1 --seq-len 8 --batch-size 1 --threads 1 --time --tokens 1000 \
  --json >"$folder/info.json"
check "info --time measures a speed" python3 -c "
import json, sys
info = json.load(open('$folder/info.json'))
sys.exit(not abs(info['seconds'] * info['tokens_per_second'] - 1000) < 1)"

"$quest" info --layers 8 --width 64 --heads 2 --seq-len 4096 --batch-size 65536 --threads 1 \
  --time >"$folder/out" 2>"$folder/err"
check "too little memory is an error" test $? -eq 1
check "too little memory is told in a readable unit" grep -Eq \
  'out of memory: [0-9.]{3,6} [TP]iB more are needed; .*--seq-len, .*--context or --batch' "$folder/err"

# A Llama as other programs write it, with random weights, to generate from and to evaluate.
python3 - "$folder/model" <<'EOF'
import json, os, random, struct, sys
folder = sys.argv[1]
os.makedirs(folder)
width, hidden, layers, heads, vocab = 32, 64, 2, 4, 256
shapes = {"model.embed_tokens.weight": [vocab, width], "model.norm.weight": [width],
          "lm_head.weight": [vocab, width]}
for layer in range(layers):
    for name, shape in {"input_layernorm": [width], "post_attention_layernorm": [width],
                        "self_attn.q_proj": [width, width], "self_attn.k_proj": [width, width],
                        "self_attn.v_proj": [width, width], "self_attn.o_proj": [width, width],
                        "mlp.gate_proj": [hidden, width], "mlp.up_proj": [hidden, width],
                        "mlp.down_proj": [width, hidden]}.items():
        shapes[f"model.layers.{layer}.{name}.weight"] = shape
rng, header, data = random.Random(1), {}, b""
for name, shape in shapes.items():
    count = shape[0] * (shape[1] if len(shape) == 2 else 1)
    values = [rng.gauss(0, 0.3) if len(shape) == 2 else 1.0 for _ in range(count)]
    start = len(data)
    data += struct.pack(f"<{count}f", *values)
    header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, len(data)]}
text = json.dumps(header).encode()
with open(folder + "/model.safetensors", "wb") as file:
    file.write(struct.pack("<Q", len(text)) + text + data)
with open(folder + "/config.json", "w") as file:
    json.dump({"model_type": "llama", "hidden_size": width, "intermediate_size": hidden,
               "num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": vocab,
               "max_position_embeddings": 64}, file)
with open(folder + "/tokenizer_config.json", "w") as file:
    json.dump({"quest_tokenizer": "bytes", "fingerprint": "bytes"}, file)
EOF
model=(--model "$folder/model" --threads 1)

"$quest" generate "${model[@]}" --prompt 'One £' -n 20 --seed 3 >"$folder/a" 2>"$folder/err"
"$quest" generate "${model[@]}" --prompt 'One £' -n 20 --seed 3 >"$folder/b" 2>/dev/null
"$quest" generate "${model[@]}" --prompt 'One £' -n 20 --seed 4 >"$folder/c" 2>/dev/null
check "generate starts with the prompt" grep -aq '^One £' "$folder/a"
check "generate writes UTF-8" python3 -c "open('$folder/a', encoding='utf-8').read()"
check "the same seed gives the same text" cmp -s "$folder/a" "$folder/b"
check "another seed gives another text" test "$(md5sum <"$folder/a")" != "$(md5sum <"$folder/c")"
"$quest" generate "${model[@]}" --prompt 'One £' -n 20 --seed 3 --json >"$folder/a.json" 2>/dev/null
check "generate --json is the same text as one object" python3 -c "
import json, sys
result = json.load(open('$folder/a.json'))
whole = open('$folder/a', encoding='utf-8', newline='').read()
sys.exit(not (result['prompt'] + result['text']).rstrip('\n') == whole.rstrip('\n')
         or result['prompt'] != 'One £' or result['tokens'] != len(result['token_ids']))"
stop=$(python3 -c "
import json
print(next(c for c in json.load(open('$folder/a.json'))['text'][3:] if ' ' < c < '~'))")
"$quest" generate "${model[@]}" --prompt 'One £' -n 20 --seed 3 --json --stop "$stop" \
  >"$folder/stop.json" 2>/dev/null
check "--stop ends the text before that text" python3 -c "
import json, sys
whole, cut = (json.load(open('$folder/' + name))['text'] for name in ('a.json', 'stop.json'))
reason = json.load(open('$folder/stop.json'))['stop_reason']
sys.exit(not (reason == 'stop' and cut == whole[:whole.index(sys.argv[1])]))" "$stop"
"$quest" generate "${model[@]}" --prompt 'One' -n 999 --temp 3 --seed 3 >/dev/null 2>"$folder/err"
check "a full context ends the text" test $? -eq 0
check "a full context is named" grep -q 'context of 64 tokens is full' "$folder/err"
"$quest" generate "${model[@]}" -n 3 >/dev/null 2>&1
check "no prompt starts a document" test $? -eq 0
"$quest" generate "${model[@]}" --prompt '' -n 3 >"$folder/out" 2>"$folder/err"
check "an empty prompt is an error" test $? -eq 1 -a ! -s "$folder/out"
check "an empty prompt is told what to do" grep -q 'the prompt is empty; leave --prompt' "$folder/err"
printf 'x%.0s' {1..65} >"$folder/long"
"$quest" generate "${model[@]}" --prompt-file "$folder/long" >"$folder/out" 2>"$folder/err"
check "a prompt longer than the context is an error" test $? -eq 1
check "a long prompt's length is named" grep -q 'the prompt has 65 tokens' "$folder/err"
check "a long prompt prints nothing" test ! -s "$folder/out"
"$quest" generate "${model[@]}" --prompt-file "$folder/long" -n 20 --context 90 --json \
  >"$folder/out" 2>/dev/null
check "--context allows more than the model was trained with" grep -q '"prompt_tokens":65' \
  "$folder/out"
for bits in 32 16 8; do
  "$quest" generate "${model[@]}" --prompt 'One' -n 20 --kv-bits $bits >"$folder/kv" 2>/dev/null
  check "--kv-bits $bits generates" grep -aq '^One' "$folder/kv"
done
"$quest" generate "${model[@]}" --prompt 'One' --kv-bits 7 >/dev/null 2>"$folder/err"
check "--kv-bits 7 is a usage error" test $? -eq 2
check "--kv-bits 7 is told what there is" grep -q -- \
  '--kv-bits must be 32, 16, 8 or 0, not 7' "$folder/err"

# Many prompts at once: the same texts as one by one, in order, and errors in their places.
python3 - "$folder/prompts.jsonl" <<'EOF'
import json, sys
with open(sys.argv[1], "w") as file:
    for i in range(9):
        file.write(json.dumps({"prompt": "ab" * (1 + 5 * i % 7), "id": f"p{i}", "seed": i % 3,
                               "max_tokens": 3 + 4 * i % 11}) + "\n\n")
EOF
"$quest" generate "${model[@]}" --prompts "$folder/prompts.jsonl" --batch 4 >"$folder/results" \
  2>"$folder/err"
check "--prompts ends well" test $? -eq 0
check "--prompts tells its speed" grep -Eq 'quest: 9 prompts, [0-9]+ tokens, [0-9.]+ tokens/s' \
  "$folder/err"
cat >"$folder/compare.py" <<'EOF'
import json, subprocess, sys
folder, quest = sys.argv[1:]
prompts = [json.loads(line) for line in open(folder + "/prompts.jsonl") if line.strip()]
results = [json.loads(line) for line in open(folder + "/results", encoding="utf-8", newline="\n")]
assert [r["id"] for r in results] == [p["id"] for p in prompts], results
for index, (prompt, result) in enumerate(zip(prompts, results)):
    single = json.loads(subprocess.run(
        [quest, "generate", "--model", folder + "/model", "--threads", "1", "--json", "--prompt",
         prompt["prompt"], "--seed", str(prompt["seed"]), "-n", str(prompt["max_tokens"])],
        capture_output=True, check=True).stdout)
    for key in ("text", "tokens", "prompt_tokens", "stop_reason", "seed"):
        assert result[key] == single[key], (index, key, result, single)
    assert result["index"] == index
EOF
check "--prompts gives the texts of single prompts, in order" python3 "$folder/compare.py" \
  "$folder" "$quest"
"$quest" generate "${model[@]}" --prompts "$folder/prompts.jsonl" --batch 4 --json >"$folder/again" \
  2>/dev/null
check "--json beside --prompts changes nothing" cmp "$folder/results" "$folder/again"
"$quest" generate "${model[@]}" --prompts - --batch 2 >"$folder/again" 2>/dev/null \
  <"$folder/prompts.jsonl"
check "--prompts - reads standard input" cmp "$folder/results" "$folder/again"
printf '%s\n' '{"prompt": "a", "max_tokens": 2}' '{"promt": "a", "id": 7}' \
  "{\"prompt\": \"$(cat "$folder/long")\"}" '{"id": null, "max_tokens": 2}' >"$folder/mixed.jsonl"
"$quest" generate "${model[@]}" --prompts "$folder/mixed.jsonl" >"$folder/out" 2>"$folder/err"
check "a wrong line of --prompts is an error" test $? -eq 1
check "a wrong line of --prompts loses no other" python3 -c "
import json, sys
lines = [json.loads(line) for line in open('$folder/out', encoding='utf-8', newline='\n')]
sys.exit(not (['error' in l for l in lines] == [False, True, True, False] and lines[1]['id'] == 7
              and 'mixed.jsonl, line 2: there is no key' in lines[1]['error']
              and 'the prompt has 65 tokens, but the context is 64' in lines[2]['error']))"
check "an id of null is given back, and none is made up" python3 -c "
import json, sys
lines = [json.loads(line) for line in open('$folder/out', encoding='utf-8', newline='\n')]
sys.exit([l.get('id', 'none') for l in lines] != ['none', 7, 'none', None])"
check "wrong lines of --prompts are counted" grep -q \
  'quest: error: 2 of 4 prompts could not be continued; the first: .*line 2' "$folder/err"
"$quest" generate "${model[@]}" --prompts "$folder/none.jsonl" >/dev/null 2>"$folder/err"
check "a missing file of prompts is an error" test $? -eq 1
"$quest" generate "${model[@]}" --prompts "$folder/mixed.jsonl" --batch 65 >/dev/null 2>&1
check "more than 64 prompts at a time are a usage error" test $? -eq 2
"$quest" generate "${model[@]}" --prompts '' >/dev/null 2>"$folder/err"
check "an empty name of --prompts is a usage error" test $? -eq 2
"$quest" generate "${model[@]}" --prompt a --batch 4 >/dev/null 2>"$folder/err"
check "--batch without --prompts is a usage error" test $? -eq 2
"$quest" generate "${model[@]}" --prompts "$folder/prompts.jsonl" --print-config \
  >"$folder/prompts.toml"
"$quest" generate --config "$folder/prompts.toml" --batch 4 >"$folder/again" 2>/dev/null
check "--batch goes with the prompts of a config" cmp "$folder/results" "$folder/again"
"$quest" generate --config "$folder/prompts.toml" --prompt a -n 2 >/dev/null 2>&1
check "a config may name a batch that a single prompt does not use" test $? -eq 0
check "--batch says what it needs" grep -q -- '--batch requires --prompts' "$folder/err"
printf '\n \n' | "$quest" generate "${model[@]}" --prompts - >"$folder/out" 2>"$folder/err"
check "no prompt at all is an error" test $? -eq 1
check "no prompt at all is told" grep -qx 'quest: error: there is no prompt in standard input' \
  "$folder/err"
python3 -c "print('{\"id\": ' + '[' * 200000 + ']' * 200000 + '}')" >"$folder/deep.jsonl"
"$quest" generate "${model[@]}" --prompts "$folder/deep.jsonl" >"$folder/out" 2>"$folder/err"
check "deep nesting in --prompts is an error" test $? -eq 1
check "deep nesting in --prompts is named" grep -q 'levels deep' "$folder/out"
for context in 4194305 16777216; do
  "$quest" generate "${model[@]}" --prompt a --context $context >/dev/null 2>"$folder/err"
  check "--context $context is a usage error" test $? -eq 2
done

# A conversation through a pipe.
chat() { # chat LINES [OPTIONS]: answers to the lines (for printf %b)
  local lines=$1
  shift
  printf '%b' "$lines" | "$quest" chat "${model[@]}" -n 4 --seed 5 "$@" 2>"$folder/err"
}
chat 'Hi\n\nMore\n' --context 200 >"$folder/chat"
check "chat ends at the end of its input" test $? -eq 0
chat 'Hi\n/reset\nHi\n/exit\nnever\n' --context 200 >"$folder/reset"
check "chat answers each message, and no more after /exit" python3 -c "
import sys
two, again = (open('$folder/' + name, encoding='utf-8', newline='').read()
              for name in ('chat', 'reset'))
half = len(again) // 2
sys.exit(not (again[:half] == again[half:] and again.endswith('\n') and two.startswith(again[:half])
              and len(two) > half))"
check "/reset is confirmed" grep -q 'a new conversation' "$folder/err"
chat '/rest\nHi\n' >"$folder/out"
check "an unknown command of chat makes a pipe's exit code 1" test $? -eq 1
check "the conversation goes on after an unknown command" test -s "$folder/out"
check "an unknown command of chat is named" grep -q "there is no command '/rest'" "$folder/err"
chat "Hi\n$(cat "$folder/long")\nYo\n" --context 70 >"$folder/out"
check "a message that does not fit is an error" test $? -eq 1
check "a message that does not fit is told what to do" grep -q 'the context is full: .* /reset' \
  "$folder/err"
check "the conversation goes on after it" test "$(wc -l <"$folder/out")" -ge 2
chat 'one two\nthree four\nfive six\n' --drop-oldest >"$folder/out"
check "--drop-oldest goes on in a full context" test $? -eq 0
check "--drop-oldest says what it forgot" grep -q 'oldest turns were forgotten' "$folder/err"
chat 'Hi\n' --system $'a\xff' >"$folder/out"
check "--system in invalid UTF-8 is an error" test $? -eq 1 -a ! -s "$folder/out"
check "--system in invalid UTF-8 is named" grep -q -- '--system is not valid UTF-8 at byte 1' \
  "$folder/err"
chat 'a\xff\nHi\n' >"$folder/out"
check "a message in invalid UTF-8 is an error" test $? -eq 1 -a -s "$folder/out"
check "a message in invalid UTF-8 is named" grep -q 'the message is not valid UTF-8' "$folder/err"
if [ -w /dev/full ]; then
  chat 'Hi\nMore\n' >/dev/full
  check "chat on a full disk is an error" test $? -eq 1
  check "chat on a full disk ends at once" test "$(grep -c 'No space left' "$folder/err")" -eq 1
  check "chat on a full disk says so as an error" grep -qx \
    'quest: error: cannot write to standard output: No space left on device' "$folder/err"
fi
chat 'Hi\n' --template alpaca >/dev/null
check "an unknown template is a usage error" test $? -eq 2
cp -r "$folder/model" "$folder/chatml"
python3 - "$folder/chatml/tokenizer_config.json" <<'EOF'
import json, sys
config = json.load(open(sys.argv[1]))
config["chat_template"] = "{{ 'Human: ' }}"
json.dump(config, open(sys.argv[1], "w"))
EOF
echo Hi | "$quest" chat --model "$folder/chatml" --threads 1 -n 2 >/dev/null 2>"$folder/err"
check "an unknown chat template is named" grep -q 'chat template is of no known form' "$folder/err"
"$quest" generate "${model[@]}" --prompt a --temp -1 >/dev/null 2>&1
check "a negative temperature is a usage error" test $? -eq 2
"$quest" generate "${model[@]}" --dtype f64 >/dev/null 2>&1
check "an unknown type is a usage error" test $? -eq 2
"$quest" generate "${model[@]}" --prompt abcdef -n 60 --temp 3 2>"$folder/err" | head -c 1 >/dev/null
check "a reader that leaves ends generate well" test "${PIPESTATUS[0]}" -eq 0
check "a reader that leaves is no error" test -z "$(grep error "$folder/err")"

seq -s ' ' 1 300 >"$folder/valid.txt"
"$quest" eval "${model[@]}" --data "$folder/valid.txt" --json >"$folder/eval.json" 2>/dev/null
"$quest" eval "${model[@]}" --data "$folder/valid.txt" --json --batch-size 1 --device reference \
  >"$folder/eval1.json" 2>/dev/null
check "eval does not depend on batch size and device" python3 -c "
import json, math, sys
a, b = json.load(open('$folder/eval.json')), json.load(open('$folder/eval1.json'))
size = len(open('$folder/valid.txt').read())
close = lambda x, y: abs(x - y) <= 1e-4 * abs(y)
sys.exit(not (close(a['loss'], b['loss']) and a['tokens'] == b['tokens'] == (size - 1) // 64 * 64
              and close(a['perplexity'], math.exp(a['loss']))
              and close(a['bits_per_byte'], a['loss'] / math.log(2)) and 0 <= a['accuracy'] <= 1))"
echo short >"$folder/short.txt"
"$quest" eval "${model[@]}" --data "$folder/short.txt" >"$folder/out" 2>/dev/null
check "text shorter than a window is an error" test $? -eq 1
"$quest" eval "${model[@]}" --data "$folder/valid.txt" --seq-len 65 >/dev/null 2>&1
check "more positions than the model has is a usage error" test $? -eq 2

# A corpus, shards of it, and the errors on the way.
"$quest" data synth --out "$folder/t.txt" --tokens 2e4 --json >"$folder/synth.json" 2>/dev/null
check "data synth reports the entropy" grep -q '"bits_per_byte":0\.' "$folder/synth.json"
"$quest" data synth --out "$folder/u.txt" --tokens 2e4 >/dev/null 2>&1
check "the same seed gives the same corpus" cmp "$folder/t.txt" "$folder/u.txt"
"$quest" data prepare --in "$folder/t.txt" --out "$folder/shards" >/dev/null 2>&1
check "data prepare makes shards" test -s "$folder/shards/index.json"
"$quest" data prepare --in "$folder/t.txt" --out "$folder/shards" >/dev/null 2>&1
check "shards are not overwritten" test $? -eq 1
"$quest" data prepare --in "$folder/none.txt" --out "$folder/other" >/dev/null 2>&1
check "missing text is an error" test $? -eq 1
check "an error leaves nothing behind" test ! -e "$folder/other"
printf 'bad \377' >"$folder/bad.txt"
"$quest" data prepare --in "$folder/bad.txt" --out "$folder/bad" >/dev/null 2>"$folder/err"
check "invalid UTF-8 is an error" test $? -eq 1
check "invalid UTF-8 is named with its place" grep -q "bad.txt is not valid UTF-8 at byte 4" \
  "$folder/err"
check "invalid UTF-8 leaves nothing behind" test ! -e "$folder/bad" -a ! -e "$folder/bad.tmp"
"$quest" tokenizer train --in "$folder/t.txt" --vocab 400 --out "$folder/bpe.model" >/dev/null 2>&1
check "info counts the tokenizer's vocabulary" grep -q '"vocab":400,' \
  <("$quest" info --tokenizer "$folder/bpe.model" --json)

# Options of commands from a file, from --set and from flags.
"$quest" generate "${model[@]}" --prompt 'One £' -n 20 --temp 0.7 --print-config >"$folder/g.toml"
"$quest" generate --config "$folder/g.toml" --print-config >"$folder/h.toml"
check "printed options read back the same" cmp "$folder/g.toml" "$folder/h.toml"
"$quest" generate "${model[@]}" --prompt 'One £' -n 20 --temp 0.7 --seed 3 >"$folder/a" 2>/dev/null
"$quest" generate --config "$folder/g.toml" --set seed=9 --seed 3 >"$folder/b" 2>/dev/null
check "options from a file do what flags do" cmp "$folder/a" "$folder/b"
"$quest" generate "${model[@]}" --set tempp=1 >/dev/null 2>"$folder/err"
check "an unknown option is a usage error" test $? -eq 2
check "an unknown option gets the nearest one" grep -q \
  "^quest: error: --set: there is no option 'tempp'; the nearest is 'temp'$" "$folder/err"
for command in "data synth" "data prepare" "tokenizer train" train eval generate chat info "bench peaks" \
  "bench kernels" "bench train" "bench infer" export selftest; do
  "$quest" $command --print-config >"$folder/a.toml" 2>"$folder/err" &&
    "$quest" $command --config "$folder/a.toml" --print-config >"$folder/b.toml"
  check "quest $command --print-config prints" test -s "$folder/a.toml"
  check "quest $command --print-config reads back" cmp -s "$folder/a.toml" "$folder/b.toml"
done

# Outputs that are no regular files, and inputs that are pipes: refused at once, and left alone.
mkfifo "$folder/pipe"
ln -s t-linked.txt "$folder/link.txt"
ln -s circle.txt "$folder/circle.txt"
refused() { # refused CODE TEXT COMMAND...: its exit code, within 10 seconds, and a part of its error
  local code=$1 text=$2
  shift 2
  timeout 10 "$quest" "$@" >"$folder/out" 2>"$folder/err"
  [ $? -eq "$code" ] && grep -q -- "$text" "$folder/err" && [ ! -s "$folder/out" ]
}
for command in "data synth --tokens 1e12" "tokenizer train --in $folder/t.txt --vocab 400"; do
  check "$command refuses a pipe" refused 1 'must be a regular file' $command --out "$folder/pipe"
  check "$command leaves a pipe" test -p "$folder/pipe"
  check "$command refuses an empty name" refused 2 '--out names no file' $command --out ''
done
check "data prepare refuses an empty name" refused 2 '--out names no folder' \
  data prepare --in "$folder/t.txt" --out ''
check "export refuses an empty name" refused 2 '--out names no folder' \
  export --model "$folder/model" --out ''
"$quest" data synth --out "$folder/link.txt" --tokens 2e4 >/dev/null 2>&1
check "a link as output stays a link" test -L "$folder/link.txt"
check "the file behind a link is written" cmp "$folder/t.txt" "$folder/t-linked.txt"
mkfifo "$folder/pipe.txt"
check "data prepare does not wait for a pipe" refused 1 'is not a regular file' \
  data prepare --in "$folder/pipe.txt" --out "$folder/other"
check "eval does not wait for a pipe" refused 1 'is not a regular file' \
  eval "${model[@]}" --data "$folder/pipe.txt"
check "--config does not wait for a pipe" refused 1 'is not a regular file' \
  train --config "$folder/pipe"
check "--prompt-file does not wait for a pipe" refused 1 'is not a regular file' \
  generate "${model[@]}" --prompt-file "$folder/pipe"
check "--tokenizer does not wait for a pipe" refused 1 'is not a regular file' \
  data prepare --in "$folder/t.txt" --tokenizer "$folder/pipe" --out "$folder/other"
check "a circle of links is told" refused 1 'quest: error: cannot use .*circle.txt: Too many' \
  eval "${model[@]}" --data "$folder/circle.txt"
(ulimit -f 100 && refused 1 'cannot write .*big.txt: File too large' \
  data synth --tokens 1e7 --out "$folder/big.txt")
check "a limit of file sizes is an error" test $? -eq 0
check "a limit of file sizes leaves nothing" test -z "$(find "$folder" -name 'big.txt*')"
check "a vocabulary that no text allows is a usage error" refused 2 \
  '--vocab must be at least 300 and at most 16777216, not 299$' \
  tokenizer train --in "$folder/none.txt" --vocab 299 --out "$folder/bpe2.model"
check "too little text for a tokenizer is told" refused 1 \
  'error: this text is too little for a vocabulary of 30000: give more text, or a vocabulary' \
  tokenizer train --in "$folder/t.txt" --vocab 30000 --out "$folder/bpe2.model"

# Arguments that would be passed over.
check "arguments behind -- are refused" refused 2 "quest generate cannot use the argument 'foo'" \
  generate "${model[@]}" -n 3 -- foo
check "a command behind -- is refused" refused 2 "quest data synth cannot use the argument 'info'" \
  data synth --out "$folder/never.txt" --tokens 9 -- info
cp -r "$folder/model" "$folder/far"
sed -i 's/"max_position_embeddings": 64/"max_position_embeddings": 4194304/' "$folder/far/config.json"
check "info --model takes no preset" refused 2 'excludes' \
  info --model "$folder/model" --preset nano
"$quest" bench infer --threads 1 --print-config >"$folder/infer.toml"
check "a printed config of bench infer is a config" "$quest" bench infer --config "$folder/infer.toml" \
  --print-config
check "and none of its sizes by --set" refused 2 '--model excludes --set model.width=64' \
  info --model "$folder/model" --set model.width=64
check "a micro-batch has a limit with the windows of a model, too" refused 2 \
  'batch_size \* train.seq_len = 1000000 \* 4194304 tokens is too large: 268435456 are the most' \
  info --model "$folder/far" --batch-size 1000000
check "info --model '' is a usage error" refused 2 '--model names no folder' info --model ''
check "info --tokens needs --time" refused 2 '--tokens requires --time' \
  info --preset nano --tokens 100
check "numbers of threads have one sentence" refused 2 \
  "--threads takes numbers from 1 to 1024, not 'x'" bench kernels --threads x

# Counts and memory that no run has.
long=(train --data "$folder/t.txt" --out "$folder/never" --dry-run)
for limit in "--steps 2147483647" "--grad-accum 2147483647" "--batch-size 2147483647" \
  "--seq-len 4194304" "--width 32768" "--layers 4096" "--heads 16384" "--vocab 16777216"; do
  check "${limit% *} has a limit" refused 2 "at most ${limit#* }, not 9223372036854775807" \
    "${long[@]}" ${limit% *} 9223372036854775807
done
check "a step has a limit" refused 2 'tokens is too large: 1099511627776 are the most' \
  "${long[@]}" --grad-accum 2147483647
check "a micro-batch has a limit" refused 2 \
  'train.batch_size \* train.seq_len = 1048577 \* 256 tokens is too large: 268435456 are the most' \
  "${long[@]}" --batch-size 1048577
check "a run has a limit" refused 2 'the run would read .* tokens, but 1e+18 are the most' \
  "${long[@]}" --steps 2147483647 --grad-accum 268435456
check "a model larger than memory is refused" refused 1 \
  'the run needs about .* of memory, but this machine has .*--ignore-memory' train \
  --data "$folder/t.txt" --out "$folder/never" --vocab 16777216 --preset 800M --layers 100
check "a refused run makes nothing" test ! -e "$folder/never"

# Text and tokenizers that are none.
"$quest" generate "${model[@]}" --prompt $'bad \377' >"$folder/out" 2>"$folder/err"
check "a prompt of invalid UTF-8 is an error" test $? -eq 1 -a ! -s "$folder/out"
check "invalid UTF-8 of a prompt is named" grep -q -- "--prompt is not valid UTF-8 at byte 4" \
  "$folder/err"
"$quest" data prepare --in "$folder/t.txt" --tokenizer "$folder/t.txt" --out "$folder/other" \
  >/dev/null 2>"$folder/err"
check "a file that is no tokenizer is an error" test $? -eq 1
check "a file that is no tokenizer is named in our words" grep -q \
  "t.txt is not a sentencepiece model" "$folder/err"
check "no library speaks" test "$(grep -c 'sentencepiece_processor' "$folder/err")" -eq 0

# Signals in the middle of a file: the shell's exit code, and nothing is left.
stop_when() { # stop_when SIGNAL TRACE COMMAND...: sends SIGNAL once TRACE exists; prints the exit code
  local signal=$1 trace=$2 pid
  shift 2
  "$@" >/dev/null 2>&1 &
  pid=$!
  for _ in $(seq 500); do
    [ -e "$trace" ] && break
    sleep 0.01
  done
  kill "-$signal" $pid
  wait $pid
  echo $?
}
check "SIGTERM ends data synth" test 143 -eq \
  "$(stop_when TERM "$folder/s.txt.tmp" "$quest" data synth --out "$folder/s.txt" --tokens 1e12)"
check "SIGINT ends data synth" test 130 -eq \
  "$(stop_when INT "$folder/s.txt.tmp" "$quest" data synth --out "$folder/s.txt" --tokens 1e12)"
check "a stopped data synth leaves nothing" test -z "$(find "$folder" -name 's.txt*')"
head -c 200000000 /dev/zero | tr '\0' 'a' >"$folder/long.txt"
check "SIGTERM ends data prepare" test 143 -eq "$(stop_when TERM "$folder/p.tmp" \
  "$quest" data prepare --in "$folder/long.txt" --out "$folder/p")"
check "a stopped data prepare leaves nothing" test ! -e "$folder/p" -a ! -e "$folder/p.tmp"

# A run, packed: the same loss and the same text.
"$quest" train --preset nano --scheme w4a4 --data "$folder/t.txt" --steps 3 --seq-len 64 \
  --batch-size 2 --threads 1 --out "$folder/run" >/dev/null 2>&1
check "a tiny run ends" test $? -eq 0
"$quest" export --model "$folder/run" --out "$folder/packed" --embedding-bits 32 --head-bits 32 \
  --json >"$folder/export.json"
check "export ends well" test $? -eq 0
"$quest" export --model "$folder/run" --out "$folder/packed" >/dev/null 2>&1
check "export does not overwrite" test $? -eq 1
cp -r "$folder/run" "$folder/llama3"
sed -i '1a "chat_template": "<|start_header_id|>",' "$folder/llama3/tokenizer_config.json"
"$quest" export --model "$folder/llama3" --out "$folder/packed-llama3" >/dev/null 2>&1
check "a packed folder has the run's chat template" grep -q start_header_id \
  "$folder/packed-llama3/tokenizer_config.json"
check "export does not advise to delete a device" refused 1 \
  '/dev/null is not a folder: choose another name$' export --model "$folder/run" --out /dev/null
check "export does not advise to delete a folder that holds something" refused 1 \
  'is not an empty folder: choose another name$' export --model "$folder/run" --out "$folder"
mkdir "$folder/empty" && ln -s empty "$folder/link"
check "export refuses a link" refused 1 'is a symbolic link: name the folder itself' \
  export --model "$folder/run" --out "$folder/link"
check "--init says that a model is packed" refused 1 'is a packed model' train --init \
  "$folder/packed" --data "$folder/t.txt" --seq-len 64 --out "$folder/never"
check "sizes in JSON are whole numbers" grep -Eq '"bytes":[0-9]+[,}]' "$folder/export.json"
"$quest" export --model "$folder/packed" --out "$folder/again" >/dev/null 2>"$folder/err"
check "what is packed is not packed again" grep -q 'is packed already' "$folder/err"
for bits in 3 5 x 16.5 99; do
  check "bits of export that there are not, $bits, are told which there are" refused 2 \
    "--head-bits must be 32, 16, 8 or 4, not '*$bits'*$" \
    export --model "$folder/run" --out "$folder/again" --head-bits $bits
done
check "bits of bench infer that there are not are told which there are" refused 2 \
  '--embedding-bits must be 16, 8 or 4, not 5$' bench infer --embedding-bits 5
for kind in run packed; do
  "$quest" eval --model "$folder/$kind" --data "$folder/u.txt" --threads 1 --json \
    >"$folder/$kind.eval" 2>/dev/null
  "$quest" generate --model "$folder/$kind" --temp 0 -n 40 --prompt 'The' --threads 1 \
    >"$folder/$kind.text" 2>/dev/null
  "$quest" info --model "$folder/$kind" --json >"$folder/$kind.info"
done
check "the packed model has the run's loss" python3 -c "
import json, os, sys
run, packed = (json.load(open('$folder/' + kind + '.eval')) for kind in ('run', 'packed'))
info = json.load(open('$folder/packed.info'))
size = os.path.getsize('$folder/packed/model.safetensors')
sys.exit(not (abs(run['loss'] - packed['loss']) < 1e-4 and run['tokens'] == packed['tokens']
              and info['packed'] and 0 <= size - info['stored_bytes'] < 20000))"
cp -r "$folder/packed" "$folder/damaged"
truncate -s -1 "$folder/damaged/model.safetensors"
printf '~' >>"$folder/damaged/model.safetensors"
check "info refuses a damaged file" refused 1 'is damaged' info --model "$folder/damaged"
check "the packed model writes the run's text" cmp -s "$folder/run.text" "$folder/packed.text"
"$quest" bench infer --preset nano --scheme w4a4,w1a1 --vocab 300 --prefill 20 --decode 3 \
  --threads 1 --repeat 1 --batch 1,5 --json >"$folder/infer.json" 2>/dev/null
check "bench infer --json has a result a scheme" python3 -c "
import json, sys
results = json.load(open('$folder/infer.json'))['results']
sys.exit([r['scheme'] for r in results] != ['w4a4', 'w1a1']
         or not all(r['prefill_tokens_per_second'] > 0 < r['decode_tokens_per_second']
                    and r['decode_product_gb_per_s'] > 0 < r['read_gb_per_s']
                    and r['decode_read_share'] > 0
                    and [b['sequences'] for b in r['batches']] == [1, 5]
                    and all(b['tokens_per_second'] > 0 for b in r['batches']) for r in results))"

# Benchmarks and the self-test: the keys that scripts read.
check "selftest of a device that there is not is a usage error" refused 2 "there is no device 'gpu'" \
  selftest --device gpu
"$quest" selftest --json >"$folder/selftest.json"
check "the self-test passes here" test $? -eq 0
check "selftest --json tells of every check" python3 -c "
import json, sys
report = json.load(open('$folder/selftest.json'))
backends = {r['backend'] for r in report['results']}
isas = {'cpu ' + isa for isa in report['machine']['isas']}
sys.exit(not (report['passed'] and backends == isas | {'reference'}))"
"$quest" bench train --set model.layers=1 --set model.width=64 --set model.heads=2 \
  --batch-size 2 --seq-len 32 --scheme none,w4a4 --dtype bf16 --steps 2 --threads 1 --json \
  >"$folder/bench.json" 2>/dev/null
check "bench train --json has a result a scheme, with speed, shares and ratio" python3 -c "
import json, sys
results = json.load(open('$folder/bench.json'))['results']
ok = [r['scheme'] for r in results] == ['none', 'w4a4'] and results[0]['ratio_to_none'] == 1
for r in results:
    ok = ok and r['dtype'] == 'bf16' and r['threads'] == 1 and r['preset'] == 'nano'
    ok = ok and r['tokens_per_second'] > 0 and 0 < r['share_of_peak'] < 1
    ok = ok and r['tokens_per_second_least'] <= r['tokens_per_second'] <= r['tokens_per_second_most']
    ok = ok and abs(sum(r['ms_by_phase'].values()) - r['step_ms']) < 0.5 * r['step_ms']
sys.exit(not ok)"
"$quest" bench peaks --threads 1 --json >"$folder/peaks.json"
check "bench peaks --json has rates" python3 -c "
import json, sys
rates = {r['peak']: r['rate'] for r in json.load(open('$folder/peaks.json'))['results']}
sys.exit(not all(rates[p] > 0 for p in ('f32_fma', 'int8', 'read_l2', 'read_memory', 'product_f32')))"
"$quest" bench kernels --only "attention,quantize_rows w4 bf16" --samples 1 --sample-ms 1 --json \
  >"$folder/kernels.json" 2>/dev/null
check "bench kernels --json has times, work and bound of the kernels asked for" python3 -c "
import json
results = json.load(open('$folder/kernels.json'))['results']
assert {r['kernel'] for r in results} == {'attention', 'attention_backward', 'quantize_rows w4 bf16'}
assert all(r['seconds'][0] > 0 and r['bytes'] > 0 and r['bound'] and r['share'] > 0 for r in results)
"
"$quest" bench kernels --device reference --width 64 --rows 24 --only "matmul f32,attention,adamw" \
  --samples 1 --sample-ms 1 --json >"$folder/kernels.json" 2>/dev/null
check "bench kernels --width measures the layers of such a model, also on the reference" python3 -c "
import json
results = json.load(open('$folder/kernels.json'))['results']
assert {r['device'] for r in results} == {'reference'}
sizes = {kernel: [r['size'] for r in results if r['kernel'] == kernel] for kernel in
         ('matmul f32', 'attention_backward', 'adamw')}
assert sizes == {'matmul f32': ['24 x 192 x 64', '24 x 64 x 64', '24 x 512 x 64', '24 x 64 x 256'],
                 'attention_backward': ['B 1 T 24 H 1 D 64'], 'adamw': ['16384']}
"
check "bench kernels --rows needs --width" refused 2 '--rows requires --width' \
  bench kernels --rows 24
check "bench kernels --set rows needs --width" refused 2 '--rows requires --width' \
  bench kernels --set rows=24
check "bench kernels --rows needs a width" refused 2 '--rows requires --width above 0' \
  bench kernels --width 0 --rows 24
printf 'width = 64\nthreads = [1]\nonly = "frobnicate"\n' >"$folder/kernels.toml"
check "the width may come from a config" refused 2 "there is no kernel" \
  bench kernels --config "$folder/kernels.toml" --rows 24
check "bench kernels --width is whole heads" refused 2 '--width must be a multiple of 64, not 100' \
  bench kernels --width 100
check "a kernel that does not exist is a usage error that names those that do" refused 2 \
  "there is no kernel 'frobnicate'; use matmul, .*quantized_matmul, .*attention_backward$" \
  bench kernels --only attention,frobnicate
check "a kernel whose name has a slip gets the nearest one" refused 2 \
  "there is no kernel 'atention'; the nearest is 'attention'$" bench kernels --only atention
tiny=(--set model.layers=1 --set model.width=64 --set model.heads=2 --batch-size 2 --seq-len 32
  --steps 1 --threads 1)
"$quest" bench train "${tiny[@]}" --scheme none --scheme-layer "*.down=w4a4" --backward float,int8 \
  --json >"$folder/bench.json" 2>"$folder/err"
check "bench train measures the integer gradients of one layer" python3 -c "
import json, sys
results = json.load(open('$folder/bench.json'))['results']
sys.exit([r['backward'] for r in results] != ['float', 'int8'])"
check "which says nothing" test -z "$(grep 'changes nothing' "$folder/err")"
"$quest" bench train "${tiny[@]}" --scheme none --backward int8 --json >"$folder/bench.json" 2>"$folder/err"
check "bench train says that --backward int8 changes nothing" grep -q \
  'quest: --backward int8 changes nothing: no layer of scheme none multiplies' "$folder/err"
check "and measures floats" grep -q '"backward":"float"' "$folder/bench.json"
check "a wrong backward is a usage error beside none, too" refused 2 'must be float or int8' \
  bench train "${tiny[@]}" --scheme none --backward float,int9
"$quest" train --data "$folder/t.txt" --out "$folder/never" --dry-run --scheme w4a16 --backward int8 \
  >"$folder/out" 2>"$folder/err"
check "train says that --backward int8 changes nothing" grep -q \
  'quest: --backward int8 changes nothing: no layer of scheme w4a16 multiplies' "$folder/err"
"$quest" train --data "$folder/t.txt" --out "$folder/never" --dry-run --scheme w4a4 --backward int8 \
  >"$folder/out" 2>"$folder/err"
check "train does not say so of integers" test ! -s "$folder/err"
check "info says that it does not know the data's size" python3 -c "
import json, sys
unknown, known = (json.loads(line)['training_bytes']['data'] for line in sys.stdin)
sys.exit(unknown is not None or known <= 0)" <<<"$("$quest" info --json; "$quest" info --json \
  --data "$folder/t.txt")"
"$quest" bench train --scheme w9a9 >/dev/null 2>&1
check "a wrong scheme of a benchmark is a usage error" test $? -eq 2

exit $((failures > 0))
