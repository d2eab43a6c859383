// The roofline of this machine's CPU, from measured peaks.
#pragma once

#include "backend/cpu/isa.h"
#include "backend/cpu/peaks/peaks.h"
#include "backend/roofline.h"

namespace quest::app {

/// What kernels of `isa` are bound by on as many threads as `peaks` were measured with: the fastest
/// unit for each type of operand, and the levels of memory.
Roofline cpu_roofline(const Peaks& peaks, Isa isa);

}  // namespace quest::app
