// The peak that a run's speed is compared with.
#pragma once

#include "backend/backend.h"

namespace quest {

/// FLOPs a second of the backend's own product y = x w^T with operands of type `operands` (i8: of
/// codes), at 1024 x 1024 x 1024, the best of a few: the rate that a step could have if it were one
/// such product. Takes about a tenth of a second on a CPU. On another device that is faster than a
/// millisecond the sides are doubled, up to 8192.
double measure_product_rate(Backend& backend, DType operands);

}  // namespace quest
