// How the kernels of attention on tensor cores read shared memory: which rows use them at all, and
// that the rows of a matrix never share banks.
#include <gtest/gtest.h>

#include "backend/backends_under_test.h"
#include "backend/cpu/closeness.h"
#include "backend/cuda/tensor_core.cuh"

namespace quest {
namespace {

// That `kernel` loads matrices or does not, and that none of their rows lie in the same banks.
void expect_matrix_loads(bool any, const std::string& what, const std::function<void()>& kernel) {
  cuda_on_host::take_matrix_loads();
  kernel();
  const cuda_on_host::MatrixLoads loads = cuda_on_host::take_matrix_loads();
  EXPECT_EQ(loads.all > 0, any) << what;
  EXPECT_EQ(loads.conflicting, 0) << what;
}

void expect_attention_loads(Backend& backend, std::int64_t head_dim, DType dtype, bool any) {
  const AttentionShape s{1, 70, 70, 70, 2, 1, head_dim};
  const std::string what = fmt::format("D {} {} on ", head_dim, name(dtype));
  const OwnedTensor q({70, 2 * head_dim}, dtype), k({70, head_dim}, dtype),
      v({70, head_dim}, dtype);
  const OwnedTensor out({70, 2 * head_dim}, dtype), d_q({70, 2 * head_dim}, dtype);
  const OwnedTensor d_k({70, head_dim}, dtype), d_v({70, head_dim}, dtype);
  const OwnedTensor log_sums({2, 70}, DType::kF32);
  expect_matrix_loads(any, what + "forward", [&] { backend.attention(out, log_sums, q, k, v, s); });
  expect_matrix_loads(any && head_dim <= 128, what + "backward", [&] {
    backend.attention_backward(d_q, d_k, d_v, q, q, k, v, out, log_sums, s);
  });
  const HeadShape heads{2, 1, head_dim};
  for (const SequenceSpan& span : {SequenceSpan{0, 3, 60, 0}, SequenceSpan{0, 40, 20, 0}}) {
    expect_matrix_loads(any, what + "kept", [&] {
      backend.cached_attention(out, q, {k, {}}, {v, {}}, {&span, 1}, heads);
    });
    const OwnedTensor codes({70, head_dim}, DType::kI8), scales({70, 1}, DType::kF32);
    expect_matrix_loads(any && head_dim % 16 == 0, what + "kept in 8 bits", [&] {
      backend.cached_attention(out, q, {codes, scales}, {codes, scales}, {&span, 1}, heads);
    });
  }
}

TEST(MatrixLoads, AttentionOfBf16RowsUsesThemAndNoBankTwiceAtOnce) {
  on_every_backend([](Backend& backend, const std::string&) {
    for (const std::int64_t head_dim : {8, 64, 128, 256}) {
      expect_attention_loads(backend, head_dim, DType::kBF16, true);
    }
    expect_attention_loads(backend, 12, DType::kBF16, false);
    expect_attention_loads(backend, 64, DType::kF32, false);
  });
}

}  // namespace
}  // namespace quest
