"""Reads a packed model folder into numpy arrays: the format of docs/format.md, as an example."""
import fnmatch
import json
import re
import sys

import numpy as np

PARTS = {"q_proj": "attn.q", "k_proj": "attn.k", "v_proj": "attn.v", "o_proj": "attn.out",
         "gate_proj": "mlp.gate", "up_proj": "mlp.up", "down_proj": "mlp.down"}


def read_safetensors(path):
    """Names and arrays of a file; BF16 becomes f32."""
    data = open(path, "rb").read()
    size = int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:8 + size]).items():
        if name != "__metadata__":
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            kind = {"F32": np.float32, "BF16": np.uint16, "U8": np.uint8}[entry["dtype"]]
            array = np.frombuffer(data[begin:end], kind).reshape(entry["shape"])
            yield name, (array.astype(np.uint32) << 16).view("f4") if kind == np.uint16 else array


def unpack(packed, columns, bits):
    """Codes q of rows of bits."""
    stream = np.unpackbits(packed, axis=1, bitorder="little")[:, :columns * bits]
    return stream.reshape(len(packed), columns, bits) @ (1 << np.arange(bits)) - (1 << bits - 1)


def rotate(rows):
    """rows H, with the largest block up to 128 that divides the columns."""
    hadamard = np.ones((1, 1))
    while len(hadamard) < min(128, rows.shape[1] & -rows.shape[1]):
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]]) / np.sqrt(2)
    return (rows.reshape(len(rows), -1, len(hadamard)) @ hadamard).reshape(rows.shape)


def scheme_of(name, quantization):
    """The scheme of the matrix `name`; empty: none."""
    match = re.match(r"model\.layers\.(\d+)\.\w+\.(\w+)", name)
    layer = f"blocks.{match[1]}.{PARTS[match[2]]}" if match else name.replace("lm_head", "head")
    own = [entry.split("=", 1) for entry in quantization["layer_schemes"]]
    schemes = [scheme for pattern, scheme in own if fnmatch.fnmatchcase(layer, pattern)]
    return schemes[-1] if schemes else quantization["scheme"] if match else ""


def read_folder(folder):
    """All weights by Hugging Face's names, dequantized and rotated back."""
    config = json.load(open(folder + "/config.json"))
    quantization = config["quantization_config"]
    tensors = dict(read_safetensors(folder + "/model.safetensors"))
    weights = {name: array for name, array in tensors.items() if name.endswith(".weight")}
    for name in (key[:-len(".codes")] for key in tensors if key.endswith(".codes")):
        scheme = scheme_of(name, quantization)
        stored = "embedding_bits" if name == "model.embed_tokens" else "head_bits"
        bits = int(scheme[1]) if re.match(r"w\da", scheme) else quantization[stored]
        inputs = {"o_proj": config["num_attention_heads"] * config["head_dim"],
                  "down_proj": config["intermediate_size"]}
        columns = inputs.get(name.split(".")[-1], config["hidden_size"])
        values = unpack(tensors[name + ".codes"], columns, bits) + 0.5
        values = values * tensors[name + ".scales"][:, None]
        weights[name + ".weight"] = values if "none" in scheme.split()[1:] else rotate(values)
    return weights


if __name__ == "__main__":
    for tensor, rows in sorted(read_folder(sys.argv[1]).items()):
        print(f"{tensor} {list(rows.shape)} rms {np.sqrt(np.mean(rows ** 2.0)):.6g}")
