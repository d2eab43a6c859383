// Quantization of rows, written once for all instruction sets: included by each kernels_quant file.
// No guard against a second inclusion, and everything in an anonymous namespace, by intention.

namespace quest {
namespace {

void odd_codes_bf16(std::uint16_t* out, const std::int8_t* codes, std::int64_t count) {
  for (std::int64_t k = 0; k < count; ++k) {
    const float odd = static_cast<float>(2 * codes[k] + 1);
    std::uint32_t bits;
    __builtin_memcpy(&bits, &odd, sizeof bits);
    out[k] = static_cast<std::uint16_t>(bits >> 16);
  }
}

}  // namespace
}  // namespace quest
