// Finding, checking and loading a model folder.
#include "infer/model_folder.h"

#include <algorithm>
#include <set>
#include <string>

#include "core/error.h"
#include "core/file.h"
#include "core/safetensors.h"

namespace quest {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigFile = "config.json";
constexpr const char* kWeightsFile = "model.safetensors";
constexpr const char* kSentencepieceFile = "tokenizer.model";

bool has_file(const fs::path& folder, const char* name) {
  std::error_code ignored;
  return fs::is_regular_file(folder / name, ignored);
}

// Names have eight digits or more, so the longer name is the later step.
bool is_earlier(const fs::path& a, const fs::path& b) {
  const std::string x = a.filename().string();
  const std::string y = b.filename().string();
  return x.size() != y.size() ? x.size() < y.size() : x < y;
}

fs::path newest_checkpoint(const fs::path& run) {
  fs::path newest;
  std::error_code error;
  for (fs::directory_iterator it(run / "checkpoints", error), end; !error && it != end;
       it.increment(error)) {
    const fs::path folder = it->path();
    const std::string name = folder.filename().string();
    const bool named = name.starts_with("step-") && name.size() > 5 &&
                       name.find_first_not_of("0123456789", 5) == std::string::npos;
    if (!named || !has_file(folder, "trainer_state.json")) continue;
    if (newest.empty() || is_earlier(newest, folder)) newest = folder;
  }
  return newest;
}

// Before memory is asked for: sizes that the file cannot fill are wrong, whatever they are.
void require_enough_values(const ModelConfig& c, const SafetensorsFile& file) {
  double stored = 0.0;
  for (const auto& [name, tensor] : file.tensors()) stored += static_cast<double>(tensor.numel());
  const auto product = [](std::int64_t a, std::int64_t b) {
    return static_cast<double>(a) * static_cast<double>(b);
  };
  const double layer = product(c.width, c.qkv_width()) + product(c.width, c.query_width()) +
                       3.0 * product(c.width, c.hidden);
  const double wanted = static_cast<double>(c.layers) * layer + product(c.vocab, c.width);
  if (stored >= wanted) return;
  fail("{} holds {:.0f} values, but the model that {} describes needs {:.0f}", file.path().string(),
       stored, kConfigFile, wanted);
}

// The file must hold the model's tensors and nothing that would change what it computes.
void refuse_extra_tensors(const Model& model, const SafetensorsFile& file) {
  std::set<std::string> known;
  if (model.config().tied_head) known.insert("lm_head.weight");
  model.llama().for_each_parameter([&](const Parameter& parameter) {
    const std::string reference = reference_source(parameter.name, model.config()).name;
    known.insert({parameter.name, reference, "init." + reference});
  });
  for (const auto& [name, tensor] : file.tensors()) {
    if (known.count(name) != 0 || name.ends_with("rotary_emb.inv_freq")) continue;
    fail("{}: tensor '{}' is no part of the model that {} describes", file.path().string(), name,
         kConfigFile);
  }
}

std::unique_ptr<SafetensorsFile> open_weights(const fs::path& folder,
                                              const ModelDescription& description) {
  auto file = std::make_unique<SafetensorsFile>(folder / kWeightsFile);
  file->verify(description.written_by_quest);
  check_saved_config(description, *file);
  return file;
}

std::unique_ptr<Tokenizer> load_tokenizer_of(const fs::path& folder, bool ours,
                                             std::int64_t vocab) {
  auto tokenizer = !ours && has_file(folder, kSentencepieceFile)
                       ? load_tokenizer((folder / kSentencepieceFile).string())
                       : load_tokenizer_from_folder(folder);
  if (tokenizer->vocab_size() > vocab) {
    fail("{}: the tokenizer has {} tokens, the model only {}; they do not belong together",
         folder.string(), tokenizer->vocab_size(), vocab);
  }
  return tokenizer;
}

}  // namespace

fs::path find_model_folder(const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) fail("there is no model folder {}", path.string());
  if (!fs::is_directory(path, ignored)) {
    fail("{} is not a folder; give the one that holds {} and {}", path.string(), kConfigFile,
         kWeightsFile);
  }
  fs::path folder = path;
  if (!has_file(path, kWeightsFile)) {
    folder = newest_checkpoint(path);
    if (folder.empty() && has_file(path, "model.safetensors.index.json")) {
      fail("{}: the weights are split into several files; join them into one {}", path.string(),
           kWeightsFile);
    }
    if (folder.empty()) {
      fail(
          "{} has no {} and no complete checkpoint; it is no model folder, or its run has not "
          "saved yet",
          path.string(), kWeightsFile);
    }
  }
  for (const char* name : {kConfigFile, kWeightsFile}) {
    if (!has_file(folder, name)) fail("the model folder {} has no {}", folder.string(), name);
  }
  return folder;
}

ModelDescription load_description(const fs::path& folder) {
  const fs::path file = folder / kConfigFile;
  return parse_config_json(read_file(file), file.string());
}

ModelDescription describe_model_folder(const fs::path& path) {
  const fs::path folder = find_model_folder(path);
  ModelDescription description = load_description(folder);
  if (description.written_by_quest) open_weights(folder, description);
  return description;
}

LoadedModel load_model_folder(const fs::path& path, Backend& backend, DType compute,
                              std::int64_t max_positions) {
  const fs::path folder = find_model_folder(path);
  ModelDescription description = load_description(folder);
  if (!description.packed) {
    LoadedTrainingModel loaded = load_training_folder(folder, backend, compute, max_positions);
    return {loaded.folder, loaded.description, nullptr, std::move(loaded.model),
            std::move(loaded.tokenizer)};
  }
  std::unique_ptr<SafetensorsFile> file = open_weights(folder, description);
  if (max_positions > 0) description.config.max_positions = max_positions;
  description.config.validate();
  LoadedModel loaded{folder, description, std::move(file), nullptr, nullptr};
  loaded.tokenizer = load_tokenizer_of(folder, true, description.config.vocab);
  const auto named = loaded.file->metadata().find(kTokenizerKey);
  if (named != loaded.file->metadata().end() && named->second != loaded.tokenizer->fingerprint()) {
    fail("{}: the model was trained with the tokenizer {}, but the folder has {}; restore it",
         folder.string(), named->second, loaded.tokenizer->fingerprint());
  }
  loaded.model = std::make_unique<PackedModel>(
      backend, description, PackedTensors{loaded.file->tensors(), loaded.file->path().string()},
      compute);
  return loaded;
}

LoadedTrainingModel load_training_folder(const fs::path& path, Backend& backend, DType compute,
                                         std::int64_t max_positions) {
  LoadedTrainingModel loaded;
  loaded.folder = find_model_folder(path);
  loaded.description = load_description(loaded.folder);
  ModelDescription& description = loaded.description;
  if (description.packed) {
    fail("{} is packed already; give the folder of the run that it was exported from",
         loaded.folder.string());
  }
  const auto file = open_weights(loaded.folder, description);
  require_enough_values(description.config, *file);
  if (max_positions > 0) description.config.max_positions = max_positions;
  loaded.tokenizer =
      load_tokenizer_of(loaded.folder, description.written_by_quest, description.config.vocab);
  loaded.model = std::make_unique<Model>(backend, description.config, description.scheme, compute,
                                         /*trains=*/false);
  refuse_extra_tensors(*loaded.model, *file);
  load_weights(*loaded.model, *file);
  loaded.model->prepare();
  return loaded;
}

}  // namespace quest
