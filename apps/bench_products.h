// The products among the kernels that `quest bench kernels` measures.
#pragma once

#include <vector>

#include "apps/bench_kernels.h"

namespace quest::app {

/// Appends products in floats, codes and packed codes.
void add_products(std::vector<KernelCaseMaker>& cases, const KernelSizes& sizes);

}  // namespace quest::app
