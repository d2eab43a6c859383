// Packed folders: what export writes, and what loading refuses.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <functional>

#include "backend/cpu/cpu_backend.h"
#include "core/error.h"
#include "core/file.h"
#include "infer/chat_template.h"
#include "infer/packed_models_for_test.h"

namespace quest {
namespace {

namespace fs = std::filesystem;

class PackedFolder : public testing::Test {
 protected:
  LoadedModel load() { return load_model_folder(folder_, backend_, DType::kF32); }

  void expect_error(const std::string& part) {
    try {
      load();
      FAIL() << "accepted; expected: " << part;
    } catch (const Error& error) {
      const std::string text = error.what();
      EXPECT_NE(text.find(part), std::string::npos) << text;
      EXPECT_EQ(text.find('\n'), std::string::npos) << text;
      EXPECT_EQ(error.exit_code(), 1);
    }
  }

  void put(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }

  void edit_config(const std::string& from, const std::string& to) {
    std::string text = read_file(folder_ / "config.json");
    const std::size_t position = text.find(from);
    ASSERT_NE(position, std::string::npos) << from;
    put("config.json", text.replace(position, from.size(), to));
  }

  // Writes the weights anew, with a right checksum, after `change`.
  void rewrite(const std::function<void(std::vector<NamedTensor>&)>& change) {
    std::vector<NamedTensor> tensors;
    std::vector<std::vector<std::byte>> memory;
    {
      const SafetensorsFile file(folder_ / "model.safetensors");
      for (const auto& [name, tensor] : file.tensors()) {
        const auto* const bytes = static_cast<const std::byte*>(tensor.data);
        memory.emplace_back(bytes, bytes + tensor.bytes());
        tensors.push_back({name, Tensor(memory.back().data(), tensor.shape, tensor.dtype)});
      }
    }
    std::stable_sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
      return size_bytes(a.tensor.dtype) > size_bytes(b.tensor.dtype);
    });
    change(tensors);
    write_safetensors(folder_ / "model.safetensors", tensors);
  }

  static NamedTensor& named(std::vector<NamedTensor>& tensors, const std::string& name) {
    for (NamedTensor& tensor : tensors) {
      if (tensor.name == name) return tensor;
    }
    throw std::out_of_range(name);
  }

  CpuBackend backend_{1};
  TemporaryFolder root_;
  fs::path folder_ = root_.path() / "packed";
  std::unique_ptr<Model> model_ = small_model(backend_, small_config(), Scheme::parse("w3a4"));
};

TEST_F(PackedFolder, HoldsTheDocumentedTensors) {
  const LoadedModel loaded = exported(*model_, {16, 8}, folder_);
  ASSERT_TRUE(loaded.description.packed);
  EXPECT_EQ(*loaded.description.packed, (StoredBits{16, 8}));
  EXPECT_EQ(loaded.description.scheme, model_->scheme());
  const SafetensorsFile& file = *loaded.file;
  const std::string q = "model.layers.1.self_attn.q_proj";
  EXPECT_NO_THROW(file.tensor(q + ".codes", DType::kU8, {96, 36}));
  EXPECT_NO_THROW(file.tensor(q + ".scales", DType::kF32, {96}));
  EXPECT_NO_THROW(file.tensor("model.embed_tokens.weight", DType::kBF16, {256, 96}));
  EXPECT_NO_THROW(file.tensor("lm_head.codes", DType::kU8, {256, 96}));
  EXPECT_NO_THROW(file.tensor("model.norm.weight", DType::kF32, {96}));
  for (const char* name : {"generation_config.json", "README.md", "tokenizer_config.json"}) {
    EXPECT_TRUE(fs::exists(folder_ / name)) << name;
  }
}

TEST_F(PackedFolder, RefusesALongContextAsFoldersOfTrainingDo) {
  exported(*model_, kExact, folder_);
  const auto error_of = [&](std::int64_t positions) -> std::string {
    try {
      load_model_folder(folder_, backend_, DType::kF32, positions);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  ModelConfig config = small_config();
  config.max_positions = kMostPositions + 1;
  try {
    config.validate();
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error_of(config.max_positions), error.what());
  }
  EXPECT_EQ(error_of(1000), "");
}

TEST_F(PackedFolder, SixteenBitsRoundEmbeddingAndHeadAndNothingElse) {
  const LoadedModel loaded = exported(*model_, {16, 16}, folder_);
  model_->llama().for_each_parameter([](const Parameter& parameter) {
    if (parameter.name != "model.embed_tokens.weight" && parameter.name != "lm_head.weight") return;
    for (std::int64_t i = 0; i < parameter.value.numel(); ++i) {
      float& value = parameter.value.as<float>()[i];
      value = to_float(to_bfloat16(value));
    }
  });
  model_->prepare();
  const auto tokens = random_tokens(60, 256);
  EXPECT_EQ(last_values(*loaded.model, tokens), last_values(*model_, tokens));
  EXPECT_LT(difference(prefilled(*loaded.model, tokens), prefilled(*model_, tokens)), 2e-5);
}

TEST_F(PackedFolder, FewerBitsQuantizeEmbeddingAndHeadOnTheGrid) {
  const auto tokens = random_tokens(60, 256);
  const auto exact = prefilled(*model_, tokens);
  for (const int bits : {8, 4}) {
    const fs::path folder = root_.path() / std::to_string(bits);
    const LoadedModel loaded = exported(*model_, {bits, bits}, folder);
    Model copy(backend_, model_->config(), model_->scheme(), DType::kF32, false);
    std::map<std::string, Tensor> values;
    copy.llama().for_each_parameter([&](const Parameter& p) { values[p.name] = p.value; });
    model_->llama().for_each_parameter([&](const Parameter& parameter) {
      const Tensor value = values[parameter.name];
      backend_.copy(value, parameter.value);
      if (parameter.name != "model.embed_tokens.weight" && parameter.name != "lm_head.weight") {
        return;
      }
      Arena arena(backend_, 1 << 20);
      const QuantizedRows rows = take_quantized_rows(arena, value.rows(), value.cols(), false);
      const auto quantizer = RowQuantizer::make({.bits = bits}, Transform::kHadamard, value.cols());
      backend_.quantize_rows(rows, value, quantizer);
      backend_.dequantize_rows(value, rows, quantizer.block);
    });
    copy.prepare();
    const auto actual = prefilled(*loaded.model, tokens);
    EXPECT_LT(difference(actual, prefilled(copy, tokens)), 1e-3) << bits;
    EXPECT_GT(difference(actual, exact), 1e-3) << bits;
  }
}

TEST_F(PackedFolder, LayersKeepTheirOwnSchemes) {
  const Scheme scheme =
      Scheme::parse("w4a4", {"blocks.*.mlp.down=w8a8", "blocks.0.attn.v=w2a16",
                             "blocks.1.attn.k=none", "head=w6a7 none", "blocks.1.mlp.up=w1a1"});
  model_ = small_model(backend_, small_config(), scheme);
  model_->llama().for_each_parameter([](const Parameter& parameter) {
    if (parameter.name != "model.layers.1.self_attn.k_proj.weight") return;
    for (std::int64_t i = 0; i < parameter.value.numel(); ++i) {
      float& value = parameter.value.as<float>()[i];
      value = to_float(to_bfloat16(value));
    }
  });
  model_->prepare();
  const LoadedModel loaded = exported(*model_, kExact, folder_);
  const auto tokens = random_tokens(60, 256);
  EXPECT_EQ(loaded.description.scheme, scheme);
  EXPECT_LT(difference(prefilled(*loaded.model, tokens), prefilled(*model_, tokens)), 2e-5);
}

TEST_F(PackedFolder, ATiedHeadIsStoredOnceUnlessItHasBitsOfItsOwn) {
  ModelConfig config = small_config();
  config.tied_head = true;
  const auto tokens = random_tokens(40, 256);
  for (const auto& [bits, overrides] : {std::pair{kExact, std::vector<std::string>{}},
                                        {StoredBits{32, 16}, {}},
                                        {kExact, {"head=w4a4"}}}) {
    model_ = small_model(backend_, config, Scheme::parse("w4a4", overrides));
    const fs::path folder =
        root_.path() / (std::to_string(bits.head) + std::to_string(overrides.size()));
    const LoadedModel loaded = exported(*model_, bits, folder);
    const bool own = bits.head != bits.embedding || !overrides.empty();
    EXPECT_EQ(loaded.file->contains("lm_head.weight") || loaded.file->contains("lm_head.codes"),
              own);
    EXPECT_LT(difference(prefilled(*loaded.model, tokens), prefilled(*model_, tokens)),
              bits.head == 16 ? 1e-2 : 2e-5);
  }
}

TEST_F(PackedFolder, BFloat16ComputesCloseToTraining) {
  export_packed(*model_, {*load_tokenizer("bytes")}, {16, 16}, folder_);
  const LoadedModel loaded = load_model_folder(folder_, backend_, DType::kBF16);
  const auto tokens = random_tokens(400, 256);
  EXPECT_NEAR(mean_loss(*loaded.model, tokens), mean_loss(*model_, tokens), 0.05);
}

// However many rows a pass has: f32 weights of the head are rounded as training rounds them.
TEST_F(PackedFolder, AnExactHeadInBFloat16ComputesTheBitsOfTraining) {
  for (const bool tied : {false, true}) {
    ModelConfig config = small_config();
    config.tied_head = tied;
    model_ = small_model(backend_, config, Scheme::parse("w4a4"), DType::kBF16);
    const fs::path folder = root_.path() / (tied ? "tied" : "own");
    export_packed(*model_, {*load_tokenizer("bytes")}, kExact, folder);
    const LoadedModel loaded = load_model_folder(folder, backend_, DType::kBF16);
    const auto tokens = random_tokens(40, 256);
    EXPECT_EQ(mean_loss(*loaded.model, tokens), mean_loss(*model_, tokens));
    Session packed(*loaded.model), trained(*model_);
    for (const std::int32_t token : tokens) {
      const auto actual = packed.decode(token), wanted = trained.decode(token);
      ASSERT_TRUE(std::equal(actual.begin(), actual.end(), wanted.begin(), wanted.end())) << tied;
    }
  }
}

TEST_F(PackedFolder, ADenseExportComputesWithTheQuantizedWeights) {
  for (const RopeLayout layout : {RopeLayout::kInterleaved, RopeLayout::kHalf}) {
    ModelConfig config = small_config();
    config.rope_layout = layout;
    model_ = small_model(backend_, config, Scheme::parse("w4a16"));
    const fs::path folder = root_.path() / (layout == RopeLayout::kHalf ? "half" : "interleaved");
    export_hugging_face(*model_, {*load_tokenizer("bytes")}, folder);
    EXPECT_EQ(read_file(folder / "config.json").find("quest"), std::string::npos);
    const LoadedModel loaded = load_model_folder(folder, backend_, DType::kF32);
    EXPECT_EQ(loaded.description.config.rope_layout, RopeLayout::kHalf);
    const auto tokens = random_tokens(60, 256);
    EXPECT_LT(difference(prefilled(*loaded.model, tokens), prefilled(*model_, tokens)), 0.03);
    EXPECT_NEAR(mean_loss(*loaded.model, tokens), mean_loss(*model_, tokens), 0.01);
  }
}

TEST_F(PackedFolder, ExportTakesTheTrainingFolderOnlyAndNeverWritesOver) {
  export_packed(*model_, {*load_tokenizer("bytes")}, {}, folder_);
  EXPECT_THROW(load_training_folder(folder_, backend_, DType::kF32), Error);
  EXPECT_THROW(export_packed(*model_, {*load_tokenizer("bytes")}, {}, folder_), Error);
  const fs::path other = root_.path() / "other";
  model_->llama().for_each_parameter([](const Parameter& parameter) {
    if (parameter.name.find("down_proj") != std::string::npos) {
      parameter.value.as<float>()[7] = std::nanf("");
    }
  });
  EXPECT_THROW(export_packed(*model_, {*load_tokenizer("bytes")}, {}, other), NonFiniteError);
  EXPECT_FALSE(fs::exists(other));
  EXPECT_FALSE(fs::exists(root_.path() / "other.tmp"));
}

TEST_F(PackedFolder, ExportWritesTheChatTemplateThatItIsGiven) {
  const auto tokenizer = load_tokenizer("bytes");
  const fs::path dense = root_.path() / "dense";
  const fs::path plain = root_.path() / "plain";
  export_packed(*model_, {*tokenizer, "{{ '<|im_start|>' }}"}, {}, folder_);
  export_hugging_face(*model_, {*tokenizer, "{{ '[INST]' }}"}, dense);
  export_packed(*model_, {*tokenizer}, {}, plain);
  EXPECT_EQ(read_chat_template(folder_), "{{ '<|im_start|>' }}");
  EXPECT_EQ(read_chat_template(dense), "{{ '[INST]' }}");
  EXPECT_EQ(read_chat_template(plain), std::nullopt);
  EXPECT_EQ(load_model_folder(folder_, backend_, DType::kF32).tokenizer->vocab_size(), 256);
}

TEST_F(PackedFolder, ExportRefusesATemporaryFolderThatItDidNotMake) {
  const fs::path other = root_.path() / "other.tmp";
  fs::create_directory(other);
  write_file(other / "work", "another's");
  EXPECT_THROW(export_packed(*model_, {*load_tokenizer("bytes")}, {}, root_.path() / "other"),
               Error);
  EXPECT_EQ(read_file(other / "work"), "another's");
}

TEST_F(PackedFolder, DamageIsNamed) {
  export_packed(*model_, {*load_tokenizer("bytes")}, {}, folder_);
  const std::string weights = read_file(folder_ / "model.safetensors");
  std::string flipped = weights;
  flipped[flipped.size() - 100] = static_cast<char>(flipped[flipped.size() - 100] ^ 4);
  put("model.safetensors", flipped);
  expect_error("is damaged: its checksum is");
  put("model.safetensors", weights.substr(0, weights.size() - 5000));
  expect_error("cut short");
  put("model.safetensors", weights);
  load();
  put("tokenizer_config.json", "{}");
  expect_error("tokenizer");
}

TEST_F(PackedFolder, ATokenizerOfAnotherModelIsRefused) {
  ModelConfig config = small_config();
  config.vocab = 400;
  model_ = small_model(backend_, config, Scheme::parse("w3a4"));
  export_packed(*model_, {*load_tokenizer("bytes")}, {}, folder_);
  load();
  std::ofstream text(root_.path() / "text.txt");
  for (int i = 0; i < 3000; ++i)
    text << "abcdefghij"[i * i % 10] << "klmnop"[i % 6] << i % 7 << " ";
  text.close();
  train_sentencepiece({(root_.path() / "text.txt").string()}, 300, root_.path() / "other.model");
  load_tokenizer((root_.path() / "other.model").string())->save(folder_);
  expect_error("was trained with the tokenizer bytes, but the folder has sentencepiece-300-");
}

TEST_F(PackedFolder, WrongTensorsAreNamed) {
  export_packed(*model_, {*load_tokenizer("bytes")}, {}, folder_);
  const std::string weights = read_file(folder_ / "model.safetensors");
  const std::string down = "model.layers.1.mlp.down_proj";
  rewrite([&](auto& tensors) { named(tensors, down + ".codes").name = "else"; });
  expect_error("has no tensor '" + down + ".codes'");
  put("model.safetensors", weights);
  rewrite([&](auto& tensors) {
    Tensor& scales = named(tensors, down + ".scales").tensor;
    scales = scales.reshaped({12, 8});
  });
  expect_error("tensor '" + down + ".scales' is F32 [12, 8], but config.json asks for F32 [96]");
  put("model.safetensors", weights);
  rewrite([&](auto& tensors) {
    tensors.push_back(named(tensors, down + ".codes"));
    tensors.back().name = "model.extra";
  });
  expect_error("tensor 'model.extra' is no part of the model");
  put("model.safetensors", weights);
  for (const float bad : {std::nanf(""), -1.0f, 0.0f, HUGE_VALF}) {
    rewrite([&](auto& tensors) {
      named(tensors, down + ".scales").tensor.template as<float>()[3] = bad;
    });
    expect_error("element 3 of '" + down + ".scales' is");
    put("model.safetensors", weights);
  }
  rewrite([&](auto& tensors) {
    named(tensors, "model.norm.weight").tensor.template as<float>()[0] = std::nanf("");
  });
  expect_error("element 0 of 'model.norm.weight' is nan");
}

TEST_F(PackedFolder, AConfigOfOtherBitsOrSizesIsRefused) {
  export_packed(*model_, {*load_tokenizer("bytes")}, {}, folder_);
  const std::string config = read_file(folder_ / "config.json");
  for (const auto& [from, to, part] :
       {std::tuple{"\"scheme\": \"w3a4\"", "\"scheme\": \"w4a4\"", "another model"},
        {"\"head_bits\": 16", "\"head_bits\": 8", "another model"},
        {"\"head_bits\": 16", "\"head_bits\": 7", "head_bits is 32, 16, 8 or 4, not 7"},
        {"\"weights\": \"packed\"", "\"weights\": \"zipped\"", "is 'training' or 'packed'"},
        {"\"weights\": \"packed\"", "\"weights\": \"training\"", "another model"},
        {"\"hidden_size\": 96", "\"hidden_size\": 128", "another model"}}) {
    edit_config(from, to);
    expect_error(part);
    put("config.json", config);
  }
  // Without the copy of the config in the weights, the tensors themselves disagree.
  rewrite([](auto&) {});
  edit_config("\"scheme\": \"w3a4\"", "\"scheme\": \"w4a4\"");
  expect_error("but config.json asks for U8");
  put("config.json", config);
  edit_config("\"vocab_size\": 256", "\"vocab_size\": 200");
  expect_error("the tokenizer has 256 tokens, the model only 200");
}

TEST_F(PackedFolder, BitsAfterTheLastCodeAreRefused) {
  ModelConfig config = small_config();
  config.hidden = 52;
  model_ = small_model(backend_, config, Scheme::parse("w1a1"));
  export_packed(*model_, {*load_tokenizer("bytes")}, {}, folder_);
  load();
  const std::string down = "model.layers.0.mlp.down_proj.codes";
  rewrite([&](auto& tensors) {
    named(tensors, down).tensor.template as<std::uint8_t>()[2 * 7 + 6] |= 0x40;
  });
  expect_error("row 2 of '" + down + "' has bits set after its last code");
}

}  // namespace
}  // namespace quest
