// The training step: micro-batches, gradients, AdamW.
#include "train/trainer.h"

#include <chrono>
#include <cmath>

#include "core/error.h"
#include "train/non_finite.h"

namespace quest {
namespace {

PassShape pass_shape(const TrainerConfig& config) {
  return {config.batch_size, config.seq_len, true, config.recompute};
}

// Tokens, targets and the loss sum, each rounded up to an arena's alignment.
std::size_t batch_bytes(const TrainerConfig& config) {
  return 2 * (static_cast<std::size_t>(config.batch_size * config.seq_len) * 4 + 64) + 64;
}

// The integers of an input gradient are summed over a layer's outputs in 32 bits.
const TrainerConfig& checked(const TrainerConfig& config) {
  constexpr std::int64_t kMostOutputs = 32768;
  if (config.backward != GradientProducts::kInt8) return config;
  const auto check = [&](const LinearLayout& layout, const LinearScheme& fallback) {
    std::int64_t outputs = 0;
    for (const LinearPart& part : layout.parts) {
      if (config.scheme.for_layer(part.name, fallback).integer_product()) outputs += part.rows;
    }
    if (outputs > kMostOutputs) {
      fail("--backward int8 supports layers of at most {} outputs; {} has {}", kMostOutputs,
           layout.parts.front().name, outputs);
    }
  };
  for (std::int64_t layer = 0; layer < config.model.layers; ++layer) {
    check(qkv_layout(config.model, layer), config.scheme.base());
    check(out_layout(config.model, layer), config.scheme.base());
    check(gate_up_layout(config.model, layer), config.scheme.base());
    check(down_layout(config.model, layer), config.scheme.base());
  }
  check(head_layout(config.model), LinearScheme());
  return config;
}

}  // namespace

std::string_view gradient_products_name(GradientProducts products) {
  return products == GradientProducts::kInt8 ? "int8" : "float";
}

Trainer::Trainer(Backend& backend, const TrainerConfig& config, BatchSource batches)
    : backend_(backend),
      config_(checked(config)),
      batches_(std::move(batches)),
      model_(backend_, config.model, config.scheme, config.compute, true),
      optimizer_(model_, config.optimizer),
      memory_(backend_, measure(config).activations),
      activations_(model_.llama().make_activations(memory_, pass_shape(config))),
      tokens_(memory_.take({config.batch_size * config.seq_len}, DType::kI32)),
      targets_(memory_.take({config.batch_size * config.seq_len}, DType::kI32)),
      loss_sum_(memory_.take({1}, DType::kF64)) {
  model_.initialize(config.seed);
}

Trainer::Bytes Trainer::measure(const TrainerConfig& config) {
  Bytes bytes;
  bytes.model = Model::measure(config.model, config.scheme, config.compute, true);
  bytes.optimizer = AdamW::measure(bytes.model.parameters, config.optimizer.moment_bits);
  bytes.activations =
      Model::measure_activations(config.model, config.scheme, config.compute, pass_shape(config)) +
      batch_bytes(config);
  return bytes;
}

StepReport Trainer::step(bool measure_errors) {
  const auto start = std::chrono::steady_clock::now();
  backend_.reset_times();
  StepReport report;
  report.learning_rate = config_.schedule.rate(steps_done_);

  model_.prepare();  // quantized once a step, shared by all micro-batches
  for (std::int64_t micro = 0; micro < config_.grad_accum; ++micro) {
    const bool measured = measure_errors && micro == 0;
    report.loss += run_micro_batch(micro, measured ? &report.errors : nullptr);
  }
  report.loss /= static_cast<double>(config_.tokens_per_step());
  finish_gradients(backend_, model_.llama());
  report.grad_norm = optimizer_.update(report.learning_rate, steps_done_ + 1);
  if (!std::isfinite(report.grad_norm)) report_non_finite("gradient");

  report.step = ++steps_done_;
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  report.seconds = elapsed.count();
  report.work = backend_.times();
  return report;
}

double Trainer::run_micro_batch(std::int64_t micro, std::vector<LayerError>* errors) {
  batches_(steps_done_, micro, batch_);
  backend_.copy(tokens_, batch_.inputs().reshaped(tokens_.shape));
  backend_.copy(targets_, batch_.targets().reshaped(targets_.shape));
  const double loss_scale = 1.0 / static_cast<double>(config_.tokens_per_step());
  RoundingKeys keys(config_.seed, static_cast<std::uint32_t>(steps_done_),
                    static_cast<std::uint32_t>(micro));
  const GradientOptions options{config_.backward == GradientProducts::kInt8 ? &keys : nullptr,
                                micro == 0 ? Write::kSet : Write::kAdd};
  forward_backward(backend_, model_.llama(), activations_, tokens_, targets_,
                   static_cast<float>(loss_scale), options, errors);
  backend_.zero(loss_sum_);
  backend_.sum(loss_sum_, activations_.losses);
  double loss_sum = 0.0;
  backend_.copy(view_of(&loss_sum, {1}), loss_sum_);
  backend_.synchronize();
  if (!std::isfinite(loss_sum)) report_non_finite("loss");
  return loss_sum;
}

double Trainer::time_micro_batch() {
  model_.prepare();
  run_micro_batch(0, nullptr);  // the first pass touches memory and builds what kernels cache
  const auto start = std::chrono::steady_clock::now();
  run_micro_batch(0, nullptr);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  return elapsed.count();
}

void Trainer::report_non_finite(const char* what) {
  throw NonFiniteError(fmt::format(
      "step {}: the {} is NaN or infinite, first seen in {}; lower --lr or --grad-clip and "
      "--resume from the last checkpoint",
      steps_done_ + 1, what, find_non_finite(backend_, model_.llama(), activations_, tokens_)));
}

void Trainer::require_finite_weights() {
  backend_.zero(loss_sum_);
  backend_.sum_squares(loss_sum_, model_.arenas().parameters.flat_f32());
  double square_sum = 0.0;
  backend_.copy(view_of(&square_sum, {1}), loss_sum_);
  backend_.synchronize();
  if (std::isfinite(square_sum)) return;
  throw NonFiniteError(fmt::format(
      "after step {}: {} is NaN or infinite; lower --lr and --resume from the last checkpoint",
      steps_done_, find_non_finite(backend_, model_.llama(), activations_, tokens_)));
}

Evaluation Trainer::evaluate(const EvalSource& source, const Tokenizer& tokenizer) {
  model_.prepare();
  return quest::evaluate(model_, activations_, source, tokenizer);
}

}  // namespace quest
