#!/usr/bin/env bash
# Configures and builds targets of the release build, quietly unless it fails. Usage: build.sh TARGET...
set -euo pipefail
cd "$(dirname "$0")/.."
tools/install_packages.sh tools/packages.txt

mkdir -p build
log=build/build.log
[ -f build/build.ninja ] || cmake --preset release >"$log" 2>&1 || {
  cat "$log" >&2
  echo "The configuration failed; the reason stands above." >&2
  exit 1
}
if [ -t 2 ]; then
  # Ninja redraws one line of progress on a terminal.
  cmake --build build --target "$@" >&2
else
  cmake --build build --target "$@" >"$log" 2>&1 || {
    grep -v '^\[' "$log" | tail -n 100 >&2
    echo "The build failed; the whole log is $log." >&2
    exit 1
  }
fi
