// Timing of one large dense product.
#include "train/peak.h"

#include <algorithm>
#include <chrono>

#include "backend/arena.h"

namespace quest {
namespace {

constexpr std::int64_t kSize = 1024;
constexpr std::int64_t kMostSize = 8192;
constexpr double kShortSeconds = 1e-3;
constexpr int kRepeats = 8;
constexpr double kLongEnoughSeconds = 0.3;

// A product of square matrices of zeros.
class SquareProduct {
 public:
  SquareProduct(Backend& backend, std::int64_t size, DType operands)
      : backend_(backend),
        arena_(backend, 3 * static_cast<std::size_t>(size * size) * sizeof(float) +
                            4 * static_cast<std::size_t>(size) * sizeof(float) + 1024),
        operands_(operands),
        x_{arena_.take({size, size}, operands), {}, {}, {}},
        w_{arena_.take({size, size}, operands), {}, {}, {}},
        y_(arena_.take({size, size}, DType::kF32)) {
    for (QuantizedRows* const rows : {&x_, &w_}) {
      rows->steps = arena_.take({size}, DType::kF32);
      rows->code_sums = arena_.take({size}, DType::kI32);
    }
  }

  double seconds() {
    const auto start = std::chrono::steady_clock::now();
    if (operands_ == DType::kI8) {
      backend_.quantized_matmul(y_, x_, w_, Write::kSet);
    } else {
      backend_.matmul(y_, x_.codes, w_.codes, Write::kSet);
    }
    backend_.synchronize();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    return elapsed.count();
  }

 private:
  Backend& backend_;
  Arena arena_;
  DType operands_;
  QuantizedRows x_, w_;  // of floats, their `codes` are the operands
  Tensor y_;
};

// The best of a few.
double measure_seconds(Backend& backend, std::int64_t size, DType operands) {
  SquareProduct product(backend, size, operands);
  double best = product.seconds();
  double spent = best;
  for (int repeat = 1; repeat < kRepeats && spent < kLongEnoughSeconds; ++repeat) {
    const double seconds = product.seconds();
    spent += seconds;
    best = std::min(best, seconds);
  }
  return best;
}

}  // namespace

double measure_product_rate(Backend& backend, DType operands) {
  std::int64_t size = kSize;
  double seconds = measure_seconds(backend, size, operands);
  while (backend.place() != Place::kHost && seconds < kShortSeconds && size < kMostSize) {
    size *= 2;
    seconds = measure_seconds(backend, size, operands);
  }
  return 2.0 * static_cast<double>(size * size * size) / seconds;
}

}  // namespace quest
