// Rates of a device through its own backend.
#include "apps/device_roofline.h"

#include <algorithm>
#include <chrono>

#include "apps/cpu_roofline.h"
#include "backend/arena.h"
#include "train/peak.h"

namespace quest::app {
namespace {

constexpr std::int64_t kCopiedBytes = std::int64_t{256} << 20;
constexpr int kRepeats = 5;

/// The least seconds of a few calls, after one that is not counted.
template <typename Call>
double least_seconds(Backend& backend, const Call& call) {
  double least = 0.0;
  for (int repeat = 0; repeat <= kRepeats; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    call();
    backend.synchronize();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    if (repeat > 0) least = repeat == 1 ? elapsed.count() : std::min(least, elapsed.count());
  }
  return least;
}

double measure_copy_rate(Backend& backend) {
  Arena arena(backend, 2 * kCopiedBytes);
  const Tensor from = arena.take({kCopiedBytes}, DType::kU8);
  const Tensor to = arena.take({kCopiedBytes}, DType::kU8);
  return 2.0 * kCopiedBytes / least_seconds(backend, [&] { backend.copy(to, from); });
}

}  // namespace

Roofline measure_roofline(Backend& backend) {
  if (backend.place() == Place::kHost) {
    return cpu_roofline(measure_peaks(backend.threads()), choose_isa());
  }
  Roofline roofline;
  const auto set = [&](Unit unit, const char* name, double rate) {
    roofline.units[static_cast<std::size_t>(unit)] = {name, rate};
  };
  set(Unit::kF32, "f32 product", measure_product_rate(backend, DType::kF32));
  set(Unit::kBF16, "bf16 product", measure_product_rate(backend, DType::kBF16));
  set(Unit::kInt8, "product of codes", measure_product_rate(backend, DType::kI8));
  roofline.levels = {{"memory", 0, measure_copy_rate(backend)}};
  return roofline;
}

}  // namespace quest::app
