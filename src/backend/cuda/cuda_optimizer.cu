// CudaBackend: sums over parameters and the AdamW update.
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/optimizer_kernels.cuh"

namespace quest {

using cuda::data_of;

void CudaBackend::add_up(Tensor total, Tensor x, bool squares) {
  const unsigned blocks = blocks_of(x.numel(), cuda::kSumBlock);
  double* const parts = workspace_.take<double>(cuda::Workspace::Slot::kSums, blocks);
  launch(on("sum_parts", dim3(blocks), 256), cuda::sum_parts_kernel, parts, data_of<float>(x),
         x.numel(), squares);
  launch(on("add_sums", dim3(1), 32), cuda::add_sums_kernel, data_of<double>(total), parts,
         std::int64_t{blocks});
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
  static_assert(kMomentBlock == 256);
  const Launch how = on("adamw", dim3(blocks_of(count, kMomentBlock)), 256);
  const cuda::AdamWTask task{data_of<float>(parameter), data_of<float>(gradient),
                             data_of<float>(grad_scale), count, factors};
  if (!first.scales) {
    launch(how, cuda::adamw_kernel, task, cuda::rows_of(first.values),
           cuda::rows_of(second.values));
    return;
  }
  const cuda::CodedMoments moments{data_of<std::int8_t>(first.values),
                                   data_of<std::uint8_t>(second.values),
                                   data_of<float>(first.scales), data_of<float>(second.scales)};
  launch(how, cuda::adamw_codes_kernel, task, moments);
}

}  // namespace quest
