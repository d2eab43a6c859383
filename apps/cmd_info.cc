// quest info: what a model is and what training it takes, without training it.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <nlohmann/json.hpp>

#include "apps/backends.h"
#include "apps/bench_training.h"
#include "apps/command.h"
#include "apps/model_settings.h"
#include "apps/options.h"
#include "apps/output.h"
#include "apps/settings_flags.h"
#include "apps/text.h"
#include "apps/train_settings.h"
#include "core/error.h"
#include "data/shards.h"
#include "data/tokenizer.h"
#include "infer/model_folder.h"
#include "model/model_file.h"
#include "train/plan.h"
#include "train/trainer.h"

namespace quest::app {
namespace {

// The keys of settings that a model folder has decided.
const std::vector<std::string> kModelKeys{"model.", "scheme.", "train.seq_len"};

constexpr double kUnquantizedFileBits = 16;
constexpr double kNormBits = 32;
// Steps of the rows of a quantized matrix, one f32 each.
constexpr double kRowScaleBits = 32;

// Linear layers as numbers of their own bits and a scale a row.
struct LinearSize {
  double weights = 0;
  double weight_bits = 0;  ///< Without row scales.
  double bytes = 0;

  void add(const LinearLayout& layout, const Scheme& scheme, const LinearScheme& fallback,
           double unquantized_bits = kUnquantizedFileBits) {
    for (const LinearPart& part : layout.parts) {
      const SideScheme weight = scheme.for_layer(part.name, fallback).weight;
      const auto count = static_cast<double>(part.rows * layout.columns);
      const double bits = count * (weight.quantized() ? weight.bits : unquantized_bits);
      weights += count;
      weight_bits += bits;
      bytes += bits / 8;
      const bool scaled = weight.quantized() || unquantized_bits <= kMaxBits;
      if (scaled) bytes += kRowScaleBits / 8 * static_cast<double>(part.rows);
    }
  }
};

// What a packed file needs, by part.
struct StoredSize {
  LinearSize blocks;  ///< All linear layers inside the blocks.
  LinearSize head;    ///< Nothing when it is the embedding table.
  double embedding_bytes = 0;
  double norm_bytes = 0;

  double bytes() const { return blocks.bytes + head.bytes + embedding_bytes + norm_bytes; }
};

StoredSize stored_size(const ModelConfig& config, const Scheme& scheme, const StoredBits& bits) {
  StoredSize size;
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    for (const auto layout : {qkv_layout, out_layout, gate_up_layout, down_layout}) {
      size.blocks.add(layout(config, layer), scheme, scheme.base());
    }
  }
  if (!config.tied_head) size.head.add(head_layout(config), scheme, LinearScheme(), bits.head);
  const auto table = static_cast<double>(config.vocab * config.width);
  const auto norms = static_cast<double>((2 * config.layers + 1) * config.width);
  size.embedding_bytes = table * bits.embedding / 8;
  if (bits.embedding <= kMaxBits) {
    size.embedding_bytes += kRowScaleBits / 8 * static_cast<double>(config.vocab);
  }
  size.norm_bytes = norms * kNormBits / 8;
  return size;
}

std::int64_t whole_bytes(double bytes) { return static_cast<std::int64_t>(std::ceil(bytes)); }

class InfoCommand : public Command {
 public:
  CommandText text() const override {
    return {"info",
            "Show a model's parameters, bits, bytes and FLOPs, and the memory of training it",
            {"quest info --preset 100M --scheme w4a4 --vocab 32000",
             "quest info --preset nano --set model.width=192 --time --tokens 1e7 --json",
             "quest info --model my-run"}};
  }

  void declare(CLI::App& app) override {
    CLI::Option* model =
        app.add_option("--model", model_folder_,
                       "a model or run folder; what --config says of the model is passed over")
            ->type_name("DIR")
            ->check([](const std::string& folder) {
              if (folder.empty()) throw UsageError("--model names no folder");
              return std::string();
            });
    settings_.declare(
        app, {"model.", "scheme.", "data.train", "data.valid", "data.tokenizer", "train.batch_size",
              "train.sample_every", "train.seq_len", "run.dtype", "run.device", "run.threads"});
    for (const Setting& setting : all_settings()) {
      if (starts_with_one_of(setting.key, kModelKeys)) {
        model->excludes(app.get_option(setting.flag));
      }
    }
    CLI::Option* time =
        app.add_flag("--time", time_, "also measure the speed of training it on this machine");
    add_whole(app, "--tokens", tokens_, {.low = 0}, "with --time: the length of the run")
        ->needs(time);
    app.add_flag("--json", json_, "print one JSON object");
  }

  int run() override {
    if (!model_folder_.empty()) settings_.refuse_set_arguments(kModelKeys, "--model");
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
      model = describe_model_folder(model_folder_);
      settings.train.seq_len = model.config.max_positions;
      check_step_size(settings.train);
    }
    Report report;
    report_shape(report, model);
    report_training(report, model.config, model.scheme, settings);
    if (time_) report_time(report, config_of(model.config, model.scheme, settings), settings);
    report.print(json_);
    return 0;
  }

 private:
  static void report_shape(Report& report, const ModelDescription& model) {
    const ModelConfig& c = model.config;
    const Scheme& scheme = model.scheme;
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
    const StoredSize stored = stored_size(c, scheme, model.packed.value_or(StoredBits{}));
    const double bits = stored.blocks.weight_bits / stored.blocks.weights;
    report.add("bits_per_weight", bits, "bits a weight",
               fmt::format("{:.4g} in the linear layers of the blocks", bits));
    report.add("stored_bytes", whole_bytes(stored.bytes()), "size",
               size_text(stored.bytes()) +
                   (model.packed ? " in the file" : " packed, with embedding and head in 16 bits"));
    report.add_json("packed", model.packed.has_value());
    report.add_json("stored_bytes_by_part", {{"embedding", whole_bytes(stored.embedding_bytes)},
                                             {"linear", whole_bytes(stored.blocks.bytes)},
                                             {"norms", whole_bytes(stored.norm_bytes)},
                                             {"head", whole_bytes(stored.head.bytes)}});
    report.add_text("  embedding", size_text(stored.embedding_bytes));
    report.add_text("  linear layers", size_text(stored.blocks.bytes));
    report.add_text("  norms", size_text(stored.norm_bytes));
    report.add_text("  head", c.tied_head ? "is the embedding" : size_text(stored.head.bytes));
  }

  static void report_training(Report& report, const ModelConfig& c, const Scheme& scheme,
                              const TrainSettings& settings) {
    const double forward = c.forward_flops_per_token(settings.train.seq_len);
    report.add("forward_flops_per_token", forward, "FLOPs a token",
               fmt::format("{:.3g} forward, {:.3g} in training", forward, 3 * forward));
    report.add_json("training_flops_per_token", 3 * forward);

    const TrainerConfig config = config_of(c, scheme, settings);
    const RunMemory memory = predict_memory(config, settings);
    const Trainer::Bytes& bytes = memory.trainer;
    report.add_json("training_bytes", {{"parameters", bytes.model.parameters},
                                       {"gradients", bytes.model.gradients},
                                       {"moments", bytes.optimizer},
                                       {"prepared", bytes.model.prepared},
                                       {"activations", bytes.activations},
                                       {"workspace", memory.workspace},
                                       {"sampling", memory.sampling},
                                       {"data", data_bytes(memory)},
                                       {"program", memory.program},
                                       {"total", memory.total()}});
    const auto text = [](std::size_t size_bytes) {
      return size_text(static_cast<double>(size_bytes));
    };
    report.add_text("memory to train",
                    fmt::format("{} with {} windows of {} tokens in {}", text(memory.total()),
                                config.batch_size, config.seq_len, settings.run.dtype));
    report.add_text("  weights", text(bytes.model.parameters));
    report.add_text("  gradients", text(bytes.model.gradients));
    report.add_text("  moments", text(bytes.optimizer));
    report.add_text("  prepared weights", text(bytes.model.prepared));
    report.add_text("  activations", text(bytes.activations));
    report.add_text("  kernels' scratch", text(memory.workspace));
    if (memory.sampling > 0) report.add_text("  sampling", text(memory.sampling));
    if (memory.program == 0) return;  // a device holds neither the data nor the program
    report.add_text("  data", memory.data > 0 ? text(memory.data) : "name it by --data");
    report.add_text("  program", text(memory.program));
  }

  // Not known without --data; a device holds none.
  static nlohmann::ordered_json data_bytes(const RunMemory& memory) {
    if (memory.data == 0 && memory.program > 0) return nullptr;
    return memory.data;
  }

  static RunMemory predict_memory(const TrainerConfig& config, const TrainSettings& settings) {
    std::vector<TokenDataset> sets;
    for (const std::string& path : {settings.data.train, settings.data.valid}) {
      if (path.empty()) continue;
      sets.push_back(open_dataset(path, *load_tokenizer(settings.data.tokenizer)));
    }
    return predict_run_memory(config,
                              run_conditions(settings, sets.empty() ? nullptr : &sets.front(),
                                             sets.size() < 2 ? nullptr : &sets.back()));
  }

  static TrainerConfig config_of(const ModelConfig& model, const Scheme& scheme,
                                 const TrainSettings& settings) {
    TrainerConfig config;
    config.model = model;
    config.scheme = scheme;
    config.compute = compute_dtype(settings);
    config.batch_size = settings.train.batch_size;
    config.seq_len = settings.train.seq_len;
    return config;
  }

  void report_time(Report& report, const TrainerConfig& config,
                   const TrainSettings& settings) const {
    const auto backend = make_backend(settings.run.device, settings.run.threads);
    Trainer trainer(*backend, config, random_tokens(config));
    const double speed = static_cast<double>(config.tokens_per_step()) / trainer.time_micro_batch();
    report.add("tokens_per_second", speed, "speed",
               fmt::format("{:.0f} tokens/s in training on {} ({} threads)", speed, backend->name(),
                           backend->threads()));
    if (tokens_ == 0) return;
    const double seconds = static_cast<double>(tokens_) / speed;
    report.add("seconds", seconds, "time to train",
               fmt::format("{} for {} tokens", duration_text(seconds), with_commas(tokens_)));
  }

  std::string model_folder_;
  SettingsFlags settings_;
  bool time_ = false;
  std::int64_t tokens_ = 0;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_info_command() { return std::make_unique<InfoCommand>(); }

}  // namespace quest::app
