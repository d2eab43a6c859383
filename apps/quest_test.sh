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

exit $((failures > 0))
