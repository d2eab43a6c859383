// AttentionKernels: blocked causal attention in bf16, as a table of functions.
//
// Included by the files that are compiled for one instruction set, so nothing but plain types may
// stand here: no standard containers and no inline functions.
#pragma once

#include <cstdint>

namespace quest {

enum class Isa : std::uint8_t;

/// The query heads of one sequence that read one head of keys and values: bf16, strides in
/// elements. Queries are the last of the key positions; query heads lie head_dim apart.
struct HeadGroup {
  const std::uint16_t* q;
  std::int64_t q_stride;
  const std::uint16_t* k;
  std::int64_t k_stride;
  const std::uint16_t* v;
  std::int64_t v_stride;
  std::int64_t heads;
  std::int64_t queries;
  std::int64_t keys;
  std::int64_t head_dim;
};

/// Attention of every `strip_step`-th strip of 32 queries of a group, from `first_strip` on; strips
/// of one head follow those of the head before.
struct AttentionForward {
  HeadGroup group;
  const HeadGroup* next;  ///< what is likely to follow, so that it can be fetched; or null
  std::int64_t first_strip;
  std::int64_t strip_step;
  std::uint16_t* out;  ///< as q
  std::int64_t out_stride;
  float* log_sums;        ///< [heads][queries] or null
  std::uint8_t* scratch;  ///< forward_bytes, aligned to 64
};

/// Gradients of a group, whose queries are all of the key positions. Blocks of keys are dealt out
/// to `parts`, block after block; these are the gradients of every `part_step`-th part from
/// `first_part` on. Sets d_k and d_v of their keys.
struct AttentionBackward {
  HeadGroup group;
  const std::uint16_t* out;  ///< as q
  std::int64_t out_stride;
  const std::uint16_t* d_out;  ///< as q
  std::int64_t d_out_stride;
  const float* log_sums;  ///< [heads][queries]
  std::uint16_t* d_q;     ///< set, unless d_q_sums is not null
  std::int64_t d_q_stride;
  std::uint16_t* d_k;
  std::int64_t d_k_stride;
  std::uint16_t* d_v;
  std::int64_t d_v_stride;
  std::int64_t parts;
  std::int64_t first_part;
  std::int64_t part_step;
  float* d_q_sums;        ///< [parts][heads][queries][head_dim] = parts' shares of d_q; null if one
  std::uint8_t* scratch;  ///< aligned to 64
  const AttentionBackward* next;  ///< as AttentionForward's
};

struct AttentionForwardKernel {
  std::int64_t (*bytes)(std::int64_t keys, std::int64_t head_dim);  ///< of scratch
  void (*run)(const AttentionForward& task);
};
struct AttentionBackwardKernel {
  std::int64_t (*bytes)(std::int64_t keys, std::int64_t head_dim);
  void (*run)(const AttentionBackward& task);
};
struct AttentionKernels {
  AttentionForwardKernel forward;
  AttentionBackwardKernel backward;
};

static constexpr std::int64_t kStripQueries = 32;
static constexpr std::int64_t kBlockKeys = 256;

/// Parts that blocks of keys are dealt out to in backward: where few groups would leave threads
/// idle, so that shares of d_q are added up then. A function of the sizes alone, so that the order
/// of sums does not depend on the number of threads.
std::int64_t attention_backward_parts(std::int64_t groups, std::int64_t keys);

/// Those for `isa`; null where there are none.
const AttentionKernels* attention_kernels(Isa isa);

extern const AttentionForwardKernel kAttentionForwardAmx;
extern const AttentionBackwardKernel kAttentionBackwardAmx;
/// For AVX-512 with AVX512_BF16.
extern const AttentionForwardKernel kAttentionForwardAvx512Bf16;
extern const AttentionBackwardKernel kAttentionBackwardAvx512Bf16;

}  // namespace quest
