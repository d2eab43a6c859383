// Codes and masks of rotated rows, written once for all instruction sets: included after a simd16
// header and rotate_rows.inc.h. Everything stands in an anonymous namespace, by intention.

namespace quest {
namespace {

// --- Codes and mask ---

/// Codes, their sum, and by kMask the mask, of columns [first, first + 64) from z; the row has
/// `left` more columns from `first` on, and z is 0 beyond.
template <MaskBy kMask>
inline void make_64_codes(const RowCodes& to, CodeMaker& maker, const CodeScale& scale,
                          std::int64_t first, std::int64_t left, F16 (&z)[4]) {
  const F16 inverse_step = splat16(scale.inverse_step);
  const F16 limit = splat16(scale.limit);
  std::uint64_t bits = 0;
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    if constexpr (kMask == MaskBy::kBound) {
      bits |= static_cast<std::uint64_t>(within(z[i], limit)) << (16 * i);
    }
    z[i] = mul(z[i], inverse_step);
  }
  if (__builtin_expect(left >= 64, 1)) {
    const std::uint64_t in_cells = maker.make(to.codes + first, z[0], z[1], z[2], z[3]);
    if constexpr (kMask == MaskBy::kCells) bits = in_cells;
    if constexpr (kMask != MaskBy::kNothing) {
      __builtin_memcpy(to.mask + first / 8, &bits, sizeof bits);
    }
    return;
  }
  std::int8_t codes[64];
  const std::uint64_t in_cells = maker.make(codes, z[0], z[1], z[2], z[3]);  // of zeros, codes 0
  if constexpr (kMask == MaskBy::kCells) bits = in_cells;
  for (std::int64_t i = 0; i < left; ++i) to.codes[first + i] = codes[i];
  if constexpr (kMask != MaskBy::kNothing) {
    bits &= (std::uint64_t{1} << left) - 1;
    for (std::int64_t i = 0; 8 * i < left; ++i) {
      to.mask[first / 8 + i] = static_cast<std::uint8_t>(bits >> (8 * i));
    }
  }
}

/// Of rotated[0..columns), which is followed by zeros up to a multiple of 64.
template <MaskBy kMask>
void make_codes(const RowCodes& to, const RowRule& rule, const CodeScale& scale) {
  CodeMaker maker(rule.min_code, rule.max_code);
  for (std::int64_t k = 0; k < rule.columns; k += 64) {
    F16 z[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) z[i] = load16(to.rotated + k + 16 * i);
    make_64_codes<kMask>(to, maker, scale, k, rule.columns - k, z);
  }
  *to.code_sum = maker.sum();
}

void fill_broken_row(const RowCodes& to, std::int64_t columns) {
  for (std::int64_t k = 0; k < columns; ++k) to.codes[k] = 0;
  for (std::int64_t i = 0; to.mask != nullptr && 8 * i < columns; ++i) to.mask[i] = 0;
  *to.code_sum = 0;
}

/// RowQuantizer::mask_bound.
inline double mask_bound(const RowRule& rule, double rms) {
  const double outermost = rule.alpha * rms;
  if (rule.mask == RowRule::kClip) return rule.kappa * (outermost + rule.epsilon);
  if (rule.mask == RowRule::kAll) return __builtin_inf();
  const double levels = rule.max_code - rule.min_code + 1;
  return outermost > rule.epsilon ? outermost * (levels / (levels - 1)) : -1.0;
}

/// How to find the mask. The bound of trust is the border of the outermost cells but for the
/// epsilon in the clip point: where that is below the rounding of f32 a few times over, the codes
/// tell. Eight bits do not show whether a value lay outside eight bits.
inline MaskBy mask_by(const RowCodes& to, const RowRule& rule, double rms) {
  constexpr double kRounding = 0x1p-20;
  if (to.mask == nullptr) return MaskBy::kNothing;
  const bool by_cells = rule.mask == RowRule::kTrust && rule.max_code < 127 &&
                        rule.epsilon < kRounding * rule.alpha * rms;
  return by_cells ? MaskBy::kCells : MaskBy::kBound;
}

/// Rotated::rms of a row whose squares have this sum.
inline double rms_of(double square_sum, const RowRule& rule) {
  const double mean_square = square_sum / static_cast<double>(rule.columns);
  return mean_square <= 3.4e38 ? __builtin_sqrt(mean_square) : __builtin_nan("");
}
/// The same from sums over parts of it.
inline double rms_of(double (&sums)[16], const RowRule& rule) {
#pragma GCC unroll 4
  for (int half = 8; half >= 1; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  return rms_of(sums[0], rule);
}

CodeScale code_scale(const RowCodes& to, const RowRule& rule, Rotated rotated) {
  if (rotated.rms != rotated.rms) {
    *to.step = __builtin_nanf("");
    return {0.0f, 0.0f, MaskBy::kBroken, rotated.as};
  }
  const double rms = rotated.rms;
  const double step = 2.0 / (rule.max_code - rule.min_code) * (rule.alpha * rms + rule.epsilon);
  const double scale = block_scale(rule.block);
  *to.step = static_cast<float>(step);
  return {static_cast<float>(scale / step), static_cast<float>(mask_bound(rule, rms) / scale),
          mask_by(to, rule, rms), rotated.as};
}

// Rows to quantize are fetched into the second-level cache this far ahead. Where the steps of
// several rows alternate, the CPU's own prefetching loses the order of addresses: without, rows
// from memory take up to a half longer on a Zen 4.
constexpr std::int64_t kBytesFetchedAhead = 8192;

struct FetchedF32Source : F32Source {
  F16 load(std::int64_t k) const {
    __builtin_prefetch(x + k + kBytesFetchedAhead / 4, 0, 2);
    return F32Source::load(k);
  }
};

/// Leaves the row's unnormalized transform in to.rotated; returns the row's rms.
template <typename Source>
double rotate_and_square(const RowCodes& to, const Source& source, const RowRule& rule) {
  Squares<Source::kExactSquares> squares;
  rotate_up_to_128(source, PlainSink{to.rotated}, squares, rule.columns, rule.block);
  double sums[16];
  store_d16(sums, squares.total);
  return rms_of(sums, rule);
}

Rotated rotate_for_codes(const RowCodes& to, FloatRow x, const RowRule& rule) {
  for (std::int64_t k = rule.columns / 64 * 64; k < scratch_columns(rule.columns); ++k) {
    to.rotated[k] = 0.0f;
  }
  const double rms =
      x.bf16 ? rotate_and_square(to, BF16Source{static_cast<const std::uint16_t*>(x.data)}, rule)
             : rotate_and_square(to, FetchedF32Source{{static_cast<const float*>(x.data)}}, rule);
  if (rule.block > 128) rotate_beyond_128(to.rotated, rule.columns, rule.block);
  return {rms, RotatedAs::kWhole};
}

/// Makes the codes by make.operator()<mask_by>(); a broken row is filled.
template <typename Make>
inline void make_by_mask(const RowCodes& to, const RowRule& rule, MaskBy mask_by,
                         const Make& make) {
  switch (mask_by) {
    case MaskBy::kNothing:
      return make.template operator()<MaskBy::kNothing>();
    case MaskBy::kCells:
      return make.template operator()<MaskBy::kCells>();
    case MaskBy::kBound:
      return make.template operator()<MaskBy::kBound>();
    case MaskBy::kBroken:
      return fill_broken_row(to, rule.columns);
  }
}

void codes_of_rotated(const RowCodes& to, const RowRule& rule, const CodeScale& scale) {
  make_by_mask(to, rule, scale.mask_by,
               [&]<MaskBy kMask>() { make_codes<kMask>(to, rule, scale); });
}

void nothing() {}

[[maybe_unused]] constexpr RowKernels kRowKernels = {
    .begin = nothing,
    .end = nothing,
    .rotate_for_codes = rotate_for_codes,
    .code_scale = code_scale,
    .codes_of_rotated = codes_of_rotated,
    .rotate_row = rotate_row,
};

}  // namespace
}  // namespace quest
