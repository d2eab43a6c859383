// cuBLASLt: our row-major products told in its column-major terms.
#include "backend/cuda/check.h"
#include "backend/cuda/lt_products.h"

namespace quest::cuda {
namespace {

constexpr std::size_t kLibraryBytes = std::size_t{32} << 20;  // as NVIDIA recommends for sm_90

void check_lt(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS) {
    fail("cuBLASLt: {}: {}", call, cublasLtGetStatusString(status));
  }
}

cudaDataType_t type_of(const Tensor& tensor) {
  switch (tensor.dtype) {
    case DType::kBF16:
      return CUDA_R_16BF;
    default:
      return CUDA_R_32F;
  }
}

bool supported(DType from, DType to) {
  return to == DType::kF32 || (from == DType::kBF16 && to == DType::kBF16);
}

std::int64_t stride_of(const Tensor& tensor) {
  return tensor.rows() <= 1 ? tensor.cols() : tensor.row_stride;
}

// The largest power of two up to 256 that divides the address.
std::uint32_t alignment(const Tensor& tensor) {
  const auto address = reinterpret_cast<std::uintptr_t>(tensor.data) | 256u;
  return static_cast<std::uint32_t>(address & (~address + 1));
}

// The descriptions of one product, destroyed with it.
class Description {
 public:
  Description(const Tensor& out, const Factor& left, const Factor& right) {
    check_lt(cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F),
             "cublasLtMatmulDescCreate");
    // Seen column by column, row-major rows are columns: the right factor stands first, and it is
    // as it should be where its rows are summed.
    const cublasOperation_t a = right.rows_are_summed ? CUBLAS_OP_N : CUBLAS_OP_T;
    const cublasOperation_t b = left.rows_are_summed ? CUBLAS_OP_T : CUBLAS_OP_N;
    check_lt(cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSA, &a, sizeof a),
             "cublasLtMatmulDescSetAttribute");
    check_lt(cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSB, &b, sizeof b),
             "cublasLtMatmulDescSetAttribute");
    const Tensor* const tensors[] = {&right.tensor, &left.tensor, &out};
    for (std::size_t i = 0; i < layouts.size(); ++i) {
      check_lt(cublasLtMatrixLayoutCreate(&layouts[i], type_of(*tensors[i]),
                                          static_cast<std::uint64_t>(tensors[i]->cols()),
                                          static_cast<std::uint64_t>(tensors[i]->rows()),
                                          stride_of(*tensors[i])),
               "cublasLtMatrixLayoutCreate");
    }
  }
  ~Description() {
    for (const cublasLtMatrixLayout_t layout : layouts) {
      if (layout != nullptr) cublasLtMatrixLayoutDestroy(layout);
    }
    cublasLtMatmulDescDestroy(product);
  }
  Description(const Description&) = delete;
  Description& operator=(const Description&) = delete;

  cublasLtMatmulDesc_t product = nullptr;
  std::array<cublasLtMatrixLayout_t, 3> layouts{};  // right, left, out
};

}  // namespace

LtProducts::LtProducts(cudaStream_t stream, Workspace& workspace)
    : stream_(stream), workspace_(workspace) {
  check_lt(cublasLtCreate(&handle_), "cublasLtCreate");
}
LtProducts::~LtProducts() { cublasLtDestroy(handle_); }

std::optional<LtProducts::Algorithm> LtProducts::choose(
    const Key& key, cublasLtMatmulDesc_t product,
    const std::array<cublasLtMatrixLayout_t, 3>& layouts) {
  const auto found = chosen_.find(key);
  if (found != chosen_.end()) return found->second;
  cublasLtMatmulPreference_t preference = nullptr;
  check_lt(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    check_lt(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value),
             "cublasLtMatmulPreferenceSetAttribute");
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kLibraryBytes);
  // A sum that the library cuts into parts is joined in f32, and a bf16 output rounded once. Unless
  // told so it may join the parts in the type of the output.
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  // Unless told otherwise the library takes every pointer for aligned to 256 bytes.
  const std::uint32_t aligned[] = {static_cast<std::uint32_t>(key[11]),
                                   static_cast<std::uint32_t>(key[12]),
                                   static_cast<std::uint32_t>(key[13])};
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, aligned[0]);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, aligned[1]);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, aligned[2]);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, aligned[2]);
  cublasLtMatmulHeuristicResult_t result{};
  int results = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle_, product, layouts[0], layouts[1], layouts[2],
                                     layouts[2], preference, 1, &result, &results);
  cublasLtMatmulPreferenceDestroy(preference);
  if (status != CUBLAS_STATUS_NOT_SUPPORTED) check_lt(status, "cublasLtMatmulAlgoGetHeuristic");
  std::optional<Algorithm> algorithm;
  if (status == CUBLAS_STATUS_SUCCESS && results > 0 && result.state == CUBLAS_STATUS_SUCCESS) {
    algorithm = Algorithm{result.algo, result.workspaceSize};
  }
  chosen_.emplace(key, algorithm);
  return algorithm;
}

bool LtProducts::multiply(Tensor out, const Factor& left, const Factor& right, std::int64_t summed,
                          Write write) {
  if (left.tensor.dtype != right.tensor.dtype) return false;
  if (!supported(left.tensor.dtype, out.dtype)) return false;
  const Key key = {type_of(left.tensor),
                   type_of(out),
                   left.rows_are_summed,
                   right.rows_are_summed,
                   out.rows(),
                   out.cols(),
                   summed,
                   stride_of(left.tensor),
                   stride_of(right.tensor),
                   stride_of(out),
                   write == Write::kAdd,
                   alignment(right.tensor),
                   alignment(left.tensor),
                   alignment(out)};
  const Description description(out, left, right);
  const auto algorithm = choose(key, description.product, description.layouts);
  if (!algorithm) return false;
  void* const memory = workspace_.take<std::byte>(
      Workspace::Slot::kLibrary, static_cast<std::int64_t>(algorithm->workspace_bytes));
  const float factors[] = {1.0f, write == Write::kAdd ? 1.0f : 0.0f};
  const auto& layouts = description.layouts;
  const cublasStatus_t status =
      cublasLtMatmul(handle_, description.product, &factors[0], right.tensor.data, layouts[0],
                     left.tensor.data, layouts[1], &factors[1], out.data, layouts[2], out.data,
                     layouts[2], &algorithm->algo, memory, algorithm->workspace_bytes, stream_);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED) {
    // The heuristic promised more than this device has; nothing was launched.
    chosen_[key] = std::nullopt;
    return false;
  }
  if (status != CUBLAS_STATUS_SUCCESS) {
    fail("cuBLASLt: cublasLtMatmul({} to {}, M {}, N {}, sum over {}): {}", name(left.tensor.dtype),
         name(out.dtype), out.rows(), out.cols(), summed, cublasLtGetStatusString(status));
  }
  return true;
}

}  // namespace quest::cuda
