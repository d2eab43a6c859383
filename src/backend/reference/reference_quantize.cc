// Reference kernels: memory, quantization and its gradient.
#include <cmath>
#include <limits>
#include <vector>

#include "backend/host_memory.h"
#include "backend/reference/float_access.h"
#include "backend/reference/reference_backend.h"

namespace quest {
namespace {

std::vector<double> rotated_row(Tensor x, std::int64_t r, std::int64_t block) {
  std::vector<double> z(static_cast<std::size_t>(x.cols()));
  for (std::int64_t k = 0; k < x.cols(); ++k) z[static_cast<std::size_t>(k)] = load(x, r, k);
  hadamard_transform(z.data(), x.cols(), block);
  return z;
}

double root_mean_square(const std::vector<double>& z) {
  double squares = 0.0;
  for (const double value : z) squares += value * value;
  return std::sqrt(squares / static_cast<double>(z.size()));
}

bool mask_bit(Tensor mask, std::int64_t r, std::int64_t k) {
  return ((mask.row<std::uint8_t>(r)[k / 8] >> (k % 8)) & 1) != 0;
}

}  // namespace

void* ReferenceBackend::allocate(std::size_t bytes) { return allocate_host(bytes); }
void ReferenceBackend::deallocate(void* data, std::size_t bytes) noexcept {
  deallocate_host(data, bytes);
}
void ReferenceBackend::copy(Tensor dst, Tensor src) { copy_host(dst, src); }
void ReferenceBackend::zero(Tensor dst) { zero_host(dst); }

void ReferenceBackend::cast(Tensor dst, Tensor src) {
  for (std::int64_t r = 0; r < src.rows(); ++r) {
    for (std::int64_t c = 0; c < src.cols(); ++c) store(dst, r, c, load(src, r, c));
  }
}

void ReferenceBackend::quantize_rows(const QuantizedRows& rows, Tensor x,
                                     const RowQuantizer& quantizer) {
  for (std::int64_t r = 0; r < x.rows(); ++r) {
    const std::vector<double> z = rotated_row(x, r, quantizer.block);
    const double rms = root_mean_square(z);
    const bool finite = std::isfinite(rms);
    const double step = finite ? quantizer.step(rms) : std::numeric_limits<double>::quiet_NaN();
    std::int8_t* const codes = rows.codes.row<std::int8_t>(r);
    std::uint8_t* const mask = rows.mask ? rows.mask.row<std::uint8_t>(r) : nullptr;
    if (mask != nullptr) std::fill(mask, mask + rows.mask.cols(), std::uint8_t{0});
    const double bound = finite ? quantizer.mask_bound(rms) : -1.0;
    std::int32_t code_sum = 0;
    for (std::int64_t k = 0; k < x.cols(); ++k) {
      const double value = z[static_cast<std::size_t>(k)];
      const std::int32_t code = finite ? quantizer.code(value, step) : 0;
      codes[k] = static_cast<std::int8_t>(code);
      code_sum += code;
      if (mask != nullptr && std::abs(value) <= bound) {
        mask[k / 8] = static_cast<std::uint8_t>(mask[k / 8] | (1u << (k % 8)));
      }
    }
    rows.steps.as<float>()[r] = static_cast<float>(step);
    rows.code_sums.as<std::int32_t>()[r] = code_sum;
  }
}

void ReferenceBackend::quantize_rows_backward(Tensor d_x, Tensor d_z, Tensor mask,
                                              std::int64_t block, Write write) {
  std::vector<double> row(static_cast<std::size_t>(d_z.cols()));
  for (std::int64_t r = 0; r < d_z.rows(); ++r) {
    for (std::int64_t k = 0; k < d_z.cols(); ++k) {
      const bool passes = !mask || mask_bit(mask, r, k);
      row[static_cast<std::size_t>(k)] = passes ? load(d_z, r, k) : 0.0;
    }
    hadamard_transform(row.data(), d_z.cols(), block);
    for (std::int64_t k = 0; k < d_z.cols(); ++k) {
      const double before = write == Write::kAdd ? load(d_x, r, k) : 0.0;
      store(d_x, r, k, before + row[static_cast<std::size_t>(k)]);
    }
  }
}

void ReferenceBackend::dequantize_rows(Tensor out, const QuantizedRows& rows, std::int64_t block) {
  std::vector<double> row(static_cast<std::size_t>(out.cols()));
  for (std::int64_t r = 0; r < out.rows(); ++r) {
    const double step = rows.steps.as<float>()[r];
    for (std::int64_t k = 0; k < out.cols(); ++k) {
      row[static_cast<std::size_t>(k)] = (rows.codes.row<std::int8_t>(r)[k] + 0.5) * step;
    }
    hadamard_transform(row.data(), out.cols(), block);
    for (std::int64_t k = 0; k < out.cols(); ++k) {
      store(out, r, k, row[static_cast<std::size_t>(k)]);
    }
  }
}

void ReferenceBackend::quantization_error(Tensor sums, Tensor x, const QuantizedRows& rows,
                                          const RowQuantizer& quantizer) {
  double* const total = sums.as<double>();
  for (std::int64_t r = 0; r < x.rows(); ++r) {
    const std::vector<double> z = rotated_row(x, r, quantizer.block);
    const double step = rows.steps.as<float>()[r];
    for (std::int64_t k = 0; k < x.cols(); ++k) {
      const double value = z[static_cast<std::size_t>(k)];
      const double error = (rows.codes.row<std::int8_t>(r)[k] + 0.5) * step - value;
      if (rows.mask && !mask_bit(rows.mask, r, k)) total[0] += 1.0;
      total[1] += error * error;
      total[2] += value * value;
    }
  }
}

}  // namespace quest
