// Peaks: what this CPU's arithmetic units and memory can do, measured, so that speeds can be quoted
// as shares of them.
#pragma once

namespace quest {

/// Rates of `threads` threads together; 0 where this CPU lacks the unit. A multiplication and the
/// addition of its product count as two operations.
struct Peaks {
  int threads;
  double f32_gflops;       ///< fused multiply-add (or multiply and add) in the widest registers
  double bf16_gflops;      ///< AVX512_BF16 dot products
  double int8_gops;        ///< VNNI; pmaddwd on 16-bit pairs where there is no VNNI
  double binary_gops;      ///< xor, vpopcntq and addition: two operations a bit
  double amx_bf16_gflops;  ///< tiles of zeros
  double amx_int8_gops;
  /// Random numbers in tiles that are loaded from the first-level cache, two by two: their power
  /// lowers the clock, so this is what a product can reach.
  double amx_bf16_data_gflops;
  double amx_int8_data_gops;
  double cache_gb_per_s;         ///< reads of 512 KiB a thread: second-level cache
  double shared_cache_gb_per_s;  ///< reads of 8 MiB a thread: third-level cache where there is one
  double memory_gb_per_s;        ///< reads of 256 MiB in all: memory, or a larger last-level cache
};

/// Measures for about a second: the best of several short runs of each, so that other work on the
/// machine disturbs little.
Peaks measure_peaks(int threads);

}  // namespace quest
