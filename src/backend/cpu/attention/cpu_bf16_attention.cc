// CpuBackend: attention in bf16 where there are kernels of its own, cut into tasks for threads.
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/rows/float_rows.h"

namespace quest {
namespace {

std::uint16_t* bits(Tensor x, std::int64_t row, std::int64_t column) {
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

// Tasks that a group is cut into, so that there are a few for each thread.
std::int64_t cuts_of(int threads, std::int64_t groups, std::int64_t most) {
  return threads == 1 ? 1 : std::clamp<std::int64_t>(4 * threads / groups, 1, most);
}

}  // namespace

std::int64_t attention_backward_parts(std::int64_t groups, std::int64_t keys) {
  constexpr std::int64_t kEnoughGroups = 16, kMostParts = 4;
  const std::int64_t blocks = (keys + kBlockKeys - 1) / kBlockKeys;
  return groups >= kEnoughGroups ? 1 : std::min(blocks, kMostParts);
}

const AttentionKernels* attention_kernels(Isa isa) {
#if defined(__x86_64__)
  static const AttentionKernels amx{kAttentionForwardAmx, kAttentionBackwardAmx};
  static const AttentionKernels vectors{kAttentionForwardAvx512Bf16, kAttentionBackwardAvx512Bf16};
  if (isa == Isa::kAmx) return &amx;
  if (isa == Isa::kAvx512 && __builtin_cpu_supports("avx512bf16")) return &vectors;
#endif
  static_cast<void>(isa);
  return nullptr;
}

void CpuBackend::attention_in_bf16(const AttentionKernels& kernels, Tensor out, Tensor log_sums,
                                   Tensor q, Tensor k, Tensor v, const AttentionShape& shape) {
  const std::int64_t bytes = kernels.forward.bytes(shape.key_length, shape.head_dim);
  std::byte* const memory =
      workspace_.bytes(Workspace::Slot::kAttention, static_cast<std::size_t>(bytes * threads_));
  // A task packs keys and values for itself, so a group is cut only where there are few.
  const std::int64_t groups = shape.batch * shape.kv_heads;
  const std::int64_t group_heads = shape.heads / shape.kv_heads;
  const std::int64_t strips =
      group_heads * ((shape.query_length + kStripQueries - 1) / kStripQueries);
  const std::int64_t cuts = cuts_of(threads_, groups, strips);
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
    task.out = bits(out, b * shape.query_length, head * shape.head_dim);
    task.out_stride = out.row_stride;
    if (log_sums) {
      task.log_sums = log_sums.as<float>() + (b * shape.heads + head) * shape.query_length;
    }
    task.scratch = reinterpret_cast<std::uint8_t*>(memory + bytes * thread);
    kernels.forward.run(task);
  });
}

void CpuBackend::attention_backward_in_bf16(const AttentionBackwardKernel& kernel,
                                            const AttentionGradients& d, Tensor d_out, Tensor q,
                                            Tensor k, Tensor v, Tensor out, Tensor log_sums,
                                            const AttentionShape& shape) {
  const std::int64_t length = shape.query_length, groups = shape.batch * shape.kv_heads;
  const std::int64_t heads = shape.heads / shape.kv_heads;
  const std::int64_t parts = attention_backward_parts(groups, shape.key_length);
  const std::int64_t bytes = kernel.bytes(shape.key_length, shape.head_dim);
  const std::int64_t sums = heads * length * shape.head_dim;  // of one part of a group
  const std::int64_t sum_bytes = parts > 1 ? 4 * groups * parts * sums : 0;
  std::byte* const memory = workspace_.bytes(
      Workspace::Slot::kAttention, static_cast<std::size_t>(bytes * threads_ + sum_bytes));
  float* const part_sums = reinterpret_cast<float*>(memory + bytes * threads_);
  // A task packs queries for itself, so the parts of a group are spread only where groups are few.
  // The first parts, which have the most to do, come first.
  const std::int64_t cuts = cuts_of(threads_, groups, parts);
  const auto task_of = [&](std::int64_t cut, std::int64_t index) {
    const std::int64_t b = index / shape.kv_heads, kv_head = index % shape.kv_heads;
    const std::int64_t row = b * length, head = kv_head * heads;
    const std::int64_t column = head * shape.head_dim, key_column = kv_head * shape.head_dim;
    AttentionBackward task{};
    task.group = group_of(q, k, v, shape, b, kv_head);
    task.out = bits(out, row, column);
    task.out_stride = out.row_stride;
    task.d_out = bits(d_out, row, column);
    task.d_out_stride = d_out.row_stride;
    task.log_sums = log_sums.as<float>() + (b * shape.heads + head) * length;
    task.d_q = bits(d.q, row, column);
    task.d_q_stride = d.q.row_stride;
    task.d_k = bits(d.k, row, key_column);
    task.d_k_stride = d.k.row_stride;
    task.d_v = bits(d.v, row, key_column);
    task.d_v_stride = d.v.row_stride;
    task.parts = parts;
    task.first_part = cut;
    task.part_step = cuts;
    if (parts > 1) task.d_q_sums = part_sums + index * parts * sums;
    return task;
  };
  share_out(threads_, groups * cuts, [&](std::int64_t item, int thread) {
    const std::int64_t cut = item / groups, index = item % groups;
    AttentionBackward task = task_of(cut, index), next;
    if (index + threads_ < groups) {
      next = task_of(cut, index + threads_);
      task.next = &next;
    }
    task.scratch = reinterpret_cast<std::uint8_t*>(memory + bytes * thread);
    kernel.run(task);
  });
  if (parts == 1) return;
  const std::int64_t dim = shape.head_dim;
  for_each_row(threads_, groups * heads * length, dim, [&](std::int64_t item) {
    const std::int64_t t = item % length, head = item / length % heads;
    const std::int64_t index = item / length / heads;
    float* const total = part_sums + index * parts * sums + (head * length + t) * dim;
    // A part sees the queries from its first block on.
    for (std::int64_t part = 1; part < parts && part * kBlockKeys <= t; ++part) {
      float_kernels_.add(total, total + part * sums, dim);
    }
    const std::int64_t b = index / shape.kv_heads, kv_head = index % shape.kv_heads;
    float_kernels_.cast(row_of(d.q, b * length + t, (kv_head * heads + head) * dim), {total, false},
                        dim);
  });
}

}  // namespace quest
