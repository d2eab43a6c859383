// The byte tokenizer, the sentencepiece tokenizer, and their files in a model folder.
#include "data/tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "data/utf8.h"

namespace quest {
namespace {

constexpr const char* kConfigFile = "tokenizer_config.json";
constexpr const char* kModelFile = "tokenizer.model";
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581 stands for a space in pieces.

void save_config(const std::filesystem::path& folder, const std::string& kind,
                 const Tokenizer& tokenizer) {
  nlohmann::ordered_json config;
  config["quest_tokenizer"] = kind;
  config["vocab_size"] = tokenizer.vocab_size();
  config["eos_token_id"] = tokenizer.end_of_text_id();
  config["fingerprint"] = tokenizer.fingerprint();
  if (kind == "sentencepiece") {
    config["tokenizer_class"] = "LlamaTokenizer";
    config["add_bos_token"] = false;
    config["add_eos_token"] = false;
    config["legacy"] = false;
  }
  write_file(folder / kConfigFile, config.dump(2) + "\n");
}

/// A token is a byte; byte 0, which text files never hold, ends a document.
class BytesTokenizer : public Tokenizer {
 public:
  BytesTokenizer() {
    for (std::size_t byte = 0; byte < bytes_.size(); ++byte) bytes_[byte] = static_cast<char>(byte);
  }

  std::vector<std::int32_t> encode(std::string_view text) const override {
    std::vector<std::int32_t> ids(text.size());
    for (std::size_t i = 0; i < text.size(); ++i) ids[i] = static_cast<unsigned char>(text[i]);
    return ids;
  }
  std::int32_t vocab_size() const override { return 256; }
  std::int32_t end_of_text_id() const override { return 0; }
  std::string_view token_text(std::int32_t id) const override {
    assert(id >= 0 && id < vocab_size());
    return {&bytes_[static_cast<std::size_t>(id)], id == 0 ? std::size_t{0} : std::size_t{1}};
  }
  const std::string& fingerprint() const override { return fingerprint_; }
  void save(const std::filesystem::path& folder) const override {
    save_config(folder, "bytes", *this);
  }

 private:
  std::array<char, 256> bytes_{};
  std::string fingerprint_ = "bytes";
};

/// A sentencepiece model with byte fallback. sentencepiece itself loses two things that we keep:
/// U+2581, which it takes for a space, and invalid UTF-8, which it replaces; both go to byte tokens
/// directly.
class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(std::string model, const std::string& where) : model_(std::move(model)) {
    const auto status = processor_.LoadFromSerializedProto(model_);
    if (!status.ok()) {
      fail("{} is not a sentencepiece model, or a damaged one (quest tokenizer train makes one)",
           where);
    }
    byte_ids_.fill(-1);
    for (std::int32_t id = 0; id < vocab_size(); ++id) {
      texts_.push_back(text_of(id));
      const std::string& token = texts_.back();
      spaces_start_tokens_ &= token.find(' ', 1) == std::string::npos;
      newlines_end_tokens_ &= std::min(token.find('\n'), token.size()) + 1 >= token.size();
      if (processor_.IsByte(id)) byte_ids_[static_cast<unsigned char>(texts_.back()[0])] = id;
    }
    if (std::find(byte_ids_.begin(), byte_ids_.end(), -1) != byte_ids_.end()) {
      fail("{} has no byte fallback: text could be lost (quest tokenizer train makes one)", where);
    }
    if (processor_.eos_id() < 0) fail("{} has no end-of-text token", where);
    const std::string probe = " Two  spaces,\n\n\ttabs, 12 \xC2\xBD, caf\xC3\xA9 \xEF\xAC\x81 ";
    if (decode(encode(probe)) != probe) {
      fail(
          "{} changes text: it was trained with normalization or with a space put before each text",
          where);
    }
    Checksum checksum;
    checksum.update(model_.data(), model_.size());
    fingerprint_ = fmt::format("sentencepiece-{}-{}", vocab_size(), checksum.hex());
  }

  std::vector<std::int32_t> encode(std::string_view text) const override {
    std::vector<std::int32_t> ids;
    while (!text.empty()) {
      const std::size_t plain = check_utf8(text.substr(0, text.find(kSpaceMark))).valid_bytes;
      append_plain(text.substr(0, plain), ids);
      text.remove_prefix(plain);
      const std::size_t odd =
          std::min(text.size(), text.starts_with(kSpaceMark) ? kSpaceMark.size() : std::size_t{1});
      for (const char byte : text.substr(0, odd)) {
        ids.push_back(byte_ids_[static_cast<unsigned char>(byte)]);
      }
      text.remove_prefix(odd);
    }
    return ids;
  }

  std::int32_t vocab_size() const override { return processor_.GetPieceSize(); }
  std::int32_t end_of_text_id() const override { return processor_.eos_id(); }
  std::string_view token_text(std::int32_t id) const override {
    assert(id >= 0 && id < vocab_size());
    return texts_[static_cast<std::size_t>(id)];
  }
  const std::string& fingerprint() const override { return fingerprint_; }
  void save(const std::filesystem::path& folder) const override {
    write_file(folder / kModelFile, model_);
    save_config(folder, "sentencepiece", *this);
  }

 private:
  std::string text_of(std::int32_t id) const {
    if (processor_.IsControl(id) || processor_.IsUnknown(id) || processor_.IsUnused(id)) return "";
    std::string piece = processor_.IdToPiece(id);
    if (processor_.IsByte(id)) {  // Spelled <0xNN>.
      return std::string(1, static_cast<char>(std::stoi(piece.substr(3, 2), nullptr, 16)));
    }
    for (std::size_t at = 0; (at = piece.find(kSpaceMark, at)) != std::string::npos; ++at) {
      piece.replace(at, kSpaceMark.size(), " ");
    }
    return piece;
  }

  /// Tokenizes UTF-8 without U+2581, segment by segment. A segment ends where no token can cross,
  /// so the tokens are those of the whole text; most segments are words that occur again and again.
  void append_plain(std::string_view text, std::vector<std::int32_t>& ids) const {
    std::unordered_map<std::string_view, std::pair<std::size_t, std::size_t>> known;
    std::vector<int> pieces;
    while (!text.empty()) {
      const std::string_view segment = text.substr(0, segment_size(text));
      text.remove_prefix(segment.size());
      const auto [entry, is_new] = known.try_emplace(segment);
      if (is_new) {
        const auto status = processor_.Encode(segment, &pieces);
        if (!status.ok()) fail("cannot tokenize the text: {}", status.message());
        entry->second = {ids.size(), pieces.size()};
        ids.insert(ids.end(), pieces.begin(), pieces.end());
      } else {
        const auto [first, count] = entry->second;
        for (std::size_t i = first; i < first + count; ++i) ids.push_back(ids[i]);
      }
    }
  }

  std::size_t segment_size(std::string_view text) const {
    const std::size_t space = spaces_start_tokens_ ? text.find(' ', 1) : std::string_view::npos;
    const std::size_t newline = newlines_end_tokens_ ? text.find('\n') : std::string_view::npos;
    return std::min(
        {text.size(), space, newline == std::string_view::npos ? newline : newline + 1});
  }

  std::string model_;
  sentencepiece::SentencePieceProcessor processor_;
  std::vector<std::string> texts_;
  std::array<std::int32_t, 256> byte_ids_;
  bool spaces_start_tokens_ = true;  ///< No token has a space but in front.
  bool newlines_end_tokens_ = true;  ///< No token has a newline but at its end.
  std::string fingerprint_;
};

}  // namespace

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  for (const std::int32_t id : ids) text += token_text(id);
  return text;
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& bytes_or_path) {
  if (bytes_or_path == "bytes") return std::make_unique<BytesTokenizer>();
  if (!std::filesystem::exists(bytes_or_path)) {
    fail("there is no tokenizer '{}': give 'bytes' or the path of a sentencepiece model",
         bytes_or_path);
  }
  return std::make_unique<SentencePieceTokenizer>(read_file(bytes_or_path), bytes_or_path);
}

std::unique_ptr<Tokenizer> load_tokenizer_from_folder(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / kConfigFile;
  const auto config = nlohmann::json::parse(read_file(path), nullptr, false);
  const auto text = [&](const char* key) -> std::string {
    const auto found = config.is_object() ? config.find(key) : config.end();
    if (found == config.end() || !found->is_string()) {
      fail("{} does not describe a tokenizer: it has no text under \"{}\"", path.string(), key);
    }
    return *found;
  };
  const std::string kind = text("quest_tokenizer");
  if (kind != "bytes" && kind != "sentencepiece") {
    fail("{} asks for a tokenizer of the unknown kind '{}'", path.string(), kind);
  }
  auto tokenizer = load_tokenizer(kind == "bytes" ? kind : (folder / kModelFile).string());
  if (tokenizer->fingerprint() != text("fingerprint")) {
    fail("{} names the tokenizer {}, but {} is {}", path.string(), text("fingerprint"),
         (folder / kModelFile).string(), tokenizer->fingerprint());
  }
  return tokenizer;
}

}  // namespace quest
