#!/usr/bin/env bash
# The example reader against the dense export of the same run. Usage: read_packed_test.sh QUEST READER
set -eu
quest=$1 reader=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/none"
echo 'raise ImportError("a numpy that is missing")' >"$folder/none/numpy.py"
status=0
PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$folder/none python3 "$reader" "$folder" 2>"$folder/err" || status=$?
if [ $status -ne 1 ] || [ "$(cat "$folder/err")" != "read_packed.py needs numpy (Debian: python3-numpy)" ]; then
  echo "without numpy $reader does not end with one sentence and 1, but with $status: $(cat "$folder/err")"
  exit 1
fi
# Debian's numpy belongs to Debian's python3, which need not be the first one.
python=
for candidate in python3 /usr/bin/python3; do
  if "$candidate" -c 'import numpy' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "skipped: there is no numpy (Debian: python3-numpy)"
  exit 77
fi
if [ "$(wc -l <"$reader")" -gt 60 ]; then
  echo "$reader has more than the 60 lines that docs/format.md names"
  exit 1
fi
"$quest" data synth --out "$folder/text.txt" --tokens 200000 --seed 1 >/dev/null
"$quest" train --data "$folder/text.txt" --out "$folder/run" --preset nano --steps 2 --seq-len 32 \
  --batch-size 2 --scheme w3a4 --scheme-layer 'blocks.*.mlp.down=w4a4 none' \
  --scheme-layer 'blocks.1.attn.out=w2a16' --scheme-layer 'head=w5a8' --dtype f32 \
  --set model.rope_layout=half >/dev/null 2>&1
"$quest" export --model "$folder/run" --out "$folder/packed" --embedding-bits 8 >/dev/null
"$quest" export --model "$folder/run" --out "$folder/dense" --format hf >/dev/null
PYTHONDONTWRITEBYTECODE=1 "$python" - "$reader" "$folder" <<'PYTHON'
import importlib.util
import sys

import numpy as np

spec = importlib.util.spec_from_file_location("read_packed", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
packed = module.read_folder(sys.argv[2] + "/packed")
dense = dict(module.read_safetensors(sys.argv[2] + "/dense/model.safetensors"))
assert packed.keys() == dense.keys(), packed.keys() ^ dense.keys()
for name, wanted in dense.items():
    error = np.sqrt(np.mean((packed[name] - wanted) ** 2.0) / np.mean(wanted ** 2.0))
    limit = 0.02 if name == "model.embed_tokens.weight" else 0.004  # 8 bits; BF16
    assert error < limit, (name, error)
print(f"{len(dense)} tensors agree")
PYTHON
