// quest data: a generated corpus, and token shards from text.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "apps/interrupted.h"
#include "apps/options.h"
#include "apps/output.h"
#include "apps/progress.h"
#include "apps/text.h"
#include "data/shards.h"
#include "data/synth/corpus.h"
#include "data/tokenizer.h"

namespace quest::app {
namespace {

class SynthCommand : public Command {
 public:
  CommandText text() const override {
    return {"data synth",
            "Write a corpus of simple stories whose entropy is known exactly",
            {"quest data synth --out train.txt --tokens 8000000",
             "quest data synth --out valid.txt --tokens 200000 --seed 1 --json"}};
  }
  void declare(CLI::App& app) override {
    app.add_option("--out", out_, "text file to write")->type_name("FILE")->required();
    add_whole(app, "--tokens", tokens_, {.low = 1},
              "size in bytes, which are the tokens of 'bytes'; whole stories are written until "
              "there are as many",
              true);
    add_whole(app, "--seed", seed_, {.low = 0}, "another seed, other stories");
    app.add_flag("--json", json_, "print one JSON object");
  }
  int run() override {
    const StopSignal signal;
    Progress progress;
    const SynthReport synth =
        synth_corpus(out_, tokens_, static_cast<std::uint64_t>(seed_), [&](double fraction) {
          throw_if_requested(signal);
          progress.update(fraction, "writing stories");
        });
    progress.update(1.0, "done");
    progress.finish();
    Report report;
    report.add("out", out_, "file");
    report.add("bytes", synth.bytes, "size", with_commas(synth.bytes) + " bytes");
    report.add("stories", synth.stories, "stories", with_commas(synth.stories));
    report.add("bits_per_byte", synth.bits_per_byte, "exact entropy",
               fmt::format("{:.4f} bits a byte: no model can predict new stories better",
                           synth.bits_per_byte));
    report.add_json("bits_per_story", synth.bits_per_story);
    report.add_json("bytes_per_story", synth.bytes_per_story);
    report.print(json_);
    return signal.exit_code();
  }

 private:
  std::string out_;
  std::int64_t tokens_ = 0;
  std::int64_t seed_ = 0;
  bool json_ = false;
};

class PrepareCommand : public Command {
 public:
  CommandText text() const override {
    return {"data prepare",
            "Turn text into memory-mapped token shards; the corpus may exceed memory",
            {"quest data prepare --in 'books/*.txt' --tokenizer bytes --out shards",
             "quest data prepare --in a.jsonl.zst b.txt --tokenizer bpe.model --out shards"}};
  }
  void declare(CLI::App& app) override {
    app.add_option("--in", inputs_,
                   "files, folders or patterns: .txt, .jsonl (field \"text\"), "
                   "each also .zst")
        ->type_name("GLOB...")
        ->required();
    app.add_option("--tokenizer", tokenizer_, "how text becomes tokens")
        ->type_name("bytes|FILE")
        ->capture_default_str();
    app.add_option("--out", out_, "folder to make")->type_name("DIR")->required();
    app.add_flag("--json", json_, "print one JSON object");
  }
  int run() override {
    const StopSignal signal;
    Progress progress;
    const PrepareReport prepared = prepare_shards(inputs_, *load_tokenizer(tokenizer_), out_,
                                                  kShardTokens, [&](double fraction) {
                                                    throw_if_requested(signal);
                                                    progress.update(fraction, "tokenizing");
                                                  });
    progress.finish();
    Report report;
    report.add("out", out_, "folder");
    report.add("tokens", prepared.tokens, "tokens", with_commas(prepared.tokens));
    report.add("text_bytes", prepared.text_bytes, "text",
               with_commas(prepared.text_bytes) + " bytes");
    report.add("documents", prepared.documents, "documents", with_commas(prepared.documents));
    report.add("shards", prepared.shards, "shards");
    report.print(json_);
    return signal.exit_code();
  }

 private:
  std::vector<std::string> inputs_;
  std::string tokenizer_ = "bytes", out_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_data_synth_command() { return std::make_unique<SynthCommand>(); }
std::unique_ptr<Command> make_data_prepare_command() { return std::make_unique<PrepareCommand>(); }

}  // namespace quest::app
