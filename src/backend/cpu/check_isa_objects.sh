#!/bin/sh
# Fails when an object that was compiled for one instruction set defines a weak (shared inline or
# template) symbol: the linker could take that copy for all callers and crash on an older CPU.
# Usage: check_isa_objects.sh NM OBJECT...
nm="$1"
shift
test $# -gt 0 || { echo "no objects given"; exit 2; }
status=0
for object in "$@"; do
  symbols=$("$nm" --defined-only "$object") || exit 2
  weak=$(echo "$symbols" | awk '$2 ~ /^[WwVvu]$/')
  if [ -n "$weak" ]; then
    echo "$object defines weak symbols:"
    echo "$weak"
    status=1
  fi
done
exit $status
