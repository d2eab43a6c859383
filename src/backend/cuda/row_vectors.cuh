// Kernels of rows that take as many neighbours at once as the rows allow: several where the type is
// known and rows begin at 16 bytes, one of rows of any type and place elsewhere. One body serves
// both: what differs is the type of its rows.
#pragma once

#include <concepts>

#include "backend/cuda/float_vectors.cuh"

namespace quest::cuda {

/// Values that a thread takes at once: of rows that are written, 16 bytes.
template <typename Rows>
inline constexpr int kRowWidth = 1;
template <>
inline constexpr int kRowWidth<TypedRows<float>> = 4;
template <>
inline constexpr int kRowWidth<TypedRows<std::uint16_t>> = 8;

/// As many values as fit from `column` on; see load_values for where they may lie.
template <int kCount, typename T>
__device__ __forceinline__ void load_values(float (&values)[kCount], const TypedRows<T>& rows,
                                            std::int64_t row, std::int64_t column) {
  load_values(values, rows.data + (row * rows.stride + column));
}
template <int kCount, typename T>
__device__ __forceinline__ void store_values(const TypedRows<T>& rows, std::int64_t row,
                                             std::int64_t column, const float (&values)[kCount]) {
  store_values(rows.data + (row * rows.stride + column), values);
}
__device__ __forceinline__ void load_values(float (&values)[1], const FloatRows& rows,
                                            std::int64_t row, std::int64_t column) {
  values[0] = rows.load(row, column);
}
__device__ __forceinline__ void store_values(const FloatRows& rows, std::int64_t row,
                                             std::int64_t column, const float (&values)[1]) {
  rows.store(row, column, values[0]);
}

/// take(rows...): as typed rows where `suits` says that vectors may be taken and all have one type.
template <typename Take, std::same_as<FloatRows>... Rows>
void with_rows(bool suits, const Take& take, const FloatRows& first, const Rows&... others) {
  if (!suits || ((others.bf16 != first.bf16) || ...)) return take(first, others...);
  with_type(first, [&]<typename T>(const TypedRows<T>& typed) {
    take(typed, TypedRows<T>{static_cast<T*>(others.data), others.stride}...);
  });
}

}  // namespace quest::cuda
