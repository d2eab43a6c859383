// QuantKernels: the quantization kernels of one instruction set, as a table of functions.
//
// Included by the files that are compiled for one instruction set, so nothing but plain types may
// stand here: no standard containers and no inline functions.
#pragma once

#include <cstdint>

namespace quest {

enum class Isa : std::uint8_t;

struct QuantKernels {
  /// out[0..count) = 2 codes + 1, which bf16 holds exactly; out are bf16 bits.
  void (*odd_codes_bf16)(std::uint16_t* out, const std::int8_t* codes, std::int64_t count);
};

/// Those for `isa`; they may run only where available_isas() holds it.
const QuantKernels& quant_kernels(Isa isa);

extern const QuantKernels kQuantKernelsGeneric;
extern const QuantKernels kQuantKernelsAvx2;
extern const QuantKernels kQuantKernelsAvx512;

}  // namespace quest
