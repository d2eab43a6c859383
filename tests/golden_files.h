// Where golden files lie, and the comparisons that golden tests share.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "core/safetensors.h"

namespace quest {

/// A golden by file name: from the full reference data where that is present, else from the small
/// part in tests/golden, else nothing.
std::optional<std::filesystem::path> find_golden(const std::string& file_name);

/// Names of the backends that this machine can test: "reference", and "cpu <isa>" for every
/// instruction set it has.
std::vector<std::string> testable_backends();
std::unique_ptr<Backend> make_backend(const std::string& name);

/// || a - b || / || b || over all elements of two f32 tensors of equal shape.
double relative_l2(const Tensor& a, const Tensor& b);

}  // namespace quest

/// Skips the running test, saying why, when a golden is absent; else defines `variable`, its path.
#define QUEST_GOLDEN_OR_SKIP(variable, file_name)                                        \
  const auto variable##_found = quest::find_golden(file_name);                           \
  if (!variable##_found) {                                                               \
    GTEST_SKIP() << (file_name) << " is not here: set -DQUEST_REFERENCE_DATA=FOLDER to " \
                 << "the folder that holds goldens/";                                    \
  }                                                                                      \
  const std::filesystem::path variable = *variable##_found
