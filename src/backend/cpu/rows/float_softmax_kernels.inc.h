// Float kernels of softmaxes: a part of float_kernels.inc.h, which includes this.

namespace quest {
namespace {

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
        Vec value = exponential_below_88(load(x, i, n) * scale - shift);
        store(out, i, n, value);
        if (n < kLanes) value = keep_first(n, value, 0.0f);
        total += value;
      });
  return horizontal_sum(total);
}

void scale(Floats out, const float* x, float factor, std::int64_t count) {
  for_vectors(
      count, QUEST_STEP { store(out, i, n, load(x, i, n) * factor); });
}

enum class Leaving { kNothing, kLines, kBf16, kFloats };

// What a softmax reads comes from memory while it computes: fetched to the second level, where the
// requests of the first are not used up, so far ahead.
constexpr std::int64_t kSoftmaxAhead = 2 * kSoftmaxChunk;

// The chunk by value: what lies behind a pointer would be read again after each store.
template <bool keep, Leaving leaving>
SoftmaxSums softmax_of(const SoftmaxChunk c) {
  Vec total0{}, total1{};
  Vec most0 = splat(-__builtin_inff()), most1 = most0;
  const auto exponentials_of = [&](std::int64_t i, int n) __attribute__((always_inline)) {
    const Vec value = exponential_below_88<true>(load(c.x, i, n) - c.shift);
    if (keep) store(c.exponentials, i, n, value);
    return value;
  };
  const auto two = [&](std::int64_t i) __attribute__((always_inline)) {
    __builtin_prefetch(c.x + i + kSoftmaxAhead, 0, 2);
    __builtin_prefetch(c.x + i + kLanes + kSoftmaxAhead, 0, 2);
    if (leaving != Leaving::kNothing) {
      const Vec low = load(c.exponentials, i, kLanes) * c.factor;
      const Vec high = load(c.exponentials, i + kLanes, kLanes) * c.factor;
      if constexpr (leaving == Leaving::kFloats) {
        store(static_cast<float*>(c.before.data), i, kLanes, low);
        store(static_cast<float*>(c.before.data), i + kLanes, kLanes, high);
      } else if constexpr (leaving == Leaving::kBf16) {
        store_two(c.before, i, low, high);
      } else {
#if defined(__AVX512F__)
        stream_two(c.before, i, low, high);
#endif
      }
    }
    total0 += exponentials_of(i, kLanes);
    total1 += exponentials_of(i + kLanes, kLanes);
  };
  const std::int64_t pairs = in_pairs(c.count);
  const std::int64_t beside = in_pairs(c.count < c.next_count ? c.count : c.next_count);
  std::int64_t i = 0;
  for (; i < beside; i += 2 * kLanes) {
    most0 = max(load(c.next, i, kLanes), most0);
    most1 = max(load(c.next, i + kLanes, kLanes), most1);
    two(i);
  }
  for (; i < pairs; i += 2 * kLanes) two(i);
  for_vectors(
      c.count - pairs, [&](const std::int64_t j, const int n) __attribute__((always_inline)) {
        if (leaving != Leaving::kNothing) {
          store(c.before, pairs + j, n, load(c.exponentials, pairs + j, n) * c.factor);
        }
        const Vec value = exponentials_of(pairs + j, n);
        total0 += n < kLanes ? keep_first(n, value, 0.0f) : value;
      });
  const float rest = largest(c.next + beside, c.next_count - beside);
  const float most = horizontal_max(max(most0, most1));
  return {horizontal_sum(total0 + total1), most > rest ? most : rest};
}

SoftmaxSums softmax_chunk(const SoftmaxChunk* chunk) {
  const SoftmaxChunk& c = *chunk;
  if (c.exponentials == nullptr) return softmax_of<false, Leaving::kNothing>(c);
  if (c.before.data == nullptr) return softmax_of<true, Leaving::kNothing>(c);
  if (!c.before.is_bf16) return softmax_of<true, Leaving::kFloats>(c);
#if defined(__AVX512F__)
  if (c.past_caches && reinterpret_cast<std::uintptr_t>(c.before.data) % 64 == 0) {
    return softmax_of<true, Leaving::kLines>(c);
  }
#endif
  return softmax_of<true, Leaving::kBf16>(c);
}

}  // namespace
}  // namespace quest
