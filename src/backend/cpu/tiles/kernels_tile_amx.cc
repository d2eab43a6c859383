// Products on AMX tiles: the loop over tiles.
#include "backend/cpu/simd/amx_tiles.h"
#include "backend/cpu/simd/simd16_avx512.h"
#include "backend/cpu/tiles/tile_kernels.h"
#include "backend/cpu/tiles/tile_packing_bytes.inc.h"
#include "backend/cpu/tiles/tile_packing_columns.inc.h"
// Stands on the names of the headers above.
#include "backend/cpu/tiles/tile_ends.inc.h"

namespace quest {
namespace {

#define QUEST_DOT(sum, a, b)   \
  if constexpr (bytes) {       \
    _tile_dpbssd(sum, a, b);   \
  } else {                     \
    _tile_dpbf16ps(sum, a, b); \
  }

/// Groups of rows that stay in the first-level cache beside the sums. Columns shall not wash them
/// out and are loaded past it (2.2 against 3.1 TFLOP/s in bf16 at 16 groups, of a peak of 3.9), and
/// so are the rows' other groups: 25 ns a step from 16 to 64 groups, where plain loads of all take
/// 30 from 28 groups on.
constexpr std::int64_t kResidentGroups = 18;

#define QUEST_LOAD_ROWS(tile, rows)             \
  if constexpr (resident) {                     \
    _tile_loadd(tile, rows, kTileBytes);        \
  } else {                                      \
    _tile_stream_loadd(tile, rows, kTileBytes); \
  }

/// Adds a group to the sums in registers 0 to 3.
template <bool bytes, bool lower, bool resident>
inline void multiply_group(const std::uint8_t* a, const std::uint8_t* b) {
  _tile_stream_loadd(6, b, kTileBytes);
  QUEST_LOAD_ROWS(4, a)
  QUEST_DOT(0, 4, 6)
  _tile_stream_loadd(7, b + kTileSize, kTileBytes);
  QUEST_DOT(1, 4, 7)
  if constexpr (lower) {
    QUEST_LOAD_ROWS(5, a + kTileSize)
    QUEST_DOT(2, 5, 6)
    QUEST_DOT(3, 5, 7)
  }
}
#undef QUEST_LOAD_ROWS

/// The same for the first group of a block, and stores the sums of the block before, each tile just
/// before it is needed: storing all four after the last group costs 100 cycles more.
template <bool bytes, bool lower>
inline void begin_block(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* sums) {
  constexpr std::int64_t kStride = kTileLanes * 4;
  _tile_stream_loadd(6, b, kTileBytes);
  _tile_loadd(4, a, kTileBytes);
  _tile_stored(0, sums, kStride);
  _tile_zero(0);
  QUEST_DOT(0, 4, 6)
  _tile_stream_loadd(7, b + kTileSize, kTileBytes);
  _tile_stored(1, sums + kTileBytes, kStride);
  _tile_zero(1);
  QUEST_DOT(1, 4, 7)
  if constexpr (lower) {
    _tile_loadd(5, a + kTileSize, kTileBytes);
    _tile_stored(2, sums + kTileRows * kStride, kStride);
    _tile_zero(2);
    QUEST_DOT(2, 5, 6)
    _tile_stored(3, sums + kTileRows * kStride + kTileBytes, kStride);
    _tile_zero(3);
    QUEST_DOT(3, 5, 7)
  }
}
#undef QUEST_DOT

/// Block after block of one bundle of columns; the vector units finish the sums of a block while
/// the tile unit multiplies the next one.
template <bool bytes, End end, bool lower>
void multiply_blocks(const TileStrip& strip) {
  alignas(64) std::uint8_t sums[kBlockValues * 4];
  PendingRows<bytes, end> pending(strip);
  const std::int64_t bundles = (strip.columns + kTileLanes - 1) / kTileLanes;
  const std::uint8_t* b = strip.b;
  Fetcher fetcher(strip.ahead);
  for (std::int64_t bundle = 0; bundle < bundles; ++bundle) {
    const std::uint8_t* a = strip.a;
    begin_block<bytes, lower>(a, b, sums);
    if (bundle > 0) pending.set(sums, bundle - 1);
    std::int64_t due = 0;
    b += kTileGroupBytes;
    for (std::int64_t g = 1; g < strip.groups; ++g, b += kTileGroupBytes) {
      a += kTileGroupBytes;
      g < kResidentGroups ? multiply_group<bytes, lower, true>(a, b)
                          : multiply_group<bytes, lower, false>(a, b);
      fetcher.fetch_one();
      fetcher.fetch_one();
      for (due += kTileLanes; due >= strip.groups; due -= strip.groups) {
        if (pending.count() > 0) pending.finish_one();
      }
    }
    pending.finish_all();
  }
  store_sums(sums);
  pending.set(sums, bundles - 1);
  pending.finish_all();
  if (strip.streams) _mm_sfence();
}

template <bool bytes, End end>
void multiply_rows(const TileStrip& strip) {
  configure_tiles(kTileLanes);
  strip.rows > kTileRows ? multiply_blocks<bytes, end, true>(strip)
                         : multiply_blocks<bytes, end, false>(strip);
  _tile_release();
}

template <bool bytes>
void multiply(const TileStrip& strip) {
  by_end(strip, [&]<End end>() { multiply_rows<bytes, end>(strip); });
}

}  // namespace

const Bf16TileKernels kBf16TilesAmx = {
    .least_rows = 1,
    .in_vectors = false,
    .pack_rows = each_bundle<pack_rows<2>>,
    .pack_columns = each_group<pack_columns_bf16>,
    .pack_transposed = each_bundle<pack_transposed<2>>,
    .pack_pairs = each_group<pack_pairs_bf16>,
    .pack_pairs_codes = each_group<pack_pairs_codes>,
    .multiply = multiply<false>,
};
const ByteTileKernels kByteTilesAmx = {
    .pack_rows = each_bundle<pack_rows<1>>,
    .pack_transposed = each_bundle<pack_transposed<1>>,
    .pack_transposed_packed = each_bundle<pack_transposed_packed>,
    .pack_quads = each_group<pack_quads_bytes>,
    .multiply = multiply<true>,
};

}  // namespace quest
