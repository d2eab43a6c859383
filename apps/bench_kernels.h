// Kernels of a backend at the sizes that decide speed, each with the work it does.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "apps/bench_memory.h"
#include "backend/backend.h"
#include "backend/kernel_cases.h"
#include "backend/roofline.h"

namespace quest::app {

/// One kernel at one size: its operands, what it computes and what it moves.
struct KernelCase {
  Unit unit = Unit::kNone;
  double operations = 0;  ///< multiply-adds times two, of `unit`
  double elements = 0;    ///< values that a kernel without products works on
  double bytes = 0;       ///< that one call reads and writes, each operand once
  double bit_pairs = 0;   ///< KernelWork::bit_pairs
  std::function<void(Backend&)> run = nullptr;
  CaseMemory memory = {};  ///< what `run` reads and writes
};

/// The name of a case, and how to make it: operands of all cases together would fill the memory.
struct KernelCaseMaker {
  std::string kernel;  ///< as in backend.h, with the types: "matmul bf16"
  std::string size;    ///< "2048 x 640 x 640"
  std::function<KernelCase()> make;
};

/// All kernels at the speed sizes of backend/kernel_cases.h.
std::vector<KernelCaseMaker> kernel_cases();

}  // namespace quest::app
