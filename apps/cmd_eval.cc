// quest eval: the loss of a model over all of a text.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "apps/model_options.h"
#include "apps/options.h"
#include "apps/output.h"
#include "apps/progress.h"
#include "apps/text.h"
#include "core/error.h"
#include "train/evaluation.h"

namespace quest::app {
namespace {

class EvalCommand : public Command {
 public:
  CommandText text() const override {
    return {"eval",
            "Measure a model's loss on text",
            {"quest eval --model my-run --data valid.txt",
             "quest eval --model my-run/checkpoints/step-00001000 --data shards --json"}};
  }

  void declare(CLI::App& app) override {
    model_.declare_model(app);
    app.add_option("--data", data_, "text files (.txt, .jsonl, each also .zst) or token shards")
        ->type_name("GLOB|DIR")
        ->required();
    add_whole(app, "--batch-size", batch_size_, {.low = 1, .high = 1 << 20}, "windows at a time");
    add_whole(app, "--seq-len", seq_len_, {.low = 0}, "tokens a window; 0: the model's");
    model_.declare_context(app);
    model_.declare_kv_bits(app);
    model_.declare_machine(app);
    app.add_flag("--json", json_, "print one JSON object");
  }

  int run() override {
    const LoadedModel loaded = model_.load();
    const ModelConfig& config = loaded.description.config;
    if (seq_len_ > config.max_positions) {
      throw UsageError(
          fmt::format("--seq-len {} is more than the model's {} positions; --context allows more",
                      seq_len_, config.max_positions));
    }
    const std::int64_t seq_len = seq_len_ > 0 ? seq_len_ : config.max_positions;
    const TokenDataset data = open_dataset(data_, *loaded.tokenizer);
    const std::int64_t batch_size =
        std::clamp<std::int64_t>((data.size() - 1) / seq_len, 1, batch_size_);
    const EvalWindows windows(data, batch_size, seq_len);

    const PassShape shape{batch_size, seq_len, false};
    Arena measuring;
    loaded.model->make_activations(measuring, shape);
    Arena memory(model_.backend(), measuring.used_bytes());
    Activations activations = loaded.model->make_activations(memory, shape);
    const auto start = std::chrono::steady_clock::now();
    const Evaluation result = evaluate(*loaded.model, activations, with_progress(windows),
                                       *loaded.tokenizer, model_.kept());
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    report(loaded, result, windows.windows(), seq_len, took.count());
    return 0;
  }

 private:
  EvalSource with_progress(const EvalWindows& windows) {
    EvalSource source = EvalSource::windows(windows);
    const auto total = static_cast<double>(source.batches);
    return {source.batches, [this, total, source](std::int64_t index, Batch& batch) {
              progress_.update(static_cast<double>(index) / total,
                               fmt::format("batch {} of {:.0f}", index + 1, total));
              source.load(index, batch);
            }};
  }

  void report(const LoadedModel& loaded, const Evaluation& result, std::int64_t windows,
              std::int64_t seq_len, double seconds) {
    progress_.update(1.0, "done");
    progress_.finish();
    Report report;
    report.add("model", loaded.folder.string(), "model");
    report.add("scheme", loaded.description.scheme.to_string(), "scheme");
    report.add("loss", result.loss(), "loss", fmt::format("{:.4f} nats a token", result.loss()));
    report.add("perplexity", result.perplexity(), "perplexity",
               fmt::format("{:.3f}", result.perplexity()));
    report.add("bits_per_byte", result.bits_per_byte(), "bits a byte",
               fmt::format("{:.4f}", result.bits_per_byte()));
    report.add("accuracy", result.accuracy(), "accuracy",
               fmt::format("{:.2f} % of the tokens are the likeliest", 100 * result.accuracy()));
    report.add("tokens", result.tokens, "tokens",
               fmt::format("{} in {} windows of {}", with_commas(result.tokens),
                           with_commas(windows), seq_len));
    report.add_json("windows", windows);
    report.add_json("seq_len", seq_len);
    const double speed = static_cast<double>(result.tokens) / seconds;
    report.add("tokens_per_second", speed, "speed", fmt::format("{:.0f} tokens/s", speed));
    report.print(json_);
  }

  ModelOptions model_;
  Progress progress_;
  std::string data_;
  std::int64_t batch_size_ = 16;
  std::int64_t seq_len_ = 0;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_eval_command() { return std::make_unique<EvalCommand>(); }

}  // namespace quest::app
