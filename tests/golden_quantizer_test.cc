// The reference's quantizers: codes, scales, masks, layer outputs and gradients, on every backend.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "golden_files.h"
#include "model/quant_linear.h"

namespace quest {
namespace {

struct Case {
  const char* golden;
  const char* scheme;
};

constexpr Case kCases[] = {{"HalfHadamardTrust_b1", "w1a1 trust"},
                           {"HalfHadamardTrust_b2", "w2a2"},
                           {"HalfHadamardTrust_b3", "w3a3"},
                           {"HalfHadamardTrust_b4", "w4a4"},
                           {"HalfHadamardTrust_b5", "w5a5"},
                           {"HalfHadamardTrust_b6", "w6a6"},
                           {"HalfHadamardTrust_b7", "w7a7"},
                           {"HalfHadamardTrust_b8", "w8a8"},
                           {"HalfHadamardClip_b1_c1.3", "w1a1"},
                           {"Trust_b4", "w4a4 none"},
                           {"Clip_b4", "w4a4 none clip"},
                           {"STE_b1", "w1a1 none ste"},
                           {"STE_b2", "w2a2 none ste"},
                           {"STE_b4", "w4a4 none ste"}};

// Below this distance (in steps) from a border, two roundings may differ.
constexpr float kMargin = 1e-4f;

// The zero and the tiny row of in.x: their codes are ties by construction.
bool is_tie_row(std::int64_t row) { return row == 4 || row == 5; }

class GoldenQuantizer : public ::testing::TestWithParam<std::tuple<std::string, Case>> {
 protected:
  void SetUp() override {
    backend_ = make_backend(std::get<0>(GetParam()));
    memory_ = Arena(*backend_, std::size_t{4} << 20);
  }

  Tensor take(Shape shape, DType dtype) { return memory_.take(shape, dtype); }

  // Codes, steps and masks of one side. Returns the rows that hold a code which lies on a border
  // and fell on the other side of it.
  std::set<std::int64_t> check_side(const SafetensorsFile& file, const std::string& side,
                                    const SideScheme& scheme, Transform transform) {
    const std::string name = std::get<1>(GetParam()).golden;
    const auto golden = [&](const char* what) { return file.tensor(name + "." + side + what); };
    const Tensor values = file.tensor("in." + side);
    const std::int64_t rows = values.rows();
    const std::int64_t columns = values.cols();
    const RowQuantizer quantizer = RowQuantizer::make(scheme, transform, columns);
    QuantizedRows quantized{take({rows, columns}, DType::kI8), take({rows}, DType::kF32),
                            take({rows}, DType::kI32), take({rows, columns / 8}, DType::kU8)};
    const Tensor input = take(values.shape, DType::kF32);
    backend_->copy(input, values);
    backend_->quantize_rows(quantized, input, quantizer);
    std::set<std::int64_t> moved;
    int compared = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
      const float scale = golden("_scale").as<float>()[r];
      const float step = 2 * scale / static_cast<float>(quantizer.grid.levels() - 1);
      EXPECT_NEAR(quantized.steps.as<float>()[r], step, 1e-5f * step) << side << " row " << r;
      for (std::int64_t k = 0; k < columns; ++k) {
        // The reference counts levels from one above ours: value = r step - step/2.
        const int wanted = golden("_code").row<std::int32_t>(r)[k] - 1;
        const int code = quantized.codes.row<std::int8_t>(r)[k];
        if (golden("_code_margin").row<float>(r)[k] >= kMargin) {
          EXPECT_EQ(code, wanted) << side << " row " << r << " column " << k;
          ++compared;
        } else if (code != wanted) {
          moved.insert(r);
        }
        if (golden("_mask_margin").row<float>(r)[k] >= kMargin) {
          const bool bit = (quantized.mask.row<std::uint8_t>(r)[k / 8] >> (k % 8)) & 1;
          EXPECT_EQ(bit, golden("_mask").row<std::uint8_t>(r)[k] != 0)
              << side << " mask, row " << r << " column " << k;
        }
      }
    }
    EXPECT_GT(compared, rows * columns * 6 / 10) << "too few codes were comparable";
    return moved;
  }

  std::unique_ptr<Backend> backend_;
  Arena memory_;
};

TEST_P(GoldenQuantizer, CodesMasksOutputAndGradientsAgree) {
  QUEST_GOLDEN_OR_SKIP(path, "quantizers.safetensors");
  const SafetensorsFile file(path);
  const auto& [golden, text] = std::get<1>(GetParam());
  const std::string name = golden;
  if (!file.contains(name + ".y")) GTEST_SKIP() << name << " is in the full goldens only";
  const LinearScheme scheme = LinearScheme::parse(text);
  const auto moved_inputs = check_side(file, "x", scheme.activation, scheme.transform);
  const auto moved_weights = check_side(file, "w", scheme.weight, scheme.transform);
  for (const std::int64_t row : moved_inputs) EXPECT_TRUE(is_tie_row(row)) << row;
  EXPECT_TRUE(moved_weights.empty()) << "a weight code on a border moved: y and dx would differ";

  const Tensor x = file.tensor("in.x");
  const Tensor w = file.tensor("in.w");
  const Tensor gradient = take(w.shape, DType::kF32);
  const Tensor weight = take(w.shape, DType::kF32);
  backend_->copy(weight, w);
  const QuantLinear linear({{{"layer", "layer.weight", w.rows()}}, w.cols(), 0.02}, {scheme},
                           DType::kF32, true, weight, gradient, memory_);
  const LinearInput input = linear.take_input(memory_, take(x.shape, DType::kF32), x.rows(), true);
  backend_->copy(input.x, x);
  const Tensor y = take({x.rows(), w.rows()}, DType::kF32);
  const Tensor d_y = take(y.shape, DType::kF32);
  const Tensor d_x = take(x.shape, DType::kF32);
  backend_->copy(d_y, file.tensor("in.gy"));
  linear.prepare_weights(*backend_);
  linear.forward(*backend_, y, input, Write::kSet);
  linear.backward(*backend_, d_x, d_y, input, take(x.shape, DType::kF32), {});
  linear.finish_gradient(*backend_);

  EXPECT_LT(relative_l2(y, file.tensor(name + ".y")), 1e-5);
  EXPECT_LT(relative_l2(d_x, file.tensor(name + ".dx")), 1e-5);
  EXPECT_LT(relative_l2(gradient, file.tensor(name + ".dw")), 1e-5);
  for (std::int64_t r = 0; r < y.rows(); ++r) {
    if (is_tie_row(r)) continue;
    EXPECT_LT(relative_l2(y.rows_slice(r, r + 1), file.tensor(name + ".y").rows_slice(r, r + 1)),
              1e-5)
        << "row " << r;
    EXPECT_LT(relative_l2(d_x.rows_slice(r, r + 1), file.tensor(name + ".dx").rows_slice(r, r + 1)),
              1e-5)
        << "row " << r;
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, GoldenQuantizer,
                         ::testing::Combine(::testing::ValuesIn(testable_backends()),
                                            ::testing::ValuesIn(kCases)),
                         [](const auto& test) {
                           std::string name =
                               std::get<0>(test.param) + "_" + std::get<1>(test.param).golden;
                           for (char& c : name) {
                             if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
                           }
                           return name;
                         });

}  // namespace
}  // namespace quest
