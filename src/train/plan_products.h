// The products of a training step, for predictions of what their kernels ask for.
#pragma once

#include <cstddef>

#include "train/trainer.h"

namespace quest {

/// Calls visit(rows, outputs, columns, scheme) for each product of a micro-batch's forward pass:
/// `outputs` rows of weights of `columns` values, on `rows` rows of input. Neighbouring parts of
/// one scheme are one product; the head's has a chunk of rows.
template <typename Visitor>
void for_each_product(const TrainerConfig& config, Visitor visit) {
  const std::int64_t all_rows = config.batch_size * config.seq_len;
  const auto visit_layer = [&](const LinearLayout& layout, const LinearScheme& fallback,
                               std::int64_t rows) {
    std::int64_t outputs = 0;
    for (std::size_t i = 0; i < layout.parts.size(); ++i) {
      const LinearScheme scheme = config.scheme.for_layer(layout.parts[i].name, fallback);
      outputs += layout.parts[i].rows;
      const bool last = i + 1 == layout.parts.size() ||
                        !(config.scheme.for_layer(layout.parts[i + 1].name, fallback) == scheme);
      if (!last) continue;
      visit(rows, outputs, layout.columns, scheme);
      outputs = 0;
    }
  };
  for (std::int64_t layer = 0; layer < config.model.layers; ++layer) {
    visit_layer(qkv_layout(config.model, layer), config.scheme.base(), all_rows);
    visit_layer(out_layout(config.model, layer), config.scheme.base(), all_rows);
    visit_layer(gate_up_layout(config.model, layer), config.scheme.base(), all_rows);
    visit_layer(down_layout(config.model, layer), config.scheme.base(), all_rows);
  }
  visit_layer(head_layout(config.model), LinearScheme(), head_chunk_rows(config.model, all_rows));
}

}  // namespace quest
