// Tests of kept keys and values, and of attention over them, against the reference.
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "backend/cpu/closeness.h"
#include "backend/cpu/cpu_backend.h"

namespace quest {
namespace {

constexpr DType kFloats[] = {DType::kF32, DType::kBF16};
constexpr DType kCacheTypes[] = {DType::kF32, DType::kBF16, DType::kI8};

// A cache that owns its memory.
struct OwnedCache {
  OwnedTensor values, scales;
  bool coded;

  OwnedCache(std::int64_t rows, const HeadShape& shape, DType type)
      : values({rows, shape.kv_heads * shape.head_dim}, type),
        scales({rows, shape.kv_heads}, DType::kF32),
        coded(type == DType::kI8) {}
  CacheRows view() const { return {values, coded ? scales.view() : Tensor()}; }
  bool same_bytes(const OwnedCache& other) const {
    return values.same_bytes(other.values) && (!coded || scales.same_bytes(other.scales));
  }
};

// Sequences at different lengths, some of which bring one row, some a few, some many.
struct Case {
  HeadShape shape;
  std::vector<SequenceSpan> spans;
  std::int64_t rows = 0;
  std::int64_t cache_rows = 0;

  Case(const HeadShape& heads, const std::vector<std::pair<std::int64_t, std::int64_t>>& sequences)
      : shape(heads) {
    for (const auto& [position, count] : sequences) {
      spans.push_back({rows, count, position, cache_rows});
      rows += count;
      cache_rows += position + count + 3;
    }
  }
  std::int64_t width() const { return shape.heads * shape.head_dim; }
  std::int64_t kv_width() const { return shape.kv_heads * shape.head_dim; }
};

std::vector<Case> cases() {
  return {{{4, 2, 16}, {{0, 1}, {5, 1}, {129, 1}, {0, 7}, {3, 8}}},
          {{3, 3, 1}, {{127, 3}, {0, 2}}},
          {{6, 2, 3}, {{1, 9}, {64, 1}}},
          {{2, 1, 127}, {{128, 1}, {0, 1}, {30, 70}}},
          {{1, 1, 128}, {{2, 129}, {127, 1}}},
          {{2, 2, 64}, {{17, 1}}}};
}

// Keys and values of which a thread reads more than a block before it goes on (HeadRun).
std::vector<Case> cases_of_several_blocks() {
  return {{{4, 4, 128}, {{700, 1}, {40, 1}}}, {{2, 1, 127}, {{1100, 1}}}};
}

std::vector<Case> attention_cases() {
  std::vector<Case> all = cases();
  for (Case& c : cases_of_several_blocks()) all.push_back(std::move(c));
  return all;
}

std::string describe(const Case& c, DType type, DType cache, const std::string& label) {
  return fmt::format(" H {} Hkv {} D {}, {} spans, {} over {} on {}", c.shape.heads,
                     c.shape.kv_heads, c.shape.head_dim, c.spans.size(), type_name(type),
                     type_name(cache), label);
}

// Positions before the spans, as if earlier passes had put them there.
void fill_cache(const OwnedCache& cache, const Case& c, std::uint64_t seed) {
  const OwnedTensor before({c.cache_rows, c.kv_width()}, DType::kF32);
  fill_normal(before, seed);
  const SequenceSpan everything{0, c.cache_rows, 0, 0};
  make_reference_backend()->cache_append(cache.view(), before, {&everything, 1});
}

TEST(CpuCache, FloatsAreRoundedAndNoOtherRowChanges) {
  for (const Case& c : cases()) {
    for (const DType type : kFloats) {
      for (const DType cache_type : kFloats) {
        const Sliced x(c.rows, c.kv_width(), type, 4);
        OwnedCache wanted(c.cache_rows, c.shape, cache_type);
        fill_cache(wanted, c, 5);
        make_reference_backend()->cache_append(wanted.view(), x, c.spans);
        on_every_backend([&](Backend& backend, const std::string& label) {
          OwnedCache got(c.cache_rows, c.shape, cache_type);
          fill_cache(got, c, 5);
          backend.cache_append(got.view(), x, c.spans);
          EXPECT_TRUE(got.values.same_bytes(wanted.values)) << describe(c, type, cache_type, label);
        });
      }
    }
  }
}

TEST(CpuCache, CodesOfEightBitsAreTheNearestOnes) {
  for (const Case& c : cases()) {
    for (const DType type : kFloats) {
      const Sliced x(c.rows, c.kv_width(), type, 4);
      OwnedCache wanted(c.cache_rows, c.shape, DType::kI8);
      make_reference_backend()->cache_append(wanted.view(), x, c.spans);
      on_every_backend([&](Backend& backend, const std::string& label) {
        OwnedCache got(c.cache_rows, c.shape, DType::kI8);
        backend.cache_append(got.view(), x, c.spans);
        // Two roundings of f32 at most: to the inverse scale and to the product.
        expect_close(
            got.scales, wanted.scales,
            [&](std::int64_t r, std::int64_t h) {
              return 2 * rounding(DType::kF32) * element(wanted.scales, r, h);
            },
            "scales" + describe(c, type, DType::kI8, label));
        for (const SequenceSpan& span : c.spans) {
          for (std::int64_t i = 0; i < span.count; ++i) {
            const std::int64_t row = span.cache_row + span.position + i;
            for (std::int64_t column = 0; column < c.kv_width(); ++column) {
              const double scale = element(got.scales, row, column / c.shape.head_dim);
              const double value = got.values.view().row<std::int8_t>(row)[column] * scale;
              EXPECT_LE(std::abs(value - element(x, span.first_row + i, column)),
                        (0.5 + 127 * 4 * rounding(DType::kF32)) * scale)
                  << describe(c, type, DType::kI8, label);
            }
          }
        }
      });
    }
  }
}

TEST(CpuCache, ZerosStayZerosAndBrokenRowsBecomeNaN) {
  const HeadShape shape{2, 2, 33};
  const SequenceSpan span{0, 3, 0, 0};
  const OwnedTensor x({3, 66}, DType::kF32);
  x.view().row<float>(1)[32] = std::numeric_limits<float>::quiet_NaN();
  x.view().row<float>(2)[33] = std::numeric_limits<float>::infinity();
  const auto expect_scales = [&](Backend& backend, const std::string& label) {
    OwnedCache cache(3, shape, DType::kI8);
    backend.cache_append(cache.view(), x, {&span, 1});
    const float* const scales = cache.scales.view().as<float>();
    EXPECT_EQ(scales[0], 0.0f) << label;
    EXPECT_EQ(cache.values.view().row<std::int8_t>(0)[0], 0) << label;
    EXPECT_TRUE(std::isnan(scales[2]) && scales[3] == 0.0f) << label;
    EXPECT_TRUE(scales[4] == 0.0f && std::isnan(scales[5])) << label;
  };
  expect_scales(*make_reference_backend(), "reference");
  on_every_backend(expect_scales);
}

TEST(CachedRope, TurnsEachSpanFromItsOwnPosition) {
  for (const Case& c : cases()) {
    if (c.shape.head_dim % 2 != 0) continue;
    const OwnedTensor cos({200, c.shape.head_dim / 2}, DType::kF32);
    const OwnedTensor sin({200, c.shape.head_dim / 2}, DType::kF32);
    fill_normal(cos, 1);
    fill_normal(sin, 2);
    for (const RopeLayout layout : {RopeLayout::kInterleaved, RopeLayout::kHalf}) {
      on_every_backend([&](Backend& backend, const std::string& label) {
        const Sliced wanted(c.rows, c.width(), DType::kBF16, 4);
        const Sliced got(c.rows, c.width(), DType::kBF16, 4);
        for (const SequenceSpan& span : c.spans) {
          const Tensor all = wanted;
          backend.rope(all.rows_slice(span.first_row, span.first_row + span.count), cos, sin,
                       layout, span.position, span.count, false);
        }
        backend.cached_rope(got, cos, sin, layout, c.spans);
        expect_close(got, wanted, 0.0, "rope" + describe(c, DType::kBF16, DType::kBF16, label));
      });
    }
  }
}

TEST(CachedRope, WithWhatIsKeptItGivesTheBitsOfItsParts) {
  for (const Case& c : cases()) {
    const std::int64_t dim = c.shape.head_dim, kv_width = c.kv_width();
    if (dim % 2 != 0) continue;
    const OwnedTensor cos({200, dim / 2}, DType::kF32), sin({200, dim / 2}, DType::kF32);
    fill_normal(cos, 1);
    fill_normal(sin, 2);
    const std::int64_t turned = c.width() + kv_width;
    for (const auto& [type, cache_type] : {std::pair{DType::kBF16, DType::kBF16},
                                           {DType::kF32, DType::kBF16},
                                           {DType::kF32, DType::kF32},
                                           {DType::kBF16, DType::kI8},
                                           {DType::kF32, DType::kI8}}) {
      for (const RopeLayout layout : {RopeLayout::kInterleaved, RopeLayout::kHalf}) {
        on_every_backend([&](Backend& backend, const std::string& label) {
          const Sliced wanted(c.rows, turned + kv_width, type, 4);
          const Sliced got(c.rows, turned + kv_width, type, 4);
          OwnedCache wanted_k(c.cache_rows, c.shape, cache_type);
          OwnedCache got_k(c.cache_rows, c.shape, cache_type);
          OwnedCache wanted_v(c.cache_rows, c.shape, cache_type);
          OwnedCache got_v(c.cache_rows, c.shape, cache_type);
          const Tensor all = wanted;
          backend.cached_rope(all.columns(0, turned), cos, sin, layout, c.spans);
          backend.cache_append(wanted_k.view(), all.columns(turned - kv_width, turned), c.spans);
          backend.cache_append(wanted_v.view(), all.columns(turned, turned + kv_width), c.spans);
          const Rotary rotary{cos, sin, layout, 0, turned};
          backend.cached_rope_append(got, rotary, got_k.view(), got_v.view(), c.spans);
          const std::string what = describe(c, type, cache_type, label);
          expect_close(got, wanted, 0.0, "rows" + what);
          EXPECT_TRUE(got_k.same_bytes(wanted_k)) << what;
          EXPECT_TRUE(got_v.same_bytes(wanted_v)) << what;
        });
      }
    }
  }
}

// As in attention_test.cc.
double tolerance(const HeadShape& shape, DType type) {
  return type == DType::kBF16 ? 0.02
                              : 8 * (std::sqrt(static_cast<double>(shape.head_dim)) + 8) * 0x1p-24;
}

/// The keys and values of a case.
struct FilledCaches {
  OwnedCache k, v;

  FilledCaches(const Case& c, DType type)
      : k(c.cache_rows, c.shape, type), v(c.cache_rows, c.shape, type) {
    fill_cache(k, c, 6);
    fill_cache(v, c, 7);
  }
};

TEST(CpuCachedAttention, IsTheReferencesForRaggedSequences) {
  for (const Case& c : attention_cases()) {
    for (const DType type : kFloats) {
      for (const DType cache_type : kCacheTypes) {
        const FilledCaches cache(c, cache_type);
        const Sliced q(c.rows, c.width(), type, 8);
        const OwnedTensor wanted({c.rows, c.width()}, type);
        make_reference_backend()->cached_attention(wanted, q, cache.k.view(), cache.v.view(),
                                                   c.spans, c.shape);
        on_every_backend([&](Backend& backend, const std::string& label) {
          const OwnedTensor got({c.rows, c.width()}, type);
          backend.cached_attention(got, q, cache.k.view(), cache.v.view(), c.spans, c.shape);
          expect_close(got, wanted, tolerance(c.shape, type),
                       "attention" + describe(c, type, cache_type, label));
        });
      }
    }
  }
}

TEST(CpuCachedAttention, ASequenceComputesTheSameBitsAloneAndBesideOthers) {
  for (const Case& c : attention_cases()) {
    for (const DType cache_type : kCacheTypes) {
      const FilledCaches cache(c, cache_type);
      const OwnedTensor q({c.rows, c.width()}, DType::kF32);
      fill_normal(q, 8);
      on_every_backend([&](Backend& backend, const std::string& label) {
        const OwnedTensor together({c.rows, c.width()}, DType::kF32);
        const OwnedTensor alone({c.rows, c.width()}, DType::kF32);
        backend.cached_attention(together, q, cache.k.view(), cache.v.view(), c.spans, c.shape);
        for (const SequenceSpan& span : c.spans) {
          backend.cached_attention(alone, q, cache.k.view(), cache.v.view(), {&span, 1}, c.shape);
        }
        EXPECT_TRUE(together.same_bytes(alone)) << describe(c, DType::kF32, cache_type, label);
      });
    }
  }
}

// The number of threads decides how many heads a thread takes together, and with it the blocks.
TEST(CachedAttentionOnCpu, EveryNumberOfThreadsGivesTheSameBits) {
  for (const Case& c : attention_cases()) {
    for (const DType type : kFloats) {
      for (const DType cache_type : kCacheTypes) {
        const FilledCaches cache(c, cache_type);
        const OwnedTensor q({c.rows, c.width()}, type);
        fill_normal(q, 8);
        for (const Isa isa : available_isas()) {
          const auto attention_on = [&](int threads) {
            OwnedTensor out({c.rows, c.width()}, type);
            CpuBackend(threads, isa)
                .cached_attention(out, q, cache.k.view(), cache.v.view(), c.spans, c.shape);
            return out;
          };
          const OwnedTensor one = attention_on(1);
          for (const int threads : {2, 3}) {
            EXPECT_TRUE(attention_on(threads).same_bytes(one))
                << threads << " threads"
                << describe(c, type, cache_type, std::string(isa_name(isa)));
          }
        }
      }
    }
  }
}

/// Rows of a pass and the cache that they are turned into and kept in.
struct TurnedPass {
  OwnedCache k, v;
  OwnedTensor out;
  Sliced qkv;

  TurnedPass(const Case& c, DType type, DType cache_type)
      : k(c.cache_rows, c.shape, cache_type),
        v(c.cache_rows, c.shape, cache_type),
        out({c.rows, c.width()}, type),
        qkv(c.rows, c.width() + 2 * c.kv_width(), type, 4, kMargins[1]) {
    fill_cache(k, c, 6);
    fill_cache(v, c, 7);
  }
};

// One row of each sequence, as kernels that turn queries themselves take it, and several. Positions
// stand around the edges of what a warp, a turn of a block's warps and a part of the keys have, and
// behind many turns; heads are whole tiles or not, alone or up to 16 (or more) on a key head.
std::vector<Case> turned_cases() {
  std::vector<Case> all = attention_cases();
  const auto add = [&](const HeadShape& shape,
                       const std::vector<std::pair<std::int64_t, std::int64_t>>& sequences) {
    all.emplace_back(shape, sequences);
  };
  add({2, 2, 64}, {{0, 1}, {15, 1}, {16, 1}, {31, 1}, {63, 1}, {64, 1}, {127, 1}, {200, 1}});
  add({4, 2, 128}, {{0, 1}, {47, 1}, {63, 1}, {64, 1}, {143, 1}, {300, 1}});
  add({16, 1, 32}, {{5, 1}, {90, 1}});
  add({17, 1, 16}, {{5, 1}, {90, 1}});
  add({6, 2, 48}, {{0, 1}, {100, 1}});
  add({3, 1, 40}, {{0, 1}, {70, 1}});
  add({2, 1, 256}, {{0, 1}, {33, 1}, {140, 1}});
  add({2, 2, 160}, {{0, 1}, {80, 1}});
  add({2, 2, 64}, {{64, 2}, {10, 1}});
  add({132, 132, 16}, {{450, 1}});
  return all;
}

TEST(CachedRope, WithAttentionItGivesTheBitsOfItsParts) {
  constexpr std::int64_t kPositions = 1200;
  for (const Case& c : turned_cases()) {
    const std::int64_t dim = c.shape.head_dim;
    if (dim % 2 != 0) continue;
    const OwnedTensor cos({kPositions, dim / 2}, DType::kF32),
        sin({kPositions, dim / 2}, DType::kF32);
    fill_normal(cos, 1);
    fill_normal(sin, 2);
    for (const auto& [type, cache_type] : {std::pair{DType::kBF16, DType::kBF16},
                                           {DType::kF32, DType::kBF16},
                                           {DType::kF32, DType::kF32},
                                           {DType::kBF16, DType::kI8}}) {
      if (type == DType::kF32 && c.cache_rows > 400) continue;
      for (const RopeLayout layout : {RopeLayout::kInterleaved, RopeLayout::kHalf}) {
        const Rotary rotary{cos, sin, layout, 0, c.width() + c.kv_width()};
        on_every_backend([&](Backend& backend, const std::string& label) {
          const TurnedPass wanted(c, type, cache_type);
          const TurnedPass got(c, type, cache_type);
          backend.cached_rope_append(wanted.qkv, rotary, wanted.k.view(), wanted.v.view(), c.spans);
          backend.cached_attention(wanted.out, wanted.qkv.view().columns(0, c.width()),
                                   wanted.k.view(), wanted.v.view(), c.spans, c.shape);
          backend.cached_rope_attention(got.out, got.qkv, rotary, got.k.view(), got.v.view(),
                                        c.spans, c.shape);
          const std::string what = describe(c, type, cache_type, label);
          EXPECT_TRUE(got.out.same_bytes(wanted.out)) << what;
          EXPECT_TRUE(got.k.same_bytes(wanted.k)) << "keys" << what;
          EXPECT_TRUE(got.v.same_bytes(wanted.v)) << "values" << what;
        });
      }
    }
  }
}

}  // namespace
}  // namespace quest
