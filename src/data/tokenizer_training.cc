// Training of the sentencepiece tokenizer on a sample of lines.
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <unordered_map>

#include "core/error.h"
#include "core/file.h"
#include "core/rng.h"
#include "data/text_source.h"
#include "data/tokenizer.h"

namespace quest {
namespace {

constexpr std::size_t kMaxSentenceBytes = 4096;

/// A sample of the lines offered to it, in their order, of at most `max_bytes`: a line is held
/// while its random priority is below a threshold, which halves whenever the lines outgrow the cap.
class LineSample {
 public:
  LineSample(std::uint64_t seed, std::int64_t max_bytes)
      : rng_(seed, RngPurpose::kSample), max_bytes_(max_bytes) {}

  void offer(std::string_view line) {
    const auto word = rng_.bits(offered_++);
    const std::uint64_t priority = (std::uint64_t{word[0]} << 32) | word[1];
    if (priority > threshold_) return;
    lines_.push_back({priority, std::string(line)});
    held_bytes_ += static_cast<std::int64_t>(line.size());
    while (held_bytes_ > max_bytes_ && lines_.size() > 1) thin();
  }

  std::int64_t held_bytes() const { return held_bytes_; }
  std::size_t size() const { return lines_.size(); }
  const std::string& line(std::size_t index) const { return lines_[index].text; }

 private:
  struct Line {
    std::uint64_t priority;
    std::string text;
  };

  void thin() {
    threshold_ /= 2;
    std::erase_if(lines_, [&](const Line& line) { return line.priority > threshold_; });
    held_bytes_ = 0;
    for (const Line& line : lines_) held_bytes_ += static_cast<std::int64_t>(line.text.size());
  }

  Rng rng_;
  std::int64_t max_bytes_;
  std::uint64_t threshold_ = ~std::uint64_t{0};
  std::uint64_t offered_ = 0;
  std::int64_t held_bytes_ = 0;
  std::vector<Line> lines_;
};

/// Offers each line with its newline, long lines in several pieces that begin with a space.
void offer_lines(std::string_view text, LineSample& sample) {
  while (!text.empty()) {
    std::size_t size = std::min(text.find('\n'), text.size() - 1) + 1;
    if (size > kMaxSentenceBytes) {
      const auto space = text.substr(0, kMaxSentenceBytes).rfind(' ');
      size = space != std::string_view::npos && space > 0 ? space : kMaxSentenceBytes;
      while (size < text.size() && size > 1 &&
             (static_cast<unsigned char>(text[size]) & 0xC0) == 0x80) {
        --size;
      }
    }
    sample.offer(text.substr(0, size));
    text.remove_prefix(size);
  }
}

class SampleIterator : public sentencepiece::SentenceIterator {
 public:
  explicit SampleIterator(const LineSample& sample) : sample_(sample) {}
  bool done() const override { return next_ >= sample_.size(); }
  void Next() override { ++next_; }  // NOLINT(readability-identifier-naming)
  const std::string& value() const override { return sample_.line(next_); }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const LineSample& sample_;
  std::size_t next_ = 0;
};

/// What sentencepiece says, without the place in its source, as something that a user can change.
[[noreturn]] void refuse_training(std::int32_t vocab_size, const std::string& message) {
  const std::size_t bracket = message.find("] ");
  const std::string said = bracket == std::string::npos ? message : message.substr(bracket + 2);
  if (const std::size_t at = said.find("<= ");
      said.find("too high") != std::string::npos && at != std::string::npos) {
    const int most = std::atoi(said.c_str() + at + 3);
    fail("this text is too little for a vocabulary of {}: give more text{}", vocab_size,
         most >= kLeastVocab ? fmt::format(", or a vocabulary of {} or less", most) : "");
  }
  if (const std::size_t at = said.find(" vs ");
      said.find("required_chars") != std::string::npos && at != std::string::npos) {
    fail(
        "a vocabulary of {} is too small for the different characters of this text: give {} or "
        "more",
        vocab_size, std::atoi(said.c_str() + at + 4));
  }
  fail("cannot train a tokenizer with a vocabulary of {} on this text: {}", vocab_size, said);
}

}  // namespace

TokenizerTraining learn_sentencepiece(const std::vector<std::string>& inputs,
                                      std::int32_t vocab_size, std::uint64_t seed,
                                      std::int64_t max_bytes) {
  if (vocab_size < kLeastVocab) {
    fail("a vocabulary of {} is too small: give {} or more", vocab_size, kLeastVocab);
  }
  TokenizerTraining report;
  LineSample sample(seed, max_bytes);
  TextSource source(inputs);
  for (TextChunk chunk; source.next(chunk);) {
    report.text_bytes += static_cast<std::int64_t>(chunk.text.size());
    offer_lines(chunk.text, sample);
  }
  report.sampled_bytes = sample.held_bytes();
  report.vocab_size = vocab_size;
  const std::unordered_map<std::string, std::string> arguments = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(vocab_size)},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"add_dummy_prefix", "false"},
      {"byte_fallback", "true"},
      {"split_digits", "true"},
      {"character_coverage", "0.9995"},
      {"max_sentence_length", std::to_string(2 * kMaxSentenceBytes)},
      {"unk_id", "0"},
      {"eos_id", "1"},
      {"eos_piece", "<|endoftext|>"},
      {"bos_id", "-1"},
      {"pad_id", "-1"},
      {"num_threads", "2"},
      {"minloglevel", "2"}};
  SampleIterator iterator(sample);
  const auto status =
      sentencepiece::SentencePieceTrainer::Train(arguments, &iterator, &report.model);
  if (!status.ok()) refuse_training(vocab_size, status.message());
  return report;
}

TokenizerTraining train_sentencepiece(const std::vector<std::string>& inputs,
                                      std::int32_t vocab_size, const std::filesystem::path& out,
                                      std::uint64_t seed, std::int64_t max_bytes) {
  TokenizerTraining report = learn_sentencepiece(inputs, vocab_size, seed, max_bytes);
  write_file(out, report.model);
  return report;
}

}  // namespace quest
