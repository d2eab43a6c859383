// Model folders: finding, checking and loading what quest train or another program wrote.
#pragma once

#include <filesystem>
#include <memory>

#include "data/tokenizer.h"
#include "model/model.h"
#include "model/model_file.h"
#include "model/packed_model.h"

namespace quest {

/// The key under which a packed file's metadata names the tokenizer of its texts (its fingerprint).
inline constexpr const char* kTokenizerKey = "quest.tokenizer";

/// A model that is ready to run, and the tokenizer that its texts go through.
struct LoadedModel {
  std::filesystem::path folder;  ///< the one that was read: `path`, or a checkpoint in it
  ModelDescription description;
  std::unique_ptr<SafetensorsFile> file;  ///< what a packed model reads; else null
  std::unique_ptr<RunnableModel> model;
  std::unique_ptr<Tokenizer> tokenizer;  ///< of as many tokens as the model or fewer
};

/// A model with its training weights: f32, prepared, not trainable.
struct LoadedTrainingModel {
  std::filesystem::path folder;
  ModelDescription description;
  std::unique_ptr<Model> model;
  std::unique_ptr<Tokenizer> tokenizer;
};

/// The folder to read for `path`: itself when it has config.json and model.safetensors; of a run
/// that has not ended, its newest complete checkpoint (`checkpoints/step-NNNNNNNN/`, whose
/// trainer_state.json is written last). Throws Error that says what is missing.
std::filesystem::path find_model_folder(const std::filesystem::path& path);

/// The description in `folder`'s config.json. Throws Error.
ModelDescription load_description(const std::filesystem::path& folder);

/// The description of `find_model_folder(path)`. Of our own folders the weights file is whole, and
/// was saved with it; of others it is not read. Throws Error.
ModelDescription describe_model_folder(const std::filesystem::path& path);

/// Loads `find_model_folder(path)` onto `backend`, which must outlive the result; `compute` is F32
/// or BF16. Our own folders must carry checksums that hold and the config that they were saved
/// with; packed ones are read where they lie. Llama folders of other programs load too: F32 or BF16
/// weights in one file, sentencepiece tokenizer. The model takes sequences of `max_positions`
/// instead of those that its config names, if that is not 0. Throws Error with the file and what is
/// wrong with it.
LoadedModel load_model_folder(const std::filesystem::path& path, Backend& backend, DType compute,
                              std::int64_t max_positions = 0);

/// As above; a packed folder is an Error, because its training weights are gone.
LoadedTrainingModel load_training_folder(const std::filesystem::path& path, Backend& backend,
                                         DType compute, std::int64_t max_positions = 0);

}  // namespace quest
