"""Reads a packed model folder into numpy arrays: the format of docs/format.md, as an example."""
import fnmatch, json, re, sys

try:
    import numpy as np
except ImportError:
    sys.exit("read_packed.py needs numpy (Debian: python3-numpy)")


def read_safetensors(path):
    """Names and arrays of a file; BF16 becomes f32."""
    data = open(path, "rb").read()
    start = 8 + int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            begin, end = (start + offset for offset in entry["data_offsets"])
            kind = {"F32": "<f4", "BF16": "<u2", "U8": "u1"}[entry["dtype"]]
            array = np.frombuffer(data[begin:end], kind).reshape(entry["shape"])
            yield name, (array.astype("<u4") << 16).view("<f4") if kind == "<u2" else array


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


def read_folder(folder):
    """All weights by Hugging Face's names, dequantized and rotated back."""
    config = json.load(open(folder + "/config.json"))
    quantization = config["quantization_config"]
    inputs = {"o_proj": config["num_attention_heads"] * config["head_dim"],
              "down_proj": config["intermediate_size"]}
    tensors = dict(read_safetensors(folder + "/model.safetensors"))
    for name in [key[:-len(".codes")] for key in tensors if key.endswith(".codes")]:
        layer = re.sub(r"model\.layers\.(\d+\.)(?:self_)?(\w+\.\w+)_proj", r"blocks.\1\2", name)
        layer = re.sub(r"\.o$", ".out", layer).replace("lm_head", "head")
        scheme = quantization["scheme"] if layer.startswith("blocks.") else ""
        for pattern, own in (entry.split("=", 1) for entry in quantization["layer_schemes"]):
            scheme = own if fnmatch.fnmatchcase(layer, pattern) else scheme
        stored = quantization["embedding_bits" if "embed" in name else "head_bits"]
        bits = int(scheme[1]) if re.match(r"w\da", scheme) else stored
        columns = inputs.get(name.split(".")[-1], config["hidden_size"])
        values = unpack(tensors.pop(name + ".codes"), columns, bits) + 0.5
        values *= tensors.pop(name + ".scales")[:, None]
        tensors[name + ".weight"] = values if "none" in scheme.split() else rotate(values)
    return tensors


if __name__ == "__main__":
    for tensor, rows in sorted(read_folder(sys.argv[1]).items()):
        print(f"{tensor} {list(rows.shape)} rms {np.sqrt(np.mean(rows ** 2.0)):.6g}")
