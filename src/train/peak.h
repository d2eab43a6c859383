// The peak that a run's speed is compared with.
#pragma once

#include "backend/backend.h"

namespace quest {

/// FLOPs a second of the backend's own dense product y = x w^T with operands of type `compute`, at
/// 1024 x 1024 x 1024, the best of a few: the rate that a step could have if it were one such
/// product. Takes about a tenth of a second on a CPU.
double measure_product_rate(Backend& backend, DType compute);

}  // namespace quest
