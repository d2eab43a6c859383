// quest tokenizer: learns a vocabulary from text.
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "apps/options.h"
#include "apps/output.h"
#include "apps/stop_signal.h"
#include "apps/text.h"
#include "core/file.h"
#include "data/tokenizer.h"
#include "model/limits.h"

namespace quest::app {
namespace {

class TokenizerTrainCommand : public Command {
 public:
  CommandText text() const override {
    return {"tokenizer train",
            "Train a sentencepiece BPE tokenizer with byte fallback",
            {"quest tokenizer train --in 'books/*.txt' --vocab 4096 --out bpe.model",
             "quest tokenizer train --in a.jsonl.zst --vocab 32000 --out bpe.model"}};
  }
  void declare(CLI::App& app) override {
    app.add_option("--in", inputs_,
                   "files, folders or patterns: .txt, .jsonl (field \"text\"), "
                   "each also .zst")
        ->type_name("GLOB...")
        ->required();
    add_whole(app, "--vocab", vocab_, {.low = kLeastVocab, .high = kMostVocab}, "tokens", true);
    app.add_option("--out", out_, "file to write")->type_name("FILE")->required();
    add_whole(app, "--seed", seed_, {.low = 0},
              "chooses the lines that are read of a large corpus");
    app.add_flag("--json", json_, "print one JSON object");
  }
  int run() override {
    replaced_file(out_);  // What cannot be written is refused before the work.
    const TokenizerTraining trained = learn_sentencepiece(
        inputs_, static_cast<std::int32_t>(vocab_), static_cast<std::uint64_t>(seed_));
    // Until here a signal ends the program at once, and there is nothing to clean up.
    const StopSignal signal;
    write_file(out_, trained.model);
    Report report;
    report.add("out", out_, "file");
    report.add("vocab", trained.vocab_size, "tokens", with_commas(trained.vocab_size));
    report.add("text_bytes", trained.text_bytes, "text",
               with_commas(trained.text_bytes) + " bytes");
    report.add("sampled_bytes", trained.sampled_bytes, "read of it",
               with_commas(trained.sampled_bytes) + " bytes");
    report.print(json_);
    return signal.exit_code();
  }

 private:
  std::vector<std::string> inputs_;
  std::int64_t vocab_ = 0;
  std::string out_;
  std::int64_t seed_ = 0;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_tokenizer_train_command() {
  return std::make_unique<TokenizerTrainCommand>();
}

}  // namespace quest::app
