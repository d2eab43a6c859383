// quest bench infer: how fast packed models of some size run here, on random weights.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/backends.h"
#include "apps/bench_inference.h"
#include "apps/command.h"
#include "apps/device_roofline.h"
#include "apps/machine.h"
#include "apps/options.h"
#include "apps/output.h"
#include "apps/progress.h"
#include "apps/random_packed.h"
#include "apps/text.h"
#include "backend/cpu/peaks/memory_reads.h"
#include "core/error.h"
#include "infer/sequences.h"

namespace quest::app {
namespace {

using Json = nlohmann::ordered_json;

struct InferenceResult {
  std::string preset;
  std::string scheme;
  std::string device;
  int threads;
  double weight_bytes;  ///< that a decoded token reads
  double linear_flops;  ///< of one token in the linear layers of the blocks
  InferenceTimes times;
  Roofline::UnitRate int8_peak;
};

class BenchInferCommand : public Command {
 public:
  CommandText text() const override {
    return {"bench infer",
            "Measure packed models on random weights: a prompt at once, tokens one by one",
            {"quest bench infer --preset 100M --scheme w4a4,w1a1",
             "quest bench infer --scheme w4a4 --batch 1,16    # 16 sequences that share passes",
             "quest bench infer --preset 800M --scheme w4a4,none --dtype bf16 --device cuda",
             "quest bench infer --preset 800M --scheme w4a4 --head-bits 8 --threads 1,2 --json"}};
  }

  void declare(CLI::App& app) override {
    app.add_option("--preset", presets_, "sizes, with commas between or repeated [100M]")
        ->type_name("NAME")
        ->delimiter(',');
    app.add_option("--scheme", schemes_, "schemes, likewise [w4a4,w2a2,w1a1]")
        ->type_name("S")
        ->delimiter(',');
    app.add_option("--threads", threads_, "numbers of threads, likewise [1,2]; cpu alone has any")
        ->type_name("N")
        ->delimiter(',')
        ->check(whole_from_to("--threads", 1, 1024));
    app.add_option("--device", device_, "cpu, cuda, cuda:N or reference")
        ->type_name("DEVICE")
        ->capture_default_str();
    add_whole(app, "--vocab", vocab_, {.low = 2, .high = 1 << 20}, "vocabulary");
    add_whole(app, "--prefill", prefill_, {.low = 1, .high = 1 << 16}, "tokens of the prompt");
    add_whole(app, "--decode", decode_, {.low = 1, .high = 1 << 16}, "tokens made one by one");
    app.add_option("--batch", batches_,
                   "also decode so many sequences side by side, likewise, up to 64 [none]")
        ->type_name("N")
        ->delimiter(',')
        ->check(whole_from_to("--batch", 1, Sequences::kMostSlots));
    add_choice(app, "--embedding-bits", embedding_bits_, {16, 8, 4}, "16, 8 or 4");
    add_choice(app, "--head-bits", head_bits_, {16, 8, 4}, "16, 8 or 4");
    add_whole(app, "--repeat", repetitions_, {.low = 1, .high = 1000},
              "timed repetitions, of which the median counts");
    app.add_option("--dtype", dtype_, "of high-precision products: f32 or bf16")
        ->type_name("TYPE")
        ->capture_default_str();
    app.add_flag("--json", json_, "print one JSON object");
  }

  int run() override {
    if (dtype_ != "f32" && dtype_ != "bf16") {
      throw UsageError(fmt::format("there is no --dtype '{}'; use f32 or bf16", dtype_));
    }
    std::vector<ModelDescription> models;
    for (const std::string& preset : presets_) {
      for (const std::string& scheme : schemes_) models.push_back(describe(preset, scheme));
    }
    if (device_ != "cpu") threads_ = {1};
    std::vector<std::unique_ptr<Backend>> backends;
    std::vector<Roofline> rooflines;
    for (const int threads : threads_) {
      backends.push_back(make_backend(device_, threads));
      rooflines.push_back(measure_roofline(*backends.back()));
    }
    Progress progress;
    std::vector<InferenceResult> results;
    const std::size_t total = models.size() * threads_.size();
    for (std::size_t m = 0; m < models.size(); ++m) {
      const RandomPackedTensors weights(models[m]);
      for (std::size_t b = 0; b < backends.size(); ++b) {
        progress.update(static_cast<double>(results.size()) / static_cast<double>(total),
                        fmt::format("{} of {}", results.size() + 1, total));
        TimingBackend backend(*backends[b]);
        const PackedModel model(backend, models[m], weights.view(),
                                dtype_ == "bf16" ? DType::kBF16 : DType::kF32);
        double bytes = 0;
        for (const auto read : weights.decode_reads()) bytes += static_cast<double>(read.size());
        const MemoryReads reads(backend.threads(), weights.decode_reads());
        results.push_back({presets_[m / schemes_.size()], models[m].scheme.to_string(),
                           backend.name(), threads_[b], bytes,
                           2.0 * static_cast<double>(models[m].config.linear_parameters()),
                           time_inference(backend, model,
                                          {prefill_, decode_, batches_, repetitions_,
                                           ways_to_read(backend, rooflines[b], reads, bytes)}),
                           rooflines[b].rate(Unit::kInt8)});
      }
    }
    progress.finish();
    report(results);
    return 0;
  }

 private:
  // Of a device that is no CPU, what as many bytes take at the rate of copies (read and written).
  static std::vector<std::function<double()>> ways_to_read(const Backend& backend,
                                                           const Roofline& roofline,
                                                           const MemoryReads& reads, double bytes) {
    if (backend.place() != Place::kHost) {
      const double seconds = bytes / roofline.levels.back().bytes_per_second;
      return {[seconds] { return seconds; }};
    }
    std::vector<std::function<double()>> ways;
    for (std::size_t way = 0; way < MemoryReads::ways(); ++way) {
      ways.emplace_back([&reads, way] { return reads.seconds(way); });
    }
    return ways;
  }

  ModelDescription describe(const std::string& preset, const std::string& scheme) const {
    ModelDescription model;
    try {
      model.config = ModelConfig::preset(preset, vocab_);
      model.scheme = Scheme::parse(scheme);
    } catch (const Error& error) {
      throw UsageError(error.what());
    }
    model.config.max_positions = std::max(prefill_, decode_) + 1;
    model.packed = StoredBits{static_cast<int>(embedding_bits_), static_cast<int>(head_bits_)};
    return model;
  }

  double prefill_speed(const InferenceResult& r) const {
    return static_cast<double>(prefill_) / median(r.times.prefill);
  }
  double decode_speed(const InferenceResult& r) const {
    return static_cast<double>(decode_) / median(r.times.decode);
  }
  double batch_speed(const InferenceResult& r, std::int64_t batch) const {
    return static_cast<double>(batch * decode_) / median(r.times.batch_decode.at(batch));
  }
  // Of the weights, while products run.
  static double product_gb_per_s(const InferenceResult& r) {
    return 1e-9 * r.weight_bytes / median(r.times.token_product);
  }
  static double read_gb_per_s(const InferenceResult& r) {
    return 1e-9 * r.weight_bytes / median(r.times.token_read);
  }
  // Products' rate over that of reading, in the same repetition.
  static double read_share(const InferenceResult& r) {
    std::vector<double> shares;
    for (std::size_t i = 0; i < r.times.token_read.size(); ++i) {
      shares.push_back(r.times.token_read[i] / r.times.token_product[i]);
    }
    return median(shares);
  }
  double product_gops(const InferenceResult& r) const {
    return 1e-9 * r.linear_flops * static_cast<double>(prefill_) / median(r.times.prefill_product);
  }
  static double int8_gops(const InferenceResult& r) {
    return 1e-9 * r.int8_peak.operations_per_second;
  }
  void report(const std::vector<InferenceResult>& results) const {
    const Machine machine = describe_machine();
    if (json_) {
      Json list = Json::array();
      for (const InferenceResult& r : results) list.push_back(to_json(r));
      Report report;
      report.add_json("machine", app::to_json(machine));
      report.add_json("results", list);
      report.print(true);
      return;
    }
    std::string text = to_text(machine);
    if (device_ != "cpu") text += fmt::format("device    {}\n", results.front().device);
    text += fmt::format(
        "model     random weights, vocabulary {}, embedding {} bits, head {} bits, {}\n"
        "weights   what a decoded token reads: all matrices but the embedding table\n"
        "read      these bytes over the time of its products, and the share of what\n"
        "          reading them alone reaches, in turns with tokens (other devices: copying)\n"
        "products  operations of the quantized layers, two a weight, and the share of: {}\n"
        "x N       tokens/s of N sequences that decode side by side, and how many times one alone\n"
        "\n",
        with_commas(vocab_), embedding_bits_, head_bits_, dtype_, results.front().int8_peak.name);
    text += fmt::format("{:<8}{:<12}{:>8}{:>12}{:>14}{:>14}{:>16}{:>18}\n", "preset", "scheme",
                        "threads", "weights", fmt::format("prefill {}", prefill_),
                        fmt::format("decode {}", decode_), "read GB/s", "products GOP/s");
    text.pop_back();
    for (const std::int64_t batch : batches_) {
      text += fmt::format("{:>18}", fmt::format("x {}", batch));
    }
    text += "\n";
    for (const InferenceResult& r : results) {
      text += fmt::format(
          "{:<8}{:<12}{:>8}{:>12}{:>14.1f}{:>14.2f}{:>16}{:>18}\n", r.preset, r.scheme, r.threads,
          size_text(r.weight_bytes), prefill_speed(r), decode_speed(r),
          fmt::format("{:.1f} {:>4.0f} %", product_gb_per_s(r), 100 * read_share(r)),
          fmt::format("{:.0f} {:>4.0f} %", product_gops(r), 100 * product_gops(r) / int8_gops(r)));
      text.pop_back();
      for (const std::int64_t batch : batches_) {
        const double speed = batch_speed(r, batch);
        text +=
            fmt::format("{:>18}", fmt::format("{:.1f} {:>5.2f}x", speed, speed / decode_speed(r)));
      }
      text += "\n";
    }
    print_out(text);
  }

  Json to_json(const InferenceResult& r) const {
    Json json;
    json["preset"] = r.preset;
    json["scheme"] = r.scheme;
    json["device"] = r.device;
    json["threads"] = r.threads;
    json["dtype"] = dtype_;
    json["embedding_bits"] = embedding_bits_;
    json["head_bits"] = head_bits_;
    json["weight_bytes"] = r.weight_bytes;
    json["prefill_tokens"] = prefill_;
    json["decode_tokens"] = decode_;
    json["prefill_tokens_per_second"] = prefill_speed(r);
    json["decode_tokens_per_second"] = decode_speed(r);
    Json batches = Json::array();
    for (const auto& [batch, seconds] : r.times.batch_decode) {
      batches.push_back({{"sequences", batch},
                         {"tokens_per_second", batch_speed(r, batch)},
                         {"seconds", seconds}});
    }
    json["batches"] = batches;
    json["prefill_seconds"] = r.times.prefill;
    json["decode_seconds"] = r.times.decode;
    json["decode_product_gb_per_s"] = product_gb_per_s(r);
    json["read_gb_per_s"] = read_gb_per_s(r);
    json["decode_read_share"] = read_share(r);
    json["prefill_product_gops"] = product_gops(r);
    json["int8_peak"] = r.int8_peak.name;
    json["int8_peak_gops"] = int8_gops(r);
    return json;
  }

  std::vector<std::string> presets_{"100M"};
  std::vector<std::string> schemes_{"w4a4", "w2a2", "w1a1"};
  std::vector<int> threads_{1, 2};
  std::vector<std::int64_t> batches_;
  std::string device_ = "cpu";
  std::string dtype_ = "f32";
  std::int64_t vocab_ = 32000;
  std::int64_t prefill_ = 512;
  std::int64_t decode_ = 128;
  std::int64_t embedding_bits_ = 8;
  std::int64_t head_bits_ = 8;
  std::int64_t repetitions_ = 3;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_bench_infer_command() {
  return std::make_unique<BenchInferCommand>();
}

}  // namespace quest::app
