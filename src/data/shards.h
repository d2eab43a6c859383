// Token shards: a tokenized corpus on disk, memory-mapped for training.
//
// A folder holds index.json, shard-00000.bin, shard-00001.bin, ... and a copy of the tokenizer. A
// shard is bare little-endian tokens, u16 where the vocabulary fits, else u32. The index carries
// the counts, the tokenizer's fingerprint, and a checksum of each shard and of itself.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "core/file.h"
#include "data/tokenizer.h"

namespace quest {

/// Tokens of a shard file unless asked otherwise: 128 MiB of u16.
inline constexpr std::int64_t kShardTokens = std::int64_t{1} << 26;

/// What `prepare_shards` wrote.
struct PrepareReport {
  std::int64_t tokens = 0;      ///< With the separators between documents.
  std::int64_t text_bytes = 0;  ///< Of all documents, without separators.
  std::int64_t documents = 0;
  std::int64_t shards = 0;
};

/// Tokenizes the documents of `patterns` (see TextSource) into the new folder `folder`, with an
/// end-of-text token between documents (none at the end). Streams: memory does not grow with the
/// corpus. `on_progress`, where given, learns the share of the input that is done. The folder
/// appears as NewFolder says; an error leaves nothing behind, nor does what `on_progress` throws.
/// Throws Error on bad input and when the folder cannot be made.
PrepareReport prepare_shards(const std::vector<std::string>& patterns, const Tokenizer& tokenizer,
                             const std::filesystem::path& folder,
                             std::int64_t shard_tokens = kShardTokens,
                             const std::function<void(double)>& on_progress = {});

/// A sequence of tokens with random access, mapped from shards or held in memory.
class TokenDataset {
 public:
  /// Maps the shards in `folder` and checks everything: throws Error for another tokenizer, a shard
  /// that is missing, cut short or altered, and tokens outside the vocabulary.
  static TokenDataset open(const std::filesystem::path& folder, const Tokenizer& tokenizer);
  /// Tokenizes the documents of `patterns` in memory; the same tokens as `prepare_shards`.
  static TokenDataset from_text(const std::vector<std::string>& patterns,
                                const Tokenizer& tokenizer);

  /// Number of tokens.
  std::int64_t size() const { return size_; }
  /// What the tokens take, in memory or mapped from files.
  std::size_t bytes() const { return static_cast<std::size_t>(size_) * token_width_; }
  bool mapped() const { return memory_.empty(); }
  /// Bytes of text that all tokens stand for.
  std::int64_t text_bytes() const { return text_bytes_; }
  std::int64_t documents() const { return documents_; }
  /// Copies tokens [start, start + count) to `out`; the range lies in [0, size()].
  void read(std::int64_t start, std::int64_t count, std::int32_t* out) const;

 private:
  struct Segment {
    const void* data;
    std::int64_t first;  ///< Index of its first token.
    std::int64_t count;
  };

  void map_shard(const std::filesystem::path& path, std::int64_t tokens,
                 const std::string& checksum);
  std::int64_t largest_token(const Segment& segment) const;

  std::int64_t size_ = 0;
  std::int64_t text_bytes_ = 0;
  std::int64_t documents_ = 0;
  std::size_t token_width_ = 2;  ///< Bytes a token, 2 or 4.
  std::vector<MappedFile> files_;
  std::vector<std::byte> memory_;
  std::vector<Segment> segments_;
};

/// `TokenDataset::open` when `path_or_pattern` is a folder with an index.json, else `from_text`.
TokenDataset open_dataset(const std::string& path_or_pattern, const Tokenizer& tokenizer);

/// Puts the checksum of `index_text` into its field "checksum", whose value must be sixteen zeros.
/// For the writer, and for tests that forge an index.
std::string seal_index(std::string index_text);

}  // namespace quest
