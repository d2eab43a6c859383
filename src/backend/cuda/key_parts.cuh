// Keys of a sequence that are cut into parts for several blocks (flash-decoding): how, what each
// part leaves, and the kernel that joins them, in order.
#pragma once

#include <algorithm>

#include "backend/cuda/attention_order.cuh"
#include "backend/cuda/device_rows.cuh"
#include "backend/cuda/float_instructions.cuh"

namespace quest::cuda {

/// Spans of more queries are left to tiles of queries, where there are such for the cache's type.
inline constexpr std::int64_t kFewQueries = 16;
inline constexpr int kSplitRows = 16;
/// Parts of all queries of a span: what the workspace has to hold.
inline constexpr std::int64_t kMostParts = 128;

inline constexpr unsigned kPartStep = 64;  ///< keys

/// The most parts into which keys are cut for `count` queries, however many keys there are.
inline unsigned part_limit(unsigned count, const HeadShape& shape) {
  if (count > kFewQueries) return 1;
  const auto kv_heads = static_cast<unsigned>(shape.kv_heads);
  const unsigned rows = count * (static_cast<unsigned>(shape.heads) / kv_heads);
  const unsigned blocks = kv_heads * ((rows + kSplitRows - 1) / kSplitRows);
  const unsigned enough = (static_cast<unsigned>(kEnoughBlocks) + blocks - 1) / blocks;
  const unsigned most = static_cast<unsigned>(kMostParts) / count;
  return enough < most ? enough : most;
}

/// part_limit of up to kFewQueries queries, so that kernels need not divide.
struct PartLimits {
  std::uint8_t of_count[kFewQueries + 1] = {};

  PartLimits() = default;
  explicit PartLimits(const HeadShape& shape) {
    for (unsigned count = 1; count <= kFewQueries; ++count) {
      of_count[count] = static_cast<std::uint8_t>(part_limit(count, shape));
    }
  }
  __device__ unsigned at(unsigned count) const { return count > kFewQueries ? 1 : of_count[count]; }
};
static_assert(kMostParts < 256);

/// How the keys of a span are cut. It depends on the span and on heads alone, so that a sequence
/// computes the same bits beside any others.
/// Keys of a sequence are fewer than 2^31: divisions of 64 bits take a device long.
struct KeySplit {
  unsigned parts, keys;  ///< keys of each part but the last, a multiple of 64

  __device__ KeySplit(const SequenceSpan& span, const PartLimits& limits) {
    const unsigned count = span.count > 0 ? static_cast<unsigned>(span.count) : 1;
    const unsigned steps = steps_of(static_cast<unsigned>(span.position) + count);
    const unsigned limit = limits.at(count), most = limit < steps ? limit : steps;
    const unsigned part_steps = (steps + most - 1) / most;
    parts = (steps + part_steps - 1) / part_steps;
    keys = part_steps * kPartStep;
  }
  __host__ __device__ static unsigned steps_of(unsigned keys) {
    return (keys + kPartStep - 1) / kPartStep;
  }
};

/// The most parts into which up to `keys` keys are cut for `count` queries.
inline std::int64_t most_parts(std::int64_t count, std::int64_t keys, const HeadShape& shape) {
  return std::min(part_limit(static_cast<unsigned>(count), shape),
                  KeySplit::steps_of(static_cast<unsigned>(keys)));
}

/// What a part gives of a query and head, beside sums.
struct alignas(8) PartState {
  float base;  ///< sums and denominator are relative to 2^base
  float denominator;
};

/// Where parts leave what they found.
struct PartSums {
  float* sums;        ///< [span, slots, H, D]; a slot is a part of a query
  PartState* states;  ///< [span, slots, H]
  std::int64_t slots;
  PartLimits limits;

  __device__ std::int64_t slot(std::int64_t span, std::int64_t query, std::int64_t parts,
                               std::int64_t part) const {
    return span * slots + query * parts + part;
  }
};

/// Spans by their number of queries.
struct CountRange {
  std::int64_t least, most;
  __host__ __device__ bool has(const SequenceSpan& span) const {
    return span.count >= least && span.count <= most;
  }
};

struct PartJoin {
  FloatRows out;
  PartSums parts;
  Spans spans;
  HeadShape shape;
  CountRange taken;
};

inline constexpr int kJoinThreads = 128;

/// A block has a query and head, of most_rows queries a span.
__global__ void __launch_bounds__(kJoinThreads) join_parts_kernel(PartJoin a, unsigned most_rows) {
  follow_last_kernel();
  const auto heads = static_cast<unsigned>(a.shape.heads);
  const unsigned head = blockIdx.x % heads, query = blockIdx.x / heads % most_rows;
  const unsigned span_index = blockIdx.x / heads / most_rows;
  const SequenceSpan span = a.spans.at(span_index);
  if (query >= span.count || !a.taken.has(span)) return;
  const KeySplit split(span, a.parts.limits);
  if (split.parts == 1) return;
  const std::int64_t first = a.parts.slot(span_index, query, split.parts, 0);
  const PartState* const states = a.parts.states + first * heads + head;
  float base = -HUGE_VALF, denominator = 0.0f;
  for (unsigned part = 0; part < split.parts; ++part) base = fmaxf(base, states[part * heads].base);
  for (std::int64_t d = threadIdx.x; d < a.shape.head_dim; d += kJoinThreads) {
    const float* const sums = a.parts.sums + (first * heads + head) * a.shape.head_dim + d;
    float sum = 0.0f;
    denominator = 0.0f;
    for (unsigned part = 0; part < split.parts; ++part) {
      const PartState state = states[part * heads];
      const float by = state.base == -HUGE_VALF ? 0.0f : fast_exp2(state.base - base);
      denominator = fmaf(by, state.denominator, denominator);
      sum = fmaf(by, sums[part * heads * a.shape.head_dim], sum);
    }
    a.out.store(span.first_row + query, head * a.shape.head_dim + d, sum / denominator);
  }
}

}  // namespace quest::cuda
