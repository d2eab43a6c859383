// Packed codes: the layout that docs/format.md promises, and the way back.
#include "quant/packing.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "core/rng.h"
#include "quant/grid.h"

namespace quest {
namespace {

std::vector<std::int8_t> random_codes(std::int64_t count, int bits) {
  Rng rng(1, RngPurpose::kTest, static_cast<std::uint32_t>(bits));
  std::vector<std::int8_t> codes;
  for (std::int64_t k = 0; k < count; ++k) {
    codes.push_back(static_cast<std::int8_t>(static_cast<int>(rng.below(std::uint64_t{1} << bits)) -
                                             (1 << (bits - 1))));
  }
  return codes;
}

TEST(Packing, KnownBytes) {
  const std::int8_t nibbles[] = {-8, 7, 0, -1};  // 0, 15, 8, 7
  std::uint8_t bytes[3] = {};
  pack_codes(bytes, nibbles, 4, 4);
  EXPECT_EQ(bytes[0], 0xf0);
  EXPECT_EQ(bytes[1], 0x78);
  const std::int8_t triples[] = {-4, 3, -3};  // 0, 7, 1: bits 000 111 100 -> 1 follows at bit 6
  pack_codes(bytes, triples, 3, 3);
  EXPECT_EQ(bytes[0], 0x78);
  EXPECT_EQ(bytes[1], 0x00);
  const std::int8_t single[] = {0, -1, 0, 0, -1, -1, -1, -1, 0};
  pack_codes(bytes, single, 9, 1);
  EXPECT_EQ(bytes[0], 0x0d);
  EXPECT_EQ(bytes[1], 0x01);
}

TEST(Packing, UnpackingGivesBackEveryCodeAtEveryLength) {
  for (int bits = kMinBits; bits <= kMaxBits; ++bits) {
    for (std::int64_t columns = 1; columns <= 70; ++columns) {
      const auto codes = random_codes(columns, bits);
      const auto size = static_cast<std::size_t>(packed_row_bytes(columns, bits));
      std::vector<std::uint8_t> packed(size + 1, 0xaa);
      pack_codes(packed.data(), codes.data(), columns, bits);
      EXPECT_EQ(packed[size], 0xaa) << "wrote beyond the row";
      EXPECT_TRUE(packed_tail_is_zero(packed.data(), columns, bits));
      std::vector<std::int8_t> back(codes.size());
      unpack_codes(back.data(), packed.data(), columns, bits);
      ASSERT_EQ(packed_code_sum(packed.data(), columns, bits),
                std::accumulate(codes.begin(), codes.end(), 0));
      ASSERT_EQ(back, codes) << bits << " bits, " << columns << " columns";
    }
  }
}

TEST(Packing, EachCodeTakesItsOwnBits) {
  for (int bits = kMinBits; bits <= kMaxBits; ++bits) {
    constexpr std::int64_t kColumns = 21;
    const auto codes = random_codes(kColumns, bits);
    std::vector<std::uint8_t> packed(static_cast<std::size_t>(packed_row_bytes(kColumns, bits)));
    pack_codes(packed.data(), codes.data(), kColumns, bits);
    for (std::int64_t k = 0; k < kColumns; ++k) {
      int u = 0;
      for (int i = 0; i < bits; ++i) {
        const auto bit = static_cast<std::size_t>(k * bits + i);
        u |= (packed[bit / 8] >> (bit % 8) & 1) << i;
      }
      EXPECT_EQ(u - (1 << (bits - 1)), codes[static_cast<std::size_t>(k)]);
    }
  }
}

TEST(Packing, ADirtyTailIsNoticed) {
  const std::uint8_t row[] = {0xff, 0x0f};
  EXPECT_TRUE(packed_tail_is_zero(row, 3, 4));
  EXPECT_FALSE(packed_tail_is_zero(row, 11, 1));
  EXPECT_TRUE(packed_tail_is_zero(row, 2, 8));
}

}  // namespace
}  // namespace quest
