"""Reads a packed model folder into numpy arrays: the format of docs/format.md, as an example."""
import fnmatch
import json
import pathlib
import re
import sys

import numpy as np

PARTS = {"q_proj": "attn.q", "k_proj": "attn.k", "v_proj": "attn.v", "o_proj": "attn.out",
         "gate_proj": "mlp.gate", "up_proj": "mlp.up", "down_proj": "mlp.down"}
TYPES = {"F32": np.float32, "BF16": np.uint16, "U8": np.uint8}


def read_safetensors(path):
    data = np.memmap(path, np.uint8, "r")
    size = int(data[:8].view(np.uint64)[0])
    header = json.loads(data[8:8 + size].tobytes())
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        array = np.frombuffer(data[begin:end].tobytes(), TYPES[entry["dtype"]])
        if entry["dtype"] == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        yield name, array.reshape(entry["shape"])


def unpack(packed, columns, bits):
    """Codes q of rows of bits."""
    stream = np.unpackbits(packed, axis=1, bitorder="little")[:, :columns * bits]
    places = 1 << np.arange(bits)
    return stream.reshape(len(packed), columns, bits) @ places - (1 << bits - 1)


def rotate(rows):
    """rows H, with the largest block up to 128 that divides the columns."""
    columns = rows.shape[1]
    block = min(128, columns & -columns)
    hadamard = np.ones((1, 1))
    while len(hadamard) < block:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    blocks = rows.reshape(len(rows), -1, block) @ (hadamard / np.sqrt(block))
    return blocks.reshape(rows.shape)


def scheme_of(name, quantization):
    """The scheme that the matrix `name` was trained under; empty: none."""
    match = re.match(r"model\.layers\.(\d+)\.\w+\.(\w+)", name)
    layer = f"blocks.{match[1]}.{PARTS[match[2]]}" if match else name.replace("lm_head", "head")
    scheme = quantization["scheme"] if match else ""
    for pattern, own in (entry.split("=", 1) for entry in quantization["layer_schemes"]):
        scheme = own if fnmatch.fnmatchcase(layer, pattern) else scheme
    return scheme


def read_folder(folder):
    """All weights by Hugging Face's names, dequantized and rotated back."""
    config = json.loads(pathlib.Path(folder, "config.json").read_text())
    tensors = dict(read_safetensors(pathlib.Path(folder, "model.safetensors")))
    weights = {name: array for name, array in tensors.items() if name.endswith(".weight")}
    inner = {"o_proj": config["num_attention_heads"] * config["head_dim"],
             "down_proj": config["intermediate_size"]}
    for name in (key[:-len(".codes")] for key in tensors if key.endswith(".codes")):
        columns = inner.get(name.split(".")[-1], config["hidden_size"])
        scheme = scheme_of(name, config["quantization_config"])
        stored = "embedding_bits" if name == "model.embed_tokens" else "head_bits"
        found = re.match(r"w(\d)a", scheme)
        bits = int(found[1]) if found else config["quantization_config"][stored]
        values = unpack(tensors[name + ".codes"], columns, bits) + 0.5
        values = values * tensors[name + ".scales"][:, None]
        weights[name + ".weight"] = values if "none" in scheme.split()[1:] else rotate(values)
    return weights


if __name__ == "__main__":
    for tensor_name, values in sorted(read_folder(sys.argv[1]).items()):
        print(f"{tensor_name} {list(values.shape)} rms {np.sqrt(np.mean(values ** 2.0)):.6g}")
