// The transpose of a block of rounded rows in loops that the compiler makes vectors of, for all
// instruction sets.

namespace quest {
namespace {

void put_lines(std::int8_t* lines, std::int64_t stride, std::int32_t* sums,
               const RoundedBlock& block) {
  for (std::int64_t i = 0; i < block.rows; ++i) {
    const std::int8_t* const row = block.codes + i * block.stride;
    for (std::int64_t j = 0; j < block.columns; ++j) sums[j] += row[j];
  }
  for (std::int64_t j = 0; j < block.columns; ++j) {
    std::int8_t* const line = lines + j * stride;
    for (std::int64_t i = 0; i < block.rows; ++i) line[i] = block.codes[i * block.stride + j];
  }
}

}  // namespace
}  // namespace quest
