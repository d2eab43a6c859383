// quest bench: what this machine can do, and how fast training runs on it.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/backends.h"
#include "apps/bench_training.h"
#include "apps/command.h"
#include "apps/device_roofline.h"
#include "apps/machine.h"
#include "apps/model_settings.h"
#include "apps/options.h"
#include "apps/output.h"
#include "apps/progress.h"
#include "apps/settings_flags.h"
#include "apps/text.h"
#include "apps/train_settings.h"
#include "backend/cpu/peaks/peaks.h"
#include "data/tokenizer.h"
#include "train/peak.h"

namespace quest::app {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kWarmupSteps = 2;

int thread_count(std::int64_t threads) {
  return threads > 0 ? static_cast<int>(threads) : describe_machine().threads;
}

// One line of the table of peaks: what it is, its key in JSON, its unit.
struct PeakRow {
  const char* label;
  const char* key;
  const char* unit;
  double Peaks::*value;
};

constexpr PeakRow kPeakRows[] = {
    {"f32 multiply-add", "f32_fma", "GFLOP/s", &Peaks::f32_gflops},
    {"bf16 dot products, AVX-512", "bf16_dot", "GFLOP/s", &Peaks::bf16_gflops},
    {"bf16, AMX, tiles of zeros", "bf16_amx", "GFLOP/s", &Peaks::amx_bf16_gflops},
    {"bf16, AMX, random data", "bf16_amx_data", "GFLOP/s", &Peaks::amx_bf16_data_gflops},
    {"8-bit integers, VNNI", "int8", "GOP/s", &Peaks::int8_gops},
    {"8-bit integers, AMX, tiles of zeros", "int8_amx", "GOP/s", &Peaks::amx_int8_gops},
    {"4-bit codes as bytes, AMX, random data", "int8_amx_data", "GOP/s",
     &Peaks::amx_int8_data_gops},
    {"1 bit, xor and popcount", "binary", "GOP/s", &Peaks::binary_gops},
    {"read 512 KiB a thread (L2)", "read_l2", "GB/s", &Peaks::cache_gb_per_s},
    {"read 8 MiB a thread (L3)", "read_l3", "GB/s", &Peaks::shared_cache_gb_per_s},
    {"read 256 MiB (memory, or a larger L3)", "read_memory", "GB/s", &Peaks::memory_gb_per_s},
};

class BenchPeaksCommand : public Command {
 public:
  CommandText text() const override {
    return {"bench peaks",
            "Measure this machine's arithmetic units, dense products and memory",
            {"quest bench peaks", "quest bench peaks --threads 4 --json"}};
  }
  void declare(CLI::App& app) override {
    add_whole(app, "--threads", threads_, {.low = 0, .high = 1024},
              "threads beside a single one; 0: one a core");
    app.add_flag("--json", json_, "print one JSON object");
  }
  int run() override {
    std::vector<int> threads{1};
    if (thread_count(threads_) > 1) threads.push_back(thread_count(threads_));
    Json results = Json::array();
    std::string table = fmt::format("{:<40}", "");
    for (const int count : threads) {
      table += fmt::format("{:>14}", fmt::format("{} thread{}", count, count == 1 ? "" : "s"));
    }
    table += "\n";
    std::vector<Peaks> peaks;
    for (const int count : threads) peaks.push_back(measure_peaks(count));
    for (const PeakRow& row : kPeakRows) {
      std::vector<double> values;
      for (const Peaks& p : peaks) values.push_back(p.*row.value);
      add_row(table, results, row.label, row.key, row.unit, threads, values);
    }
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      std::vector<double> values;
      for (const int count : threads) {
        const std::unique_ptr<Backend> backend = make_cpu_backend(count);
        values.push_back(1e-9 * measure_product_rate(*backend, dtype));
      }
      const bool f32 = dtype == DType::kF32;
      add_row(table, results, f32 ? "product of 1024 x 1024, f32" : "product of 1024 x 1024, bf16",
              f32 ? "product_f32" : "product_bf16", "GFLOP/s", threads, values);
    }
    const Machine machine = describe_machine();
    if (json_) {
      Report report;
      report.add_json("machine", to_json(machine));
      report.add_json("results", results);
      report.print(true);
    } else {
      print_out(to_text(machine) + "\n" + table);
    }
    return 0;
  }

 private:
  static void add_row(std::string& table, Json& results, const char* label, const char* key,
                      const char* unit, const std::vector<int>& threads,
                      const std::vector<double>& values) {
    table += fmt::format("{:<40}", label);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const bool has = values[i] > 0;
      table += fmt::format("{:>14}", has ? fmt::format("{:.0f}", values[i]) : "-");
      Json rate = nullptr;
      if (has) rate = values[i];
      results.push_back({{"peak", key}, {"threads", threads[i]}, {"rate", rate}, {"unit", unit}});
    }
    table += fmt::format("  {}\n", unit);
  }

  std::int64_t threads_ = 0;
  bool json_ = false;
};

// One configuration and what was measured of it.
struct TrainingResult {
  TrainerConfig config;
  StepTimes times;
  double speedup = 0;  // over none; 0: not known

  double tokens_per_second(double seconds) const {
    return static_cast<double>(config.tokens_per_step()) / seconds;
  }
  double share_of_roofline() const { return 1e-3 * times.bound_ms() / times.median_seconds(); }
  double gflops() const {
    return 3e-9 * config.model.forward_flops_per_token(config.seq_len) *
           tokens_per_second(times.median_seconds());
  }
};

class BenchTrainCommand : public Command {
 public:
  CommandText text() const override {
    return {"bench train",
            "Measure training steps of one or more schemes, in turns, on random tokens",
            {"quest bench train --preset micro --batch-size 16 --seq-len 128 --dtype bf16",
             "quest bench train --preset micro --scheme none,w4a4 --backward float,int8",
             "quest bench train --preset 30M --dtype bf16 --json    # vocabulary 32,000",
             "quest bench train --set model.width=192 --batch-size 8 --seq-len 64"}};
  }
  void declare(CLI::App& app) override {
    settings_.declare(
        app, {"model.", "scheme.layers", "train.batch_size", "train.grad_accum", "train.recompute",
              "train.optimizer_bits", "train.seq_len", "run.dtype", "run.threads", "run.device"});
    app.add_option("--scheme", schemes_,
                   "schemes to compare, with commas between or repeated [none,w4a4]")
        ->type_name("S")
        ->delimiter(',');
    app.add_option("--backward", backwards_,
                   "products of the gradients to compare for each scheme of integers: float, int8")
        ->type_name("NAME")
        ->delimiter(',');
    add_whole(app, "--steps", steps_, {.low = 1, .high = 100000},
              fmt::format("timed steps of each, after {} untimed ones", kWarmupSteps));
    app.add_flag("--json", json_, "print one JSON object");
  }

  int run() override {
    const TrainSettings settings = settings_.resolve(bench_preset);
    if (settings_.print_config_requested()) {
      print_out(print_config(settings));
      return 0;
    }
    const std::vector<TrainerConfig> configs = wanted_configs(settings);
    const std::unique_ptr<Backend> backend =
        make_backend(settings.run.device, settings.run.threads);
    Progress progress;
    progress.update(0, "peaks");
    const Roofline roofline = measure_roofline(*backend);
    peak_ = roofline.rate(compute_dtype(settings) == DType::kBF16 ? Unit::kBF16 : Unit::kF32);
    product_gflops_ = 1e-9 * measure_product_rate(*backend, compute_dtype(settings));
    const std::vector<StepTimes> times = time_training(
        *backend, roofline, configs, kWarmupSteps, steps_, [&](double done, double total) {
          progress.update(done / total, fmt::format("{:.0f} of {:.0f} steps", done, total));
        });
    progress.finish();
    std::vector<TrainingResult> results;
    for (std::size_t i = 0; i < configs.size(); ++i) results.push_back({configs[i], times[i]});
    compare(results);
    report(settings, *backend, results);
    return 0;
  }

 private:
  // A configuration for each scheme and way of backward, but one alone for a scheme without
  // products of integers, whose backward passes are all the same.
  std::vector<TrainerConfig> wanted_configs(const TrainSettings& settings) const {
    std::vector<TrainerConfig> configs;
    bool idle = false, used = false;
    for (const std::string& scheme : schemes(settings)) {
      bool first = true;
      for (const std::string& backward : backwards(settings)) {
        TrainSettings one = settings;
        one.scheme.base = scheme;
        assign(one, parse_assignment("train.backward", backward, "--backward"));
        TrainerConfig config = trainer_config(one, load_tokenizer(one.data.tokenizer)->vocab_size(),
                                              kWarmupSteps + steps_);
        const bool integers = has_integer_products(config);
        const bool int8 = config.backward == GradientProducts::kInt8;
        idle = idle || (int8 && !integers);
        used = used || (int8 && integers);
        if (!integers) config.backward = GradientProducts::kFloat;
        if (integers || first) configs.push_back(config);
        first = false;
      }
    }
    if (idle && !used) {
      say(idle_int8_text(fmt::format("{}", fmt::join(schemes(settings), " or "))));
    }
    return configs;
  }

  std::vector<std::string> schemes(const TrainSettings& settings) const {
    if (!schemes_.empty()) return schemes_;
    if (settings.scheme.base == "none") return {"none"};
    return {"none", settings.scheme.base};
  }

  std::vector<std::string> backwards(const TrainSettings& settings) const {
    if (!backwards_.empty()) return backwards_;
    return {settings.train.backward};
  }

  static void compare(std::vector<TrainingResult>& results) {
    for (const TrainingResult& base : results) {
      if (base.config.scheme.base().quantized() || !base.config.scheme.overrides().empty())
        continue;
      for (TrainingResult& result : results) {
        result.speedup = paired_speedup(base.times, result.times);
      }
      return;
    }
  }

  void report(const TrainSettings& settings, const Backend& backend,
              const std::vector<TrainingResult>& results) const {
    const Machine machine = describe_machine();
    if (!json_) {
      print_out(to_text(machine) + table(settings, backend, results));
      return;
    }
    Json list = Json::array();
    for (const TrainingResult& result : results) {
      list.push_back(result_json(settings, backend, result));
    }
    Report report;
    report.add_json("machine", to_json(machine));
    report.add_json("results", list);
    report.print(true);
  }

  Json result_json(const TrainSettings& settings, const Backend& backend,
                   const TrainingResult& result) const {
    Json json;
    json["scheme"] = result.config.scheme.to_string();
    json["backward"] = gradient_products_name(result.config.backward);
    json["preset"] = settings.model.preset;
    json["parameters"] = result.config.model.parameters();
    json["dtype"] = settings.run.dtype;
    json["device"] = backend.name();
    json["threads"] = backend.threads();
    json["batch_size"] = result.config.batch_size;
    json["seq_len"] = result.config.seq_len;
    json["steps"] = steps_;
    json["tokens_per_second"] = result.tokens_per_second(result.times.median_seconds());
    json["tokens_per_second_least"] = result.tokens_per_second(result.times.most_seconds());
    json["tokens_per_second_most"] = result.tokens_per_second(result.times.least_seconds());
    json["step_ms"] = 1e3 * result.times.median_seconds();
    for (std::size_t kind = 0; kind < kWorkKinds; ++kind) {
      const auto work = static_cast<Work>(kind);
      const std::string name(work_name(work));
      json["ms_by_phase"][name] = result.times.median_ms(work);
      json["roofline_ms_by_phase"][name] = result.times.bound_ms(work);
    }
    json["ms_by_phase"]["other"] = result.times.median_other_ms();
    json["roofline_ms"] = result.times.bound_ms();
    json["share_of_roofline"] = result.share_of_roofline();
    json["gflops"] = result.gflops();
    json["peak"] = peak_.name;
    json["peak_gflops"] = peak_gflops();
    json["share_of_peak"] = peak_gflops() > 0 ? Json(result.gflops() / peak_gflops()) : Json();
    json["product_gflops"] = product_gflops_;
    json["share_of_product"] = result.gflops() / product_gflops_;
    json["ratio_to_none"] = result.speedup > 0 ? Json(result.speedup) : Json();
    return json;
  }

  std::string table(const TrainSettings& settings, const Backend& backend,
                    const std::vector<TrainingResult>& results) const {
    const TrainerConfig& config = results.front().config;
    const ModelConfig& model = config.model;
    std::string text = fmt::format(
        "model     {}: {} parameters, {} layers, width {}, vocabulary {}\n"
        "step      {} x {} tokens in {} on {}, {} threads; medians of {}\n"
        "peak      {:.0f} GFLOP/s: {}, measured just now; a dense product reaches {:.0f}\n"
        "roofline  each kernel's operations at the measured peak of its unit or its bytes at the\n"
        "          rate of the memory that holds them, whichever takes longer; ms in brackets\n\n",
        settings.model.preset, with_commas(model.parameters()), model.layers, model.width,
        with_commas(model.vocab), config.batch_size * config.grad_accum, config.seq_len,
        settings.run.dtype, backend.name(), backend.threads(), steps_, peak_gflops(), peak_.name,
        product_gflops_);
    const auto row = [&](std::string_view label, auto value) {
      text += fmt::format("{:<20}", label);
      for (const TrainingResult& result : results) text += fmt::format("{:>20}", value(result));
      text += "\n";
    };
    const auto speed = [](double value) { return fmt::format("{:.0f}", value); };
    const auto ms = [](double value) { return fmt::format("{:.2f}", value); };
    const auto percent = [](double share) { return fmt::format("{:.1f} %", 100 * share); };
    using R = const TrainingResult&;
    row("scheme", [](R r) { return r.config.scheme.to_string(); });
    row("backward", [](R r) { return gradient_products_name(r.config.backward); });
    row("tokens/s", [&](R r) { return speed(r.tokens_per_second(r.times.median_seconds())); });
    row("  slowest step", [&](R r) { return speed(r.tokens_per_second(r.times.most_seconds())); });
    row("  fastest step", [&](R r) { return speed(r.tokens_per_second(r.times.least_seconds())); });
    row("times none",
        [](R r) { return r.speedup > 0 ? fmt::format("{:.3f}", r.speedup) : std::string("-"); });
    row("share of peak", [&](R r) { return percent(r.gflops() / peak_gflops()); });
    row("share of roofline", [&](R r) { return percent(r.share_of_roofline()); });
    row("ms a step", [&](R r) { return ms(1e3 * r.times.median_seconds()); });
    for (std::size_t kind = 0; kind < kWorkKinds; ++kind) {
      const auto work = static_cast<Work>(kind);
      row(fmt::format("  {}", work_name(work)), [&](R r) {
        return fmt::format("({:.2f}) {:>7.2f}", r.times.bound_ms(work), r.times.median_ms(work));
      });
    }
    row("  other", [&](R r) { return ms(r.times.median_other_ms()); });
    return text;
  }

  double peak_gflops() const { return 1e-9 * peak_.operations_per_second; }

  SettingsFlags settings_;
  std::vector<std::string> schemes_, backwards_;
  std::int64_t steps_ = 7;
  bool json_ = false;
  Roofline::UnitRate peak_;
  double product_gflops_ = 0;
};

}  // namespace

std::unique_ptr<Command> make_bench_peaks_command() {
  return std::make_unique<BenchPeaksCommand>();
}
std::unique_ptr<Command> make_bench_train_command() {
  return std::make_unique<BenchTrainCommand>();
}

}  // namespace quest::app
