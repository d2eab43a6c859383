// Tests of the reference's gradients against finite differences of its forward kernels.
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "backend/kernel_cases.h"

namespace quest {
namespace {

/// Checks d_input against central differences of `loss`, which reads `input`. Outputs are stored in
/// f32, so a difference over 2h is off by about eps / h, and by h^2 for the curvature.
void expect_gradient(Tensor input, Tensor d_input, const std::function<double()>& loss,
                     const std::string& what) {
  constexpr float kStep = 1.0f / 128;
  for (std::int64_t r = 0; r < input.rows(); ++r) {
    for (std::int64_t c = 0; c < input.cols(); ++c) {
      float& value = input.row<float>(r)[c];
      const float before = value;
      value = before + kStep;
      const double above = loss();
      value = before - kStep;
      const double below = loss();
      value = before;
      const double difference = (above - below) / (2 * double{kStep});
      EXPECT_NEAR(element(d_input, r, c), difference, 1e-3 * (1 + std::abs(difference)))
          << what << " [" << r << ", " << c << "]";
    }
  }
}

/// The loss whose gradient with respect to `out` is d_out.
double weighted(Tensor out, Tensor d_out) {
  double total = 0;
  for (std::int64_t r = 0; r < out.rows(); ++r) {
    for (std::int64_t c = 0; c < out.cols(); ++c) {
      total += element(out, r, c) * element(d_out, r, c);
    }
  }
  return total;
}

OwnedTensor normal(Shape shape, std::uint64_t seed) {
  OwnedTensor tensor(shape, DType::kF32);
  fill_normal(tensor, seed);
  return tensor;
}
OwnedTensor zeros(Shape shape) { return OwnedTensor(shape, DType::kF32); }

TEST(ReferenceGradient, AttentionWithSharedKeysIsTheDerivative) {
  const auto backend = make_reference_backend();
  const AttentionShape s{2, 5, 5, 5, 4, 2, 3};
  const OwnedTensor q = normal({10, 12}, 1), k = normal({10, 6}, 2), v = normal({10, 6}, 3);
  const OwnedTensor d_out = normal({10, 12}, 4), out = zeros({10, 12});
  const OwnedTensor log_sums = zeros({2, 4, 5});
  const auto loss = [&] {
    backend->attention(out, log_sums, q, k, v, s);
    return weighted(out, d_out);
  };
  loss();
  const OwnedTensor d_q = zeros({10, 12}), d_k = zeros({10, 6}), d_v = zeros({10, 6});
  backend->attention_backward(d_q, d_k, d_v, d_out, q, k, v, out, log_sums, s);
  expect_gradient(q, d_q, loss, "d_q");
  expect_gradient(k, d_k, loss, "d_k");
  expect_gradient(v, d_v, loss, "d_v");
}

TEST(ReferenceGradient, RmsnormIsTheDerivativeAndAdds) {
  const auto backend = make_reference_backend();
  const OwnedTensor x = normal({3, 7}, 1), weight = normal({1, 7}, 2), d_y = normal({3, 7}, 3);
  const OwnedTensor y = zeros({3, 7}), rstd = zeros({3});
  const auto loss = [&] {
    backend->rmsnorm(y, rstd, x, weight, 1e-5f);
    return weighted(y, d_y);
  };
  loss();
  const OwnedTensor d_x = zeros({3, 7}), d_weight = zeros({1, 7});
  d_x.view().as<float>()[0] = 1.0f;
  backend->rmsnorm_backward(d_x, Tensor(), d_weight, d_y, x, weight, rstd);
  d_x.view().as<float>()[0] -= 1.0f;
  expect_gradient(x, d_x, loss, "d_x");
  expect_gradient(weight, d_weight, loss, "d_weight");
}

TEST(ReferenceGradient, SwigluIsTheDerivative) {
  const auto backend = make_reference_backend();
  const OwnedTensor gate = normal({3, 7}, 1), up = normal({3, 7}, 2), d_h = normal({3, 7}, 3);
  const OwnedTensor h = zeros({3, 7}), d_gate = zeros({3, 7}), d_up = zeros({3, 7});
  const auto loss = [&] {
    backend->swiglu(h, gate, up);
    return weighted(h, d_h);
  };
  backend->swiglu_backward(d_gate, d_up, d_h, gate, up);
  expect_gradient(gate, d_gate, loss, "d_gate");
  expect_gradient(up, d_up, loss, "d_up");
}

TEST(ReferenceGradient, CrossEntropyIsTheDerivativeTimesTheScale) {
  const auto backend = make_reference_backend();
  const OwnedTensor logits = normal({3, 7}, 1), d_logits = zeros({3, 7}), losses = zeros({3});
  const OwnedTensor targets({3}, DType::kI32), correct({3}, DType::kU8);
  for (const std::int64_t r : {0, 1, 2}) {
    targets.view().as<std::int32_t>()[r] = static_cast<std::int32_t>(3 * r - 1);
  }
  backend->cross_entropy(losses, correct, d_logits, logits, targets, 0.5f);
  const auto loss = [&] {
    backend->cross_entropy(losses, correct, Tensor(), logits, targets, 0.5f);
    double total = 0;
    for (const std::int64_t r : {0, 1, 2}) total += 0.5 * losses.view().as<float>()[r];
    return total;
  };
  expect_gradient(logits, d_logits, loss, "d_logits");
}

TEST(ReferenceGradient, RopeTurnsBackWhatItTurned) {
  const auto backend = make_reference_backend();
  const OwnedTensor cos = zeros({4, 3}), sin = zeros({4, 3});
  for (std::int64_t i = 0; i < 12; ++i) {
    cos.view().as<float>()[i] = static_cast<float>(std::cos(0.3 * static_cast<double>(i)));
    sin.view().as<float>()[i] = static_cast<float>(std::sin(0.3 * static_cast<double>(i)));
  }
  for (const RopeLayout layout : {RopeLayout::kInterleaved, RopeLayout::kHalf}) {
    const OwnedTensor x = normal({4, 12}, 1), original = normal({4, 12}, 1);
    backend->rope(x, cos, sin, layout, 0, 4, false);
    EXPECT_GT(std::abs(element(x, 3, 0) - element(original, 3, 0)), 0.01);
    backend->rope(x, cos, sin, layout, 0, 4, true);
    for (std::int64_t i = 0; i < 48; ++i) {
      EXPECT_NEAR(x.view().as<float>()[i], original.view().as<float>()[i], 1e-6);
    }
  }
}

}  // namespace
}  // namespace quest
