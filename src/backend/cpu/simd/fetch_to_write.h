// Prefetches of rows of outputs.
#pragma once

#include <cstdint>

#include "backend/cpu/float_row.h"

namespace quest {
namespace {

/// Asks for a line that will be written: outputs lie a row apart, which no hardware prefetcher
/// follows, and each miss would hold up the stores behind it.
inline void fetch_to_write(const void* p) {
  asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(p)));
}
inline void fetch_to_write(FloatRow out, std::int64_t at) {
  if (out.bf16) return fetch_to_write(static_cast<const std::uint16_t*>(out.data) + at);
  fetch_to_write(static_cast<const float*>(out.data) + at);
  fetch_to_write(static_cast<const float*>(out.data) + at + 16);
}

}  // namespace
}  // namespace quest
