// Causal attention in vectors of bf16: strips of 32 queries over chunks of keys. The scores of four
// queries and a chunk become weights at once, while they are in the first-level cache; the weights
// of the strip then meet the chunk's values. Keys that none of the four queries sees are left out.
#include "backend/cpu/attention/attention_kernels.h"
#include "backend/cpu/attention/attention_pairs.h"
#include "backend/cpu/simd/fetch_to_write.h"

namespace quest {
namespace {

/// Keys whose weights meet the values at once; outputs pass through memory between chunks.
constexpr std::int64_t kChunkKeys = 128;

struct Memory {
  std::int64_t head_dim;
  std::int64_t column_panels;  // of D
  std::int64_t key_panels;
  std::uint8_t* queries;  // [32][D]
  float* scores;          // [4][kChunkKeys]
  std::uint8_t* weights;  // [32][kChunkKeys]
  float* outputs;         // [32][D]
  std::uint8_t* keys;     // [panels of keys][pairs of D][64 keys]
  std::uint8_t* values;   // [panels of D][pairs of keys][64 of D]

  std::int64_t output_stride() const { return column_panels * kColumns; }
  std::int64_t key_panel_bytes() const { return round_up(head_dim, kPanel) / 2 * kPairRowBytes; }
  std::int64_t value_panel_bytes() const { return key_panels * kColumns / 2 * kPairRowBytes; }
};

constexpr std::int64_t kWeightsRowBytes = 2 * kChunkKeys;

std::int64_t lay_out(Memory& m, std::uint8_t* data, std::int64_t keys, std::int64_t head_dim) {
  m.head_dim = head_dim;
  m.column_panels = divide_up(head_dim, kColumns);
  m.key_panels = divide_up(keys, kColumns);
  ScratchCutter scratch{data};
  m.queries = scratch.take(kStripQueries * row_bytes(head_dim));
  m.scores = scratch.take_floats(kRows * kChunkKeys);
  m.weights = scratch.take(kStripQueries * kWeightsRowBytes);
  m.outputs = scratch.take_floats(kStripQueries * m.output_stride());
  m.keys = scratch.take(m.key_panels * m.key_panel_bytes());
  m.values = scratch.take(m.column_panels * m.value_panel_bytes());
  return scratch.next - data;
}

std::int64_t forward_bytes(std::int64_t keys, std::int64_t head_dim) {
  Memory memory;
  return lay_out(memory, nullptr, keys, head_dim);
}

/// A strip of queries.
struct Strip {
  alignas(64) float sums[kStripQueries];        // of weights
  alignas(64) float references[kStripQueries];  // log2 of what the weights are relative to
  std::int64_t head, first, rows;
  std::int64_t keys;  // that the last row sees

  /// Keys from `first_key` on that a row sees; may be less than 0.
  std::int64_t visible(std::int64_t row, std::int64_t first_key) const {
    const std::int64_t hidden = row < rows ? rows - 1 - row : 0;
    return keys - hidden - first_key;
  }
  /// Keys of a chunk that some of four rows see.
  std::int64_t visible_in_chunk(std::int64_t row, std::int64_t first_key) const {
    const std::int64_t last = visible(row + kRows - 1, first_key);
    return last < kChunkKeys ? last : kChunkKeys;
  }
};

/// The lanes of four vectors taken together by `join`: of each the result in every fourth lane.
template <typename Join>
inline __m128 join_lanes(const __m512 (&x)[kRows], Join join) {
  const __m512 ab = join(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
  const __m512 cd = join(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
  const __m512d ab_pairs = _mm512_castps_pd(ab), cd_pairs = _mm512_castps_pd(cd);
  __m512 all = join(_mm512_castpd_ps(_mm512_unpacklo_pd(ab_pairs, cd_pairs)),
                    _mm512_castpd_ps(_mm512_unpackhi_pd(ab_pairs, cd_pairs)));
  all = join(all, _mm512_shuffle_f32x4(all, all, 0x4e));
  all = join(all, _mm512_shuffle_f32x4(all, all, 0xb1));
  return _mm512_castps512_ps128(all);
}

/// Makes the largest scores of four rows, as far as they are larger than before, what the weights
/// are relative to; sums and outputs of earlier chunks follow.
void raise_references(const Memory& m, Strip& strip, std::int64_t row, __m128 largest,
                      bool is_first) {
  const __m128 old = _mm_load_ps(strip.references + row);
  if (is_first) {
    _mm_store_ps(strip.references + row, largest);
    _mm_store_ps(strip.sums + row, _mm_setzero_ps());
    return;
  }
  if (_mm_movemask_ps(_mm_cmpgt_ps(largest, old)) == 0) return;
  const __m128 raised = _mm_max_ps(largest, old);
  const __m512 factors = power_of_two(_mm512_castps128_ps512(_mm_sub_ps(old, raised)), 1.0f);
  _mm_store_ps(strip.references + row, raised);
  _mm_store_ps(strip.sums + row,
               _mm_mul_ps(_mm_load_ps(strip.sums + row), _mm512_castps512_ps128(factors)));
  for (int r = 0; r < kRows; ++r) {
    const __m512 factor = _mm512_permutexvar_ps(_mm512_set1_epi32(r), factors);
    float* const out = m.outputs + (row + r) * m.output_stride();
    for (std::int64_t c = 0; c < m.head_dim; c += kLanes) {
      _mm512_store_ps(out + c, _mm512_mul_ps(_mm512_load_ps(out + c), factor));
    }
  }
}

/// The weights of four rows, whose scores are there, and keys from `first_key` on.
void weigh(const Memory& m, Strip& strip, std::int64_t row, std::int64_t first_key, float scale) {
  const std::int64_t count = strip.visible_in_chunk(row, first_key);
  __m512 most[kRows], totals[kRows];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    const std::int64_t visible = strip.visible(row + r, first_key);
    const float* const x = m.scores + r * kChunkKeys;
    const __m512 none = _mm512_set1_ps(-__builtin_inff());
    most[r] = none;
    std::int64_t k = 0;
    for (; k + kLanes <= visible && k < count; k += kLanes) {
      most[r] = _mm512_max_ps(_mm512_load_ps(x + k), most[r]);
    }
    if (k < count) {
      most[r] = _mm512_mask_max_ps(most[r], lanes_of(visible - k), _mm512_load_ps(x + k), most[r]);
    }
  }
  const auto larger = [](__m512 a, __m512 b) { return _mm512_max_ps(a, b); };
  const __m128 largest = _mm_mul_ps(join_lanes(most, larger), _mm_set1_ps(scale));
  raise_references(m, strip, row, largest, first_key == 0);
  const __m512 factor = _mm512_set1_ps(scale);
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    const std::int64_t visible = strip.visible(row + r, first_key);
    const float* const x = m.scores + r * kChunkKeys;
    std::uint8_t* const to = m.weights + (row + r) * kWeightsRowBytes;
    const __m512 reference = _mm512_set1_ps(strip.references[row + r]);
    const auto weight = [&](std::int64_t k) __attribute__((always_inline)) {
      return power_of_two(_mm512_fmsub_ps(_mm512_load_ps(x + k), factor, reference), 1.0f);
    };
    __m512 total = _mm512_setzero_ps();
    std::int64_t k = 0;
    for (; k + kPanel <= visible && k < count; k += kPanel) {
      const __m512 low = weight(k), high = weight(k + kLanes);
      total = _mm512_add_ps(total, _mm512_add_ps(low, high));
      _mm512_store_si512(to + 2 * k, to_bf16(low, high));
    }
    for (; k < count; k += kPanel) {
      const __m512 low = _mm512_maskz_mov_ps(lanes_of(visible - k), weight(k));
      const __m512 high = _mm512_maskz_mov_ps(lanes_of(visible - k - kLanes), weight(k + kLanes));
      total = _mm512_add_ps(total, _mm512_add_ps(low, high));
      _mm512_store_si512(to + 2 * k, to_bf16(low, high));
    }
    totals[r] = total;
  }
  const auto sum = [](__m512 a, __m512 b) { return _mm512_add_ps(a, b); };
  _mm_store_ps(strip.sums + row,
               _mm_add_ps(_mm_load_ps(strip.sums + row), join_lanes(totals, sum)));
}

/// The weights of a strip and the keys of a chunk.
void weigh_chunk(const Memory& m, Strip& strip, std::int64_t first_key, float scale) {
  const std::int64_t query_bytes = row_bytes(m.head_dim);
  for (std::int64_t row = 0; row < strip.rows; row += kRows) {
    const std::int64_t count = strip.visible_in_chunk(row, first_key);
    if (count <= 0) continue;
    for (std::int64_t k = 0; k < count; k += kColumns) {
      multiply(m.scores + k, kChunkKeys, {m.queries + row * query_bytes, query_bytes, kPairBytes},
               m.keys + (first_key + k) / kColumns * m.key_panel_bytes(), divide_up(m.head_dim, 2),
               vectors_of(count, k / kColumns), false);
    }
    weigh(m, strip, row, first_key, scale);
  }
}

/// outputs (= or, after the first chunk, +=) weights times values.
void add_outputs(const Memory& m, const Strip& strip, std::int64_t first_key) {
  for (std::int64_t panel = 0; panel < m.column_panels; ++panel) {
    const std::uint8_t* const values =
        m.values + panel * m.value_panel_bytes() + first_key / 2 * kPairRowBytes;
    for (std::int64_t row = 0; row < strip.rows; row += kRows) {
      const std::int64_t count = strip.visible_in_chunk(row, first_key);
      if (count <= 0) continue;
      multiply(m.outputs + row * m.output_stride() + panel * kColumns, m.output_stride(),
               {m.weights + row * kWeightsRowBytes, kWeightsRowBytes, kPairBytes}, values,
               divide_up(count, 2), vectors_of(m.head_dim, panel), first_key != 0);
    }
  }
}

void write_strip(const AttentionForward& task, const Strip& strip, const Memory& m) {
  for (std::int64_t row = 0; task.log_sums != nullptr && row < strip.rows; row += kLanes) {
    const __m512 logarithms = natural_log(_mm512_load_ps(strip.sums + row));
    const __m512 reference = _mm512_load_ps(strip.references + row);
    float* const out = task.log_sums + strip.head * task.group.queries + strip.first + row;
    _mm512_mask_storeu_ps(out, lanes_of(strip.rows - row),
                          _mm512_fmadd_ps(reference, _mm512_set1_ps(kLn2), logarithms));
  }
  std::uint16_t* out = task.out + strip.first * task.out_stride + strip.head * m.head_dim;
  for (std::int64_t row = 0; row < strip.rows; ++row, out += task.out_stride) {
    write_row(out, m.outputs + row * m.output_stride(), _mm512_set1_ps(1.0f / strip.sums[row]),
              m.head_dim);
  }
}

/// Asks for the rows that a strip will write.
void fetch_outputs(const AttentionForward& task, const Strip& strip) {
  const std::int64_t head_dim = task.group.head_dim;
  const std::uint16_t* out = task.out + strip.first * task.out_stride + strip.head * head_dim;
  for (std::int64_t row = 0; row < strip.rows; ++row, out += task.out_stride) {
    for (std::int64_t c = 0; c < head_dim; c += kPanel) fetch_to_write(out + c);
  }
}

void run_strip(const AttentionForward& task, Strip& strip, const Memory& m) {
  const HeadGroup& group = task.group;
  const float scale = kLog2E / __builtin_sqrtf(static_cast<float>(group.head_dim));
  const std::uint16_t* const queries =
      group.q + strip.first * group.q_stride + strip.head * group.head_dim;
  copy_rows(m.queries, {queries, group.q_stride, strip.rows, group.head_dim},
            round_up(strip.rows, kRows));
  fetch_outputs(task, strip);
  for (std::int64_t first_key = 0; first_key < strip.keys; first_key += kChunkKeys) {
    weigh_chunk(m, strip, first_key, scale);
    add_outputs(m, strip, first_key);
  }
  write_strip(task, strip, m);
}

void pack_keys_and_values(const HeadGroup& group, const Memory& m) {
  for (std::int64_t panel = 0; panel < m.key_panels; ++panel) {
    const std::int64_t key = panel * kColumns, rows = group.keys - key;
    pack_rows_as_columns(m.keys + panel * m.key_panel_bytes(),
                         {group.k + key * group.k_stride, group.k_stride, rows, group.head_dim});
  }
  pack_rows_as_pairs(m.values, m.value_panel_bytes(),
                     {group.v, group.v_stride, group.keys, group.head_dim},
                     round_up(group.keys, 2));
}

void forward(const AttentionForward& task) {
  const HeadGroup& group = task.group;
  Memory memory;
  lay_out(memory, task.scratch, group.keys, group.head_dim);
  pack_keys_and_values(group, memory);
  for_each_strip<Strip>(task, [&](Strip& strip) { run_strip(task, strip, memory); });
}

}  // namespace

const AttentionForwardKernel kAttentionForwardAvx512Bf16 = {.bytes = forward_bytes, .run = forward};

}  // namespace quest
