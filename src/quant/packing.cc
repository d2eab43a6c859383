// Codes to streams of bits and back.
#include "quant/packing.h"

#include <cassert>

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

// The sum of all fields of whole bytes; the loops are plain so that compilers make vectors of them.
template <int bits>
std::int64_t sum_of_fields(const std::uint8_t* bytes, std::int64_t count) {
  constexpr std::uint32_t kField = (1u << bits) - 1;
  std::int64_t total = 0;
  for (std::int64_t begin = 0; begin < count; begin += 4096) {
    const std::int64_t end = begin + 4096 < count ? begin + 4096 : count;
    std::uint32_t sum = 0;
    for (std::int64_t i = begin; i < end; ++i) {
      for (int place = 0; place < 8; place += bits) sum += bytes[i] >> place & kField;
    }
    total += sum;
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
