// CudaBackend: sums over parameters and the AdamW update.
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/optimizer_kernels.cuh"

namespace quest {

using cuda::data_of;

namespace {

// Of a tensor that is one piece.
bool starts_at_16(const Tensor& tensor) {
  return reinterpret_cast<std::uintptr_t>(tensor.data) % 16 == 0;
}

}  // namespace

void CudaBackend::add_up(Tensor total, Tensor x, bool squares) {
  const unsigned blocks = blocks_of(x.numel(), cuda::kSumBlock);
  double* const parts = workspace_.take<double>(cuda::Workspace::Slot::kSums, blocks);
  launch(on("sum_parts", dim3(blocks), cuda::kSumThreads),
         starts_at_16(x) ? cuda::sum_parts_kernel<true> : cuda::sum_parts_kernel<false>, parts,
         data_of<float>(x), x.numel(), squares);
  launch(on("add_sums", dim3(1), cuda::kPartThreads), cuda::add_sums_kernel, data_of<double>(total),
         static_cast<const double*>(parts), blocks);
}

void CudaBackend::sum(Tensor total, Tensor x) { add_up(total, x, false); }
void CudaBackend::sum_squares(Tensor total, Tensor x) { add_up(total, x, true); }

void CudaBackend::clip_scale(Tensor scale, Tensor sums, float max_norm) {
  launch(on("clip_scale", dim3(1), 32), cuda::clip_scale_kernel, data_of<float>(scale),
         data_of<double>(sums), sums.numel(), max_norm);
}

void CudaBackend::adamw(Tensor parameter, const Moment& first, const Moment& second,
                        Tensor gradient, Tensor grad_scale, const AdamWStep& step) {
  const auto* const factors = static_cast<const AdamWFactors*>(cuda::device_twin(step.on_device));
  const std::int64_t count = parameter.numel();
  const bool aligned = starts_at_16(parameter) && starts_at_16(gradient) &&
                       starts_at_16(first.values) && starts_at_16(second.values);
  const cuda::AdamWTask task{data_of<float>(parameter),
                             data_of<float>(gradient),
                             data_of<float>(grad_scale),
                             count,
                             factors,
                             aligned};
  if (first.scales) {
    // A warp has a block of values that share a scale.
    static_assert(kMomentBlock == 256);
    const cuda::CodedMoments moments{data_of<std::int8_t>(first.values),
                                     data_of<std::uint8_t>(second.values),
                                     data_of<float>(first.scales), data_of<float>(second.scales)};
    launch(on("adamw", dim3(blocks_of(count, kMomentBlock * 256 / cuda::kWarp)), 256),
           cuda::adamw_codes_kernel, task, moments);
    return;
  }
  const Launch how = on("adamw", dim3(blocks_of(count, 256 * cuda::kUpdateWidth)), 256);
  if (first.values.dtype == DType::kBF16) {
    launch(how, cuda::adamw_kernel<std::uint16_t>, task, data_of<std::uint16_t>(first.values),
           data_of<std::uint16_t>(second.values));
  } else {
    launch(how, cuda::adamw_kernel<float>, task, data_of<float>(first.values),
           data_of<float>(second.values));
  }
}

}  // namespace quest
