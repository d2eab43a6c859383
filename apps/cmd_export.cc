// quest export: a trained model as a folder for users, packed in its trained bits or dense.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "apps/backends.h"
#include "apps/command.h"
#include "apps/options.h"
#include "apps/output.h"
#include "apps/text.h"
#include "core/error.h"
#include "infer/chat_template.h"
#include "infer/export.h"
#include "infer/model_folder.h"

namespace quest::app {
namespace {

class ExportCommand : public Command {
 public:
  CommandText text() const override {
    return {"export",
            "Write a trained model in its trained bits, or for other programs",
            {"quest export --model my-run --out my-model",
             "quest export --model my-run --out my-model --embedding-bits 8 --head-bits 8",
             "quest export --model my-run --out dense --format hf"}};
  }

  void declare(CLI::App& app) override {
    app.add_option("--model", model_, "a training run, or a folder with training weights")
        ->type_name("DIR")
        ->required();
    app.add_option("--out", out_, "the new folder; absent or empty")->type_name("DIR")->required();
    app.add_option("--format", format_, "quest: packed bits; hf: dense bf16 Llama weights")
        ->type_name("NAME")
        ->capture_default_str();
    add_choice(app, "--embedding-bits", embedding_bits_, {32, 16, 8, 4},
               "of the embedding table: 16, 8, 4, or 32: exact");
    add_choice(app, "--head-bits", head_bits_, {32, 16, 8, 4},
               "of a head without a scheme of its own: 16, 8, 4, or 32");
    add_whole(app, "--threads", threads_, {.low = 0, .high = 1024}, "0: all that there are");
    app.add_flag("--json", json_, "print one JSON object");
  }

  int run() override {
    if (format_ != "quest" && format_ != "hf") {
      throw UsageError(fmt::format("there is no --format '{}'; use quest or hf", format_));
    }
    const StoredBits bits{static_cast<int>(embedding_bits_), static_cast<int>(head_bits_)};
    if (format_ == "hf" && bits != StoredBits{}) {
      throw UsageError("--format hf stores everything in 16 bits; leave the numbers of bits out");
    }
    const auto backend = make_backend("cpu", threads_);
    const LoadedTrainingModel loaded = load_training_folder(model_, *backend, DType::kF32);
    const ExportTexts texts{*loaded.tokenizer, read_chat_template(loaded.folder)};
    if (format_ == "hf") {
      export_hugging_face(*loaded.model, texts, out_);
    } else {
      export_packed(*loaded.model, texts, bits, out_);
    }
    report(loaded, bits);
    return 0;
  }

 private:
  void report(const LoadedTrainingModel& loaded, const StoredBits& bits) const {
    const auto size_bytes =
        std::filesystem::file_size(std::filesystem::path(out_) / "model.safetensors");
    const auto size = static_cast<double>(size_bytes);
    const auto parameters = static_cast<double>(loaded.description.config.parameters());
    Report report;
    report.add("model", loaded.folder.string(), "model");
    report.add("out", out_, "written to");
    report.add("format", format_, "format");
    report.add("scheme", loaded.description.scheme.to_string(), "scheme");
    if (format_ == "quest") {
      report.add("embedding_bits", bits.embedding, "embedding bits");
      report.add("head_bits", bits.head, "head bits");
    }
    report.add("bytes", size_bytes, "size",
               fmt::format("{}, {:.2f} bits a parameter", size_text(size), 8 * size / parameters));
    report.print(json_);
  }

  std::string model_, out_, format_ = "quest";
  std::int64_t embedding_bits_ = 16;
  std::int64_t head_bits_ = 16;
  std::int64_t threads_ = 0;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_export_command() { return std::make_unique<ExportCommand>(); }

}  // namespace quest::app
