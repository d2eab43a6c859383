// Reference kernels: products of packed weights, by unpacking them whole.
#include <vector>

#include "backend/reference/float_access.h"
#include "backend/reference/reference_backend.h"
#include "quant/hadamard.h"
#include "quant/packing.h"

namespace quest {
namespace {

// The rows as the kernels of training read them.
struct UnpackedRows {
  std::vector<std::int8_t> codes;
  QuantizedRows rows;

  explicit UnpackedRows(const PackedRows& packed)
      : codes(static_cast<std::size_t>(packed.codes.rows() * packed.columns)) {
    const std::int64_t count = packed.codes.rows();
    rows.codes = view_of(codes.data(), {count, packed.columns});
    rows.steps = packed.steps;
    rows.code_sums = packed.code_sums;
    for (std::int64_t r = 0; r < count; ++r) {
      unpack_codes(rows.codes.row<std::int8_t>(r), packed.codes.row<std::uint8_t>(r),
                   packed.columns, packed.bits);
    }
  }
};

}  // namespace

void ReferenceBackend::packed_matmul(Tensor y, const QuantizedRows& x, int, const PackedRows& w,
                                     Write write) {
  quantized_matmul(y, x, UnpackedRows(w).rows, write);
}

void ReferenceBackend::packed_dense_matmul(Tensor y, Tensor x, const PackedRows& w,
                                           std::int64_t block, Write write) {
  const UnpackedRows unpacked(w);
  std::vector<float> dense(unpacked.codes.size());
  const Tensor values = view_of(dense.data(), {w.codes.rows(), w.columns});
  dequantize_rows(values, unpacked.rows, block);
  stored_matmul(y, x, values, write);
}

void ReferenceBackend::stored_matmul(Tensor y, Tensor x, Tensor w, Write write) {
  matmul(y, x, w, write);
}

void ReferenceBackend::packed_embedding(Tensor x, Tensor tokens, const PackedRows& table,
                                        std::int64_t block) {
  std::vector<std::int8_t> codes(static_cast<std::size_t>(table.columns));
  std::vector<double> row(codes.size());
  for (std::int64_t r = 0; r < x.rows(); ++r) {
    const std::int32_t token = tokens.as<std::int32_t>()[r];
    unpack_codes(codes.data(), table.codes.row<std::uint8_t>(token), table.columns, table.bits);
    const double step = table.steps.as<float>()[token];
    for (std::size_t c = 0; c < row.size(); ++c) row[c] = (codes[c] + 0.5) * step;
    hadamard_transform(row.data(), table.columns, block);
    for (std::size_t c = 0; c < row.size(); ++c) {
      store(x, r, static_cast<std::int64_t>(c), row[c]);
    }
  }
}

}  // namespace quest
