#!/usr/bin/env python3
"""Checks which folder includes which, where device headers are, and that files open with a sentence."""

import argparse
import pathlib
import re
import sys

# A folder may include itself, core and these. apps may include anything, and nothing includes apps.
ALLOWED = {
    "core": set(),
    "quant": set(),
    "backend": {"quant"},
    "model": {"backend", "quant"},
    "data": set(),
    "dist": {"backend"},
    "scaling": set(),
    "train": {"model", "data", "dist", "backend", "quant"},
    "infer": {"model", "data", "backend", "quant"},
}

# Headers of one device or library, and the only folders whose own headers may include them.
DEVICE_HEADERS = [
    ("SIMD", re.compile(r"^(\w*intrin\.h|arm_\w+\.h)$"), ("src/backend/cpu/",)),
    ("oneDNN", re.compile(r"^(oneapi/dnnl/.*|dnnl.*)$"), ("src/backend/cpu/",)),
    ("CUDA", re.compile(r"^(cu[a-z]+\w*\.(h|hpp|cuh)|cuda/.*|cub/.*)$"), ("src/backend/cuda/", "tests/cuda_on_host/")),
    ("MPI", re.compile(r"^mpi\.h$"), ("src/dist/mpi/",)),
    ("NCCL", re.compile(r"^nccl\.h$"), ("src/dist/nccl/",)),
]

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
CPP_SUFFIXES = {".h", ".cc", ".cu", ".cuh"}
SCRIPT_SUFFIXES = {".py", ".sh", ".cmake"}
HEADER_SUFFIXES = {".h", ".cuh"}
FOLDERS = ("src", "apps", "tests", "bench", "tools", "cmake")


def includes(text):
    """Yields (line number, path) for each include directive; < > and " " alike."""
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if match:
            yield number, match.group(2)


def check_arrows(name, text):
    """Yields complaints about includes that the folder of the file `name` may not make."""
    parts = name.split("/")
    folder = parts[1] if parts[0] == "src" else None
    if folder is not None and folder not in ALLOWED:
        yield f"{name}:1: src/{folder} has no rule in tools/check_includes.py; add its arrows there"
        return
    for number, path in includes(text):
        target = path.split("/")[0]
        if target == "..":
            yield f"{name}:{number}: write the path from src/ instead of '{path}'"
        elif folder is None or target == folder or target == "core":
            continue
        elif target == "apps":
            yield f"{name}:{number}: nothing in src may include apps ('{path}')"
        elif "/" in path and target in ALLOWED and target not in ALLOWED[folder]:
            yield f"{name}:{number}: {folder} may not include {target} ('{path}')"


def check_device_headers(name, text):
    """Yields complaints about device types that a header would spread to whoever includes it."""
    if pathlib.PurePath(name).suffix not in HEADER_SUFFIXES:
        return
    for number, path in includes(text):
        for kind, pattern, folders in DEVICE_HEADERS:
            if pattern.match(path) and not name.startswith(folders):
                yield f"{name}:{number}: a {kind} header ('{path}') in a header outside {folders[0]}"


def check_opening(name, text):
    """Yields a complaint unless the file opens with a comment that holds a sentence."""
    lines = text.splitlines()
    if lines and lines[0].startswith("#!"):
        lines = lines[1:]
    if pathlib.PurePath(name).suffix in CPP_SUFFIXES:
        marker = "//"
    else:
        marker = "#"
        if lines and lines[0].startswith('"""'):
            lines = ["# " + lines[0].strip('"')] + lines[1:]
    comment = []
    for line in lines:
        if not line.startswith(marker):
            break
        comment.append(line.lstrip("/# ").strip())
    if len(" ".join(comment).split()) < 2 or not re.search(r"[.:;]", " ".join(comment)):
        yield f"{name}:1: the first line must be a comment, a sentence on what the file is for"


def source_files(root):
    """The files to check under `root`, sorted."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and path.suffix in CPP_SUFFIXES | SCRIPT_SUFFIXES:
                yield path


def check_tree(root):
    """All complaints about the tree at `root`, and the number of files read."""
    complaints, count = [], 0
    for path in source_files(root):
        name = path.relative_to(root).as_posix()
        text = path.read_text(encoding="utf-8")
        count += 1
        if path.suffix in CPP_SUFFIXES:
            complaints += check_arrows(name, text)
            complaints += check_device_headers(name, text)
        complaints += check_opening(name, text)
    return complaints, count


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=pathlib.Path,
                        default=pathlib.Path(__file__).resolve().parent.parent)
    complaints, count = check_tree(parser.parse_args().root)
    for complaint in complaints:
        print(complaint)
    print(f"{count} files checked, {len(complaints)} complaints")
    return 1 if complaints or count == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
