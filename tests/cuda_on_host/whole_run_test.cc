// Whole runs on the CUDA backend, on the host: they give the CPU's numbers, and no code outside the
// backend touches device memory, which would end the process.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/file.h"
#include "infer/export.h"
#include "infer/generate_batch.h"
#include "infer/model_folder.h"
#include "infer/sequences.h"
#include "infer/session.h"
#include "infer/tiny_model_for_test.h"
#include "model/model_file.h"
#include "tests/cuda_kernels/whole_device.h"
#include "tests/golden_files.h"
#include "train/checkpoint.h"
#include "train/plan.h"
#include "train/tiny_run_for_test.h"

namespace quest {
namespace {

std::vector<StepReport> run(Backend& backend, const TrainerConfig& config, int steps) {
  Trainer trainer(backend, config, tiny_batches(config));
  std::vector<StepReport> reports;
  for (int step = 0; step < steps; ++step)
    reports.push_back(trainer.step(step == 1 ? Measure::kTimesAndErrors : Measure::kNothing));
  trainer.require_finite_weights();
  return reports;
}

// The CPU's kernels that round where ours do: those on AMX tiles round the softmax to bf16.
std::unique_ptr<Backend> generic_cpu() {
  ::setenv("QUEST_ISA", "generic", 1);
  auto backend = make_cpu_backend(1);
  ::unsetenv("QUEST_ISA");
  return backend;
}

// The first step differs by rounding alone; after it a code may fall on the other side of a border.
void expect_cpu_losses(const TrainerConfig& config, const std::string& what) {
  const auto cpu = generic_cpu();
  const auto device = cuda_backend();
  const auto wanted = run(*cpu, config, 3), got = run(*device, config, 3);
  const double rounding = config.compute == DType::kBF16 ? 2e-3 : 2e-6;
  for (std::size_t i = 0; i < got.size(); ++i) {
    EXPECT_NEAR(got[i].loss, wanted[i].loss, i == 0 ? rounding : 5e-3) << what << " step " << i;
    EXPECT_NEAR(got[i].grad_norm, wanted[i].grad_norm, 3e-2 * wanted[i].grad_norm) << what;
  }
  ASSERT_EQ(got[1].errors.size(), wanted[1].errors.size()) << what;
}

TEST(WholeRun, TrainingHasTheCpusLossesUnderEverySchemeAndOption) {
  for (const char* scheme : {"none", "w4a4", "w1a1", "w2a16", "w8a8 none ste"}) {
    expect_cpu_losses(tiny_run_config(scheme), scheme);
  }
  expect_cpu_losses(tiny_run_config("w4a4", DType::kBF16), "w4a4 bf16");
  TrainerConfig config = tiny_run_config("w4a4");
  config.backward = GradientProducts::kInt8;
  config.recompute = Recompute::kBlock;
  config.optimizer.moment_bits = 8;
  expect_cpu_losses(config, "int8 gradients, 8-bit moments, recomputing");
}

// Of a step that is large enough for scratch memory to matter.
TEST(WholeRun, AStepTakesTheDevicesMemoryThatIsPredicted) {
  std::size_t total = 0;
  const auto free_bytes = [&] {
    std::size_t bytes = 0;
    cudaMemGetInfo(&bytes, &total);
    return bytes;
  };
  for (const char* scheme : {"none", "w4a4", "w1a1 int8"}) {
    for (const DType compute : {DType::kF32, DType::kBF16}) {
      const std::string text = scheme;
      TrainerConfig config = tiny_run_config(text.substr(0, text.find(" int8")), compute);
      if (text.ends_with(" int8")) config.backward = GradientProducts::kInt8;
      config.model.width = 64;
      config.model.hidden = 192;
      config.model.head_dim = 32;
      config.model.max_positions = config.seq_len = 64;
      config.grad_accum = 1;
      config.batch_size = 4;
      const std::size_t before = free_bytes();
      const auto device = cuda_backend();
      Trainer trainer(*device, config, tiny_batches(config));
      trainer.step();
      const auto taken = static_cast<double>(before - free_bytes());
      // The library of the emulation asks for no memory; an allocation takes whole pages.
      constexpr double kLibraryBytes = 32 << 20, kPagesBytes = 12 * 4096;
      const RunMemory memory = predict_run_memory(config, {.device = RunDevice::kCuda});
      EXPECT_NEAR(static_cast<double>(memory.workspace) - kLibraryBytes,
                  taken - static_cast<double>(memory.trainer.total()), kPagesBytes)
          << scheme << ' ' << name(compute);
      EXPECT_EQ(memory.total(), memory.trainer.total() + memory.workspace);
    }
  }
}

TEST(WholeRun, TheSameSeedGivesTheSameBitsAgain) {
  const TrainerConfig config = tiny_run_config("w4a4", DType::kBF16);
  const auto device = cuda_backend();
  const auto first = run(*device, config, 2), second = run(*device, config, 2);
  EXPECT_EQ(first[1].loss, second[1].loss);
  EXPECT_EQ(first[1].grad_norm, second[1].grad_norm);
}

TEST(WholeRun, TheGoldenLossIsReached) {
  QUEST_GOLDEN_OR_SKIP(weights_path, "tiny_llama_init.safetensors");
  QUEST_GOLDEN_OR_SKIP(tokens_path, "tiny_llama_tokens.safetensors");
  QUEST_GOLDEN_OR_SKIP(report_path, "tiny_llama.json");
  TrainerConfig config;
  config.model.layers = 2;
  config.model.width = 128;
  config.model.heads = config.model.kv_heads = 2;
  config.model.head_dim = 64;
  config.model.hidden = 512;
  config.model.vocab = 256;
  config.model.max_positions = 64;
  config.scheme = Scheme::parse("w4a4");
  config.batch_size = 4;
  config.seq_len = 64;
  config.schedule = {ScheduleKind::kConstant, 1e-3, 1.0, 0.0, 5};
  const SafetensorsFile tokens(tokens_path);
  const Tensor sequences = tokens.tensor("tokens", DType::kI32, {5, 4, 65});
  const BatchSource batches = [&](std::int64_t step, std::int64_t, Batch& batch) {
    batch = {};
    batch.rows = 4;
    batch.seq_len = 64;
    for (std::int64_t row = 0; row < 4; ++row) {
      const auto* const ids = sequences.row<std::int32_t>(step * 4 + row);
      batch.input_tokens.insert(batch.input_tokens.end(), ids, ids + 64);
      batch.target_tokens.insert(batch.target_tokens.end(), ids + 1, ids + 65);
    }
  };
  const auto device = cuda_backend();
  Trainer trainer(*device, config, batches);
  load_weights(trainer.model(), SafetensorsFile(weights_path));
  const auto report = nlohmann::json::parse(read_file(report_path))["runs"]["quest_w4a4"];
  const StepReport done = trainer.step();
  EXPECT_NEAR(done.loss, report["loss"][0].get<double>(), 1e-4);
  const double norm = report["grad_norm"][0].get<double>();
  EXPECT_NEAR(done.grad_norm, norm, 2e-3 * norm);
}

// Logits after a prompt and a token, with a key cache of each kind.
std::vector<float> logits_of(const RunnableModel& model, std::optional<DType> kept) {
  Session session(model, {.kept = kept});
  const std::vector<std::int32_t> prompt = random_tokens(9, model.config().vocab);
  session.prefill(prompt);
  const auto logits = session.decode(3);
  return {logits.begin(), logits.end()};
}

TEST(WholeRun, PackedModelsHaveTheCpusLogits) {
  for (const char* scheme : {"w4a4", "w2a16", "w1a1", "w3a3 none"}) {
    const TemporaryFolder folder;
    const auto cpu = make_cpu_backend(1);
    const auto model = tiny_model(*cpu, tiny_config(256), scheme);
    export_packed(*model, {*load_tokenizer("bytes")}, {8, 8}, folder.path());
    const LoadedModel on_cpu = load_model_folder(folder.path(), *cpu, DType::kF32);
    const auto device = cuda_backend();
    const LoadedModel on_device = load_model_folder(folder.path(), *device, DType::kF32);
    for (const std::optional<DType> kept : {std::optional<DType>(), {DType::kI8}}) {
      const std::vector<float> wanted = logits_of(*on_cpu.model, kept);
      const std::vector<float> got = logits_of(*on_device.model, kept);
      ASSERT_EQ(got.size(), wanted.size());
      double difference = 0, size = 0;
      for (std::size_t i = 0; i < got.size(); ++i) {
        difference += std::pow(double{got[i]} - wanted[i], 2);
        size += std::pow(wanted[i], 2);
      }
      EXPECT_LE(std::sqrt(difference / size), 2e-3) << scheme;
    }
  }
}

// Rows of whole groups: a token alone takes the kernels that make its rows on the way.
TEST(WholeRun, ATokenAloneHasTheBitsThatItHasBesideOthersAndFetchesTheNextWeights) {
  ModelConfig config = tiny_config(256);
  config.width = 128;
  config.heads = 2;
  config.kv_heads = 1;
  config.head_dim = 64;
  config.hidden = 256;
  const std::vector<std::int32_t> prompt = random_tokens(9, 256), other = random_tokens(5, 256, 1);
  for (const DType compute : {DType::kBF16, DType::kF32}) {
    const TemporaryFolder folder;
    const auto cpu = make_cpu_backend(1);
    export_packed(*tiny_model(*cpu, config, "w4a4", compute), {*load_tokenizer("bytes")}, {8, 8},
                  folder.path());
    const auto device = cuda_backend();
    const LoadedModel model = load_model_folder(folder.path(), *device, compute);
    Sequences alone(*model.model, {.slots = 1, .chunk = 9});
    Sequences shared(*model.model, {.slots = 2, .chunk = 9});
    alone.run(std::vector<NewTokens>{{0, prompt}});
    shared.run(std::vector<NewTokens>{{0, prompt}});
    shared.run(std::vector<NewTokens>{{1, other}});
    for (const std::int32_t token : {3, 77, 200}) {
      const std::span<const std::int32_t> next(&token, 1);
      cuda_on_host::take_fetched_bytes();
      const auto logits = alone.run(std::vector<NewTokens>{{0, next}});
      const std::int64_t fetched = cuda_on_host::take_fetched_bytes();
      const auto beside = shared.run(std::vector<NewTokens>{{0, next}, {1, next}});
      EXPECT_TRUE(std::equal(logits.begin(), logits.end(), beside.begin())) << name(compute);
      // All linear layers but the first, and the head.
      const std::int64_t qkv = 256 * 128, others = 128 * 128 + 3 * 256 * 128;
      EXPECT_EQ(fetched, (2 * (qkv + others) - qkv) / 2 + 256 * 128);
      EXPECT_EQ(cuda_on_host::take_fetched_bytes(), 0);  // more rows are other kernels'
    }
  }
}

TEST(WholeRun, ARunIsSavedAndResumedFromDeviceMemory) {
  const TemporaryFolder folder;
  const TrainerConfig config = tiny_run_config("w4a4");
  const auto device = cuda_backend();
  Trainer whole(*device, config, tiny_batches(config));
  whole.step();
  TrainerState state;
  state.step = 1;
  save_checkpoint(whole, state, *load_tokenizer("bytes"), folder.path() / "step");
  const double wanted = whole.step().loss;
  Trainer resumed(*device, config, tiny_batches(config));
  load_checkpoint(resumed, folder.path() / "step");
  EXPECT_EQ(resumed.step().loss, wanted);
}

TEST(WholeRun, OutOfMemorySaysHowMuchAndWhatToLower) {
  const auto device = cuda_backend();
  cuda_on_host::set_free_bytes(std::size_t{1} << 20);
  try {
    device->allocate(std::size_t{3} << 30);
    ADD_FAILURE() << "there is no such memory";
  } catch (const Error& error) {
    const std::string text = error.what();
    for (const char* part : {"3.00 GiB are asked for", "0.00 of", "--batch-size", "--recompute"}) {
      EXPECT_NE(text.find(part), std::string::npos) << text;
    }
  }
  cuda_on_host::set_free_bytes(std::size_t{4} << 30);
}

TEST(WholeRun, ATensorOfTheHostIsAnErrorAndNoCrash) {
  const auto device = cuda_backend();
  float values[4] = {};
  EXPECT_THROW(device->zero(view_of(values, {4})), Error);
  EXPECT_THROW(device->swiglu(view_of(values, {2}), view_of(values, {2}), view_of(values, {2})),
               Error);
}

}  // namespace
}  // namespace quest
