// The float kernels, written once for all instruction sets: included by each kernels_float file.
// No guard against a second inclusion, and everything with internal linkage, by intention.
#include "backend/cpu/float_simd.h"

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
                               const AdamWFactors& f, std::int64_t i, int n) {
  const Vec g = load(gradient, i, n) * f.grad_scale;
  m = fma(splat(f.beta1), m, f.one_minus_beta1 * g);
  v = fma(splat(f.beta2), v, f.one_minus_beta2 * g * g);
  const Vec root = square_root(v * f.inverse_correction2) + f.epsilon;
  const Vec update = m * (f.learning_rate * f.inverse_correction1) / root;
  store(parameter, i, n, fma(load(parameter, i, n), splat(f.decay), -update));
}

template <bool bf16>
void adamw_floats(float* parameter, void* first, void* second, const float* gradient,
                  std::int64_t count, const AdamWFactors& f) {
  for_vectors(
      count, QUEST_STEP {
        Vec m = load({first, bf16}, i, n), v = load({second, bf16}, i, n);
        adamw_vector(parameter, m, v, gradient, f, i, n);
        store({first, bf16}, i, n, m);
        store({second, bf16}, i, n, v);
      });
}

void adamw(float* parameter, Floats first, Floats second, const float* gradient, std::int64_t count,
           const AdamWFactors* factors) {
  const AdamWFactors f = *factors;
  if (first.is_bf16)
    return adamw_floats<true>(parameter, first.data, second.data, gradient, count, f);
  adamw_floats<false>(parameter, first.data, second.data, gradient, count, f);
}

void adamw_codes(float* parameter, CodedMoments moments, const float* gradient, std::int64_t count,
                 const AdamWFactors* factors) {
  constexpr float kFirstCodes = 127.0f, kSecondCodes = 255.0f;
  const AdamWFactors f = *factors;
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

float inverse_rms(const float* x, float epsilon, std::int64_t count) {
  Vec squares[4] = {};
  const std::int64_t fours = in_fours(count);
  for (std::int64_t i = 0; i < fours; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      __builtin_prefetch(x + i + k * kLanes + kFetchedAhead, 0, 2);
      const Vec value = load(x, i + k * kLanes, kLanes);
      squares[k] = fma(value, value, squares[k]);
    }
  }
  for_vectors(
      count - fours, QUEST_STEP {
        const Vec value = load(x + fours, i, n);
        squares[0] = fma(value, value, squares[0]);
      });
  const Vec total = (squares[0] + squares[1]) + (squares[2] + squares[3]);
  const float mean = horizontal_sum(total) / static_cast<float>(count);
  return 1.0f / __builtin_sqrtf(mean + epsilon);
}

void normalize(Floats y, const float* x, const float* weight, float rstd, std::int64_t count) {
  const auto value = [&](std::int64_t i, int n) __attribute__((always_inline)) {
    return load(x, i, n) * rstd * load(weight, i, n);
  };
  const std::int64_t pairs = y.is_bf16 ? in_pairs(count) : 0;
  for (std::int64_t i = 0; i < pairs; i += 2 * kLanes) {
    store_two(y, i, value(i, kLanes), value(i + kLanes, kLanes));
  }
  for_vectors(
      count - pairs, QUEST_STEP { store(y, pairs + i, n, value(pairs + i, n)); });
}

void rmsnorm_backward(float* d_x, Floats rounded, float* d_weight, Floats d_y, const float* x,
                      const float* weight, float rstd, std::int64_t count) {
  Vec projections{};
  for_vectors(
      count, QUEST_STEP {
        const Vec normalized = load(x, i, n) * rstd;
        const Vec gradient = load(d_y, i, n) * normalized;
        projections = fma(gradient, load(weight, i, n), projections);
        store(d_weight, i, n, load(d_weight, i, n) + gradient);
      });
  const float projection = horizontal_sum(projections) / static_cast<float>(count);
  const auto added = [&](std::int64_t i, int n) __attribute__((always_inline)) {
    const Vec along = load(x, i, n) * (rstd * projection);
    const Vec gradient = fma(load(d_y, i, n), load(weight, i, n), -along);
    const Vec sum = fma(splat(rstd), gradient, load(d_x, i, n));
    store(d_x, i, n, sum);
    return sum;
  };
  std::int64_t done = 0;
#if defined(__AVX512F__)
  // Rounded as they are made; with fewer registers and no instruction that rounds, that takes
  // longer than a pass of its own.
  const std::int64_t pairs = rounded.data != nullptr && rounded.is_bf16 ? in_pairs(count) : 0;
  for (; done < pairs; done += 2 * kLanes) {
    const Vec low = added(done, kLanes), high = added(done + kLanes, kLanes);
    store_two(rounded, done, low, high);
  }
#endif
  for_vectors(
      count - done, QUEST_STEP { added(done + i, n); });
  if (rounded.data == nullptr) return;
  for_vectors(
      count - done, QUEST_STEP { store(rounded, done + i, n, load(d_x, done + i, n)); });
}

void rope(Floats x, const float* cos, const float* sin, float sign, bool interleaved,
          std::int64_t half, std::int64_t heads) {
  for (std::int64_t head = 0; head < heads; ++head) {
    const std::int64_t first = 2 * half * head;
    for_vectors(
        half, QUEST_STEP {
          const Vec c = load(cos, i, n), s = sign * load(sin, i, n);
          if (!interleaved) {
            const Vec a = load(x, first + i, n), b = load(x, first + half + i, n);
            store(x, first + i, n, a * c - b * s);
            store(x, first + half + i, n, a * s + b * c);
            return;
          }
#if defined(__AVX512F__)
          if (x.is_bf16 && n == kLanes) {
            const VecPair both = load_pair(x, first + 2 * i);
            store_pair(x, first + 2 * i,
                       {both.even * c - both.odd * s, both.even * s + both.odd * c});
            return;
          }
#endif
          // Two vectors of pairs: the lanes of n pairs are split between them.
          const int n0 = 2 * n < kLanes ? 2 * n : kLanes;
          const int n1 = 2 * n - n0;
          const Vec x0 = load(x, first + 2 * i, n0);
          const Vec x1 = load(x, first + 2 * i + n0, n1);
          const Vec a = even_lanes(x0, x1), b = odd_lanes(x0, x1);
          const Vec turned_a = a * c - b * s, turned_b = a * s + b * c;
          store(x, first + 2 * i, n0, interleave_low(turned_a, turned_b));
          store(x, first + 2 * i + n0, n1, interleave_high(turned_a, turned_b));
        });
  }
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

float largest(const float* x, std::int64_t count) {
  // Four in turn, so that none waits for the one before it.
  Vec most[4];
  for (Vec& one : most) one = splat(-__builtin_inff());
  const std::int64_t fours = in_fours(count);
  for (std::int64_t i = 0; i < fours; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      most[k] = max(load(x, i + k * kLanes, kLanes), most[k]);
    }
  }
  for_vectors(
      count - fours, QUEST_STEP {
        Vec value = load(x + fours, i, n);
        if (n < kLanes) value = keep_first(n, value, -__builtin_inff());
        most[0] = max(value, most[0]);
      });
  return horizontal_max(max(max(most[0], most[1]), max(most[2], most[3])));
}

float exponentials(Floats out, const float* x, float scale, float shift, std::int64_t count) {
  Vec total{};
  for_vectors(
      count, QUEST_STEP {
        // A softmax over long rows comes here chunk by chunk.
        __builtin_prefetch(x + i + kSoftmaxChunk);
        Vec value = exponential_below_88(load(x, i, n) * scale - shift);
        if (out.data != nullptr) store(out, i, n, value);
        if (n < kLanes) value = keep_first(n, value, 0.0f);
        total += value;
      });
  return horizontal_sum(total);
}

void scale(Floats out, const float* x, float factor, std::int64_t count) {
  for_vectors(
      count, QUEST_STEP { store(out, i, n, load(x, i, n) * factor); });
}

void scale_past_caches(Floats out, const float* x, float factor, std::int64_t count) {
#if defined(__AVX512F__)
  constexpr std::int64_t kLine = 32;  // bf16 values
  auto* const to = static_cast<std::uint16_t*>(out.data);
  if (!out.is_bf16 || reinterpret_cast<std::uintptr_t>(to) % (2 * kLine) != 0) {
    return scale(out, x, factor, count);
  }
  const std::int64_t whole = count / kLine * kLine;
  for (std::int64_t i = 0; i < whole; i += kLine) {
    const HalfWordVec low = round_to_bf16(load(x, i, kLanes) * factor);
    const HalfWordVec high = round_to_bf16(load(x, i + kLanes, kLanes) * factor);
    const __m512i line = _mm512_inserti64x4(_mm512_castsi256_si512((__m256i)low), (__m256i)high, 1);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), line);
  }
  _mm_sfence();
  scale({to + whole, true}, x + whole, factor, count - whole);
#else
  scale(out, x, factor, count);
#endif
}

float dot(Floats a, Floats b, std::int64_t count) {
  Vec total{};
  for_vectors(
      count, QUEST_STEP { total = fma(load(a, i, n), load(b, i, n), total); });
  return horizontal_sum(total);
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

// Stands on the names above.
#include "backend/cpu/float_cache_kernels.inc.h"

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
    .scale_past_caches = scale_past_caches,
    .dot = dot,
    .scores = scores,
    .add_weighted = add_weighted,
    .scores_of_codes = scores_of_codes,
    .add_weighted_codes = add_weighted_codes,
    .encode = encode,
    .decode = decode,
    .attention_gradient = attention_gradient,
};

}  // namespace
}  // namespace quest
