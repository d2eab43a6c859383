// What kernels of tile products have in common: the ends of sums, and fetching ahead.

namespace quest {
namespace {

constexpr std::int64_t kBlockValues = kTileLanes * kTileLanes;

/// Where sums go.
enum class End { kPartial, kF32, kBf16 };

/// Rows of sums [32][32] that wait to be finished; on AMX that is while tiles multiply the next.
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

/// run<end>() for the place where the sums of a strip go.
template <typename Run>
void by_end(const TileStrip& strip, const Run& run) {
  if (strip.writes_partial) return run.template operator()<End::kPartial>();
  strip.out.bf16 ? run.template operator()<End::kBf16>() : run.template operator()<End::kF32>();
}

}  // namespace
}  // namespace quest
