// Tiles of packed operands: 16 rows of 64 bytes.
//
// For files compiled for AVX-512 only.
#pragma once

#include <cstdint>

namespace quest {
namespace {

constexpr int kTileRows = 16;
constexpr int kTileBytes = 64;  // of a row
constexpr std::int64_t kTileSize = kTileRows * kTileBytes;

}  // namespace
}  // namespace quest
