// The constants of Philox 4x32-10 (Salmon et al., SC 2011), for every form in which it is computed.
#pragma once

#include <cstdint>

namespace quest {

static constexpr int kPhiloxRounds = 10;
static constexpr std::uint32_t kPhiloxMultiplier0 = 0xD2511F53u;
static constexpr std::uint32_t kPhiloxMultiplier1 = 0xCD9E8D57u;
static constexpr std::uint32_t kPhiloxWeyl0 = 0x9E3779B9u;
static constexpr std::uint32_t kPhiloxWeyl1 = 0xBB67AE85u;

}  // namespace quest
