// The options of commands that run a model: which folder, on what, in which numbers.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "backend/backend.h"
#include "infer/model_folder.h"
#include "infer/sampler.h"

namespace CLI {
class App;
}

namespace quest::app {

/// --model, --context, --kv-bits, --threads, --device and --dtype.
class ModelOptions {
 public:
  /// Help lists options in the order in which they are declared: --model first, the others last.
  void declare_model(CLI::App& app);
  void declare_context(CLI::App& app);
  void declare_kv_bits(CLI::App& app);
  void declare_machine(CLI::App& app);
  /// Makes `backend()` and loads the model onto it. Throws Error.
  LoadedModel load();

  /// How keys and values are to be kept; none: as computed. Throws UsageError.
  std::optional<DType> kept() const;

  Backend& backend() { return *backend_; }

 private:
  std::string model_, device_ = "cpu", dtype_ = "f32";
  std::int64_t threads_ = 0, context_ = 0, kv_bits_ = 0;
  std::unique_ptr<Backend> backend_;
};

/// --temp, --top-k, --top-p and --seed.
void add_sampling(CLI::App& app, SamplingOptions& sampling, std::int64_t& seed);

}  // namespace quest::app
