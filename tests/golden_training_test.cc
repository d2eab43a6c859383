// Five AdamW steps of the reference's tiny Llama: losses and gradient norms, on every backend.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <nlohmann/json.hpp>

#include "backend/cpu/cpu_backend.h"
#include "core/file.h"
#include "core/rng.h"
#include "golden_files.h"
#include "model/model_file.h"
#include "train/trainer.h"

namespace quest {
namespace {

struct Case {
  const char* golden;
  const char* scheme;
  bool tight;  // whether the golden's first loss survives rounding noise
};

constexpr Case kCases[] = {{"none", "none", true},
                           {"quest_w4a4", "w4a4", true},
                           {"quest_w2a2", "w2a2", true},
                           {"quest_w1a1", "w1a1", true},
                           {"ste_w4a4", "w4a4 none ste", false}};

// As the goldens' README states: a few codes flip under rounding noise after the first step.
constexpr double kFirstTolerance = 1e-4;
constexpr double kLaterTolerance = 5e-3;

struct GoldenRun {
  std::string backend;
  Case golden;
  std::int64_t steps;
};

// The reference backend sums in plain loops: two steps of one scheme are what it is asked for.
std::vector<GoldenRun> runs() {
  std::vector<GoldenRun> all = {{"reference", kCases[1], 2}};
  for (const std::string& backend : testable_backends()) {
    if (backend == "reference") continue;
    for (const Case& golden : kCases) all.push_back({backend, golden, 5});
  }
  return all;
}

TrainerConfig tiny_config(const char* scheme) {
  TrainerConfig config;
  config.model.layers = 2;
  config.model.width = 128;
  config.model.heads = config.model.kv_heads = 2;
  config.model.head_dim = 64;
  config.model.hidden = 512;
  config.model.vocab = 256;
  config.model.max_positions = 64;
  config.scheme = Scheme::parse(scheme);
  config.batch_size = 4;
  config.seq_len = 64;
  config.schedule = {ScheduleKind::kConstant, 1e-3, 1.0, 0.0, 5};
  return config;
}

// A golden's data, and trainers that start as it did.
class GoldenTraining : public ::testing::TestWithParam<GoldenRun> {
 protected:
  Trainer make_trainer(const std::filesystem::path& weights_path,
                       const std::filesystem::path& tokens_path) {
    tokens_ = std::make_unique<SafetensorsFile>(tokens_path);
    const Tensor sequences = tokens_->tensor("tokens", DType::kI32, {5, 4, 65});
    const auto batches = [=](std::int64_t step, std::int64_t, Batch& batch) {
      batch.rows = 4;
      batch.seq_len = 64;
      batch.input_tokens.clear();
      batch.target_tokens.clear();
      for (std::int64_t row = 0; row < 4; ++row) {
        const std::int32_t* const ids = sequences.row<std::int32_t>(step * 4 + row);
        batch.input_tokens.insert(batch.input_tokens.end(), ids, ids + 64);
        batch.target_tokens.insert(batch.target_tokens.end(), ids + 1, ids + 65);
      }
    };
    Trainer trainer(*backend_, tiny_config(GetParam().golden.scheme), batches);
    load_weights(trainer.model(), SafetensorsFile(weights_path));
    return trainer;
  }

  std::unique_ptr<Backend> backend_ = make_backend(GetParam().backend);
  std::unique_ptr<SafetensorsFile> tokens_;
};

TEST_P(GoldenTraining, StepsFollowTheReference) {
  QUEST_GOLDEN_OR_SKIP(weights_path, "tiny_llama_init.safetensors");
  QUEST_GOLDEN_OR_SKIP(tokens_path, "tiny_llama_tokens.safetensors");
  QUEST_GOLDEN_OR_SKIP(report_path, "tiny_llama.json");
  Trainer trainer = make_trainer(weights_path, tokens_path);
  const auto report =
      nlohmann::json::parse(read_file(report_path))["runs"][GetParam().golden.golden];
  for (std::int64_t step = 0; step < GetParam().steps; ++step) {
    const bool first = step == 0 && GetParam().golden.tight;
    const StepReport done = trainer.step();
    EXPECT_NEAR(done.loss, report["loss"][step].get<double>(),
                first ? kFirstTolerance : kLaterTolerance)
        << "step " << step;
    const double norm = report["grad_norm"][step].get<double>();
    EXPECT_NEAR(done.grad_norm, norm, (first ? 2e-3 : 3e-2) * norm) << "step " << step;
  }
}

// Adds rounding noise of single precision to the products of integers, which are exact in ours.
class NoisyProducts : public CpuBackend {
 public:
  NoisyProducts(Isa isa, std::uint32_t noise)
      : CpuBackend(2, isa), rng_(1, RngPurpose::kTest, noise) {}

  void quantized_matmul(Tensor y, const QuantizedRows& x, const QuantizedRows& w,
                        Write write) override {
    CpuBackend::quantized_matmul(y, x, w, write);
    for (std::int64_t r = 0; r < y.rows(); ++r) {
      double squares = 0.0;
      for (std::int64_t c = 0; c < y.cols(); ++c) squares += std::pow(y.row<float>(r)[c], 2);
      const double size = 1e-7 * std::sqrt(squares / static_cast<double>(y.cols()));
      for (std::int64_t c = 0; c < y.cols(); ++c) {
        y.row<float>(r)[c] += static_cast<float>(size * rng_.normal());
      }
    }
  }

 private:
  Rng rng_;
};

// Without rotation, gate and up are sums of 128 products of odd integers, and one in some hundreds
// of them is exactly zero. So is then the input of `down`, and a grid without a zero has to send it
// to one of two levels a whole step apart: ours to the upper one always; the reference, whose float
// sums leave 1e-9 of either sign, to a random one. Its own first loss goes from 5.61715 to 5.61775
// when its weights change by 1e-7 (the golden is 5.61727). So no bound around our one number is
// honest: the golden must lie where ours lie once such noise breaks the ties (5.61649 to 5.61750).
class GoldenTrainingWithTies : public GoldenTraining {};

TEST_P(GoldenTrainingWithTies, AnUnstableFirstLossLiesAmongOursWhenNoiseBreaksTies) {
  const GoldenRun& run = GetParam();
  QUEST_GOLDEN_OR_SKIP(weights_path, "tiny_llama_init.safetensors");
  QUEST_GOLDEN_OR_SKIP(tokens_path, "tiny_llama_tokens.safetensors");
  QUEST_GOLDEN_OR_SKIP(report_path, "tiny_llama.json");
  const Isa isa = dynamic_cast<CpuBackend&>(*backend_).isa();
  double lowest = 1e9;
  double highest = -1e9;
  for (std::uint32_t noise = 0; noise < 8; ++noise) {
    backend_ = std::make_unique<NoisyProducts>(isa, noise);
    const double loss = make_trainer(weights_path, tokens_path).step().loss;
    lowest = std::min(lowest, loss);
    highest = std::max(highest, loss);
  }
  const auto report = nlohmann::json::parse(read_file(report_path))["runs"][run.golden.golden];
  const double golden = report["loss"][0].get<double>();
  EXPECT_GE(golden, lowest - kFirstTolerance);
  EXPECT_LE(golden, highest + kFirstTolerance);
  EXPECT_LT(highest - lowest, 2e-3) << "so wide a spread would accept anything";
}

std::string run_name(const ::testing::TestParamInfo<GoldenRun>& test) {
  std::string name = test.param.backend + "_" + test.param.golden.golden;
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
}

std::vector<GoldenRun> runs_with_ties() {
  std::vector<GoldenRun> unstable;
  for (const GoldenRun& run : runs()) {
    if (!run.golden.tight) unstable.push_back(run);
  }
  return unstable;
}

INSTANTIATE_TEST_SUITE_P(Backends, GoldenTraining, ::testing::ValuesIn(runs()), run_name);
INSTANTIATE_TEST_SUITE_P(Backends, GoldenTrainingWithTies, ::testing::ValuesIn(runs_with_ties()),
                         run_name);

}  // namespace
}  // namespace quest
