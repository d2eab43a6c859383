// What product tiles have in common: the cut of a strip into tiles, and the end of a tile, from
// integers to scaled floats.

namespace quest {
namespace {

template <int tile_rows>
inline void for_each_tile(const ProductStrip& strip, void (*run)(const ProductStrip&)) {
  ProductStrip tile = strip;
  const std::int64_t y_row_bytes = strip.y_stride * (strip.y.bf16 ? 2 : 4);
  for (std::int32_t left = strip.rows; left > 0; left -= tile_rows) {
    tile.rows = left < tile_rows ? left : tile_rows;
    run(tile);
    tile.x += tile_rows * strip.x_row_bytes;
    tile.x_steps += tile_rows;
    tile.x_sums += tile_rows;
    tile.y.data = static_cast<char*>(tile.y.data) + tile_rows * y_row_bytes;
  }
}

/// The value of an integer, rounded in one way on every path.
inline __attribute__((always_inline)) F16 scaled(F16 integers, F16 step, F16 scales) {
  return mul(integers, mul(step, scales));
}

/// What 16 values at y become: `value`, or their sum with it.
inline __attribute__((always_inline)) F16 put_value(const float* y, F16 value, bool add_to) {
  return add_to ? add(load16(y), value) : value;
}
inline __attribute__((always_inline)) F16 put_value(const std::uint16_t* y, F16 value,
                                                    bool add_to) {
  return add_to ? add(load16_bf16(y), value) : value;
}

/// y (= or +=) sums [rows][stride] scaled, 16 columns at a time. `sums` has whole groups of 16.
inline void finish_tile(const ProductStrip& tile, const std::int32_t* sums, std::int64_t stride) {
  for (std::int32_t i = 0; i < tile.rows; ++i) {
    const F16 step = splat16(tile.x_steps[i]);
    for (std::int32_t j = 0; j < tile.columns; j += 16) {
      const F16 value = scaled(load16_ints(sums + i * stride + j), step, load16(tile.w_scales + j));
      const std::int32_t left = tile.columns - j;
      const std::int64_t at = i * tile.y_stride + j;
      if (tile.y.bf16) {
        auto* const y = static_cast<std::uint16_t*>(tile.y.data) + at;
        if (left >= 16) {
          store16_bf16(y, put_value(y, value, tile.add));
        } else {
          const F16 before = tile.add ? BF16Source{y}.load_part(0, left) : zero16();
          std::uint16_t parts[16];
          store16_bf16(parts, tile.add ? add(before, value) : value);
          for (std::int32_t k = 0; k < left; ++k) y[k] = parts[k];
        }
      } else {
        auto* const y = static_cast<float*>(tile.y.data) + at;
        if (left >= 16) {
          store16(y, put_value(y, value, tile.add));
        } else {
          float parts[16];
          store16(parts, value);
          for (std::int32_t k = 0; k < left; ++k) y[k] = tile.add ? y[k] + parts[k] : parts[k];
        }
      }
    }
  }
}

}  // namespace
}  // namespace quest
