// Float kernels of RMSNorm and its gradient: a part of float_kernels.inc.h, which includes this.

namespace quest {
namespace {

/// Squares of a row added up four vectors at a time. Its members written out: g++ 12 keeps arrays
/// in memory where a lambda takes part.
struct SquareSums {
  Vec a{}, b{}, c{}, d{};

  QUEST_INLINE void add_four(const float* x, std::int64_t i) {
    a = add_square(a, load(x, i, kLanes));
    b = add_square(b, load(x, i + kLanes, kLanes));
    c = add_square(c, load(x, i + 2 * kLanes, kLanes));
    d = add_square(d, load(x, i + 3 * kLanes, kLanes));
  }
  /// What is left after the fours.
  QUEST_INLINE void add_rest(const float* x, std::int64_t count) {
    const std::int64_t fours = in_fours(count);
    for_vectors(
        count - fours, QUEST_STEP { a = add_square(a, load(x + fours, i, n)); });
  }
  QUEST_INLINE float inverse_root(float epsilon, std::int64_t count) const {
    const float mean = horizontal_sum((a + b) + (c + d)) / static_cast<float>(count);
    return 1.0f / __builtin_sqrtf(mean + epsilon);
  }

 private:
  static QUEST_INLINE Vec add_square(Vec sum, Vec x) { return fma(x, x, sum); }
};

float inverse_rms(const float* x, Floats out, float epsilon, std::int64_t count) {
  SquareSums sums;
  const std::int64_t fours = in_fours(count);
  for (std::int64_t i = 0; i < fours; i += 4 * kLanes) {
    if (out.data != nullptr) {
      constexpr int kLine = 64;
      for (int b = 0; b < 4 * kLanes * (out.is_bf16 ? 2 : 4); b += kLine) fetch_far(out, i, b);
    }
    sums.add_four(x, i);
  }
  sums.add_rest(x, count);
  return sums.inverse_root(epsilon, count);
}

float normalize(Floats y, const NormRow* row, const float* weight, std::int64_t count) {
  const auto [x, rstd, other, epsilon] = *row;
  const auto value = [&](std::int64_t i, int n) __attribute__((always_inline)) {
    return load(x, i, n) * rstd * load(weight, i, n);
  };
  const auto two = [&](std::int64_t i) __attribute__((always_inline)) {
    store_two(y, i, value(i, kLanes), value(i + kLanes, kLanes));
  };
  SquareSums sums;
  const std::int64_t fours = other != nullptr && y.is_bf16 ? in_fours(count) : 0;
  for (std::int64_t i = 0; i < fours; i += 4 * kLanes) {
    sums.add_four(other, i);
    two(i);
    two(i + 2 * kLanes);
  }
  std::int64_t done = fours;
  for (; y.is_bf16 && done + 2 * kLanes <= count; done += 2 * kLanes) {
    // This row is near, so that the next may be on its way.
    __builtin_prefetch(x + count + done, 0, 2);
    __builtin_prefetch(x + count + done + kLanes, 0, 2);
    two(done);
  }
  for_vectors(
      count - done, QUEST_STEP { store(y, done + i, n, value(done + i, n)); });
  if (other == nullptr) return 0.0f;
  if (fours == 0) return inverse_rms(other, {}, epsilon, count);
  sums.add_rest(other, count);
  return sums.inverse_root(epsilon, count);
}

/// A vector of a row's gradient of the weight; its part of d_y . y joins `projections`.
template <bool bf16, bool fetch>
QUEST_INLINE Vec weight_gradient(const NormGradientRow& row, std::int64_t i, int n, Vec weight,
                                 Vec& projections) {
  if (fetch) __builtin_prefetch(row.d_x + i, 1, 2);
  const Vec normalized = load(row.x, i, n) * row.rstd;
  const Vec gradient = load(known<bf16>(row.d_y), i, n) * normalized;
  projections = fma(gradient, weight, projections);
  return gradient;
}

/// A vector of d_x, after the addition. `along`: rstd times the mean of d_y . y.
template <bool bf16>
QUEST_INLINE Vec input_gradient(const NormGradientRow& row, std::int64_t i, int n, Vec weight,
                                float along) {
  const Vec gradient = fma(load(known<bf16>(row.d_y), i, n), weight, -(load(row.x, i, n) * along));
  const Vec sum = fma(splat(row.rstd), gradient, load(row.d_x, i, n));
  store(row.d_x, i, n, sum);
  return sum;
}

/// bf16: d_y's type. Two rows read and write the weight's gradient once, and one's sum across lanes
/// has the other's beside it. `fetch`: where rows do not come from the second-level cache, d_x is
/// asked for by the first pass and the next rows by the second, for either pass alone reads half of
/// the streams.
template <int rows, bool bf16, bool fetch>
void rmsnorm_backward_of(const NormGradientRow a, const NormGradientRow b, float* d_weight,
                         const float* weight, std::int64_t count) {
  Vec projections_a{}, projections_b{};
  for_vectors(
      count, QUEST_STEP {
        const Vec w = load(weight, i, n);
        Vec sum = load(d_weight, i, n) + weight_gradient<bf16, fetch>(a, i, n, w, projections_a);
        if (rows == 2) sum = sum + weight_gradient<bf16, fetch>(b, i, n, w, projections_b);
        store(d_weight, i, n, sum);
      });
  const float length = static_cast<float>(count);
  const float along_a = a.rstd * (horizontal_sum(projections_a) / length);
  const float along_b = rows == 2 ? b.rstd * (horizontal_sum(projections_b) / length) : 0.0f;
  std::int64_t done = 0;
#if defined(__AVX512F__)
  // Rounded as they are made; with fewer registers and no instruction that rounds, that takes
  // longer than a pass of its own.
  const std::int64_t pairs = a.rounded.data != nullptr && a.rounded.is_bf16 ? in_pairs(count) : 0;
  for (; done < pairs; done += 2 * kLanes) {
    const Vec w_low = load(weight, done, kLanes), w_high = load(weight, done + kLanes, kLanes);
    const auto put = [&](const NormGradientRow& row, float along) __attribute__((always_inline)) {
      if (fetch) {
        const std::int64_t ahead = done + rows * count;
        __builtin_prefetch(row.x + ahead, 0, 2);
        __builtin_prefetch(row.x + ahead + kLanes, 0, 2);
        fetch_ahead(known<bf16>(row.d_y), ahead, 0);
      }
      const Vec low = input_gradient<bf16>(row, done, kLanes, w_low, along);
      const Vec high = input_gradient<bf16>(row, done + kLanes, kLanes, w_high, along);
      store_two(row.rounded, done, low, high);
    };
    put(a, along_a);
    if (rows == 2) put(b, along_b);
  }
#endif
  const auto rest = [&](const NormGradientRow& row, float along) __attribute__((always_inline)) {
    for_vectors(
        count - done,
        QUEST_STEP { input_gradient<bf16>(row, done + i, n, load(weight, done + i, n), along); });
    if (row.rounded.data == nullptr) return;
    for_vectors(
        count - done, QUEST_STEP { store(row.rounded, done + i, n, load(row.d_x, done + i, n)); });
  };
  rest(a, along_a);
  if (rows == 2) rest(b, along_b);
}

template <int rows, bool bf16>
void rmsnorm_backward_rows(const NormGradientRows& r, float* d_weight, const float* weight,
                           std::int64_t count) {
  const auto of =
      r.fetch ? rmsnorm_backward_of<rows, bf16, true> : rmsnorm_backward_of<rows, bf16, false>;
  of(r.rows[0], r.rows[rows - 1], d_weight, weight, count);
}

void rmsnorm_backward(const NormGradientRows* rows, float* d_weight, const float* weight,
                      std::int64_t count) {
  const bool bf16 = rows->rows[0].d_y.is_bf16;
  const auto two = bf16 ? rmsnorm_backward_rows<2, true> : rmsnorm_backward_rows<2, false>;
  const auto one = bf16 ? rmsnorm_backward_rows<1, true> : rmsnorm_backward_rows<1, false>;
  (rows->count == 2 ? two : one)(*rows, d_weight, weight, count);
}

}  // namespace
}  // namespace quest
