// Fuzzes the shard reader: any bytes are shards that can be read to the end, or Error.
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "core/error.h"
#include "core/fuzz_folder.h"
#include "data/shards.h"

using namespace quest;

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
  put_fuzz_file("index.json", data[0] & 1 ? seal_index(index) : index);
  put_fuzz_file("shard-00000.bin", shard);
  static const auto tokenizer = load_tokenizer("bytes");
  try {
    const TokenDataset dataset = TokenDataset::open(fuzz_folder(), *tokenizer);
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(dataset.size()));
    dataset.read(0, dataset.size(), tokens.data());
    for (const std::int32_t token : tokens) {
      if (token < 0 || token >= tokenizer->vocab_size()) std::abort();
    }
  } catch (const Error&) {
  }
  return 0;
}
