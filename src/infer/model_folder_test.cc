// Model folders: what loads, and one sentence for each way in which one can be wrong.
#include "infer/model_folder.h"

#include <gtest/gtest.h>

#include <fstream>
#include <functional>

#include "core/error.h"
#include "core/file.h"
#include "infer/session.h"
#include "infer/tiny_model_for_test.h"

namespace quest {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kBytesVocab = 256;

// Without waiting for the disk, as write_file does.
void put(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

class ModelFolder : public ::testing::Test {
 protected:
  ModelFolder() { write_folder(folder_, *model_); }

  static void write_folder(const fs::path& folder, const Model& model) {
    fs::create_directories(folder);
    save_weights(model, folder / "model.safetensors");
    put(folder / "config.json", to_config_json({model.config(), model.llama().scheme()}));
    load_tokenizer("bytes")->save(folder);
  }

  LoadedModel load(const fs::path& path) { return load_model_folder(path, *backend_, DType::kF32); }

  void expect_error(const fs::path& path, const std::string& part) {
    try {
      load(path);
      FAIL() << "accepted; expected: " << part;
    } catch (const Error& error) {
      const std::string text = error.what();
      EXPECT_NE(text.find(part), std::string::npos) << text;
      EXPECT_EQ(text.find('\n'), std::string::npos) << text;
      EXPECT_EQ(error.exit_code(), 1);
    }
  }

  void edit_config(const std::string& from, const std::string& to) {
    std::string text = read_file(folder_ / "config.json");
    const std::size_t position = text.find(from);
    ASSERT_NE(position, std::string::npos) << from;
    put(folder_ / "config.json", text.replace(position, from.size(), to));
  }

  // Rewrites the weights as another program would: no metadata, tensors changed by `change`.
  void rewrite_weights(const std::function<void(std::vector<NamedTensor>&)>& change) {
    std::vector<NamedTensor> tensors;
    model_->llama().for_each_parameter([&](const Parameter& parameter) {
      tensors.push_back({parameter.name, parameter.value});
    });
    change(tensors);
    write_safetensors(folder_ / "model.safetensors", tensors);
  }

  std::vector<float> logits(const RunnableModel& model) {
    Session session(model);
    const auto row = session.prefill(random_tokens(9, kBytesVocab));
    return {row.begin(), row.end()};
  }

  TemporaryFolder root_;
  fs::path folder_ = root_.path() / "model";
  std::unique_ptr<Backend> backend_ = backend_for_test("cpu");
  std::unique_ptr<Model> model_ = tiny_model(*backend_, tiny_config(kBytesVocab), "w4a4");
};

TEST_F(ModelFolder, GivesBackTheModelThatWasSaved) {
  const LoadedModel loaded = load(folder_);
  EXPECT_EQ(loaded.folder, folder_);
  EXPECT_EQ(loaded.description.config, model_->config());
  EXPECT_EQ(loaded.description.scheme, model_->llama().scheme());
  EXPECT_EQ(loaded.tokenizer->vocab_size(), kBytesVocab);
  EXPECT_EQ(logits(*loaded.model), logits(*model_));
}

TEST_F(ModelFolder, OfARunWithoutAModelTheNewestCompleteCheckpointIsTaken) {
  const fs::path run = root_.path() / "run";
  const auto checkpoint = [&](const std::string& name, bool complete) {
    write_folder(run / "checkpoints" / name, *model_);
    if (complete) put(run / "checkpoints" / name / "trainer_state.json", "{}");
  };
  checkpoint("step-00000900", true);
  checkpoint("step-00001000", true);
  checkpoint("step-00002000", false);
  checkpoint("other-00009000", true);
  EXPECT_EQ(load(run).folder, run / "checkpoints" / "step-00001000");
  checkpoint("step-100000000", true);
  EXPECT_EQ(load(run).folder, run / "checkpoints" / "step-100000000");
  write_folder(run, *model_);
  EXPECT_EQ(load(run).folder, run);
}

TEST_F(ModelFolder, MissingPartsAreNamed) {
  expect_error(root_.path() / "nothing", "there is no model folder");
  expect_error(folder_ / "config.json", "is not a folder");
  fs::create_directories(root_.path() / "run" / "checkpoints" / "step-00000100");
  expect_error(root_.path() / "run", "no model.safetensors and no complete checkpoint");
  for (const char* name : {"config.json", "tokenizer_config.json"}) {
    const std::string text = read_file(folder_ / name);
    fs::remove(folder_ / name);
    expect_error(folder_, name);
    put(folder_ / name, text);
  }
  fs::rename(folder_ / "model.safetensors", folder_ / "elsewhere");
  expect_error(folder_, "no model.safetensors");
  put(folder_ / "model.safetensors.index.json", "{}");
  expect_error(folder_, "split into several files");
}

TEST_F(ModelFolder, WeightsCutShortAnywhereAreRefused) {
  const std::string whole = read_file(folder_ / "model.safetensors");
  const std::size_t size = whole.size();
  std::vector<std::size_t> lengths = {0, 1, 7, 8, 9, 100, size / 4, size / 2, size - 4, size - 1};
  for (std::size_t length = 13; length < size; length += size / 40) lengths.push_back(length);
  for (const std::size_t length : lengths) {
    put(folder_ / "model.safetensors", whole.substr(0, length));
    expect_error(folder_, "model.safetensors");
  }
}

TEST_F(ModelFolder, AFlippedBitAnywhereInTheWeightsIsNoticed) {
  std::string bytes = read_file(folder_ / "model.safetensors");
  for (std::size_t offset = 0; offset < bytes.size(); offset += 1 + bytes.size() / 150) {
    const auto bit = static_cast<char>(1 << (offset % 8));
    bytes[offset] = static_cast<char>(bytes[offset] ^ bit);
    put(folder_ / "model.safetensors", bytes);
    EXPECT_THROW(load(folder_), Error) << "offset " << offset;
    bytes[offset] = static_cast<char>(bytes[offset] ^ bit);
  }
}

TEST_F(ModelFolder, AConfigCutShortOrWithAFlippedBitNeverChangesTheModel) {
  const std::string whole = read_file(folder_ / "config.json");
  for (std::size_t length = 0; length + 2 < whole.size(); length += 23) {
    put(folder_ / "config.json", whole.substr(0, length));
    expect_error(folder_, "config.json");
  }
  const std::vector<float> wanted = logits(*model_);
  int refused = 0;
  for (std::size_t offset = 0; offset < whole.size(); offset += 5) {
    std::string changed = whole;
    changed[offset] = static_cast<char>(changed[offset] ^ (1 << (offset % 7)));
    put(folder_ / "config.json", changed);
    // Keys that say nothing about the model may change; the model may not.
    try {
      EXPECT_EQ(logits(*load(folder_).model), wanted) << "offset " << offset;
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 20);
}

TEST_F(ModelFolder, OurOwnWeightsNeedTheirChecksum) {
  std::string bytes = read_file(folder_ / "model.safetensors");
  const std::size_t key = bytes.find("quest.checksum");
  ASSERT_NE(key, std::string::npos);
  bytes[key] = 'Q';
  put(folder_ / "model.safetensors", bytes);
  expect_error(folder_, "it has no checksum");
}

TEST_F(ModelFolder, AConfigOfAnotherModelIsRefused) {
  const std::string saved = read_file(folder_ / "config.json");
  for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{
           {"\"w4a4\"", "\"w3a3\""},
           {"interleaved", "half"},
           {"10000", "20000"},
           {"num_hidden_layers\": 2", "num_hidden_layers\": 1"}}) {
    edit_config(from, to);
    expect_error(folder_, "config.json describes another model than the one that was saved");
    put(folder_ / "config.json", saved);
  }
}

TEST_F(ModelFolder, AConfigThatMakesNoSenseIsRefused) {
  const std::string saved = read_file(folder_ / "config.json");
  struct Edit {
    const char *from, *to, *part;
  };
  for (const Edit& edit :
       {Edit{"\"llama\"", "\"mamba\"", "model_type 'mamba'"},
        Edit{"\"hidden_size\": 32", "\"hidden_size\": \"x\"", "'hidden_size'"},
        Edit{"\"hidden_size\": 32", "\"hidden_size\": 32.5", "'hidden_size'"},
        Edit{"\"hidden_size\"", "\"hiden_size\"", "lacks the key 'hidden_size'"},
        Edit{"attention_heads\": 4", "attention_heads\": 3", "multiple"},
        Edit{"num_hidden_layers\": 2", "num_hidden_layers\": 0", "at least 1"},
        Edit{"\"w4a4\"", "\"w9a4\"", "config.json"},
        Edit{"\"silu\"", "\"gelu\"", "hidden_act 'gelu'"},
        Edit{"attention_bias\": false", "attention_bias\": true", "attention_bias"},
        Edit{"\"quest\"", "\"gptq\"", "quant_method 'gptq'"}}) {
    edit_config(edit.from, edit.to);
    expect_error(folder_, edit.part);
    put(folder_ / "config.json", saved);
  }
}

TEST_F(ModelFolder, TensorsThatDisagreeWithTheConfigAreNamed) {
  rewrite_weights([](auto& tensors) { tensors.pop_back(); });
  expect_error(folder_, "has no tensor 'lm_head.weight'");
  rewrite_weights([](auto& tensors) {
    tensors.front().tensor = tensors.front().tensor.reshaped({kBytesVocab / 2, 64});
  });
  expect_error(folder_, "tensor 'model.embed_tokens.weight' has shape [128, 64]");
  rewrite_weights([](auto& tensors) {
    tensors.push_back({"model.layers.0.self_attn.q_proj.bias", tensors[1].tensor});
  });
  expect_error(folder_, "'model.layers.0.self_attn.q_proj.bias' is no part of the model");
  rewrite_weights([](auto& tensors) { tensors.resize(2); });
  expect_error(folder_, "values, but the model that config.json describes needs");
  std::vector<std::int32_t> integers(32);
  rewrite_weights([&](auto& tensors) { tensors[1].tensor = view_of(integers.data(), {32}); });
  expect_error(folder_, "weights must be F32 or BF16");
  std::vector<float> broken(32, std::numeric_limits<float>::infinity());
  rewrite_weights([&](auto& tensors) { tensors[1].tensor = view_of(broken.data(), {32}); });
  expect_error(folder_, "NaN or infinite");
}

TEST_F(ModelFolder, ATokenizerLargerThanTheModelIsRefused) {
  write_folder(folder_, *tiny_model(*backend_, tiny_config(255), "none"));
  expect_error(folder_, "the tokenizer has 256 tokens, the model only 255");
  write_folder(folder_, *tiny_model(*backend_, tiny_config(300), "none"));
  EXPECT_EQ(load(folder_).tokenizer->vocab_size(), 256);
}

TEST_F(ModelFolder, ALlamaOfAnotherProgramLoads) {
  // Half rotary layout, no quantization, bf16 weights, no metadata, a buffer of old versions.
  ModelConfig config = tiny_config(kBytesVocab);
  config.rope_layout = RopeLayout::kHalf;
  const auto foreign = tiny_model(*backend_, config, "none");
  std::vector<NamedTensor> tensors;
  std::vector<std::vector<BFloat16>> halves;
  foreign->llama().for_each_parameter([&](const Parameter& parameter) {
    std::vector<BFloat16> values;
    for (std::int64_t i = 0; i < parameter.value.numel(); ++i) {
      float& value = parameter.value.as<float>()[i];
      values.push_back(to_bfloat16(value));
      value = to_float(values.back());
    }
    halves.push_back(std::move(values));
    tensors.push_back({parameter.name, view_of(halves.back().data(), parameter.value.shape)});
  });
  foreign->prepare();
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", tensors[1].tensor});
  write_safetensors(folder_ / "plain", tensors);
  // The writer's checksum goes: other programs know none.
  std::string bytes = read_file(folder_ / "plain");
  bytes.replace(bytes.find("quest.checksum"), 14, "other.checksum");
  put(folder_ / "model.safetensors", bytes);
  put(folder_ / "config.json", R"({"model_type": "llama", "hidden_size": 32,
    "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 256, "max_position_embeddings": 40,
    "rms_norm_eps": 1e-05, "rope_scaling": null, "torch_dtype": "bfloat16"})");
  const LoadedModel loaded = load(folder_);
  EXPECT_FALSE(loaded.description.written_by_quest);
  EXPECT_EQ(loaded.description.config, config);
  EXPECT_EQ(logits(*loaded.model), logits(*foreign));
}

}  // namespace
}  // namespace quest
