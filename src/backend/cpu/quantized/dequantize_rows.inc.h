// Rows from codes, written once for all instruction sets: included after a simd16 header and
// rotate_rows.inc.h. Everything stands in an anonymous namespace, by intention.

namespace quest {
namespace {

void dequantize_row(const RotatedRow& to, const std::int8_t* codes, float step,
                    std::int64_t columns, std::int64_t block) {
  rotate_to(to, CodesSource{codes, splat16(step)}, columns, block);
}

}  // namespace
}  // namespace quest
