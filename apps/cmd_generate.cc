// quest generate: continues a text, character by character as it comes.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "apps/batch_generation.h"
#include "apps/command.h"
#include "apps/model_options.h"
#include "apps/options.h"
#include "apps/output.h"
#include "core/error.h"
#include "core/file.h"
#include "data/utf8.h"
#include "infer/generate.h"
#include "infer/stop_texts.h"
#include "infer/text_stream.h"

namespace quest::app {
namespace {

class GenerateCommand : public Command {
 public:
  CommandText text() const override {
    return {"generate",
            "Continue a text with a trained model",
            {"quest generate --model my-run --prompt 'Once upon a time' -n 200",
             "quest generate --model my-run --temp 0 --prompt-file start.txt",
             "quest generate --model my-run --prompt 'The cat' --seed 7 --json",
             "quest generate --model my-run --prompts prompts.jsonl --batch 32 > results.jsonl"}};
  }

  void declare(CLI::App& app) override {
    model_.declare_model(app);
    auto* prompt = app.add_option("--prompt", prompt_, "text to continue; none: a new document")
                       ->type_name("TEXT");
    auto* file = app.add_option("--prompt-file", prompt_file_, "read the prompt from a file")
                     ->type_name("FILE")
                     ->check(names_a_file)
                     ->excludes(prompt);
    app.add_option(
           "--prompts", prompts_,
           "continue many prompts at once: one JSON object a line, {\"prompt\": TEXT} and, if "
           "wanted, id, max_tokens, temperature, top_k, top_p, seed, stop; results always as "
           "JSON lines, in the same order; -: read standard input")
        ->type_name("FILE")
        ->check(names_a_file)
        ->excludes(prompt)
        ->excludes(file);
    auto* batch = add_whole(app, "--batch", batch_, {.low = 1, .high = Sequences::kMostSlots},
                            "prompts of --prompts at a time");
    // What a config says of it does no harm without --prompts: printed ones name every option.
    app.parse_complete_callback([this, batch] { batch_typed_ = batch->count() > 0; });
    add_whole(app, "-n,--tokens", options_.max_tokens, {.low = 1}, "most tokens to make");
    app.add_option("--stop", stop_, "end before this text; may be repeated")->type_name("TEXT");
    add_sampling(app, options_.sampling, seed_);
    model_.declare_context(app);
    model_.declare_kv_bits(app);
    model_.declare_machine(app);
    app.add_flag(
        "--json", json_,
        "print one JSON object at the end instead of the text; with --prompts, which always "
        "prints one a prompt, it changes nothing");
  }

  int run() override {
    if (batch_typed_ && prompts_.empty()) throw UsageError("--batch requires --prompts");
    if (!prompt_file_.empty()) prompt_ = read_file(prompt_file_);
    if (prompt_ && prompt_->empty()) {
      fail("the prompt is empty; leave --prompt and --prompt-file out to start a new document");
    }
    if (prompt_) require_utf8(*prompt_, prompt_file_.empty() ? "--prompt" : prompt_file_);
    options_.sampling.seed = static_cast<std::uint64_t>(seed_);
    options_.sampling.validate();
    const LoadedModel loaded = model_.load();
    const Tokenizer& tokenizer = *loaded.tokenizer;
    options_.vocab = tokenizer.vocab_size();
    options_.end_token = tokenizer.end_of_text_id();
    const std::int64_t context = loaded.model->config().max_positions;
    options_.max_tokens = std::min(options_.max_tokens, context + 1);
    if (!prompts_.empty()) {
      return continue_prompts(prompts_, {options_, stop_}, loaded,
                              {.slots = batch_, .kept = model_.kept()});
    }
    return continue_one(loaded, context);
  }

 private:
  int continue_one(const LoadedModel& loaded, std::int64_t context) {
    const Tokenizer& tokenizer = *loaded.tokenizer;
    // Documents follow an end-of-text token in training, so that is how an empty prompt begins.
    const std::vector<std::int32_t> prompt =
        prompt_ ? tokenizer.encode(*prompt_) : std::vector{tokenizer.end_of_text_id()};
    const auto prompt_tokens = static_cast<std::int64_t>(prompt.size());
    if (prompt_tokens > context) {
      fail(
          "the prompt has {} tokens, but the model's context is {}; give a shorter one, or a "
          "larger --context",
          prompt_tokens, context);
    }
    Session session(*loaded.model,
                    {.capacity = prompt_tokens + options_.max_tokens, .kept = model_.kept()});

    TextStream stream;
    show(stream.push(prompt_.value_or("")));
    StopTexts stops(stop_);
    std::string bytes;
    const auto pass_on = [&](const std::string& piece) {
      bytes += piece;
      show(stream.push(piece));
    };
    options_.has_ended = [&] { return stops.found(); };
    const Generation result = generate(session, prompt, options_, [&](std::int32_t token) {
      pass_on(stops.push(tokenizer.token_text(token)));
    });
    pass_on(stops.finish());
    show(stream.finish());
    if (!ends_line_) show("\n");
    report(result, bytes, prompt_tokens, context);
    return 0;
  }

  static std::string names_a_file(const std::string& path) {
    return path.empty() ? "give the name of a file" : "";
  }

  void show(const std::string& text) {
    if (json_ || text.empty()) return;
    print_out(text);
    ends_line_ = text.back() == '\n';
  }

  void report(const Generation& result, const std::string& bytes, std::int64_t prompt_tokens,
              std::int64_t context) const {
    if (result.stop_reason == StopReason::kContext) {
      fmt::print(stderr, "quest: stopped because the model's context of {} tokens is full\n",
                 context);
    }
    const auto tokens = static_cast<std::int64_t>(result.tokens.size());
    if (!json_) {
      fmt::print(stderr, "quest: {} tokens, {:.1f} tokens/s\n", tokens, result.tokens_per_second());
      return;
    }
    TextStream whole;
    std::string text = whole.push(bytes);
    text += whole.finish();
    Report report;
    report.add_json("prompt", prompt_.value_or(""));
    report.add_json("text", text);
    report.add_json("tokens", tokens);
    report.add_json("token_ids", result.tokens);
    report.add_json("prompt_tokens", prompt_tokens);
    report.add_json("stop_reason", std::string(name(result.stop_reason)));
    report.add_json("tokens_per_second", result.tokens_per_second());
    report.add_json("prompt_seconds", result.prefill_seconds);
    report.add_json("seed", seed_);
    report.print(true);
  }

  ModelOptions model_;
  std::optional<std::string> prompt_;
  std::string prompt_file_, prompts_;
  std::vector<std::string> stop_;
  GenerateOptions options_{.max_tokens = 200, .sampling = {.temperature = 0.8, .top_p = 0.95}};
  std::int64_t seed_ = 0;
  std::int64_t batch_ = 16;
  bool batch_typed_ = false;
  bool json_ = false;
  bool ends_line_ = false;
};

}  // namespace

std::unique_ptr<Command> make_generate_command() { return std::make_unique<GenerateCommand>(); }

}  // namespace quest::app
