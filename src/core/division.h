// Division of whole numbers that are not negative, rounded up.
#pragma once

#include <cstdint>

namespace quest {

/// The least whole number that is not below value / by.
constexpr std::int64_t divide_up(std::int64_t value, std::int64_t by) {
  return (value + by - 1) / by;
}
/// The least multiple of `by` that is not below `value`.
constexpr std::int64_t round_up(std::int64_t value, std::int64_t by) {
  return divide_up(value, by) * by;
}

}  // namespace quest
