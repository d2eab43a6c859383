// Packed rows that own their memory: for tests.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "backend/kernel_cases.h"
#include "quant/packing.h"

namespace quest {

/// The rows as they lie in a file. The memory ends with the last row, so that the sanitizer sees a
/// kernel that reads on.
struct OwnedPackedRows {
  std::vector<std::uint8_t> bytes;
  std::vector<float> steps;
  std::vector<std::int32_t> code_sums;
  PackedRows rows;

  OwnedPackedRows(const OwnedQuantizedRows& plain, int bits)
      : bytes(static_cast<std::size_t>(plain.codes.view().rows() *
                                       packed_row_bytes(plain.codes.view().cols(), bits))),
        steps(plain.steps.view().as<float>(),
              plain.steps.view().as<float>() + plain.codes.view().rows()),
        code_sums(plain.code_sums.view().as<std::int32_t>(),
                  plain.code_sums.view().as<std::int32_t>() + plain.codes.view().rows()) {
    const Tensor codes = plain.codes;
    rows.bits = bits;
    rows.columns = codes.cols();
    rows.codes = view_of(bytes.data(), {codes.rows(), packed_row_bytes(codes.cols(), bits)});
    rows.steps = view_of(steps.data(), {codes.rows()});
    rows.code_sums = view_of(code_sums.data(), {codes.rows()});
    for (std::int64_t r = 0; r < codes.rows(); ++r) {
      pack_codes(rows.codes.row<std::uint8_t>(r), codes.row<std::int8_t>(r), codes.cols(), bits);
    }
  }
};

}  // namespace quest
