// How close a kernel's output is to the reference's: for tests.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>

#include "backend/backends_under_test.h"
#include "backend/kernel_cases.h"

namespace quest {

/// Half a unit in the last place, relative.
inline double rounding(DType dtype) { return dtype == DType::kBF16 ? 0x1p-9 : 0x1p-24; }

inline std::string type_name(DType dtype) { return std::string(name(dtype)); }

/// Checks |actual - expected| <= bound(r, c) + the rounding of both outputs to their type; names
/// the element that misses by most.
inline void expect_close(Tensor actual, Tensor expected,
                         const std::function<double(std::int64_t, std::int64_t)>& bound,
                         const std::string& what) {
  double worst = -1.0;
  std::string message;
  for (std::int64_t r = 0; r < actual.rows(); ++r) {
    for (std::int64_t c = 0; c < actual.cols(); ++c) {
      const double got = element(actual, r, c);
      const double want = element(expected, r, c);
      const double allowed = bound(r, c) + 4 * rounding(actual.dtype) * std::abs(want) + 1e-37;
      const double excess = std::isnan(got) == std::isnan(want) && std::isnan(want)
                                ? 0.0
                                : std::abs(got - want) / allowed;
      if (excess <= worst) continue;  // A lone NaN compares false and stays.
      worst = excess;
      message = fmt::format("{} [{}, {}]: {} instead of {}, {:.2f} times the tolerance", what, r, c,
                            got, want, excess);
      if (std::isnan(excess)) break;
    }
    if (std::isnan(worst)) break;
  }
  EXPECT_TRUE(worst <= 1.0) << message;
}
inline void expect_close(Tensor actual, Tensor expected, double bound, const std::string& what) {
  expect_close(
      actual, expected, [bound](std::int64_t, std::int64_t) { return bound; }, what);
}

/// Columns beside a column slice.
struct Margins {
  std::int64_t before = 2, after = 3;
};
/// Rows that begin at no multiple of 16 bytes, and such that do where the slice has whole ones.
inline constexpr Margins kMargins[] = {{2, 3}, {8, 8}};

/// The middle `cols` columns of a wider tensor: a column slice.
class Sliced {
 public:
  Sliced(std::int64_t rows, std::int64_t cols, DType dtype, std::uint64_t seed = 0,
         Margins margins = {})
      : whole_({rows, margins.before + cols + margins.after}, dtype),
        view_(whole_.view().columns(margins.before, margins.before + cols)),
        margins_(margins) {
    if (seed != 0) fill_normal(whole_, seed);
  }
  operator Tensor() const { return view_; }  // NOLINT: an owner stands wherever a view does.
  Tensor view() const { return view_; }
  /// Whether the columns beside the slice hold what they hold in `other`.
  bool same_margins(const Sliced& other) const {
    const Tensor a = whole_, b = other.whole_;
    for (std::int64_t r = 0; r < a.rows(); ++r) {
      for (std::int64_t c = 0; c < a.cols(); ++c) {
        if (c >= margins_.before && c < a.cols() - margins_.after) continue;
        if (element(a, r, c) != element(b, r, c)) return false;
      }
    }
    return true;
  }

 private:
  OwnedTensor whole_;
  Tensor view_;
  Margins margins_;
};

}  // namespace quest
