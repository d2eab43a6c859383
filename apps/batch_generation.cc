// From lines of a prompt file to slots of a batch and back.
#include "apps/batch_generation.h"

#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <utility>

#include "apps/output.h"
#include "core/error.h"
#include "infer/generate_batch.h"
#include "infer/stop_texts.h"
#include "infer/text_stream.h"

namespace quest::app {
namespace {

using Json = nlohmann::ordered_json;

// The text of one continuation as it grows.
struct GrowingText {
  explicit GrowingText(std::vector<std::string> stop) : stops(std::move(stop)) {}

  std::string finished() {
    text += stream.push(stops.finish());
    return text + stream.finish();
  }

  StopTexts stops;
  TextStream stream;
  std::string text;
};

class PromptBatch {
 public:
  PromptBatch(const std::string& path, const PromptDefaults& defaults, const LoadedModel& model,
              const SequencesOptions& sizes)
      : path_(path),
        file_(path, defaults),
        tokenizer_(*model.tokenizer),
        sequences_(*model.model, sizes) {}

  int run() {
    const BatchTotals totals = generate_batch(sequences_, [this] { return next(); });
    if (totals.prompts + failed_ == 0) {
      fail("there is no prompt in {}", path_ == "-" ? "standard input" : path_);
    }
    fmt::print(stderr, "quest: {} prompts, {} tokens, {:.1f} tokens/s\n", totals.prompts,
               totals.new_tokens,
               totals.seconds > 0 ? static_cast<double>(totals.new_tokens) / totals.seconds : 0.0);
    if (failed_ == 0) return 0;
    fmt::print(stderr, "quest: error: {} of {} prompts could not be continued; the first: {}\n",
               failed_, totals.prompts + failed_, first_error_);
    return 1;
  }

 private:
  std::optional<BatchPrompt> next() {
    while (std::optional<PromptLine> line = file_.next()) {
      try {
        if (!line->error.empty()) throw Error(line->error);
        return prompt_of(*line);
      } catch (const Error& error) {
        if (failed_++ == 0) first_error_ = error.what();
        Json object = head_of(*line);
        object["error"] = error.what();
        results_.put(line->index, object);
      }
    }
    return std::nullopt;
  }

  static Json head_of(const PromptLine& line) {
    Json object;
    object["index"] = line.index;
    if (line.id) object["id"] = *line.id;
    return object;
  }

  BatchPrompt prompt_of(const PromptLine& line) {
    BatchPrompt prompt;
    // Documents follow an end-of-text token in training, so that is how an empty prompt begins.
    prompt.tokens = line.text ? tokenizer_.encode(*line.text)
                              : std::vector<std::int32_t>{tokenizer_.end_of_text_id()};
    if (static_cast<std::int64_t>(prompt.tokens.size()) > sequences_.capacity()) {
      fail(
          "the prompt has {} tokens, but the context is {}; give a shorter one, or a larger "
          "--context",
          prompt.tokens.size(), sequences_.capacity());
    }
    prompt.options = line.options;
    const auto growing = std::make_shared<GrowingText>(line.stop);
    prompt.options.has_ended = [growing] { return growing->stops.found(); };
    prompt.on_token = [this, growing](std::int32_t token) {
      growing->text += growing->stream.push(growing->stops.push(tokenizer_.token_text(token)));
    };
    prompt.on_end = [this, growing, line, prompt_tokens = prompt.tokens.size()](
                        const std::vector<std::int32_t>& tokens, StopReason reason) {
      Json object = head_of(line);
      object["text"] = growing->finished();
      object["tokens"] = tokens.size();
      object["prompt_tokens"] = prompt_tokens;
      object["stop_reason"] = std::string(name(reason));
      object["seed"] = line.options.sampling.seed;
      results_.put(line.index, object);
    };
    return prompt;
  }

  std::string path_;
  PromptFile file_;
  const Tokenizer& tokenizer_;
  Sequences sequences_;
  OrderedLines results_;
  std::int64_t failed_ = 0;
  std::string first_error_;
};

}  // namespace

int continue_prompts(const std::string& path, const PromptDefaults& defaults,
                     const LoadedModel& model, const SequencesOptions& sizes) {
  return PromptBatch(path, defaults, model, sizes).run();
}

}  // namespace quest::app
