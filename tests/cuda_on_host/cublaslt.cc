// cuBLASLt's product on the host: column-major, one element after the other.
#include "cublasLt.h"

#include "core/bfloat16.h"

struct CublasLtOnHost {};
struct CublasLtPreference {};
struct CublasLtDesc {
  std::int32_t transposed[2] = {0, 0};
};
struct CublasLtLayout {
  cudaDataType_t type;
  std::uint64_t rows, cols;
  std::int64_t ld;
};

namespace {

bool available = true;

float get(const void* data, const CublasLtLayout& layout, std::uint64_t row, std::uint64_t col) {
  const std::uint64_t at = row + col * static_cast<std::uint64_t>(layout.ld);
  if (layout.type == CUDA_R_32F) return static_cast<const float*>(data)[at];
  return quest::to_float(static_cast<const quest::BFloat16*>(data)[at]);
}

void put(void* data, const CublasLtLayout& layout, std::uint64_t row, std::uint64_t col, float x) {
  const std::uint64_t at = row + col * static_cast<std::uint64_t>(layout.ld);
  if (layout.type == CUDA_R_32F) {
    static_cast<float*>(data)[at] = x;
  } else {
    static_cast<quest::BFloat16*>(data)[at] = quest::to_bfloat16(x);
  }
}

}  // namespace

void cuda_on_host::set_library_products(bool wanted) { available = wanted; }

const char* cublasLtGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_SUCCESS            ? "CUBLAS_STATUS_SUCCESS"
         : status == CUBLAS_STATUS_NOT_SUPPORTED    ? "CUBLAS_STATUS_NOT_SUPPORTED"
         : status == CUBLAS_STATUS_EXECUTION_FAILED ? "CUBLAS_STATUS_EXECUTION_FAILED"
                                                    : "CUBLAS_STATUS_INVALID_VALUE";
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new CublasLtOnHost;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t,
                                        cudaDataType_t) {
  *desc = new CublasLtDesc;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, std::size_t bytes) {
  if (bytes != sizeof(std::int32_t)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&desc->transposed[attribute - CUBLASLT_MATMUL_DESC_TRANSA], value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete desc;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type,
                                          std::uint64_t rows, std::uint64_t cols, std::int64_t ld) {
  *layout = new CublasLtLayout{type, rows, cols, ld};
  return ld >= static_cast<std::int64_t>(rows) ? CUBLAS_STATUS_SUCCESS
                                               : CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new CublasLtPreference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t,
                                                    cublasLtMatmulPreferenceAttributes_t,
                                                    const void*, std::size_t) {
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t, int,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* found) {
  *found = available ? 1 : 0;
  results[0] = {{}, 0, CUBLAS_STATUS_SUCCESS};
  return available ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t*, void*,
                              std::size_t, cudaStream_t stream) {
  const bool a_turned = desc->transposed[0] != 0, b_turned = desc->transposed[1] != 0;
  const std::uint64_t rows = d_layout->rows, cols = d_layout->cols;
  const std::uint64_t summed = a_turned ? a_layout->rows : a_layout->cols;
  if ((a_turned ? a_layout->cols : a_layout->rows) != rows ||
      (b_turned ? b_layout->rows : b_layout->cols) != cols ||
      (b_turned ? b_layout->cols : b_layout->rows) != summed || a_layout->type != b_layout->type ||
      c_layout->type != d_layout->type || c != d ||
      (a_layout->type == CUDA_R_32F && d_layout->type != CUDA_R_32F)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  // Told only here, so that refusals after the heuristic are tested.
  if (d_layout->type == CUDA_R_16BF && d_layout->ld % 2 != 0) return CUBLAS_STATUS_NOT_SUPPORTED;
  const float scale = *static_cast<const float*>(alpha), kept = *static_cast<const float*>(beta);
  const auto multiply = [=, a_like = *a_layout, b_like = *b_layout, c_like = *c_layout,
                         d_like = *d_layout] {
    const cuda_on_host::DeviceAccess access;
    for (std::uint64_t j = 0; j < cols; ++j) {
      for (std::uint64_t i = 0; i < rows; ++i) {
        float sum = 0;
        for (std::uint64_t k = 0; k < summed; ++k) {
          sum += (a_turned ? get(a, a_like, k, i) : get(a, a_like, i, k)) *
                 (b_turned ? get(b, b_like, j, k) : get(b, b_like, k, j));
        }
        const float before = kept == 0.0f ? 0.0f : kept * get(c, c_like, i, j);
        put(d, d_like, i, j, scale * sum + before);
      }
    }
  };
  return cuda_on_host::enqueue(stream, multiply) == cudaSuccess ? CUBLAS_STATUS_SUCCESS
                                                                : CUBLAS_STATUS_EXECUTION_FAILED;
}
