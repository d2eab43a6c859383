// Backend: the answers of a device that cannot run packed models or fuses nothing.
#include "backend/backend.h"

#include "core/error.h"

namespace quest {
namespace {

[[noreturn]] void fail_packed(const Backend& backend) {
  fail("the device '{}' cannot run packed models; use --device cpu", backend.name());
}

}  // namespace

void Backend::packed_matmul(Tensor, const QuantizedRows&, int, const PackedRows&, Write) {
  fail_packed(*this);
}
void Backend::packed_dense_matmul(Tensor, Tensor, const PackedRows&, std::int64_t, Write) {
  fail_packed(*this);
}
void Backend::stored_matmul(Tensor, Tensor, Tensor, Write) { fail_packed(*this); }
void Backend::packed_embedding(Tensor, Tensor, const PackedRows&, std::int64_t) {
  fail_packed(*this);
}

void Backend::rmsnorm_quantize(const QuantizedRows& rows, Tensor y, Tensor rstd, Tensor x,
                               Tensor weight, float epsilon, const RowQuantizer& quantizer) {
  rmsnorm(y, rstd, x, weight, epsilon);
  quantize_rows(rows, y, quantizer);
}
void Backend::swiglu_quantize(const QuantizedRows& rows, Tensor h, Tensor gate, Tensor up,
                              const RowQuantizer& quantizer) {
  swiglu(h, gate, up);
  quantize_rows(rows, h, quantizer);
}

}  // namespace quest
