// Model files: config.json in Hugging Face's keys, and weights by name.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "core/safetensors.h"
#include "model/model.h"

namespace quest {

/// Where a parameter lies in a file: a tensor, and the first of its rows.
struct WeightSource {
  std::string name;
  std::int64_t first_row = 0;
};

/// The name that the reference's checkpoints use for one of our parameters: q, k and v are rows of
/// one stacked `attn.c_attn`.
WeightSource reference_source(const std::string& parameter_name, const ModelConfig& config);

/// Bits of the matrices of a packed file that no scheme quantizes: 32 (f32), 16 (bf16), 8 or 4.
struct StoredBits {
  int embedding = 16;
  int head = 16;

  bool operator==(const StoredBits&) const = default;
};

/// What config.json says.
struct ModelDescription {
  ModelConfig config;
  Scheme scheme;
  std::optional<StoredBits> packed = {};  ///< the weights are packed codes (docs/format.md)
  bool written_by_quest = false;  ///< it has our quantization_config; set by parse_config_json
};

/// The key under which our safetensors files carry config.json's text in their metadata.
inline constexpr const char* kConfigKey = "quest.config";

/// The text of config.json: Hugging Face's Llama keys, and `quantization_config` with
/// `quant_method: "quest"`.
std::string to_config_json(const ModelDescription& description);
/// Throws Error that names `where` and the key that is missing or wrong.
ModelDescription parse_config_json(const std::string& text, const std::string& where);

/// Writes the weights as one safetensors file, atomically, with config.json's text in its metadata.
void save_weights(const Model& model, const std::filesystem::path& path);

/// Throws Error when `file` was saved by save_weights from a model that is not described so. Files
/// of other programs agree with everything.
void check_saved_config(const ModelDescription& description, const SafetensorsFile& file);

/// Sets all weights from a file whose names are Hugging Face's Llama names or those of the
/// reference goldens (`transformer.h.0.attn.c_attn.weight` with q, k and v stacked, ...; an `init.`
/// prefix is accepted). f32 and bf16 are read. Throws Error when a tensor is missing, has another
/// shape, or is not finite. The caller decides about the checksum (SafetensorsFile::verify).
void load_weights(Model& model, const SafetensorsFile& file);

}  // namespace quest
