// Tests of the CPU's attention and its gradient against the reference.
#include <vector>

#include "backend/attention_inputs_for_test.h"
#include "backend/cpu/closeness.h"
#include "backend/cpu/cpu_backend.h"

namespace quest {
namespace {

constexpr DType kFloats[] = {DType::kF32, DType::kBF16};

std::string describe(const AttentionShape& s, DType dtype, const std::string& label) {
  return fmt::format(" B {} queries {} keys {} of {} H {} Hkv {} D {} {} on {}", s.batch,
                     s.query_length, s.key_length, s.key_capacity, s.heads, s.kv_heads, s.head_dim,
                     type_name(dtype), label);
}

// Rounding errors relative to values of size one, which the inputs have: scores are sums of D
// products in f32, and with bf16 tensors the softmax is rounded to bf16 before it meets the values.
double tolerance(const AttentionShape& s, DType dtype) {
  return dtype == DType::kBF16 ? 0.02
                               : 8 * (std::sqrt(static_cast<double>(s.head_dim)) + 8) * 0x1p-24;
}

void expect_forward(const AttentionShape& s, const AttentionInputs& in, DType dtype) {
  const std::int64_t rows = s.batch * s.query_length, width = s.heads * s.head_dim;
  Sliced out(rows, width, dtype, 5);
  const OwnedTensor log_sums({s.batch * s.heads, s.query_length}, DType::kF32);
  make_reference_backend()->attention(out, log_sums, in.q, in.k, in.v, s);
  on_every_backend([&](Backend& backend, const std::string& label) {
    Sliced got(rows, width, dtype, 5), again(rows, width, dtype, 5);
    const OwnedTensor got_sums({s.batch * s.heads, s.query_length}, DType::kF32);
    backend.attention(got, got_sums, in.q, in.k, in.v, s);
    expect_close(got, out, tolerance(s, dtype), "attention" + describe(s, dtype, label));
    EXPECT_TRUE(got.same_margins(out)) << describe(s, dtype, label);
    expect_close(got_sums, log_sums, 1e-5, "log sums" + describe(s, dtype, label));
    backend.attention(again, Tensor(), in.q, in.k, in.v, s);
    expect_close(again, got, 0.0, "again" + describe(s, dtype, label));
  });
}

void expect_forward(const AttentionShape& s, DType dtype) {
  expect_forward(s, AttentionInputs(s, dtype), dtype);
}

TEST(CpuAttention, ForwardIsTheReferencesAtOddSizesAndWithSharedKeys) {
  for (const DType dtype : kFloats) {
    for (const std::int64_t length : {1, 3, 8, 64, 65, 127, 129}) {
      expect_forward({1, length, length, length, 2, 1, 16}, dtype);
    }
    expect_forward({2, 9, 9, 9, 6, 2, 3}, dtype);
    expect_forward({1, 130, 130, 130, 1, 1, 64}, dtype);
    expect_forward({1, 530, 530, 530, 2, 1, 40}, dtype);
    expect_forward({3, 17, 17, 17, 3, 3, 1}, dtype);
  }
}

TEST(CpuAttention, DecodingReadsTheUsedPartOfALongerCache) {
  for (const DType dtype : kFloats) {
    expect_forward({2, 1, 100, 128, 4, 2, 64}, dtype);
    expect_forward({1, 1, 37, 40, 2, 2, 127}, dtype);
    expect_forward({2, 3, 50, 64, 2, 1, 33}, dtype);
    expect_forward({2, 70, 100, 128, 2, 1, 32}, dtype);
  }
}

// Scores that grow along the keys beyond the range of floats: what a kernel takes for the largest
// score at first must not matter. They are exact, so that large scores cost no digits.
TEST(CpuAttention, ScoresThatGrowBeyondTheRangeOfFloatsAreTheReferences) {
  const AttentionShape s{1, 300, 300, 300, 1, 1, 16};
  for (const DType dtype : kFloats) {
    const AttentionInputs in(s, dtype);
    const auto set = [&](Tensor x, std::int64_t r, std::int64_t c, float value) {
      if (dtype == DType::kF32) {
        x.row<float>(r)[c] = value;
      } else {
        x.row<BFloat16>(r)[c] = to_bfloat16(value);
      }
    };
    for (std::int64_t r = 0; r < s.key_length; ++r) {
      for (std::int64_t c = 0; c < s.head_dim; ++c) set(in.q, r, c, c == 0 ? 48.0f : 0.0f);
      set(in.k, r, 0, static_cast<float>(r / 50 * 8 - 8));
    }
    expect_forward(s, in, dtype);
  }
}

struct Gradients {
  OwnedTensor d_qkv;
  Tensor d_q, d_k, d_v;

  Gradients(const AttentionShape& s, DType dtype)
      : d_qkv({s.batch * s.key_length, (s.heads + 2 * s.kv_heads) * s.head_dim}, dtype) {
    fill_normal(d_qkv, 9);  // To be replaced, not added to.
    const std::int64_t width = s.heads * s.head_dim, key_width = s.kv_heads * s.head_dim;
    d_q = d_qkv.view().columns(0, width);
    d_k = d_qkv.view().columns(width, width + key_width);
    d_v = d_qkv.view().columns(width + key_width, width + 2 * key_width);
  }
};

void expect_backward(const AttentionShape& s, DType dtype) {
  const AttentionInputs in(s, dtype);
  const std::int64_t rows = s.batch * s.query_length;
  const OwnedTensor out({rows, s.heads * s.head_dim}, dtype);
  const OwnedTensor log_sums({s.batch * s.heads * s.query_length}, DType::kF32);
  const auto reference = make_reference_backend();
  reference->attention(out, log_sums, in.q, in.k, in.v, s);
  const Gradients expected(s, dtype);
  reference->attention_backward(expected.d_q, expected.d_k, expected.d_v, in.d_out, in.q, in.k,
                                in.v, out, log_sums, s);
  // A key's gradient sums over the queries that see it; their weights add up to about one a head
  // and more for the first keys, and scores of normal inputs reach sqrt(D) in d_out v.
  const double size = std::sqrt(static_cast<double>(s.head_dim)) + 4;
  const double bound = tolerance(s, dtype) * size;
  on_every_backend([&](Backend& backend, const std::string& label) {
    const Gradients got(s, dtype), again(s, dtype);
    backend.attention_backward(got.d_q, got.d_k, got.d_v, in.d_out, in.q, in.k, in.v, out, log_sums,
                               s);
    expect_close(got.d_q, expected.d_q, bound, "d_q" + describe(s, dtype, label));
    expect_close(got.d_k, expected.d_k, bound, "d_k" + describe(s, dtype, label));
    expect_close(got.d_v, expected.d_v, bound, "d_v" + describe(s, dtype, label));
    backend.attention_backward(again.d_q, again.d_k, again.d_v, in.d_out, in.q, in.k, in.v, out,
                               log_sums, s);
    EXPECT_TRUE(again.d_qkv.same_bytes(got.d_qkv)) << "again" << describe(s, dtype, label);
  });
}

TEST(CpuAttention, GradientIsTheReferencesAtOddSizesAndWithSharedKeys) {
  for (const DType dtype : kFloats) {
    for (const std::int64_t length : {1, 3, 64, 65, 129}) {
      expect_backward({1, length, length, length, 2, 1, 16}, dtype);
    }
    expect_backward({2, 9, 9, 9, 6, 2, 3}, dtype);
    expect_backward({1, 200, 200, 200, 1, 1, 64}, dtype);
    expect_backward({3, 17, 17, 17, 3, 3, 1}, dtype);
  }
}

// More than one block of keys, cut into parts or, with 16 groups, not.
TEST(CpuAttention, GradientOfLongSequencesIsTheReferences) {
  for (const DType dtype : kFloats) {
    expect_backward({1, 530, 530, 530, 2, 1, 40}, dtype);
    expect_backward({16, 270, 270, 270, 1, 1, 16}, dtype);
  }
}

TEST(AttentionOnCpu, TheNumberOfThreadsChangesNoBit) {
  const AttentionShape s{2, 550, 550, 550, 4, 2, 32};
  const AttentionInputs in(s, DType::kBF16);
  const std::int64_t rows = s.batch * s.query_length;
  std::vector<Gradients> results;
  for (const int threads : {1, 2}) {
    CpuBackend backend(threads);
    const OwnedTensor out({rows, s.heads * s.head_dim}, DType::kBF16);
    const OwnedTensor log_sums({s.batch * s.heads * s.query_length}, DType::kF32);
    backend.attention(out, log_sums, in.q, in.k, in.v, s);
    results.emplace_back(s, DType::kBF16);
    const Gradients& d = results.back();
    backend.attention_backward(d.d_q, d.d_k, d.d_v, in.d_out, in.q, in.k, in.v, out, log_sums, s);
  }
  EXPECT_TRUE(results[0].d_qkv.same_bytes(results[1].d_qkv));
}

}  // namespace
}  // namespace quest
