// Timing of one large dense product.
#include "train/peak.h"

#include <algorithm>
#include <memory>
#include <type_traits>
#include <vector>

#include "backend/arena.h"
#include "backend/timed_run.h"
#include "core/rng.h"

namespace quest {
namespace {

constexpr std::int64_t kSize = 1024;
constexpr std::int64_t kMostSize = 4096;
constexpr double kShortSeconds = 1e-3;
constexpr int kRepeats = 8;
constexpr double kLongEnoughSeconds = 0.3;

// x = random values, the same in each block of kDrawnRows rows; zeros would not draw the power, and
// so not have the clock, of a product of anything.
void fill(Backend& backend, Tensor x) {
  constexpr std::int64_t kDrawnRows = 64;
  Rng rng(1, RngPurpose::kTest);
  const auto draw = [&](auto one) {
    std::vector<decltype(one)> values(static_cast<std::size_t>(kDrawnRows * x.cols()));
    for (auto& value : values) {
      if constexpr (std::is_same_v<decltype(one), std::int8_t>) {
        value = static_cast<std::int8_t>(static_cast<int>(rng.below(16)) - 8);
      } else if constexpr (std::is_same_v<decltype(one), BFloat16>) {
        value = to_bfloat16(static_cast<float>(rng.normal()));
      } else {
        value = static_cast<float>(rng.normal());
      }
    }
    const Tensor drawn = view_of(values.data(), {kDrawnRows, x.cols()});
    for (std::int64_t row = 0; row < x.rows(); row += kDrawnRows) {
      backend.copy(x.rows_slice(row, row + kDrawnRows), drawn);
    }
    backend.synchronize();
  };
  if (x.dtype == DType::kI8) return draw(std::int8_t{});
  if (x.dtype == DType::kBF16) return draw(BFloat16{});
  draw(float{});
}

// A product of square matrices.
class SquareProduct {
 public:
  SquareProduct(Backend& backend, std::int64_t size, DType operands)
      : backend_(backend),
        stopwatch_(backend.make_stopwatch()),
        arena_(backend, 3 * static_cast<std::size_t>(size * size) * sizeof(float) +
                            4 * static_cast<std::size_t>(size) * sizeof(float) + 1024),
        operands_(operands),
        x_{arena_.take({size, size}, operands), {}, {}, {}},
        w_{arena_.take({size, size}, operands), {}, {}, {}},
        y_(arena_.take({size, size}, DType::kF32)) {
    for (QuantizedRows* const rows : {&x_, &w_}) {
      fill(backend_, rows->codes);
      rows->steps = arena_.take({size}, DType::kF32);
      rows->code_sums = arena_.take({size}, DType::kI32);
    }
  }

  double seconds() {
    return timed_run(backend_, *stopwatch_, [&] {
      if (operands_ == DType::kI8) {
        backend_.quantized_matmul(y_, x_, w_, Write::kSet);
      } else {
        backend_.matmul(y_, x_.codes, w_.codes, Write::kSet);
      }
    });
  }

 private:
  Backend& backend_;
  std::unique_ptr<Stopwatch> stopwatch_;
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
