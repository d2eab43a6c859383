// Packed products for instruction sets without an 8-bit dot product: a row of w is unpacked to
// 16-bit numbers in the first-level cache, and pairs of them are multiplied and added.

namespace quest {
namespace {

using Unpack = void (*)(std::int8_t*, const std::uint8_t*, std::int64_t);
inline Unpack unpack_of(int bits) { QUEST_FOR_BITS(bits, unpack_bits) }

void unpack_row(std::int8_t* codes, const std::uint8_t* packed, std::int64_t columns, int bits) {
  unpack_of(bits)(codes, packed, columns);
}

std::int64_t x_row_bytes(std::int64_t columns, int) { return 2 * columns; }

void pack_x(std::uint8_t* out, const std::int8_t* codes, std::int64_t columns, int) {
  for (std::int64_t k = 0; k < columns; ++k) {
    const std::int16_t word = codes[k];
    __builtin_memcpy(out + 2 * k, &word, sizeof word);
  }
}

inline std::int32_t dot_of_words(const std::int16_t* a, const std::int16_t* b, std::int64_t count) {
  std::int32_t sum = 0;
  for (std::int64_t k = 0; k < count; ++k) sum += static_cast<std::int32_t>(a[k]) * b[k];
  return sum;
}

void dot(const PackedDot& d) {
  const Unpack unpack = unpack_of(d.bits);
  auto* const words = reinterpret_cast<std::int16_t*>(d.scratch);
  auto* const codes = reinterpret_cast<std::int8_t*>(words + d.k);
  const auto offset = static_cast<std::int16_t>(1 << (d.bits - 1));
  for (std::int64_t j = 0; j < d.columns; ++j) {
    unpack(codes, d.w + j * d.w_row_bytes, d.k);
    for (std::int64_t k = 0; k < d.k; ++k) words[k] = static_cast<std::int16_t>(codes[k] + offset);
    for (std::int64_t i = 0; i < d.rows; ++i) {
      const auto* const x = reinterpret_cast<const std::int16_t*>(d.x + i * d.x_row_bytes);
      d.sums[i * d.stride + j] = dot_of_words(x, words, d.k);
    }
  }
}

inline std::int32_t count_bits(std::uint64_t x) {
#if defined(__POPCNT__)
  return __builtin_popcountll(x);
#else
  x -= x >> 1 & 0x5555555555555555u;
  x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
  x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
  return static_cast<std::int32_t>(x * 0x0101010101010101u >> 56);
#endif
}

void xor_dot(const PackedDot& d) {
  const std::int64_t bytes = (d.k + 7) / 8;
  for (std::int64_t j = 0; j < d.columns; ++j) {
    const std::uint8_t* const w = d.w + j * d.w_row_bytes;
    for (std::int64_t i = 0; i < d.rows; ++i) {
      const std::uint8_t* const x = d.x + i * d.x_row_bytes;
      std::int32_t sum = 0;
      for (std::int64_t at = 0; at < bytes; at += 8) {
        std::uint64_t a = 0;
        std::uint64_t b = 0;
        const std::int64_t left = bytes - at;
        __builtin_memcpy(&a, x + at, sizeof a);
        if (left >= 8) {
          __builtin_memcpy(&b, w + at, sizeof b);
        } else {
          __builtin_memcpy(&b, w + at, static_cast<std::size_t>(left));
        }
        sum += count_bits(a ^ b);
      }
      d.sums[i * d.stride + j] = sum;
    }
  }
}

void pack_signs(std::uint8_t* out, const std::int8_t* codes, std::int64_t columns) {
  __builtin_memset(out, 0, static_cast<std::size_t>(sign_row_bytes(columns)));
  std::int64_t k = 0;
  for (; k + 8 <= columns; k += 8) {
    std::uint64_t eight;
    __builtin_memcpy(&eight, codes + k, sizeof eight);
    // The product brings bit 8 i of the positive codes to bit 56 + i, and no two sums meet.
    const std::uint64_t positive = ~eight >> 7 & 0x0101010101010101;
    out[k / 8] = static_cast<std::uint8_t>(positive * 0x0102040810204080 >> 56);
  }
  for (; k < columns; ++k) {
    out[k / 8] = static_cast<std::uint8_t>(out[k / 8] | (codes[k] >= 0 ? 1 : 0) << (k % 8));
  }
}

constexpr PackedKernels kWordsPacked = {
    .unpack_row = unpack_row,
    .x_row_bytes = x_row_bytes,
    .pack_x = pack_x,
    .dot = dot,
    .pack_signs = pack_signs,
    .pack_place = nullptr,
    .xor_dot = xor_dot,
    .pack_bit_pairs = nullptr,
    .xor_pairs_dot = nullptr,
    .xor_tile = nullptr,
    .pack_sign_panel = nullptr,
    .counts_bits = false,
    .xor_rows = 0,
    .xor_columns = 0,
    .finish_row = finish_row,
    .finish_digits = finish_digits,
};

}  // namespace
}  // namespace quest
