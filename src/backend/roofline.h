// Roofline: the least time that a kernel can take on a machine of measured rates (Williams,
// Waterman and Patterson 2009).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace quest {

/// The arithmetic unit that a kernel's products need; what has no products is bound by memory
/// alone. Products of bits (kBinary) do the work of kInt8 a pair of planes at a time.
enum class Unit : std::uint8_t { kNone, kF32, kBF16, kInt8, kBinary };
inline constexpr std::size_t kUnits = 5;

/// What one call of a kernel computes and moves.
struct KernelWork {
  Unit unit = Unit::kNone;
  double operations = 0;  ///< multiply-adds times two, of `unit`
  double bytes = 0;       ///< read and written, each operand once
  double bit_pairs = 0;   ///< pairs of planes of bits that would do the same; 0: none would
};

/// Rates of a machine, and the bounds that follow.
struct Roofline {
  struct UnitRate {
    std::string name;  ///< "AMX bf16"
    double operations_per_second = 0;
  };
  struct Level {
    std::string name;  ///< "L2"
    double bytes = 0;  ///< that it holds
    double bytes_per_second = 0;
  };
  struct Bound {
    double seconds = 0;
    std::string name;  ///< of what bounds: a unit or a level
  };

  std::array<UnitRate, kUnits> units;  ///< at Unit's values; a rate of 0 bounds nothing
  std::vector<Level> levels;           ///< of memory, the smallest first; the last holds everything

  const UnitRate& rate(Unit unit) const { return units[static_cast<std::size_t>(unit)]; }
  /// The slower of the operations at the unit's rate and the bytes at the rate of the level that
  /// holds them all.
  Bound bound(const KernelWork& work) const;
};

}  // namespace quest
