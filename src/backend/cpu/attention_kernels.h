// AttentionKernels: blocked causal attention on tiles, as a table of functions.
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

struct AttentionKernels {
  std::int64_t (*forward_bytes)(std::int64_t keys, std::int64_t head_dim);
  void (*forward)(const AttentionForward& task);
};

static constexpr std::int64_t kStripQueries = 32;

/// Those for `isa`; null where there are none.
const AttentionKernels* attention_kernels(Isa isa);

extern const AttentionKernels kAttentionAmx;

}  // namespace quest
