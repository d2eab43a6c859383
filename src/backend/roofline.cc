// Bounds from rates.
#include "backend/roofline.h"

#include <algorithm>

namespace quest {

Roofline::Bound Roofline::bound(const KernelWork& work) const {
  Bound bound;
  if (!levels.empty()) {
    const auto holds = std::find_if(levels.begin(), levels.end() - 1,
                                    [&](const Level& level) { return work.bytes <= level.bytes; });
    bound = {work.bytes / holds->bytes_per_second, holds->name};
  }
  UnitRate unit = rate(work.unit);
  if (work.bit_pairs > 0) {
    const UnitRate& bits = rate(Unit::kBinary);
    const double by_bits = bits.operations_per_second / work.bit_pairs;
    if (by_bits > unit.operations_per_second) unit = {bits.name, by_bits};
  }
  if (unit.operations_per_second > 0) {
    const double seconds = work.operations / unit.operations_per_second;
    if (seconds > bound.seconds) bound = {seconds, unit.name};
  }
  return bound;
}

}  // namespace quest
