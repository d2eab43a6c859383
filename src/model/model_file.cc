// config.json and weights of a model folder.
#include "model/model_file.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <type_traits>
#include <vector>

#include "core/error.h"

namespace quest {
namespace {

using Json = nlohmann::ordered_json;

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t position = text.find(from);
  if (position != std::string::npos) text.replace(position, from.size(), to);
  return text;
}

// The rows of `file` that hold `parameter`, under any of the accepted names.
Tensor find_rows(const SafetensorsFile& file, const Parameter& parameter,
                 const ModelConfig& config) {
  const WeightSource reference = reference_source(parameter.name, config);
  for (const WeightSource& source : {WeightSource{parameter.name}, reference,
                                     WeightSource{"init." + reference.name, reference.first_row}}) {
    if (!file.contains(source.name)) continue;
    const Tensor& found = file.tensor(source.name);
    const Shape& wanted = parameter.value.shape;
    const std::string shapes = fmt::format(
        "{}: tensor '{}' has shape {}, but the model's {} needs {}", file.path().string(),
        source.name, found.shape.to_string(), parameter.name, wanted.to_string());
    if (found.shape.rank() != wanted.rank() || found.cols() != wanted[wanted.rank() - 1]) {
      throw Error(shapes);
    }
    const bool stacked = source.name.find("c_attn") != std::string::npos;
    const std::int64_t all_rows = stacked ? config.qkv_width() : parameter.value.rows();
    if (found.rows() != all_rows) throw Error(shapes);
    return wanted.rank() == 1
               ? found
               : found.rows_slice(source.first_row, source.first_row + parameter.value.rows());
  }
  fail("{} has no tensor '{}'", file.path().string(), parameter.name);
}

std::vector<float> finite_values(const Tensor& tensor, const Parameter& parameter,
                                 const SafetensorsFile& file) {
  if (tensor.dtype != DType::kF32 && tensor.dtype != DType::kBF16) {
    fail("{}: '{}' is {}; weights must be F32 or BF16", file.path().string(), parameter.name,
         name(tensor.dtype));
  }
  std::vector<float> values(static_cast<std::size_t>(tensor.numel()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] =
        tensor.dtype == DType::kF32 ? tensor.as<float>()[i] : to_float(tensor.as<BFloat16>()[i]);
    if (!std::isfinite(values[i])) {
      fail("{}: '{}' has a value that is NaN or infinite (element {})", file.path().string(),
           parameter.name, i);
    }
  }
  return values;
}

template <typename T>
T required(const Json& json, const char* key, const std::string& where) {
  const auto found = json.find(key);
  if (found == json.end()) fail("{} lacks the key '{}'", where, key);
  // Without this, 3.5 and true would be read as sizes.
  const bool is_size = !std::is_same_v<T, std::int64_t> || found->is_number_integer();
  try {
    if (is_size) return found->get<T>();
  } catch (const Json::exception&) {
  }
  fail("{}: the value of '{}' has the wrong type", where, key);
}

template <typename T>
T optional(const Json& json, const char* key, T fallback, const std::string& where) {
  return json.contains(key) && !json.at(key).is_null() ? required<T>(json, key, where) : fallback;
}

std::optional<StoredBits> parse_stored_bits(const Json& quantization, const std::string& where) {
  const auto weights = optional<std::string>(quantization, "weights", "training", where);
  if (weights == "training") return std::nullopt;
  if (weights != "packed") {
    fail("{}: quantization_config.weights is 'training' or 'packed', not '{}'", where, weights);
  }
  const auto bits = [&](const char* key) {
    const auto value = required<std::int64_t>(quantization, key, where);
    if (value != 32 && value != 16 && value != 8 && value != 4) {
      fail("{}: {} is 32, 16, 8 or 4, not {}", where, key, value);
    }
    return static_cast<int>(value);
  };
  return StoredBits{bits("embedding_bits"), bits("head_bits")};
}

// Variants of the architecture that would load and then compute something else.
void refuse_variants(const Json& json, const std::string& where) {
  const auto activation = optional<std::string>(json, "hidden_act", "silu", where);
  if (activation != "silu") {
    fail("{}: hidden_act '{}' is not supported, only 'silu'", where, activation);
  }
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    if (optional<bool>(json, key, false, where)) fail("{}: {} is not supported", where, key);
  }
  if (json.contains("rope_scaling") && !json.at("rope_scaling").is_null()) {
    fail("{}: rope_scaling is not supported", where);
  }
}

}  // namespace

WeightSource reference_source(const std::string& name, const ModelConfig& config) {
  if (name == "model.embed_tokens.weight") return {"transformer.wte.weight"};
  if (name == "model.norm.weight") return {"transformer.ln_f.weight"};
  if (name == "lm_head.weight") return {"lm_head.weight"};
  std::string rest = replaced(name, "model.layers.", "transformer.h.");
  if (rest.find("self_attn.q_proj") != std::string::npos) {
    return {replaced(rest, "self_attn.q_proj", "attn.c_attn"), 0};
  }
  if (rest.find("self_attn.k_proj") != std::string::npos) {
    return {replaced(rest, "self_attn.k_proj", "attn.c_attn"), config.query_width()};
  }
  if (rest.find("self_attn.v_proj") != std::string::npos) {
    return {replaced(rest, "self_attn.v_proj", "attn.c_attn"),
            config.query_width() + config.kv_width()};
  }
  for (const auto& [ours, theirs] :
       {std::pair{"self_attn.o_proj", "attn.c_proj"}, std::pair{"mlp.gate_proj", "mlp.w1"},
        std::pair{"mlp.up_proj", "mlp.w2"}, std::pair{"mlp.down_proj", "mlp.c_proj"},
        std::pair{"input_layernorm", "ln_1"}, std::pair{"post_attention_layernorm", "ln_2"}}) {
    rest = replaced(rest, ours, theirs);
  }
  return {rest};
}

std::string to_config_json(const ModelDescription& description) {
  const ModelConfig& c = description.config;
  Json json;
  json["architectures"] = {"LlamaForCausalLM"};
  json["model_type"] = "llama";
  json["hidden_size"] = c.width;
  json["intermediate_size"] = c.hidden;
  json["num_hidden_layers"] = c.layers;
  json["num_attention_heads"] = c.heads;
  json["num_key_value_heads"] = c.kv_heads;
  json["head_dim"] = c.head_dim;
  json["vocab_size"] = c.vocab;
  json["max_position_embeddings"] = c.max_positions;
  json["rms_norm_eps"] = c.norm_epsilon;
  json["rope_theta"] = c.rope_theta;
  json["rope_layout"] = c.rope_layout == RopeLayout::kInterleaved ? "interleaved" : "half";
  json["tie_word_embeddings"] = c.tied_head;
  json["hidden_act"] = "silu";
  json["attention_bias"] = false;
  json["mlp_bias"] = false;
  json["torch_dtype"] = "float32";
  json["quantization_config"] = {{"quant_method", "quest"},
                                 {"scheme", description.scheme.base().to_string()},
                                 {"layer_schemes", description.scheme.overrides()},
                                 {"weights", description.packed ? "packed" : "training"}};
  if (description.packed) {
    json["quantization_config"]["embedding_bits"] = description.packed->embedding;
    json["quantization_config"]["head_bits"] = description.packed->head;
  }
  return json.dump(2) + "\n";
}

ModelDescription parse_config_json(const std::string& text, const std::string& where) {
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) fail("{} is not a JSON object", where);
  const auto type = optional<std::string>(json, "model_type", "llama", where);
  if (type != "llama") fail("{}: model_type '{}' is not supported, only 'llama'", where, type);
  refuse_variants(json, where);
  ModelDescription description;
  ModelConfig& c = description.config;
  c.width = required<std::int64_t>(json, "hidden_size", where);
  c.hidden = required<std::int64_t>(json, "intermediate_size", where);
  c.layers = required<std::int64_t>(json, "num_hidden_layers", where);
  c.heads = required<std::int64_t>(json, "num_attention_heads", where);
  c.kv_heads = optional<std::int64_t>(json, "num_key_value_heads", c.heads, where);
  c.head_dim = optional<std::int64_t>(json, "head_dim", c.heads > 0 ? c.width / c.heads : 0, where);
  c.vocab = required<std::int64_t>(json, "vocab_size", where);
  c.max_positions = required<std::int64_t>(json, "max_position_embeddings", where);
  c.norm_epsilon = optional<float>(json, "rms_norm_eps", 1e-5f, where);
  c.rope_theta = optional<double>(json, "rope_theta", 1e4, where);
  c.tied_head = optional<bool>(json, "tie_word_embeddings", false, where);
  const auto layout = optional<std::string>(json, "rope_layout", "half", where);
  if (layout != "half" && layout != "interleaved") {
    fail("{}: rope_layout is 'half' or 'interleaved', not '{}'", where, layout);
  }
  c.rope_layout = layout == "half" ? RopeLayout::kHalf : RopeLayout::kInterleaved;
  description.written_by_quest = json.contains("quantization_config");
  if (description.written_by_quest) {
    const Json& quantization = json.at("quantization_config");
    const auto method = required<std::string>(quantization, "quant_method", where);
    if (method != "quest")
      fail("{}: quant_method '{}' is not supported, only 'quest'", where, method);
    const auto base = required<std::string>(quantization, "scheme", where);
    const auto overrides =
        optional<std::vector<std::string>>(quantization, "layer_schemes", {}, where);
    try {
      description.scheme = Scheme::parse(base, overrides);
    } catch (const Error& error) {
      fail("{}: {}", where, error.what());
    }
    description.packed = parse_stored_bits(quantization, where);
  }
  try {
    c.validate();
    description.scheme.check_overrides(layer_names(c));
  } catch (const Error& error) {
    fail("{}: {}", where, error.what());
  }
  return description;
}

void save_weights(const Model& model, const std::filesystem::path& path) {
  std::vector<NamedTensor> tensors;
  std::vector<std::vector<float>> host;
  model.llama().for_each_parameter([&](const Parameter& parameter) {
    Tensor value = parameter.value;
    if (value.place != Place::kHost) {
      host.emplace_back(static_cast<std::size_t>(value.numel()));
      value = view_of(host.back().data(), value.shape);
      model.backend().copy(value, parameter.value);
    }
    tensors.push_back({parameter.name, value});
  });
  model.backend().synchronize();
  write_safetensors(
      path, tensors,
      {{"format", "pt"}, {kConfigKey, to_config_json({model.config(), model.llama().scheme()})}});
}

void check_saved_config(const ModelDescription& description, const SafetensorsFile& file) {
  const auto saved = file.metadata().find(kConfigKey);
  if (saved == file.metadata().end()) return;
  const std::string where = file.path().string();
  const ModelDescription wanted = parse_config_json(saved->second, where);
  if (wanted.config == description.config && wanted.scheme == description.scheme &&
      wanted.packed == description.packed) {
    return;
  }
  fail("config.json describes another model than the one that was saved to {}; restore it", where);
}

void load_weights(Model& model, const SafetensorsFile& file) {
  Backend& backend = model.backend();
  model.llama().for_each_parameter([&](const Parameter& parameter) {
    const Tensor rows = find_rows(file, parameter, model.config());
    const std::vector<float> values = finite_values(rows, parameter, file);
    backend.copy(parameter.value, view_of(values.data(), parameter.value.shape));
    backend.synchronize();
  });
}

}  // namespace quest
