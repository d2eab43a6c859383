// Scratch memory of the gradient of attention on tiles, and the operands packed into it. For files
// compiled for AMX only.
#pragma once

#include "backend/cpu/attention/attention_kernels.h"
#include "backend/cpu/attention/attention_tiles.h"

namespace quest {
namespace {

constexpr std::int64_t kBlockPanels = kBlockKeys / kPanel;
constexpr std::int64_t kSumsFloats = kPanel * kPanel;

/// One head's operands and sums. Counts: panels of positions, groups of D, and a block's panels.
struct Memory {
  std::int64_t groups;
  std::int64_t panels;
  std::uint8_t* key_rows;          // [groups][32][32], of one panel
  std::uint8_t* value_rows;        // as key_rows
  std::uint8_t* keys_transposed;   // [groups][block of keys][32 of D][32 keys]
  std::uint8_t* query_columns;     // [panels][groups][2 tiles]
  std::uint8_t* d_out_columns;     // as query_columns
  std::uint8_t* query_groups;      // [groups][panels][2 tiles]
  std::uint8_t* d_out_groups;      // as query_groups
  float* log_sums;                 // [panels][32], to base 2
  float* deltas;                   // [panels][32] d_out . out
  float* d_queries;                // [panels][groups][32 of D][32 queries]
  float* d_keys;                   // [panels][groups][32][32]
  float* d_values;                 // as d_keys
  std::uint8_t* weights;           // [block of queries][32 keys][32], of one panel of keys
  std::uint8_t* d_scores;          // as weights
  std::uint8_t* d_scores_columns;  // [block of queries][block of keys][2 tiles]
  float* scores[2];                // [32][32], of two pairs of panels in turn
  float* d_weights[2];
};

inline std::int64_t lay_out(Memory& m, std::uint8_t* data, std::int64_t keys,
                            std::int64_t head_dim) {
  m.groups = panels_of(head_dim);
  m.panels = panels_of(keys);
  ScratchCutter scratch{data};
  for (int turn = 0; turn < 2; ++turn) {
    m.scores[turn] = scratch.take_floats(kSumsFloats);
    m.d_weights[turn] = scratch.take_floats(kSumsFloats);
  }
  m.weights = scratch.take(kBlockPanels * kPanelBytes);
  m.d_scores = scratch.take(kBlockPanels * kPanelBytes);
  m.d_scores_columns = scratch.take(kBlockPanels * kBlockPanels * kPanelBytes);
  m.key_rows = scratch.take(m.groups * kPanelBytes);
  m.value_rows = scratch.take(m.groups * kPanelBytes);
  m.keys_transposed = scratch.take(m.groups * kBlockPanels * kPanelBytes);
  const std::int64_t count = m.panels * m.groups;
  std::uint8_t** const operands[] = {&m.query_columns, &m.d_out_columns, &m.query_groups,
                                     &m.d_out_groups};
  for (std::uint8_t** const operand : operands) *operand = scratch.take(count * kPanelBytes);
  float** const sums[] = {&m.d_queries, &m.d_keys, &m.d_values};
  for (float** const sum : sums) *sum = scratch.take_floats(count * kSumsFloats);
  m.log_sums = scratch.take_floats(m.panels * kPanel);
  m.deltas = scratch.take_floats(m.panels * kPanel);
  return scratch.next - data;
}

inline std::int64_t backward_bytes(std::int64_t keys, std::int64_t head_dim) {
  Memory memory;
  return lay_out(memory, nullptr, keys, head_dim);
}

// --- Operands ---

/// A panel of keys and its values.
inline void copy_keys_and_values(const HeadGroup& in, std::int64_t panel, const Memory& m) {
  const std::int64_t first = panel * kPanel, rows = in.keys - first;
  copy_rows(m.key_rows, in.k + first * in.k_stride, in.k_stride, rows, in.head_dim);
  copy_rows(m.value_rows, in.v + first * in.v_stride, in.v_stride, rows, in.head_dim);
}

/// A block of keys from panel `first` on.
inline void transpose_keys(const HeadGroup& in, std::int64_t first, std::int64_t panels,
                           const Memory& m) {
  const TileSource source = source_of(in.k, in.k_stride, in.head_dim, in.keys);
  for (std::int64_t g = 0; g < m.groups; ++g) {
    kBf16TilesAmx.pack_columns(m.keys_transposed + g * kBlockPanels * kPanelBytes, source,
                               {g * kPanel, 1, first, panels});
  }
}

inline void pack_head(const AttentionBackward& task, std::int64_t head, std::int64_t first_panel,
                      const Memory& m) {
  const HeadGroup& in = task.group;
  const std::int64_t column = head * in.head_dim;
  for (std::int64_t panel = first_panel; panel < m.panels; ++panel) {
    const std::int64_t first = panel * kPanel, rows = in.queries - first;
    const std::uint16_t* const q = in.q + first * in.q_stride + column;
    const std::uint16_t* const d_out = task.d_out + first * task.d_out_stride + column;
    const std::uint16_t* const out = task.out + first * task.out_stride + column;
    const std::int64_t at = panel * m.groups * kPanelBytes, group_at = panel * kPanelBytes;
    const std::int64_t group_bytes = m.panels * kPanelBytes;
    pack_rows_as_columns(m.query_columns + at, q, in.q_stride, rows, in.head_dim);
    pack_rows_as_group(m.query_groups + group_at, group_bytes, q, in.q_stride, rows, in.head_dim);
    pack_rows_as_columns(m.d_out_columns + at, d_out, task.d_out_stride, rows, in.head_dim);
    pack_rows_as_group(m.d_out_groups + group_at, group_bytes, d_out, task.d_out_stride, rows,
                       in.head_dim);
    for (std::int64_t r = 0; r < kPanel; ++r) {
      // Of positions that do not exist, d_out and with it all gradients are 0.
      const bool exists = r < rows;
      m.log_sums[first + r] = exists ? kLog2E * task.log_sums[head * in.queries + first + r] : 0.0f;
      m.deltas[first + r] =
          exists ? dot(d_out + r * task.d_out_stride, out + r * task.out_stride, in.head_dim)
                 : 0.0f;
    }
  }
}

}  // namespace
}  // namespace quest
