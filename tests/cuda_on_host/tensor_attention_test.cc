// Attention on tensor cores against the reference, at sizes around the edges of its tiles: tensors
// in bf16 whose heads can be copied in pieces of 16 bytes.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "backend/attention_inputs_for_test.h"
#include "backend/backends_under_test.h"
#include "backend/cpu/closeness.h"

namespace quest {
namespace {

constexpr double kTolerance = 0.02;  // as in attention_test.cc: weights are rounded to bf16

std::string describe(const AttentionShape& s, const std::string& label) {
  return fmt::format(" B {} queries {} keys {} of {} H {} Hkv {} D {} on {}", s.batch,
                     s.query_length, s.key_length, s.key_capacity, s.heads, s.kv_heads, s.head_dim,
                     label);
}

AttentionShape causal(std::int64_t length, std::int64_t head_dim, std::int64_t heads = 2,
                      std::int64_t kv_heads = 1, std::int64_t batch = 1) {
  return {batch, length, length, length, heads, kv_heads, head_dim};
}

bool same_bits(Tensor a, Tensor b) {
  bool same = true;
  for (std::int64_t r = 0; r < a.rows(); ++r) {
    for (std::int64_t c = 0; c < a.cols(); ++c) {
      same = same && a.row<BFloat16>(r)[c].bits == b.row<BFloat16>(r)[c].bits;
    }
  }
  return same;
}

void expect_forward(const AttentionShape& s) {
  const AttentionInputs in(s, DType::kBF16);
  const std::int64_t rows = s.batch * s.query_length, width = s.heads * s.head_dim;
  const OwnedTensor out({rows, width}, DType::kBF16);
  const OwnedTensor log_sums({s.batch * s.heads, s.query_length}, DType::kF32);
  make_reference_backend()->attention(out, log_sums, in.q, in.k, in.v, s);
  on_every_backend([&](Backend& backend, const std::string& label) {
    const OwnedTensor got({rows, width}, DType::kBF16), again({rows, width}, DType::kBF16);
    const OwnedTensor got_sums({s.batch * s.heads, s.query_length}, DType::kF32);
    backend.attention(got, got_sums, in.q, in.k, in.v, s);
    expect_close(got, out, kTolerance, "attention" + describe(s, label));
    expect_close(got_sums, log_sums, 1e-5, "log sums" + describe(s, label));
    backend.attention(again, Tensor(), in.q, in.k, in.v, s);
    EXPECT_TRUE(again.same_bytes(got)) << describe(s, label);
  });
}

TEST(TensorAttention, ForwardIsTheReferencesAroundTheEdgesOfTiles) {
  for (const std::int64_t length : {1, 63, 64, 65, 127, 129, 200}) {
    expect_forward(causal(length, 64));
    expect_forward(causal(length, 128));
  }
  for (const std::int64_t head_dim : {8, 16, 40, 96, 136, 256}) {
    expect_forward(causal(70, head_dim));
  }
  expect_forward(causal(100, 64, 6, 2, 2));
}

TEST(TensorAttention, QueriesMayBeTheLastOfLongerSequences) {
  expect_forward({2, 70, 100, 128, 2, 1, 64});
  expect_forward({2, 1, 150, 160, 4, 4, 128});
}

TEST(TensorAttention, OutputsMayBeFloatsOrBeginAnywhere) {
  const AttentionShape s = causal(33, 64);
  const AttentionInputs in(s, DType::kBF16);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Sliced out(33, 128, dtype, 5);
    make_reference_backend()->attention(out, Tensor(), in.q, in.k, in.v, s);
    on_every_backend([&](Backend& backend, const std::string& label) {
      Sliced got(33, 128, dtype, 5);
      backend.attention(got, Tensor(), in.q, in.k, in.v, s);
      expect_close(got, out, kTolerance, "attention" + describe(s, label));
      EXPECT_TRUE(got.same_margins(out)) << describe(s, label);
    });
  }
}

// Many sequences are given to blocks of twice as many queries.
TEST(TensorAttention, ABatchHasTheBitsOfItsSequencesAlone) {
  for (const AttentionShape& s : {causal(5, 64, 4, 2, 70), causal(5, 128, 4, 2, 70)}) {
    const AttentionInputs in(s, DType::kBF16);
    const std::int64_t rows = s.batch * s.query_length, width = s.heads * s.head_dim;
    on_every_backend([&](Backend& backend, const std::string& label) {
      const OwnedTensor together({rows, width}, DType::kBF16), alone({rows, width}, DType::kBF16);
      backend.attention(together, Tensor(), in.q, in.k, in.v, s);
      const OwnedTensor expected({rows, width}, DType::kBF16);
      make_reference_backend()->attention(expected, Tensor(), in.q, in.k, in.v, s);
      expect_close(together, expected, kTolerance, "attention" + describe(s, label));
      AttentionShape single = s;
      single.batch = 1;
      for (const std::int64_t b : {std::int64_t{0}, s.batch - 1}) {
        const auto part = [&](Tensor x) {
          return x.rows_slice(b * s.query_length, (b + 1) * s.query_length);
        };
        backend.attention(part(alone), Tensor(), part(in.q), part(in.k), part(in.v), single);
        EXPECT_TRUE(same_bits(part(alone), part(together))) << b << describe(s, label);
      }
    });
  }
}

struct Gradients {
  OwnedTensor d_qkv;
  Tensor d_q, d_k, d_v;

  explicit Gradients(const AttentionShape& s)
      : d_qkv({s.batch * s.key_length, (s.heads + 2 * s.kv_heads) * s.head_dim}, DType::kBF16) {
    fill_normal(d_qkv, 9);  // To be replaced, not added to.
    const std::int64_t width = s.heads * s.head_dim, key_width = s.kv_heads * s.head_dim;
    d_q = d_qkv.view().columns(0, width);
    d_k = d_qkv.view().columns(width, width + key_width);
    d_v = d_qkv.view().columns(width + key_width, width + 2 * key_width);
  }
};

void expect_backward(const AttentionShape& s) {
  const AttentionInputs in(s, DType::kBF16);
  const OwnedTensor out({s.batch * s.query_length, s.heads * s.head_dim}, DType::kBF16);
  const OwnedTensor log_sums({s.batch * s.heads * s.query_length}, DType::kF32);
  const auto reference = make_reference_backend();
  reference->attention(out, log_sums, in.q, in.k, in.v, s);
  const Gradients expected(s);
  reference->attention_backward(expected.d_q, expected.d_k, expected.d_v, in.d_out, in.q, in.k,
                                in.v, out, log_sums, s);
  // As in attention_test.cc.
  const double bound = kTolerance * (std::sqrt(static_cast<double>(s.head_dim)) + 4);
  on_every_backend([&](Backend& backend, const std::string& label) {
    const Gradients got(s), again(s);
    backend.attention_backward(got.d_q, got.d_k, got.d_v, in.d_out, in.q, in.k, in.v, out, log_sums,
                               s);
    expect_close(got.d_q, expected.d_q, bound, "d_q" + describe(s, label));
    expect_close(got.d_k, expected.d_k, bound, "d_k" + describe(s, label));
    expect_close(got.d_v, expected.d_v, bound, "d_v" + describe(s, label));
    backend.attention_backward(again.d_q, again.d_k, again.d_v, in.d_out, in.q, in.k, in.v, out,
                               log_sums, s);
    EXPECT_TRUE(again.d_qkv.same_bytes(got.d_qkv)) << "again" << describe(s, label);
  });
}

TEST(TensorAttention, GradientIsTheReferencesAroundTheEdgesOfTiles) {
  for (const std::int64_t length : {1, 31, 64, 65, 127, 129, 200}) {
    expect_backward(causal(length, 64));
    expect_backward(causal(length, 128));
  }
  for (const std::int64_t head_dim : {8, 40, 96}) expect_backward(causal(70, head_dim));
  expect_backward(causal(100, 64, 6, 2, 2));
  expect_backward(causal(67, 128, 4, 4, 2));
}

// Sequences that are at a position and bring so many queries.
struct KeptSpans {
  std::vector<SequenceSpan> spans;
  std::int64_t rows = 0, cache_rows = 0;

  explicit KeptSpans(const std::vector<std::pair<std::int64_t, std::int64_t>>& sequences) {
    for (const auto& [position, count] : sequences) {
      spans.push_back({rows, count, position, cache_rows});
      rows += count;
      cache_rows += position + count + 3;
    }
  }
};

// Their queries, and the keys and values that are kept of them.
struct KeptCase : KeptSpans {
  HeadShape shape;
  OwnedTensor q, keys, values, key_scales, value_scales;
  CacheRows k, v;

  KeptCase(const HeadShape& heads, DType type, const KeptSpans& kept)
      : KeptSpans(kept),
        shape(heads),
        q({rows, shape.heads * shape.head_dim}, DType::kBF16),
        keys({cache_rows, shape.kv_heads * shape.head_dim}, type),
        values({cache_rows, shape.kv_heads * shape.head_dim}, type),
        key_scales({cache_rows, shape.kv_heads}, DType::kF32),
        value_scales({cache_rows, shape.kv_heads}, DType::kF32) {
    fill_normal(q, 8);
    const bool coded = type == DType::kI8;
    k = {keys, coded ? key_scales.view() : Tensor()};
    v = {values, coded ? value_scales.view() : Tensor()};
    std::uint64_t seed = 6;
    for (const CacheRows& cache : {k, v}) {
      const OwnedTensor x({cache_rows, shape.kv_heads * shape.head_dim}, DType::kF32);
      fill_normal(x, seed++);
      const SequenceSpan everything{0, cache_rows, 0, 0};
      make_reference_backend()->cache_append(cache, x, {&everything, 1});
    }
  }
  OwnedTensor attention(Backend& backend, const SequenceSpans& of) const {
    OwnedTensor out({rows, shape.heads * shape.head_dim}, DType::kBF16);
    backend.cached_attention(out, q, k, v, of, shape);
    return out;
  }
};

// Few queries and many, over caches that are cut into parts or not; some queries see nothing of the
// last part.
std::vector<KeptCase> kept_cases(DType type) {
  std::vector<KeptCase> cases;
  const auto add = [&](const HeadShape& shape,
                       const std::vector<std::pair<std::int64_t, std::int64_t>>& sequences) {
    cases.emplace_back(shape, type, KeptSpans(sequences));
  };
  add({4, 2, 64}, {{0, 1}, {5, 1}, {129, 1}, {0, 7}, {60, 16}, {3, 17}, {0, 64}, {17, 130}});
  add({4, 2, 128}, {{300, 1}, {63, 1}, {64, 2}, {20, 40}});
  add({8, 1, 64}, {{700, 1}, {700, 3}});
  add({20, 1, 16}, {{100, 1}, {0, 2}});
  add({2, 2, 96}, {{130, 5}});
  add({2, 1, 256}, {{140, 1}, {10, 20}});
  add({132, 132, 16}, {{450, 1}});  // parts that fill all stages of a warp, and more
  return cases;
}

TEST(TensorAttention, OverKeptKeysItIsTheReferences) {
  for (const DType type : {DType::kBF16, DType::kI8}) {
    for (const KeptCase& c : kept_cases(type)) {
      const OwnedTensor wanted = c.attention(*make_reference_backend(), c.spans);
      on_every_backend([&](Backend& backend, const std::string& label) {
        const OwnedTensor got = c.attention(backend, c.spans);
        const std::string what =
            fmt::format("H {} Hkv {} D {} over {} on {}", c.shape.heads, c.shape.kv_heads,
                        c.shape.head_dim, type_name(type), label);
        expect_close(got, wanted, kTolerance, what);
        for (const SequenceSpan& span : c.spans) {
          const OwnedTensor alone = c.attention(backend, {&span, 1});
          const auto rows_of_span = [&](Tensor x) {
            return x.rows_slice(span.first_row, span.first_row + span.count);
          };
          EXPECT_TRUE(same_bits(rows_of_span(alone), rows_of_span(got))) << what;
        }
      });
    }
  }
}

// A broken row of a cache of codes has scale NaN: only queries that see it become NaN.
TEST(TensorAttention, ABrokenRowReachesTheQueriesThatSeeIt) {
  const KeptCase c({2, 1, 64}, DType::kI8, KeptSpans({{70, 6}}));
  c.value_scales.view().as<float>()[73] = std::numeric_limits<float>::quiet_NaN();
  on_every_backend([&](Backend& backend, const std::string& label) {
    const OwnedTensor got = c.attention(backend, c.spans);
    for (std::int64_t r = 0; r < c.rows; ++r) {
      EXPECT_EQ(std::isnan(element(got, r, 0)), r >= 3) << r << " on " << label;
    }
  });
}

TEST(TensorAttention, MoreThan65535SequencesMayKeepRows) {
  constexpr std::int64_t kSequences = 70000;
  std::vector<SequenceSpan> spans;
  for (std::int64_t i = 0; i < kSequences; ++i) spans.push_back({i, 1, 0, kSequences - 1 - i});
  const OwnedTensor x({kSequences, 2}, DType::kF32);
  fill_normal(x, 3);
  on_every_backend([&](Backend& backend, const std::string& label) {
    const OwnedTensor cache({kSequences, 2}, DType::kF32);
    backend.cache_append({cache, {}}, x, spans);
    for (const std::int64_t i : {std::int64_t{0}, std::int64_t{65536}, kSequences - 1}) {
      EXPECT_EQ(element(cache, kSequences - 1 - i, 1), element(x, i, 1)) << label;
    }
  });
}

}  // namespace
}  // namespace quest
