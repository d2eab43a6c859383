// quest bench kernels: each kernel at the sizes that decide speed, as a share of what bounds it.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/backends.h"
#include "apps/bench_inference.h"
#include "apps/bench_kernels.h"
#include "apps/command.h"
#include "apps/device_roofline.h"
#include "apps/machine.h"
#include "apps/options.h"
#include "apps/output.h"
#include "apps/progress.h"
#include "apps/text.h"
#include "backend/cpu/isa.h"
#include "backend/timed_run.h"
#include "core/error.h"

namespace quest::app {
namespace {

using Json = nlohmann::ordered_json;

// Seconds of one call in each of `samples` samples, which take `sample_seconds` each or one call.
std::vector<double> time_calls(Backend& backend, const KernelCase& c, std::int64_t samples,
                               double sample_seconds) {
  const std::unique_ptr<Stopwatch> stopwatch = backend.make_stopwatch();
  const auto timed = [&](std::int64_t calls) {
    const double seconds = timed_run(backend, *stopwatch, [&] {
      for (std::int64_t i = 0; i < calls; ++i) c.run(backend);
    });
    return seconds / static_cast<double>(calls);
  };
  timed(1);
  const auto calls = static_cast<std::int64_t>(std::clamp(sample_seconds / timed(1), 1.0, 1e6));
  std::vector<double> seconds;
  for (std::int64_t i = 0; i < samples; ++i) seconds.push_back(timed(calls));
  return seconds;
}

struct KernelResult {
  std::string kernel, size, device;
  int threads = 1;
  double operations = 0, elements = 0, bytes = 0;
  Roofline::Bound bound;
  std::vector<double> seconds;

  double share() const { return bound.seconds / median(seconds); }
  double spread() const {
    const auto [least, most] = std::minmax_element(seconds.begin(), seconds.end());
    return (*most - *least) / median(seconds);
  }
  std::string rate() const {
    const double giga = 1e-9 / median(seconds);
    if (operations > 0) return fmt::format("{:.0f} GOP/s", giga * operations);
    return fmt::format("{:.2f} Gelem/s {:>5.1f} GB/s", giga * elements, giga * bytes);
  }
};

bool holds(const KernelCaseMaker& maker, const std::string& text) {
  return maker.kernel.find(text) != std::string::npos;
}

// Refuses a text that no kernel's name holds.
void require_kernel(const std::vector<KernelCaseMaker>& makers, const std::string& text) {
  std::vector<std::string> kernels;
  for (const KernelCaseMaker& maker : makers) {
    if (holds(maker, text)) return;
    const std::string kernel = maker.kernel.substr(0, maker.kernel.find(' '));  // without types
    if (std::find(kernels.begin(), kernels.end(), kernel) == kernels.end()) {
      kernels.push_back(kernel);
    }
  }
  throw UsageError(
      fmt::format("there is no kernel '{}'{}", text,
                  nearest_hint(nearest_text(text, kernels), "; use " + alternatives(kernels))));
}

class BenchKernelsCommand : public Command {
 public:
  CommandText text() const override {
    return {"bench kernels",
            "Measure each kernel at the sizes that decide speed, beside what bounds it",
            {"quest bench kernels --threads 1,2",
             "quest bench kernels --device cuda --width 2048 --rows 8192    # 800M; 4096: 7B",
             "quest bench kernels --only quantized_matmul,attention --json",
             "QUEST_ISA=avx512 quest bench kernels --only quantized_matmul"}};
  }

  void declare(CLI::App& app) override {
    app.add_option("--only", only_,
                   "kernels whose name holds one of these texts, with commas between or repeated")
        ->type_name("TEXT")
        ->delimiter(',');
    app.add_option("--device", device_, "cpu, cuda, cuda:N or reference")
        ->type_name("DEVICE")
        ->capture_default_str();
    // The widest whose hidden values a product of codes can sum.
    CLI::Option* width =
        add_whole(app, "--width", width_, {.low = 0, .high = 12288},
                  "the layers of a model so wide, a multiple of 64; 0: what kernel tests check");
    add_whole(app, "--rows", rows_, {.low = 1, .high = 1 << 17}, "with --width: its tokens at once")
        ->needs(width);
    app.add_option("--threads", threads_, "numbers of threads, likewise [1]; cpu alone has any")
        ->type_name("N")
        ->delimiter(',')
        ->check(whole_from_to("--threads", 1, 1024));
    add_whole(app, "--samples", samples_, {.low = 1, .high = 1000},
              "timed samples of each, of which the median counts");
    add_whole(app, "--sample-ms", sample_ms_, {.low = 1, .high = 10000},
              "milliseconds of a sample at least; a long call is a sample alone");
    app.add_flag("--json", json_, "print one JSON object");
  }

  int run() override {
    const std::vector<KernelCaseMaker> makers = wanted_cases();
    if (device_ != "cpu") threads_ = {1};
    std::vector<Roofline> rooflines;
    std::vector<std::unique_ptr<Backend>> backends;
    for (const int threads : threads_) {
      backends.push_back(make_backend(device_, threads));
      rooflines.push_back(measure_roofline(*backends.back()));
    }
    const bool on_host = backends.front()->place() == Place::kHost;
    const std::unique_ptr<Backend> host = make_cpu_backend(1);
    Backend& place_of_operands = on_host ? *host : *backends.front();
    Progress progress;
    std::vector<KernelResult> results;
    for (std::size_t m = 0; m < makers.size(); ++m) {
      progress.update(static_cast<double>(m) / static_cast<double>(makers.size()),
                      makers[m].kernel + " " + makers[m].size);
      const KernelCase c = makers[m].make(place_of_operands);
      for (std::size_t t = 0; t < backends.size(); ++t) {
        results.push_back(
            {makers[m].kernel, makers[m].size, backends[t]->name(), threads_[t], c.operations,
             c.elements, c.bytes, rooflines[t].bound({c.unit, c.operations, c.bytes, c.bit_pairs}),
             time_calls(*backends[t], c, samples_, 1e-3 * static_cast<double>(sample_ms_))});
      }
    }
    progress.finish();
    report(results, on_host);
    return 0;
  }

 private:
  std::vector<KernelCaseMaker> wanted_cases() const {
    if (width_ % 64 != 0) {
      throw UsageError(fmt::format("--width must be a multiple of 64, not {}", width_));
    }
    if (width_ == 0 && rows_ != kRows) throw UsageError("--rows requires --width above 0");
    std::vector<KernelCaseMaker> makers =
        kernel_cases(width_ == 0 ? tested_sizes() : layer_sizes(width_, rows_));
    for (const std::string& text : only_) require_kernel(makers, text);
    std::erase_if(makers, [&](const KernelCaseMaker& maker) {
      return !only_.empty() && std::none_of(only_.begin(), only_.end(),
                                            [&](const auto& text) { return holds(maker, text); });
    });
    return makers;
  }

  void report(const std::vector<KernelResult>& results, bool on_host) const {
    const Machine machine = describe_machine();
    if (json_) {
      Json list = Json::array();
      for (const KernelResult& r : results) list.push_back(to_json(r));
      Report report;
      report.add_json("machine", app::to_json(machine));
      if (device_ == "cpu") report.add_json("isa", std::string(isa_name(choose_isa())));
      report.add_json("results", list);
      report.print(true);
      return;
    }
    std::string text = to_text(machine) + header(results.front().device, on_host);
    const auto threads = [&](const auto& shown) {
      return on_host ? fmt::format("{:>8}", shown) : std::string();
    };
    text += fmt::format("{:<32}{:<24}{}{:>12}{:>9}{:>27}{:>8}  {}\n", "kernel", "size",
                        threads("threads"), "us", "spread", "rate", "share", "bound");
    for (const KernelResult& r : results) {
      text += fmt::format("{:<32}{:<24}{}{:>12.1f}{:>7.0f} %{:>27}{:>6.0f} %  {}\n", r.kernel,
                          r.size, threads(r.threads), 1e6 * median(r.seconds), 100 * r.spread(),
                          r.rate(), 100 * r.share(), r.bound.name);
    }
    print_out(text);
  }

  // What the table shows.
  std::string header(const std::string& device, bool on_host) const {
    return fmt::format(
        "kernels   {}; medians of {}, spread from the fastest to the slowest sample\n"
        "share     of the rate at which the kernel's bound allows: {}\n"
        "\n",
        device_ == "cpu" ? isa_name(choose_isa()) : device, samples_,
        on_host
            ? "a unit's peak (of AMX with random\n"
              "          data), or reads of the level of memory that holds all operands (64 MiB: "
              "of\n          so much); both measured now. What lies in a nearer level goes faster"
            : "the device's own large products,\n"
              "          or copies in its memory (read and written), both measured now; what "
              "its caches\n"
              "          hold may go faster");
  }

  static Json to_json(const KernelResult& r) {
    Json json;
    json["kernel"] = r.kernel;
    json["size"] = r.size;
    json["device"] = r.device;
    json["threads"] = r.threads;
    json["seconds"] = r.seconds;
    json["operations"] = r.operations;
    json["elements"] = r.elements;
    json["bytes"] = r.bytes;
    json["bound"] = r.bound.name;
    json["bound_seconds"] = r.bound.seconds;
    json["share"] = r.share();
    return json;
  }

  std::vector<std::string> only_;
  std::string device_ = "cpu";
  std::int64_t width_ = 0;
  static constexpr std::int64_t kRows = 2048;  // which printed options name without a width, too
  std::int64_t rows_ = kRows;
  std::vector<int> threads_{1};
  std::int64_t samples_ = 5;
  std::int64_t sample_ms_ = 5;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_bench_kernels_command() {
  return std::make_unique<BenchKernelsCommand>();
}

}  // namespace quest::app
