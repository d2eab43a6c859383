#!/usr/bin/env bash
# The peak resident memory of `quest train` is what `quest info` and --dry-run predict, within 10 %.
# Usage: memory_test.sh path/to/quest
set -u
quest=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export OMP_WAIT_POLICY=passive
failures=0

"$quest" data synth --out "$folder/train.txt" --tokens 1e6 >/dev/null
"$quest" data synth --out "$folder/valid.txt" --tokens 2e4 --seed 1 >/dev/null

compare() { # compare NAME ARGUMENTS...: of quest train
  local name=$1
  shift
  python3 - "$name" "$quest" "$folder/run" "$@" <<'END' || failures=$((failures + 1))
import json, resource, subprocess, sys
name, quest, out, *arguments = sys.argv[1:]
command = [quest, "train", *arguments, "--overwrite", "--out", out, "--json"]
plan = subprocess.run([*command, "--dry-run"], check=True, capture_output=True)
predicted = json.loads(plan.stdout)["memory_bytes"]
# The dry run takes less, so the larger of the two children is the run.
subprocess.run(command, check=True, capture_output=True)
measured = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
off = predicted / measured - 1
print(f"{name}: predicted {predicted / 2**20:.1f} MiB, measured {measured / 2**20:.1f} MiB, "
      f"{100 * off:+.1f} %")
sys.exit(abs(off) > 0.1)
END
}

common=(--data "$folder/train.txt" --val-data "$folder/valid.txt" --preset nano --steps 2)
compare "nano w4a4 bf16" "${common[@]}" --scheme w4a4 --dtype bf16 --sample-every 1 \
  --sample-tokens 4
compare "nano none f32" "${common[@]}" --scheme none

dry=$("$quest" train "${common[@]}" --scheme none --dry-run --out "$folder/new" --json |
  python3 -c "import json, sys; print(json.load(sys.stdin)['memory_bytes'])")
info=$("$quest" info --data "$folder/train.txt" --val-data "$folder/valid.txt" --scheme none --json |
  python3 -c "import json, sys; print(json.load(sys.stdin)['training_bytes']['total'])")
[ "$dry" = "$info" ] || { echo "train --dry-run says $dry bytes, info $info"; failures=1; }
exit $((failures > 0))
