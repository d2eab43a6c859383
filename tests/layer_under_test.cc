// Moving matrices in and out of a layer under test.
#include "layer_under_test.h"

namespace quest {
namespace {

constexpr std::size_t kMemoryBytes = std::size_t{4} << 20;

LinearLayout layout_of(const std::vector<PartUnderTest>& parts, std::int64_t columns) {
  LinearLayout layout{{}, columns, 0.02};
  for (const PartUnderTest& part : parts) {
    const std::string name = "part" + std::to_string(layout.parts.size());
    layout.parts.push_back({name, name + ".weight", part.rows});
  }
  return layout;
}

std::vector<LinearScheme> schemes_of(const std::vector<PartUnderTest>& parts) {
  std::vector<LinearScheme> schemes;
  for (const PartUnderTest& part : parts) schemes.push_back(LinearScheme::parse(part.scheme));
  return schemes;
}

}  // namespace

Matrix to_matrix(Backend& backend, Tensor tensor) {
  backend.synchronize();
  Matrix m(tensor.rows(), tensor.cols());
  for (std::int64_t r = 0; r < m.rows; ++r) {
    for (std::int64_t c = 0; c < m.cols; ++c) {
      m(r, c) = tensor.dtype == DType::kF32 ? tensor.row<float>(r)[c]
                                            : to_float(tensor.row<BFloat16>(r)[c]);
    }
  }
  return m;
}

void set(Backend& backend, Tensor tensor, const Matrix& values) {
  std::vector<float> host(values.values.begin(), values.values.end());
  backend.cast(tensor, view_of(host.data(), tensor.shape));
  backend.synchronize();
}

QuantizedUnderTest quantize(Backend& backend, const Matrix& x, const SideScheme& side,
                            Transform transform) {
  Arena memory(backend, kMemoryBytes);
  const QuantizedRows rows{memory.take({x.rows, x.cols}, DType::kI8),
                           memory.take({x.rows}, DType::kF32), memory.take({x.rows}, DType::kI32),
                           memory.take({x.rows, (x.cols + 7) / 8}, DType::kU8)};
  const Tensor input = memory.take({x.rows, x.cols}, DType::kF32);
  set(backend, input, x);
  backend.quantize_rows(rows, input, RowQuantizer::make(side, transform, x.cols));
  backend.synchronize();
  QuantizedUnderTest out{Matrix(x.rows, x.cols), Matrix(x.rows, x.cols), {}};
  for (std::int64_t r = 0; r < x.rows; ++r) {
    out.steps.push_back(rows.steps.as<float>()[r]);
    for (std::int64_t c = 0; c < x.cols; ++c) {
      out.codes(r, c) = rows.codes.row<std::int8_t>(r)[c];
      out.mask(r, c) = (rows.mask.row<std::uint8_t>(r)[c / 8] >> (c % 8)) & 1;
    }
  }
  return out;
}

LayerUnderTest::LayerUnderTest(Backend& backend, const std::vector<PartUnderTest>& parts,
                               const Matrix& weight, DType compute)
    : backend_(backend),
      compute_(compute),
      memory_(backend, kMemoryBytes),
      weight_(memory_.take({weight.rows, weight.cols}, DType::kF32)),
      gradient_(memory_.take({weight.rows, weight.cols}, DType::kF32)),
      linear_(layout_of(parts, weight.cols), schemes_of(parts), compute, true, weight_, gradient_,
              memory_) {
  set_weight(weight);
}

LayerResult LayerUnderTest::pass(const Matrix& x, const Matrix& d_y) {
  const std::size_t mark = memory_.mark();
  const auto take = [&](const Matrix& like) {
    return memory_.take({like.rows, like.cols}, compute_);
  };
  const LinearInput input = linear_.take_input(memory_, take(x), x.rows, true);
  const Tensor y = take(d_y);
  const Tensor output_gradient = take(d_y);
  const Tensor d_x = take(x);
  const Tensor d_z = take(x);
  set(backend_, input.x, x);
  set(backend_, output_gradient, d_y);
  linear_.forward(backend_, y, input, Write::kSet);
  linear_.backward(backend_, d_x, output_gradient, input, d_z, {});
  const LayerResult result{to_matrix(backend_, y), to_matrix(backend_, d_x), {}};
  memory_.rewind(mark);
  return result;
}

Matrix LayerUnderTest::finished_gradient() {
  linear_.finish_gradient(backend_);
  return to_matrix(backend_, gradient_);
}

LayerResult LayerUnderTest::run(const Matrix& x, const Matrix& d_y) {
  zero_gradient();
  prepare();
  LayerResult result = pass(x, d_y);
  result.d_w = finished_gradient();
  return result;
}

}  // namespace quest
