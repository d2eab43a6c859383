// Recordings as CUDA graphs: what is replayed computes the bits of what is not, in decoding and in
// training, and the host waits only for what it reads.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <functional>

#include "core/error.h"
#include "infer/export.h"
#include "infer/model_folder.h"
#include "infer/sequences.h"
#include "infer/tiny_model_for_test.h"
#include "tests/cuda_kernels/whole_device.h"
#include "train/checkpoint.h"
#include "train/tiny_run_for_test.h"

namespace quest {
namespace {

// How often graphs have been launched, or the host has waited; the same as before where nobody
// counts.
std::uint64_t graph_launches() { return device_counts().value_or(DeviceCounts{}).graph_launches; }
std::uint64_t waits() { return device_counts().value_or(DeviceCounts{}).waits; }

// What `body` returns with graphs, where everything runs as late as it may, is what it returns
// without. Returns how often graphs were launched.
template <typename Body>
std::uint64_t expect_same_bits(const Body& body, std::string_view what) {
  ::setenv("QUEST_CUDA_GRAPHS", "off", 1);
  const std::uint64_t before = graph_launches();
  const auto wanted = body();
  EXPECT_EQ(graph_launches(), before);
  ::unsetenv("QUEST_CUDA_GRAPHS");
  run_late(true);
  const auto got = body();
  run_late(false);
  EXPECT_TRUE(got == wanted) << what;
  return graph_launches() - before;
}

TEST(Recording, ABodyIsCalledTwiceAndThenReplayed) {
  const auto device = cuda_backend();
  const auto memory = device->allocate(64);
  const Tensor x(memory, {1}, DType::kF64, Place::kCuda);
  const auto recording = device->make_recording();
  int calls = 0;
  float values[3] = {1, 2, 3};
  const auto host = device->allocate(64);
  const Tensor y(host, {3}, DType::kF32, Place::kCuda);
  device->copy(y, view_of(values, {3}));
  for (int run = 1; run <= 4; ++run) {
    recording->run([&] {
      ++calls;
      device->sum(x, y);
    });
    double total = 0;
    device->copy(view_of(&total, {1}), x);
    EXPECT_EQ(total, 6.0 * run);
  }
  EXPECT_EQ(calls, 2);
  device->deallocate(memory, 64);
  device->deallocate(host, 64);
}

// A larger sum moves the workspace, which the recording names.
TEST(Recording, IsMadeAnewWhenTheWorkspaceHasMoved) {
  const auto device = cuda_backend();
  constexpr std::int64_t kLarge = std::int64_t{1} << 22;
  const auto memory = device->allocate(kLarge * 4 + 64);
  const Tensor large(memory, {kLarge}, DType::kF32, Place::kCuda);
  const Tensor total(static_cast<std::byte*>(memory) + kLarge * 4, {1}, DType::kF64, Place::kCuda);
  float one = 1;
  device->copy(large.reshaped({kLarge, 1}).rows_slice(0, 1), view_of(&one, {1, 1}));
  const auto recording = device->make_recording();
  const auto add_small = [&] {
    recording->run([&] { device->sum(total, Tensor(memory, {8}, DType::kF32, Place::kCuda)); });
  };
  for (int i = 0; i < 3; ++i) add_small();
  device->sum(total, large);
  for (int i = 0; i < 3; ++i) add_small();
  double sum = 0;
  device->copy(view_of(&sum, {1}), total);
  EXPECT_EQ(sum, 7.0);
  device->deallocate(memory, kLarge * 4 + 64);
}

TEST(Recording, WhatCannotBeReplayedIsAnErrorAndTheNextRunGoesOn) {
  const auto device = cuda_backend();
  const auto memory = device->allocate(64);
  const Tensor x(memory, {1}, DType::kF32, Place::kCuda);
  float value = 1;
  const std::pair<std::function<void()>, const char*> kBodies[] = {
      {[&] { device->copy(x, view_of(&value, {1})); }, "a copy from or to the host"},
      {[&] { device->copy(view_of(&value, {1}), x); }, "a copy from or to the host"},
      {[&] { device->deallocate(device->allocate(4), 4); }, "an allocation"},
      {[&] { device->synchronize(); }, "cudaStreamSynchronize"},
  };
  for (const auto& [body, text] : kBodies) {
    const auto recording = device->make_recording();
    recording->run(body);
    try {
      recording->run(body);
      ADD_FAILURE() << text << " was recorded";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    }
    int calls = 0;
    for (int run = 0; run < 2; ++run) {
      recording->run([&] {
        ++calls;
        device->zero(x);
      });
    }
    EXPECT_EQ(calls, 1);
  }
  device->deallocate(memory, 64);
}

// --- Decoding ---

// Two sequences, alone and side by side in both orders, over three cuts of 64 keys, with prompts in
// between and positions taken back.
std::vector<float> decoded(const std::string& folder, DType compute, std::optional<DType> kept) {
  const auto device = cuda_backend();
  const LoadedModel loaded = load_model_folder(folder, *device, compute);
  Sequences sequences(*loaded.model, {.slots = 3, .chunk = 40, .kept = kept});
  const std::vector<std::int32_t> tokens = random_tokens(300, loaded.model->config().vocab);
  std::vector<float> all;
  std::size_t next = 0;
  const auto pass = [&](const std::vector<std::pair<std::int64_t, std::size_t>>& counts) {
    std::vector<NewTokens> parts;
    for (const auto& [slot, count] : counts) {
      parts.push_back({slot, std::span(tokens).subspan(next % 200, count)});
      next += count;
    }
    const auto logits = sequences.run(parts);
    all.insert(all.end(), logits.begin(), logits.end());
  };
  pass({{0, 3}});
  for (int i = 0; i < 10; ++i) pass({{0, 1}});
  pass({{2, 40}, {0, 1}});
  for (int i = 0; i < 70; ++i) pass({{i % 3 == 0 ? 0 : 2, 1}, {i % 3 == 0 ? 2 : 0, 1}});
  sequences.truncate(2, 60);
  for (int i = 0; i < 10; ++i) pass({{0, 1}, {2, 1}});
  for (int i = 0; i < 60; ++i) pass({{2, 1}});
  pass({{1, 40}});
  for (int i = 0; i < 5; ++i) pass({{1, 1}, {0, 1}, {2, 1}});
  return all;
}

TEST(Recording, DecodingIsReplayedBitForBit) {
  const TemporaryFolder folder;
  const auto cpu = make_cpu_backend(1);
  ModelConfig config = tiny_config(256);
  config.heads = 2;
  config.kv_heads = 1;
  config.head_dim = 16;
  config.max_positions = 200;
  const auto model = tiny_model(*cpu, config, "w4a4");
  export_packed(*model, {*load_tokenizer("bytes")}, {8, 8}, folder.path());
  // 155 passes of single tokens, of which the first of 1, 2 and 3 rows are no replays. The
  // workspace grows with each of them, so that the one of 1 row is called anew once.
  for (const auto& [compute, kept] : {std::pair<DType, std::optional<DType>>{DType::kF32, {}},
                                      {DType::kBF16, {}},
                                      {DType::kBF16, DType::kI8}}) {
    const auto decode = [&, compute = compute, kept = kept] {
      return decoded(folder.path(), compute, kept);
    };
    const std::uint64_t launches = expect_same_bits(decode, name(compute));
    if (!device_counts()) continue;
    EXPECT_EQ(launches, 155u - 4);
  }
}

TEST(Recording, APassOfOneTokenIsWaitedForOnce) {
  if (!device_counts()) GTEST_SKIP() << "nobody counts";
  const TemporaryFolder folder;
  const auto cpu = make_cpu_backend(1);
  const auto model = tiny_model(*cpu, tiny_config(256), "w4a4");
  export_packed(*model, {*load_tokenizer("bytes")}, {8, 8}, folder.path());
  const auto device = cuda_backend();
  const LoadedModel loaded = load_model_folder(folder.path(), *device, DType::kBF16);
  Sequences sequences(*loaded.model, {});
  const std::int32_t token = 1;
  const NewTokens part{0, {&token, 1}};
  for (int run = 0; run < 4; ++run) {
    const std::uint64_t before = waits();
    sequences.run({&part, 1});
    EXPECT_EQ(waits() - before, 1u) << run;
  }
}

// --- Training ---

struct Trained {
  std::vector<double> reports;  // losses, norms, rates and evaluations
  std::vector<float> weights;
  bool operator==(const Trained&) const = default;
};

std::vector<float> weights_on_host(Backend& backend, Trainer& trainer) {
  const Tensor flat = trainer.model().arenas().parameters.flat_f32();
  std::vector<float> values(static_cast<std::size_t>(flat.numel()));
  backend.copy(view_of(values.data(), flat.shape), flat);
  return values;
}

void take_steps(Trainer& trainer, int count, Trained& trained) {
  for (int i = 0; i < count; ++i) {
    const StepReport report = trainer.step();
    for (const double value : {report.loss, report.grad_norm, report.learning_rate}) {
      trained.reports.push_back(value);
    }
  }
}

void evaluate(Trainer& trainer, const TrainerConfig& config, Trained& trained) {
  const EvalSource source{
      2, [&](std::int64_t index, Batch& batch) { tiny_batches(config)(100 + index, 0, batch); }};
  trained.reports.push_back(trainer.evaluate(source, *load_tokenizer("bytes")).loss_sum);
}

// Eight steps with clipping and a schedule; in between an evaluation, a step that is measured, an
// estimate of the time, and a checkpoint from which a second trainer goes on.
Trained trained(const TrainerConfig& config) {
  const TemporaryFolder folder;
  const auto device = cuda_backend();
  Trained result;
  Trainer first(*device, config, tiny_batches(config));
  take_steps(first, 3, result);
  evaluate(first, config, result);
  take_steps(first, 1, result);
  result.reports.push_back(first.step(Measure::kTimesAndErrors).loss);
  first.time_micro_batch();
  TrainerState state;
  state.step = 5;
  save_checkpoint(first, state, *load_tokenizer("bytes"), folder.path() / "step");
  take_steps(first, 1, result);
  Trainer second(*device, config, tiny_batches(config));
  load_checkpoint(second, folder.path() / "step");
  take_steps(second, 3, result);
  evaluate(second, config, result);
  result.weights = weights_on_host(*device, second);
  // It may go on after others have used the device.
  take_steps(first, 2, result);
  EXPECT_EQ(weights_on_host(*device, first), result.weights);
  return result;
}

TEST(Recording, TrainingIsReplayedBitForBit) {
  TrainerConfig config = tiny_run_config("w4a4", DType::kBF16);
  config.grad_accum = 3;
  config.optimizer.grad_clip = 0.5;
  TrainerConfig rounded = config;
  rounded.backward = GradientProducts::kInt8;
  rounded.recompute = Recompute::kBlock;
  rounded.optimizer.moment_bits = 8;
  TrainerConfig plain = tiny_run_config("none");
  plain.grad_accum = 1;
  plain.model.tied_head = true;
  for (const TrainerConfig& of : {config, rounded, plain}) {
    // Of 11 steps of 2 trainers one is measured; a recording's first run is no replay, nor is one
    // after the workspace has grown.
    const std::uint64_t parts = 2 + static_cast<std::uint64_t>(of.grad_accum);
    const std::uint64_t launches = expect_same_bits([&] { return trained(of); }, name(of.compute));
    if (!device_counts()) continue;
    EXPECT_GE(launches, 6 * parts) << name(of.compute);
    EXPECT_LE(launches, 10 * parts) << name(of.compute);
  }
}

TEST(Recording, AStepIsWaitedForOnce) {
  if (!device_counts()) GTEST_SKIP() << "nobody counts";
  TrainerConfig config = tiny_run_config("w4a4", DType::kBF16);
  config.grad_accum = 3;
  config.backward = GradientProducts::kInt8;
  const auto device = cuda_backend();
  Trainer trainer(*device, config, tiny_batches(config));
  for (int step = 0; step < 4; ++step) {
    const std::uint64_t before = waits();
    trainer.step();
    EXPECT_EQ(waits() - before, 1u) << step;
  }
}

}  // namespace
}  // namespace quest
