// The fast Walsh-Hadamard transform, stage by stage.
#include "quant/hadamard.h"

#include <cassert>
#include <cmath>

#include "core/error.h"

namespace quest {

std::int64_t hadamard_block(std::int64_t columns) {
  if (columns < 1) fail("a row of {} values has no Hadamard transform", columns);
  std::int64_t block = 1;
  while (block < kHadamardBlock && columns % (2 * block) == 0) block *= 2;
  return block;
}

template <typename T>
void hadamard_transform(T* values, std::int64_t columns, std::int64_t block) {
  assert(block >= 1 && columns % block == 0);
  if (block == 1) return;
  const T scale = T(1) / std::sqrt(static_cast<T>(block));
  for (std::int64_t start = 0; start < columns; start += block) {
    T* const run = values + start;
    for (std::int64_t half = 1; half < block; half *= 2) {
      for (std::int64_t base = 0; base < block; base += 2 * half) {
        for (std::int64_t i = base; i < base + half; ++i) {
          const T sum = run[i] + run[i + half];
          run[i + half] = run[i] - run[i + half];
          run[i] = sum;
        }
      }
    }
    for (std::int64_t i = 0; i < block; ++i) run[i] *= scale;
  }
}

template void hadamard_transform<float>(float*, std::int64_t, std::int64_t);
template void hadamard_transform<double>(double*, std::int64_t, std::int64_t);

}  // namespace quest
