#!/usr/bin/env python3
"""Tests of the include checker: each kind of violation, planted in a small tree, is found."""

import pathlib
import tempfile
import unittest

import check_includes


def complaints_for(files):
    """What the checker says about a tree with these files (name -> text)."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, encoding="utf-8")
        return check_includes.check_tree(root)[0]


def cpp(*lines):
    return "\n".join(["// A file for this test only.", *lines, ""])


class CheckIncludesTest(unittest.TestCase):
    def assert_one(self, files, piece):
        complaints = complaints_for(files)
        self.assertEqual(len(complaints), 1, complaints)
        self.assertIn(piece, complaints[0])

    def test_a_clean_tree_has_no_complaints(self):
        self.assertEqual(complaints_for({
            "src/model/llama.h": cpp('#include "backend/backend.h"', '#include "core/error.h"',
                                     '#include "quant/scheme.h"', "#include <vector>"),
            "src/backend/cpu/gemm.h": cpp("#include <immintrin.h>"),
            "src/backend/cpu/dnnl.cc": cpp("#include <dnnl.hpp>", "#include <sys/mman.h>"),
            "src/train/trainer.cc": cpp('#include "model/llama.h"', '#include "dist/comm.h"'),
            "apps/quest.cc": cpp('#include "train/trainer.h"', '#include "apps/command.h"'),
            "tools/run.sh": "#!/bin/sh\n# Runs the thing; a test.\n",
        }), [])

    def test_a_forbidden_arrow_is_found(self):
        self.assert_one({"src/quant/grid.h": cpp('#include "backend/backend.h"')},
                        "src/quant/grid.h:2: quant may not include backend")
        self.assert_one({"src/data/loader.cc": cpp('#include "quant/scheme.h"')}, "data may not")
        self.assert_one({"src/infer/s.cc": cpp('#  include "train/t.h"')}, "infer may not")
        self.assert_one({"src/core/t.h": cpp("#include <model/t.h>")}, "core may not")

    def test_apps_is_included_by_nobody(self):
        self.assert_one({"src/train/t.cc": cpp('#include "apps/text.h"')}, "may include apps")

    def test_a_path_that_climbs_is_found(self):
        self.assert_one({"src/data/l.cc": cpp('#include "../quant/scheme.h"')}, "from src/")

    def test_a_new_folder_needs_a_rule(self):
        self.assert_one({"src/misc/l.cc": cpp()}, "src/misc has no rule")

    def test_a_device_header_in_a_public_header_is_found(self):
        for include in ("immintrin.h", "arm_neon.h", "dnnl.hpp", "oneapi/dnnl/dnnl.h",
                        "cuda_runtime.h", "cublas_v2.h", "cudnn.h", "mpi.h", "nccl.h"):
            self.assert_one({"src/backend/backend.h": cpp(f"#include <{include}>")}, include)
            self.assert_one({"apps/a.h": cpp(f"#include <{include}>")}, include)
        self.assert_one({"src/backend/cpu/a.h": cpp("#include <cuda_runtime.h>")}, "CUDA")

    def test_a_file_without_an_opening_sentence_is_found(self):
        for text in ("#include <vector>\n", "\n// Late comment, a sentence.\n", "// TBD\n", ""):
            self.assert_one({"src/core/a.h": text}, "first line must be a comment")
        self.assert_one({"tools/a.py": "import sys\n"}, "first line must be a comment")


if __name__ == "__main__":
    unittest.main()
