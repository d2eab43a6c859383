// The float kernels, written once for all instruction sets: included by each kernels_float file.
// No guard against a second inclusion, and everything with internal linkage, by intention.
#include "backend/cpu/rows/float_exponentials.h"
#include "backend/cpu/rows/float_simd.h"

// The body of for_vectors: works on lanes [i, i + n).
#define QUEST_STEP [&](const std::int64_t i, const int n) __attribute__((always_inline))

namespace quest {
namespace {

void cast(Floats dst, Floats src, std::int64_t count) {
  if (dst.is_bf16 && !src.is_bf16) {
    for_vectors(
        count, QUEST_STEP {
          store({dst.data, true}, i, n, load({src.data, false}, i, n));
        });
  } else {
    for_vectors(
        count, QUEST_STEP { store(dst, i, n, load(src, i, n)); });
  }
}

void add(float* dst, const float* src, std::int64_t count) {
  for_vectors(
      count, QUEST_STEP { store(dst, i, n, load(dst, i, n) + load(src, i, n)); });
}

double sum(const float* x, std::int64_t count) {
  DoubleVec low{}, high{};
  for_vectors(
      count, QUEST_STEP {
        const Vec value = load(x, i, n);
        low += widen_low(value);
        high += widen_high(value);
      });
  return horizontal_sum(low + high);
}

// Values ahead of a pass over memory alone that are fetched: 16 KiB, a tenth faster than none.
constexpr std::int64_t kFetchedAhead = 4096;

double sum_squares(const float* x, std::int64_t count) {
  DoubleVec low{}, high{};
  for_vectors(
      count, QUEST_STEP {
        __builtin_prefetch(x + i + kFetchedAhead);
        const Vec value = load(x, i, n);
        const DoubleVec a = widen_low(value), b = widen_high(value);
        low += a * a;
        high += b * b;
      });
  return horizontal_sum(low + high);
}

/// The update of one vector: moves the parameter and leaves the new moments in m and v.
QUEST_INLINE void adamw_vector(float* parameter, Vec& m, Vec& v, const float* gradient,
                               const AdamWUpdate& f, std::int64_t i, int n) {
  const Vec g = load(gradient, i, n) * f.grad_scale;
  m = fma(splat(f.beta1), m, f.one_minus_beta1 * g);
  v = fma(splat(f.beta2), v, f.one_minus_beta2 * g * g);
  const Vec root = square_root(v * f.inverse_correction2) + f.epsilon;
  const Vec update = m * (f.learning_rate * f.inverse_correction1) / root;
  store(parameter, i, n, fma(load(parameter, i, n), splat(f.decay), -update));
}

template <bool bf16>
void adamw_floats(float* parameter, void* first, void* second, const float* gradient,
                  std::int64_t count, const AdamWUpdate& f) {
  for_vectors(
      count, QUEST_STEP {
        Vec m = load({first, bf16}, i, n), v = load({second, bf16}, i, n);
        adamw_vector(parameter, m, v, gradient, f, i, n);
        store({first, bf16}, i, n, m);
        store({second, bf16}, i, n, v);
      });
}

void adamw(float* parameter, Floats first, Floats second, const float* gradient, std::int64_t count,
           const AdamWUpdate* update) {
  const AdamWUpdate f = *update;
  if (first.is_bf16)
    return adamw_floats<true>(parameter, first.data, second.data, gradient, count, f);
  adamw_floats<false>(parameter, first.data, second.data, gradient, count, f);
}

void adamw_codes(float* parameter, CodedMoments moments, const float* gradient, std::int64_t count,
                 const AdamWUpdate* update) {
  constexpr float kFirstCodes = 127.0f, kSecondCodes = 255.0f;
  const AdamWUpdate f = *update;
  const float first_unit = *moments.first_scale / (kFirstCodes * kFirstCodes);
  const float second_unit =
      *moments.second_scale / (kSecondCodes * kSecondCodes * kSecondCodes * kSecondCodes);
  float first[kMomentValues], second[kMomentValues];
  Vec largest_first{}, largest_second{};
  for_vectors(
      count, QUEST_STEP {
        const Vec root = load(moments.first, i, n), fourth_root = load(moments.second, i, n);
        const Vec square = fourth_root * fourth_root;
        Vec m = root * magnitude(root) * first_unit, v = square * square * second_unit;
        adamw_vector(parameter, m, v, gradient, f, i, n);
        store(first, i, n, m);
        store(second, i, n, v);
        largest_first = max(largest_first, magnitude(m));
        largest_second = max(largest_second, v);
      });
  const float m_scale = *moments.first_scale = horizontal_max(largest_first);
  const float v_scale = *moments.second_scale = horizontal_max(largest_second);
  // Quotients are at most 1 but for rounding, and their roots closer to it.
  const float m_inverse = m_scale > 0 ? 1.0f / m_scale : 0.0f;
  const float v_inverse = v_scale > 0 ? 1.0f / v_scale : 0.0f;
  for_vectors(
      count, QUEST_STEP {
        const Vec m = load(first, i, n), v = load(second, i, n);
        const Vec m_code = square_root(magnitude(m) * m_inverse) * kFirstCodes;
        const Vec v_code = square_root(square_root(v * v_inverse)) * kSecondCodes;
        store(moments.first, i, n, with_sign_of(min(m_code, splat(kFirstCodes)), m));
        const Vec least = v > 0.0f ? splat(1.0f) : Vec{};
        store(moments.second, i, n, min(max(v_code, least), splat(kSecondCodes)));
      });
}

/// The pair (a, b) turned by the angle of c and s.
struct Turned {
  Vec a, b;
};
QUEST_INLINE Turned turn(Vec a, Vec b, Vec c, Vec s) {
  return {fma(a, c, -(b * s)), fma(a, s, b * c)};
}

void rope(Floats x, const float* cos, const float* sin, float sign, bool interleaved,
          std::int64_t half, std::int64_t heads) {
  // All heads turn by the same angles.
  for_vectors(
      half, QUEST_STEP {
        const Vec c = load(cos, i, n), s = sign * load(sin, i, n);
        for (std::int64_t first = 0; first < 2 * half * heads; first += 2 * half) {
          if (!interleaved) {
            const Turned both = turn(load(x, first + i, n), load(x, first + half + i, n), c, s);
            store(x, first + i, n, both.a);
            store(x, first + half + i, n, both.b);
            continue;
          }
#if defined(__AVX512F__)
          if (x.is_bf16 && n == kLanes) {
            const VecPair both = load_pair(x, first + 2 * i);
            const Turned turned = turn(both.even, both.odd, c, s);
            store_pair(x, first + 2 * i, {turned.a, turned.b});
            continue;
          }
#endif
          // Two vectors of pairs: the lanes of n pairs are split between them.
          const int n0 = 2 * n < kLanes ? 2 * n : kLanes;
          const int n1 = 2 * n - n0;
          const Vec x0 = load(x, first + 2 * i, n0);
          const Vec x1 = load(x, first + 2 * i + n0, n1);
          const Turned turned = turn(even_lanes(x0, x1), odd_lanes(x0, x1), c, s);
          store(x, first + 2 * i, n0, interleave_low(turned.a, turned.b));
          store(x, first + 2 * i + n0, n1, interleave_high(turned.a, turned.b));
        }
      });
}

/// 1 / (1 + e^-x), roughly where the results become bf16.
template <bool rough>
QUEST_INLINE Vec sigmoid(Vec x) {
  return rough ? rough_sigmoid(x) : reciprocal(1.0f + exponential(-x));
}

// How far ahead of its use SwiGLU asks for what it reads: the CPU's own prefetching alone takes 8 %
// longer from the third-level cache.
constexpr std::int64_t kBytesAhead = 1024;

template <bool rough>
QUEST_INLINE Vec gated(Vec gate, Vec up) {
  return gate * sigmoid<rough>(gate) * up;
}

template <bool bf16>
void swiglu_of(Floats h, Floats gate, Floats up, std::int64_t count) {
  std::int64_t done = 0;
#if defined(__AVX512F__)
  for (; bf16 && done + 2 * kLanes <= count; done += 2 * kLanes) {
    fetch_ahead(known<bf16>(gate), done, kBytesAhead);
    fetch_ahead(known<bf16>(up), done, kBytesAhead);
    const VecPair g = load_pair(gate, done), u = load_pair(up, done);
    store_pair(h, done, {gated<bf16>(g.even, u.even), gated<bf16>(g.odd, u.odd)});
  }
#endif
  for_vectors(
      count - done, QUEST_STEP {
        const std::int64_t at = done + i;
        fetch_ahead(known<bf16>(gate), at, kBytesAhead);
        fetch_ahead(known<bf16>(up), at, kBytesAhead);
        store(known<bf16>(h), at, n,
              gated<bf16>(load(known<bf16>(gate), at, n), load(known<bf16>(up), at, n)));
      });
}

void swiglu(Floats h, Floats gate, Floats up, std::int64_t count) {
  const bool all_bf16 = h.is_bf16 && gate.is_bf16 && up.is_bf16;
  (all_bf16 ? swiglu_of<true> : swiglu_of<false>)(h, gate, up, count);
}

struct GatedGradient {
  Vec gate, up;
};
template <bool rough>
QUEST_INLINE GatedGradient gated_gradient(Vec d, Vec g, Vec u) {
  const Vec s = sigmoid<rough>(g), d_s = d * s;
  return {d_s * u * fma(g, 1.0f - s, splat(1.0f)), d_s * g};
}

template <bool bf16>
void swiglu_backward_of(Floats d_gate, Floats d_up, Floats d_h, Floats gate, Floats up,
                        std::int64_t count) {
  std::int64_t done = 0;
  const auto fetch = [&](std::int64_t at) __attribute__((always_inline)) {
    fetch_ahead(known<bf16>(gate), at, kBytesAhead);
    fetch_ahead(known<bf16>(up), at, kBytesAhead);
    fetch_ahead(known<bf16>(d_h), at, kBytesAhead);
  };
#if defined(__AVX512F__)
  for (; bf16 && done + 2 * kLanes <= count; done += 2 * kLanes) {
    fetch(done);
    const VecPair g = load_pair(gate, done), u = load_pair(up, done), d = load_pair(d_h, done);
    const GatedGradient even = gated_gradient<bf16>(d.even, g.even, u.even);
    const GatedGradient odd = gated_gradient<bf16>(d.odd, g.odd, u.odd);
    store_pair(d_gate, done, {even.gate, odd.gate});
    store_pair(d_up, done, {even.up, odd.up});
  }
#endif
  for_vectors(
      count - done, QUEST_STEP {
        const std::int64_t at = done + i;
        fetch(at);
        const GatedGradient gradient =
            gated_gradient<bf16>(load(known<bf16>(d_h), at, n), load(known<bf16>(gate), at, n),
                                 load(known<bf16>(up), at, n));
        store(known<bf16>(d_gate), at, n, gradient.gate);
        store(known<bf16>(d_up), at, n, gradient.up);
      });
}

void swiglu_backward(Floats d_gate, Floats d_up, Floats d_h, Floats gate, Floats up,
                     std::int64_t count) {
  const bool all_bf16 = d_gate.is_bf16 && d_up.is_bf16 && d_h.is_bf16 && gate.is_bf16 && up.is_bf16;
  const auto of = all_bf16 ? swiglu_backward_of<true> : swiglu_backward_of<false>;
  of(d_gate, d_up, d_h, gate, up, count);
}

float dot(Floats a, Floats b, std::int64_t count) {
  Vec total{};
  for_vectors(
      count, QUEST_STEP { total = fma(load(a, i, n), load(b, i, n), total); });
  return horizontal_sum(total);
}

/// How far ahead rows of weights are asked for, of the second level: the first has too few requests
/// to read from memory at its speed (docs/log.md).
constexpr std::int64_t kWeightBytesAhead = 2048;

/// sums[i * stride] = x[i] . row, x rows `count` apart.
template <bool bf16, int x_rows>
void dot_row(float* sums, std::int64_t stride, const float* x, Floats row, std::int64_t count) {
  constexpr std::int64_t kStep = 4 * kLanes;
  Vec totals[x_rows][4] = {};
  std::int64_t at = 0;
  for (; at + kStep <= count; at += kStep) {
    for (int k = 0; k < 4; ++k) {
      const std::int64_t here = at + k * kLanes;
      fetch_far(known<bf16>(row), here, kWeightBytesAhead);
      const Vec weights = load(known<bf16>(row), here, kLanes);
      for (int i = 0; i < x_rows; ++i) {
        totals[i][k] = fma(load(x, i * count + here, kLanes), weights, totals[i][k]);
      }
    }
  }
  for_vectors(
      count - at, QUEST_STEP {
        const Vec weights = load(known<bf16>(row), at + i, n);
        for (int r = 0; r < x_rows; ++r) {
          totals[r][0] = fma(load(x, r * count + at + i, n), weights, totals[r][0]);
        }
      });
  for (int i = 0; i < x_rows; ++i) {
    const Vec* const total = totals[i];
    sums[i * stride] = horizontal_sum((total[0] + total[1]) + (total[2] + total[3]));
  }
}

template <bool bf16>
void dot_rows_of(float* sums, std::int64_t sums_stride, const float* x, std::int64_t x_rows,
                 Floats rows, std::int64_t stride, std::int64_t count, std::int64_t columns) {
  constexpr auto kBytes = static_cast<std::int64_t>(bf16 ? 2 : 4);
  const auto dot = x_rows == 1   ? dot_row<bf16, 1>
                   : x_rows == 2 ? dot_row<bf16, 2>
                   : x_rows == 3 ? dot_row<bf16, 3>
                                 : dot_row<bf16, 4>;
  for (std::int64_t j = 0; j < count; ++j) {
    dot(sums + j, sums_stride, x, {static_cast<char*>(rows.data) + j * stride * kBytes, bf16},
        columns);
  }
}

void dot_rows(float* sums, std::int64_t sums_stride, const float* x, std::int64_t x_rows,
              Floats rows, std::int64_t stride, std::int64_t count, std::int64_t columns) {
  const auto dot = rows.is_bf16 ? dot_rows_of<true> : dot_rows_of<false>;
  dot(sums, sums_stride, x, x_rows, rows, stride, count, columns);
}

void attention_gradient(Floats weights, Floats d_scores, const float* x, const float* d_p,
                        float scale, float log_sum, float delta, std::int64_t count) {
  for_vectors(
      count, QUEST_STEP {
        const Vec p = exponential(load(x, i, n) * scale - log_sum);
        const Vec d = scale * p * (load(d_p, i, n) - delta);
        store(weights, i, n, p);
        store(d_scores, i, n, d);
      });
}

}  // namespace
}  // namespace quest

// Stand on the names above.
#include "backend/cpu/rows/float_cache_kernels.inc.h"
#include "backend/cpu/rows/float_norm_kernels.inc.h"
#include "backend/cpu/rows/float_softmax_kernels.inc.h"

namespace quest {
namespace {

constexpr FloatKernels kKernels = {
    .cast = cast,
    .add = add,
    .sum = sum,
    .sum_squares = sum_squares,
    .adamw = adamw,
    .adamw_codes = adamw_codes,
    .inverse_rms = inverse_rms,
    .normalize = normalize,
    .rmsnorm_backward = rmsnorm_backward,
    .rope = rope,
    .swiglu = swiglu,
    .swiglu_backward = swiglu_backward,
    .largest = largest,
    .exponentials = exponentials,
    .scale = scale,
    .softmax_chunk = softmax_chunk,
    .dot = dot,
    .scores = scores,
    .dot_rows = dot_rows,
    .add_weighted = add_weighted,
    .scores_of_codes = scores_of_codes,
    .add_weighted_codes = add_weighted_codes,
    .encode = encode,
    .decode = decode,
    .attention_gradient = attention_gradient,
};

}  // namespace
}  // namespace quest
