// Reference kernels: embedding, norm, rotary embedding, SwiGLU, cross-entropy, optimizer.
#include <cmath>
#include <limits>
#include <vector>

#include "backend/reference/float_access.h"
#include "backend/reference/reference_backend.h"

namespace quest {
namespace {

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

}  // namespace

void ReferenceBackend::embedding(Tensor x, Tensor tokens, Tensor table) {
  for (std::int64_t r = 0; r < x.rows(); ++r) {
    const std::int64_t token = tokens.as<std::int32_t>()[r];
    for (std::int64_t c = 0; c < x.cols(); ++c) store(x, r, c, load(table, token, c));
  }
}

void ReferenceBackend::embedding_backward(Tensor d_table, Tensor d_x, Tensor tokens) {
  for (std::int64_t r = 0; r < d_x.rows(); ++r) {
    const std::int64_t token = tokens.as<std::int32_t>()[r];
    for (std::int64_t c = 0; c < d_x.cols(); ++c) {
      store(d_table, token, c, load(d_table, token, c) + load(d_x, r, c));
    }
  }
}

void ReferenceBackend::rmsnorm(Tensor y, Tensor rstd, Tensor x, Tensor weight, float epsilon) {
  for (std::int64_t r = 0; r < x.rows(); ++r) {
    double squares = 0.0;
    for (std::int64_t c = 0; c < x.cols(); ++c) squares += std::pow(load(x, r, c), 2);
    const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(x.cols()) + epsilon);
    rstd.as<float>()[r] = static_cast<float>(inverse);
    for (std::int64_t c = 0; c < x.cols(); ++c) {
      store(y, r, c, load(x, r, c) * inverse * weight.as<float>()[c]);
    }
  }
}

void ReferenceBackend::rmsnorm_backward(Tensor d_x, Tensor rounded, Tensor d_weight, Tensor d_y,
                                        Tensor x, Tensor weight, Tensor rstd) {
  const std::int64_t width = x.cols();
  std::vector<double> weight_sums(static_cast<std::size_t>(width), 0.0);
  for (std::int64_t r = 0; r < x.rows(); ++r) {
    const double inverse = rstd.as<float>()[r];
    double projection = 0.0;  // mean of d_y * weight * normalized x
    for (std::int64_t c = 0; c < width; ++c) {
      const double normalized = load(x, r, c) * inverse;
      projection += load(d_y, r, c) * weight.as<float>()[c] * normalized;
      weight_sums[static_cast<std::size_t>(c)] += load(d_y, r, c) * normalized;
    }
    projection /= static_cast<double>(width);
    for (std::int64_t c = 0; c < width; ++c) {
      const double normalized = load(x, r, c) * inverse;
      const double gradient =
          inverse * (load(d_y, r, c) * weight.as<float>()[c] - normalized * projection);
      store(d_x, r, c, load(d_x, r, c) + gradient);
      if (rounded) store(rounded, r, c, load(d_x, r, c));
    }
  }
  for (std::int64_t c = 0; c < width; ++c) {
    float& total = d_weight.as<float>()[c];
    total = static_cast<float>(total + weight_sums[static_cast<std::size_t>(c)]);
  }
}

void ReferenceBackend::rope(Tensor x, Tensor cos, Tensor sin, RopeLayout layout,
                            std::int64_t first_position, std::int64_t length, bool inverse) {
  const std::int64_t half = cos.cols();
  const std::int64_t head_dim = 2 * half;
  for (std::int64_t r = 0; r < x.rows(); ++r) {
    const std::int64_t position = first_position + r % length;
    for (std::int64_t head = 0; head < x.cols() / head_dim; ++head) {
      for (std::int64_t i = 0; i < half; ++i) {
        const bool interleaved = layout == RopeLayout::kInterleaved;
        const std::int64_t a = head * head_dim + (interleaved ? 2 * i : i);
        const std::int64_t b = head * head_dim + (interleaved ? 2 * i + 1 : i + half);
        const double c = cos.row<float>(position)[i];
        const double s = (inverse ? -1.0 : 1.0) * sin.row<float>(position)[i];
        const double xa = load(x, r, a);
        const double xb = load(x, r, b);
        store(x, r, a, xa * c - xb * s);
        store(x, r, b, xa * s + xb * c);
      }
    }
  }
}

void ReferenceBackend::swiglu(Tensor h, Tensor gate, Tensor up) {
  for (std::int64_t r = 0; r < h.rows(); ++r) {
    for (std::int64_t f = 0; f < h.cols(); ++f) {
      const double g = load(gate, r, f);
      store(h, r, f, g * sigmoid(g) * load(up, r, f));
    }
  }
}

void ReferenceBackend::swiglu_backward(Tensor d_gate, Tensor d_up, Tensor d_h, Tensor gate,
                                       Tensor up) {
  for (std::int64_t r = 0; r < d_h.rows(); ++r) {
    for (std::int64_t f = 0; f < d_h.cols(); ++f) {
      const double g = load(gate, r, f);
      const double u = load(up, r, f);
      const double d = load(d_h, r, f);
      const double s = sigmoid(g);
      store(d_gate, r, f, d * u * s * (1.0 + g * (1.0 - s)));
      store(d_up, r, f, d * g * s);
    }
  }
}

void ReferenceBackend::cross_entropy(Tensor losses, Tensor correct, Tensor d_logits, Tensor logits,
                                     Tensor targets, float scale) {
  const std::int64_t vocab = logits.cols();
  for (std::int64_t r = 0; r < logits.rows(); ++r) {
    const std::int32_t target = targets.as<std::int32_t>()[r];
    const float* const row = logits.row<float>(r);
    std::int64_t best = 0;
    for (std::int64_t v = 1; v < vocab; ++v) {
      if (row[v] > row[best]) best = v;
    }
    double denominator = 0.0;
    for (std::int64_t v = 0; v < vocab; ++v) denominator += std::exp(double{row[v]} - row[best]);
    const bool ignored = target < 0;
    losses.as<float>()[r] =
        ignored ? 0.0f : static_cast<float>(std::log(denominator) + row[best] - row[target]);
    correct.as<std::uint8_t>()[r] = !ignored && best == target ? 1 : 0;
    if (!d_logits) continue;
    const double largest = row[best];
    for (std::int64_t v = 0; v < vocab; ++v) {
      const double probability = std::exp(double{row[v]} - largest) / denominator;
      store(d_logits, r, v, ignored ? 0.0 : scale * (probability - (v == target ? 1.0 : 0.0)));
    }
  }
}

std::unique_ptr<Backend> make_reference_backend() { return std::make_unique<ReferenceBackend>(); }

}  // namespace quest
