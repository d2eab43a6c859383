// LtProducts: products of bf16 or f32 by cuBLASLt, with sums in f32.
#pragma once

#include <cublasLt.h>

#include <map>
#include <optional>
#include <tuple>

#include "backend/backend.h"
#include "backend/cuda/workspace.h"

namespace quest::cuda {

/// A factor of a product, and whether its rows are the summed axis.
struct Factor {
  Tensor tensor;
  bool rows_are_summed;
};

class LtProducts {
 public:
  LtProducts(cudaStream_t stream, Workspace& workspace);
  ~LtProducts();
  LtProducts(const LtProducts&) = delete;
  LtProducts& operator=(const LtProducts&) = delete;

  /// out [M, N] (= or +=) sum over s of left[M, s] right[s, N]; all may be column slices. Factors
  /// are of one type: f32 (to f32) or bf16 (to f32 or bf16). Returns false, and has done nothing,
  /// where the library has no kernel for these types, sizes and alignments.
  bool multiply(Tensor out, const Factor& left, const Factor& right, std::int64_t summed,
                Write write);

 private:
  struct Algorithm {
    cublasLtMatmulAlgo_t algo;
    std::size_t workspace_bytes;
  };
  // Types, transpositions, sizes, strides and alignments: what the choice depends on.
  using Key = std::array<std::int64_t, 14>;

  std::optional<Algorithm> choose(const Key& key, cublasLtMatmulDesc_t product,
                                  const std::array<cublasLtMatrixLayout_t, 3>& layouts);

  cudaStream_t stream_;
  Workspace& workspace_;
  cublasLtHandle_t handle_ = nullptr;
  std::map<Key, std::optional<Algorithm>> chosen_;
};

}  // namespace quest::cuda
