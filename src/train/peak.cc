// Timing of one large dense product.
#include "train/peak.h"

#include <algorithm>
#include <chrono>

#include "backend/arena.h"

namespace quest {
namespace {

constexpr std::int64_t kSize = 1024;
constexpr int kRepeats = 8;
constexpr double kLongEnoughSeconds = 0.3;

}  // namespace

double measure_product_rate(Backend& backend, DType compute) {
  const Shape shape{kSize, kSize};
  Arena arena(backend, 3 * static_cast<std::size_t>(kSize * kSize) * sizeof(float));
  const Tensor x = arena.take(shape, compute);
  const Tensor w = arena.take(shape, compute);
  const Tensor y = arena.take(shape, DType::kF32);
  double best_seconds = 0.0;
  double spent_seconds = 0.0;
  for (int repeat = 0; repeat < kRepeats && spent_seconds < kLongEnoughSeconds; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    backend.matmul(y, x, w, Write::kSet);
    backend.synchronize();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    spent_seconds += elapsed.count();
    best_seconds = repeat == 0 ? elapsed.count() : std::min(best_seconds, elapsed.count());
  }
  return 2.0 * static_cast<double>(kSize * kSize * kSize) / best_seconds;
}

}  // namespace quest
