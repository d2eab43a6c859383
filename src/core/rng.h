// Counter-based randomness: the same (seed, purpose, step, index) gives the same bits everywhere.
#pragma once

#include <array>
#include <cstdint>

namespace quest {

/// What a stream of random numbers is for; part of the key, so that no two uses share bits.
enum class RngPurpose : std::uint32_t {
  kInit = 1,
  kShuffle = 2,
  kSample = 3,
  kCorpus = 4,
  kTest = 5,
  kRounding = 6,
};

/// Philox 4x32-10 (Salmon et al., SC 2011) of one counter under one key.
std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                        std::array<std::uint32_t, 2> key);

/// Random access into the stream named by (seed, purpose, step): every draw is a function of its
/// index. The convenience draws below advance an internal index.
class Rng {
 public:
  Rng(std::uint64_t seed, RngPurpose purpose, std::uint32_t step = 0)
      : seed_(seed), purpose_(purpose), step_(step) {}

  /// The 128 bits at `index`.
  std::array<std::uint32_t, 4> bits(std::uint64_t index) const;

  /// 64 uniform bits.
  std::uint64_t next_u64();
  /// Uniform in [0, 1), 53 bits.
  double uniform();
  /// Uniform in {0, ..., bound - 1}; `bound` > 0. Without bias (Lemire's rejection).
  std::uint64_t below(std::uint64_t bound);
  /// Standard normal (Box-Muller).
  double normal();

 private:
  std::uint64_t seed_;
  RngPurpose purpose_;
  std::uint32_t step_;
  std::uint64_t index_ = 0;
  bool has_spare_ = false;
  double spare_ = 0.0;
};

}  // namespace quest
