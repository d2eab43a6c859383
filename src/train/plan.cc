// Prediction of a run's memory: the measuring arenas, and a model of the CPU backend's workspace.
#include "train/plan.h"

#include <algorithm>
#include <vector>

#include "backend/cpu/attention/attention_kernels.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/packed/bit_product.h"
#include "backend/cpu/quantized/quant_kernels.h"
#include "backend/cpu/tiles/tile_product.h"
#include "core/division.h"
#include "model/kv_cache.h"
#include "train/plan_cuda.h"
#include "train/plan_products.h"

namespace quest {
namespace {

using std::int64_t;

// Resident size of `quest` beside its arrays: pages of the binary and its libraries, code that
// oneDNN generates, threads, the heap. Measured as 17 to 24 MiB.
constexpr std::size_t kProgramBytes = std::size_t{19} << 20;
// The same before training, when oneDNN is not in use yet.
constexpr std::size_t kStartBytes = std::size_t{14} << 20;
// oneDNN's scratch memory for dense products. Measured as 1 to 2.5 MiB.
constexpr int64_t kDenseScratchBytes = 2 << 20;
// Rows of a pass of sampling (SessionOptions::chunk).
constexpr int64_t kSampleChunk = 256;
// Bytes of one operand of the quantized gradients when its rows can be taken in chunks.
constexpr int64_t kOperandChunkBytes = 32 << 20;
// Columns of d_y that threads share out in such groups.
constexpr int64_t kRoundedColumns = 256;

// What the kernels of one linear layer ask for; each is the most over all layers.
struct ProductScratch {
  int64_t packed_weights = 0;
  int64_t packed_inputs = 0;
  int64_t packed_sums = 0;
  int64_t operand_a = 0;
  int64_t operand_b = 0;
  int64_t rows = 0;
  int64_t sums = 0;
  int64_t tiles = 0;
  int64_t tile_columns = 0;
  int64_t wide = 0;

  void include(const ProductScratch& other) {
    packed_weights = std::max(packed_weights, other.packed_weights);
    packed_inputs = std::max(packed_inputs, other.packed_inputs);
    packed_sums = std::max(packed_sums, other.packed_sums);
    operand_a = std::max(operand_a, other.operand_a);
    operand_b = std::max(operand_b, other.operand_b);
    rows = std::max(rows, other.rows);
    sums = std::max(sums, other.sums);
    tiles = std::max(tiles, other.tiles);
    tile_columns = std::max(tile_columns, other.tile_columns);
    wide = std::max(wide, other.wide);
  }
  void include(const TileShape& shape, int threads) {
    const TileScratch scratch = tile_scratch(shape, threads);
    tiles = std::max(tiles, scratch.blocks);
    tile_columns = std::max(tile_columns, scratch.columns);
  }
  int64_t total() const {
    return packed_weights + packed_inputs + packed_sums + operand_a + operand_b + rows + sums +
           tiles + tile_columns + wide;
  }
};

// Rows of `columns` values that an operand of the quantized gradients holds at once.
int64_t chunk_rows(int64_t rows, int64_t columns, int64_t element) {
  return std::min(rows, std::max<int64_t>(1, kOperandChunkBytes / (columns * element)));
}

// Values of K in a group of a packed operand without tiles: pairs widened to 16 bits, or four
// bytes.
int64_t group_values() { return choose_isa() < Isa::kAvx512 ? 2 : 4; }
int64_t packed_bytes(int64_t values) {
  return round_up(values, group_values()) * (group_values() == 2 ? 2 : 1);
}

// Whether products of bytes run in tiles, and those of `rows` rows in the compute type.
bool has_byte_tiles() { return quant_kernels(choose_isa()).byte_tiles != nullptr; }
bool in_bf16_tiles(DType compute, int64_t rows) {
  return bf16_tiles(choose_isa(), compute, rows) != nullptr;
}
TileShape bf16_shape(int64_t rows, int64_t columns, int64_t summed) {
  return {rows, columns, summed, 2, quant_kernels(choose_isa()).bf16_tiles->in_vectors};
}

// `outputs` rows of weights with `columns` columns on `rows` rows of input.
ProductScratch integer_product(int64_t rows, int64_t outputs, int64_t columns,
                               const LinearScheme& scheme, int threads) {
  const int x_bits = scheme.activation.bits, w_bits = scheme.weight.bits;
  ProductScratch scratch;
  scratch.rows = 2 * threads * round_up(columns + 64, 64) * 4;
  if (bits_pay(choose_isa(), x_bits, w_bits, rows, columns, /*packed=*/false)) {
    const BitProductScratch bits =
        bit_product_scratch(rows, outputs, columns, x_bits, w_bits, threads);
    scratch.packed_inputs = bits.inputs;
    scratch.packed_sums = bits.panels;
    return scratch;
  }
  if (has_byte_tiles()) {
    scratch.include({rows, outputs, columns, 1}, threads);
    return scratch;
  }
  scratch.packed_weights = round_up(outputs, 16) * (packed_bytes(columns) + 8);
  if (group_values() == 2 || columns % group_values() != 0) {
    scratch.packed_inputs = rows * packed_bytes(columns);
  }
  return scratch;
}

// Its gradients as float products.
ProductScratch float_gradients(int64_t rows, int64_t outputs, int64_t columns, DType compute,
                               int threads) {
  const auto element = static_cast<int64_t>(size_bytes(compute));
  ProductScratch scratch;
  if (in_bf16_tiles(compute, rows)) {
    scratch.include(bf16_shape(rows, columns, outputs), threads);
  } else {
    scratch.operand_b = outputs * columns * element;
  }
  if (in_bf16_tiles(compute, outputs)) {
    scratch.include(bf16_shape(outputs, columns, rows), threads);
  } else {
    scratch.operand_b =
        std::max(scratch.operand_b, chunk_rows(rows, columns, element) * columns * element);
  }
  return scratch;
}

// Its gradients as integer products: lines of rounded values, which are the rows of d_y or, a block
// of rows at a time, its columns, each with a scale and a sum; and, without tiles, packed operands.
ProductScratch integer_gradients(int64_t rows, int64_t outputs, int64_t columns, int threads) {
  constexpr int64_t kBlockRows = 64;
  const int64_t block = std::min(rows, kRoundedRows);
  const auto lines = [&](int64_t count, int64_t summed) {
    const int64_t padded = round_up(count, 32);
    return 8 * padded + (has_byte_tiles() ? padded * round_up(summed, 64) : count * summed);
  };
  ProductScratch scratch;
  scratch.operand_a = std::max(lines(rows, outputs), lines(outputs, block));
  scratch.rows = std::max(round_up(outputs, 32), 2 * round_up(columns, 32)) * 4;
  const int64_t parts =
      std::min<int64_t>(threads, round_up(outputs, kRoundedColumns) / kRoundedColumns);
  scratch.sums = threads * kBlockRows * round_up(outputs, kRoundedColumns * parts) / parts;
  if (has_byte_tiles()) {
    scratch.include({rows, columns, outputs, 1}, threads);
    scratch.include({outputs, columns, block, 1}, threads);
    return scratch;
  }
  const int64_t width = group_values() == 2 ? 16 : 32;
  const int64_t longest = std::max(outputs, block);
  scratch.operand_b = round_up(columns, width) * packed_bytes(longest);
  const auto packs = [](int64_t summed) { return group_values() == 2 || summed % 4 != 0; };
  // The last block of rows may be shorter.
  const bool packs_rows = packs(block) || packs(rows % kRoundedRows);
  scratch.packed_inputs = std::max(packs(outputs) ? rows * packed_bytes(outputs) : 0,
                                   packs_rows ? outputs * packed_bytes(block) : 0);
  if (group_values() == 2) scratch.sums = std::max(scratch.sums, threads * width * longest);
  return scratch;
}

// Blocks of bf16 operands and of the output that become f32 where there are no bf16 products, for a
// layer's product and its two gradients.
int64_t widened_blocks(int64_t rows, int64_t outputs, int64_t columns) {
  constexpr int64_t kBlock = 512;
  const auto product = [&](int64_t m, int64_t n, int64_t k) {
    m = std::min(m, kBlock);
    n = std::min(n, kBlock);
    return 4 * (m * k + n * k + m * n);
  };
  return std::max({product(rows, outputs, columns), product(rows, columns, outputs),
                   product(outputs, columns, rows)});
}

ProductScratch product_scratch(const TrainerConfig& config, int threads) {
  ProductScratch most;
  for_each_product(
      config, [&](int64_t rows, int64_t outputs, int64_t columns, const LinearScheme& scheme) {
        const bool float_products =
            !scheme.integer_product() || config.backward == GradientProducts::kFloat;
        if (float_products && config.compute == DType::kBF16 && choose_isa() < Isa::kAvx512) {
          most.wide = std::max(most.wide, widened_blocks(rows, outputs, columns));
        }
        if (scheme.integer_product()) {
          most.include(integer_product(rows, outputs, columns, scheme, threads));
          most.include(config.backward == GradientProducts::kInt8
                           ? integer_gradients(rows, outputs, columns, threads)
                           : float_gradients(rows, outputs, columns, config.compute, threads));
          return;
        }
        if (in_bf16_tiles(config.compute, rows)) {
          most.include({rows, outputs, columns, 2}, threads);
          most.include({rows, columns, outputs, 2}, threads);
        }
        if (in_bf16_tiles(config.compute, outputs)) {
          most.include({outputs, columns, rows, 2}, threads);
        }
      });
  return most;
}

// Attention's scratch of all threads: scores and gradients of a block of queries, and the gradients
// of one head's keys and values; or what its own kernels in bf16 ask for, and their parts' sums.
int64_t attention_scratch(const TrainerConfig& config, int threads) {
  const int64_t keys = config.seq_len;
  const int64_t head = config.model.head_dim;
  const bool bf16 = config.compute == DType::kBF16;
  const AttentionKernels* const own = bf16 ? attention_kernels(choose_isa()) : nullptr;
  if (own == nullptr) {
    constexpr int64_t kBlockRows = 128;
    const int64_t scores = kBlockRows * (round_up(keys, 16) + 16) * (bf16 ? 12 : 8);
    return threads * (scores + (kBlockRows + 2 * keys) * head * 4);
  }
  // Each part has its share of the queries' gradient.
  const int64_t parts = attention_backward_parts(config.batch_size * config.model.kv_heads, keys);
  return threads * own->backward.bytes(keys, head) +
         4 * (parts > 1 ? parts : 0) * config.batch_size * config.model.heads * keys * head;
}

std::size_t workspace_bytes(const TrainerConfig& config, int threads) {
  // Sums of blocks of 32 rows in the norms' gradient.
  const int64_t norm_sums = config.batch_size * config.seq_len / 32 * config.model.width * 4;
  const int64_t rows = config.batch_size * config.seq_len;
  const int64_t fewest_rows = std::min({head_chunk_rows(config.model, rows), config.model.width,
                                        config.model.vocab});  // of any product or its gradients
  const bool without_onednn = in_bf16_tiles(config.compute, fewest_rows);
  return static_cast<std::size_t>(product_scratch(config, threads).total() +
                                  attention_scratch(config, threads) + norm_sums +
                                  (without_onednn ? 0 : kDenseScratchBytes));
}

std::size_t sampling_bytes(const TrainerConfig& config) {
  const int64_t positions = config.model.max_positions;
  Arena measuring;
  const KvCache cache(measuring, config.model, config.compute, 1, positions);
  const PassShape shape{1, std::min(kSampleChunk, positions), false};
  return measuring.used_bytes() +
         Model::measure_activations(config.model, config.scheme, config.compute, shape);
}

}  // namespace

std::size_t RunMemory::total() const {
  const std::size_t training = trainer.total() + workspace + sampling + data + program;
  return std::max(training, start + data + loading);
}

RunMemory predict_run_memory(const TrainerConfig& config, const RunConditions& conditions) {
  RunMemory memory;
  memory.trainer = Trainer::measure(config);
  if (conditions.samples) memory.sampling = sampling_bytes(config);
  if (conditions.device == RunDevice::kCuda) {
    memory.workspace = cuda_workspace_bytes(config);
    return memory;
  }
  if (conditions.device == RunDevice::kCpu) {
    memory.workspace = workspace_bytes(config, conditions.threads);
  }
  memory.data = conditions.data_bytes;
  memory.loading = conditions.loading_bytes;
  memory.program = kProgramBytes;
  memory.start = kStartBytes;
  return memory;
}

}  // namespace quest
