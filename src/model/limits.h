// The largest shapes of models: what files, settings and options may ask for.
#pragma once

#include <cstdint>

namespace quest {

/// The most blocks.
inline constexpr std::int64_t kMostLayers = 4096;
/// The most inputs of a linear layer: of a model's width, its hidden width and its heads together.
inline constexpr std::int64_t kMostInputs = 32768;
/// The most heads: a head has two values at least.
inline constexpr std::int64_t kMostHeads = kMostInputs / 2;
/// The most tokens of a vocabulary.
inline constexpr std::int64_t kMostVocab = std::int64_t{1} << 24;
/// The most positions that a model may have.
inline constexpr std::int64_t kMostPositions = std::int64_t{1} << 22;

}  // namespace quest
