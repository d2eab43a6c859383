// The end of a product tile, written once for all instruction sets: from integers to scaled floats.

namespace quest {
namespace {

/// y (= or +=) sums [rows][stride] scaled, 16 columns at a time. `sums` has whole groups of 16.
inline void finish_tile(const ProductTile& tile, const std::int32_t* sums, std::int64_t stride) {
  for (std::int32_t i = 0; i < tile.rows; ++i) {
    const F16 step = splat16(tile.x_steps[i]);
    for (std::int32_t j = 0; j < tile.columns; j += 16) {
      const F16 value =
          mul(load16_ints(sums + i * stride + j), mul(step, load16(tile.w_scales + j)));
      const std::int32_t left = tile.columns - j;
      const std::int64_t at = i * tile.y_stride + j;
      if (tile.y.bf16) {
        auto* const y = static_cast<std::uint16_t*>(tile.y.data) + at;
        if (left >= 16) {
          store16_bf16(y, tile.add ? add(load16_bf16(y), value) : value);
        } else {
          const F16 before = tile.add ? BF16Source{y}.load_part(0, left) : zero16();
          std::uint16_t parts[16];
          store16_bf16(parts, tile.add ? add(before, value) : value);
          for (std::int32_t k = 0; k < left; ++k) y[k] = parts[k];
        }
      } else {
        auto* const y = static_cast<float*>(tile.y.data) + at;
        if (left >= 16) {
          store16(y, tile.add ? add(load16(y), value) : value);
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
