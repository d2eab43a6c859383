// The units and levels of memory of a CPU.
#include "apps/cpu_roofline.h"

#include <unistd.h>

#include <algorithm>

#include "backend/cpu/peaks/memory_reads.h"

namespace quest::app {
namespace {

/// What reads of the shared cache are measured with, a thread.
constexpr double kSharedCacheBytes = 8 << 20;
/// A size between that and what memory is measured with: large shared caches hold it.
constexpr std::uint32_t kLargeBytes = 64 << 20;
constexpr double kLeastCacheBytes = 512 << 10;

/// Bytes of the second-level cache of a core.
double cache_bytes() {
  return std::max(kLeastCacheBytes, static_cast<double>(sysconf(_SC_LEVEL2_CACHE_SIZE)));
}

void raise(Roofline::UnitRate& rate, const char* name, double giga) {
  if (1e9 * giga > rate.operations_per_second) rate = {name, 1e9 * giga};
}

}  // namespace

Roofline cpu_roofline(const Peaks& peaks, Isa isa) {
  Roofline roofline;
  const auto unit = [&](Unit one) -> Roofline::UnitRate& {
    return roofline.units[static_cast<std::size_t>(one)];
  };
  raise(unit(Unit::kF32), "f32 FMA", peaks.f32_gflops);
  raise(unit(Unit::kBF16), "f32 FMA", peaks.f32_gflops);
  raise(unit(Unit::kInt8), "int8", peaks.int8_gops);
  raise(unit(Unit::kBinary), "binary", peaks.binary_gops);
  if (isa >= Isa::kAvx512) raise(unit(Unit::kBF16), "AVX-512 bf16", peaks.bf16_gflops);
  if (isa == Isa::kAmx) {
    // Not the tiles of zeros, at whose clock no product runs.
    raise(unit(Unit::kBF16), "AMX bf16", peaks.amx_bf16_data_gflops);
    raise(unit(Unit::kInt8), "AMX int8", peaks.amx_int8_data_gops);
    raise(unit(Unit::kBinary), "AMX int8", peaks.amx_int8_data_gops);
  }
  const double threads = peaks.threads;
  roofline.levels = {
      {"L2", threads * cache_bytes(), 1e9 * peaks.cache_gb_per_s},
      {"L3", threads * kSharedCacheBytes, 1e9 * peaks.shared_cache_gb_per_s},
      {"64 MiB", double{kLargeBytes}, 1e9 * measure_read_rate(peaks.threads, kLargeBytes)},
      {"memory", 0, 1e9 * peaks.memory_gb_per_s}};
  return roofline;
}

}  // namespace quest::app
