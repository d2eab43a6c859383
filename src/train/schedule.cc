// Learning-rate schedules.
#include "train/schedule.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <utility>

#include "core/error.h"

namespace quest {
namespace {

constexpr double kInitialFraction = 0.01;
constexpr double kWsdDecayShare = 0.2;

double cosine(double from, double to, double progress) {
  return to + 0.5 * (from - to) * (1.0 + std::cos(std::numbers::pi * progress));
}

}  // namespace

ScheduleKind schedule_from_name(std::string_view name) {
  constexpr std::array<std::pair<std::string_view, ScheduleKind>, 4> kKinds{
      {{"cosine", ScheduleKind::kCosine},
       {"wsd", ScheduleKind::kWsd},
       {"linear", ScheduleKind::kLinear},
       {"constant", ScheduleKind::kConstant}}};
  for (const auto& [known, kind] : kKinds) {
    if (known == name) return kind;
  }
  fail("there is no schedule '{}'; choose one of cosine, wsd, linear, constant", name);
}

double Schedule::rate(std::int64_t step) const {
  const double at = static_cast<double>(step);
  const double warmup_end = warmup_steps - 1.0;
  const double end = static_cast<double>(total_steps) - 1.0;
  if (at < warmup_end) return cosine(kInitialFraction * peak, peak, at / warmup_end);
  const double start = std::max(warmup_end, 0.0);
  const double progress = end > start ? std::clamp((at - start) / (end - start), 0.0, 1.0) : 1.0;
  const double final_rate = final_fraction * peak;
  switch (kind) {
    case ScheduleKind::kCosine:
      return cosine(peak, final_rate, progress);
    case ScheduleKind::kLinear:
      return peak + (final_rate - peak) * progress;
    case ScheduleKind::kWsd: {
      const double decay_from = 1.0 - kWsdDecayShare;
      if (progress <= decay_from) return peak;
      return peak + (final_rate - peak) * (progress - decay_from) / kWsdDecayShare;
    }
    case ScheduleKind::kConstant:
      return peak;
  }
  return peak;
}

}  // namespace quest
