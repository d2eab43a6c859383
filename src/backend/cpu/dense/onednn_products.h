// Dense products of f32 and bf16 matrices on host threads, by oneDNN.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "backend/backend.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/rows/float_kernels.h"
#include "backend/cpu/workspace.h"

namespace quest {

/// A product out [batch, M, N] (= or +=) a [batch, M, K] b [batch, K, N]; strides count elements.
struct ProductShape {
  std::int64_t m = 0, n = 0, k = 0;
  DType operand_type = DType::kF32;  ///< of a and b: f32, or bf16 where bf16_products() holds
  DType out_type = DType::kF32;      ///< f32, or bf16 with bf16 operands
  std::int64_t a_row = 0, a_column = 0;
  std::int64_t b_row = 0, b_column = 0;
  std::int64_t out_row = 0;  ///< columns of out lie next to each other
  std::int64_t batch = 1, a_batch = 0, b_batch = 0, out_batch = 0;
  Write write = Write::kSet;
  auto operator<=>(const ProductShape&) const = default;
};

/// A product whose code is ready; may run on several threads at once, each with its own scratch.
class PreparedProduct {
 public:
  virtual ~PreparedProduct() = default;
  /// Bytes that `run` wants as `scratch`, aligned to 64; 0: null is fine.
  virtual std::size_t scratch_bytes() const = 0;
  virtual void run(void* out, const void* a, const void* b, std::byte* scratch) const = 0;
};

/// A matrix, or its transpose.
struct Operand {
  Tensor tensor;
  bool transposed = false;

  std::int64_t rows() const { return transposed ? tensor.cols() : tensor.rows(); }
  std::int64_t cols() const { return transposed ? tensor.rows() : tensor.cols(); }
};

/// Keeps oneDNN to instructions of `isa` from its first use on. It accepts that once a process, and
/// before its first use only; later calls do nothing.
void hold_onednn_to(Isa isa);

/// Makes products and keeps the code of each shape that it has met. For one calling thread.
class OnednnProducts {
 public:
  /// bf16 operands are widened below Isa::kAvx512.
  OnednnProducts(int threads, Isa isa);
  ~OnednnProducts();
  OnednnProducts(const OnednnProducts&) = delete;
  OnednnProducts& operator=(const OnednnProducts&) = delete;

  /// out (= or +=) a b. a and b of one float type, out of any; each may be a column slice.
  void multiply(Tensor out, Operand a, Operand b, Write write, Workspace& workspace);

  /// How many products have run on this object's threads.
  std::int64_t runs() const { return runs_; }
  /// Whether this CPU multiplies bf16 as it is; else `multiply` widens the operands, and
  /// `prepare` takes f32 only.
  bool bf16_products() const { return bf16_products_; }
  /// The product for `shape`, to run on one thread.
  std::shared_ptr<const PreparedProduct> prepare(const ProductShape& shape);

 private:
  std::shared_ptr<const PreparedProduct> find(const ProductShape& shape, int threads);
  void multiply_directly(Tensor out, Operand a, Operand b, Write write, Workspace& workspace);
  void multiply_in_blocks(Tensor out, Operand a, Operand b, Write write, Workspace& workspace);

  struct Key {
    ProductShape shape;
    int threads;
    auto operator<=>(const Key&) const = default;
  };
  int threads_;
  const FloatKernels& kernels_;
  bool bf16_products_;
  std::int64_t runs_ = 0;
  std::map<Key, std::shared_ptr<const PreparedProduct>> prepared_;
};

}  // namespace quest
