// What a user sees of a training run.
#include "apps/train_display.h"

#include <fmt/format.h>

#include <cmath>

#include "apps/text.h"
#include "apps/train_settings.h"
#include "infer/generate.h"
#include "infer/text_stream.h"

namespace quest::app {
namespace {

std::string bytes_text(std::size_t bytes) { return size_text(static_cast<double>(bytes)); }

std::string data_text(const TokenDataset& data) {
  return fmt::format("{} tokens in {} document{}", with_commas(data.size()),
                     with_commas(data.documents()), data.documents() == 1 ? "" : "s");
}

// On a device the data and the program stay on the host: their bytes there are not predicted.
std::string memory_text(const RunMemory& memory, RunDevice device) {
  const Trainer::Bytes& bytes = memory.trainer;
  const bool on_host = device != RunDevice::kCuda;
  std::string text = fmt::format(
      "memory     {}{}: weights {}, gradients {}, moments {}, prepared weights {}, activations "
      "{},\n"
      "           scratch {}",
      bytes_text(memory.total()), on_host ? "" : " on the device",
      bytes_text(bytes.model.parameters), bytes_text(bytes.model.gradients),
      bytes_text(bytes.optimizer), bytes_text(bytes.model.prepared), bytes_text(bytes.activations),
      bytes_text(memory.workspace + memory.sampling));
  if (!on_host) return text + "; the data stays on the host\n";
  return text + fmt::format(", data {}, program {}\n", bytes_text(memory.data),
                            bytes_text(memory.program));
}

std::string time_text(const Pace& pace, const RunPlan& plan, std::int64_t tokens_per_step) {
  const double speed = static_cast<double>(tokens_per_step) / pace.step_seconds;
  std::string text =
      fmt::format("time       about {} at {} tokens/s",
                  duration_text(pace.step_seconds * static_cast<double>(pace.steps_left)),
                  with_commas(std::llround(speed)));
  if (pace.steps_left < plan.steps) {
    text += fmt::format(" for the {} steps that are left", with_commas(pace.steps_left));
  }
  return text + "\n";
}

}  // namespace

std::string opening_text(const TrainSettings& settings, const TrainerConfig& config,
                         const RunData& data, const RunPlan& plan, const std::string& backend,
                         const Pace& pace) {
  const ModelConfig& model = config.model;
  const RunMemory memory =
      predict_run_memory(config, run_conditions(settings, &data.train(), data.validation()));
  std::string text = fmt::format(
      "model      {} parameters: {} layers, width {}, {} heads of {}, hidden {}, vocabulary {}\n",
      with_commas(model.parameters()), model.layers, model.width, model.heads, model.head_dim,
      model.hidden, with_commas(model.vocab));
  const bool integer_gradients =
      config.backward == GradientProducts::kInt8 && has_integer_products(config);
  text += fmt::format("scheme     {}, other products in {}{}\n", config.scheme.to_string(),
                      settings.run.dtype, integer_gradients ? ", gradients in int8" : "");
  text += fmt::format("data       {}", data_text(data.train()));
  if (data.validation() != nullptr) {
    text += fmt::format("; validation {}", data_text(*data.validation()));
  }
  const std::int64_t tokens = plan.steps * config.tokens_per_step();
  text += fmt::format("\nrun        {} steps of {} tokens: {} tokens, {:.2f} epochs\n",
                      with_commas(plan.steps), with_commas(config.tokens_per_step()),
                      with_commas(tokens),
                      static_cast<double>(tokens) / static_cast<double>(data.train().size()));
  text += memory_text(memory, run_device(settings));
  text += fmt::format("device     {}\n", backend);
  if (pace.step_seconds > 0) text += time_text(pace, plan, config.tokens_per_step());
  text += fmt::format("folder     {}\n", settings.run.out);
  return text;
}

void TrainDisplay::on_step(const StepReport& report) {
  std::string text = fmt::format("step {}/{}  loss {:.4f}", report.step, steps_, report.loss);
  if (validation_loss_) text += fmt::format("  val {:.4f}", *validation_loss_);
  text += fmt::format("  {:.0f} tokens/s",
                      static_cast<double>(config_.tokens_per_step()) / report.seconds);
  progress_.update(static_cast<double>(report.step) / static_cast<double>(steps_), text);
}

void TrainDisplay::on_evaluation(std::int64_t step, const Evaluation& evaluation) {
  validation_loss_ = evaluation.loss();
  note(fmt::format("step {}: validation loss {:.4f} nats a token, {:.4f} bits a byte", step,
                   evaluation.loss(), evaluation.bits_per_byte()));
}

std::string TrainDisplay::sample(std::int64_t step, Model& model) {
  const Tokenizer& tokenizer = data_.tokenizer();
  std::vector<std::int32_t> prompt = tokenizer.encode(settings_.train.sample_prompt);
  if (prompt.empty()) prompt.push_back(tokenizer.end_of_text_id());
  Session session(model);
  GenerateOptions options;
  options.max_tokens = settings_.train.sample_tokens;
  options.sampling.temperature = 0.8;
  options.sampling.top_p = 0.95;
  options.sampling.seed = static_cast<std::uint64_t>(step);
  options.end_token = tokenizer.end_of_text_id();
  options.vocab = tokenizer.vocab_size();
  TextStream characters;
  std::string text = settings_.train.sample_prompt;
  generate(session, prompt, options,
           [&](std::int32_t token) { text += characters.push(tokenizer.token_text(token)); });
  return text + characters.finish();
}

void TrainDisplay::on_sample(std::int64_t step, const std::string& text) {
  note(fmt::format("step {}: sample: {}", step, text));
}

void TrainDisplay::on_checkpoint(std::int64_t step, const std::filesystem::path& folder) {
  note(fmt::format("step {}: saved {}", step, folder.string()));
}

}  // namespace quest::app
