// The options of commands that run a model: which folder, on what, in which numbers.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "backend/backend.h"
#include "infer/model_folder.h"

namespace CLI {
class App;
}

namespace quest::app {

/// --model, --threads, --device and --dtype.
class ModelOptions {
 public:
  /// Help lists options in the order in which they are declared: --model first, the others last.
  void declare_model(CLI::App& app);
  void declare_machine(CLI::App& app);
  /// Makes `backend()` and loads the model onto it. Throws Error.
  LoadedModel load();

  Backend& backend() { return *backend_; }

 private:
  std::string model_, device_ = "cpu", dtype_ = "f32";
  std::int64_t threads_ = 0;
  std::unique_ptr<Backend> backend_;
};

}  // namespace quest::app
