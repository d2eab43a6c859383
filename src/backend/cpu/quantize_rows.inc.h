// Quantization of rows, written once for all instruction sets: each kernels_quant file includes
// this after its simd16 header. Everything stands in an anonymous namespace, by intention.

namespace quest {
namespace {

// --- Where a row comes from ---

/// `load` gives 16 values from column k on; `load_part` the first n of them, then zeros. Squares
/// are exact in f32 where a value has half its digits, as bf16 does.
struct F32Source {
  static constexpr bool kExactSquares = false;
  const float* x;
  F16 load(std::int64_t k) const { return load16(x + k); }
  F16 load_part(std::int64_t k, std::int64_t n) const {
    float values[16] = {};
    for (std::int64_t i = 0; i < n; ++i) values[i] = x[k + i];
    return load16(values);
  }
};

struct BF16Source {
  static constexpr bool kExactSquares = true;
  const std::uint16_t* x;
  F16 load(std::int64_t k) const { return load16_bf16(x + k); }
  F16 load_part(std::int64_t k, std::int64_t n) const {
    std::uint16_t values[16] = {};
    for (std::int64_t i = 0; i < n; ++i) values[i] = x[k + i];
    return load16_bf16(values);
  }
};

struct CodesSource {
  const std::int8_t* codes;
  F16 step;
  F16 load(std::int64_t k) const { return mul(add(load16_codes(codes + k), splat16(0.5f)), step); }
  F16 load_part(std::int64_t k, std::int64_t n) const {
    std::int8_t values[16] = {};
    for (std::int64_t i = 0; i < n; ++i) values[i] = codes[k + i];
    return mul(add(load16_codes(values), splat16(0.5f)), step);
  }
};

template <typename Source>
struct MaskedSource {
  Source source;
  const std::uint8_t* mask;
  F16 load(std::int64_t k) const {
    std::uint16_t bits;
    __builtin_memcpy(&bits, mask + k / 8, sizeof bits);
    return select_bits(bits, source.load(k));
  }
  F16 load_part(std::int64_t k, std::int64_t n) const {
    std::uint32_t bits = mask[k / 8];
    if (n > 8) bits |= static_cast<std::uint32_t>(mask[k / 8 + 1]) << 8;
    return select_bits(bits, source.load_part(k, n));
  }
};

// --- Where a row goes ---

struct PlainSink {
  float* out;
  void store(std::int64_t k, F16 x) const { store16(out + k, x); }
  void store_part(std::int64_t k, F16 x, std::int64_t) const { store16(out + k, x); }
};

template <bool kAdd>
struct F32Sink {
  float* out;
  F16 scale;
  void store(std::int64_t k, F16 x) const {
    const F16 scaled = mul(x, scale);
    store16(out + k, kAdd ? add(load16(out + k), scaled) : scaled);
  }
  void store_part(std::int64_t k, F16 x, std::int64_t n) const {
    float values[16];
    store16(values, mul(x, scale));
    for (std::int64_t i = 0; i < n; ++i) out[k + i] = kAdd ? out[k + i] + values[i] : values[i];
  }
};

template <bool kAdd>
struct BF16Sink {
  std::uint16_t* out;
  F16 scale;
  void store(std::int64_t k, F16 x) const {
    const F16 scaled = mul(x, scale);
    store16_bf16(out + k, kAdd ? add(load16_bf16(out + k), scaled) : scaled);
  }
  void store_part(std::int64_t k, F16 x, std::int64_t n) const {
    std::uint16_t values[16] = {};
    for (std::int64_t i = 0; i < n; ++i) values[i] = out[k + i];
    const F16 scaled = mul(x, scale);
    store16_bf16(values, kAdd ? add(load16_bf16(values), scaled) : scaled);
    for (std::int64_t i = 0; i < n; ++i) out[k + i] = values[i];
  }
};

// --- The rotation ---

/// The stages of the transform inside 16 lanes, for blocks of `lanes` <= 16.
template <int lanes>
inline F16 transform_lanes(F16 x) {
  if constexpr (lanes >= 2) x = butterfly<1>(x);
  if constexpr (lanes >= 4) x = butterfly<2>(x);
  if constexpr (lanes >= 8) x = butterfly<4>(x);
  if constexpr (lanes >= 16) x = butterfly<8>(x);
  return x;
}

/// Sums of squares: f32 over a group, f64 over groups.
template <bool exact>
struct Squares {
  D16 total = zero_d16();
  template <int vectors>
  void take(const F16 (&x)[vectors]) {
    F16 group = mul(x[0], x[0]);
#pragma GCC unroll 8
    for (int i = 1; i < vectors; ++i) {
      group = exact ? add_exact_square(group, x[i]) : add(group, mul(x[i], x[i]));
    }
    total = add(total, group);
  }
  double sum() const {
    double lanes[16];
    store_d16(lanes, total);
#pragma GCC unroll 4
    for (int half = 8; half >= 1; half /= 2) {
#pragma GCC unroll 8
      for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    }
    return lanes[0];
  }
};
struct NoSquares {
  template <int vectors>
  void take(const F16 (&)[vectors]) {}
};

/// Unnormalized transform of groups of `vectors` * 16 values: of blocks of that size, or of
/// `lanes` < 16 values when `vectors` is 1.
template <int vectors, int lanes, typename Source, typename Sink, typename Statistics>
inline void rotate_groups(const Source& source, const Sink& sink, Statistics& statistics,
                          std::int64_t columns) {
  std::int64_t k = 0;
  for (; k + 16 * vectors <= columns; k += 16 * vectors) {
    F16 x[vectors];
#pragma GCC unroll 8
    for (int i = 0; i < vectors; ++i) x[i] = source.load(k + 16 * i);
    statistics.take(x);
#pragma GCC unroll 3
    for (int half = vectors / 2; half >= 1; half /= 2) {
#pragma GCC unroll 8
      for (int i = 0; i < vectors; ++i) {
        if ((i & half) != 0) continue;
        const F16 sum = add(x[i], x[i + half]);
        x[i + half] = sub(x[i], x[i + half]);
        x[i] = sum;
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < vectors; ++i) sink.store(k + 16 * i, transform_lanes<lanes>(x[i]));
  }
  if (k < columns) {  // blocks of less than 16
    F16 x[1] = {source.load_part(k, columns - k)};
    statistics.take(x);
    sink.store_part(k, transform_lanes<lanes>(x[0]), columns - k);
  }
}

/// The transform up to blocks of 128.
template <typename Source, typename Sink, typename Statistics>
void rotate_up_to_128(const Source& source, const Sink& sink, Statistics& statistics,
                      std::int64_t columns, std::int64_t block) {
  if (block >= 128) return rotate_groups<8, 16>(source, sink, statistics, columns);
  switch (block) {
    case 64:
      return rotate_groups<4, 16>(source, sink, statistics, columns);
    case 32:
      return rotate_groups<2, 16>(source, sink, statistics, columns);
    case 16:
      return rotate_groups<1, 16>(source, sink, statistics, columns);
    case 8:
      return rotate_groups<1, 8>(source, sink, statistics, columns);
    case 4:
      return rotate_groups<1, 4>(source, sink, statistics, columns);
    case 2:
      return rotate_groups<1, 2>(source, sink, statistics, columns);
    default:
      return rotate_groups<1, 1>(source, sink, statistics, columns);
  }
}

/// The remaining stages, for blocks of more than 128, in place.
void rotate_beyond_128(float* z, std::int64_t columns, std::int64_t block) {
  for (std::int64_t half = 128; half < block; half *= 2) {
    for (std::int64_t start = 0; start < columns; start += 2 * half) {
      for (std::int64_t i = start; i < start + half; i += 16) {
        const F16 a = load16(z + i);
        const F16 b = load16(z + i + half);
        store16(z + i, add(a, b));
        store16(z + i + half, sub(a, b));
      }
    }
  }
}

/// 1 / sqrt(block), which makes the transform orthonormal.
inline double block_scale(std::int64_t block) {
  return 1.0 / __builtin_sqrt(static_cast<double>(block));
}

template <typename Source, typename Sink>
inline void rotate_between(const Source& source, const Sink& sink, float* scratch,
                           std::int64_t columns, std::int64_t block) {
  NoSquares none;
  if (block <= 128) return rotate_up_to_128(source, sink, none, columns, block);
  rotate_up_to_128(source, PlainSink{scratch}, none, columns, block);
  rotate_beyond_128(scratch, columns, block);
  rotate_up_to_128(F32Source{scratch}, sink, none, columns, 1);
}

template <typename Source>
void rotate_to(const RotatedRow& to, const Source& source, std::int64_t columns,
               std::int64_t block) {
  const F16 scale = splat16(static_cast<float>(block_scale(block)));
  if (to.out.bf16) {
    auto* const out = static_cast<std::uint16_t*>(to.out.data);
    if (to.add)
      return rotate_between(source, BF16Sink<true>{out, scale}, to.scratch, columns, block);
    return rotate_between(source, BF16Sink<false>{out, scale}, to.scratch, columns, block);
  }
  auto* const out = static_cast<float*>(to.out.data);
  if (to.add) return rotate_between(source, F32Sink<true>{out, scale}, to.scratch, columns, block);
  return rotate_between(source, F32Sink<false>{out, scale}, to.scratch, columns, block);
}

void rotate_row(const RotatedRow& to, FloatRow d_z, const std::uint8_t* mask, std::int64_t columns,
                std::int64_t block) {
  const F32Source f32{static_cast<const float*>(d_z.data)};
  const BF16Source bf16{static_cast<const std::uint16_t*>(d_z.data)};
  if (mask == nullptr) {
    if (d_z.bf16) return rotate_to(to, bf16, columns, block);
    return rotate_to(to, f32, columns, block);
  }
  if (d_z.bf16) return rotate_to(to, MaskedSource<BF16Source>{bf16, mask}, columns, block);
  return rotate_to(to, MaskedSource<F32Source>{f32, mask}, columns, block);
}

void dequantize_row(const RotatedRow& to, const std::int8_t* codes, float step,
                    std::int64_t columns, std::int64_t block) {
  rotate_to(to, CodesSource{codes, splat16(step)}, columns, block);
}

// --- Codes and mask ---

/// The numbers that turn a rotated row, still without its factor 1/sqrt(block), into codes.
struct CodeScale {
  float inverse_step;  ///< code = floor(z inverse_step)
  float limit;         ///< the mask passes |z| <= limit
};

/// Codes, their sum, and (unless null) the mask of rotated[0..columns), which is followed by zeros
/// up to a multiple of 64.
template <bool kMask>
std::int32_t make_codes(const RowCodes& to, const RowRule& rule, CodeScale scale) {
  CodeMaker maker(rule.min_code, rule.max_code);
  const F16 inverse_step = splat16(scale.inverse_step);
  const F16 limit = splat16(scale.limit);
  for (std::int64_t k = 0; k < rule.columns; k += 64) {
    F16 z[4];
    std::uint64_t bits = 0;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      z[i] = load16(to.rotated + k + 16 * i);
      if constexpr (kMask) bits |= static_cast<std::uint64_t>(within(z[i], limit)) << (16 * i);
      z[i] = mul(z[i], inverse_step);
    }
    const std::int64_t left = rule.columns - k;
    if (left >= 64) {
      maker.make(to.codes + k, z[0], z[1], z[2], z[3]);
      if constexpr (kMask) __builtin_memcpy(to.mask + k / 8, &bits, sizeof bits);
    } else {
      std::int8_t codes[64];
      maker.make(codes, z[0], z[1], z[2], z[3]);  // the codes of the zeros are 0
      for (std::int64_t i = 0; i < left; ++i) to.codes[k + i] = codes[i];
      if constexpr (kMask) {
        bits &= (std::uint64_t{1} << left) - 1;
        for (std::int64_t i = 0; 8 * i < left; ++i) {
          to.mask[k / 8 + i] = static_cast<std::uint8_t>(bits >> (8 * i));
        }
      }
    }
  }
  return maker.sum();
}

void fill_broken_row(const RowCodes& to, std::int64_t columns) {
  for (std::int64_t k = 0; k < columns; ++k) to.codes[k] = 0;
  for (std::int64_t i = 0; to.mask != nullptr && 8 * i < columns; ++i) to.mask[i] = 0;
  *to.step = __builtin_nanf("");
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

/// Leaves the row's unnormalized transform in to.rotated; returns the sum of the row's squares.
template <typename Source>
double rotate_and_square(const RowCodes& to, const Source& source, const RowRule& rule) {
  Squares<Source::kExactSquares> squares;
  rotate_up_to_128(source, PlainSink{to.rotated}, squares, rule.columns, rule.block);
  return squares.sum();
}

void quantize_row(const RowCodes& to, FloatRow x, const RowRule& rule) {
  for (std::int64_t k = rule.columns / 64 * 64; k < scratch_columns(rule.columns); ++k) {
    to.rotated[k] = 0.0f;
  }
  const double square_sum =
      x.bf16 ? rotate_and_square(to, BF16Source{static_cast<const std::uint16_t*>(x.data)}, rule)
             : rotate_and_square(to, F32Source{static_cast<const float*>(x.data)}, rule);
  if (rule.block > 128) rotate_beyond_128(to.rotated, rule.columns, rule.block);

  // What does not depend on the row's values is computed first: the divisions and roots that do
  // stand between the two passes over the row, where nothing hides them.
  const double inverse_columns = 1.0 / static_cast<double>(rule.columns);
  const double steps_per_clip_point = 2.0 / (rule.max_code - rule.min_code);
  const double scale = block_scale(rule.block);
  const double inverse_scale = 1.0 / scale;
  const double mean_square = square_sum * inverse_columns;
  if (!(mean_square <= 3.4e38)) return fill_broken_row(to, rule.columns);
  const double rms = __builtin_sqrt(mean_square);
  const double step = steps_per_clip_point * (rule.alpha * rms + rule.epsilon);
  const CodeScale code_scale{static_cast<float>(scale / step),
                             static_cast<float>(mask_bound(rule, rms) * inverse_scale)};
  *to.step = static_cast<float>(step);
  *to.code_sum = to.mask == nullptr ? make_codes<false>(to, rule, code_scale)
                                    : make_codes<true>(to, rule, code_scale);
}

void odd_codes_bf16(std::uint16_t* out, const std::int8_t* codes, std::int64_t count) {
  for (std::int64_t k = 0; k < count; ++k) {
    const float odd = static_cast<float>(2 * codes[k] + 1);
    std::uint32_t bits;
    __builtin_memcpy(&bits, &odd, sizeof bits);
    out[k] = static_cast<std::uint16_t>(bits >> 16);
  }
}

void scale_bf16(std::uint16_t* out, const std::uint16_t* x, float scale, std::int64_t count) {
  NoSquares none;
  const BF16Sink<false> sink{out, splat16(scale)};
  rotate_up_to_128(BF16Source{x}, sink, none, count, 1);
}

void scale_columns_bf16(std::uint16_t* out, const std::uint16_t* x, const float* scales,
                        std::int64_t count) {
  const BF16Source source{x};
  const F32Source scale_source{scales};
  const BF16Sink<false> sink{out, splat16(1.0f)};
  std::int64_t k = 0;
  for (; k + 16 <= count; k += 16) sink.store(k, mul(source.load(k), scale_source.load(k)));
  if (k < count) {
    const std::int64_t left = count - k;
    sink.store_part(k, mul(source.load_part(k, left), scale_source.load_part(k, left)), left);
  }
}

}  // namespace
}  // namespace quest
