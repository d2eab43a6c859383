#!/usr/bin/env bash
# Installs the Debian packages that a list names and that are missing. Usage: install_packages.sh LIST
set -euo pipefail
list=$1

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "This is not a Debian system, so nothing is installed; quest needs the equivalents of:" >&2
  grep -v '^#' "$list" | tr '\n' ' ' >&2
  echo >&2
  exit 0
fi

missing=()
while read -r package; do
  case $package in "" | "#"*) continue ;; esac
  # The status of a package that is unknown is an error, which counts as missing.
  status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done <"$list"
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "These packages are missing, and installing them takes root (there is no sudo here):" >&2
    echo "  apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "Installing ${missing[*]} ..." >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get "$@" >"$log" 2>&1
}
# The package index of a fresh machine is empty or old, so it is read first.
if ! install update || ! install install -y --no-install-recommends "${missing[@]}"; then
  tail -n 20 "$log" >&2
  echo "Could not install: ${missing[*]} (the reason stands above)." >&2
  exit 1
fi
