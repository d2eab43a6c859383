// Tests of the learning-rate schedules.
#include "train/schedule.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace quest {
namespace {

Schedule schedule(ScheduleKind kind) { return {kind, 1e-3, 0.1, 60.0, 600}; }

TEST(Schedule, CosineIsThePublishedOneAtItsLandmarks) {
  // Values of the reference run of 600 steps, lr 1e-3.
  const Schedule s = schedule(ScheduleKind::kCosine);
  EXPECT_NEAR(s.rate(0), 1e-5, 1e-12);
  EXPECT_NEAR(s.rate(1), 1.1e-5, 0.5e-6);
  EXPECT_NEAR(s.rate(4), 2.1e-5, 0.5e-6);
  EXPECT_NEAR(s.rate(58), 9.99e-4, 0.5e-6);
  EXPECT_DOUBLE_EQ(s.rate(59), 1e-3);
  EXPECT_NEAR(s.rate(599), 1e-4, 1e-12);
  // A linear warm-up would stand at half of the peak's rise in its middle as well, so look aside.
  EXPECT_LT(s.rate(15), 1e-5 + 0.99e-3 * 15 / 59 * 0.7);
}

TEST(Schedule, OtherKindsEndWhereTheySay) {
  EXPECT_NEAR(schedule(ScheduleKind::kLinear).rate(599), 1e-4, 1e-12);
  EXPECT_NEAR(schedule(ScheduleKind::kLinear).rate(329), 5.5e-4, 1e-12);
  EXPECT_NEAR(schedule(ScheduleKind::kWsd).rate(480), 1e-3, 1e-12);
  EXPECT_NEAR(schedule(ScheduleKind::kWsd).rate(599), 1e-4, 1e-12);
  EXPECT_NEAR(schedule(ScheduleKind::kConstant).rate(599), 1e-3, 1e-12);
}

TEST(Schedule, RunsOfOneStepAndWithoutWarmUpAreDefined) {
  EXPECT_NEAR((Schedule{ScheduleKind::kCosine, 1e-3, 0.1, 0.1, 1}).rate(0), 1e-4, 1e-12);
  EXPECT_NEAR((Schedule{ScheduleKind::kCosine, 1e-3, 0.1, 0.0, 10}).rate(0), 1e-3, 1e-12);
}

TEST(Schedule, UnknownNamesAreRefused) {
  EXPECT_EQ(schedule_from_name("wsd"), ScheduleKind::kWsd);
  EXPECT_THROW(schedule_from_name("step"), Error);
}

}  // namespace
}  // namespace quest
