// Golden files and backends for tests.
#include "golden_files.h"

#include <cmath>
#include <cstdlib>

namespace quest {

std::optional<std::filesystem::path> find_golden(const std::string& file_name) {
  for (const auto& folder : {std::filesystem::path(QUEST_REFERENCE_DATA) / "goldens",
                             std::filesystem::path(QUEST_SOURCE_DIR) / "tests" / "golden"}) {
    if (std::filesystem::exists(folder / file_name)) return folder / file_name;
  }
  return std::nullopt;
}

std::vector<std::string> testable_backends() { return {"reference", "cpu"}; }

std::unique_ptr<Backend> make_backend(const std::string& name) {
  if (name == "reference") return make_reference_backend();
  return make_cpu_backend(2);
}

double relative_l2(const Tensor& a, const Tensor& b) {
  double difference = 0.0;
  double size = 0.0;
  for (std::int64_t i = 0; i < b.numel(); ++i) {
    const double wanted = b.as<float>()[i];
    difference += std::pow(a.as<float>()[i] - wanted, 2);
    size += wanted * wanted;
  }
  return std::sqrt(difference / (size > 0 ? size : 1.0));
}

}  // namespace quest
