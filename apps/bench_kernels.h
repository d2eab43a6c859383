// Kernels of a backend at the sizes that decide speed, each with the work it does.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "apps/bench_memory.h"
#include "apps/bench_sizes.h"
#include "backend/backend.h"
#include "backend/roofline.h"

namespace quest::app {

/// One kernel at one size: its operands, what it computes and what it moves.
struct KernelCase {
  CaseMemory memory;  ///< what `run` reads and writes
  Unit unit = Unit::kNone;
  double operations = 0;  ///< multiply-adds times two, of `unit`
  double elements = 0;    ///< values that a kernel without products works on
  double bytes = 0;       ///< that one call reads and writes, each operand once
  double bit_pairs = 0;   ///< KernelWork::bit_pairs
  std::function<void(Backend&)> run = nullptr;
};

/// The name of a case, and how to make it in a device's memory: operands of all cases together
/// would fill it.
struct KernelCaseMaker {
  std::string kernel;  ///< as in backend.h, with the types: "matmul bf16"
  std::string size;    ///< "2048 x 640 x 640"
  std::function<KernelCase(Backend& device)> make;
};

/// Appends make_case(device, arguments...) under the name of `kernel` and `size`.
template <typename MakeCase, typename... Arguments>
void add_case(std::vector<KernelCaseMaker>& cases, std::string kernel, std::string size,
              MakeCase make_case, Arguments... arguments) {
  cases.push_back({std::move(kernel), std::move(size),
                   [=](Backend& device) { return make_case(device, arguments...); }});
}

std::vector<KernelCaseMaker> kernel_cases(const KernelSizes& sizes);

}  // namespace quest::app
