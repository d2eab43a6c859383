// What attention and its gradient share, on tiles and in vectors: parts of rows, and 2^x and log x.
//
// For files compiled for AVX-512 and its bf16 products only.
#pragma once

#include "backend/cpu/attention/attention_kernels.h"
#include "backend/cpu/simd/first_lanes.h"

namespace quest {
namespace {

constexpr std::int64_t kPanel = 32;  // columns of a vector of bf16
constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.693147181f;

inline std::int64_t panels_of(std::int64_t count) { return (count + kPanel - 1) / kPanel; }

/// Cuts scratch memory into parts, one after the other; from null it only counts.
struct ScratchCutter {
  std::uint8_t* next;

  std::uint8_t* take(std::int64_t bytes) {
    std::uint8_t* const taken = next;
    next += bytes;
    return taken;
  }
  float* take_floats(std::int64_t count) { return reinterpret_cast<float*>(take(4 * count)); }
};

/// Lanes of columns [first, first + 32) that lie below `columns`.
inline __mmask32 lanes_below(std::int64_t columns, std::int64_t first) {
  const std::int64_t left = columns - first;
  return first_lanes(left < 0 ? 0 : left > kPanel ? kPanel : left);
}

/// The first `count` of 16 lanes; none below 0, all above 16.
inline __mmask16 lanes_of(std::int64_t count) {
  return static_cast<__mmask16>(first_lanes(count < 0 ? 0 : count > 16 ? 16 : count));
}

/// Row r of x, zeros where it or a lane does not exist.
inline __m512i load_row(const std::uint16_t* x, std::int64_t stride, std::int64_t r,
                        std::int64_t rows, __mmask32 lanes) {
  if (r >= rows) return _mm512_setzero_si512();
  return _mm512_maskz_loadu_epi16(lanes, x + r * stride);
}

/// Brings rows [first, first + count) of a head into the second-level cache: they lie a row of all
/// heads apart, which no hardware prefetcher follows.
inline void fetch_rows(const std::uint16_t* x, std::int64_t stride, std::int64_t first,
                       std::int64_t count, std::int64_t columns) {
  for (std::int64_t r = first; r < first + count; ++r) {
    for (std::int64_t c = 0; c < columns; c += kPanel) {
      _mm_prefetch(x + r * stride + c, _MM_HINT_T1);
    }
  }
}

/// Strip `strip`'s share of what comes next.
inline void fetch_next(const HeadGroup& next, std::int64_t strip, std::int64_t strips) {
  const auto fetch = [&](const std::uint16_t* x, std::int64_t stride, std::int64_t rows,
                         std::int64_t columns) {
    const std::int64_t first = rows * strip / strips;
    fetch_rows(x, stride, first, rows * (strip + 1) / strips - first, columns);
  };
  fetch(next.k, next.k_stride, next.keys, next.head_dim);
  fetch(next.v, next.v_stride, next.keys, next.head_dim);
  fetch(next.q, next.q_stride, next.queries, next.heads * next.head_dim);
}

/// Calls run(strip) for the task's strips of queries, each with its place set: head, first query,
/// rows, and the keys that its last query sees; fetches its share of what comes next before.
template <typename Strip, typename Run>
inline void for_each_strip(const AttentionForward& task, const Run& run) {
  const HeadGroup& group = task.group;
  const std::int64_t strips = (group.queries + kStripQueries - 1) / kStripQueries;
  for (std::int64_t i = task.first_strip; i < group.heads * strips; i += task.strip_step) {
    Strip strip;
    strip.head = i / strips;
    strip.first = i % strips * kStripQueries;
    const std::int64_t left = group.queries - strip.first;
    strip.rows = left < kStripQueries ? left : kStripQueries;
    strip.keys = group.keys - left + strip.rows;
    if (task.next != nullptr) fetch_next(*task.next, i, group.heads * strips);
    run(strip);
  }
}

/// d_out . out of a row.
inline float dot(const std::uint16_t* a, const std::uint16_t* b, std::int64_t count) {
  __m512 sum = _mm512_setzero_ps();
  for (std::int64_t c = 0; c < count; c += kPanel) {
    const __mmask32 lanes = lanes_below(count, c);
    sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_maskz_loadu_epi16(lanes, a + c),
                           (__m512bh)_mm512_maskz_loadu_epi16(lanes, b + c));
  }
  return _mm512_reduce_add_ps(sum);
}

/// 2^x `scale` to 3e-6 of itself, exactly at 0; 0 far below, infinity far above; NaN stays NaN.
/// `scale` is a power of two.
inline __m512 power_of_two(__m512 x, float scale) {
  const __m512 f = _mm512_reduce_ps(x, 0x09);  // x - floor(x)
  __m512 p = _mm512_set1_ps(scale * 0.01342668583690268f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(scale * 0.05224247170833203f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(scale * 0.24128020592890156f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(scale * 0.6930448447540519f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(scale));
  return _mm512_scalef_ps(p, x);  // takes floor(x)
}

/// log(x) to 1e-7, for normal x > 0; NaN stays NaN.
inline __m512 natural_log(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 m = _mm512_getmant_ps(x, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_src);
  const __m512 exponent = _mm512_getexp_ps(_mm512_div_ps(x, m));
  // log m = 2 artanh s
  const __m512 s = _mm512_div_ps(_mm512_sub_ps(m, one), _mm512_add_ps(m, one));
  const __m512 square = _mm512_mul_ps(s, s);
  __m512 series = _mm512_set1_ps(2.0f / 9);
  series = _mm512_fmadd_ps(series, square, _mm512_set1_ps(2.0f / 7));
  series = _mm512_fmadd_ps(series, square, _mm512_set1_ps(2.0f / 5));
  series = _mm512_fmadd_ps(series, square, _mm512_set1_ps(2.0f / 3));
  series = _mm512_fmadd_ps(series, square, _mm512_set1_ps(2.0f));
  return _mm512_fmadd_ps(exponent, _mm512_set1_ps(kLn2), _mm512_mul_ps(series, s));
}

}  // namespace
}  // namespace quest
