// Products of bf16 values in tiles on vectors, for CPUs that multiply bf16 but have no tile
// registers: 11 rows by 32 columns of sums in registers.
#include "backend/cpu/accumulators.h"
#include "backend/cpu/simd16_avx512.h"
#include "backend/cpu/tile_kernels.h"
#include "backend/cpu/tile_packing.inc.h"
// Stands on the names of the headers above.
#include "backend/cpu/tile_ends.inc.h"

namespace quest {
namespace {

/// Three of these are a bundle.
constexpr int kRegisterRows = 11;

/// sums += two products in each lane. As assembly: g++ 12 copies accumulators around the intrinsic.
inline __attribute__((always_inline)) void dot_pairs(__m512i& sums, __m512i a, __m512i b) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
}

/// Row r against 32 columns, a pair of summed values.
template <int r, typename Sums>
inline __attribute__((always_inline)) void add_row(Sums& sums, const std::uint8_t* a, __m512i low,
                                                   __m512i high) {
  std::int32_t pair;
  __builtin_memcpy(&pair, a + r * kTileBytes, sizeof pair);
  const __m512i both = _mm512_set1_epi32(pair);
  dot_pairs(sums.template at<2 * r>(), low, both);
  dot_pairs(sums.template at<2 * r + 1>(), high, both);
}

/// sums [rows][32] = `groups` groups of packed rows against a packed bundle of columns.
template <int... rows>
inline void multiply_rows(float* sums, const std::uint8_t* a, const std::uint8_t* b,
                          std::int64_t groups, Fetcher& fetcher, Indices<int, rows...>) {
  Accumulators<2 * sizeof...(rows)> totals;
  for (std::int64_t g = 0; g < groups; ++g, a += kTileGroupBytes, b += kTileGroupBytes) {
    fetcher.fetch_one();
#pragma GCC unroll 16
    for (int pair = 0; pair < kTileRows; ++pair) {
      const __m512i low = _mm512_load_si512(b + kTileBytes * pair);
      const __m512i high = _mm512_load_si512(b + kTileSize + kTileBytes * pair);
      (add_row<rows>(totals, a + 4 * pair, low, high), ...);
    }
  }
  ((_mm512_store_si512(sums + 32 * rows, totals.template at<2 * rows>()),
    _mm512_store_si512(sums + 32 * rows + 16, totals.template at<2 * rows + 1>())),
   ...);
}

template <int rows = kRegisterRows>
void multiply_some_rows(std::int64_t count, float* sums, const std::uint8_t* a,
                        const std::uint8_t* b, std::int64_t groups, Fetcher& fetcher) {
  if constexpr (rows > 1) {
    if (count < rows) return multiply_some_rows<rows - 1>(count, sums, a, b, groups, fetcher);
  }
  multiply_rows(sums, a, b, groups, fetcher, QUEST_INDICES(rows){});
}

template <End end>
void multiply_bundles(const TileStrip& strip) {
  alignas(64) float sums[kBlockValues];
  PendingRows<false, end> pending(strip);
  Fetcher fetcher(strip.ahead);
  const std::int64_t bundles = (strip.columns + kTileLanes - 1) / kTileLanes;
  const std::uint8_t* b = strip.b;
  for (std::int64_t bundle = 0; bundle < bundles; ++bundle, b += strip.groups * kTileGroupBytes) {
    for (std::int64_t i = 0; i < strip.rows; i += kRegisterRows) {
      multiply_some_rows(strip.rows - i, sums + i * kTileLanes, strip.a + i * kTileBytes, b,
                         strip.groups, fetcher);
    }
    pending.set(sums, bundle);
    pending.finish_all();
  }
  if (strip.streams) _mm_sfence();
}

void multiply(const TileStrip& strip) {
  by_end(strip, [&]<End end>() { multiply_bundles<end>(strip); });
}

}  // namespace

const Bf16TileKernels kBf16TilesAvx512 = {
    .least_rows = 128,
    .pack_rows = pack_rows<2>,
    .pack_columns = pack_columns_bf16,
    .pack_transposed = pack_transposed<2>,
    .pack_pairs = pack_pairs_bf16,
    .pack_pairs_codes = pack_pairs_codes,
    .multiply = multiply,
};

}  // namespace quest
