// The options of commands that run a model.
#include "apps/model_options.h"

#include <CLI/CLI.hpp>

#include "apps/backends.h"
#include "apps/options.h"
#include "core/error.h"

namespace quest::app {

void ModelOptions::declare_model(CLI::App& app) {
  app.add_option("--model", model_, "a model folder, or the folder of a training run")
      ->type_name("DIR")
      ->required();
}

void ModelOptions::declare_context(CLI::App& app) {
  add_whole(app, "--context", context_, {.low = 0, .high = kMostPositions},
            "positions of a sequence, also more than the model was trained with; 0: as many as "
            "that");
}

void ModelOptions::declare_kv_bits(CLI::App& app) {
  add_choice(app, "--kv-bits", kv_bits_, {32, 16, 8, 0},
             "bits of kept keys and values: 32, 16 or 8; 0: those of --dtype");
}

void ModelOptions::declare_machine(CLI::App& app) {
  add_whole(app, "--threads", threads_, {.low = 0, .high = 1024}, "0: all that there are");
  app.add_option("--device", device_,
                 "cpu, cuda or cuda:N (not yet run on a GPU: docs/cuda.md), or reference: "
                 "slow plain loops")
      ->type_name("NAME")
      ->capture_default_str();
  app.add_option("--dtype", dtype_,
                 "of high-precision products: f32, or bf16, by which a model trained in bf16 "
                 "computes exactly as it was trained")
      ->type_name("TYPE")
      ->capture_default_str();
}

LoadedModel ModelOptions::load() {
  if (dtype_ != "f32" && dtype_ != "bf16") {
    throw UsageError(fmt::format("there is no --dtype '{}'; use f32 or bf16", dtype_));
  }
  backend_ = make_backend(device_, threads_);
  const DType compute = dtype_ == "bf16" ? DType::kBF16 : DType::kF32;
  return load_model_folder(model_, *backend_, compute, context_);
}

std::optional<DType> ModelOptions::kept() const {
  switch (kv_bits_) {
    case 32:
      return DType::kF32;
    case 16:
      return DType::kBF16;
    case 8:
      return DType::kI8;
    default:
      return std::nullopt;
  }
}

void add_sampling(CLI::App& app, SamplingOptions& sampling, std::int64_t& seed) {
  add_real(app, "--temp", sampling.temperature, {.low = 0},
           "temperature; 0: always the likeliest token");
  add_whole(app, "--top-k", sampling.top_k, {.low = 0},
            "choose among the K likeliest tokens; 0: all");
  add_real(app, "--top-p", sampling.top_p, {.low = 0, .high = 1, .low_open = true},
           "choose among the likeliest tokens that together have this probability");
  add_whole(app, "--seed", seed, {.low = 0}, "the same seed gives the same text");
}

}  // namespace quest::app
