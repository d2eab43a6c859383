// Schedule: the learning rate of each step.
#pragma once

#include <cstdint>
#include <string_view>

namespace quest {

/// What follows the warm-up.
enum class ScheduleKind : std::uint8_t {
  kCosine,    ///< cosine from the peak to the final rate
  kWsd,       ///< warm-up, stable, decay: the peak, then linear over the last fifth
  kLinear,    ///< linear from the peak to the final rate
  kConstant,  ///< the peak
};

/// Throws Error that lists the kinds when the name is not one of cosine, wsd, linear, constant.
ScheduleKind schedule_from_name(std::string_view name);

/// The learning rate as a function of the step. The warm-up is half a cosine from lr / 100, as in
/// the published runs (method section 4).
struct Schedule {
  ScheduleKind kind = ScheduleKind::kCosine;
  double peak = 1e-3;
  double final_fraction = 0.1;  ///< final rate / peak
  double warmup_steps = 0;      ///< may be a fraction of a step, as 10 % of a run can be
  std::int64_t total_steps = 1;

  /// `step` counts from 0; the warm-up ends at step `warmup_steps` - 1 and the run at step
  /// `total_steps` - 1.
  double rate(std::int64_t step) const;
};

}  // namespace quest
