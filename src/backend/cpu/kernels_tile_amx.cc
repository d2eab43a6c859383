// Products on AMX tiles: the loop over tiles, and the end of a tile.
#include "backend/cpu/amx_tiles.h"
#include "backend/cpu/simd16_avx512.h"
#include "backend/cpu/tile_kernels.h"
#include "backend/cpu/tile_packing.inc.h"

namespace quest {
namespace {

constexpr std::int64_t kBlockValues = kTileLanes * kTileLanes;

// --- The end of a tile ---

/// Where sums go.
enum class End { kPartial, kF32, kBf16 };

/// Rows of sums [32][32] that wait to be finished, while the tile unit multiplies the next.
template <bool bytes, End end>
class PendingRows {
 public:
  explicit PendingRows(const TileStrip& strip) : strip_(strip) {}

  /// `sums` belong to the bundle of columns `bundle`.
  void set(const void* sums, std::int64_t bundle) {
    sums_ = static_cast<const std::uint8_t*>(sums);
    row_ = 0;
    column_ = bundle * kTileLanes;
    const std::int64_t left = strip_.columns - column_;
    valid_ = first_lanes(left < kTileLanes ? left : kTileLanes);
    if (strip_.partial != nullptr) {
      partial_ = static_cast<std::uint8_t*>(strip_.partial) + bundle * kBlockValues * 4;
    }
    if constexpr (bytes && end != End::kPartial) {
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        biases_[v] = _mm512_loadu_si512(strip_.scales.column_biases + column_ + 16 * v);
        scales_[v] = load16(strip_.scales.column_scales + column_ + 16 * v);
      }
    }
  }
  std::int64_t count() const { return strip_.rows - row_; }

  void finish_one() {
    const std::int64_t offset = row_ * kTileLanes * 4;
    __m512i sums[2];
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      sums[v] = _mm512_load_si512(sums_ + offset + 64 * v);
      if (strip_.reads_partial) sums[v] = added(sums[v], partial_ + offset + 64 * v);
    }
    if constexpr (end == End::kPartial) {
      _mm512_store_si512(partial_ + offset, sums[0]);
      _mm512_store_si512(partial_ + offset + 64, sums[1]);
    } else {
      put(finished(sums[0], 0), finished(sums[1], 1));
    }
    ++row_;
  }
  void finish_all() {
    while (row_ < strip_.rows) finish_one();
  }

 private:
  static __m512i added(__m512i sums, const std::uint8_t* partial) {
    const __m512i before = _mm512_load_si512(partial);
    if constexpr (bytes) return _mm512_add_epi32(sums, before);
    return _mm512_castps_si512(
        _mm512_add_ps(_mm512_castsi512_ps(sums), _mm512_castsi512_ps(before)));
  }
  F16 finished(__m512i sums, int v) const {
    if constexpr (!bytes) return {_mm512_castsi512_ps(sums)};
    // Modulo 2^32, which the total itself fits.
    const TileScales& s = strip_.scales;
    const __m512i shifted = _mm512_sll_epi32(sums, _mm_cvtsi32_si128(s.shift));
    const __m512i bias = _mm512_add_epi32(biases_[v], _mm512_set1_epi32(s.row_biases[row_]));
    const F16 total = {_mm512_cvtepi32_ps(_mm512_add_epi32(shifted, bias))};
    return mul(total, mul(splat16(s.row_scales[row_]), scales_[v]));
  }
  void put(F16 low, F16 high) const {
    const std::int64_t at = row_ * strip_.out_stride + column_;
    const auto valid_low = static_cast<__mmask16>(valid_);
    const auto valid_high = static_cast<__mmask16>(valid_ >> 16);
    if constexpr (end == End::kBf16) {
      auto* const out = static_cast<std::uint16_t*>(strip_.out.data) + at;
      if (strip_.add) {
        low = add(widened(_mm256_maskz_loadu_epi16(valid_low, out)), low);
        high = add(widened(_mm256_maskz_loadu_epi16(valid_high, out + 16)), high);
      }
      _mm512_mask_storeu_epi16(out, valid_, bf16_bits(low, high));
    } else {
      auto* const out = static_cast<float*>(strip_.out.data) + at;
      if (strip_.add) {
        low = add({_mm512_maskz_loadu_ps(valid_low, out)}, low);
        high = add({_mm512_maskz_loadu_ps(valid_high, out + 16)}, high);
      }
      if (strip_.streams && valid_ == ~__mmask32{0}) {
        _mm512_stream_ps(out, low.v);
        _mm512_stream_ps(out + 16, high.v);
        return;
      }
      _mm512_mask_storeu_ps(out, valid_low, low.v);
      _mm512_mask_storeu_ps(out + 16, valid_high, high.v);
    }
  }

  const TileStrip& strip_;
  __mmask32 valid_ = 0;
  __m512i biases_[2];
  F16 scales_[2];
  const std::uint8_t* sums_ = nullptr;
  std::uint8_t* partial_ = nullptr;
  std::int64_t row_ = 1 << 10;
  std::int64_t column_ = 0;
};

// --- Multiplying ---

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

/// Fetches lines one by one.
class Fetcher {
 public:
  explicit Fetcher(const LinesAhead& ahead) : ahead_(ahead) {}

  void fetch_one() {
    if (ahead_.rows <= 0) return;
    _mm_prefetch(ahead_.data + kTileBytes * line_, _MM_HINT_T1);
    if (++line_ < ahead_.lines) return;
    line_ = 0;
    ahead_.data += ahead_.stride;
    --ahead_.rows;
  }

 private:
  LinesAhead ahead_;
  std::int64_t line_ = 0;
};

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
  if (strip.writes_partial) return multiply_rows<bytes, End::kPartial>(strip);
  if (strip.out.bf16) return multiply_rows<bytes, End::kBf16>(strip);
  multiply_rows<bytes, End::kF32>(strip);
}

}  // namespace

const TileKernels kTileKernelsAmx = {
    .pack_rows_bf16 = pack_rows<2>,
    .pack_rows_bytes = pack_rows<1>,
    .pack_columns_bf16 = pack_columns_bf16,
    .pack_transposed_bf16 = pack_transposed<2>,
    .pack_transposed_bytes = pack_transposed<1>,
    .pack_transposed_packed = pack_transposed_packed,
    .pack_pairs_bf16 = pack_pairs_bf16,
    .pack_pairs_codes = pack_pairs_codes,
    .pack_quads_bytes = pack_quads_bytes,
    .multiply_bf16 = multiply<false>,
    .multiply_bytes = multiply<true>,
};

}  // namespace quest
