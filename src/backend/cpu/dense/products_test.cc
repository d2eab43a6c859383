// Tests of the dense products against the reference.
#include "backend/cpu/closeness.h"
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/quantized/quant_kernels.h"
#include "backend/cpu/tiles/tile_product.h"

namespace quest {
namespace {

constexpr DType kFloats[] = {DType::kF32, DType::kBF16};

std::vector<double> row_norms(Tensor x) {
  std::vector<double> norms;
  for (std::int64_t r = 0; r < x.rows(); ++r) {
    double squares = 0;
    for (std::int64_t c = 0; c < x.cols(); ++c) squares += element(x, r, c) * element(x, r, c);
    norms.push_back(std::sqrt(squares));
  }
  return norms;
}
std::vector<double> column_norms(Tensor x) {
  std::vector<double> norms;
  for (std::int64_t c = 0; c < x.cols(); ++c) {
    double squares = 0;
    for (std::int64_t r = 0; r < x.rows(); ++r) squares += element(x, r, c) * element(x, r, c);
    norms.push_back(std::sqrt(squares));
  }
  return norms;
}

using Bound = std::function<double(std::int64_t, std::int64_t)>;

// Sums of k products in f32: any order of adding is within sqrt(k) rounding errors of the norms,
// with room; and the addition to what stood there rounds once more.
Bound sum_bound(std::int64_t k, std::vector<double> rows, std::vector<double> columns) {
  const double factor = 4 * std::sqrt(static_cast<double>(k) + 4) * 0x1p-24;
  return [factor, rows = std::move(rows), columns = std::move(columns)](auto i, auto j) {
    return factor * (rows[static_cast<std::size_t>(i)] * columns[static_cast<std::size_t>(j)] + 1);
  };
}

using Kernel = std::function<void(Backend&, Tensor out, Tensor a, Tensor b)>;

void check(const Kernel& kernel, Tensor a, Tensor b, std::int64_t rows, std::int64_t cols,
           DType out_type, const Bound& bound, const std::string& what) {
  Sliced expected(rows, cols, out_type, 3);
  kernel(*make_reference_backend(), expected, a, b);
  on_every_backend([&](Backend& backend, const std::string& label) {
    Sliced actual(rows, cols, out_type, 3);
    kernel(backend, actual, a, b);
    expect_close(actual, expected, bound, what + " on " + label);
    EXPECT_TRUE(actual.same_margins(expected)) << what << ": wrote beside the slice";
  });
}

std::string describe(const ProductCase& c, DType operands, DType out) {
  return fmt::format("m {} n {} k {} {} to {}", c.m, c.n, c.k, type_name(operands), type_name(out));
}

TEST(CpuProducts, MatmulIsTheReferences) {
  for (const ProductCase& c : kProductCases) {
    for (const DType type : kFloats) {
      const OwnedTensor x({c.m, c.k}, type), w({c.n, c.k}, type);
      fill_normal(x, 1);
      fill_normal(w, 2);
      const Bound bound = sum_bound(c.k, row_norms(x), row_norms(w));
      for (const DType out : kFloats) {
        for (const Write write : {Write::kSet, Write::kAdd}) {
          check([write](Backend& backend, Tensor y, Tensor a,
                        Tensor b) { backend.matmul(y, a, b, write); },
                x, w, c.m, c.n, out, bound, "matmul " + describe(c, type, out));
        }
      }
    }
  }
}

TEST(CpuProducts, InputGradientIsTheReferences) {
  for (const ProductCase& c : kProductCases) {
    for (const DType type : kFloats) {
      const Sliced d_y(c.m, c.n, type, 1);
      const OwnedTensor w({c.n, c.k}, type);
      fill_normal(w, 2);
      const Bound bound = sum_bound(c.n, row_norms(d_y), column_norms(w));
      for (const DType out : kFloats) {
        const Write write = out == DType::kF32 ? Write::kAdd : Write::kSet;
        check([write](Backend& backend, Tensor d_x, Tensor a,
                      Tensor b) { backend.matmul_grad_input(d_x, a, b, write); },
              d_y, w, c.m, c.k, out, bound, "input gradient " + describe(c, type, out));
      }
    }
  }
}

TEST(CpuProducts, WeightGradientIsTheReferences) {
  for (const ProductCase& c : kProductCases) {
    for (const DType type : kFloats) {
      const Sliced d_y(c.m, c.n, type, 1);
      const OwnedTensor x({c.m, c.k}, type);
      fill_normal(x, 2);
      const Bound bound = sum_bound(c.m, column_norms(d_y), column_norms(x));
      for (const Write write : {Write::kSet, Write::kAdd}) {
        check([write](Backend& backend, Tensor d_w, Tensor a,
                      Tensor b) { backend.matmul_grad_weight(d_w, a, b, write); },
              d_y, x, c.n, c.k, DType::kF32, bound,
              "weight gradient " + describe(c, type, DType::kF32));
      }
    }
  }
}

/// Instruction sets of this CPU that multiply bf16 in tiles.
std::vector<Isa> isas_with_bf16_tiles() {
  std::vector<Isa> isas = available_isas();
  std::erase_if(isas, [](Isa isa) { return quant_kernels(isa).bf16_tiles == nullptr; });
  return isas;
}

// Sums of more values than tiles take in one pass, in whole groups; more columns than a block has.
constexpr ProductCase kSeveralBlocks{131, 790, 2080};

// That tiles cut the product of `a` and a second operand of `columns` so.
void expect_several_blocks(const TileSource& a, std::int64_t columns, const Bf16TileKernels& tiles,
                           int threads) {
  const TileBlocks blocks = tile_blocks({a.lanes, columns, a.summed, 2, tiles.in_vectors}, threads);
  EXPECT_GT(blocks.passes, 1);
  EXPECT_LT(blocks.columns, columns);
}

TEST(CpuProducts, MatmulInSeveralPassesIsTheReferences) {
  const ProductCase c = kSeveralBlocks;
  const OwnedTensor x({c.m, c.k}, DType::kBF16), w({c.n, c.k}, DType::kBF16);
  fill_normal(x, 1);
  fill_normal(w, 2);
  for (const Isa isa : isas_with_bf16_tiles()) {
    const Bf16TileKernels& tiles = *quant_kernels(isa).bf16_tiles;
    const TileSource a = first_rows_source(tiles, x);
    EXPECT_EQ(a.pack == nullptr, tiles.in_vectors) << "read where its rows lie";
    expect_several_blocks(a, c.n, tiles, 1);
  }
  const Bound bound = sum_bound(c.k, row_norms(x), row_norms(w));
  for (const DType out : kFloats) {
    check([](Backend& backend, Tensor y, Tensor a,
             Tensor b) { backend.matmul(y, a, b, Write::kAdd); },
          x, w, c.m, c.n, out, bound, "matmul " + describe(c, DType::kBF16, out));
  }
}

TEST(CpuProducts, InputGradientInSeveralPassesIsTheReferences) {
  const ProductCase c{kSeveralBlocks.m, kSeveralBlocks.k, kSeveralBlocks.n};
  const Sliced d_y(c.m, c.n, DType::kBF16, 1);
  const OwnedTensor w({c.n, c.k}, DType::kBF16);
  fill_normal(w, 2);
  for (const Isa isa : isas_with_bf16_tiles()) {
    const Bf16TileKernels& tiles = *quant_kernels(isa).bf16_tiles;
    const TileSource a = first_rows_source(tiles, d_y);
    EXPECT_EQ(a.pack == nullptr, tiles.in_vectors) << "read where its rows lie";
    expect_several_blocks(a, c.k, tiles, 1);
  }
  const Bound bound = sum_bound(c.n, row_norms(d_y), column_norms(w));
  for (const Write write : {Write::kSet, Write::kAdd}) {
    check([write](Backend& backend, Tensor d_x, Tensor a,
                  Tensor b) { backend.matmul_grad_input(d_x, a, b, write); },
          d_y, w, c.m, c.k, DType::kBF16, bound,
          "input gradient " + describe(c, DType::kBF16, DType::kBF16));
  }
}

TEST(CpuProducts, WeightGradientInSeveralPassesIsTheReferences) {
  const ProductCase c{kSeveralBlocks.k, kSeveralBlocks.m, kSeveralBlocks.n};
  const Sliced d_y(c.m, c.n, DType::kBF16, 1);
  const OwnedTensor x({c.m, c.k}, DType::kBF16);
  fill_normal(x, 2);
  for (const Isa isa : isas_with_bf16_tiles()) {
    const Bf16TileKernels& tiles = *quant_kernels(isa).bf16_tiles;
    const TileSource a = columns_source(d_y, tiles.pack_columns);
    expect_several_blocks(a, c.k, tiles, 1);
  }
  for (const Write write : {Write::kSet, Write::kAdd}) {
    check([write](Backend& backend, Tensor d_w, Tensor a,
                  Tensor b) { backend.matmul_grad_weight(d_w, a, b, write); },
          d_y, x, c.n, c.k, DType::kF32, sum_bound(c.m, column_norms(d_y), column_norms(x)),
          "weight gradient " + describe(c, DType::kBF16, DType::kF32));
  }
}

// Small products, which the backend gives to tiles on AMX only: every remainder of a bundle, and of
// the rows in registers.
TEST(ProductsOnCpu, TilesOfEverySizeAreTheReferences) {
  if (isas_with_bf16_tiles().empty()) GTEST_SKIP() << "this CPU does not multiply bf16";
  const auto reference = make_reference_backend();
  for (const Isa isa : isas_with_bf16_tiles()) {
    const Bf16TileKernels& tiles = *quant_kernels(isa).bf16_tiles;
    for (const ProductCase& c : kProductCases) {
      const Sliced x(c.m, c.k, DType::kBF16, 1), w(c.n, c.k, DType::kBF16, 2);
      const Sliced d_y(c.m, c.n, DType::kBF16, 3);
      Workspace workspace;
      const TileContext context{workspace, 2, tiles};
      const std::string what =
          std::string(isa_name(isa)) + ", " + describe(c, DType::kBF16, DType::kF32);
      const auto expect = [&](std::int64_t rows, std::int64_t cols, const TileSource& a,
                              const TileSource& b, const Bound& bound, const auto& product) {
        const OwnedTensor expected({rows, cols}, DType::kF32), actual({rows, cols}, DType::kF32);
        product(expected);
        multiply_tiles(context, {a, b, {actual, Write::kSet}});
        expect_close(actual, expected, bound, what);
      };
      expect(c.m, c.n, rows_source(x, tiles.pack_rows), rows_source(w, tiles.pack_transposed),
             sum_bound(c.k, row_norms(x), row_norms(w)),
             [&](Tensor y) { reference->matmul(y, x, w, Write::kSet); });
      expect(c.m, c.n, first_rows_source(tiles, x), rows_source(w, tiles.pack_transposed),
             sum_bound(c.k, row_norms(x), row_norms(w)),
             [&](Tensor y) { reference->matmul(y, x, w, Write::kSet); });
      expect(c.m, c.k, rows_source(d_y, tiles.pack_rows), columns_source(w, tiles.pack_pairs),
             sum_bound(c.n, row_norms(d_y), column_norms(w)),
             [&](Tensor d_x) { reference->matmul_grad_input(d_x, d_y, w, Write::kSet); });
      expect(c.n, c.k, columns_source(d_y, tiles.pack_columns), columns_source(x, tiles.pack_pairs),
             sum_bound(c.m, column_norms(d_y), column_norms(x)),
             [&](Tensor d_w) { reference->matmul_grad_weight(d_w, d_y, x, Write::kSet); });
    }
  }
}

// Where tiles multiply, the order of sums does not depend on who adds them, nor on whether rows or
// columns are split among threads.
TEST(ProductsOnCpu, TilesGiveTheSameBitsOnAnyNumberOfThreads) {
  if (isas_with_bf16_tiles().empty()) GTEST_SKIP() << "this CPU does not multiply bf16";
  const auto normal = [](std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
    OwnedTensor x({rows, columns}, DType::kBF16);
    fill_normal(x, seed);
    return x;
  };
  const std::int64_t few = kSeveralBlocks.m, many = kSeveralBlocks.n, summed = kSeveralBlocks.k;
  for (const auto& [m, n] : {std::pair{few, many}, {many, few}}) {
    const OwnedTensor x = normal(m, summed, 1), w = normal(n, summed, 2);
    const OwnedTensor w_columns = normal(summed, n, 3), x_columns = normal(summed, m, 4);
    const auto run = [&, rows = m, columns = n](Isa isa, int threads) {
      CpuBackend backend(threads, isa);
      OwnedTensor y({rows, columns}, DType::kF32), d_x({rows, columns}, DType::kF32);
      OwnedTensor d_w({rows, columns}, DType::kF32);
      backend.matmul(y, x, w, Write::kSet);
      backend.matmul_grad_input(d_x, x, w_columns, Write::kSet);
      backend.matmul_grad_weight(d_w, x_columns, w_columns, Write::kSet);
      return std::array{std::move(y), std::move(d_x), std::move(d_w)};
    };
    for (const Isa isa : isas_with_bf16_tiles()) {
      const auto alone = run(isa, 1);
      for (const int threads : {2, 3}) {
        const auto together = run(isa, threads);
        for (std::size_t i = 0; i < alone.size(); ++i) {
          EXPECT_TRUE(alone[i].same_bytes(together[i]))
              << isa_name(isa) << ", product " << i << ", " << m << " rows, " << threads
              << " threads";
        }
      }
    }
  }
}

TEST(CpuProducts, AnOutputWrittenPastTheCachesHasTheBitsOfItsParts) {
  if (isas_with_bf16_tiles().empty()) GTEST_SKIP() << "this CPU does not multiply bf16";
  // 40 MiB, with rows that begin with a line and end within a bundle of columns.
  constexpr std::int64_t kM = 410, kN = 25616, kK = 48, kPart = 205;
  const OwnedTensor x({kM, kK}, DType::kBF16), w({kN, kK}, DType::kBF16);
  fill_normal(x, 1);
  fill_normal(w, 2);
  const OwnedTensor whole({kM, kN}, DType::kF32), parts({kM, kN}, DType::kF32);
  for (const Isa isa : isas_with_bf16_tiles()) {
    CpuBackend backend(2, isa);
    backend.matmul(whole, x, w, Write::kSet);
    for (std::int64_t first = 0; first < kM; first += kPart) {
      backend.matmul(parts.view().rows_slice(first, first + kPart),
                     x.view().rows_slice(first, first + kPart), w, Write::kSet);
    }
    EXPECT_TRUE(whole.same_bytes(parts)) << isa_name(isa);
  }
}

TEST(CpuProducts, OperandsLargerThanABlockAreWidenedPieceByPiece) {
  // 1030 rows are two blocks and a rest where bf16 operands must become f32.
  const ProductCase c{1030, 520, 3};
  const OwnedTensor x({c.m, c.k}, DType::kBF16), w({c.n, c.k}, DType::kBF16);
  fill_normal(x, 1);
  fill_normal(w, 2);
  const Bound bound = sum_bound(c.k, row_norms(x), row_norms(w));
  for (const DType out : kFloats) {
    check([](Backend& backend, Tensor y, Tensor a,
             Tensor b) { backend.matmul(y, a, b, Write::kAdd); },
          x, w, c.m, c.n, out, bound, "matmul " + describe(c, DType::kBF16, out));
  }
}

TEST(CpuProducts, ProductsAreTheSameBitsAgain) {
  const OwnedTensor d_y({130, 70}, DType::kBF16), x({130, 256}, DType::kBF16);
  fill_normal(d_y, 1);
  fill_normal(x, 2);
  on_every_backend([&](Backend& backend, const std::string& label) {
    const OwnedTensor first({70, 256}, DType::kF32), second({70, 256}, DType::kF32);
    backend.matmul_grad_weight(first, d_y, x, Write::kSet);
    backend.matmul_grad_weight(second, d_y, x, Write::kSet);
    EXPECT_TRUE(first.same_bytes(second)) << label;
  });
}

TEST(ProductsOnCpu, NoRowsAreNoWork) {
  CpuBackend backend(1);
  const OwnedTensor w({3, 4}, DType::kF32);
  backend.matmul(Tensor(nullptr, {0, 3}, DType::kF32), Tensor(nullptr, {0, 4}, DType::kF32), w,
                 Write::kSet);
  EXPECT_EQ(backend.workspace_bytes(), 0u);
}

}  // namespace
}  // namespace quest
