#!/usr/bin/env python3
"""Trains the runs of tools/fidelity.py with each value of one option of `quest train` and compares
final losses with those of the first value.

Usage: tools/fidelity_option.py NAME VALUE VALUE... [--quest build/apps/quest]
           [--goldens ../shared/goldens] [--table a|b] [--schemes w4a4 w8a8 w1a1] [--seeds 0 1 2]
           [--dtype f32|bf16] [--threads N]
For instance: tools/fidelity_option.py backward float int8
              tools/fidelity_option.py optimizer-bits 32 16 8 --schemes none w4a4

Prints a Markdown table with a row for each scheme, seed and value, and the mean and the standard
error of the differences of each scheme. The seed picks the initial weights and the rounding.
"""
import argparse
import pathlib
import statistics
import sys
import tempfile

import fidelity


def main():
    parser = argparse.ArgumentParser()
    root = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("name")
    parser.add_argument("values", nargs="+")
    parser.add_argument("--quest", type=pathlib.Path, default=root / "build/apps/quest")
    parser.add_argument("--goldens", type=pathlib.Path, default=root / "../shared/goldens")
    parser.add_argument("--table", default="b", choices=["a", "b"])
    parser.add_argument("--schemes", nargs="*", default=["w4a4", "w8a8", "w1a1"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    table = fidelity.TABLES[args.table]
    order = args.goldens / f"{table['files']}_data_order.safetensors"
    if not order.exists():
        print(f"SKIPPED: there are no reference goldens in {args.goldens}")
        sys.exit(fidelity.SKIPPED)
    print(f"| table | scheme | seed | --{args.name} | loss | difference |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        texts = fidelity.split_text(order, folder)
        for scheme in args.schemes:
            differences = {value: [] for value in args.values}
            for seed in args.seeds:
                init = args.goldens / f"{table['files']}_init_seed{seed}.safetensors"
                base = None
                for value in args.values:
                    loss = fidelity.train(args, table, order, texts, init, scheme, folder / "run",
                                          ["--seed", seed, f"--{args.name}", value])["val_loss"]
                    base = loss if base is None else base
                    differences[value].append(loss - base)
                    print(f"| {args.table.upper()} | {scheme} | {seed} | {value} | {loss:.4f} | "
                          f"{loss - base:+.4f} |", flush=True)
            for value in args.values[1:]:
                if len(differences[value]) < 2:
                    continue
                mean = statistics.mean(differences[value])
                error = statistics.stdev(differences[value]) / len(differences[value]) ** 0.5
                print(f"| {args.table.upper()} | {scheme} | all | {value} | | "
                      f"{mean:+.4f} ± {error:.4f} |", flush=True)


if __name__ == "__main__":
    main()
