// Causal attention on AMX tiles: strips of 32 queries over chunks of keys. The scores of 32 keys
// become weights at once, while they are in the first-level cache; the weights of a chunk then meet
// the values.
//
// Tile unit and vector units take turns, because nothing is gained by mixing them: while the tile
// unit works, the CPU takes multiply-adds on one port instead of two (measured beside 64 cycles of
// tile products: 64 of them take 64 cycles, 128 take 128), and 16 weights take 8.5 operations of
// that port, as long as the two units take one after the other.
#include "backend/cpu/attention/attention_kernels.h"
#include "backend/cpu/attention/attention_tiles.h"

namespace quest {
namespace {

/// Panels of weights that meet the values at once; outputs pass through memory between chunks.
constexpr std::int64_t kChunkPanels = 8;
/// Unit of the weights: small, so that a weight that begins to leave the range of floats upwards
/// shows in one bit.
constexpr float kWeightUnit = 0x1p-64f;

struct Memory {
  std::int64_t groups;    // panels of D
  std::int64_t panels;    // of keys
  std::uint8_t* queries;  // [groups][32][32]
  float* scores[2];       // [32][32], of two panels in turn
  std::uint8_t* weights;  // [panels of a chunk][32][32]
  float* outputs;         // [groups][32][32]
  std::uint8_t* keys;     // [panels][groups][2 tiles]
  std::uint8_t* values;   // [groups][panels][2 tiles]
};

std::int64_t lay_out(Memory& memory, std::uint8_t* data, std::int64_t keys, std::int64_t head_dim) {
  const std::int64_t groups = panels_of(head_dim), panels = panels_of(keys);
  ScratchCutter scratch{data};
  memory.groups = groups;
  memory.panels = panels;
  memory.queries = scratch.take(groups * kPanelBytes);
  for (float*& scores : memory.scores) scores = scratch.take_floats(kSumsBytes / 4);
  memory.weights = scratch.take(kChunkPanels * kPanelBytes);
  memory.outputs = scratch.take_floats(groups * kSumsBytes / 4);
  memory.keys = scratch.take(panels * groups * kPanelBytes);
  memory.values = scratch.take(panels * groups * kPanelBytes);
  return scratch.next - data;
}

std::int64_t forward_bytes(std::int64_t keys, std::int64_t head_dim) {
  Memory memory;
  return lay_out(memory, nullptr, keys, head_dim);
}

/// A strip of queries.
struct Strip {
  alignas(64) float sums[kPanel][kTileRows];  // of weights, to be added up
  alignas(64) float references[kPanel];       // log2 of what the weights are relative to
  std::int64_t head, first, rows;
  std::int64_t keys;  // that the last row sees
};

void compute_scores(TileSums& tiles, std::int64_t panel, const Memory& memory) {
  const std::uint8_t* const key = memory.keys + panel * memory.groups * kPanelBytes;
  tiles.begin(memory.queries, key, memory.scores[panel % 2], false);
  for (std::int64_t g = 1; g < memory.groups; ++g) {
    tiles.add(memory.queries + g * kPanelBytes, key + g * kPanelBytes);
  }
}

/// The weights of a strip and a panel of keys. They are relative to the score of the row's first
/// key: as floating-point numbers they have the same digits relative to any. Only a row whose
/// weights would leave the range of floats takes its largest score instead, and scales what came
/// before.
class Softmax {
 public:
  Softmax(std::int64_t panel, const Memory& memory, float scale, Strip& strip)
      : panel_(panel),
        memory_(memory),
        scores_(memory.scores[panel % 2]),
        scale_(_mm512_set1_ps(scale)),
        strip_(strip) {
    if (panel != 0) return;
    for (std::int64_t row = 0; row < kPanel; ++row) {
      strip.references[row] = scale * scores_[row * kSumsStride];
      _mm512_store_ps(strip.sums[row], _mm512_setzero_ps());
    }
  }

  void run() {
    if (visible(0) >= kPanel) return run_rows<false>();
    run_rows<true>();
  }

 private:
  /// Keys of this panel that a row sees; may be less than 0 or more than 32.
  std::int64_t visible(std::int64_t row) const {
    const std::int64_t hidden = row < strip_.rows ? strip_.rows - 1 - row : 0;
    return strip_.keys - hidden - panel_ * kPanel;
  }
  std::uint8_t* weights(std::int64_t row, std::int64_t panel) const {
    return memory_.weights + panel % kChunkPanels * kPanelBytes + row * kTileBytes;
  }

  template <bool masked>
  void run_rows() {
    const __m512i two_or_more = _mm512_set1_epi32(1 << 30);  // this bit of a float; and of NaN
    for (std::int64_t row = 0; row < kPanel; ++row) {
      __m512 total = weigh_row<masked>(row);
      if (__builtin_expect(_mm512_test_epi32_mask(_mm512_castps_si512(total), two_or_more) != 0,
                           0)) {
        raise_reference(row);
        total = weigh_row<masked>(row);
      }
      float* const sums = strip_.sums[row];
      _mm512_store_ps(sums, _mm512_add_ps(_mm512_load_ps(sums), total));
    }
  }

  template <bool masked>
  __m512 weigh_row(std::int64_t row) const {
    const float* const x = scores_ + row * kSumsStride;
    const __m512 reference = _mm512_set1_ps(strip_.references[row]);
    __m512 low = power_of_two(_mm512_fmsub_ps(_mm512_load_ps(x), scale_, reference), kWeightUnit);
    __m512 high = power_of_two(_mm512_fmsub_ps(_mm512_load_ps(x + kTileRows), scale_, reference),
                               kWeightUnit);
    if constexpr (masked) {
      low = _mm512_maskz_mov_ps(lanes_of(visible(row)), low);
      high = _mm512_maskz_mov_ps(lanes_of(visible(row) - kTileRows), high);
    }
    _mm512_store_si512(weights(row, panel_), interleave_upper(half_up(low), half_up(high)));
    return _mm512_add_ps(low, high);
  }

  void raise_reference(std::int64_t row) {
    const float old = strip_.references[row];
    __m512 most = _mm512_set1_ps(old);
    for (std::int64_t k = 0; k < kPanel; k += kTileRows) {
      const __m512 x = _mm512_load_ps(scores_ + row * kSumsStride + k);
      most = _mm512_mask_max_ps(most, lanes_of(visible(row) - k), _mm512_mul_ps(x, scale_), most);
    }
    strip_.references[row] = _mm512_reduce_max_ps(most);
    const __m512 factor = power_of_two(_mm512_set1_ps(old - strip_.references[row]), 1.0f);
    const auto scale = [&](float* x) {
      _mm512_store_ps(x, _mm512_mul_ps(_mm512_load_ps(x), factor));
    };
    scale(strip_.sums[row]);
    const std::int64_t chunk_begin = panel_ / kChunkPanels * kChunkPanels;
    for (std::int64_t panel = chunk_begin; panel < panel_; ++panel) {
      const __m512i both = _mm512_load_si512(weights(row, panel));
      const __m512 low = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
      const __m512 high = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(-0x10000)));
      _mm512_store_si512(weights(row, panel),
                         interleave_upper(half_up(_mm512_mul_ps(low, factor)),
                                          half_up(_mm512_mul_ps(high, factor))));
    }
    for (std::int64_t i = 0; chunk_begin != 0 && i < memory_.groups; ++i) {
      float* const out = memory_.outputs + (i * kPanel + row) * kSumsStride;
      scale(out);
      scale(out + kTileRows);
    }
  }

  std::int64_t panel_;
  const Memory& memory_;
  const float* scores_;
  __m512 scale_;
  Strip& strip_;
};

/// Sums of the weights of a strip's rows.
void add_up(float* sums, const Strip& strip) {
  for (std::int64_t row = 0; row < kPanel; ++row) {
    sums[row] = _mm512_reduce_add_ps(_mm512_load_ps(strip.sums[row]));
  }
}

void write_log_sums(float* out, const Strip& strip, const float* sums) {
  for (std::int64_t row = 0; row < strip.rows; row += kTileRows) {
    const __m512 sum = _mm512_mul_ps(_mm512_load_ps(sums + row), _mm512_set1_ps(1 / kWeightUnit));
    const __m512 reference = _mm512_load_ps(strip.references + row);
    _mm512_mask_storeu_ps(out + row, lanes_of(strip.rows - row),
                          _mm512_fmadd_ps(reference, _mm512_set1_ps(kLn2), natural_log(sum)));
  }
}

/// Columns [32 panel, 32 (panel + 1)) of the output of a strip.
void write_outputs(const AttentionForward& task, const Strip& strip, const Memory& memory,
                   const float* factors, std::int64_t panel) {
  const std::int64_t head_dim = task.group.head_dim, column = panel * kPanel;
  const __mmask32 lanes = lanes_below(head_dim, column);
  const float* sums = memory.outputs + panel * kPanel * kSumsStride;
  std::uint16_t* out = task.out + strip.first * task.out_stride + strip.head * head_dim + column;
  for (std::int64_t row = 0; row < strip.rows; ++row) {
    _mm512_mask_storeu_epi16(out, lanes, columns_in_order(sums, _mm512_set1_ps(factors[row])));
    out += task.out_stride;
    sums += kSumsStride;
  }
}

/// outputs (= or, after the first chunk, +=) weights times values, of panels [first, end) of keys;
/// calls done(i) once panel i of D lies in memory.
template <typename Done>
void add_outputs(TileSums& tiles, std::int64_t first, std::int64_t end, const Memory& memory,
                 Done done) {
  for (std::int64_t i = 0; i < memory.groups; ++i) {
    const std::uint8_t* value = memory.values + (i * memory.panels + first) * kPanelBytes;
    tiles.begin(memory.weights, value, memory.outputs + i * kPanel * kSumsStride, first != 0);
    if (i > 0) done(i - 1);
    for (std::int64_t p = 1; p < end - first; ++p) {
      tiles.add(memory.weights + p * kPanelBytes, value + p * kPanelBytes);
    }
  }
  tiles.finish();
  done(memory.groups - 1);
}

void pack_keys_and_values(const HeadGroup& group, const Memory& memory) {
  for (std::int64_t panel = 0; panel < memory.panels; ++panel) {
    const std::int64_t key = panel * kPanel, rows = group.keys - key;
    pack_rows_as_columns(memory.keys + panel * memory.groups * kPanelBytes,
                         group.k + key * group.k_stride, group.k_stride, rows, group.head_dim);
    pack_rows_as_group(memory.values + panel * kPanelBytes, memory.panels * kPanelBytes,
                       group.v + key * group.v_stride, group.v_stride, rows, group.head_dim);
  }
}

/// Weights of panels [first, end).
void weigh(TileSums& tiles, std::int64_t first, std::int64_t end, const Memory& memory, float scale,
           Strip& strip) {
  for (std::int64_t panel = first; panel < end; ++panel) {
    compute_scores(tiles, panel, memory);  // which stores those of the panel before
    if (panel > first) Softmax(panel - 1, memory, scale, strip).run();
  }
  tiles.finish();
  Softmax(end - 1, memory, scale, strip).run();
}

void run_strip(const AttentionForward& task, Strip& strip, const Memory& memory) {
  const HeadGroup& group = task.group;
  const float scale = kLog2E / __builtin_sqrtf(static_cast<float>(group.head_dim));
  copy_rows(memory.queries, group.q + strip.first * group.q_stride + strip.head * group.head_dim,
            group.q_stride, strip.rows, group.head_dim);
  TileSums tiles(memory.outputs);
  const std::int64_t panels = panels_of(strip.keys);
  std::int64_t first = 0;
  for (; first + kChunkPanels < panels; first += kChunkPanels) {
    weigh(tiles, first, first + kChunkPanels, memory, scale, strip);
    add_outputs(tiles, first, first + kChunkPanels, memory, [](std::int64_t) {});
  }
  weigh(tiles, first, panels, memory, scale, strip);
  alignas(64) float sums[kPanel], factors[kPanel];
  add_up(sums, strip);
  for (std::int64_t row = 0; row < kPanel; ++row) factors[row] = 1.0f / sums[row];
  if (task.log_sums != nullptr) {
    write_log_sums(task.log_sums + strip.head * group.queries + strip.first, strip, sums);
  }
  add_outputs(tiles, first, panels, memory,
              [&](std::int64_t panel) { write_outputs(task, strip, memory, factors, panel); });
}

void forward(const AttentionForward& task) {
  const HeadGroup& group = task.group;
  Memory memory;
  lay_out(memory, task.scratch, group.keys, group.head_dim);
  pack_keys_and_values(group, memory);
  configure_tiles(kStripRows);
  for_each_strip<Strip>(task, [&](Strip& strip) { run_strip(task, strip, memory); });
  _tile_release();
}

}  // namespace

const AttentionForwardKernel kAttentionForwardAmx = {.bytes = forward_bytes, .run = forward};

}  // namespace quest
