// Packed rows of w against a few rows of x: the loop over blocks of w that integer and float
// products share.
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/backend.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/packed/packed_kernels.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/workspace.h"
#include "core/division.h"

namespace quest {

/// Rows of x up to which weights are unpacked in registers, once for all of them.
constexpr std::int64_t kDotRows = 16;
/// Multiplications below which a thread of its own does not pay.
constexpr std::int64_t kProductsPerThread = 1 << 18;
/// Rows of w that a thread takes at least when x has few rows.
constexpr std::int64_t kDotColumns = 64;
/// Rows of w between two ends of sums at most: ends read and write elsewhere, and hardware that
/// follows the loads of w starts anew after each.
constexpr std::int64_t kMostDotColumns = 512;

/// The rows of x, each as `bytes` bytes that pack(out, codes) makes.
template <typename Pack>
const std::uint8_t* pack_each_row(const Tensor& codes, std::int64_t bytes, Workspace& workspace,
                                  int threads, const Pack& pack) {
  auto* const rows = reinterpret_cast<std::uint8_t*>(workspace.bytes(
      Workspace::Slot::kPackedInputs, static_cast<std::size_t>(codes.rows() * bytes)));
  parallel_for(threads, codes.rows(), quantize_grain(codes.cols()),
               [&](std::int64_t begin, std::int64_t end, int) {
                 for (std::int64_t i = begin; i < end; ++i) {
                   pack(rows + i * bytes, codes.row<std::int8_t>(i));
                 }
               });
  return rows;
}

/// `rows` rows of x, packed, against all of w; sums and scratch are for the caller of `dot` to set.
inline PackedDot dot_of_rows(const PackedRows& w, const std::uint8_t* x, std::int64_t x_row_bytes,
                             std::int64_t rows) {
  PackedDot dot{};
  dot.x = x;
  dot.x_row_bytes = x_row_bytes;
  dot.rows = rows;
  dot.w = w.codes.as<std::uint8_t>();
  dot.w_row_bytes = w.codes.row_stride;
  dot.columns = w.codes.rows();
  dot.k = w.columns;
  dot.bits = w.bits;
  dot.in_order = made_by_amd();
  return dot;
}

/// The kernel for a product, and x as that kernel reads it.
struct ChosenDot {
  void (*kernel)(const PackedDot&);
  PackedDot dot;
};

/// Tiles where `isa` has some, x has rows enough and the bits of w fill bytes, else `dot`.
inline ChosenDot choose_dot(Isa isa, PackedDot dot, Workspace& workspace) {
  const PackedTileKernels* const tiles = packed_tile_kernels(isa);
  if (tiles == nullptr || dot.rows < tiles->least_rows || 8 % dot.bits != 0) {
    return {packed_kernels(isa).dot, dot};
  }
  const auto bytes = static_cast<std::size_t>(tiles->tile_bytes(dot.x_row_bytes, dot.rows));
  auto* const x =
      reinterpret_cast<std::uint8_t*>(workspace.bytes(Workspace::Slot::kOperandA, bytes));
  tiles->pack_tiles(x, dot.x, dot.x_row_bytes, dot.rows);
  dot.x = x;
  return {tiles->dot, dot};
}

/// Rows of w between two ends of sums. Ends of rows of one bit are as much work as the rows: in
/// small pieces they overlap with what follows.
inline std::int64_t columns_between_ends(const PackedDot& dot) {
  if (!dot.in_order || dot.bits == 1) return kDotColumns;
  return std::max(kDotColumns, kMostDotColumns / dot.rows / kDotColumns * kDotColumns);
}

/// Runs `kernel` (a dot of PackedKernels or of tiles) on blocks of rows of w and calls finish(j,
/// count, sums_of) for each: sums_of(i) are the `count` sums, up to kMostDotColumns, of row i of x
/// from column j on.
template <typename Finish>
void for_each_block_of_dots(void (*kernel)(const PackedDot&), const PackedDot& whole,
                            Workspace& workspace, int threads, const Finish& finish) {
  const std::int64_t columns = columns_between_ends(whole);
  const std::int64_t sums_bytes = round_up(4 * whole.rows * columns, 64);
  const std::int64_t thread_bytes = sums_bytes + round_up(dot_scratch_bytes(whole.k), 64);
  auto* const memory = reinterpret_cast<std::uint8_t*>(workspace.bytes(
      Workspace::Slot::kPackedSums, static_cast<std::size_t>(threads * thread_bytes)));
  const std::int64_t grain = divide_up(kProductsPerThread, kDotColumns * whole.rows * whole.k);
  parallel_for(threads, divide_up(whole.columns, kDotColumns), grain,
               [&](std::int64_t begin, std::int64_t end, int thread) {
                 PackedDot dot = whole;
                 dot.sums = reinterpret_cast<std::int32_t*>(memory + thread * thread_bytes);
                 dot.stride = columns;
                 dot.scratch = memory + thread * thread_bytes + sums_bytes;
                 const std::int64_t last = std::min(end * kDotColumns, whole.columns);
                 for (std::int64_t j = begin * kDotColumns; j < last; j += columns) {
                   dot.w = whole.w + j * whole.w_row_bytes;
                   dot.columns = std::min(columns, last - j);
                   kernel(dot);
                   finish(j, dot.columns, [&](std::int64_t i) { return dot.sums + i * columns; });
                 }
               });
}

}  // namespace quest
