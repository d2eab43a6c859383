// Reference kernels: dense and quantized products.
#include "backend/reference/float_access.h"
#include "backend/reference/reference_backend.h"

namespace quest {
namespace {

// out[i, j] (= or +=) sum over k of term(i, j, k).
template <typename Term>
void product(Tensor out, std::int64_t summed, Write write, Term term) {
  for (std::int64_t i = 0; i < out.rows(); ++i) {
    for (std::int64_t j = 0; j < out.cols(); ++j) {
      double total = write == Write::kAdd ? load(out, i, j) : 0.0;
      for (std::int64_t k = 0; k < summed; ++k) total += term(i, j, k);
      store(out, i, j, total);
    }
  }
}

double level(const QuantizedRows& rows, std::int64_t r, std::int64_t k) {
  return (rows.codes.row<std::int8_t>(r)[k] + 0.5) * double{rows.steps.as<float>()[r]};
}

}  // namespace

void ReferenceBackend::matmul(Tensor y, Tensor x, Tensor w, Write write) {
  product(y, x.cols(), write,
          [&](auto i, auto j, auto k) { return load(x, i, k) * load(w, j, k); });
}

void ReferenceBackend::matmul_grad_input(Tensor d_x, Tensor d_y, Tensor w, Write write) {
  product(d_x, d_y.cols(), write,
          [&](auto i, auto j, auto n) { return load(d_y, i, n) * load(w, n, j); });
}

void ReferenceBackend::matmul_grad_weight(Tensor d_w, Tensor d_y, Tensor x, Write write) {
  product(d_w, d_y.rows(), write,
          [&](auto i, auto j, auto m) { return load(d_y, m, i) * load(x, m, j); });
}

void ReferenceBackend::quantized_matmul(Tensor y, const QuantizedRows& x, const QuantizedRows& w,
                                        Write write) {
  for (std::int64_t i = 0; i < y.rows(); ++i) {
    const std::int8_t* const qx = x.codes.row<std::int8_t>(i);
    for (std::int64_t j = 0; j < y.cols(); ++j) {
      const std::int8_t* const qw = w.codes.row<std::int8_t>(j);
      std::int64_t total = 0;
      for (std::int64_t k = 0; k < x.codes.cols(); ++k) {
        total += std::int64_t{2 * qx[k] + 1} * (2 * qw[k] + 1);
      }
      const double scale = 0.25 * x.steps.as<float>()[i] * double{w.steps.as<float>()[j]};
      const double before = write == Write::kAdd ? load(y, i, j) : 0.0;
      store(y, i, j, before + scale * static_cast<double>(total));
    }
  }
}

void ReferenceBackend::quantized_matmul_grad_input(Tensor d_z, Tensor d_y, const QuantizedRows& w,
                                                   Write write) {
  product(d_z, d_y.cols(), write,
          [&](auto i, auto j, auto n) { return load(d_y, i, n) * level(w, n, j); });
}

void ReferenceBackend::quantized_matmul_grad_weight(Tensor d_z, Tensor d_y, const QuantizedRows& x,
                                                    Write write) {
  product(d_z, d_y.rows(), write,
          [&](auto i, auto j, auto m) { return load(d_y, m, i) * level(x, m, j); });
}

}  // namespace quest
