// The readers of .txt and .jsonl behind TextSource.
#include "data/text_source.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "core/error.h"
#include "core/file.h"
#include "data/byte_stream.h"
#include "data/utf8.h"

namespace quest {
namespace {

constexpr std::size_t kReadBytes = std::size_t{1} << 18;

enum class Format { kText, kJsonLines };

std::optional<Format> format_of(std::filesystem::path path) {
  if (path.extension() == ".zst") path.replace_extension();
  if (path.extension() == ".txt") return Format::kText;
  if (path.extension() == ".jsonl") return Format::kJsonLines;
  return std::nullopt;
}

/// Where the first chunk of a text ends, `text` being all that is left of the document, or at
/// least kMaxChunkBytes of it.
std::size_t chunk_end(std::string_view text) {
  constexpr std::size_t kMax = TextSource::kMaxChunkBytes;
  if (text.size() < kMax) return text.size();
  const std::string_view window = text.substr(0, kMax);
  if (const auto newline = window.rfind('\n'); newline != std::string_view::npos) {
    return newline + 1;
  }
  if (const auto space = window.rfind(' '); space != std::string_view::npos && space > 0) {
    return space;
  }
  std::size_t end = kMax;
  const auto continues = [&](std::size_t at) {
    return at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80;
  };
  while (end > kMax - 3 && continues(end)) --end;
  return end;
}

/// Throws Error unless `text`, found at `offset` in a file, is UTF-8 without NUL.
void require_clean(std::string_view text, const std::string& path, std::uint64_t offset) {
  const Utf8Check check = check_utf8(text);
  if (check.valid_bytes != text.size()) {
    fail("{} is not valid UTF-8 at byte {} (byte value 0x{:02X}{}): convert it to UTF-8 first",
         path, offset + check.valid_bytes, static_cast<unsigned char>(text[check.valid_bytes]),
         check.cut ? ", a character cut short" : "");
  }
  if (const auto nul = text.find('\0'); nul != std::string_view::npos) {
    fail("{} contains a NUL byte at byte {}: it does not look like text", path, offset + nul);
  }
}

class TextReader : public DocumentReader {
 public:
  explicit TextReader(const std::filesystem::path& path)
      : path_(path.string()), stream_(open_byte_stream(path)) {}

  bool next(TextChunk& chunk) override {
    // One byte more than a chunk, so that chunk_end can see whether it splits a character.
    while (!ended_ && buffer_.size() <= TextSource::kMaxChunkBytes) fill();
    if (buffer_.empty()) return false;
    chunk.text.assign(buffer_, 0, chunk_end(buffer_));
    require_clean(chunk.text, path_, offset_);
    buffer_.erase(0, chunk.text.size());
    chunk.starts_document = offset_ == 0;
    offset_ += chunk.text.size();
    return true;
  }
  std::uint64_t position() const override { return stream_->position(); }

 private:
  void fill() {
    const std::size_t held = buffer_.size();
    buffer_.resize(held + kReadBytes);
    const std::size_t count = stream_->read(buffer_.data() + held, kReadBytes);
    buffer_.resize(held + count);
    ended_ = count == 0;
  }

  std::string path_;
  std::unique_ptr<ByteStream> stream_;
  std::string buffer_;
  std::uint64_t offset_ = 0;  ///< Of the buffer's first byte, in the (decompressed) file.
  bool ended_ = false;
};

class JsonLinesReader : public DocumentReader {
 public:
  explicit JsonLinesReader(const std::filesystem::path& path)
      : path_(path.string()), stream_(open_byte_stream(path)) {}

  bool next(TextChunk& chunk) override {
    while (at_ == document_.size()) {
      if (!read_line()) return false;
      parse_line();
      at_ = 0;
    }
    const std::string_view rest = std::string_view(document_).substr(at_);
    chunk.text = rest.substr(0, chunk_end(rest));
    chunk.starts_document = at_ == 0;
    at_ += chunk.text.size();
    return true;
  }
  std::uint64_t position() const override { return stream_->position(); }

 private:
  /// Moves the next line, without its newline, to `line_`; false at the end of the file.
  bool read_line() {
    offset_ += line_bytes_;
    buffer_.erase(0, line_bytes_);
    std::size_t searched = 0;
    std::size_t newline;
    while ((newline = buffer_.find('\n', searched)) == std::string::npos && !ended_) {
      searched = buffer_.size();
      if (searched > TextSource::kMaxLineBytes) {
        fail("{}: line {} is longer than {} MiB", path_, line_number_ + 1,
             TextSource::kMaxLineBytes >> 20);
      }
      buffer_.resize(searched + kReadBytes);
      const std::size_t count = stream_->read(buffer_.data() + searched, kReadBytes);
      buffer_.resize(searched + count);
      ended_ = count == 0;
    }
    if (buffer_.empty()) return false;
    ++line_number_;
    line_ = std::string_view(buffer_).substr(0, newline);
    line_bytes_ = newline == std::string::npos ? buffer_.size() : newline + 1;
    return true;
  }

  /// Sets `document_` to the text of `line_`, empty for a blank line.
  void parse_line() {
    document_.clear();
    if (line_.find_first_not_of(" \t\r") == std::string_view::npos) return;
    require_clean(line_, path_, offset_);
    auto json = nlohmann::json::parse(line_.begin(), line_.end(), nullptr, false);
    if (json.is_discarded()) fail("{}: line {} is not valid JSON", path_, line_number_);
    if (!json.is_object() || !json.contains("text") || !json["text"].is_string()) {
      fail("{}: line {} has no field \"text\" that holds a string", path_, line_number_);
    }
    document_ = std::move(json["text"].get_ref<std::string&>());
    if (document_.find('\0') != std::string::npos) {
      fail("{}: the text of line {} contains a NUL character", path_, line_number_);
    }
  }

  std::string path_;
  std::unique_ptr<ByteStream> stream_;
  std::string buffer_;
  std::string_view line_;          ///< Into `buffer_`.
  std::size_t line_bytes_ = 0;     ///< Of `line_` and its newline.
  std::uint64_t offset_ = 0;       ///< Of `line_` in the (decompressed) file.
  std::uint64_t line_number_ = 0;  ///< Of `line_`, from 1.
  bool ended_ = false;
  std::string document_;
  std::size_t at_ = 0;  ///< How much of `document_` has been handed out.
};

std::unique_ptr<DocumentReader> open_reader(const std::filesystem::path& path) {
  if (format_of(path) == Format::kJsonLines) return std::make_unique<JsonLinesReader>(path);
  return std::make_unique<TextReader>(path);
}

}  // namespace

TextSource::TextSource(const std::vector<std::string>& patterns) {
  constexpr const char* kFormats = ".txt, .jsonl, .txt.zst or .jsonl.zst";
  for (const std::string& pattern : patterns) {
    auto matches = expand_glob(pattern);
    const auto unknown = [](const auto& path) { return !format_of(path).has_value(); };
    if (std::filesystem::is_directory(pattern)) {
      std::erase_if(matches, unknown);
      if (matches.empty()) fail("the folder '{}' holds no {} file", pattern, kFormats);
    }
    std::erase_if(matches, [](const auto& path) { return std::filesystem::is_directory(path); });
    if (matches.empty()) fail("'{}' matches folders only", pattern);
    if (const auto found = std::find_if(matches.begin(), matches.end(), unknown);
        found != matches.end()) {
      fail("cannot tell the format of {}: text files end in {}", found->string(), kFormats);
    }
    paths_.insert(paths_.end(), matches.begin(), matches.end());
    for (const auto& path : matches) {
      std::error_code unknown_size;  // A pipe has none.
      const auto bytes = std::filesystem::file_size(path, unknown_size);
      if (!unknown_size) total_bytes_ += bytes;
    }
    description_ += (description_.empty() ? "'" : " '") + pattern + "'";
  }
}

bool TextSource::next(TextChunk& chunk) {
  while (true) {
    if (reader_ && reader_->next(chunk)) {
      any_text_ = true;
      return true;
    }
    if (reader_) done_bytes_ += reader_->position();
    if (next_path_ == paths_.size()) break;
    reader_ = open_reader(paths_[next_path_++]);
  }
  reader_.reset();
  if (!any_text_) fail("there is no text in {}: the data is empty", description_);
  return false;
}

double TextSource::fraction() const {
  if (total_bytes_ == 0) return 0.0;
  const std::uint64_t read = done_bytes_ + (reader_ ? reader_->position() : 0);
  return std::min(1.0, static_cast<double>(read) / static_cast<double>(total_bytes_));
}

}  // namespace quest
