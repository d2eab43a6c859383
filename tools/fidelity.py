#!/usr/bin/env python3
"""Trains the reference's runs with quest, from the same weights and batch order, and compares losses.

Usage: tools/fidelity.py [--quest build/apps/quest] [--goldens ../shared/goldens] [--table a|b|ab]
                         [--run SCHEME:SEED ...] [--dtype f32|bf16] [--threads N] [--bound 0.01]

Prints a Markdown table. Exits 1 when a final validation loss is further than --bound from the
reference's, 77 (skipped) when the goldens are absent.
"""
import argparse
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

SKIPPED = 77
# Our scheme for each of the reference's names.
SCHEMES = {"none": "none", "quest_w4a4": "w4a4", "quest_w3a3": "w3a3", "quest_w2a2": "w2a2",
           "quest_w1a1": "w1a1", "trust_w1a1": "w1a1 trust", "ste_w4a4": "w4a4 none ste",
           "ste_w2a2": "w2a2 none ste", "ste_w1a1": "w1a1 none ste"}
TABLES = {
    "a": {"curves": "small", "files": "small_llama", "steps": 400, "seq_len": 128,
          "shape": {"layers": 4, "width": 256, "heads": 4, "hidden": 768}},
    "b": {"curves": "tiny", "files": "tinytrain_llama", "steps": 600, "seq_len": 64,
          "shape": {"layers": 2, "width": 128, "heads": 2, "hidden": 512}},
}


def read_tensor(path, name):
    """The bytes of one tensor and the metadata of a safetensors file."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    begin, end = header[name]["data_offsets"]
    return data[8 + size + begin:8 + size + end], header["__metadata__"]


def split_text(order, folder):
    """Writes the corpus that the order file carries as a training and a validation text."""
    text, metadata = read_tensor(order, "text")
    border = int(metadata["train_bytes"])
    train, valid = folder / "train.txt", folder / "valid.txt"
    train.write_bytes(text[:border])
    valid.write_bytes(text[border:])
    return train, valid


def train(args, table, order, texts, init, scheme, folder, extra=()):
    command = [args.quest, "train", "--data", texts[0], "--val-data", texts[1],
               "--tokenizer", "bytes", "--order", order, "--init", init, "--scheme", scheme,
               "--steps", table["steps"], "--seq-len", table["seq_len"], "--batch-size", 16,
               "--lr", 1e-3, "--warmup", 0.1, "--schedule", "cosine", "--eval-every", 0,
               "--save-every", 0, "--dtype", args.dtype, "--threads", args.threads,
               "--out", folder, "--overwrite", "--json"]
    command += extra
    for key, value in table["shape"].items():
        command += ["--set", f"model.{key}={value}"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser()
    root = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("--quest", type=pathlib.Path, default=root / "build/apps/quest")
    parser.add_argument("--goldens", type=pathlib.Path, default=root / "../shared/goldens")
    parser.add_argument("--table", default="ab")
    parser.add_argument("--run", nargs="*", help="quest_w4a4:0 ...; default: all of the table")
    parser.add_argument("--dtype", default="f32")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--bound", type=float, default=0.01)
    args = parser.parse_args()
    if not (args.goldens / "train_curves.json").exists():
        print(f"SKIPPED: there are no reference goldens in {args.goldens}")
        sys.exit(SKIPPED)
    curves = json.loads((args.goldens / "train_curves.json").read_text())
    worst = 0.0
    print("| table | scheme | seed | reference | quest | difference | tokens/s |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        for letter in args.table:
            table = TABLES[letter]
            order = args.goldens / f"{table['files']}_data_order.safetensors"
            texts = split_text(order, folder)
            for run in curves[table["curves"]]:
                init = args.goldens / f"{table['files']}_init_seed{run['seed']}.safetensors"
                wanted = not args.run or f"{run['quant']}:{run['seed']}" in args.run
                if run["quant"] not in SCHEMES or not init.exists() or not wanted:
                    continue
                scheme = SCHEMES[run["quant"]]
                ours = train(args, table, order, texts, init, scheme, folder / "run")
                difference = ours["val_loss"] - run["val_loss"]
                worst = max(worst, abs(difference))
                print(f"| {letter.upper()} | {scheme} | {run['seed']} | {run['val_loss']:.4f} | "
                      f"{ours['val_loss']:.4f} | {difference:+.4f} | "
                      f"{ours['tokens_per_second']:.0f} |", flush=True)
    print(f"\nLargest difference: {worst:.4f} (bound {args.bound})")
    sys.exit(worst > args.bound)


if __name__ == "__main__":
    main()
