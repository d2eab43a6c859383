// Export: quantize as training does, pack, write.
#include "infer/export.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/file.h"
#include "core/new_folder.h"
#include "infer/chat_template.h"
#include "infer/model_folder.h"
#include "model/packed_model.h"
#include "quant/packing.h"

namespace quest {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// Rows that are quantized at a time.
constexpr std::int64_t kChunkRows = 512;

// A tensor of the file to be, and what fills it once its memory is there.
struct PlannedTensor {
  TensorEntry entry;
  std::function<void(Tensor)> fill;
};

// The tensors of a file, none of which is in memory before it is written.
class TensorPlan {
 public:
  void add(const std::string& name, const Shape& shape, DType dtype,
           std::function<void(Tensor)> fill) {
    tensors_.push_back({{name, dtype, shape}, std::move(fill)});
  }

  /// Writes wider types first, so that each tensor starts at a multiple of its elements' size.
  void write(const fs::path& path, const std::map<std::string, std::string>& metadata) {
    std::stable_sort(tensors_.begin(), tensors_.end(), [](const auto& a, const auto& b) {
      return size_bytes(a.entry.dtype) > size_bytes(b.entry.dtype);
    });
    std::vector<TensorEntry> entries;
    for (const PlannedTensor& tensor : tensors_) entries.push_back(tensor.entry);
    SafetensorsWriter writer(path, entries, metadata);
    for (const auto& [entry, fill] : tensors_) {
      std::vector<std::byte> memory(static_cast<std::size_t>(entry.shape.numel()) *
                                    size_bytes(entry.dtype));
      const Tensor tensor(memory.data(), entry.shape, entry.dtype);
      fill(tensor);
      writer.write(tensor);
    }
    writer.commit();
  }

 private:
  std::vector<PlannedTensor> tensors_;
};

// The weights of a model by name, a chunk of rows at a time on the host.
class Weights {
 public:
  explicit Weights(const Model& model)
      : backend_(model.backend()),
        memory_(backend_, chunk_bytes(model)),
        host_(static_cast<std::size_t>(kChunkRows * widest(model))) {
    model.llama().for_each_parameter(
        [&](const Parameter& parameter) { values_.emplace(parameter.name, parameter.value); });
  }

  /// Calls body(first row, rows f32 [count, K] on the host).
  void for_each_chunk(const std::string& name,
                      const std::function<void(std::int64_t, Tensor)>& body) {
    const Tensor value = matrix(name);
    for (std::int64_t begin = 0; begin < value.rows(); begin += kChunkRows) {
      const std::int64_t end = std::min(begin + kChunkRows, value.rows());
      body(begin, on_host(value.rows_slice(begin, end), name));
    }
  }

  /// As above, of the values that training computes with: quantized, and rotated back.
  void for_each_dequantized_chunk(const std::string& name, const RowQuantizer& quantizer,
                                  const std::function<void(std::int64_t, Tensor)>& body) {
    for_each_quantized_chunk(name, quantizer, [&](std::int64_t begin, const QuantizedRows& rows) {
      const Tensor dense = memory_.take(rows.codes.shape, DType::kF32);
      backend_.dequantize_rows(dense, rows, quantizer.block);
      body(begin, on_host(dense, name));
    });
  }

  /// steps f32 [N] = those of all rows. The codes, which lie elsewhere in the file, are computed
  /// when their turn comes: to quantize twice is cheaper than to keep a model.
  void quantize_steps(const std::string& name, const RowQuantizer& quantizer, Tensor steps) {
    for_each_quantized_chunk(name, quantizer, [&](std::int64_t begin, const QuantizedRows& rows) {
      const std::int64_t end = begin + rows.steps.numel();
      backend_.copy(steps.rows_slice(begin, end), rows.steps);
      backend_.synchronize();
      for (std::int64_t r = begin; r < end; ++r) {
        if (!std::isfinite(steps.as<float>()[r])) fail_not_finite(name, r);
      }
    });
  }

  /// codes u8 [N, bytes] = those of all rows, packed.
  void pack(const std::string& name, const RowQuantizer& quantizer, Tensor codes) {
    const std::int64_t columns = matrix(name).cols();
    std::vector<std::int8_t> host(static_cast<std::size_t>(kChunkRows * columns));
    for_each_quantized_chunk(name, quantizer, [&](std::int64_t begin, const QuantizedRows& rows) {
      backend_.copy(view_of(host.data(), rows.codes.shape), rows.codes);
      backend_.synchronize();
      for (std::int64_t r = 0; r < rows.codes.rows(); ++r) {
        pack_codes(codes.row<std::uint8_t>(begin + r), host.data() + r * columns, columns,
                   quantizer.grid.bits);
      }
    });
  }

 private:
  static std::int64_t widest(const Model& model) {
    return std::max({model.config().width, model.config().query_width(), model.config().hidden});
  }
  // Codes, steps, sums and dequantized values of a chunk.
  static std::size_t chunk_bytes(const Model& model) {
    return static_cast<std::size_t>(kChunkRows * (5 * widest(model) + 8)) + 4 * 64;
  }

  Tensor matrix(const std::string& name) const {
    const Tensor value = values_.at(name);
    return value.shape.rank() == 1 ? value.reshaped({1, value.numel()}) : value;
  }

  /// Calls body(first row, quantized rows) for chunks of rows; memory_ has room for their values.
  void for_each_quantized_chunk(
      const std::string& name, const RowQuantizer& quantizer,
      const std::function<void(std::int64_t, const QuantizedRows&)>& body) {
    const Tensor value = matrix(name);
    for (std::int64_t begin = 0; begin < value.rows(); begin += kChunkRows) {
      const std::int64_t end = std::min(begin + kChunkRows, value.rows());
      memory_.rewind(0);
      const QuantizedRows rows = take_quantized_rows(memory_, end - begin, value.cols(), false);
      backend_.quantize_rows(rows, value.rows_slice(begin, end), quantizer);
      body(begin, rows);
    }
  }

  Tensor on_host(Tensor value, const std::string& name) {
    const Tensor copy = view_of(host_.data(), value.shape);
    backend_.copy(copy, value);
    backend_.synchronize();
    for (std::int64_t i = 0; i < copy.numel(); ++i) {
      if (!std::isfinite(host_[static_cast<std::size_t>(i)]))
        fail_not_finite(name, i / copy.cols());
    }
    return copy;
  }

  [[noreturn]] static void fail_not_finite(const std::string& name, std::int64_t row) {
    throw NonFiniteError(fmt::format(
        "'{}' has a value that is NaN or infinite near row {}; nothing was exported", name, row));
  }

  Backend& backend_;
  Arena memory_;
  std::vector<float> host_;
  std::map<std::string, Tensor> values_;
};

void store_rows(Tensor to, Tensor rows, const std::function<std::int64_t(std::int64_t)>& row_of) {
  for (std::int64_t r = 0; r < rows.rows(); ++r) {
    const std::int64_t at = row_of(r);
    for (std::int64_t c = 0; c < rows.cols(); ++c) {
      const float value = rows.row<float>(r)[c];
      if (to.dtype == DType::kF32) {
        to.row<float>(at)[c] = value;
      } else {
        to.row<BFloat16>(at)[c] = to_bfloat16(value);
      }
    }
  }
}

void add_dense(TensorPlan& plan, Weights& weights, const std::string& name,
               const std::string& source, const Shape& shape, DType dtype) {
  plan.add(name, shape, dtype, [&weights, source](Tensor to) {
    const Tensor rows = to.shape.rank() == 1 ? to.reshaped({1, to.numel()}) : to;
    weights.for_each_chunk(source, [&](std::int64_t begin, Tensor chunk) {
      store_rows(rows, chunk, [begin](std::int64_t r) { return begin + r; });
    });
  });
}

// The name under which the model holds a matrix of the file: a tied head is the table.
std::string source_name(const StoredMatrix& matrix, const ModelConfig& config) {
  const bool tied = config.tied_head && matrix.name == "lm_head";
  return tied ? "model.embed_tokens.weight" : matrix.weight_name();
}

std::vector<std::string> norm_names(const ModelConfig& config) {
  std::vector<std::string> names;
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    names.push_back(fmt::format("model.layers.{}.input_layernorm.weight", layer));
    names.push_back(fmt::format("model.layers.{}.post_attention_layernorm.weight", layer));
  }
  names.push_back("model.norm.weight");
  return names;
}

// Every matrix of the file: the linear layers, the head, and the table where it is not the head.
std::vector<StoredMatrix> all_matrices(const ModelDescription& description) {
  std::vector<StoredMatrix> matrices = stored_matrices(description);
  const StoredMatrix table = stored_embedding(description);
  if (matrices.back().name != table.name) matrices.push_back(table);
  return matrices;
}

RowQuantizer quantizer_of(const StoredMatrix& matrix) {
  return RowQuantizer::make({.bits = matrix.bits}, matrix.scheme.transform, matrix.columns);
}

TensorPlan packed_tensors(Weights& weights, const ModelDescription& description) {
  const ModelConfig& c = description.config;
  TensorPlan plan;
  for (const std::string& name : norm_names(c)) {
    add_dense(plan, weights, name, name, {c.width}, DType::kF32);
  }
  for (const StoredMatrix& matrix : all_matrices(description)) {
    const std::string source = source_name(matrix, c);
    if (matrix.bits > kMaxBits) {
      add_dense(plan, weights, matrix.weight_name(), source, {matrix.rows, matrix.columns},
                matrix.bits == 16 ? DType::kBF16 : DType::kF32);
      continue;
    }
    const RowQuantizer quantizer = quantizer_of(matrix);
    plan.add(matrix.name + ".codes", {matrix.rows, packed_row_bytes(matrix.columns, matrix.bits)},
             DType::kU8, [&weights, source, quantizer](Tensor codes) {
               weights.pack(source, quantizer, codes);
             });
    plan.add(matrix.name + ".scales", {matrix.rows}, DType::kF32,
             [&weights, source, quantizer](Tensor steps) {
               weights.quantize_steps(source, quantizer, steps);
             });
  }
  return plan;
}

// Row r of a query or key matrix with pairs (2i, 2i+1) goes where pairs are (i, i + D/2).
std::int64_t half_layout_row(std::int64_t row, std::int64_t head_dim) {
  const std::int64_t in_head = row % head_dim;
  return row - in_head + in_head / 2 + in_head % 2 * (head_dim / 2);
}

TensorPlan dense_tensors(Weights& weights, const ModelDescription& description) {
  const ModelConfig& c = description.config;
  TensorPlan plan;
  for (const std::string& name : norm_names(c)) {
    add_dense(plan, weights, name, name, {c.width}, DType::kBF16);
  }
  for (const StoredMatrix& matrix : all_matrices(description)) {
    const auto fill = [&weights, matrix, &c](Tensor to) {
      const bool turned = c.rope_layout == RopeLayout::kInterleaved &&
                          (matrix.name.ends_with("q_proj") || matrix.name.ends_with("k_proj"));
      const auto store = [&](std::int64_t begin, Tensor chunk) {
        store_rows(to, chunk, [&](std::int64_t r) {
          return turned ? half_layout_row(begin + r, c.head_dim) : begin + r;
        });
      };
      const std::string source = source_name(matrix, c);
      if (matrix.bits > kMaxBits) {
        weights.for_each_chunk(source, store);
      } else {
        weights.for_each_dequantized_chunk(source, quantizer_of(matrix), store);
      }
    };
    plan.add(matrix.weight_name(), {matrix.rows, matrix.columns}, DType::kBF16, fill);
  }
  return plan;
}

std::string generation_config(const Tokenizer& tokenizer, const ModelConfig& config) {
  Json json;
  json["bos_token_id"] = tokenizer.end_of_text_id();
  json["eos_token_id"] = tokenizer.end_of_text_id();
  json["do_sample"] = true;
  json["temperature"] = 0.8;
  json["top_p"] = 0.95;
  json["max_length"] = config.max_positions;
  return json.dump(2) + "\n";
}

std::string model_card(const ModelDescription& description, std::uintmax_t file_bytes) {
  const ModelConfig& c = description.config;
  const std::string size = fmt::format("{:.1f} MB", static_cast<double>(file_bytes) / 1e6);
  std::string text = fmt::format(
      "---\nlibrary_name: {}\npipeline_tag: text-generation\ntags:\n- quest\n- llama\n---\n\n"
      "# A Llama of {:.1f} million parameters, trained at {}\n\n"
      "| | |\n|---|---|\n| layers | {} |\n| width | {} |\n| heads | {} ({} for keys and values) |\n"
      "| vocabulary | {} |\n| context | {} tokens |\n| trained bits | {} |\n| weights file | {} "
      "|\n",
      description.packed ? "quest" : "transformers", static_cast<double>(c.parameters()) / 1e6,
      description.scheme.to_string(), c.layers, c.width, c.heads, c.kv_heads, c.vocab,
      c.max_positions, description.scheme.to_string(), size);
  if (description.packed) {
    text += fmt::format(
        "| embedding, head | {} and {} bits |\n\n"
        "The weights are stored in the bits in which they were trained (QuEST, arXiv 2502.05003), "
        "and run in them:\n\n"
        "```\nquest generate --model THIS_FOLDER --prompt 'Once upon a time'\n```\n\n"
        "The layout of `model.safetensors` is described in docs/format.md of quest.cpp.\n",
        description.packed->embedding, description.packed->head);
  } else {
    text +=
        "\nThe weights are the values that training computed with, as plain BF16. Training also "
        "quantized the inputs of linear layers if the bits above say so; programs that load this "
        "folder do not, so their losses differ from those of training.\n";
  }
  return text;
}

void write_folder(const fs::path& folder, const ExportTexts& texts,
                  const ModelDescription& description, const std::string& config_json,
                  TensorPlan tensors) {
  const Tokenizer& tokenizer = texts.tokenizer;
  NewFolder target(folder);
  std::map<std::string, std::string> metadata{{"format", "pt"}};
  if (description.packed) {
    metadata.emplace(kConfigKey, config_json);
    metadata.emplace(kTokenizerKey, tokenizer.fingerprint());
  }
  const fs::path weights = target.path() / "model.safetensors";
  tensors.write(weights, metadata);
  write_file(target.path() / "config.json", config_json);
  write_file(target.path() / "generation_config.json",
             generation_config(tokenizer, description.config));
  write_file(target.path() / "README.md", model_card(description, fs::file_size(weights)));
  tokenizer.save(target.path());
  if (texts.chat_template) write_chat_template(target.path(), *texts.chat_template);
  target.commit();
}

}  // namespace

void export_packed(const Model& model, const ExportTexts& texts, const StoredBits& bits,
                   const fs::path& folder) {
  const ModelDescription description{model.config(), model.scheme(), bits};
  Weights weights(model);
  write_folder(folder, texts, description, to_config_json(description),
               packed_tensors(weights, description));
}

void export_hugging_face(const Model& model, const ExportTexts& texts, const fs::path& folder) {
  ModelDescription description{model.config(), model.scheme(), StoredBits{16, 16}};
  Weights weights(model);
  TensorPlan tensors = dense_tensors(weights, description);
  description.packed.reset();
  Json config = Json::parse(to_config_json(description));
  config.erase("quantization_config");
  config.erase("rope_layout");
  config["torch_dtype"] = "bfloat16";
  config["bos_token_id"] = texts.tokenizer.end_of_text_id();
  config["eos_token_id"] = texts.tokenizer.end_of_text_id();
  // A head with a scheme of its own differs from the table that it is tied to.
  const bool own_head = model.scheme().for_layer("head", LinearScheme()).quantized();
  if (own_head) config["tie_word_embeddings"] = false;
  write_folder(folder, texts, description, config.dump(2) + "\n", tensors);
}

}  // namespace quest
