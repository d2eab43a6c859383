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
check "a folder without a model is named" grep -q "$folder/config.json" "$folder/err"

# A corpus, shards of it, and the errors on the way.
"$quest" data synth --out "$folder/t.txt" --tokens 2e4 --json >"$folder/synth.json"
check "data synth reports the entropy" grep -q '"bits_per_byte":0\.' "$folder/synth.json"
"$quest" data synth --out "$folder/u.txt" --tokens 2e4 >/dev/null
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

exit $((failures > 0))
