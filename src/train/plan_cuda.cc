// A model of the CUDA backend's workspace: the most that any kernel of a step asks for, by slot.
#include "train/plan_cuda.h"

#include <algorithm>

#include "core/division.h"
#include "quant/gradient_rounding.h"
#include "train/plan_products.h"

namespace quest {
namespace {

// What cuBLASLt may ask for (LtProducts).
constexpr std::int64_t kLibraryBytes = 32 << 20;
// Blocks that each sum a norm's weight gradient over their rows, at most.
constexpr std::int64_t kNormBlocks = 512;
// Rounded gradients lie in lines of whole chunks.
constexpr std::int64_t kChunkBytes = 16;
// Rows of a gradient whose largest values are found at once.
constexpr std::int64_t kStripRows = 64;

}  // namespace

std::size_t cuda_workspace_bytes(const TrainerConfig& config) {
  const std::int64_t rows = config.batch_size * config.seq_len;
  const auto element = static_cast<std::int64_t>(size_bytes(config.compute));
  const std::int64_t norm_rows = divide_up(rows, kNormBlocks);  // of a block
  const std::int64_t norm_sums = divide_up(rows, norm_rows) * config.model.width * 4;
  // A number a query and head, on tensor cores two.
  const std::int64_t query_lines =
      rows * config.model.heads * (config.compute == DType::kBF16 ? 8 : 4);
  std::int64_t operands = 0, gradients = 0, lines = 0;
  for_each_product(config, [&](std::int64_t count, std::int64_t outputs, std::int64_t columns,
                               const LinearScheme& scheme) {
    if (!scheme.integer_product()) return;
    if (config.backward == GradientProducts::kInt8) {
      const std::int64_t block = std::min(count, kRoundedRows);
      gradients = std::max({gradients, count * round_up(outputs, kChunkBytes),
                            outputs * round_up(block, kChunkBytes)});
      // Codes by rows for warpgroups, as devices of compute capability 9.0 have them.
      if (scheme.weight.bits < 8) {
        operands = std::max(operands, columns * round_up(outputs, kChunkBytes));
      }
      if (scheme.activation.bits < 8) {
        operands = std::max(operands, columns * round_up(block, kChunkBytes));
      }
      // Scales of rows; of columns their inverses, too, and the largest values of strips.
      lines = std::max({lines, 4 * count, 4 * (2 + divide_up(block, kStripRows)) * outputs});
    } else {
      operands = std::max(operands, std::max(count, outputs) * columns * element);
    }
  });
  return static_cast<std::size_t>(std::max(norm_sums, query_lines) + operands + gradients + lines +
                                  kLibraryBytes);
}

}  // namespace quest
