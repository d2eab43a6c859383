// What launches of products with packed weights share: which rows of weights are whole loads of 16
// bytes, and kernels by their bits.
#pragma once

#include <type_traits>

#include "backend/cuda/cuda_backend.h"

namespace quest::cuda {

inline constexpr std::size_t kPackedLoad = 16;  // bytes

/// Whether a row of w is whole loads, and the codes of x that the last one meets are there.
inline bool loads_are_whole(const PackedRows& w) {
  const std::int64_t row_bytes = w.codes.cols();
  return row_bytes % std::int64_t{kPackedLoad} == 0 && row_bytes * 8 == w.columns * w.bits &&
         rows_begin_at(w.codes, kPackedLoad);
}

/// run(bits as an integral_constant) where codes of so many bits are multiplied as they are loaded;
/// else false.
template <typename Run>
bool with_loaded_bits(int bits, const Run& run) {
  switch (bits) {
    case 1:
      run(std::integral_constant<int, 1>());
      return true;
    case 2:
      run(std::integral_constant<int, 2>());
      return true;
    case 4:
      run(std::integral_constant<int, 4>());
      return true;
    case 8:
      run(std::integral_constant<int, 8>());
      return true;
    default:
      return false;
  }
}

}  // namespace quest::cuda
