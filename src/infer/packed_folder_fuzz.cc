// Fuzzes the loader of packed folders: any files are a model that runs, or Error.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/fuzz_folder.h"
#include "core/safetensors.h"
#include "infer/model_folder.h"
#include "infer/session.h"
#include "quant/packing.h"

namespace {

using namespace quest;

// Larger models load, but are not run.
constexpr std::int64_t kMostParameters = 1 << 14;
constexpr std::int64_t kMostLayers = 4;

// Cuts an input into the files that it stands for.
class Cutter {
 public:
  explicit Cutter(std::string_view input) : input_(input) {}
  std::string_view take(std::size_t size) {
    const std::string_view part = input_.substr(0, size);
    input_.remove_prefix(part.size());
    return part;
  }
  std::uint8_t byte() {
    const std::string_view part = take(1);
    return part.empty() ? std::uint8_t{0} : static_cast<std::uint8_t>(part[0]);
  }
  std::size_t size() {
    const std::size_t low = byte();
    return low + 256u * byte();
  }
  std::string_view rest() const { return input_; }

 private:
  std::string_view input_;
};

// Makes a safetensors file's checksum right, where it has one.
std::string sealed(std::string file) {
  constexpr std::string_view kField = "\"quest.checksum\":\"";
  constexpr std::size_t kDigits = 16;
  const std::size_t at = file.find(kField);
  if (at == std::string::npos || file.size() - at < kField.size() + kDigits) return file;
  file.replace(at + kField.size(), kDigits, std::string(kDigits, '0'));
  Checksum checksum;
  checksum.update(file.data(), file.size());
  return file.replace(at + kField.size(), kDigits, checksum.hex());
}

// A file of the tensors that `description` asks for, with values of `bytes`.
class WeightsFile {
 public:
  WeightsFile(const ModelDescription& description, std::string_view bytes) : bytes_(bytes) {
    const ModelConfig& c = description.config;
    for (std::int64_t layer = 0; layer < c.layers; ++layer) {
      for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) {
        add(fmt::format("model.layers.{}.{}.weight", layer, norm), {c.width}, DType::kF32);
      }
    }
    add("model.norm.weight", {c.width}, DType::kF32);
    std::vector<StoredMatrix> matrices = stored_matrices(description);
    if (matrices.back().name != "model.embed_tokens") {
      matrices.push_back(stored_embedding(description));
    }
    for (const StoredMatrix& matrix : matrices) {
      if (matrix.bits > kMaxBits) {
        add(matrix.weight_name(), {matrix.rows, matrix.columns},
            matrix.bits == 16 ? DType::kBF16 : DType::kF32);
      } else {
        add(matrix.name + ".scales", {matrix.rows}, DType::kF32);
        add(matrix.name + ".codes", {matrix.rows, packed_row_bytes(matrix.columns, matrix.bits)},
            DType::kU8);
      }
    }
    std::stable_sort(tensors_.begin(), tensors_.end(), [](const auto& a, const auto& b) {
      return size_bytes(a.tensor.dtype) > size_bytes(b.tensor.dtype);
    });
  }

  void write() const { write_safetensors(fuzz_folder() / "model.safetensors", tensors_); }

 private:
  void add(const std::string& name, const Shape& shape, DType dtype) {
    auto& memory =
        memory_.emplace_back(static_cast<std::size_t>(shape.numel()) * size_bytes(dtype));
    for (char& value : memory) {
      value = bytes_.empty() ? '\0' : bytes_[next_++ % bytes_.size()];
    }
    const Tensor tensor(memory.data(), shape, dtype);
    // Scales and norms out of any range are found in files of the other kind.
    for (std::int64_t i = 0; dtype == DType::kF32 && shape.rank() == 1 && i < shape[0]; ++i) {
      tensor.as<float>()[i] = static_cast<float>(1 + (memory[static_cast<std::size_t>(i)] & 63));
    }
    tensors_.push_back({name, tensor});
  }

  std::string_view bytes_;
  std::size_t next_ = 0;
  std::vector<std::vector<char>> memory_;
  std::vector<NamedTensor> tensors_;
};

bool is_small(const ModelConfig& config) {
  return config.layers <= kMostLayers && config.parameters() <= kMostParameters;
}

void run(const LoadedModel& loaded) {
  const ModelConfig& config = loaded.model->config();
  if (!is_small(config)) return;
  const auto last = static_cast<std::int32_t>(loaded.tokenizer->vocab_size() - 1);
  (void)loaded.tokenizer->encode(loaded.tokenizer->decode(std::vector{0, last}));
  Session session(*loaded.model, {.capacity = 4});
  std::vector<std::int32_t> tokens{0, last, last / 2};
  tokens.resize(static_cast<std::size_t>(std::min<std::int64_t>(3, session.capacity())));
  session.prefill(tokens);
}

}  // namespace

/// Byte 0: bit 0 asks for a correct checksum of the weights, bit 1 for weights made for the config
/// from the bytes of the last part, bit 2 for the byte tokenizer. Three sizes of two bytes each
/// follow, then config.json, tokenizer_config.json, tokenizer.model, and the weights.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Cutter input({reinterpret_cast<const char*>(data), size});
  const unsigned flags = input.byte();
  const std::size_t sizes[] = {input.size(), input.size(), input.size()};
  const std::string config(input.take(sizes[0]));
  static const auto backend = make_reference_backend();
  static const auto bytes_tokenizer = load_tokenizer("bytes");
  try {
    put_fuzz_file("config.json", config);
    put_fuzz_file("tokenizer_config.json", input.take(sizes[1]));
    put_fuzz_file("tokenizer.model", input.take(sizes[2]));
    if (flags & 4) bytes_tokenizer->save(fuzz_folder());
    if (flags & 2) {
      const ModelDescription description = parse_config_json(config, "config.json");
      if (!description.packed || !is_small(description.config)) return 0;
      WeightsFile(description, input.rest()).write();
    } else {
      const std::string weights(input.rest());
      put_fuzz_file("model.safetensors", flags & 1 ? sealed(weights) : weights);
    }
    run(load_model_folder(fuzz_folder(), *backend, DType::kF32));
  } catch (const Error&) {
  }
  return 0;
}
