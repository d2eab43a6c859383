// Fuzzes the shard reader: any bytes are shards that can be read to the end, or Error.
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>

#include "core/error.h"
#include "data/shards.h"

namespace {

using namespace quest;

/// The process's folder for the files of a run.
const std::filesystem::path& folder() {
  static const std::filesystem::path path = [] {
    const bool in_memory = std::filesystem::is_directory("/dev/shm");
    const std::filesystem::path parent =
        in_memory ? "/dev/shm" : std::filesystem::temp_directory_path();
    std::string name = (parent / "shards_fuzz_XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    static const std::string made = name;
    std::atexit([] { std::filesystem::remove_all(made); });
    return std::filesystem::path(name);
  }();
  return path;
}

void put(const std::string& name, std::string_view content) {
  std::ofstream(folder() / name, std::ios::binary | std::ios::trunc) << content;
}

}  // namespace

/// Byte 0: bit 0 asks for a correct checksum of the index, bit 1 for that of shard 0 too. Two bytes
/// give the length of index.json; the rest is shard 0.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 3) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t index_size = std::min<std::size_t>(data[1] + 256u * data[2], size - 3);
  std::string index(input.substr(3, index_size));
  const std::string_view shard = input.substr(3 + index_size);
  if (data[0] & 2) {
    Checksum checksum;
    checksum.update(shard.data(), shard.size());
    const std::string field = "\"shard_checksum\": \"";
    if (const auto at = index.find(field); at != std::string::npos) {
      index.replace(at + field.size(), checksum.hex().size(), checksum.hex());
    }
  }
  put("index.json", data[0] & 1 ? seal_index(index) : index);
  put("shard-00000.bin", shard);
  static const auto tokenizer = load_tokenizer("bytes");
  try {
    const TokenDataset dataset = TokenDataset::open(folder(), *tokenizer);
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(dataset.size()));
    dataset.read(0, dataset.size(), tokens.data());
    for (const std::int32_t token : tokens) {
      if (token < 0 || token >= tokenizer->vocab_size()) std::abort();
    }
  } catch (const Error&) {
  }
  return 0;
}
