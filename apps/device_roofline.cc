// Rates of a device through its own backend.
#include "apps/device_roofline.h"

#include <algorithm>
#include <memory>

#include "apps/cpu_roofline.h"
#include "backend/arena.h"
#include "backend/timed_run.h"
#include "train/peak.h"

namespace quest::app {
namespace {

constexpr std::int64_t kCopiedBytes = std::int64_t{256} << 20;
constexpr int kRepeats = 5;

double measure_copy_rate(Backend& backend) {
  Arena arena(backend, 2 * kCopiedBytes);
  const Tensor from = arena.take({kCopiedBytes}, DType::kU8);
  const Tensor to = arena.take({kCopiedBytes}, DType::kU8);
  const std::unique_ptr<Stopwatch> stopwatch = backend.make_stopwatch();
  const auto seconds = [&] {
    return timed_run(backend, *stopwatch, [&] { backend.copy(to, from); });
  };
  seconds();  // The first is not counted.
  double least = seconds();
  for (int repeat = 1; repeat < kRepeats; ++repeat) least = std::min(least, seconds());
  return 2.0 * kCopiedBytes / least;
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
