// Tests that the measured peaks are those of units which this CPU has.
#include "backend/cpu/peaks/peaks.h"

#include <gtest/gtest.h>

#include "backend/cpu/isa.h"

namespace quest {
namespace {

TEST(Peaks, EveryRateIsPlausible) {
  const Peaks peaks = measure_peaks(1);
  EXPECT_EQ(peaks.threads, 1);
  // A core runs at 0.1 to 10 GHz, and even an overloaded machine gives it a hundredth of its time.
  EXPECT_GT(peaks.f32_gflops, 0.1);
  EXPECT_LT(peaks.f32_gflops, 10 * 4 * 32);
  EXPECT_GT(peaks.int8_gops, 0.1);
  EXPECT_LT(peaks.int8_gops, 10 * 4 * 128);
  EXPECT_GT(peaks.cache_gb_per_s, 0.1);
  EXPECT_GT(peaks.shared_cache_gb_per_s, 0.01);
  EXPECT_GT(peaks.memory_gb_per_s, 0.01);
  EXPECT_LT(peaks.memory_gb_per_s, 10 * 192);
  if (available_isas().back() >= Isa::kAvx512) {
    // Four 8-bit products a 32-bit lane, on the units that do one f32 product.
    EXPECT_GT(peaks.int8_gops, peaks.f32_gflops);
  } else {
    EXPECT_EQ(peaks.bf16_gflops, 0);
  }
  if (available_isas().back() == Isa::kAmx) {
    // Loads and power cost a part of what tiles of zeros reach; other work on the machine may halve
    // either.
    EXPECT_GT(peaks.amx_int8_data_gops, 0.2 * peaks.amx_int8_gops);
    EXPECT_LT(peaks.amx_int8_data_gops, 2 * peaks.amx_int8_gops);
    EXPECT_GT(peaks.amx_bf16_data_gflops, 0.2 * peaks.amx_bf16_gflops);
    EXPECT_LT(peaks.amx_bf16_data_gflops, 2 * peaks.amx_bf16_gflops);
  }
}

}  // namespace
}  // namespace quest
