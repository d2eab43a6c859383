// Tests of sums and AdamW on the CPU against the reference.
#include <limits>

#include "backend/cpu/closeness.h"

namespace quest {
namespace {

constexpr double kEpsilon = 0x1p-24;

TEST(CpuOptimizer, SumsAreExactToDoubleAndAddToTheTotal) {
  for (const std::int64_t count : {1, 3, 127, 1000, 70001}) {
    const OwnedTensor x({count}, DType::kF32);
    fill_normal(x, 1);
    double expected[2] = {0.5, 0.5};
    make_reference_backend()->sum(view_of(&expected[0], {1}), x);
    make_reference_backend()->sum_squares(view_of(&expected[1], {1}), x);
    double first[2] = {0, 0};
    on_every_backend([&](Backend& backend, const std::string& label) {
      double got[2] = {0.5, 0.5};
      backend.sum(view_of(&got[0], {1}), x);
      backend.sum_squares(view_of(&got[1], {1}), x);
      const double bound = 0x1p-53 * static_cast<double>(count) * expected[1];
      EXPECT_NEAR(got[0], expected[0], bound) << count << " values on " << label;
      EXPECT_NEAR(got[1], expected[1], bound) << count << " values on " << label;
      // The last two backends differ in threads alone, and that may not change a bit.
      if (backend.threads() == 2) {
        EXPECT_EQ(got[0], first[0]) << count << " values on " << label;
        EXPECT_EQ(got[1], first[1]) << count << " values on " << label;
      }
      first[0] = got[0];
      first[1] = got[1];
    });
  }
}

TEST(CpuOptimizer, ClipScaleIsTheReferences) {
  for (const double squares : {0.0, 0.25, 9.0, std::numeric_limits<double>::infinity(),
                               std::numeric_limits<double>::quiet_NaN()}) {
    for (const float max_norm : {0.0f, 1.0f}) {
      double sum = squares;
      float expected = 0.0f, got = 0.0f;
      make_reference_backend()->clip_scale(view_of(&expected, {1}), view_of(&sum, {1}), max_norm);
      on_every_backend([&](Backend& backend, const std::string& label) {
        backend.clip_scale(view_of(&got, {1}), view_of(&sum, {1}), max_norm);
        EXPECT_TRUE(got == expected || (std::isnan(got) && std::isnan(expected)))
            << squares << " " << max_norm << ": " << got << " instead of " << expected << " on "
            << label;
      });
    }
  }
}

TEST(CpuOptimizer, ClipScaleIsNaNWhereAnySumIsNotFinite) {
  for (const double bad :
       {1.0, std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(),
        std::numeric_limits<double>::quiet_NaN()}) {
    const double sums[2] = {bad, 9.0};
    const auto expect_scale = [&](Backend& backend, const std::string& label) {
      float got = 0.0f;
      backend.clip_scale(view_of(&got, {1}), view_of(sums, {2}), 1.5f);
      if (bad == 1.0) {
        EXPECT_NEAR(got, 0.5f, 1e-6f) << label;
      } else {
        EXPECT_TRUE(std::isnan(got)) << bad << " on " << label;
      }
    };
    expect_scale(*make_reference_backend(), "reference");
    on_every_backend(expect_scale);
  }
}

struct AdamState {
  OwnedTensor parameter, first, second, gradient;

  explicit AdamState(std::int64_t count)
      : parameter({1, count}, DType::kF32),
        first({1, count}, DType::kF32),
        second({1, count}, DType::kF32),
        gradient({1, count}, DType::kF32) {
    fill_normal(parameter, 1);
    fill_normal(first, 2, 0.1);
    fill_normal(second, 3, 0.1);
    fill_normal(gradient, 4);
    for (std::int64_t i = 0; i < count; ++i) {
      float& v = second.view().as<float>()[i];
      v *= v;
    }
    if (count > 2) {  // A value that no gradient has reached yet.
      first.view().as<float>()[1] = second.view().as<float>()[1] = 0.0f;
      gradient.view().as<float>()[1] = 0.0f;
    }
  }
};

TEST(CpuOptimizer, AdamwIsTheReferencesAtEarlyAndLateSteps) {
  for (const std::int64_t count : {1, 3, 127, 1000, 70001}) {
    for (const std::int64_t step : {1, 1000}) {
      float scale = 0.7f;
      const AdamWStep settings{1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, step};
      const AdamState expected(count);
      make_reference_backend()->adamw(expected.parameter, {expected.first, {}},
                                      {expected.second, {}}, expected.gradient,
                                      view_of(&scale, {1}), settings);
      on_every_backend([&](Backend& backend, const std::string& label) {
        const AdamState got(count);
        backend.adamw(got.parameter, {got.first, {}}, {got.second, {}}, got.gradient,
                      view_of(&scale, {1}), settings);
        const std::string what = fmt::format(" of {} at step {} on {}", count, step, label);
        expect_close(got.first, expected.first, 4 * kEpsilon, "first moment" + what);
        expect_close(got.second, expected.second, 4 * kEpsilon, "second moment" + what);
        expect_close(got.parameter, expected.parameter, 8 * kEpsilon, "parameter" + what);
      });
    }
  }
}

// Moments in 16 or 8 bits after a few updates from zero, with the parameter.
struct NarrowState {
  OwnedTensor parameter, gradient, first, second, first_scales, second_scales;

  NarrowState(std::int64_t count, int bits)
      : parameter({1, count}, DType::kF32),
        gradient({1, count}, DType::kF32),
        first({1, count}, bits == 16 ? DType::kBF16 : DType::kI8),
        second({1, count}, bits == 16 ? DType::kBF16 : DType::kU8),
        first_scales({(count + kMomentBlock - 1) / kMomentBlock}, DType::kF32),
        second_scales({(count + kMomentBlock - 1) / kMomentBlock}, DType::kF32) {
    fill_normal(parameter, 1);
  }
  void update(Backend& backend, std::int64_t step) {
    float scale = 0.7f;
    fill_normal(gradient, static_cast<std::uint64_t>(step) + 1);
    // Gradients of one block over six orders of magnitude, and values that none has reached.
    for (std::int64_t i = 0; i < gradient.view().numel(); ++i) {
      gradient.view().as<float>()[i] *=
          i % 7 == 0 ? 0.0f : std::pow(10.0f, static_cast<float>(-(i % 6)));
    }
    const bool coded = first.view().dtype == DType::kI8;
    backend.adamw(parameter, {first, coded ? first_scales.view() : Tensor()},
                  {second, coded ? second_scales.view() : Tensor()}, gradient, view_of(&scale, {1}),
                  {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, step});
  }
};

TEST(CpuOptimizer, NarrowMomentsAreTheReferences) {
  for (const std::int64_t count : {1, 3, 127, 255, 256, 257, 1000, 70001}) {
    for (const int bits : {16, 8}) {
      NarrowState expected(count, bits);
      const std::unique_ptr<Backend> reference = make_reference_backend();
      for (std::int64_t step = 1; step <= 3; ++step) expected.update(*reference, step);
      on_every_backend([&](Backend& backend, const std::string& label) {
        NarrowState got(count, bits);
        for (std::int64_t step = 1; step <= 3; ++step) got.update(backend, step);
        std::int64_t other_codes = 0;
        for (std::int64_t i = 0; bits == 8 && i < count; ++i) {
          const int first =
              got.first.view().as<std::int8_t>()[i] - expected.first.view().as<std::int8_t>()[i];
          const int second = got.second.view().as<std::uint8_t>()[i] -
                             expected.second.view().as<std::uint8_t>()[i];
          ASSERT_LE(std::max(std::abs(first), std::abs(second)), 1) << label << " at " << i;
          other_codes += first != 0 || second != 0 ? 1 : 0;
        }
        // A value within rounding of the border of two codes may take either.
        EXPECT_LE(static_cast<double>(other_codes), 2 + 1e-3 * static_cast<double>(count)) << label;
        // Where it did, the next update differs by the code's share: at most 1e-3 of a step of 1e-3
        // for bf16, and a tenth of one for 8 bits.
        expect_close(got.parameter, expected.parameter, bits == 16 ? 1e-5 : 3e-4,
                     fmt::format("{} bits of {} on {}", bits, count, label));
      });
    }
  }
}

TEST(CpuOptimizer, EightBitsNeverLoseAValueFromTheDenominator) {
  on_every_backend([&](Backend& backend, const std::string& label) {
    NarrowState state(256, 8);
    float scale = 1.0f;
    state.gradient.view().as<float>()[0] = 1e6f;
    state.gradient.view().as<float>()[1] = 1e-6f;
    backend.adamw(state.parameter, {state.first, state.first_scales},
                  {state.second, state.second_scales}, state.gradient, view_of(&scale, {1}),
                  {1e-3f, 0.9f, 0.95f, 1e-8f, 0.0f, 1});
    EXPECT_EQ(state.second.view().as<std::uint8_t>()[0], 255) << label;
    EXPECT_EQ(state.second.view().as<std::uint8_t>()[1], 1) << label;
    EXPECT_EQ(state.second.view().as<std::uint8_t>()[2], 0) << label;
    EXPECT_EQ(state.first.view().as<std::int8_t>()[0], 127) << label;
  });
}

TEST(CpuOptimizer, EightBitsKeepMomentsBelowTheNormalNumbers) {
  // Squares of 1e-20 are below them, and the inverse of their largest is no number.
  on_every_backend([&](Backend& backend, const std::string& label) {
    NarrowState state(512, 8);
    float scale = 1.0f;
    for (std::int64_t i = 256; i < 512; ++i) {
      state.gradient.view().as<float>()[i] = i % 2 == 0 ? 1e-20f : 0.0f;
    }
    backend.adamw(state.parameter, {state.first, state.first_scales},
                  {state.second, state.second_scales}, state.gradient, view_of(&scale, {1}),
                  {1e-3f, 0.9f, 0.95f, 1e-8f, 0.0f, 1});
    EXPECT_EQ(state.second_scales.view().as<float>()[0], 0.0f) << label;
    EXPECT_GT(state.second_scales.view().as<float>()[1], 0.0f) << label;
    for (std::int64_t i = 0; i < 512; ++i) {
      const bool moved = i >= 256 && i % 2 == 0;
      ASSERT_EQ(state.first.view().as<std::int8_t>()[i], moved ? 127 : 0) << i << " on " << label;
      ASSERT_EQ(state.second.view().as<std::uint8_t>()[i], moved ? 255 : 0) << i << " on " << label;
    }
  });
}

TEST(CpuOptimizer, AdamwWithABrokenGradientChangesNothing) {
  on_every_backend([&](Backend& backend, const std::string& label) {
    float scale = std::numeric_limits<float>::quiet_NaN();
    const AdamState before(100), state(100);
    backend.adamw(state.parameter, {state.first, {}}, {state.second, {}}, state.gradient,
                  view_of(&scale, {1}), {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 1});
    EXPECT_TRUE(state.parameter.same_bytes(before.parameter)) << label;
    EXPECT_TRUE(state.first.same_bytes(before.first)) << label;
    EXPECT_TRUE(state.second.same_bytes(before.second)) << label;
  });
}

}  // namespace
}  // namespace quest
