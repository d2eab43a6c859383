// Codes to streams of bits and back.
#include "quant/packing.h"

#include <cassert>
#include <cstring>

#include "quant/grid.h"

namespace quest {

std::int64_t packed_row_bytes(std::int64_t columns, int bits) {
  assert(bits >= kMinBits && bits <= kMaxBits);
  return (columns * bits + 7) / 8;
}

void pack_codes(std::uint8_t* packed, const std::int8_t* codes, std::int64_t columns, int bits) {
  const int offset = 1 << (bits - 1);
  std::uint32_t held = 0;  // bits that do not fill a byte yet
  int count = 0;
  for (std::int64_t k = 0; k < columns; ++k) {
    assert(codes[k] >= -offset && codes[k] < offset);
    held |= static_cast<std::uint32_t>(codes[k] + offset) << count;
    for (count += bits; count >= 8; count -= 8, held >>= 8) {
      *packed++ = static_cast<std::uint8_t>(held);
    }
  }
  if (count > 0) *packed = static_cast<std::uint8_t>(held);
}

void unpack_codes(std::int8_t* codes, const std::uint8_t* packed, std::int64_t columns, int bits) {
  const int offset = 1 << (bits - 1);
  const std::uint32_t field = (1u << bits) - 1;
  std::uint32_t held = 0;
  int count = 0;
  for (std::int64_t k = 0; k < columns; ++k) {
    if (count < bits) {
      held |= static_cast<std::uint32_t>(*packed++) << count;
      count += 8;
    }
    codes[k] = static_cast<std::int8_t>(static_cast<int>(held & field) - offset);
    held >>= bits;
    count -= bits;
  }
}

namespace {

// A word of zeros and ones: the low `width` bits of every 2 * width.
constexpr std::uint64_t low_halves(int width) {
  return ~std::uint64_t{0} / ((std::uint64_t{1} << width) + 1);
}

// Fields of `bits` bits, added up within each `sum_bits` of the word's bits.
template <int bits, int sum_bits>
std::uint64_t partial_sums(std::uint64_t word) {
  for (int width = bits; width < sum_bits; width *= 2) {
    word = (word & low_halves(width)) + (word >> width & low_halves(width));
  }
  return word;
}

// The sum of all fields of whole bytes, eight bytes at a time; the order of bytes does not matter.
template <int bits>
std::int64_t sum_of_fields(const std::uint8_t* bytes, std::int64_t count) {
  // Of eight words, the fields in one byte's place sum to 8 * 30 at most and fit into a byte;
  // fields that are bytes are widened first.
  constexpr int kFirst = bits == 8 ? 16 : 8;
  std::int64_t total = 0;
  std::int64_t i = 0;
  for (; i + 64 <= count; i += 64) {
    std::uint64_t words[8];
    std::memcpy(words, bytes + i, 64);
    std::uint64_t sums = 0;
    for (const std::uint64_t word : words) sums += partial_sums<bits, kFirst>(word);
    total += static_cast<std::int64_t>(partial_sums<kFirst, 64>(sums));
  }
  for (; i < count; ++i) {
    total += static_cast<std::int64_t>(partial_sums<bits, 64>(bytes[i]));
  }
  return total;
}

std::int64_t sum_of_stream(const std::uint8_t* packed, std::int64_t columns, int bits) {
  const std::uint32_t field = (1u << bits) - 1;
  std::int64_t total = 0;
  std::uint32_t held = 0;
  int count = 0;
  for (std::int64_t k = 0; k < columns; ++k) {
    if (count < bits) {
      held |= static_cast<std::uint32_t>(*packed++) << count;
      count += 8;
    }
    total += held & field;
    held >>= bits;
    count -= bits;
  }
  return total;
}

}  // namespace

std::int32_t packed_code_sum(const std::uint8_t* packed, std::int64_t columns, int bits) {
  // What the last byte has left counts nothing: it is 0.
  const std::int64_t bytes = packed_row_bytes(columns, bits);
  const std::int64_t unsigned_sum = bits == 1   ? sum_of_fields<1>(packed, bytes)
                                    : bits == 2 ? sum_of_fields<2>(packed, bytes)
                                    : bits == 4 ? sum_of_fields<4>(packed, bytes)
                                    : bits == 8 ? sum_of_fields<8>(packed, bytes)
                                                : sum_of_stream(packed, columns, bits);
  return static_cast<std::int32_t>(unsigned_sum - columns * (1 << (bits - 1)));
}

bool packed_tail_is_zero(const std::uint8_t* packed, std::int64_t columns, int bits) {
  const std::int64_t used = columns * bits % 8;
  return used == 0 || packed[packed_row_bytes(columns, bits) - 1] >> used == 0;
}

}  // namespace quest
