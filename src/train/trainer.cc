// The training step: micro-batches, gradients, AdamW.
#include "train/trainer.h"

#include <chrono>
#include <cmath>

#include "core/error.h"
#include "train/non_finite.h"

namespace quest {
namespace {

// After "lower --lr": what --resume does depends on what was saved.
constexpr const char* kHowToGoOn =
    "and --resume, from the last checkpoint or, if none was saved, from the beginning";

PassShape pass_shape(const TrainerConfig& config) {
  return {config.batch_size, config.seq_len, true, config.recompute};
}

// Tokens, targets and sums, each rounded up to an arena's alignment.
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
      sums_(memory_.take({2}, DType::kF64)),
      preparation_(backend_.make_recording()),
      first_micro_batch_(backend_.make_recording()),
      micro_batch_(backend_.make_recording()),
      update_(backend_.make_recording()) {
  model_.initialize(config.seed);
  const std::int64_t keys = config.backward == GradientProducts::kInt8
                                ? count_rounding_keys(model_.llama(), activations_)
                                : 0;
  if (backend.place() == Place::kHost || keys == 0) return;
  keys_memory_ = Arena(backend_, static_cast<std::size_t>(keys) * sizeof(RoundingKey::words) + 64);
  rounding_words_ = keys_memory_.take({keys, 2}, DType::kU32);
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

StepReport Trainer::step(Measure measure) {
  const auto start = std::chrono::steady_clock::now();
  backend_.keep_times(measure != Measure::kNothing);
  backend_.reset_times();
  StepReport report;
  report.learning_rate = config_.schedule.rate(steps_done_);

  preparation_->run([&] { prepare_step(); });
  for (std::int64_t micro = 0; micro < config_.grad_accum; ++micro) {
    load_micro_batch(micro);
    if (measure == Measure::kTimesAndErrors && micro == 0) {
      run_micro_batch(micro, &report.errors);
    } else {
      const auto& recording = micro == 0 ? first_micro_batch_ : micro_batch_;
      recording->run([&] { run_micro_batch(micro); });
    }
  }
  optimizer_.begin_step(report.learning_rate, steps_done_ + 1);
  update_->run([&] { update(); });
  double sums[2];
  backend_.copy(view_of(sums, {2}), sums_);
  report.loss = sums[0] / static_cast<double>(config_.tokens_per_step());
  report.grad_norm = std::sqrt(sums[1]);
  if (!std::isfinite(report.loss)) report_non_finite("loss");
  if (!std::isfinite(report.grad_norm)) report_non_finite("gradient");

  report.step = ++steps_done_;
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  report.seconds = elapsed.count();
  if (measure != Measure::kNothing) report.work = backend_.times();
  return report;
}

void Trainer::prepare_step() {
  backend_.zero(sums_);
  model_.prepare();  // quantized once a step, shared by all micro-batches
}

void Trainer::load_micro_batch(std::int64_t micro) {
  batches_(steps_done_, micro, batch_);
  backend_.copy(tokens_, batch_.inputs().reshaped(tokens_.shape));
  backend_.copy(targets_, batch_.targets().reshaped(targets_.shape));
  if (!rounding_words_) return;
  RoundingKeys keys = rounding_keys(micro);
  std::vector<std::uint32_t> words;
  for (std::int64_t i = 0; i < rounding_words_.rows(); ++i) {
    const RoundingKey key = keys.next();
    words.insert(words.end(), key.words.begin(), key.words.end());
  }
  backend_.copy(rounding_words_, view_of(words.data(), rounding_words_.shape));
}

RoundingKeys Trainer::rounding_keys(std::int64_t micro) const {
  return {config_.seed, static_cast<std::uint32_t>(steps_done_), static_cast<std::uint32_t>(micro),
          rounding_words_};
}

void Trainer::run_micro_batch(std::int64_t micro, std::vector<LayerError>* errors) {
  const double loss_scale = 1.0 / static_cast<double>(config_.tokens_per_step());
  RoundingKeys keys = rounding_keys(micro);
  const GradientOptions options{config_.backward == GradientProducts::kInt8 ? &keys : nullptr,
                                micro == 0 ? Write::kSet : Write::kAdd};
  forward_backward(backend_, model_.llama(), activations_, tokens_, targets_,
                   static_cast<float>(loss_scale), options, errors);
  backend_.sum(loss_sum(), activations_.losses);
}

void Trainer::update() {
  finish_gradients(backend_, model_.llama());
  optimizer_.update(sums_);
}

double Trainer::read_loss_sum() {
  double sum = 0.0;
  backend_.copy(view_of(&sum, {1}), loss_sum());
  return sum;
}

double Trainer::time_micro_batch() {
  prepare_step();
  load_micro_batch(0);
  run_micro_batch(0);  // the first pass touches memory and builds what kernels cache
  backend_.synchronize();
  const auto start = std::chrono::steady_clock::now();
  load_micro_batch(0);
  run_micro_batch(0);
  if (!std::isfinite(read_loss_sum())) report_non_finite("loss");
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  return elapsed.count();
}

void Trainer::report_non_finite(const char* what) {
  // The search begins at the tokens of the first micro-batch whose loss is broken, or of the last.
  for (std::int64_t micro = 0; micro < config_.grad_accum; ++micro) {
    load_micro_batch(micro);
    forward_loss(backend_, model_.llama(), activations_, tokens_, targets_);
    backend_.zero(sums_);
    backend_.sum(loss_sum(), activations_.losses);
    if (!std::isfinite(read_loss_sum())) break;
  }
  throw NonFiniteError(fmt::format(
      "step {}: the {} is NaN or infinite, first seen in {}; lower --lr or --grad-clip {}",
      steps_done_ + 1, what, find_non_finite(backend_, model_.llama(), activations_, tokens_),
      kHowToGoOn));
}

void Trainer::require_finite_weights() {
  backend_.zero(sums_);
  backend_.sum_squares(loss_sum(), model_.arenas().parameters.flat_f32());
  if (std::isfinite(read_loss_sum())) return;
  throw NonFiniteError(
      fmt::format("after step {}: {} is NaN or infinite; lower --lr {}", steps_done_,
                  find_non_finite(backend_, model_.llama(), activations_, tokens_), kHowToGoOn));
}

Evaluation Trainer::evaluate(const EvalSource& source, const Tokenizer& tokenizer) {
  model_.prepare();
  return quest::evaluate(model_, activations_, source, tokenizer);
}

}  // namespace quest
