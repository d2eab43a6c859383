// Rows from codes and rows times factors, written once for all instruction sets: included after a
// simd16 header and rotate_rows.inc.h. Everything stands in an anonymous namespace, by intention.

namespace quest {
namespace {

void dequantize_row(const RotatedRow& to, const std::int8_t* codes, float step,
                    std::int64_t columns, std::int64_t block) {
  rotate_to(to, CodesSource{codes, splat16(step)}, columns, block);
}

void odd_codes_bf16(std::uint16_t* out, const std::int8_t* codes, std::int64_t count) {
  for (std::int64_t k = 0; k < count; ++k) {
    const float odd = static_cast<float>(2 * codes[k] + 1);
    std::uint32_t bits;
    __builtin_memcpy(&bits, &odd, sizeof bits);
    out[k] = static_cast<std::uint16_t>(bits >> 16);
  }
}

void scale_bf16(std::uint16_t* out, const std::uint16_t* x, float scale, std::int64_t count) {
  NoSquares none;
  const BF16Sink<false> sink{out, splat16(scale)};
  rotate_up_to_128(BF16Source{x}, sink, none, count, 1);
}

void scale_columns_bf16(std::uint16_t* out, const std::uint16_t* x, const float* scales,
                        std::int64_t count) {
  const BF16Source source{x};
  const F32Source scale_source{scales};
  const BF16Sink<false> sink{out, splat16(1.0f)};
  std::int64_t k = 0;
  for (; k + 16 <= count; k += 16) sink.store(k, mul(source.load(k), scale_source.load(k)));
  if (k < count) {
    const std::int64_t left = count - k;
    sink.store_part(k, mul(source.load_part(k, left), scale_source.load_part(k, left)), left);
  }
}

}  // namespace
}  // namespace quest
