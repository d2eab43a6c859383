// quest info: what a model is and what training it takes, without training it.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "apps/model_settings.h"
#include "apps/output.h"
#include "apps/settings_flags.h"
#include "apps/text.h"
#include "core/file.h"
#include "data/tokenizer.h"
#include "model/model_file.h"
#include "train/trainer.h"

namespace quest::app {
namespace {

constexpr double kUnquantizedFileBits = 16;
// Steps of the rows of a quantized matrix, one f32 each.
constexpr double kRowScaleBits = 32;

// The weights as numbers of their own bits, what a packed file needs.
struct StoredSize {
  double linear_bits = 0;  ///< All linear layers inside the blocks, without row scales.
  double linear_weights = 0;
  double bytes = 0;  ///< Everything.
};

StoredSize stored_size(const ModelConfig& config, const Scheme& scheme) {
  StoredSize size;
  double scale_bits = 0;
  const auto add = [&](const LinearLayout& layout) {
    for (const LinearPart& part : layout.parts) {
      const SideScheme weight = scheme.for_layer(part.name).weight;
      const auto weights = static_cast<double>(part.rows * layout.columns);
      size.linear_weights += weights;
      size.linear_bits += weights * (weight.quantized() ? weight.bits : kUnquantizedFileBits);
      if (weight.quantized()) scale_bits += kRowScaleBits * static_cast<double>(part.rows);
    }
  };
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    add(qkv_layout(config, layer));
    add(out_layout(config, layer));
    add(gate_up_layout(config, layer));
    add(down_layout(config, layer));
  }
  const auto others = static_cast<double>(config.parameters() - config.linear_parameters());
  size.bytes = (size.linear_bits + scale_bits + kUnquantizedFileBits * others) / 8;
  return size;
}

class InfoCommand : public Command {
 public:
  CommandText text() const override {
    return {"info",
            "Show a model's parameters, bits, bytes and FLOPs, and the memory of training it",
            {"quest info --preset 100M --scheme w4a4 --vocab 32000",
             "quest info --preset nano --set model.width=192 --batch-size 32 --json",
             "quest info --model my-run"}};
  }

  void declare(CLI::App& app) override {
    app.add_option("--model", model_folder_, "a model folder, instead of settings")
        ->type_name("DIR");
    settings_.declare(app, {"model.", "scheme.", "data.tokenizer", "train.batch_size",
                            "train.seq_len", "run.dtype"});
    app.add_flag("--json", json_, "print one JSON object");
  }

  int run() override {
    TrainSettings settings = settings_.resolve(model_preset);
    if (settings_.print_config_requested()) {
      print_out(print_config(settings));
      return 0;
    }
    ModelDescription model;
    if (model_folder_.empty()) {
      model.config = model_config(settings, load_tokenizer(settings.data.tokenizer)->vocab_size());
      model.scheme = model_scheme(settings, model.config);
    } else {
      const std::string path = model_folder_ + "/config.json";
      model = parse_config_json(read_file(path), path);
      settings.train.seq_len = model.config.max_positions;
    }
    Report report;
    report_shape(report, model.config, model.scheme);
    report_training(report, model.config, model.scheme, settings);
    report.print(json_);
    return 0;
  }

 private:
  static void report_shape(Report& report, const ModelConfig& c, const Scheme& scheme) {
    report.add("layers", c.layers, "layers");
    report.add("width", c.width, "width");
    report.add(
        "heads", c.heads, "heads",
        fmt::format("{} of size {}, {} for keys and values", c.heads, c.head_dim, c.kv_heads));
    report.add_json("kv_heads", c.kv_heads);
    report.add_json("head_dim", c.head_dim);
    report.add("hidden", c.hidden, "hidden");
    report.add("vocab", c.vocab, "vocabulary", with_commas(c.vocab));
    report.add("parameters", c.parameters(), "parameters",
               fmt::format("{}, {} without embedding and head", with_commas(c.parameters()),
                           with_commas(c.non_embedding_parameters())));
    report.add_json("non_embedding_parameters", c.non_embedding_parameters());
    report.add("scheme", scheme.to_string(), "scheme");
    const StoredSize stored = stored_size(c, scheme);
    const double bits = stored.linear_bits / stored.linear_weights;
    report.add("bits_per_weight", bits, "bits a weight",
               fmt::format("{:.4g} in the linear layers of the blocks", bits));
    report.add("stored_bytes", stored.bytes, "size",
               size_text(stored.bytes) + " with weights in their bits, the rest in 16");
  }

  static void report_training(Report& report, const ModelConfig& c, const Scheme& scheme,
                              const TrainSettings& settings) {
    const double forward = c.forward_flops_per_token(settings.train.seq_len);
    report.add("forward_flops_per_token", forward, "FLOPs a token",
               fmt::format("{:.3g} forward, {:.3g} in training", forward, 3 * forward));
    report.add_json("training_flops_per_token", 3 * forward);

    TrainerConfig config;
    config.model = c;
    config.scheme = scheme;
    config.compute = compute_dtype(settings);
    config.batch_size = settings.train.batch_size;
    config.seq_len = settings.train.seq_len;
    const Trainer::Bytes bytes = Trainer::measure(config);
    report.add_json("training_bytes", {{"parameters", bytes.model.parameters},
                                       {"gradients", bytes.model.gradients},
                                       {"moments", bytes.optimizer},
                                       {"prepared", bytes.model.prepared},
                                       {"activations", bytes.activations},
                                       {"total", bytes.total()}});
    const auto text = [](std::size_t size_bytes) {
      return size_text(static_cast<double>(size_bytes));
    };
    report.add_text("memory to train",
                    fmt::format("{} with {} windows of {} tokens in {}", text(bytes.total()),
                                config.batch_size, config.seq_len, settings.run.dtype));
    report.add_text("  weights", text(bytes.model.parameters));
    report.add_text("  gradients", text(bytes.model.gradients));
    report.add_text("  moments", text(bytes.optimizer));
    report.add_text("  prepared weights", text(bytes.model.prepared));
    report.add_text("  activations", text(bytes.activations));
  }

  std::string model_folder_;
  SettingsFlags settings_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_info_command() { return std::make_unique<InfoCommand>(); }

}  // namespace quest::app
