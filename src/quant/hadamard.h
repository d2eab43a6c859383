// The block Hadamard transform: block size, and the plain definition.
#pragma once

#include <cstdint>

namespace quest {

/// Largest block: an orthonormal Sylvester-Hadamard matrix of this size.
inline constexpr std::int64_t kHadamardBlock = 128;

/// The block that a row of `columns` values uses: 128, or the largest power of two that divides
/// `columns` when 128 does not. Throws Error when `columns` < 1.
std::int64_t hadamard_block(std::int64_t columns);

/// In place: each run of `block` values of `values[0..columns)` becomes its product with the
/// normalized Sylvester-Hadamard matrix (symmetric and its own inverse). `block` is a power of two
/// that divides `columns`; 1 leaves the values alone.
template <typename T>
void hadamard_transform(T* values, std::int64_t columns, std::int64_t block);

extern template void hadamard_transform<float>(float*, std::int64_t, std::int64_t);
extern template void hadamard_transform<double>(double*, std::int64_t, std::int64_t);

}  // namespace quest
