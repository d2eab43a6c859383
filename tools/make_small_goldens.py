#!/usr/bin/env python3
"""Cuts the small goldens in tests/golden out of the full reference goldens.

Usage: tools/make_small_goldens.py FULL_GOLDENS_FOLDER
"""
import json
import pathlib
import struct
import sys

QUANTIZERS = ["HalfHadamardTrust_b4", "HalfHadamardTrust_b2", "HalfHadamardClip_b1_c1.3"]
QUANTIZER_TENSORS = ["x_code", "x_scale", "x_code_margin", "x_mask_margin", "x_mask", "dx",
                     "w_code", "w_scale", "w_code_margin", "w_mask_margin", "w_mask", "dw", "y"]
LARGE_GRADIENTS = ["wte", "mlp.w1", "mlp.w2"]


def read(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + size]), data[8 + size:]


def write_subset(source, target, keep):
    header, data = read(source)
    subset, body = {"__metadata__": header["__metadata__"]}, b""
    for name, entry in header.items():
        if name == "__metadata__" or not keep(name):
            continue
        begin, end = entry["data_offsets"]
        subset[name] = dict(entry, data_offsets=[len(body), len(body) + end - begin])
        body += data[begin:end]
    text = json.dumps(subset).encode()
    text += b" " * (-len(text) % 8)
    target.write_bytes(struct.pack("<Q", len(text)) + text + body)


def main():
    full = pathlib.Path(sys.argv[1])
    small = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"
    wanted = {"in.x", "in.w", "in.gy"} | {f"{q}.{t}" for q in QUANTIZERS
                                          for t in QUANTIZER_TENSORS}
    write_subset(full / "quantizers.safetensors", small / "quantizers.safetensors",
                 wanted.__contains__)
    write_subset(full / "micro_llama_quest_w4a4.safetensors",
                 small / "micro_llama_quest_w4a4.safetensors",
                 lambda name: not (name.startswith("grad.")
                                   and any(part in name for part in LARGE_GRADIENTS)))


if __name__ == "__main__":
    main()
