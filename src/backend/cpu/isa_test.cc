// Tests of the choice of an instruction set.
#include "backend/cpu/isa.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "backend/cpu/cpu_backend.h"
#include "core/error.h"

namespace quest {
namespace {

class IsaEnvironment : public testing::Test {
 protected:
  void SetUp() override {
    if (const char* value = std::getenv("QUEST_ISA")) before_ = value;
  }
  void TearDown() override {
    if (before_.empty()) {
      ::unsetenv("QUEST_ISA");
    } else {
      ::setenv("QUEST_ISA", before_.c_str(), 1);
    }
  }

 private:
  std::string before_;
};

TEST_F(IsaEnvironment, TheVariableChoosesEveryAvailableOne) {
  for (const Isa isa : available_isas()) {
    ::setenv("QUEST_ISA", std::string(isa_name(isa)).c_str(), 1);
    EXPECT_EQ(choose_isa(), isa);
    EXPECT_EQ(CpuBackend(1).name(), "cpu " + std::string(isa_name(isa)));
  }
  ::unsetenv("QUEST_ISA");
  EXPECT_EQ(choose_isa(), available_isas().back());
}

TEST_F(IsaEnvironment, AnUnknownNameIsAnErrorThatListsTheNames) {
  ::setenv("QUEST_ISA", "avx1024", 1);
  try {
    choose_isa();
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("avx1024"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("generic, avx2, avx512 or amx"), std::string::npos);
  }
}

}  // namespace
}  // namespace quest
