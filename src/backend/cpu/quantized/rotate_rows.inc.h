// Rotation of rows, written once for all instruction sets: included after a simd16 header.
// Everything stands in an anonymous namespace, by intention.

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

/// The stages of the transform inside 16 lanes from stage h on, for blocks of `lanes` <= 16: all
/// vectors pass a stage before any passes the next, since each waits for its own last one.
template <int lanes, int h = 1, int vectors>
inline void transform_lanes(F16 (&x)[vectors]) {
  if constexpr (h < lanes) {
#pragma GCC unroll 8
    for (int i = 0; i < vectors; ++i) x[i] = butterfly<h>(x[i]);
    transform_lanes<lanes, 2 * h>(x);
  }
}

/// Sums of squares: f32 over a group, f64 over groups. Exact squares in two sums, of every second
/// vector: where the values of two vectors lie mixed in one (interleaved_rows_avx512.inc.h), these
/// are its halves.
template <bool exact>
struct Squares {
  D16 total = zero_d16();
  template <int vectors>
  void take(const F16 (&x)[vectors]) {
    F16 group = mul(x[0], x[0]);
    if constexpr (exact && vectors > 1) {
      F16 odd = mul(x[1], x[1]);
#pragma GCC unroll 8
      for (int i = 2; i < vectors; i += 2) {
        group = add_exact_square(group, x[i]);
        odd = add_exact_square(odd, x[i + 1]);
      }
      group = add(group, odd);
    } else {
#pragma GCC unroll 8
      for (int i = 1; i < vectors; ++i) group = add(group, mul(x[i], x[i]));
    }
    total = add(total, group);
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
    transform_lanes<lanes>(x);
#pragma GCC unroll 8
    for (int i = 0; i < vectors; ++i) sink.store(k + 16 * i, x[i]);
  }
  if (k < columns) {  // blocks of less than 16
    F16 x[1] = {source.load_part(k, columns - k)};
    statistics.take(x);
    transform_lanes<lanes>(x);
    sink.store_part(k, x[0], columns - k);
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

}  // namespace
}  // namespace quest
