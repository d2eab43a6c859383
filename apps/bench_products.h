// The products among the kernels that `quest bench kernels` measures.
#pragma once

#include <vector>

#include "apps/bench_kernels.h"

namespace quest::app {

/// Appends products at the sizes of kProductSpeedCases, in floats, codes and packed codes.
void add_products(std::vector<KernelCaseMaker>& cases);

}  // namespace quest::app
