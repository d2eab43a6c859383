// Products of bf16 values in tiles on vectors, for CPUs that multiply bf16 but have no tile
// registers: 11 rows by 32 columns of sums in registers.
#include "backend/cpu/simd/accumulators.h"
#include "backend/cpu/simd/fetch_to_write.h"
#include "backend/cpu/simd/row_addresses.h"
#include "backend/cpu/simd/simd16_avx512.h"
#include "backend/cpu/tiles/tile_kernels.h"
#include "backend/cpu/tiles/tile_packing.inc.h"
#include "backend/cpu/tiles/tile_packing_pairs.inc.h"
// Stands on the names of the headers above.
#include "backend/cpu/tiles/tile_ends.inc.h"

namespace quest {
namespace {

/// Three of these are a bundle.
constexpr int kRegisterRows = 11;

/// sums += two products in each lane. As assembly: g++ 12 copies accumulators around the intrinsic.
inline __attribute__((always_inline)) void dot_pairs(__m512i& sums, __m512i a, __m512i b) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
}

/// Rows of the first operand whose pairs follow each other, packed or where they lie.
struct RowsOfPairs {
  RowAddresses rows;
  std::int64_t row_bytes, group_bytes;

  template <int r>
  const std::uint8_t* at(int pair) const {
    return rows.row<r>(row_bytes) + 4 * pair;
  }
  void next_group() {
    for (const std::uint8_t*& third : rows.third) third += group_bytes;
  }
};

/// Rows of the first operand as lanes of pairs: a tile has 16 of them, the other tile the others.
struct LanesOfPairs {
  /// Of the first rows, and of those that may lie in the other tile.
  static constexpr int kFirst = kTileRows - kRegisterRows;
  const std::uint8_t* first;
  const std::uint8_t* others;

  LanesOfPairs(const std::uint8_t* a, std::int64_t row)
      : first(address(a, row)), others(address(a, row + kFirst)) {}
  static const std::uint8_t* address(const std::uint8_t* a, std::int64_t row) {
    return a + row / kTileRows * kTileSize + row % kTileRows * 4;
  }
  template <int r>
  const std::uint8_t* at(int pair) const {
    return (r < kFirst ? first + 4 * r : others + 4 * (r - kFirst)) + kTileBytes * pair;
  }
  void next_group() {
    first += kTileGroupBytes;
    others += kTileGroupBytes;
  }
};

/// Row r against 32 columns, a pair of summed values.
template <int r, typename Sums>
inline __attribute__((always_inline)) void add_row(Sums& sums, const std::uint8_t* at, __m512i low,
                                                   __m512i high) {
  std::int32_t pair;
  __builtin_memcpy(&pair, at, sizeof pair);
  const __m512i both = _mm512_set1_epi32(pair);
  dot_pairs(sums.template at<2 * r>(), low, both);
  dot_pairs(sums.template at<2 * r + 1>(), high, both);
}

/// sums [rows][32] = `groups` groups of rows against a packed bundle of columns.
template <typename Rows, int... rows>
inline void multiply_rows(float* sums, Rows a, const std::uint8_t* b, std::int64_t groups,
                          Fetcher& fetcher, Indices<int, rows...>) {
  Accumulators<2 * sizeof...(rows)> totals;
  for (std::int64_t g = 0; g < groups; ++g, a.next_group(), b += kTileGroupBytes) {
    fetcher.fetch_one();
    fetcher.fetch_one();
#pragma GCC unroll 16
    for (int pair = 0; pair < kTileRows; ++pair) {
      const __m512i low = _mm512_load_si512(b + kTileBytes * pair);
      const __m512i high = _mm512_load_si512(b + kTileSize + kTileBytes * pair);
      (add_row<rows>(totals, a.template at<rows>(pair), low, high), ...);
    }
  }
  ((_mm512_store_si512(sums + 32 * rows, totals.template at<2 * rows>()),
    _mm512_store_si512(sums + 32 * rows + 16, totals.template at<2 * rows + 1>())),
   ...);
}

template <typename Rows, int rows = kRegisterRows>
void multiply_some_rows(std::int64_t count, float* sums, const Rows& a, const std::uint8_t* b,
                        std::int64_t groups, Fetcher& fetcher) {
  if constexpr (rows > 1) {
    if (count < rows) return multiply_some_rows<Rows, rows - 1>(count, sums, a, b, groups, fetcher);
  }
  multiply_rows(sums, a, b, groups, fetcher, QUEST_INDICES(rows){});
}

/// Asks for what the rows in registers will be written to.
inline void fetch_outputs(const TileStrip& strip, std::int64_t row, std::int64_t column) {
  const std::int64_t end = least(row + kRegisterRows, strip.rows);
  for (std::int64_t i = row; i < end; ++i) {
    fetch_to_write(strip.out, i * strip.out_stride + column);
  }
}

template <End end>
void multiply_bundles(const TileStrip& strip) {
  alignas(64) float sums[kBlockValues];
  PendingRows<false, end> pending(strip);
  Fetcher fetcher(strip.ahead);
  const bool packed = strip.a_row_bytes == 0;
  const std::int64_t row_bytes = packed ? kTileBytes : strip.a_row_bytes;
  const std::int64_t group_bytes = packed ? kTileGroupBytes : kTileDepthBytes;
  const std::int64_t bundles = (strip.columns + kTileLanes - 1) / kTileLanes;
  const std::uint8_t* b = strip.b;
  for (std::int64_t bundle = 0; bundle < bundles; ++bundle, b += strip.groups * kTileGroupBytes) {
    for (std::int64_t i = 0; i < strip.rows; i += kRegisterRows) {
      float* const to = sums + i * kTileLanes;
      if (end != End::kPartial && !strip.streams) fetch_outputs(strip, i, bundle * kTileLanes);
      if (strip.a_lanes_are_rows) {
        const RowsOfPairs a{{strip.a + i * row_bytes, row_bytes}, row_bytes, group_bytes};
        multiply_some_rows(strip.rows - i, to, a, b, strip.groups, fetcher);
      } else {
        const LanesOfPairs a(strip.a, i);
        multiply_some_rows(strip.rows - i, to, a, b, strip.groups, fetcher);
      }
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
    .in_vectors = true,
    .pack_rows = each_bundle<pack_rows<2>>,
    .pack_columns = each_group<pack_row_pairs>,
    .pack_transposed = each_bundle<pack_transposed<2>>,
    .pack_pairs = each_group<pack_row_pairs>,
    .pack_pairs_codes = pack_row_pairs_codes,
    .multiply = multiply,
};

}  // namespace quest
