// The loop around the training step.
#include "train/run.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/error.h"

namespace quest {

namespace {

using Json = nlohmann::ordered_json;

bool is_due(std::int64_t step, std::int64_t every) { return every > 0 && step % every == 0; }

Json error_json(const QuantizationError& error) {
  if (error.count == 0) return nullptr;
  return {{"masked_fraction", error.masked_fraction()}, {"relative_error", error.relative_error()}};
}

Json step_json(const StepReport& report, const TrainerConfig& config, double peak_flops) {
  Json json;
  json["event"] = "step";
  json["step"] = report.step;
  json["loss"] = report.loss;
  json["grad_norm"] = report.grad_norm;
  json["lr"] = report.learning_rate;
  json["tokens"] = report.step * config.tokens_per_step();
  json["tokens_per_second"] = static_cast<double>(config.tokens_per_step()) / report.seconds;
  json["ms"] = 1e3 * report.seconds;
  for (std::size_t kind = 0; kind < kWorkKinds; ++kind) {
    json["ms_by_phase"][std::string(work_name(static_cast<Work>(kind)))] =
        1e3 * report.work.seconds[kind];
  }
  json["ms_by_phase"]["other"] = 1e3 * (report.seconds - report.work.total_seconds());
  if (peak_flops > 0) {
    const double flops = 3.0 * config.model.forward_flops_per_token(config.seq_len) *
                         static_cast<double>(config.tokens_per_step());
    json["share_of_peak"] = flops / report.seconds / peak_flops;
  }
  for (const LayerError& layer : report.errors) {
    json["layers"][layer.name] = {{"weight", error_json(layer.weight)},
                                  {"activation", error_json(layer.input)}};
  }
  return json;
}

// Leaves an evaluation that nobody waits for any more.
struct StopRequested {};

// The state of one call of run_training.
class Run {
 public:
  Run(Trainer& trainer, const RunPlan& plan, RunFolder& folder, const Tokenizer& tokenizer,
      const EvalSource* validation, RunObserver& observer)
      : trainer_(trainer),
        plan_(plan),
        folder_(folder),
        tokenizer_(tokenizer),
        validation_(validation),
        observer_(observer) {}

  RunResult run();

 private:
  void take_steps();
  bool stop_requested();
  void one_step();
  void evaluate();
  void sample();
  void save();
  void summarize(std::int64_t first);

  Trainer& trainer_;
  const RunPlan& plan_;
  RunFolder& folder_;
  const Tokenizer& tokenizer_;
  const EvalSource* validation_;
  RunObserver& observer_;
  RunResult result_;
  std::vector<double> losses_;
  double step_seconds_ = 0.0;
  std::int64_t evaluated_step_ = -1;
  std::int64_t saved_step_ = -1;
};

void Run::one_step() {
  const std::int64_t next = trainer_.steps_done() + 1;
  const bool logged = is_due(next, plan_.log_every) || next == 1 || next == plan_.steps;
  const StepReport report = trainer_.step(logged ? Measure::kTimesAndErrors : Measure::kNothing);
  losses_.push_back(report.loss);
  step_seconds_ += report.seconds;
  if (logged) folder_.log(step_json(report, trainer_.config(), plan_.peak_flops).dump());
  observer_.on_step(report);
}

bool Run::stop_requested() {
  result_.stopped = result_.stopped || observer_.stop_requested();
  return result_.stopped;
}

void Run::evaluate() {
  if (validation_ == nullptr || evaluated_step_ == trainer_.steps_done()) return;
  const EvalSource until_stopped{validation_->batches, [&](std::int64_t index, Batch& batch) {
                                   if (stop_requested()) throw StopRequested();
                                   validation_->load(index, batch);
                                 }};
  try {
    result_.validation = trainer_.evaluate(until_stopped, tokenizer_);
  } catch (const StopRequested&) {
    return;
  }
  evaluated_step_ = trainer_.steps_done();
  result_.has_validation = true;
  Json json;
  json["event"] = "evaluation";
  json["step"] = evaluated_step_;
  json["loss"] = result_.validation.loss();
  json["perplexity"] = result_.validation.perplexity();
  json["bits_per_byte"] = result_.validation.bits_per_byte();
  json["accuracy"] = result_.validation.accuracy();
  json["tokens"] = result_.validation.tokens;
  folder_.log(json.dump());
  observer_.on_evaluation(evaluated_step_, result_.validation);
}

void Run::sample() {
  const std::int64_t step = trainer_.steps_done();
  trainer_.model().prepare();
  const std::string text = observer_.sample(step, trainer_.model());
  if (text.empty()) return;
  Json json;
  json["event"] = "sample";
  json["step"] = step;
  json["text"] = text;
  folder_.log(json.dump(-1, ' ', false, Json::error_handler_t::replace));
  observer_.on_sample(step, text);
}

void Run::save() {
  const std::int64_t step = trainer_.steps_done();
  if (saved_step_ == step) return;
  trainer_.require_finite_weights();
  const std::filesystem::path path = checkpoint_path(folder_.path(), step);
  std::filesystem::create_directories(path.parent_path());
  const TrainerConfig& config = trainer_.config();
  save_checkpoint(trainer_,
                  {step, step * config.tokens_per_step(), config.seed, plan_.data_seed, plan_.data},
                  tokenizer_, path);
  saved_step_ = step;
  prune_checkpoints(folder_.path(), plan_.keep_last);
  folder_.log(Json{{"event", "checkpoint"}, {"step", step}}.dump());
  observer_.on_checkpoint(step, path);
}

void Run::take_steps() {
  while (trainer_.steps_done() < plan_.steps && !stop_requested()) {
    one_step();
    const std::int64_t step = trainer_.steps_done();
    if (step == plan_.steps || stop_requested()) break;
    if (is_due(step, plan_.eval_every)) evaluate();
    if (is_due(step, plan_.sample_every)) sample();
    if (is_due(step, plan_.save_every)) save();
  }
}

RunResult Run::run() {
  const std::int64_t first = trainer_.steps_done();
  try {
    take_steps();
    result_.steps = trainer_.steps_done();
    if (result_.steps > first) save();
    if (result_.steps == plan_.steps) {
      save_model_folder(trainer_.model(), tokenizer_, folder_.path());
      evaluate();
      if (plan_.sample_every > 0 && !stop_requested()) sample();
    }
  } catch (const NonFiniteError& error) {
    folder_.log(
        Json{{"event", "stop"}, {"step", trainer_.steps_done()}, {"why", error.what()}}.dump());
    throw;
  }
  summarize(first);
  return result_;
}

void Run::summarize(std::int64_t first) {
  if (losses_.empty()) return;
  const std::size_t last = std::max<std::size_t>(losses_.size() / 10, 1);
  result_.train_loss =
      std::accumulate(losses_.end() - static_cast<std::ptrdiff_t>(last), losses_.end(), 0.0) /
      static_cast<double>(last);
  const std::int64_t tokens = (result_.steps - first) * trainer_.config().tokens_per_step();
  result_.tokens_per_second = static_cast<double>(tokens) / step_seconds_;
}

}  // namespace

RunResult run_training(Trainer& trainer, const RunPlan& plan, RunFolder& folder,
                       const Tokenizer& tokenizer, const EvalSource* validation,
                       RunObserver& observer) {
  return Run(trainer, plan, folder, tokenizer, validation, observer).run();
}

}  // namespace quest
