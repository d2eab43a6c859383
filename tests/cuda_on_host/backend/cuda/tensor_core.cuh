// src/backend/cuda/tensor_core.cuh on the host: the same functions, for g++. See there for what
// they do; the include path of cuda_on_host finds this file first.
//
// A copy is made when it is waited for, and what lies there is spoiled when it begins: so a missing
// wait shows, and so does a copy into memory that is still read.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace cuda_on_host {

std::byte* dynamic_shared();
void multiply_add(std::int32_t (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1,
                  const std::source_location& where);
void multiply_add_unsigned(std::int32_t (&sums)[4], const unsigned (&a)[4], unsigned b0,
                           unsigned b1, const std::source_location& where);
void multiply_unsigned_add(std::int32_t (&sums)[4], const unsigned (&a)[4], unsigned b0,
                           unsigned b1, const std::source_location& where);
void multiply_add(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1,
                  const std::source_location& where);
void load_matrices(unsigned (&to)[4], const void* row, bool transposed,
                   const std::source_location& where);
void copy_async(void* shared, const void* global, int size, int bytes,
                const std::source_location& where);
void commit_copies();
void wait_for_copies(int pending);

/// Matrices that were loaded, and those of them whose rows shared banks, since the last call.
struct MatrixLoads {
  std::int64_t all, conflicting;
};
MatrixLoads take_matrix_loads();

}  // namespace cuda_on_host

namespace quest::cuda {

inline std::byte* dynamic_shared() { return cuda_on_host::dynamic_shared(); }
template <typename Sum>
void multiply_add(Sum (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1,
                  const std::source_location& where = std::source_location::current()) {
  cuda_on_host::multiply_add(sums, a, b0, b1, where);
}
inline void multiply_add_unsigned(
    std::int32_t (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1,
    const std::source_location& where = std::source_location::current()) {
  cuda_on_host::multiply_add_unsigned(sums, a, b0, b1, where);
}
inline void multiply_unsigned_add(
    std::int32_t (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1,
    const std::source_location& where = std::source_location::current()) {
  cuda_on_host::multiply_unsigned_add(sums, a, b0, b1, where);
}
inline void load_matrices(unsigned (&to)[4], const void* row,
                          const std::source_location& where = std::source_location::current()) {
  cuda_on_host::load_matrices(to, row, false, where);
}
inline void load_matrices_transposed(
    unsigned (&to)[4], const void* row,
    const std::source_location& where = std::source_location::current()) {
  cuda_on_host::load_matrices(to, row, true, where);
}
template <int kSize = 16>
void copy_async(void* shared, const void* global, int bytes,
                const std::source_location& where = std::source_location::current()) {
  static_assert(kSize == 4 || kSize == 8 || kSize == 16);
  cuda_on_host::copy_async(shared, global, kSize, bytes, where);
}
inline void commit_copies() { cuda_on_host::commit_copies(); }
template <int kPending>
void wait_for_copies() {
  cuda_on_host::wait_for_copies(kPending);
}

}  // namespace quest::cuda
