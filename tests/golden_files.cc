// Golden files and backends for tests.
#include "golden_files.h"

#include <cmath>
#include <cstdlib>

#include "backend/cpu/isa.h"

namespace quest {

std::optional<std::filesystem::path> find_golden(const std::string& file_name) {
  for (const auto& folder : {std::filesystem::path(QUEST_REFERENCE_DATA) / "goldens",
                             std::filesystem::path(QUEST_SOURCE_DIR) / "tests" / "golden"}) {
    if (std::filesystem::exists(folder / file_name)) return folder / file_name;
  }
  return std::nullopt;
}

std::vector<std::string> testable_backends() {
  std::vector<std::string> names = {"reference"};
  for (const Isa isa : available_isas()) names.push_back("cpu " + std::string(isa_name(isa)));
  return names;
}

std::unique_ptr<Backend> make_backend(const std::string& name) {
  if (name == "reference") return make_reference_backend();
  ::setenv("QUEST_ISA", name.substr(name.find(' ') + 1).c_str(), 1);
  auto backend = make_cpu_backend(2);
  ::unsetenv("QUEST_ISA");
  return backend;
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
