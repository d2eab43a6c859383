// Tests of checkpoints: resuming is exact, every damage is noticed, and no save leaves half a one.
#include "train/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <map>

#include "core/file.h"
#include "data/test_folder.h"
#include "train/tiny_run_for_test.h"

namespace quest {
namespace {

namespace fs = std::filesystem;

std::map<std::string, std::string> contents(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    files[fs::relative(entry.path(), folder).string()] = read_file(entry.path());
  }
  return files;
}

void overwrite(const fs::path& path, const std::string& content) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
}

class CheckpointTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kDataSeed = 77;

  std::unique_ptr<Trainer> make(const TrainerConfig& config) {
    return std::make_unique<Trainer>(*backend_, config, tiny_batches(config));
  }
  fs::path save(Trainer& trainer) {
    const std::int64_t step = trainer.steps_done();
    const fs::path path = checkpoint_path(run_, step);
    fs::create_directories(path.parent_path());
    save_checkpoint(trainer, {step, step * 32, 3, kDataSeed, "1000 tokens"}, *tokenizer_, path);
    return path;
  }
  std::optional<fs::path> newest() {
    notes_.clear();
    return find_newest_checkpoint(run_, [&](const std::string& why) { notes_.push_back(why); });
  }
  // The smallest model there is, so that every byte can be damaged.
  static TrainerConfig smallest() {
    TrainerConfig config = tiny_run_config("w1a1");
    config.model.layers = 1;
    config.model.width = 4;
    config.model.heads = config.model.kv_heads = 1;
    config.model.head_dim = 4;
    config.model.hidden = 4;
    return config;
  }

  TestFolder temporary_;
  fs::path run_ = temporary_.path("run");
  std::unique_ptr<Backend> backend_ = make_cpu_backend(2);
  std::unique_ptr<Tokenizer> tokenizer_ = load_tokenizer("bytes");
  std::vector<std::string> notes_;
};

// --- Resuming ---

TEST_F(CheckpointTest, ResumedTrainingIsBitForBitTheUninterruptedOne) {
  for (const DType compute : {DType::kF32, DType::kBF16}) {
    for (const char* scheme : {"none", "w4a4", "w4a16", "w16a4"}) {
      const TrainerConfig config = tiny_run_config(scheme, compute);
      const auto whole = make(config);
      for (int step = 0; step < 2; ++step) whole->step();
      const fs::path path = save(*whole);
      std::vector<double> losses;
      for (int step = 0; step < 3; ++step) losses.push_back(whole->step().loss);

      TrainerConfig other_seed = config;
      other_seed.seed = 99;  // its initial weights must not matter
      const auto resumed = make(other_seed);
      verify_checkpoint(path);
      const TrainerState state = load_checkpoint(*resumed, path);
      EXPECT_EQ(state, (TrainerState{2, 64, 3, kDataSeed, "1000 tokens"}));
      EXPECT_EQ(resumed->steps_done(), 2);
      for (const double loss : losses) EXPECT_EQ(resumed->step().loss, loss) << scheme;
      EXPECT_EQ(weights_of(*resumed), weights_of(*whole)) << scheme;
      EXPECT_EQ(moments_of(*resumed), moments_of(*whole)) << scheme;
    }
  }
}

TEST_F(CheckpointTest, ResumedTrainingRoundsGradientsAsTheUninterruptedOne) {
  TrainerConfig config = tiny_run_config();
  config.backward = GradientProducts::kInt8;
  const auto whole = make(config);
  for (int step = 0; step < 2; ++step) whole->step();
  const fs::path path = save(*whole);
  EXPECT_NE(contents(path).at("trainer_state.json").find("\"backward\": \"int8\""),
            std::string::npos);
  const auto resumed = make(config);
  load_checkpoint(*resumed, path);
  for (int step = 0; step < 2; ++step) EXPECT_EQ(resumed->step().loss, whole->step().loss);
  EXPECT_EQ(weights_of(*resumed), weights_of(*whole));
}

TEST_F(CheckpointTest, NarrowMomentsResumeExactlyAndOtherBitsAreRefused) {
  for (const int bits : {16, 8}) {
    TrainerConfig config = tiny_run_config();
    config.optimizer.moment_bits = bits;
    const auto whole = make(config);
    for (int step = 0; step < 2; ++step) whole->step();
    const fs::path path = save(*whole);
    const auto resumed = make(config);
    load_checkpoint(*resumed, path);
    for (int step = 0; step < 2; ++step) EXPECT_EQ(resumed->step().loss, whole->step().loss);
    EXPECT_EQ(weights_of(*resumed), weights_of(*whole)) << bits << " bits";
    const auto other = make(tiny_run_config());
    const auto before = weights_of(*other);
    expect_mentions(error_of([&] { load_checkpoint(*other, path); }),
                    {"optimizer.safetensors", std::to_string(bits), "--optimizer-bits"});
    EXPECT_EQ(weights_of(*other), before) << "a refused checkpoint was loaded in part";
  }
}

TEST_F(CheckpointTest, SavingTwiceGivesTheSameBytesAndChangesNothing) {
  const auto trainer = make(tiny_run_config());
  trainer->step();
  const auto first = contents(save(*trainer));
  const auto weights = weights_of(*trainer);
  EXPECT_EQ(contents(save(*trainer)), first);
  EXPECT_EQ(weights_of(*trainer), weights);
  EXPECT_EQ(first.count("trainer_state.json"), 1u);
  EXPECT_EQ(first.count("config.json"), 1u);
}

// --- Damage ---

TEST_F(CheckpointTest, EveryCutFileIsNoticed) {
  const auto trainer = make(smallest());
  trainer->step();
  const fs::path path = save(*trainer);
  for (const auto& [name, content] : contents(path)) {
    const std::size_t size = content.size();
    for (const std::size_t length :
         {std::size_t{0}, std::size_t{1}, std::size_t{7}, std::size_t{8}, std::size_t{9}, size / 4,
          size / 2, size / 2 + 1, size - 64, size - 9, size - 8, size - 2}) {
      if (length >= size) continue;
      overwrite(path / name, content.substr(0, length));
      const std::string text = error_of([&] { verify_checkpoint(path); });
      EXPECT_NE(text.find(name), std::string::npos) << name << " cut to " << length << ": " << text;
    }
    overwrite(path / name, content + "x");
    EXPECT_THROW(verify_checkpoint(path), Error) << name << " with a byte more";
    fs::remove(path / name);
    EXPECT_THROW(verify_checkpoint(path), Error) << "without " << name;
    overwrite(path / name, content);
    EXPECT_NO_THROW(verify_checkpoint(path)) << name;
  }
}

TEST_F(CheckpointTest, EveryFlippedBitIsNoticedOrChangesNothing) {
  const auto trainer = make(smallest());
  trainer->step();
  const fs::path path = save(*trainer);
  int flips = 0;
  int accepted = 0;
  for (const auto& [name, content] : contents(path)) {
    // Every byte of what comes first, every third of texts, and samples of the tensors.
    const std::size_t stride = content.size() > 4096 ? 131 : 3;
    for (std::size_t at = 0; at < content.size(); at += at < 32 ? 1 : stride) {
      const int bit = static_cast<int>((at * 5 + 3) % 8);
      std::string damaged = content;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      overwrite(path / name, damaged);
      ++flips;
      try {
        verify_checkpoint(path);
        // White space of the state file may change its kind.
        ++accepted;
        EXPECT_EQ(name, "trainer_state.json") << "byte " << at;
        const auto other = make(smallest());
        EXPECT_EQ(load_checkpoint(*other, path),
                  (TrainerState{1, 32, 3, kDataSeed, "1000 tokens"}));
      } catch (const Error&) {
      }
    }
    overwrite(path / name, content);
  }
  EXPECT_GT(flips, 600);
  EXPECT_LT(accepted, 10);
}

TEST_F(CheckpointTest, ADamagedNewestFallsBackToTheOneBeforeWithANote) {
  const auto trainer = make(tiny_run_config());
  trainer->step();
  const fs::path older = save(*trainer);
  trainer->step();
  const fs::path newer = save(*trainer);
  EXPECT_EQ(newest(), newer);
  EXPECT_TRUE(notes_.empty());
  std::string bytes = read_file(newer / "optimizer.safetensors");
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 4);
  overwrite(newer / "optimizer.safetensors", bytes);
  EXPECT_EQ(newest(), older);
  ASSERT_EQ(notes_.size(), 1u);
  expect_mentions(notes_[0], {(newer / "optimizer.safetensors").string(), "damaged"});
}

TEST_F(CheckpointTest, WhenAllAreDamagedTheErrorIsTheNewestOnes) {
  EXPECT_EQ(newest(), std::nullopt);
  const auto trainer = make(tiny_run_config());
  trainer->step();
  overwrite(save(*trainer) / "model.safetensors", "cut");
  trainer->step();
  const fs::path newer = save(*trainer);
  overwrite(newer / "config.json", "{}");
  expect_mentions(error_of([&] { newest(); }), {(newer / "config.json").string()});
  EXPECT_EQ(notes_.size(), 2u);
}

TEST_F(CheckpointTest, FoldersOfKilledSavesAreNoCheckpointsAndArePruned) {
  const auto trainer = make(tiny_run_config());
  trainer->step();
  const fs::path whole = save(*trainer);
  // A save killed before its rename, and one killed before its state file by another program.
  const fs::path killed = checkpoint_path(run_, 2).string() + ".tmp";
  fs::copy(whole, killed);
  const fs::path stateless = checkpoint_path(run_, 3);
  fs::copy(whole, stateless);
  fs::remove(stateless / "trainer_state.json");
  EXPECT_EQ(newest(), whole);
  EXPECT_TRUE(notes_.empty());
  trainer->step();
  EXPECT_EQ(save(*trainer), checkpoint_path(run_, 2)) << "the leftover is in the way";
  fs::copy(whole, killed);
  prune_checkpoints(run_, 1);
  EXPECT_FALSE(fs::exists(killed));
  EXPECT_FALSE(fs::exists(whole));
  EXPECT_TRUE(fs::exists(checkpoint_path(run_, 2)));
}

TEST_F(CheckpointTest, PruningKeepsTheNewestAndNeverAll) {
  const auto trainer = make(tiny_run_config());
  for (int step = 0; step < 3; ++step) {
    trainer->step();
    save(*trainer);
  }
  prune_checkpoints(run_, 2);
  EXPECT_EQ(list_checkpoints(run_),
            (std::vector<fs::path>{checkpoint_path(run_, 2), checkpoint_path(run_, 3)}));
  prune_checkpoints(run_, 0);
  EXPECT_EQ(list_checkpoints(run_), std::vector<fs::path>{checkpoint_path(run_, 3)});
}

// --- Another run's checkpoint ---

TEST_F(CheckpointTest, AnotherModelOrSchemeIsRefusedByItsName) {
  const auto trainer = make(tiny_run_config());
  trainer->step();
  const fs::path path = save(*trainer);
  const auto refusal = [&](const TrainerConfig& config) {
    const auto other = make(config);
    const auto before = weights_of(*other);
    const std::string text = error_of([&] { load_checkpoint(*other, path); });
    EXPECT_EQ(weights_of(*other), before) << "a refused checkpoint was loaded in part";
    return text;
  };
  TrainerConfig config = tiny_run_config();
  config.model.hidden = 96;
  expect_mentions(refusal(config), {"(hidden: 64 and 96); resume"});
  config = tiny_run_config();
  config.model.layers = 3;
  expect_mentions(refusal(config), {"(layers: 2 and 3)"});
  config = tiny_run_config();
  config.model.kv_heads = 2;
  expect_mentions(refusal(config), {"(kv_heads: "});
  config = tiny_run_config();
  config.model.max_positions *= 2;
  expect_mentions(refusal(config), {"(positions: "});
  expect_mentions(refusal(tiny_run_config("w2a2")), {"(scheme: w4a4 and w2a2)"});
  expect_mentions(refusal(tiny_run_config("w4a4 none")), {"(scheme: w4a4 and w4a4 none)"});
  config = tiny_run_config();
  config.scheme = Scheme::parse("w4a4", {"blocks.0.attn.v=w8a8"});
  expect_mentions(refusal(config), {"(scheme: w4a4 and w4a4, blocks.0.attn.v=w8a8)"});
}

// --- Saves that fail ---

TEST_F(CheckpointTest, AFailedWriteLeavesThePreviousCheckpointAndNoPart) {
  const auto trainer = make(tiny_run_config());
  trainer->step();
  const fs::path path = save(*trainer);
  const auto before = contents(run_);
  trainer->step();
  // Files may not grow beyond this: the weights do not fit, nor do the moments.
  for (const rlim_t limit : {rlim_t{64}, rlim_t{4096}, rlim_t{200000}}) {
    rlimit old;
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
    const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit small{limit, old.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
    std::string text;
    try {
      save(*trainer);
    } catch (const Error& error) {
      text = error.what();
    }
    ::setrlimit(RLIMIT_FSIZE, &old);
    std::signal(SIGXFSZ, old_handler);
    EXPECT_NE(text.find("File too large"), std::string::npos) << limit << ": " << text;
    EXPECT_EQ(contents(run_), before) << limit;
    EXPECT_FALSE(fs::exists(checkpoint_path(run_, 2).string() + ".tmp")) << limit;
    EXPECT_FALSE(fs::exists(checkpoint_path(run_, 2))) << limit;
  }
  EXPECT_EQ(newest(), path);
  EXPECT_NO_THROW(save(*trainer));
}

TEST_F(CheckpointTest, AFullDiskLeavesThePreviousCheckpointAndNoPart) {
  fs::create_directories(run_);
  const auto trainer = make(tiny_run_config());
  trainer->step();
  std::uintmax_t size = 0;
  for (const auto& [name, content] : contents(save(*trainer))) size += content.size() + 4096;
  fs::remove_all(run_ / "checkpoints");
  // Room for one checkpoint and a half.
  const std::string options = "size=" + std::to_string(size * 3 / 2);
  if (::mount("tmpfs", run_.c_str(), "tmpfs", 0, options.c_str()) != 0) {
    GTEST_SKIP() << "this process may not mount a small disk to fill";
  }
  struct Unmount {
    ~Unmount() { ::umount2(path.c_str(), MNT_DETACH); }
    fs::path path;
  } unmount{run_};
  const fs::path path = save(*trainer);
  const auto before = contents(run_);
  trainer->step();
  expect_mentions(error_of([&] { save(*trainer); }), {"No space left"});
  EXPECT_EQ(contents(run_), before);
  EXPECT_FALSE(fs::exists(checkpoint_path(run_, 2).string() + ".tmp"));
  EXPECT_EQ(newest(), path);
}

}  // namespace
}  // namespace quest
