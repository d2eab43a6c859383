// CpuBackend: attention in bf16 where the instruction set has tiles, cut into tasks for threads.
#include <cmath>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/parallel.h"

namespace quest {
namespace {

const std::uint16_t* bits(Tensor x, std::int64_t row, std::int64_t column) {
  return &x.row<BFloat16>(row)[column].bits;
}

/// The queries of sequence b that read key head `kv_head`.
HeadGroup group_of(Tensor q, Tensor k, Tensor v, const AttentionShape& s, std::int64_t b,
                   std::int64_t kv_head) {
  const std::int64_t heads = s.heads / s.kv_heads;
  const std::int64_t key_row = b * s.key_capacity, key_column = kv_head * s.head_dim;
  return {.q = bits(q, b * s.query_length, kv_head * heads * s.head_dim),
          .q_stride = q.row_stride,
          .k = bits(k, key_row, key_column),
          .k_stride = k.row_stride,
          .v = bits(v, key_row, key_column),
          .v_stride = v.row_stride,
          .heads = heads,
          .queries = s.query_length,
          .keys = s.key_length,
          .head_dim = s.head_dim};
}

}  // namespace

const AttentionKernels* attention_kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAmx) return &kAttentionAmx;
#endif
  static_cast<void>(isa);
  return nullptr;
}

void CpuBackend::attention_on_tiles(const AttentionKernels& kernels, Tensor out, Tensor log_sums,
                                    Tensor q, Tensor k, Tensor v, const AttentionShape& shape) {
  const std::int64_t bytes = kernels.forward_bytes(shape.key_length, shape.head_dim);
  std::byte* const memory =
      workspace_.bytes(Workspace::Slot::kAttention, static_cast<std::size_t>(bytes * threads_));
  // A task packs keys and values for itself, so a group is cut only where there are few.
  const std::int64_t groups = shape.batch * shape.kv_heads;
  const std::int64_t group_heads = shape.heads / shape.kv_heads;
  const std::int64_t strips =
      group_heads * ((shape.query_length + kStripQueries - 1) / kStripQueries);
  const std::int64_t cuts =
      threads_ == 1 ? 1 : std::clamp<std::int64_t>(4 * threads_ / groups, 1, strips);
  const auto group = [&](std::int64_t i) {
    return group_of(q, k, v, shape, i / shape.kv_heads, i % shape.kv_heads);
  };
  share_out(threads_, groups * cuts, [&](std::int64_t item, int thread) {
    const std::int64_t index = item / cuts;
    const std::int64_t b = index / shape.kv_heads, kv_head = index % shape.kv_heads;
    AttentionForward task{};
    task.group = group(index);
    HeadGroup next;
    if (index + threads_ < groups) {
      next = group(index + threads_);
      task.next = &next;
    }
    task.first_strip = item % cuts;
    task.strip_step = cuts;
    const std::int64_t head = kv_head * group_heads;
    task.out = const_cast<std::uint16_t*>(bits(out, b * shape.query_length, head * shape.head_dim));
    task.out_stride = out.row_stride;
    if (log_sums) {
      task.log_sums = log_sums.as<float>() + (b * shape.heads + head) * shape.query_length;
    }
    task.scratch = reinterpret_cast<std::uint8_t*>(memory + bytes * thread);
    kernels.forward(task);
  });
}

}  // namespace quest
