// Tests of the CPU's norm, rotary embedding, SwiGLU, cross-entropy, embedding and casts against the
// reference.
#include <algorithm>
#include <initializer_list>
#include <limits>
#include <memory>
#include <vector>

#include "backend/cpu/closeness.h"

namespace quest {
namespace {

constexpr DType kFloats[] = {DType::kF32, DType::kBF16};
constexpr double kEpsilon = 0x1p-24;
constexpr std::int64_t kRows = 3;

std::string at(std::int64_t cols, DType dtype, const std::string& label) {
  return fmt::format(" of {} columns, {}, on {}", cols, type_name(dtype), label);
}

std::vector<std::int64_t> column_cases_and(std::initializer_list<std::int64_t> more) {
  std::vector<std::int64_t> columns(kColumnCases.begin(), kColumnCases.end());
  columns.insert(columns.end(), more);
  return columns;
}

void expect_cast(std::int64_t cols, DType from, DType to, Margins margins) {
  const Sliced src(kRows, cols, from, 1, margins);
  if (from == DType::kF32) src.view().row<float>(1)[0] = std::nanf("");
  Sliced expected(kRows, cols, to, 2, margins);
  make_reference_backend()->cast(expected, src);
  on_every_backend([&](Backend& backend, const std::string& label) {
    Sliced actual(kRows, cols, to, 2, margins);
    backend.cast(actual, src);
    for (std::int64_t r = 0; r < kRows; ++r) {
      for (std::int64_t c = 0; c < cols; ++c) {
        const double got = element(actual, r, c), want = element(expected, r, c);
        ASSERT_TRUE(got == want || (std::isnan(got) && std::isnan(want)))
            << "cast" << at(cols, to, label) << ": " << got << " instead of " << want;
      }
    }
    EXPECT_TRUE(actual.same_margins(expected)) << "cast" << at(cols, to, label);
  });
}

TEST(CpuModelKernels, CastsRoundToNearestEvenBothWaysOnSlices) {
  for (const std::int64_t cols : column_cases_and({2056})) {
    for (const DType from : kFloats) {
      for (const DType to : kFloats) {
        for (const Margins margins : kMargins) expect_cast(cols, from, to, margins);
      }
    }
  }
}

TEST(CpuModelKernels, CopyAndZeroKeepWhatLiesBesideASlice) {
  on_every_backend([&](Backend& backend, const std::string& label) {
    const Sliced src(300, 129, DType::kBF16, 1);
    Sliced dst(300, 129, DType::kBF16, 2);
    const Sliced before(300, 129, DType::kBF16, 2);
    backend.copy(dst, src);
    expect_close(dst, src, 0.0, "copy on " + label);
    EXPECT_TRUE(dst.same_margins(before)) << label;
    backend.zero(dst);
    EXPECT_EQ(element(dst, 299, 128), 0.0) << label;
    EXPECT_TRUE(dst.same_margins(before)) << label;
  });
}

TEST(CpuModelKernels, RmsnormIsTheReferences) {
  // The squares of three rows are taken beside the outputs of others; of rows of more than 2,048
  // columns, of none.
  const std::int64_t rows = 5;
  for (const std::int64_t cols : column_cases_and({2100})) {
    const OwnedTensor x({rows, cols}, DType::kF32), weight({cols}, DType::kF32);
    fill_normal(x, 1, 3.0);
    fill_normal(weight, 2);
    std::fill_n(x.view().row<float>(1), cols, 0.0f);
    const double relative = (std::sqrt(static_cast<double>(cols)) + 8) * kEpsilon;
    for (const DType out : kFloats) {
      const OwnedTensor y({rows, cols}, out), rstd({rows, 1}, DType::kF32);
      make_reference_backend()->rmsnorm(y, rstd, x, weight, 1e-5f);
      const auto bound = [&](auto r, auto c) { return relative * std::abs(element(y, r, c)); };
      const auto rstd_bound = [&](auto r, auto) { return relative * element(rstd, r, 0); };
      on_every_backend([&](Backend& backend, const std::string& label) {
        const OwnedTensor got({rows, cols}, out), got_rstd({rows, 1}, DType::kF32);
        backend.rmsnorm(got, got_rstd, x, weight, 1e-5f);
        expect_close(got, y, bound, "rmsnorm" + at(cols, out, label));
        expect_close(got_rstd, rstd, rstd_bound, "rstd" + at(cols, out, label));
      });
    }
  }
}

void expect_norm_gradient(std::int64_t rows, std::int64_t cols, DType type) {
  const OwnedTensor d_y({rows, cols}, type), x({rows, cols}, DType::kF32);
  const OwnedTensor weight({cols}, DType::kF32), rstd({rows}, DType::kF32);
  const OwnedTensor y({rows, cols}, type);
  fill_normal(d_y, 1);
  fill_normal(x, 2);
  fill_normal(weight, 3);
  make_reference_backend()->rmsnorm(y, rstd, x, weight, 1e-5f);
  const OwnedTensor d_x({rows, cols}, DType::kF32), d_weight({cols}, DType::kF32);
  fill_normal(d_x, 4);
  fill_normal(d_weight, 5);
  make_reference_backend()->rmsnorm_backward(d_x, Tensor(), d_weight, d_y, x, weight, rstd);
  // Values of d_y, x and weight stay below 5; rstd is large for narrow rows.
  const auto bound = [&](auto r, auto) {
    return 32 * kEpsilon * (1 + 25 * double{rstd.view().as<float>()[r]});
  };
  double largest_rstd = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    largest_rstd = std::max(largest_rstd, double{rstd.view().as<float>()[r]});
  }
  const double weight_bound = 8 * static_cast<double>(rows) * kEpsilon * (1 + 5 * largest_rstd);
  on_every_backend([&](Backend& backend, const std::string& label) {
    const OwnedTensor got({rows, cols}, DType::kF32), got_weight({cols}, DType::kF32);
    fill_normal(got, 4);
    fill_normal(got_weight, 5);
    const OwnedTensor alone({rows, cols}, DType::kF32), rounded({rows, cols}, DType::kBF16);
    backend.copy(alone, got);
    backend.rmsnorm_backward(got, rounded, got_weight, d_y, x, weight, rstd);
    const OwnedTensor cast({rows, cols}, DType::kBF16);
    backend.cast(cast, got);
    EXPECT_TRUE(rounded.same_bytes(cast)) << at(cols, type, label);
    expect_close(got, d_x, bound, "rmsnorm d_x" + at(cols, type, label));
    expect_close(got_weight, d_weight, weight_bound, "rmsnorm d_weight" + at(cols, type, label));
    backend.rmsnorm_backward(alone, Tensor(), got_weight, d_y, x, weight, rstd);
    EXPECT_TRUE(alone.same_bytes(got)) << "without rounding" << at(cols, type, label);
  });
}

TEST(CpuModelKernels, RmsnormGradientIsTheReferencesOverManyRows) {
  // 71 x 2100 come from farther than the second-level cache, in pairs of rows and one alone.
  for (const std::int64_t cols : {1, 3, 16, 127, 129, 2056, 2100}) {
    for (const std::int64_t rows : {1, 71}) {
      for (const DType type : kFloats) expect_norm_gradient(rows, cols, type);
    }
  }
  for (const DType type : kFloats) {
    expect_norm_gradient(1100, 3,
                         type);  // several rows for each of 512 blocks, and fewer in the last
    expect_norm_gradient(1100, 24, type);
    expect_norm_gradient(2, 8200, type);
  }
}

TEST(CpuModelKernels, RopeTurnsAsTheReferenceInBothLayoutsAndBack) {
  const std::int64_t rows = 6, positions = 5;
  struct Heads {
    std::int64_t count, half;
  };
  // Up to more pairs than a block of threads takes at once, and heads that do not divide it.
  for (const auto [heads, half] : {Heads{2, 1},
                                   {2, 3},
                                   {2, 8},
                                   {2, 11},
                                   {2, 32},
                                   {2, 64},
                                   {5, 300},
                                   {70, 4},
                                   {70, 12},
                                   {33, 64}}) {
    const OwnedTensor cos({positions, half}, DType::kF32), sin({positions, half}, DType::kF32);
    for (std::int64_t i = 0; i < positions * half; ++i) {
      cos.view().as<float>()[i] = static_cast<float>(std::cos(0.37 * static_cast<double>(i)));
      sin.view().as<float>()[i] = static_cast<float>(std::sin(0.37 * static_cast<double>(i)));
    }
    const std::int64_t cols = 2 * half * heads;
    const auto expect_turned = [&](DType type, RopeLayout layout, bool inverse, Margins margins) {
      Sliced expected(rows, cols, type, 1, margins);
      make_reference_backend()->rope(expected, cos, sin, layout, 2, 3, inverse);
      on_every_backend([&](Backend& backend, const std::string& label) {
        Sliced actual(rows, cols, type, 1, margins);
        backend.rope(actual, cos, sin, layout, 2, 3, inverse);
        expect_close(actual, expected, 20 * kEpsilon, "rope" + at(cols, type, label));
        EXPECT_TRUE(actual.same_margins(expected)) << at(cols, type, label);
      });
    };
    for (const DType type : kFloats) {
      for (const RopeLayout layout : {RopeLayout::kInterleaved, RopeLayout::kHalf}) {
        for (const bool inverse : {false, true}) {
          for (const Margins margins : kMargins) expect_turned(type, layout, inverse, margins);
        }
      }
    }
  }
}

TEST(CpuModelKernels, RopeByNoAngleKeepsValuesBelowTheNormalOnesAndZeros) {
  constexpr std::int64_t kHalf = 32;
  const OwnedTensor cos({1, kHalf}, DType::kF32), sin({1, kHalf}, DType::kF32);
  std::fill_n(cos.view().as<float>(), kHalf, 1.0f);
  std::fill_n(sin.view().as<float>(), kHalf, 0.0f);
  const OwnedTensor x({2, 2 * kHalf}, DType::kBF16);
  for (std::int64_t i = 0; i < 2 * kHalf; ++i) {
    // The first row: zeros among values; the second: denormal values among both.
    x.view().row<BFloat16>(0)[i] = to_bfloat16(i % 3 == 0 ? 0.0f : 1.0f + static_cast<float>(i));
    x.view().row<BFloat16>(1)[i] =
        to_bfloat16(i % 5 == 0 ? 0x1p-130f : static_cast<float>(i % 3) * 0.5f);
  }
  for (const RopeLayout layout : {RopeLayout::kInterleaved, RopeLayout::kHalf}) {
    on_every_backend([&](Backend& backend, const std::string& label) {
      const OwnedTensor turned({2, 2 * kHalf}, DType::kBF16);
      backend.copy(turned, x);
      backend.rope(turned, cos, sin, layout, 0, 1, false);
      EXPECT_TRUE(turned.same_bytes(x)) << label;
    });
  }
}

void expect_swiglu(std::int64_t cols, DType type, Margins margins) {
  Sliced gate(kRows, cols, type, 1, margins), up(kRows, cols, type, 2, margins);
  const OwnedTensor d_h({kRows, cols}, type);
  fill_normal(d_h, 3);
  fill_normal(gate.view().rows_slice(1, 2), 4, 30.0);
  fill_normal(gate.view().rows_slice(2, 3), 5, 300.0);
  const OwnedTensor h({kRows, cols}, type);
  Sliced d_gate(kRows, cols, type), d_up(kRows, cols, type);
  const auto reference = make_reference_backend();
  reference->swiglu(h, gate, up);
  reference->swiglu_backward(d_gate, d_up, d_h, gate, up);
  const auto bound = [&](auto r, auto c) {
    const double size = std::abs(element(up, r, c)) + std::abs(element(d_h, r, c)) + 1;
    return 16 * kEpsilon * size * size * (1 + std::abs(element(gate, r, c)));
  };
  on_every_backend([&](Backend& backend, const std::string& label) {
    const OwnedTensor got({kRows, cols}, type);
    backend.swiglu(got, gate, up);
    expect_close(got, h, bound, "swiglu" + at(cols, type, label));
    // In place: the gradients replace gate and up.
    Sliced in_place_gate(kRows, cols, type, 1, margins), in_place_up(kRows, cols, type, 2, margins);
    backend.copy(in_place_gate, gate);
    backend.swiglu_backward(in_place_gate, in_place_up, d_h, in_place_gate, in_place_up);
    expect_close(in_place_gate, d_gate, bound, "swiglu d_gate" + at(cols, type, label));
    expect_close(in_place_up, d_up, bound, "swiglu d_up" + at(cols, type, label));
  });
}

TEST(CpuModelKernels, SwigluAndItsGradientAreTheReferencesFarFromZeroToo) {
  for (const std::int64_t cols : column_cases_and({2056})) {
    for (const DType type : kFloats) {
      for (const Margins margins : kMargins) expect_swiglu(cols, type, margins);
    }
  }
}

TEST(CpuModelKernels, CrossEntropyIsTheReferencesAndIgnoresNegativeTargets) {
  const std::int64_t rows = 5;
  // Rows of more than one chunk (kSoftmaxChunk; on a device 8192 logits) too.
  for (const std::int64_t vocab : column_cases_and({2048, 2049, 5000, 8200, 16411, 20000})) {
    const OwnedTensor logits({rows, vocab}, DType::kF32), targets({rows}, DType::kI32);
    fill_normal(logits, 1, 4.0);
    std::int32_t* const target = targets.view().as<std::int32_t>();
    for (std::int64_t r = 0; r < rows; ++r) target[r] = static_cast<std::int32_t>((7 * r) % vocab);
    target[1] = -1;
    // Row 2: the target shares the largest logit with the last column, and stands first.
    logits.view().row<float>(2)[target[2]] = logits.view().row<float>(2)[vocab - 1] = 50.0f;
    // Row 3: the target shares it with the first column.
    logits.view().row<float>(3)[target[3]] = logits.view().row<float>(3)[0] = 50.0f;
    // Row 4: with its right neighbour.
    logits.view().row<float>(4)[target[4]] = 50.0f;
    if (target[4] + 1 < vocab) logits.view().row<float>(4)[target[4] + 1] = 50.0f;
    for (const DType type : kFloats) {
      const OwnedTensor losses({rows, 1}, DType::kF32), correct({rows}, DType::kU8);
      const OwnedTensor d_logits({rows, vocab}, type);
      make_reference_backend()->cross_entropy(losses, correct, d_logits, logits, targets, 0.25f);
      on_every_backend([&](Backend& backend, const std::string& label) {
        const OwnedTensor got_losses({rows, 1}, DType::kF32), got_correct({rows}, DType::kU8);
        const OwnedTensor apart({rows, vocab}, type);
        backend.cross_entropy(got_losses, got_correct, apart, logits, targets, 0.25f);
        // In place: each row begins where the row of logits does.
        const OwnedTensor place({rows, vocab}, DType::kF32);
        backend.copy(place, logits);
        Tensor d_out(place.view().data, {rows, vocab}, type);
        d_out.row_stride = type == DType::kF32 ? vocab : 2 * vocab;
        backend.cross_entropy(got_losses, got_correct, d_out, place, targets, 0.25f);
        expect_close(apart, d_out, 0.0, "d_logits in place" + at(vocab, type, label));
        expect_close(got_losses, losses, 128 * kEpsilon, "losses" + at(vocab, type, label));
        expect_close(d_out, d_logits, 32 * kEpsilon, "d_logits" + at(vocab, type, label));
        EXPECT_TRUE(got_correct.same_bytes(correct)) << at(vocab, type, label);
        const OwnedTensor alone({rows, 1}, DType::kF32);
        backend.cross_entropy(alone, got_correct, Tensor(), logits, targets, 0.25f);
        EXPECT_TRUE(alone.same_bytes(got_losses)) << "without gradient" << at(vocab, type, label);
      });
    }
  }
}

TEST(ModelKernelsOnCpu, CrossEntropyTakesLogitsOfMinusInfinityForNoProbability) {
  constexpr std::int64_t kVocab = 5000;
  const OwnedTensor logits({1, kVocab}, DType::kF32), targets({1}, DType::kI32);
  fill_normal(logits, 1);
  std::fill_n(logits.view().as<float>(), 2500, -std::numeric_limits<float>::infinity());
  targets.view().as<std::int32_t>()[0] = 4000;
  const OwnedTensor loss({1, 1}, DType::kF32), correct({1}, DType::kU8);
  const OwnedTensor d_logits({1, kVocab}, DType::kF32);
  make_reference_backend()->cross_entropy(loss, correct, d_logits, logits, targets, 1.0f);
  on_every_backend([&](Backend& backend, const std::string& label) {
    const OwnedTensor got({1, 1}, DType::kF32), got_gradient({1, kVocab}, DType::kF32);
    backend.cross_entropy(got, correct, got_gradient, logits, targets, 1.0f);
    expect_close(got, loss, 128 * kEpsilon, "loss" + at(kVocab, DType::kF32, label));
    expect_close(got_gradient, d_logits, 32 * kEpsilon,
                 "d_logits" + at(kVocab, DType::kF32, label));
  });
}

TEST(ModelKernelsOnCpu, AGradientOfLogitsWrittenPastTheCachesHasTheBitsOfItsParts) {
  // 17 MiB, of whose rows every second begins with a line; all end within one.
  constexpr std::int64_t kLogits = 300, kVocab = 30064, kPart = 100;
  const OwnedTensor logits({kLogits, kVocab}, DType::kF32), targets({kLogits}, DType::kI32);
  for (std::int64_t i = 0; i < kLogits * kVocab; ++i) {
    logits.view().as<float>()[i] = static_cast<float>(i * 7919 % 10007) * 1e-3f;
  }
  const OwnedTensor losses({kLogits, 1}, DType::kF32), correct({kLogits}, DType::kU8);
  const OwnedTensor whole({kLogits, kVocab}, DType::kBF16), parts({kLogits, kVocab}, DType::kBF16);
  const std::unique_ptr<Backend> backend = make_cpu_backend(2);
  backend->cross_entropy(losses, correct, whole, logits, targets, 1.0f);
  for (std::int64_t first = 0; first < kLogits; first += kPart) {
    const auto part = [&](const OwnedTensor& of) {
      return of.view().rows_slice(first, first + kPart);
    };
    backend->cross_entropy(part(losses), part(correct), part(parts), part(logits), part(targets),
                           1.0f);
  }
  EXPECT_TRUE(whole.same_bytes(parts));
}

TEST(CpuModelKernels, CrossEntropyOfABrokenLogitIsNan) {
  on_every_backend([&](Backend& backend, const std::string& label) {
    for (const std::int64_t vocab : {40, 10000}) {
      const OwnedTensor logits({1, vocab}, DType::kF32), targets({1}, DType::kI32);
      const OwnedTensor losses({1}, DType::kF32), correct({1}, DType::kU8);
      for (const std::int64_t broken : {std::int64_t{5}, vocab - 1}) {
        fill_normal(logits, 1);
        logits.view().as<float>()[broken] = std::numeric_limits<float>::quiet_NaN();
        const OwnedTensor d_logits({1, vocab}, DType::kF32);
        backend.cross_entropy(losses, correct, d_logits, logits, targets, 1.0f);
        EXPECT_TRUE(std::isnan(losses.view().as<float>()[0])) << label;
        EXPECT_TRUE(std::isnan(d_logits.view().as<float>()[vocab / 2])) << label;
      }
    }
  });
}

TEST(CpuModelKernels, EmbeddingCopiesRowsAndAddsGradientsOfEqualTokensInOrder) {
  struct Size {
    std::int64_t rows, cols;
  };
  const std::int64_t vocab = 7;
  for (const auto [rows, cols] :
       {Size{40, 1}, {40, 63}, {40, 129}, {40, 320}, {40, 2056}, {1100, 8}}) {
    const OwnedTensor tokens({rows}, DType::kI32), table({vocab, cols}, DType::kF32);
    for (std::int64_t r = 0; r < rows; ++r) {
      tokens.view().as<std::int32_t>()[r] = static_cast<std::int32_t>(r * r % 5);
    }
    fill_normal(table, 1);
    const OwnedTensor d_x({rows, cols}, DType::kF32);
    fill_normal(d_x, 2);
    const auto reference = make_reference_backend();
    const OwnedTensor x({rows, cols}, DType::kF32), d_table({vocab, cols}, DType::kF32);
    reference->embedding(x, tokens, table);
    reference->embedding_backward(d_table, d_x, tokens);
    on_every_backend([&](Backend& backend, const std::string& label) {
      const OwnedTensor got({rows, cols}, DType::kF32), got_table({vocab, cols}, DType::kF32);
      backend.embedding(got, tokens, table);
      backend.embedding_backward(got_table, d_x, tokens);
      EXPECT_TRUE(got.same_bytes(x)) << at(cols, DType::kF32, label);
      EXPECT_TRUE(got_table.same_bytes(d_table)) << at(cols, DType::kF32, label);
    });
  }
}

}  // namespace
}  // namespace quest
