// The integer product on 16-bit odd integers, for instruction sets without an exact 8-bit dot
// product (pmaddubsw saturates): 2 q + 1 fits 16 bits, and pmaddwd sums pairs exactly.

namespace quest {
namespace {

constexpr int kWordsVectors = 16 / kWordsLanes;  // of a panel of 16 columns

inline void store_odd(std::uint8_t* at, std::int32_t code) {
  const auto odd = static_cast<std::int16_t>(2 * code + 1);
  __builtin_memcpy(at, &odd, sizeof odd);
}

void pack_words_row(std::uint8_t* out, const std::int8_t* codes, std::int64_t columns) {
  for (std::int64_t k = 0; k < columns; ++k) store_odd(out + 2 * k, codes[k]);
  if (columns % 2 != 0) __builtin_memset(out + 2 * columns, 0, 2);
}

void pack_words_integers(std::uint8_t* out, const std::int8_t* integers, std::int64_t columns) {
  for (std::int64_t k = 0; k < columns; ++k) {
    const auto twice = static_cast<std::int16_t>(2 * integers[k]);
    __builtin_memcpy(out + 2 * k, &twice, sizeof twice);
  }
  if (columns % 2 != 0) __builtin_memset(out + 2 * columns, 0, 2);
}

void pack_words_panel(std::uint8_t* panel, const std::int8_t* codes, std::int64_t stride,
                      std::int64_t rows, std::int64_t columns) {
  if (rows < 16 || columns % 2 != 0) {
    __builtin_memset(panel, 0, static_cast<std::size_t>((columns + 1) / 2 * 64));
  }
  for (std::int64_t k = 0; k < columns; ++k) {
    std::uint8_t* const group = panel + k / 2 * 64 + k % 2 * 2;
    for (std::int64_t j = 0; j < rows; ++j) store_odd(group + 4 * j, codes[j * stride + k]);
  }
}

// The accumulators are written out: g++ 12 keeps arrays of them in memory. Cell c is vector
// c % kWordsVectors of row c / kWordsVectors.
#define QUEST_EACH_CELL(DO) \
  DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)

template <int rows>
void words_tile_rows(const ProductStrip& tile) {
  static_assert(rows * kWordsVectors <= 12);
#define QUEST_DECLARE(c) Words sum##c = zero_words();
  QUEST_EACH_CELL(QUEST_DECLARE)
#undef QUEST_DECLARE
  const std::uint8_t* x = tile.x;
  const std::uint8_t* w = tile.panel;
  const std::int64_t stride = tile.x_row_bytes;
  for (std::int64_t g = 0; g < tile.groups; ++g, x += 4, w += 64) {
#define QUEST_MULTIPLY(c)                                                           \
  if constexpr (c < rows * kWordsVectors) {                                         \
    sum##c = dot_words(sum##c, load_words(w + c % kWordsVectors * kWordsLanes * 4), \
                       splat_pair(x + c / kWordsVectors * stride));                 \
  }
    QUEST_EACH_CELL(QUEST_MULTIPLY)
#undef QUEST_MULTIPLY
  }
  std::int32_t integers[rows * 16];
#define QUEST_STORE(c) \
  if constexpr (c < rows * kWordsVectors) store_sums(integers + c * kWordsLanes, sum##c);
  QUEST_EACH_CELL(QUEST_STORE)
#undef QUEST_STORE
  finish_tile(tile, integers, 16);
}
#undef QUEST_EACH_CELL

template <int rows = kWordsTileRows>
void words_tile(const ProductStrip& tile) {
  if constexpr (rows > 1) {
    if (tile.rows < rows) return words_tile<rows - 1>(tile);
  }
  words_tile_rows<rows>(tile);
}

void words_strip(const ProductStrip& strip) {
  for_each_tile<kWordsTileRows>(strip, words_tile<kWordsTileRows>);
}

constexpr ProductKernels kWordsProduct = {
    .tile_rows = kWordsTileRows,
    .panel_columns = 16,
    .group_values = 2,
    .group_bytes = 4,
    .row_block_bytes = 256 << 10,
    .reads_codes = false,
    .pack_panel = pack_words_panel,
    .pack_panel_of_columns = nullptr,
    .pack_row = pack_words_row,
    .pack_integers = pack_words_integers,
    .strip = words_strip,
    .pack_dot_row = nullptr,
    .dot_tile = nullptr,
};

}  // namespace
}  // namespace quest
