// Saving, verifying and loading of checkpoints.
#include "train/checkpoint.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/file.h"
#include "model/model_file.h"

namespace quest {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kStateFile = "trainer_state.json";
constexpr const char* kModelFile = "model.safetensors";
constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr const char* kTemporarySuffix = ".tmp";
constexpr const char* kDamagedSuffix = ".damaged";
constexpr int kFormatVersion = 1;

std::string checksum_of(std::string_view text) {
  Checksum checksum;
  checksum.update(text.data(), text.size());
  return checksum.hex();
}

// The state's checksum is that of its JSON with this key absent.
std::string sealed(Json state) {
  state["checksum"] = checksum_of(state.dump());
  return state.dump(2) + "\n";
}

Json unsealed(const fs::path& path) {
  Json state = Json::parse(read_file(path), nullptr, false);
  if (!state.is_object() || !state.contains("checksum") || !state["checksum"].is_string()) {
    fail("{} is damaged: it is not a JSON object with a checksum", path.string());
  }
  const auto expected = state["checksum"].get<std::string>();
  state.erase("checksum");
  if (checksum_of(state.dump()) != expected) {
    fail("{} is damaged: its checksum does not fit its content", path.string());
  }
  return state;
}

// Text files of the model folder, whose checksums the state keeps.
std::vector<std::string> text_files(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name != kStateFile && name != kModelFile && name != kOptimizerFile) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

void save_moments(Trainer& trainer, const fs::path& path) {
  std::vector<NamedTensor> moments = trainer.optimizer().moments();
  std::vector<std::vector<std::byte>> host;
  for (NamedTensor& moment : moments) {
    if (moment.tensor.place == Place::kHost) continue;
    host.emplace_back(moment.tensor.bytes());
    const Tensor copy(host.back().data(), moment.tensor.shape, moment.tensor.dtype);
    trainer.model().backend().copy(copy, moment.tensor);
    moment.tensor = copy;
  }
  trainer.model().backend().synchronize();
  write_safetensors(path, moments);
}

// With the overrides, which to_string only counts.
std::string whole_text(const Scheme& scheme) {
  std::string text = scheme.base().to_string();
  for (const std::string& entry : scheme.overrides()) text += ", " + entry;
  return text;
}

void check_same_model(const Trainer& trainer, const fs::path& folder) {
  const fs::path path = folder / "config.json";
  const ModelDescription theirs = parse_config_json(read_file(path), path.string());
  const TrainerConfig& ours = trainer.config();
  std::string difference = architecture_difference(theirs.config, ours.model);
  if (theirs.config.max_positions != ours.model.max_positions) {
    difference =
        fmt::format("positions: {} and {}", theirs.config.max_positions, ours.model.max_positions);
  }
  if (theirs.scheme != ours.scheme) {
    difference =
        fmt::format("scheme: {} and {}", whole_text(theirs.scheme), whole_text(ours.scheme));
  }
  if (difference.empty()) return;
  fail("{} and this run are different models ({}); resume with the settings of the run",
       folder.string(), difference);
}

}  // namespace

void save_model_folder(const Model& model, const Tokenizer& tokenizer, const fs::path& folder) {
  fs::create_directories(folder);
  tokenizer.save(folder);
  Json generation;
  generation["eos_token_id"] = tokenizer.end_of_text_id();
  generation["do_sample"] = true;
  generation["temperature"] = 0.8;
  generation["top_p"] = 0.95;
  write_file(folder / "generation_config.json", generation.dump(2) + "\n");
  save_weights(model, folder / kModelFile);
  write_file(folder / "config.json", to_config_json({model.config(), model.llama().scheme()}));
}

void save_checkpoint(Trainer& trainer, const TrainerState& state, const Tokenizer& tokenizer,
                     const fs::path& folder) {
  const fs::path temporary = folder.string() + kTemporarySuffix;
  fs::remove_all(temporary);
  try {
    save_model_folder(trainer.model(), tokenizer, temporary);
    save_moments(trainer, temporary / kOptimizerFile);
    Json json;
    json["format_version"] = kFormatVersion;
    json["step"] = state.step;
    json["tokens"] = state.tokens;
    json["seed"] = state.seed;
    json["data_seed"] = state.data_seed;
    json["optimizer_bits"] = trainer.config().optimizer.moment_bits;
    json["backward"] = gradient_products_name(trainer.config().backward);
    json["data"] = state.data;
    for (const std::string& name : text_files(temporary)) {
      json["files"][name] = checksum_of(read_file(temporary / name));
    }
    write_file(temporary / kStateFile, sealed(json));
    fs::remove_all(folder);
    fs::rename(temporary, folder);
  } catch (const fs::filesystem_error& error) {
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    fail("cannot save the checkpoint {}: {}", folder.string(), error.code().message());
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    throw;
  }
  sync_directory(folder.parent_path());
}

void verify_checkpoint(const fs::path& folder) {
  const fs::path state_path = folder / kStateFile;
  const Json state = unsealed(state_path);
  try {
    if (state.at("format_version").get<int>() != kFormatVersion) {
      fail("{} has format version {}, this program reads {}", state_path.string(),
           state.at("format_version").dump(), kFormatVersion);
    }
    for (const auto& [name, checksum] : state.at("files").items()) {
      if (checksum_of(read_file(folder / name)) != checksum.get<std::string>()) {
        fail("{} is damaged: its checksum does not fit its content", (folder / name).string());
      }
    }
  } catch (const Json::exception& error) {
    fail("{} is malformed: {}", state_path.string(), error.what());
  }
  SafetensorsFile(folder / kModelFile).verify(true);
  SafetensorsFile(folder / kOptimizerFile).verify(true);
}

std::optional<fs::path> find_newest_checkpoint(
    const fs::path& run_folder, const std::function<void(const std::string& why)>& damaged) {
  const std::vector<fs::path> found = list_checkpoints(run_folder);
  std::optional<Error> newest_error;
  for (auto folder = found.rbegin(); folder != found.rend(); ++folder) {
    try {
      verify_checkpoint(*folder);
      return *folder;
    } catch (const Error& error) {
      damaged(error.what());
      if (!newest_error) newest_error = error;
    }
  }
  if (newest_error) throw *newest_error;
  return std::nullopt;
}

TrainerState load_checkpoint(Trainer& trainer, const fs::path& folder) {
  check_same_model(trainer, folder);
  const Json json = unsealed(folder / kStateFile);
  TrainerState state;
  int moment_bits = 0;
  try {
    state.step = json.at("step").get<std::int64_t>();
    state.tokens = json.at("tokens").get<std::int64_t>();
    state.seed = json.at("seed").get<std::uint64_t>();
    state.data_seed = json.at("data_seed").get<std::uint64_t>();
    state.data = json.at("data").get<std::string>();
    moment_bits = json.value("optimizer_bits", 32);
  } catch (const Json::exception& error) {
    fail("{} is malformed: {}", (folder / kStateFile).string(), error.what());
  }
  if (moment_bits != trainer.config().optimizer.moment_bits) {
    fail(
        "{} holds optimizer moments of {} bits, but this run asks for {}; resume with "
        "--optimizer-bits {}",
        (folder / kOptimizerFile).string(), moment_bits, trainer.config().optimizer.moment_bits,
        moment_bits);
  }
  load_weights(trainer.model(), SafetensorsFile(folder / kModelFile));
  trainer.optimizer().load_moments(SafetensorsFile(folder / kOptimizerFile));
  trainer.resume_at(state.step);
  return state;
}

fs::path checkpoint_path(const fs::path& run_folder, std::int64_t step) {
  return run_folder / "checkpoints" / fmt::format("step-{:08}", step);
}

std::vector<fs::path> list_checkpoints(const fs::path& run_folder) {
  std::vector<fs::path> found;
  const fs::path folder = run_folder / "checkpoints";
  if (!fs::is_directory(folder)) return found;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("step-") && entry.path().extension().empty() &&
        fs::exists(entry.path() / kStateFile)) {
      found.push_back(entry.path());
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

void set_aside_newer_checkpoints(const fs::path& run_folder, const std::optional<fs::path>& kept) {
  for (const fs::path& folder : list_checkpoints(run_folder)) {
    if (kept && folder <= *kept) continue;
    const fs::path aside = folder.string() + kDamagedSuffix;
    std::error_code failed;
    fs::remove_all(aside, failed);
    fs::rename(folder, aside, failed);
    if (failed) fail("cannot rename {}: {}", folder.string(), failed.message());
  }
}

void prune_checkpoints(const fs::path& run_folder, std::int64_t keep) {
  const std::vector<fs::path> found = list_checkpoints(run_folder);
  const auto kept = static_cast<std::size_t>(std::max<std::int64_t>(keep, 1));
  std::error_code ignored;
  for (std::size_t i = 0; i + kept < found.size(); ++i) fs::remove_all(found[i], ignored);
  for (const auto& entry : fs::directory_iterator(run_folder / "checkpoints", ignored)) {
    if (entry.path().string().ends_with(kTemporarySuffix)) fs::remove_all(entry.path(), ignored);
  }
}

}  // namespace quest
