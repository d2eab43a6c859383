// The scales and biases of products of codes on tile registers.
#include "backend/cpu/tiles/tile_codes.h"

namespace quest {
namespace {

/// w as the second operand, with the numbers of its rows.
struct Weights {
  TileSource source;
  const float* steps;
  const std::int32_t* code_sums;
};

void multiply(const ByteTileContext& context, const ProductOutput& out, const QuantizedRows& x,
              const Weights& w) {
  const std::int64_t m = x.codes.rows();
  const std::int64_t n = w.source.lanes;
  const auto k = static_cast<std::int32_t>(x.codes.cols());
  // T = 4 sum qx qw + 2 sum qx + (2 sum qw + K).
  const std::int64_t width = (n + kTileLanes - 1) / kTileLanes * kTileLanes;
  const Tensor numbers =
      context.workspace.tensor(Workspace::Slot::kRows, {2 * width + m}, DType::kF32);
  float* const column_scales = numbers.as<float>();
  auto* const column_biases = reinterpret_cast<std::int32_t*>(column_scales + width);
  std::int32_t* const row_biases = column_biases + width;
  for (std::int64_t j = 0; j < width; ++j) {
    column_scales[j] = j < n ? w.steps[j] * 0.25f : 0.0f;
    column_biases[j] = j < n ? 2 * w.code_sums[j] + k : 0;
  }
  for (std::int64_t i = 0; i < m; ++i) row_biases[i] = 2 * x.code_sums.as<std::int32_t>()[i];
  const TileScales scales{2, row_biases, column_biases, x.steps.as<float>(), column_scales};
  multiply_tiles({context.workspace, context.threads, context.kernels},
                 {rows_source(x.codes, context.kernels.pack_rows), w.source, out, &scales});
}

}  // namespace

void multiply_codes(const ByteTileContext& context, const ProductOutput& out,
                    const QuantizedRows& x, const QuantizedRows& w) {
  multiply(context, out, x,
           {rows_source(w.codes, context.kernels.pack_transposed), w.steps.as<float>(),
            w.code_sums.as<std::int32_t>()});
}

void multiply_codes(const ByteTileContext& context, const ProductOutput& out,
                    const QuantizedRows& x, const PackedRows& w) {
  TileSource source = rows_source(w.codes, context.kernels.pack_transposed_packed);
  source.summed = w.columns;
  source.bits = w.bits;
  multiply(context, out, x, {source, w.steps.as<float>(), w.code_sums.as<std::int32_t>()});
}

}  // namespace quest
