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

void ModelOptions::declare_machine(CLI::App& app) {
  add_whole(app, "--threads", threads_, {.low = 0, .high = 1024}, "0: all that there are");
  app.add_option("--device", device_, "cpu, or reference: slow plain loops")
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
  return load_model_folder(model_, *backend_, dtype_ == "bf16" ? DType::kBF16 : DType::kF32);
}

}  // namespace quest::app
