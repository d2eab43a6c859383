// Overrides by layer name: they reach the layer that they name, and no other.
#include <gtest/gtest.h>

#include "closed_form.h"
#include "golden_files.h"
#include "layer_under_test.h"
#include "model/backward.h"
#include "model/model.h"

namespace quest {
namespace {

ModelConfig small_model() {
  ModelConfig config;
  config.layers = 2;
  config.width = 64;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 16;
  config.hidden = 96;
  config.vocab = 29;
  config.max_positions = 6;
  return config;
}

class Override : public ::testing::TestWithParam<std::string> {
 protected:
  static constexpr PassShape kShape{2, 6, true};

  void make(const ModelConfig& config, const char* base, const char* text) {
    const Scheme scheme = Scheme::parse(base, {text});
    model_ = std::make_unique<Model>(*backend_, config, scheme, DType::kF32, true);
    memory_ = Arena(*backend_, Model::measure_activations(config, scheme, DType::kF32, kShape));
    activations_ = model_->llama().make_activations(memory_, kShape);
    model_->initialize(7);
  }

  // One forward and backward pass under `base` and one override.
  void run(const char* base, const char* text) {
    make(small_model(), base, text);
    pass(1);
  }

  // A step of as many micro-batches, all of the same tokens.
  void pass(int micro_batches) {
    model_->prepare();
    std::vector<std::int32_t> ids(12);
    for (std::int32_t i = 0; i < 12; ++i) ids[static_cast<std::size_t>(i)] = i * 5 % 29;
    const Tensor tokens = view_of(ids.data(), {12});
    errors_.clear();
    for (int i = 0; i < micro_batches; ++i) {
      forward_backward(*backend_, model_->llama(), activations_, tokens, tokens, 1.0f,
                       {nullptr, i == 0 ? Write::kSet : Write::kAdd}, &errors_);
    }
    finish_gradients(*backend_, model_->llama());
  }
  Parameter parameter(const std::string& name) {
    Parameter found;
    model_->llama().for_each_parameter([&](const Parameter& one) {
      if (one.name == name) found = one;
    });
    return found;
  }

  std::unique_ptr<Backend> backend_ = make_backend(GetParam());
  std::unique_ptr<Model> model_;
  Arena memory_;
  Activations activations_;
  std::vector<LayerError> errors_;
};

TEST_P(Override, OfOnePartOfAJoinedLayerQuantizesThatPartAlone) {
  run("none", "blocks.0.attn.v=w8a8");
  for (const LayerError& layer : errors_) {
    const bool named = layer.name == "blocks.0.attn.qkv";
    EXPECT_EQ(layer.weight.count, named ? 2 * 16 * 64 : 0) << layer.name;
    EXPECT_EQ(layer.input.count, named ? 12 * 64 : 0) << layer.name;
    if (named) {
      EXPECT_NEAR(layer.weight.relative_error(), 8.8e-5, 2e-5);
    }
  }
  // The masks of the other parts pass everything: their gradients are those of plain layers.
  const Matrix q = to_matrix(*backend_, parameter("model.layers.0.self_attn.q_proj.weight").value);
  const Matrix x = to_matrix(*backend_, activations_.slot(0).qkv_in.x);
  const Matrix e = to_matrix(*backend_, activations_.scratch.d_qkv);
  const Matrix d_q =
      to_matrix(*backend_, parameter("model.layers.0.self_attn.q_proj.weight").gradient);
  EXPECT_LT(relative_error(d_q, product_tn(e.columns(0, 64), x)), 2e-5);
  // Those of v read the quantized input: block 0's backward is the last to fill d_qkv.
  const Matrix v = to_matrix(*backend_, parameter("model.layers.0.self_attn.v_proj.weight").value);
  const SideForm eight{8, MaskRule::kTrust, 1.0};
  const Matrix d_v =
      to_matrix(*backend_, parameter("model.layers.0.self_attn.v_proj.weight").gradient);
  const Matrix wanted = closed_form_layer(x, v, e.columns(96, 128), eight, eight, 64).d_w;
  EXPECT_LT(relative_error(d_v, wanted), 2e-3);  // a code or two of 8 bits may flip
  EXPECT_GT(relative_error(d_v, product_tn(e.columns(96, 128), x)), 4e-3);
}

TEST_P(Override, OfTheHeadQuantizesTheHead) {
  run("none", "head=w4a4");
  for (const LayerError& layer : errors_) EXPECT_EQ(layer.weight.count, 0) << layer.name;
  const Matrix x = to_matrix(*backend_, activations_.final_x);
  const Matrix w = to_matrix(*backend_, parameter("lm_head.weight").value);
  // In f32 the logits' memory holds their gradient by now.
  const Matrix e = to_matrix(*backend_, activations_.head.d_logits);
  const SideForm four{4, MaskRule::kTrust, 1.0};
  const LayerResult wanted = closed_form_layer(x, w, e, four, four, 64);
  EXPECT_LT(relative_error(to_matrix(*backend_, parameter("lm_head.weight").gradient), wanted.d_w),
            2e-3);
  const Tensor logits = model_->llama().logits(*backend_, activations_, 0, 12);
  EXPECT_LT(relative_error(to_matrix(*backend_, logits), wanted.y), 5e-3);
  EXPECT_GT(relative_error(product_nt(x, w), wanted.y), 5e-2);
}

TEST_P(Override, OfATiedHeadAddsItsGradientToThatOfTheTable) {
  for (const char* const head : {"head=none", "head=w4a4", "head=w4a16"}) {
    make(small_model(), "none", head);
    backend_->copy(parameter("lm_head.weight").value, parameter("model.embed_tokens.weight").value);
    pass(2);
    const Matrix of_head = to_matrix(*backend_, parameter("lm_head.weight").gradient);
    const Matrix of_table = to_matrix(*backend_, parameter("model.embed_tokens.weight").gradient);
    ModelConfig config = small_model();
    config.tied_head = true;
    make(config, "none", head);
    pass(2);
    const Matrix of_both = to_matrix(*backend_, parameter("model.embed_tokens.weight").gradient);
    Matrix sum = of_head;
    for (std::size_t i = 0; i < sum.values.size(); ++i) sum.values[i] += of_table.values[i];
    EXPECT_LT(relative_error(of_both, sum), 1e-5) << head;
  }
}

// Queries, keys or values as a product of their own, before, between or after what is not.
TEST_P(Override, OfOnePartLeavesQueriesAndKeysTurnedAndValuesNot) {
  const ModelConfig config = small_model();
  const std::int64_t turned = config.query_width() + config.kv_width();
  const std::int64_t half = config.head_dim / 2;
  for (const char* const base : {"none", "w4a4"}) {
    for (const char* const part : {"q", "k", "v"}) {
      for (const char* const scheme : {"w8a8", "w4a16"}) {
        const std::string text = std::string("blocks.0.attn.") + part + "=" + scheme;
        run(base, text.c_str());
        Arena memory(*backend_, std::size_t{1} << 16);
        const Tensor y = memory.take({12, config.qkv_width()}, DType::kF32);
        const Tensor wanted = memory.take({12, config.qkv_width()}, DType::kF32);
        const Tensor cos = memory.take({kShape.length, half}, DType::kF32);
        const Tensor sin = memory.take({kShape.length, half}, DType::kF32);
        set(*backend_, cos, normal_matrix(kShape.length, half, 1));
        set(*backend_, sin, normal_matrix(kShape.length, half, 2));

        const QuantLinear& qkv = model_->llama().blocks()[0].qkv;
        const LinearInput& input = activations_.slot(0).qkv_in;
        qkv.multiply_rope(*backend_, y, input,
                          {cos, sin, config.rope_layout, kShape.length, turned});
        qkv.multiply(*backend_, wanted, input, Write::kSet);
        backend_->rope(wanted.columns(0, turned), cos, sin, config.rope_layout, 0, kShape.length,
                       false);
        EXPECT_EQ(to_matrix(*backend_, y).values, to_matrix(*backend_, wanted).values)
            << text << " over " << base;
      }
    }
  }
}

TEST_P(Override, ThatIsAbsentLeavesTheHeadAlone) {
  run("w2a2", "blocks.1.mlp.down=w8a8");
  const Matrix x = to_matrix(*backend_, activations_.final_x);
  const Matrix w = to_matrix(*backend_, parameter("lm_head.weight").value);
  const Tensor logits = model_->llama().logits(*backend_, activations_, 0, 12);
  EXPECT_LT(relative_error(to_matrix(*backend_, logits), product_nt(x, w)), 1e-5);
  ASSERT_EQ(errors_.size(), 8u);
  EXPECT_NEAR(errors_[7].weight.relative_error(), 8.8e-5, 2e-5) << errors_[7].name;
  EXPECT_NEAR(errors_[3].weight.relative_error(), 0.1188, 0.01) << errors_[3].name;
}

INSTANTIATE_TEST_SUITE_P(Backends, Override, ::testing::ValuesIn(testable_backends()),
                         [](const auto& test) {
                           std::string name = test.param;
                           for (char& c : name) {
                             if (c == ' ') c = '_';
                           }
                           return name;
                         });

}  // namespace
}  // namespace quest
