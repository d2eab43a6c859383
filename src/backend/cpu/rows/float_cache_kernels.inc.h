// Float kernels of attention to cached keys and values, in floats or codes: a part of
// float_kernels.inc.h, which includes this.

namespace quest {
namespace {

// Element `index` of x, and what follows.
QUEST_INLINE Floats from(Floats x, std::int64_t index) {
  const std::int64_t bytes = index * (x.is_bf16 ? 2 : 4);
  return {static_cast<char*>(x.data) + bytes, x.is_bf16};
}

QUEST_INLINE const std::int8_t* from(const std::int8_t* x, std::int64_t index) { return x + index; }

template <typename Keys>
QUEST_INLINE void dot_with_rows(float* scores, Floats q, Keys keys, std::int64_t stride,
                                std::int64_t rows, std::int64_t count) {
  std::int64_t j = 0;
  for (; j + 4 <= rows; j += 4) {
    Vec totals[4] = {};
    for_vectors(
        count, QUEST_STEP {
          const Vec query = load(q, i, n);
          for (int k = 0; k < 4; ++k) {
            totals[k] = fma(query, load(from(keys, (j + k) * stride), i, n), totals[k]);
          }
        });
    for (int k = 0; k < 4; ++k) scores[j + k] = horizontal_sum(totals[k]);
  }
  for (; j < rows; ++j) {
    Vec total{};
    for_vectors(
        count,
        QUEST_STEP { total = fma(load(q, i, n), load(from(keys, j * stride), i, n), total); });
    scores[j] = horizontal_sum(total);
  }
}

template <typename Values>
QUEST_INLINE void add_rows(float* totals, const float* weights, Values values, std::int64_t stride,
                           std::int64_t rows, std::int64_t count) {
  std::int64_t c = 0;
  for (; c + 4 * kLanes <= count; c += 4 * kLanes) {
    Vec sums[4];
    for (int k = 0; k < 4; ++k) sums[k] = load(totals, c + k * kLanes, kLanes);
    for (std::int64_t j = 0; j < rows; ++j) {
      const Values row = from(values, j * stride + c);
      for (int k = 0; k < 4; ++k) {
        sums[k] = fma(splat(weights[j]), load(row, k * kLanes, kLanes), sums[k]);
      }
    }
    for (int k = 0; k < 4; ++k) store(totals, c + k * kLanes, kLanes, sums[k]);
  }
  for_vectors(
      count - c, QUEST_STEP {
        Vec sum = load(totals, c + i, n);
        for (std::int64_t j = 0; j < rows; ++j) {
          sum = fma(splat(weights[j]), load(from(values, j * stride + c), i, n), sum);
        }
        store(totals, c + i, n, sum);
      });
}

void scores(float* scores, Floats q, Floats keys, std::int64_t stride, std::int64_t rows,
            std::int64_t count) {
  dot_with_rows(scores, q, keys, stride, rows, count);
}

void scores_of_codes(float* scores, Floats q, const std::int8_t* keys, std::int64_t stride,
                     std::int64_t rows, std::int64_t count) {
  dot_with_rows(scores, q, keys, stride, rows, count);
}

void add_weighted(float* totals, const float* weights, Floats values, std::int64_t stride,
                  std::int64_t rows, std::int64_t count) {
  add_rows(totals, weights, values, stride, rows, count);
}

void add_weighted_codes(float* totals, const float* weights, const std::int8_t* values,
                        std::int64_t stride, std::int64_t rows, std::int64_t count) {
  add_rows(totals, weights, values, stride, rows, count);
}

float encode(std::int8_t* codes, Floats x, std::int64_t count) {
  Vec most{}, broken{};
  for_vectors(
      count, QUEST_STEP {
        const Vec value = load(x, i, n);
        most = max(most, max(value, -value));
        broken += value * 0.0f;
      });
  const float largest = horizontal_max(most);
  if (!(horizontal_sum(broken) == 0.0f)) {
    __builtin_memset(codes, 0, static_cast<std::size_t>(count));
    return __builtin_nanf("");
  }
  const float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
  for_vectors(
      count, QUEST_STEP { store(codes, i, n, load(x, i, n) * inverse); });
  return largest / 127.0f;
}

void decode(Floats out, const std::int8_t* codes, float scale, std::int64_t count) {
  for_vectors(
      count, QUEST_STEP { store(out, i, n, load(codes, i, n) * scale); });
}

}  // namespace
}  // namespace quest
