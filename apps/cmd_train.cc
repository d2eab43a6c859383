// quest train: a training run from text to a model folder.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>

#include "apps/backends.h"
#include "apps/command.h"
#include "apps/machine.h"
#include "apps/model_settings.h"
#include "apps/output.h"
#include "apps/run_data.h"
#include "apps/settings_flags.h"
#include "apps/text.h"
#include "apps/train_display.h"
#include "apps/train_settings.h"
#include "core/error.h"
#include "infer/model_folder.h"
#include "model/model_file.h"
#include "train/peak.h"
#include "train/plan.h"

namespace quest::app {
namespace {

namespace fs = std::filesystem;

void require_given(const std::string& value, const char* flag) {
  if (value.empty()) throw UsageError(fmt::format("quest train needs {}", flag));
}

FolderMode folder_mode(const TrainSettings& settings) {
  if (settings.run.resume) return FolderMode::kResume;
  return settings.run.overwrite ? FolderMode::kOverwrite : FolderMode::kNew;
}

// Weights of another model: a model folder, or a file of weights alone, of which the tensors are
// not looked at.
SafetensorsFile open_initial_weights(const ModelConfig& config, const std::string& path) {
  if (!fs::is_directory(path)) return SafetensorsFile(path);
  const fs::path folder = find_model_folder(path);
  const ModelDescription theirs = load_description(folder);
  if (theirs.packed) {
    fail("--init {} is a packed model: give the run that it was exported from", path);
  }
  const std::string difference = architecture_difference(theirs.config, config);
  if (!difference.empty()) {
    fail("--init {} and this run are different models: {}", path, difference);
  }
  return SafetensorsFile(folder / "model.safetensors");
}

void load_initial_weights(Model& model, const std::string& path) {
  const SafetensorsFile weights = open_initial_weights(model.config(), path);
  weights.verify(false);
  load_weights(model, weights);
}

// Settings that differ may say the same (a width of heads that is derived or given). Where the
// tokenizer decides about the vocabulary, the checkpoint tells whether it still fits.
bool same_model(const TrainSettings& began, TrainSettings now) {
  now.train.seq_len = began.train.seq_len;
  const ModelConfig before = model_config(began, 1), after = model_config(now, 1);
  return before == after && model_scheme(began, before) == model_scheme(now, after);
}

// What decides which tokens a step reads, and the model, may not change when a run goes on; the
// rest is stated.
void compare_settings(const TrainSettings& began, const TrainSettings& now, TrainDisplay& display) {
  constexpr std::string_view kFixed[] = {"train.batch_size", "train.grad_accum", "train.seq_len",
                                         "train.seed",       "train.data_seed",  "data.order"};
  const bool other_model = !same_model(began, now);
  std::vector<std::string> changes;
  const auto refuse = [](const Setting& setting, const std::string& before,
                         const std::string& after, const char* why) {
    throw UsageError(fmt::format("the run began with {} = {}, so it cannot go on with {}: {}",
                                 setting.key, before, after, why));
  };
  for (const Setting& setting : all_settings()) {
    const std::string before = toml_value(began, setting);
    const std::string after = toml_value(now, setting);
    if (before == after || setting.key == "run.resume") continue;
    if (std::find(std::begin(kFixed), std::end(kFixed), setting.key) != std::end(kFixed)) {
      refuse(setting, before, after, "its steps would read other data");
    }
    if (other_model && starts_with_one_of(setting.key, {"model.", "scheme."}) &&
        setting.key != "model.preset") {
      refuse(setting, before, after, "its weights are of another model; begin a new run for that");
    }
    changes.push_back(
        fmt::format("changed since the run began: {} = {} (was {})", setting.key, after, before));
  }
  for (const std::string& change : changes) display.note(change);
}

// Sets the trainer to the newest checkpoint; without one the run starts from its beginning.
void resume(Trainer& trainer, const RunPlan& plan, RunFolder& folder, TrainDisplay& display) {
  const auto checkpoint = find_newest_checkpoint(
      folder.path(), [&](const std::string& why) { display.note("passed over: " + why); });
  if (!checkpoint) {
    folder.rewind_log(0);
    display.note("no checkpoint was saved yet: the run starts from its beginning");
    return;
  }
  const TrainerState state = load_checkpoint(trainer, *checkpoint);
  if (state.data != plan.data) {
    fail("{} was made on other training data ({}, not {}); resume with the data of the run",
         checkpoint->string(), state.data, plan.data);
  }
  if (state.step > plan.steps) {
    throw UsageError(
        fmt::format("the run has done {} steps already; give --steps above that", state.step));
  }
  set_aside_newer_checkpoints(folder.path(), checkpoint);
  folder.rewind_log(state.step);
  if (state.step < plan.steps) folder.remove_finished_model();
  display.note(state.step < plan.steps
                   ? fmt::format("resumed from {}", checkpoint->string())
                   : fmt::format("the run is complete: step {} of {}", state.step, plan.steps));
}

// A run that outgrows the memory is killed by the system, without a word and maybe not alone. The
// data does not count: the system drops mapped pages, and text is in memory already.
void require_memory(const RunMemory& memory) {
  const std::size_t needed =
      memory.trainer.total() + memory.workspace + memory.sampling + memory.program;
  const std::size_t present = describe_machine().memory_bytes;
  if (present == 0 || needed <= present) return;
  fail(
      "the run needs about {} of memory, but this machine has {}: lower --batch-size, --seq-len, "
      "--vocab or the size of the model, or try it all the same with --ignore-memory",
      size_text(static_cast<double>(needed)), size_text(static_cast<double>(present)));
}

// What was asked for and changes nothing: no error, because runs that are compared share settings.
void say_what_is_idle(const TrainerConfig& config) {
  if (config.backward != GradientProducts::kInt8 || has_integer_products(config)) return;
  say(idle_int8_text(config.scheme.to_string()));
}

class TrainCommand : public Command {
 public:
  CommandText text() const override {
    return {
        "train",
        "Train a model under a quantization scheme and save it",
        {"quest train --data train.txt --val-data valid.txt --preset nano --out run",
         "quest train --data shards --tokenizer bpe.model --preset 30M --scheme w2a2 --out w2a2",
         "quest train --resume --out run"}};
  }

  void declare(CLI::App& app) override {
    settings_.declare(app);
    app.add_flag("--json", json_, "print the results as one JSON object");
    app.add_flag("--ignore-memory", ignore_memory_,
                 "begin even if the run needs more memory than the machine has")
        ->group(kMoreGroup + std::string("Run"));
  }

  int run() override {
    TrainSettings settings = settings_.resolve(model_preset);
    if (settings.run.resume) {
      require_given(settings.run.out, "--out DIR, the run to resume");
      const std::string saved = (fs::path(settings.run.out) / "train.toml").string();
      if (!fs::exists(saved)) fail("there is no run to resume in {}", settings.run.out);
      settings = settings_.resolve(model_preset, saved);
    }
    if (settings_.print_config_requested()) {
      print_out(print_config(settings));
      return 0;
    }
    require_given(settings.data.train, "--data GLOB|DIR");
    require_given(settings.run.out, "--out DIR");
    if (settings.run.resume && settings.run.overwrite) {
      throw UsageError("--resume and --overwrite exclude each other");
    }
    return train(settings);
  }

 private:
  int train(const TrainSettings& settings) {
    const RunData data(settings);
    const std::int64_t steps = run_steps(settings, data.windows_per_epoch(settings));
    const TrainerConfig config = trainer_config(settings, data.tokenizer().vocab_size(), steps);
    say_what_is_idle(config);
    RunPlan plan = run_plan(settings, steps);
    plan.data = data.identity();
    const BatchSource batches = data.batches(settings, steps);
    const std::unique_ptr<Backend> backend =
        make_backend(settings.run.device, settings.run.threads);
    const RunMemory memory =
        predict_run_memory(config, run_conditions(settings, &data.train(), data.validation()));
    if (settings.run.dry_run) {
      RunFolder::require_usable(settings.run.out, folder_mode(settings));
      if (!settings.train.init.empty()) open_initial_weights(config.model, settings.train.init);
      return report_plan(opening_text(settings, config, data, plan, backend->name()), config, plan,
                         memory);
    }
    const bool on_device = settings.run.device.starts_with("cuda");
    if (!ignore_memory_ && !on_device) require_memory(memory);

    // Whatever can be refused is refused before the folder is touched.
    Trainer trainer(*backend, config, batches);
    if (!settings.train.init.empty()) load_initial_weights(trainer.model(), settings.train.init);
    RunFolder folder(settings.run.out, folder_mode(settings));
    TrainDisplay display(settings, config, data, steps);
    if (settings.run.resume) {
      const std::string saved = folder.settings_path().string();
      compare_settings(
          resolve_settings({parse_config(read_file(saved), saved), {}, {}}, model_preset), settings,
          display);
      resume(trainer, plan, folder, display);
    }
    TrainSettings saved = settings;
    saved.run.resume = saved.run.overwrite = false;
    write_file(folder.settings_path(), print_config(saved));
    plan.peak_flops = measure_product_rate(*backend, config.compute);
    Pace pace{.steps_left = steps - trainer.steps_done()};
    if (pace.steps_left > 0) {
      pace.step_seconds = trainer.time_micro_batch() * static_cast<double>(config.grad_accum);
    }
    display.note(opening_text(settings, config, data, plan, backend->name(), pace));

    const std::optional<EvalSource> evaluation = data.evaluation(settings);
    const RunResult result = run_training(trainer, plan, folder, data.tokenizer(),
                                          evaluation ? &*evaluation : nullptr, display);
    display.finish();
    report_result(settings, config, result);
    return result.stopped ? display.stop_signal().exit_code() : 0;
  }

  int report_plan(const std::string& opening, const TrainerConfig& config, const RunPlan& plan,
                  const RunMemory& memory) {
    Report report;
    report.add_json("steps", plan.steps);
    report.add_json("tokens", plan.steps * config.tokens_per_step());
    report.add_json("memory_bytes", memory.total());
    if (json_) {
      report.print(true);
    } else {
      print_out(opening);
    }
    return 0;
  }

  void report_result(const TrainSettings& settings, const TrainerConfig& config,
                     const RunResult& result) {
    Report report;
    report.add("out", settings.run.out, "folder");
    report.add("scheme", config.scheme.to_string(), "scheme");
    report.add("steps", result.steps, result.stopped ? "stopped after step" : "steps");
    if (result.tokens_per_second > 0) {
      report.add("train_loss", result.train_loss, "training loss",
                 fmt::format("{:.4f}", result.train_loss));
    }
    if (result.has_validation) {
      report.add("val_loss", result.validation.loss(), "validation loss",
                 fmt::format("{:.4f} nats a token", result.validation.loss()));
      report.add("val_bits_per_byte", result.validation.bits_per_byte(), "",
                 fmt::format("{:.4f} bits a byte", result.validation.bits_per_byte()));
    }
    if (result.tokens_per_second > 0) {
      report.add("tokens_per_second", result.tokens_per_second, "speed",
                 fmt::format("{:.0f} tokens/s", result.tokens_per_second));
    }
    report.print(json_);
  }

  SettingsFlags settings_;
  bool json_ = false;
  bool ignore_memory_ = false;
};

}  // namespace

std::unique_ptr<Command> make_train_command() { return std::make_unique<TrainCommand>(); }

}  // namespace quest::app
