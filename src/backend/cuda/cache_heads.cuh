// Heads of keys and values on their way into a cache, by a warp each: how they are read, turned by
// the angles of their position, and kept as floats or as codes.
#pragma once

#include "backend/cuda/device_rows.cuh"

namespace quest::cuda {

/// Pairs of values of a head that a lane has, at most; kernels take as many as heads need.
inline constexpr int kMostPairs = 4;

/// Keys or values that are written: floats, or codes with a scale for each row and head.
struct CacheOut {
  FloatRows floats;
  std::int8_t* codes;  ///< null: floats
  float* scales;
  std::int64_t code_stride, scale_stride;
};

/// The two values of each of a lane's pairs, the first of them number lane + 32 p of their kind.
template <int kPairs>
using HeadPairs = float[kPairs][2];

/// Where the values of a head's pairs lie: neighbours, or half a head apart.
struct PairPlaces {
  int half;  ///< D/2, rounded up: of an odd D the last second value is not there
  int dim;
  bool neighbours;
  __device__ int first(int pair) const { return neighbours ? 2 * pair : pair; }
  __device__ int second(int pair) const { return neighbours ? 2 * pair + 1 : pair + half; }
};

/// body(p, place of the first, place of the second or -1) for a lane's pairs.
template <int kPairs, typename Body>
__device__ void for_each_pair(const PairPlaces& places, Body body) {
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
    const int pair = static_cast<int>(threadIdx.x % kWarp) + p * static_cast<int>(kWarp);
    if (pair >= places.half) continue;
    const int second = places.second(pair);
    body(p, places.first(pair), second < places.dim ? second : -1);
  }
}

/// The pair turned by an angle.
__device__ inline void turn_pair(float& first, float& second, float cos, float sin) {
  const float before = first;
  first = before * cos - second * sin;
  second = before * sin + second * cos;
}

/// Tables of angles, [positions, D/2]; null: heads are not turned.
struct Angles {
  const float *cos, *sin;
};

/// A warp's values of a head, and what turns them.
template <int kPairs>
struct HeadValues {
  HeadPairs<kPairs> pairs;
  float cos[kPairs], sin[kPairs];

  /// From column `begin` of a row on, and the angles of `position` where there are such. Lanes that
  /// have fewer pairs load some twice: without branches, all is asked for before any is there.
  __device__ void load(const FloatRows& x, std::int64_t row, std::int64_t begin,
                       const PairPlaces& places, const Angles& angles = {},
                       std::int64_t position = 0) {
    const auto pair_of = [&](int p) {
      const int pair = static_cast<int>(threadIdx.x % kWarp) + p * static_cast<int>(kWarp);
      return pair < places.half ? pair : 0;
    };
    if (angles.cos != nullptr) {
      const std::int64_t first = position * places.half;
#pragma unroll
      for (int p = 0; p < kPairs; ++p) {
        cos[p] = angles.cos[first + pair_of(p)];
        sin[p] = angles.sin[first + pair_of(p)];
      }
    }
#pragma unroll
    for (int p = 0; p < kPairs; ++p) {
      const int first = places.first(pair_of(p)), second = places.second(pair_of(p));
      pairs[p][0] = x.load(row, begin + first);
      pairs[p][1] = x.load(row, begin + (second < places.dim ? second : first));
    }
  }
  /// Turns them and rounds as a store to x does.
  __device__ void turn(const FloatRows& x) {
#pragma unroll
    for (int p = 0; p < kPairs; ++p) {
      turn_pair(pairs[p][0], pairs[p][1], cos[p], sin[p]);
      pairs[p][0] = x.rounded(pairs[p][0]);
      pairs[p][1] = x.rounded(pairs[p][1]);
    }
  }
};

/// Row `to` and head `head` of the cache = a head's values.
template <int kPairs>
__device__ void keep_head(const CacheOut& out, std::int64_t to, std::int64_t head,
                          const HeadPairs<kPairs>& values, const PairPlaces& places) {
  const std::int64_t begin = head * places.dim;
  if (out.codes == nullptr) {
    for_each_pair<kPairs>(places, [&](int p, int first, int second) {
      out.floats.store(to, begin + first, values[p][0]);
      if (second >= 0) out.floats.store(to, begin + second, values[p][1]);
    });
    return;
  }
  float largest = 0.0f;
  for_each_pair<kPairs>(places, [&](int p, int, int second) {
    largest = Larger()(largest, fabsf(values[p][0]));
    if (second >= 0) largest = Larger()(largest, fabsf(values[p][1]));
  });
  largest = warp_join(largest, Larger());
  const bool finite = largest <= 3.402823466e38f;
  const bool any = finite && largest > 0.0f;
  const auto code = [&](float value) {
    return static_cast<std::int8_t>(rintf((any ? value / largest : 0.0f) * 127.0f));
  };
  std::int8_t* const codes = out.codes + to * out.code_stride + begin;
  for_each_pair<kPairs>(places, [&](int p, int first, int second) {
    codes[first] = code(values[p][0]);
    if (second >= 0) codes[second] = code(values[p][1]);
  });
  if (threadIdx.x % kWarp == 0) {
    out.scales[to * out.scale_stride + head] = finite ? largest / 127.0f : nanf("");
  }
}

}  // namespace quest::cuda
