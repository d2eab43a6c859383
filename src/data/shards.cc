// Writing of token shards, and access to tokens.
#include "data/shards.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

#include "core/error.h"
#include "core/file.h"
#include "core/new_folder.h"
#include "data/text_source.h"

namespace quest {
namespace {

namespace fs = std::filesystem;

constexpr const char* kIndexFile = "index.json";
constexpr const char* kFormat = "quest-token-shards";
constexpr int kVersion = 1;
constexpr const char* kZeroChecksum = "0000000000000000";
constexpr const char* kChecksumField = "\"checksum\": \"";

std::size_t token_width(std::int32_t vocab_size) { return vocab_size <= 65536 ? 2 : 4; }

std::string shard_name(std::size_t number) { return fmt::format("shard-{:05}.bin", number); }

void append_tokens(const std::vector<std::int32_t>& ids, std::size_t width,
                   std::vector<std::byte>& out) {
  const std::size_t held = out.size();
  out.resize(held + ids.size() * width);
  std::byte* place = out.data() + held;
  for (const std::int32_t id : ids) {
    std::memcpy(place, &id, width);  // Little-endian: the low bytes come first.
    place += width;
  }
}

using TokenSink = std::function<void(const std::vector<std::int32_t>&)>;

/// Hands all tokens of the documents to `sink`, in order. Both kinds of dataset come from here.
PrepareReport tokenize(const std::vector<std::string>& patterns, const Tokenizer& tokenizer,
                       const TokenSink& sink, const std::function<void(double)>& on_progress) {
  PrepareReport report;
  TextSource source(patterns);
  for (TextChunk chunk; source.next(chunk);) {
    if (chunk.starts_document && report.documents++ > 0) {
      sink({tokenizer.end_of_text_id()});
      ++report.tokens;
    }
    const auto ids = tokenizer.encode(chunk.text);
    sink(ids);
    report.tokens += static_cast<std::int64_t>(ids.size());
    report.text_bytes += static_cast<std::int64_t>(chunk.text.size());
    if (on_progress) on_progress(source.fraction());
  }
  return report;
}

/// Splits a stream of tokens into shard files and lists them.
class ShardWriter {
 public:
  ShardWriter(fs::path folder, std::size_t width, std::int64_t shard_tokens)
      : folder_(std::move(folder)), width_(width), shard_tokens_(shard_tokens) {}

  void write(const std::vector<std::int32_t>& ids) {
    bytes_.clear();
    append_tokens(ids, width_, bytes_);
    for (std::size_t at = 0; at < bytes_.size();) {
      if (!file_) file_.emplace(folder_ / shard_name(shards_.size()));
      const std::size_t room = static_cast<std::size_t>(shard_tokens_ - tokens_) * width_;
      const std::size_t size = std::min(room, bytes_.size() - at);
      file_->write(bytes_.data() + at, size);
      checksum_.update(bytes_.data() + at, size);
      at += size;
      tokens_ += static_cast<std::int64_t>(size / width_);
      if (tokens_ == shard_tokens_) finish_shard();
    }
  }

  /// The index's list of shards; the last one is on disk then.
  const nlohmann::ordered_json& finish() {
    if (file_) finish_shard();
    return shards_;
  }

 private:
  void finish_shard() {
    file_->commit();
    file_.reset();
    shards_.push_back({{"tokens", tokens_}, {"shard_checksum", checksum_.hex()}});
    checksum_ = Checksum();
    tokens_ = 0;
  }

  fs::path folder_;
  std::size_t width_;
  std::int64_t shard_tokens_;
  std::optional<AtomicFile> file_;
  std::int64_t tokens_ = 0;  ///< In the file being written.
  Checksum checksum_;        ///< Of the file being written.
  std::vector<std::byte> bytes_;
  nlohmann::ordered_json shards_ = nlohmann::ordered_json::array();
};

/// The parsed and verified index.json of a folder.
class Index {
 public:
  explicit Index(const fs::path& path) : where_(path.string()) {
    const std::string text = read_file(path);
    json_ = nlohmann::json::parse(text, nullptr, false);
    if (!json_.is_object() || !json_.contains("format") || json_["format"] != kFormat) {
      fail("{} is not the index of token shards, or is damaged", where_);
    }
    if (integer(json_, "version") != kVersion) {
      fail("{} has version {}; this program reads version {}", where_, integer(json_, "version"),
           kVersion);
    }
    const std::string checksum = string(json_, "checksum");
    std::string unsealed = text;
    const auto at = unsealed.find(kChecksumField);
    if (at == std::string::npos || checksum.size() != std::strlen(kZeroChecksum)) {
      fail("{} is damaged: it has no checksum", where_);
    }
    unsealed.replace(at + std::strlen(kChecksumField), checksum.size(), kZeroChecksum);
    if (seal_index(unsealed) != text) fail("{} is damaged: its checksum does not fit", where_);
  }

  std::int64_t integer(const char* key) const { return integer(json_, key); }
  std::string string(const char* key) const { return string(json_, key); }
  std::int64_t integer(const nlohmann::json& object, const char* key) const {
    const auto found = object.find(key);
    // More than 2^48 of anything is no corpus, and sums of counts must not overflow.
    if (found == object.end() || !found->is_number_unsigned() ||
        found->get<std::uint64_t>() > (std::uint64_t{1} << 48)) {
      fail("{} is damaged: it has no count \"{}\"", where_, key);
    }
    return found->get<std::int64_t>();
  }
  std::string string(const nlohmann::json& object, const char* key) const {
    const auto found = object.find(key);
    if (found == object.end() || !found->is_string()) {
      fail("{} is damaged: it has no text \"{}\"", where_, key);
    }
    return *found;
  }
  std::vector<nlohmann::json> shards() const {
    const auto found = json_.find("shards");
    if (found == json_.end() || !found->is_array()) {
      fail("{} is damaged: it has no list of shards", where_);
    }
    for (const auto& shard : *found) {
      if (!shard.is_object()) fail("{} is damaged: a shard is not described", where_);
    }
    return *found;
  }

 private:
  std::string where_;
  nlohmann::json json_;
};

}  // namespace

std::string seal_index(std::string index_text) {
  const auto at = index_text.find(kChecksumField);
  if (at == std::string::npos) return index_text;
  const std::size_t place = at + std::strlen(kChecksumField);
  Checksum checksum;
  checksum.update(index_text.data(), index_text.size());
  if (index_text.compare(place, std::strlen(kZeroChecksum), kZeroChecksum) == 0) {
    index_text.replace(place, std::strlen(kZeroChecksum), checksum.hex());
  }
  return index_text;
}

PrepareReport prepare_shards(const std::vector<std::string>& patterns, const Tokenizer& tokenizer,
                             const fs::path& folder, std::int64_t shard_tokens,
                             const std::function<void(double)>& on_progress) {
  NewFolder target(folder);
  const std::size_t width = token_width(tokenizer.vocab_size());
  ShardWriter writer(target.path(), width, shard_tokens);
  PrepareReport report = tokenize(
      patterns, tokenizer, [&](const auto& ids) { writer.write(ids); }, on_progress);
  const auto& shards = writer.finish();
  report.shards = static_cast<std::int64_t>(shards.size());
  tokenizer.save(target.path());
  nlohmann::ordered_json index;
  index["format"] = kFormat;
  index["version"] = kVersion;
  index["checksum"] = kZeroChecksum;
  index["tokenizer"] = tokenizer.fingerprint();
  index["vocab_size"] = tokenizer.vocab_size();
  index["token_bytes"] = width;
  index["tokens"] = report.tokens;
  index["text_bytes"] = report.text_bytes;
  index["documents"] = report.documents;
  index["shards"] = shards;
  write_file(target.path() / kIndexFile, seal_index(index.dump(2) + "\n"));
  target.commit();
  return report;
}

TokenDataset TokenDataset::open(const fs::path& folder, const Tokenizer& tokenizer) {
  const fs::path index_path = folder / kIndexFile;
  const Index index(index_path);
  if (index.string("tokenizer") != tokenizer.fingerprint() ||
      index.integer("vocab_size") != tokenizer.vocab_size()) {
    fail("{} was prepared with the tokenizer {}, not with {}: prepare the data again",
         folder.string(), index.string("tokenizer"), tokenizer.fingerprint());
  }
  TokenDataset dataset;
  dataset.token_width_ = token_width(tokenizer.vocab_size());
  dataset.text_bytes_ = index.integer("text_bytes");
  dataset.documents_ = index.integer("documents");
  if (index.integer("token_bytes") != static_cast<std::int64_t>(dataset.token_width_)) {
    fail("{} is damaged: its tokens have a wrong width", index_path.string());
  }
  for (const auto& shard : index.shards()) {
    dataset.map_shard(folder / shard_name(dataset.files_.size()), index.integer(shard, "tokens"),
                      index.string(shard, "shard_checksum"));
    if (dataset.largest_token(dataset.segments_.back()) >= tokenizer.vocab_size()) {
      fail("{} holds tokens outside the vocabulary of {}", dataset.files_.back().path().string(),
           tokenizer.vocab_size());
    }
  }
  if (dataset.size_ == 0 || dataset.size_ != index.integer("tokens")) {
    fail("{} is damaged: its shards do not add up to {} tokens", index_path.string(),
         index.integer("tokens"));
  }
  return dataset;
}

void TokenDataset::map_shard(const fs::path& path, std::int64_t tokens,
                             const std::string& checksum) {
  files_.emplace_back(path);
  const auto bytes = files_.back().bytes();
  if (bytes.size() != static_cast<std::size_t>(tokens) * token_width_) {
    fail("{} has {} bytes instead of {}: it is cut short or not of this index", path.string(),
         bytes.size(), static_cast<std::size_t>(tokens) * token_width_);
  }
  Checksum found;
  found.update(bytes.data(), bytes.size());
  if (found.hex() != checksum) {
    fail("{} is damaged: its checksum is {}, the index says {}", path.string(), found.hex(),
         checksum);
  }
  segments_.push_back({bytes.data(), size_, tokens});
  size_ += tokens;
}

std::int64_t TokenDataset::largest_token(const Segment& segment) const {
  const auto largest = [&](auto* tokens) {
    std::int64_t result = -1;
    for (std::int64_t i = 0; i < segment.count; ++i) {
      result = std::max(result, static_cast<std::int64_t>(tokens[i]));
    }
    return result;
  };
  return token_width_ == 2 ? largest(static_cast<const std::uint16_t*>(segment.data))
                           : largest(static_cast<const std::uint32_t*>(segment.data));
}

TokenDataset TokenDataset::from_text(const std::vector<std::string>& patterns,
                                     const Tokenizer& tokenizer) {
  TokenDataset dataset;
  dataset.token_width_ = token_width(tokenizer.vocab_size());
  const PrepareReport report = tokenize(
      patterns, tokenizer,
      [&](const auto& ids) { append_tokens(ids, dataset.token_width_, dataset.memory_); }, {});
  dataset.memory_.shrink_to_fit();
  dataset.size_ = report.tokens;
  dataset.text_bytes_ = report.text_bytes;
  dataset.documents_ = report.documents;
  dataset.segments_.push_back({dataset.memory_.data(), 0, report.tokens});
  return dataset;
}

void TokenDataset::read(std::int64_t start, std::int64_t count, std::int32_t* out) const {
  assert(start >= 0 && count >= 0 && start + count <= size_);
  auto segment = std::upper_bound(segments_.begin(), segments_.end(), start,
                                  [](std::int64_t at, const Segment& s) { return at < s.first; });
  for (--segment; count > 0; ++segment) {
    const std::int64_t skip = start - segment->first;
    const std::int64_t taken = std::min(count, segment->count - skip);
    if (token_width_ == 2) {
      std::copy_n(static_cast<const std::uint16_t*>(segment->data) + skip, taken, out);
    } else {
      std::copy_n(static_cast<const std::uint32_t*>(segment->data) + skip, taken,
                  reinterpret_cast<std::uint32_t*>(out));
    }
    out += taken;
    start += taken;
    count -= taken;
  }
}

TokenDataset open_dataset(const std::string& path_or_pattern, const Tokenizer& tokenizer) {
  std::error_code unreadable;  // is told when it is opened
  if (fs::exists(fs::path(path_or_pattern) / kIndexFile, unreadable)) {
    return TokenDataset::open(path_or_pattern, tokenizer);
  }
  return TokenDataset::from_text({path_or_pattern}, tokenizer);
}

}  // namespace quest
