// CudaBackend: products with packed weights.
#include <algorithm>

#include "backend/cuda/code_product_launch.h"
#include "backend/cuda/packed_decode_kernels.cuh"
#include "backend/cuda/packed_kernels.cuh"
#include "backend/cuda/packed_launch.h"
#include "backend/cuda/quantize_launch.h"

namespace quest {
namespace {

cuda::PackedCodes codes_of(const PackedRows& rows) {
  return {cuda::data_of<std::uint8_t>(rows.codes), rows.codes.row_stride, rows.codes.cols(),
          rows.bits};
}

// x: rows of codes, w.columns long. Fewer warps where a sum is short.
template <int kBits, typename Write>
void decode(Launch how, const Tensor& x, const PackedRows& w, const Write& write) {
  constexpr int kDigits = Write::kDigits;
  const auto chunks = static_cast<int>(w.codes.cols() / std::int64_t{cuda::kPackedLoad});
  const unsigned row_blocks =
      std::max(1u, blocks_of(x.rows(), cuda::kDecodeRows / kDigits * kDigits));
  const auto rows_a_block =
      static_cast<int>(blocks_of(x.rows() / kDigits, row_blocks)) * kDigits;  // about equal ones
  const cuda::DecodeFactors factors{cuda::data_of<std::int8_t>(x),
                                    cuda::data_of<std::uint8_t>(w.codes),
                                    x.row_stride,
                                    w.codes.row_stride,
                                    w.codes.rows(),
                                    x.rows(),
                                    rows_a_block,
                                    chunks};
  how.grid = dim3(blocks_of(factors.columns, cuda::kDecodeColumns) *
                  blocks_of(x.rows(), std::max(rows_a_block, 1)));
  how.threads = 32 * std::clamp(blocks_of(chunks, 4), 1u, unsigned{cuda::kDecodeWarps});
  if (rows_a_block <= 8) {
    launch(how, cuda::packed_decode_kernel<kBits, 1, Write>, factors, write);
  } else {
    launch(how, cuda::packed_decode_kernel<kBits, 2, Write>, factors, write);
  }
}

// The same for the bits of w; false where there is no kernel for them.
template <typename Write>
bool decode_bits(const Launch& how, const Tensor& x, const PackedRows& w, const Write& write) {
  return cuda::with_loaded_bits(w.bits, [&]<int kBits>(std::integral_constant<int, kBits>) {
    decode<kBits>(how, x, w, write);
  });
}

// Warps of eight columns, blocks of sixteen rows.
dim3 packed_grid(std::int64_t rows, std::int64_t columns) {
  return dim3(blocks_of(columns, 8) * blocks_of(rows, cuda::kPackedRows));
}

}  // namespace

void CudaBackend::packed_matmul(Tensor y, const QuantizedRows& x, int, const PackedRows& w,
                                Write write) {
  const std::int64_t count = w.codes.rows();
  const cuda::WriteQuantized write_sum =
      cuda::quantized_output(y, x, w.steps, w.code_sums, w.columns, write);
  if (y.rows() <= cuda::kMostDecodeRows && decode_packed(x.codes, w, write_sum)) return;
  if (y.rows() <= cuda::kPackedRows) {
    launch(on("packed_matmul", packed_grid(y.rows(), count), 256), cuda::packed_codes_kernel,
           cuda::words_of(x.codes), codes_of(w), write_sum, y.rows(), count, w.columns);
    return;
  }
  if (multiply_packed(y, x.codes, w, write_sum)) return;
  const std::int64_t stride = (w.columns + cuda::kChunk - 1) / cuda::kChunk * cuda::kChunk;
  auto* const codes = workspace_.take<std::int8_t>(cuda::Workspace::Slot::kOperand, count * stride);
  for_each("unpack", count, (w.columns + 7) / 8, cuda::Unpack{codes, codes_of(w), stride});
  QuantizedRows plain;
  plain.codes = Tensor(codes, {count, stride}, DType::kI8, Place::kCuda).columns(0, w.columns);
  plain.steps = w.steps;
  plain.code_sums = w.code_sums;
  plain.bits = w.bits;
  quantized_matmul(y, x, plain, write);
}

bool CudaBackend::decode_packed(Tensor x_codes, const PackedRows& w,
                                cuda::WriteQuantized write_sum) {
  if (!cuda::loads_are_whole(w) || !cuda::rows_begin_at(x_codes, cuda::kPackedLoad)) return false;
  // Packed codes are unsigned: too large by half their range.
  write_sum.code_offset = 1u << (w.bits - 1);
  return decode_bits(on("packed_decode", dim3(), 0), x_codes, w, write_sum);
}

bool CudaBackend::multiply_packed(Tensor y, Tensor x_codes, const PackedRows& w,
                                  cuda::WriteQuantized write_sum) {
  if (!cuda::rows_begin_at(x_codes, cuda::kChunk) || w.columns > 32768) return false;
  const auto product = [&]<typename Right>(std::size_t alignment, const Right& right) {
    if (!cuda::rows_begin_at(w.codes, alignment)) return false;
    write_sum.code_offset = 1u << (w.bits - 1);
    cuda::code_product("packed_matmul", stream_, device_,
                       cuda::code_factor<cuda::CodeRows>(x_codes, y.rows()), right, write_sum, y,
                       w.columns);
    return true;
  };
  const auto* const bytes = cuda::data_of<std::uint8_t>(w.codes);
  const std::int64_t count = y.cols(), row_bytes = w.codes.cols();
  const std::int64_t stride = count <= 1 ? 0 : w.codes.row_stride;
  switch (w.bits) {
    case 1:
      return product(4, cuda::PackedCodeRows<1>{bytes, stride, count, row_bytes});
    case 2:
      return product(4, cuda::PackedCodeRows<2>{bytes, stride, count, row_bytes});
    case 4:
      return product(8, cuda::PackedCodeRows<4>{bytes, stride, count, row_bytes});
    case 8:
      return product(cuda::kChunk, cuda::UnsignedCodeRows{
                                       reinterpret_cast<const std::int8_t*>(bytes), stride, count});
    default:
      return false;
  }
}

Tensor CudaBackend::rotated_rows(Tensor x, std::int64_t block) {
  if (block == 1) return x;
  const Tensor rotated(
      workspace_.take<float>(cuda::Workspace::Slot::kGradient, x.rows() * x.cols()),
      {x.rows(), x.cols()}, DType::kF32, Place::kCuda);
  const Launch how = on("rotate_rows", cuda::block_a_row(x.rows()), 0);
  const cuda::RowRule rule = cuda::rotation(x.cols(), block);
  if (cuda::suits_vectors(rule, x, rotated)) {
    cuda::with_type(cuda::rows_of(x), [&]<typename T>(const cuda::TypedRows<T>& values) {
      cuda::rotate(how, cuda::PlainVectors<T>{values}, rotated, rule, Write::kSet);
    });
  } else {
    cuda::rotate(how, cuda::PlainSource{cuda::rows_of(x)}, rotated, rule, Write::kSet);
  }
  return rotated;
}

void CudaBackend::packed_dense_matmul(Tensor y, Tensor x, const PackedRows& w, std::int64_t block,
                                      Write write) {
  // y = x (Zw H)^T = (x H) Zw^T: the few rows of x are rotated.
  const Tensor rotated = rotated_rows(x, block);
  const bool add = write == Write::kAdd;
  const bool loaded = cuda::loads_are_whole(w) && cuda::with_loaded_bits(w.bits, [](auto) {});
  if (loaded && (w.approximate ? multiply_fixed_point<2>(y, rotated, w, add)
                               : multiply_fixed_point<3>(y, rotated, w, add))) {
    return;
  }
  const std::int64_t count = w.codes.rows();
  launch(on("packed_dense_matmul", packed_grid(y.rows(), count), 256), cuda::packed_floats_kernel,
         cuda::rows_of(rotated), codes_of(w), cuda::data_of<float>(w.steps),
         cuda::WriteSum{cuda::rows_of(y), add}, y.rows(), count, w.columns);
}

// Rows of x become whole numbers of so many bytes: 2^-15 or 2^-23 of a row's largest value.
template <int kDigits>
bool CudaBackend::multiply_fixed_point(Tensor y, Tensor x, const PackedRows& w, bool add) {
  using cuda::Workspace;
  const std::int64_t rows = x.rows();
  auto* const digits =
      workspace_.take<std::int8_t>(Workspace::Slot::kOperand, rows * kDigits * x.cols());
  auto* const units = workspace_.take<double>(Workspace::Slot::kLines, 2 * rows);
  auto* const sums = reinterpret_cast<std::int64_t*>(units + rows);
  launch(on("fixed_point_rows", cuda::block_a_row(rows), 256),
         cuda::fixed_point_rows_kernel<kDigits>, cuda::rows_of(x), digits, units, sums, x.cols(),
         x.cols());
  const cuda::WriteFixedPoint<kDigits> write_sum{cuda::rows_of(y),
                                                 add,
                                                 cuda::data_of<float>(w.steps),
                                                 units,
                                                 sums,
                                                 0.5 - static_cast<double>(1 << (w.bits - 1))};
  const Tensor codes(digits, {rows * kDigits, x.cols()}, DType::kI8, Place::kCuda);
  return decode_bits(on("packed_dense_decode", dim3(), 0), codes, w, write_sum);
}

void CudaBackend::packed_embedding(Tensor x, Tensor tokens, const PackedRows& table,
                                   std::int64_t block) {
  const cuda::PackedTokenSource source{codes_of(table), cuda::data_of<float>(table.steps),
                                       cuda::data_of<std::int32_t>(tokens)};
  cuda::rotate(on("packed_embedding", cuda::block_a_row(x.rows()), 0), source, x,
               cuda::rotation(x.cols(), block), Write::kSet);
}

}  // namespace quest
