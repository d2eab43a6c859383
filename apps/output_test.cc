// Tests of reports: the same numbers for people and as one JSON object.
#include "apps/output.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

namespace quest::app {
namespace {

std::string printed(const Report& report, bool as_json) {
  testing::internal::CaptureStdout();
  report.print(as_json);
  return testing::internal::GetCapturedStdout();
}

TEST(Report, PeopleSeeLabelsInAColumn) {
  Report report;
  report.add("loss", 1.5, "loss", "1.5000 nats a token");
  report.add("tokens", 12, "tokens read");
  report.add_json("detail", {1, 2});
  EXPECT_EQ(printed(report, false), "loss         1.5000 nats a token\ntokens read  12\n");
}

TEST(Report, JsonIsOneLineInTheOrderOfTheCalls) {
  Report report;
  report.add("loss", 1.5, "loss", "1.5000");
  report.add("name", "a\xff", "name");
  report.add("bad", std::numeric_limits<double>::quiet_NaN(), "bad");
  EXPECT_EQ(printed(report, true), "{\"loss\":1.5,\"name\":\"a\xEF\xBF\xBD\",\"bad\":null}\n");
}

}  // namespace
}  // namespace quest::app
