// Packed rows, written once for all instruction sets: unpacking, rows of signs, scaling of sums.
// Each kernels_packed file includes this after its simd16 header.

namespace quest {
namespace {

/// Eight codes lie in `bits` bytes.
template <int bits>
inline void unpack_eight(std::int8_t* codes, const std::uint8_t* packed) {
  std::uint64_t stream = 0;
  __builtin_memcpy(&stream, packed, bits);
  for (int i = 0; i < 8; ++i) {
    codes[i] = static_cast<std::int8_t>(
        static_cast<int>(stream >> (bits * i) & ((1u << bits) - 1)) - (1 << (bits - 1)));
  }
}

/// The codes after the last whole group of eight; `left` is 1..7.
template <int bits>
inline void unpack_rest(std::int8_t* codes, const std::uint8_t* packed, std::int64_t left) {
  std::uint8_t bytes[8] = {};
  std::int8_t eight[8];
  __builtin_memcpy(bytes, packed, static_cast<std::size_t>((left * bits + 7) / 8));
  unpack_eight<bits>(eight, bytes);
  for (std::int64_t i = 0; i < left; ++i) codes[i] = eight[i];
}

template <int bits>
void unpack_bits(std::int8_t* codes, const std::uint8_t* packed, std::int64_t columns) {
  std::int64_t k = 0;
  for (; k + 8 <= columns; k += 8, packed += bits) unpack_eight<bits>(codes + k, packed);
  if (k < columns) unpack_rest<bits>(codes + k, packed, columns - k);
}

/// Calls body<bits>() for the number of bits at hand.
#define QUEST_FOR_BITS(bits, body) \
  switch (bits) {                  \
    case 1:                        \
      return body<1>;              \
    case 2:                        \
      return body<2>;              \
    case 3:                        \
      return body<3>;              \
    case 4:                        \
      return body<4>;              \
    case 5:                        \
      return body<5>;              \
    case 6:                        \
      return body<6>;              \
    case 7:                        \
      return body<7>;              \
    default:                       \
      return body<8>;              \
  }

/// T_j step w_steps[j] / 4 of 16 columns from j on, of which `count` exist. Where `count` is a
/// constant, compilers make vectors of the integers.
inline __attribute__((always_inline)) F16 scaled_sums(const FinishedRow& row, std::int64_t j,
                                                      int count) {
  // Modulo 2^32: a part may be too large, the whole is not.
  alignas(64) std::uint32_t integers[16] = {};
  alignas(64) float w_steps[16] = {};
  const std::int32_t* const __restrict sums = row.sums + j;
  const auto factor = static_cast<std::uint32_t>(row.factor);
  const auto constant = static_cast<std::uint32_t>(row.constant);
  for (int c = 0; c < count; ++c) {
    integers[c] = factor * static_cast<std::uint32_t>(sums[c]) + constant;
  }
  if (row.w_sums != nullptr) {
    const std::int32_t* const __restrict w_sums = row.w_sums + j;
    for (int c = 0; c < count; ++c) integers[c] += 2 * static_cast<std::uint32_t>(w_sums[c]);
  }
  for (int c = 0; c < count; ++c) w_steps[c] = row.w_steps[j + c];
  const F16 scale = mul(splat16(row.step), mul(load16(w_steps), splat16(0.25f)));
  return mul(load16_ints(reinterpret_cast<const std::int32_t*>(integers)), scale);
}

/// y[j, j + count) (= or +=) `values`.
inline __attribute__((always_inline)) void put_finished(const FinishedRow& row, std::int64_t j,
                                                        int count, F16 values) {
  const auto columns = static_cast<std::size_t>(count);
  if (row.bf16) {
    auto* const y = static_cast<std::uint16_t*>(row.y) + j;
    std::uint16_t out[16] = {};
    if (row.add) __builtin_memcpy(out, y, 2 * columns);
    store16_bf16(out, row.add ? add(load16_bf16(out), values) : values);
    __builtin_memcpy(y, out, 2 * columns);
  } else {
    auto* const y = static_cast<float*>(row.y) + j;
    float out[16] = {};
    if (row.add) __builtin_memcpy(out, y, 4 * columns);
    store16(out, row.add ? add(load16(out), values) : values);
    __builtin_memcpy(y, out, 4 * columns);
  }
}

void finish_row(const FinishedRow& row) {
  std::int64_t j = 0;
  for (; j + 16 <= row.columns; j += 16) put_finished(row, j, 16, scaled_sums(row, j, 16));
  if (j < row.columns) {
    const int rest = static_cast<int>(row.columns - j);
    put_finished(row, j, rest, scaled_sums(row, j, rest));
  }
}

/// `count` columns from j on; where it is a constant, compilers make vectors of them.
template <bool three>
inline __attribute__((always_inline)) void finish_whole_numbers(const FinishedDigits& row,
                                                                std::int64_t j, int count) {
  float* const __restrict y = row.y + j;
  const std::int32_t* const __restrict low = row.products[0] + j;
  const std::int32_t* const __restrict middle = row.products[1] + j;
  const std::int32_t* const __restrict high = three ? row.products[2] + j : nullptr;
  const float* const __restrict w_steps = row.w_steps + j;
  const double unit = row.unit, offset = row.offset;
  for (int c = 0; c < count; ++c) {
    double whole = 256.0 * middle[c] + low[c];
    if constexpr (three) whole += 65536.0 * high[c];
    y[c] = static_cast<float>(unit * (whole + offset) * w_steps[c]);
  }
}
template <bool three>
inline void finish_whole_numbers(const FinishedDigits& row) {
  std::int64_t j = 0;
  for (; j + 16 <= row.columns; j += 16) finish_whole_numbers<three>(row, j, 16);
  for (; j < row.columns; ++j) finish_whole_numbers<three>(row, j, 1);
}

void finish_digits(const FinishedDigits& row) {
  row.products[2] == nullptr ? finish_whole_numbers<false>(row) : finish_whole_numbers<true>(row);
}

}  // namespace
}  // namespace quest
