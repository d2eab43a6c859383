// Sums in vector registers, named by template arguments.
//
// For files compiled for AVX-512 only.
#pragma once

#include <immintrin.h>

namespace quest {
namespace {

/// 0 .. n-1 as template arguments; the standard's own would bring weak symbols along.
template <typename T, T... indices>
struct Indices {};
#if defined(__clang__)
#define QUEST_INDICES(n) __make_integer_seq<Indices, int, n>
#else
#define QUEST_INDICES(n) Indices<int, __integer_pack(n)...>
#endif

/// `count` accumulators. Members and not an array, which g++ 12 keeps in memory.
template <int count>
struct Accumulators {
  __m512i first = _mm512_setzero_si512();
  Accumulators<count - 1> rest;

  template <int i>
  inline __attribute__((always_inline)) __m512i& at() {
    if constexpr (i == 0) {
      return first;
    } else {
      return rest.template at<i - 1>();
    }
  }
};
template <>
struct Accumulators<0> {};

}  // namespace
}  // namespace quest
