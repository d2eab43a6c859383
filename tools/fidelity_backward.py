#!/usr/bin/env python3
"""Trains the runs of tools/fidelity.py with float and with int8 gradients and compares final losses.

Usage: tools/fidelity_backward.py [--quest build/apps/quest] [--goldens ../shared/goldens]
           [--table a|b] [--schemes w4a4 w8a8 w1a1] [--seeds 0 1 2] [--dtype f32|bf16] [--threads N]

Prints a Markdown table with a row for each scheme and seed, and the mean and the standard error of
the differences of each scheme. The seed picks the initial weights and the rounding.
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
    print("| table | scheme | seed | float | int8 | difference |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        texts = fidelity.split_text(order, folder)
        for scheme in args.schemes:
            differences = []
            for seed in args.seeds:
                init = args.goldens / f"{table['files']}_init_seed{seed}.safetensors"
                losses = [fidelity.train(args, table, order, texts, init, scheme, folder / "run",
                                         ["--seed", seed, "--backward", backward])["val_loss"]
                          for backward in ("float", "int8")]
                differences.append(losses[1] - losses[0])
                print(f"| {args.table.upper()} | {scheme} | {seed} | {losses[0]:.4f} | "
                      f"{losses[1]:.4f} | {differences[-1]:+.4f} |", flush=True)
            if len(differences) > 1:
                error = statistics.stdev(differences) / len(differences) ** 0.5
                print(f"| {args.table.upper()} | {scheme} | all | | | "
                      f"{statistics.mean(differences):+.4f} ± {error:.4f} |", flush=True)


if __name__ == "__main__":
    main()
