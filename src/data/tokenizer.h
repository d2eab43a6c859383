// Tokenizers: text to token ids and back, exactly.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quest {

/// Maps text to tokens and back: `decode(encode(text)) == text` for every sequence of bytes but
/// NUL (see `BytesTokenizer` in the source file). Decoding is by token: the text of a sequence is
/// the texts of its tokens in a row, so a stream may be decoded one token at a time. A token may
/// stand for a part of a character.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual std::vector<std::int32_t> encode(std::string_view text) const = 0;
  virtual std::int32_t vocab_size() const = 0;
  /// The token between documents.
  virtual std::int32_t end_of_text_id() const = 0;
  /// The bytes that token `id` stands for; none for special tokens. `id` is in [0, vocab_size).
  virtual std::string_view token_text(std::int32_t id) const = 0;
  /// Identifies the mapping; equal only for tokenizers that encode alike. Shards and model folders
  /// carry it.
  virtual const std::string& fingerprint() const = 0;
  /// Writes `tokenizer_config.json`, and `tokenizer.model` where there is a model, into `folder`,
  /// which exists.
  virtual void save(const std::filesystem::path& folder) const = 0;

  /// How many bytes of text token `id` stands for; 0 for special tokens.
  std::int64_t token_bytes(std::int32_t id) const {
    return static_cast<std::int64_t>(token_text(id).size());
  }
  std::string decode(std::span<const std::int32_t> ids) const;
};

/// "bytes" (256 tokens, one a byte; 0 ends a document), or the path of a sentencepiece model.
/// Throws Error when the file is missing, damaged, or a model that would not give text back exactly
/// (such models are made without byte fallback or with normalization).
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& bytes_or_path);

/// The tokenizer that `save` wrote into `folder`. Throws Error when it is missing or altered.
std::unique_ptr<Tokenizer> load_tokenizer_from_folder(const std::filesystem::path& folder);

/// The least vocabulary to train: 256 byte tokens, the unknown token and the end of text come
/// first.
inline constexpr std::int32_t kLeastVocab = 300;

/// What `learn_sentencepiece` made, and of what.
struct TokenizerTraining {
  std::int64_t text_bytes = 0;     ///< In the input.
  std::int64_t sampled_bytes = 0;  ///< Of these, used.
  std::int64_t vocab_size = 0;
  std::string model;  ///< The sentencepiece model, as its file holds it.
};

/// Trains a byte-pair encoding with byte fallback on the documents of `inputs` (patterns of
/// TextSource). Digits are split; text is left as it is. Inputs may be of any size: of more than
/// `max_bytes`, a sample of lines, chosen by `seed`, is used. Throws Error on bad input and when
/// `vocab_size` does not fit the text.
TokenizerTraining learn_sentencepiece(const std::vector<std::string>& inputs,
                                      std::int32_t vocab_size, std::uint64_t seed = 0,
                                      std::int64_t max_bytes = std::int64_t{64} << 20);

/// The same, and writes the model to `out`, atomically.
TokenizerTraining train_sentencepiece(const std::vector<std::string>& inputs,
                                      std::int32_t vocab_size, const std::filesystem::path& out,
                                      std::uint64_t seed = 0,
                                      std::int64_t max_bytes = std::int64_t{64} << 20);

}  // namespace quest
