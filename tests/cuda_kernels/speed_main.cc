// cuda_speed: times products and quantization on CUDA device 0 at the sizes of training and
// decoding, beside a copy and cuBLASLt's bf16 product. `cuda_speed small` only shows that all of it
// runs.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "backend/cuda/code_product_launch.h"
#include "backend/cuda/make_cuda_backend.h"
#include "core/error.h"
#include "core/rng.h"
#include "quant/packing.h"

namespace quest {
namespace {

struct Size {
  std::int64_t m, n, k;
};

// Device memory of one kind of content, handed out in turns: what a kernel reads next was last read
// long ago, so that no cache holds it.
class Pool {
 public:
  Pool(Backend& backend, std::size_t bytes, const std::vector<std::uint32_t>& content)
      : backend_(backend), bytes_(bytes), data_(static_cast<std::byte*>(backend.allocate(bytes))) {
    std::vector<std::uint32_t> words = content;
    const std::size_t size = words.size() * sizeof(std::uint32_t);
    const auto count = static_cast<std::int64_t>(size);
    for (std::size_t at = 0; at + size <= bytes; at += size) {
      backend.copy(Tensor(data_ + at, {count}, DType::kU8, Place::kCuda),
                   Tensor(words.data(), {count}, DType::kU8, Place::kHost));
    }
  }
  ~Pool() { backend_.deallocate(data_, bytes_); }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  Tensor take(Shape shape, DType dtype) {
    const auto size = static_cast<std::size_t>(shape.numel()) * size_bytes(dtype);
    if (size > bytes_) fail("cuda_speed: {} bytes are more than a pool of {}", size, bytes_);
    if (next_ + size > bytes_) next_ = 0;
    const Tensor tensor(data_ + next_, shape, dtype, Place::kCuda);
    next_ += (size + 255) / 256 * 256;
    return tensor;
  }

 private:
  Backend& backend_;
  std::size_t bytes_, next_ = 0;
  std::byte* data_;
};

// Words of random codes, of bf16 numbers of magnitudes 1 to 2, or of the f32 number 1.
std::vector<std::uint32_t> random_words(std::uint32_t keep, std::uint32_t set) {
  Rng rng(1, RngPurpose::kTest);
  std::vector<std::uint32_t> words(1 << 18);
  for (std::uint32_t& word : words) {
    word = (static_cast<std::uint32_t>(rng.below(std::uint64_t{1} << 32)) & keep) | set;
  }
  return words;
}

class SpeedTable {
 public:
  explicit SpeedTable(bool small)
      : small_(small),
        backend_(make_cuda_backend(0)),
        codes_(*backend_, pool_bytes(), random_words(0xffffffffu, 0)),
        floats_(*backend_, pool_bytes(), random_words(0x807f807fu, 0x3f803f80u)),
        outputs_(*backend_, pool_bytes(), random_words(0, 0)),
        steps_(*backend_, std::size_t{1} << 20, random_words(0, 0x3f800000u)) {
    fmt::print("{}, {} multiprocessors\n{:34} {:>22} {:>10} {:>9} {:>9}\n", backend_->name(),
               device_.multiprocessors, "kernel", "M x N x K", "us", "TOP/s", "GB/s");
  }

  void copies();
  void products_of_codes(const Size& size);
  void gradients(const Size& size);
  void packed_products(const Size& size, int bits);
  void packed_row(const Size& size, int bits);
  void weight_only(const Size& size, int bits, bool approximate);
  void rows(std::int64_t rows, std::int64_t columns);

 private:
  std::size_t pool_bytes() const { return std::size_t{1} << (small_ ? 20 : 29); }

  QuantizedRows quantized(std::int64_t rows, std::int64_t columns, int bits = 8) {
    return {codes_.take({rows, columns}, DType::kI8), steps_.take({rows}, DType::kF32),
            steps_.take({rows}, DType::kI32), Tensor(), bits};
  }
  PackedRows packed(std::int64_t rows, std::int64_t columns, int bits) {
    PackedRows w;
    w.codes = codes_.take({rows, packed_row_bytes(columns, bits)}, DType::kU8);
    w.steps = steps_.take({rows}, DType::kF32);
    w.code_sums = steps_.take({rows}, DType::kI32);
    w.bits = bits;
    w.columns = columns;
    return w;
  }

  // Calls run() until it has taken long enough, three times; prints the best mean.
  template <typename Run>
  void time(const std::string& what, const Size& size, double operations, double bytes, Run run) {
    using Clock = std::chrono::steady_clock;
    double best = 0;
    int calls = small_ ? 1 : 20;
    for (int round = 0; round < (small_ ? 1 : 4); ++round) {
      backend_->synchronize();
      const auto begin = Clock::now();
      for (int call = 0; call < calls; ++call) run();
      backend_->synchronize();
      check_cuda(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize");
      const double seconds = std::chrono::duration<double>(Clock::now() - begin).count() / calls;
      if (round > 0 || small_) best = best == 0 ? seconds : std::min(best, seconds);
      // The first round warms up and tells how many calls are 20 ms.
      if (round == 0 && !small_) calls = std::clamp(static_cast<int>(0.02 / seconds), 5, 2000);
    }
    fmt::print("{:34} {:>22} {:10.1f} {:9.1f} {:9.0f}\n", what,
               fmt::format("{} x {} x {}", size.m, size.n, size.k), best * 1e6,
               operations / best * 1e-12, bytes / best * 1e-9);
    std::fflush(stdout);
  }
  template <typename Launch>
  void one_kernel(const char* what, const Size& size, const Launch& launch_product);
  template <typename Shape>
  void one_shape(const char* what, const Size& size) {
    one_kernel(what, size, [&](const auto&... arguments) {
      cuda::launch_code_product<Shape>(what, nullptr, arguments...);
    });
  }

  bool small_;
  std::unique_ptr<Backend> backend_;
  Pool codes_, floats_, outputs_, steps_;
  cuda::ProductDevice device_ = cuda::product_device(0);
};

double operations_of(const Size& size) {
  return 2.0 * static_cast<double>(size.m) * static_cast<double>(size.n) *
         static_cast<double>(size.k);
}

void SpeedTable::copies() {
  const std::int64_t bytes = static_cast<std::int64_t>(pool_bytes()) / 2;
  time("copy, read and written", {1, 1, bytes}, 0, 2.0 * static_cast<double>(bytes), [&] {
    backend_->copy(outputs_.take({bytes}, DType::kU8), codes_.take({bytes}, DType::kU8));
  });
}

template <typename Launch>
void SpeedTable::one_kernel(const char* what, const Size& size, const Launch& launch_product) {
  time(what, size, operations_of(size), 0, [&] {
    const QuantizedRows x = quantized(size.m, size.k), w = quantized(size.n, size.k);
    const Tensor y = outputs_.take({size.m, size.n}, DType::kBF16);
    const cuda::WriteQuantized write{{y.data, y.row_stride, true},
                                     false,
                                     x.steps.as<float>(),
                                     w.steps.as<float>(),
                                     x.code_sums.as<std::int32_t>(),
                                     w.code_sums.as<std::int32_t>(),
                                     size.k};
    launch_product(cuda::code_factor<cuda::CodeRows>(x.codes, size.m),
                   cuda::code_factor<cuda::CodeRows>(w.codes, size.n), write,
                   cuda::CodeProductSize{size.m, size.n, size.k, true});
  });
}

void SpeedTable::products_of_codes(const Size& size) {
  one_shape<cuda::LargeCodeProduct>("codes, blocks of 256 x 128", size);
  one_shape<cuda::MiddleCodeProduct>("codes, blocks of 128 x 128", size);
  one_shape<cuda::SmallCodeProduct>("codes, blocks of 64 x 64", size);
  if (device_.has_warpgroups) {
    one_shape<cuda::WideWarpgroupProduct>("codes, warpgroups, 128 x 256", size);
    one_shape<cuda::NarrowWarpgroupProduct>("codes, warpgroups, 128 x 128", size);
  }
  if (device_.encode_map != nullptr) {
    const char* const what = "codes, persistent, 256 x 256";
    one_kernel(what, size, [&](const auto&... arguments) {
      if (!cuda::launch_persistent_product(what, nullptr, device_, arguments...)) {
        fail("cuda_speed: the driver makes no maps of {} x {} codes", size.n, size.k);
      }
    });
  }
  time("codes, as chosen", size, operations_of(size), 0, [&] {
    backend_->quantized_matmul(outputs_.take({size.m, size.n}, DType::kBF16),
                               quantized(size.m, size.k), quantized(size.n, size.k), Write::kSet);
  });
  time("bf16 by cuBLASLt", size, operations_of(size), 0, [&] {
    backend_->matmul(outputs_.take({size.m, size.n}, DType::kBF16),
                     floats_.take({size.m, size.k}, DType::kBF16),
                     floats_.take({size.n, size.k}, DType::kBF16), Write::kSet);
  });
}

void SpeedTable::gradients(const Size& size) {
  const RoundingKey key{{}, codes_.take({2}, DType::kU32)};  // random words
  const auto d_y = [&] { return floats_.take({size.m, size.n}, DType::kBF16); };
  const auto d_x = [&] { return outputs_.take({size.m, size.k}, DType::kBF16); };
  const auto d_w = [&] { return outputs_.take({size.n, size.k}, DType::kF32); };
  time("gradient of x, bf16", size, operations_of(size), 0, [&] {
    backend_->quantized_matmul_grad_input(d_x(), d_y(), quantized(size.n, size.k), Write::kSet);
  });
  for (const int bits : {8, 4}) {  // of fewer than 8 bits: by warpgroups, where there are any
    time(fmt::format("gradient of x, integers, {} bits", bits), size, operations_of(size), 0, [&] {
      backend_->integer_matmul_grad_input(d_x(), d_y(), quantized(size.n, size.k, bits), key,
                                          Write::kSet);
    });
  }
  time("gradient of w, bf16", size, operations_of(size), 0, [&] {
    backend_->quantized_matmul_grad_weight(d_w(), d_y(), quantized(size.m, size.k), Write::kAdd);
  });
  for (const int bits : {8, 4}) {
    time(fmt::format("gradient of w, integers, {} bits", bits), size, operations_of(size), 0, [&] {
      backend_->integer_matmul_grad_weight(d_w(), d_y(), quantized(size.m, size.k, bits), key,
                                           Write::kAdd);
    });
  }
}

void SpeedTable::packed_products(const Size& size, int bits) {
  const double bytes = static_cast<double>(size.n * packed_row_bytes(size.k, bits));
  time(fmt::format("packed, {} bits", bits), size, operations_of(size), bytes, [&] {
    backend_->packed_matmul(outputs_.take({size.m, size.n}, DType::kF32), quantized(size.m, size.k),
                            8, packed(size.n, size.k, bits), Write::kSet);
  });
}

// What decoding one sequence runs in a layer: x is quantized by the same kernel.
void SpeedTable::packed_row(const Size& size, int bits) {
  const double bytes = static_cast<double>(size.n * packed_row_bytes(size.k, bits));
  const RowQuantizer quantizer = RowQuantizer::make({bits}, Transform::kHadamard, size.k);
  time(fmt::format("row by packed, {} bits", bits), size, operations_of(size), bytes, [&] {
    backend_->quantize_packed_matmul(outputs_.take({1, size.n}, DType::kBF16), quantized(1, size.k),
                                     {floats_.take({1, size.k}, DType::kBF16)}, quantizer, bits,
                                     packed(size.n, size.k, bits), Write::kSet);
  });
}

void SpeedTable::weight_only(const Size& size, int bits, bool approximate) {
  const double bytes = static_cast<double>(size.n * packed_row_bytes(size.k, bits));
  const std::string what =
      fmt::format("floats by packed, {} bits{}", bits, approximate ? ", approximate" : "");
  time(what, size, operations_of(size), bytes, [&] {
    PackedRows w = packed(size.n, size.k, bits);
    w.approximate = approximate;
    backend_->packed_dense_matmul(outputs_.take({size.m, size.n}, DType::kF32),
                                  floats_.take({size.m, size.k}, DType::kF32), w, 128, Write::kSet);
  });
}

void SpeedTable::rows(std::int64_t rows, std::int64_t columns) {
  const LinearScheme scheme = LinearScheme::parse("w4a4");
  const RowQuantizer quantizer = RowQuantizer::make(scheme.activation, scheme.transform, columns);
  const double bytes = 3.125 * static_cast<double>(rows * columns);
  time("quantize_rows, bf16, with mask", {rows, 1, columns}, 0, bytes, [&] {
    QuantizedRows out = {outputs_.take({rows, columns}, DType::kI8),
                         outputs_.take({rows}, DType::kF32), outputs_.take({rows}, DType::kI32),
                         outputs_.take({rows, (columns + 7) / 8}, DType::kU8)};
    backend_->quantize_rows(out, floats_.take({rows, columns}, DType::kBF16), quantizer);
  });
}

void run(bool small) {
  SpeedTable table(small);
  table.copies();
  const std::int64_t width = small ? 128 : 2048, hidden = small ? 256 : 5632;
  const std::vector<Size> layers{{1, width, width}, {1, hidden, width}, {1, width, hidden}};
  const auto on_layers = [&](std::initializer_list<std::int64_t> rows, auto body) {
    for (const std::int64_t m : rows) {
      for (const Size& layer : layers) body(Size{small ? m % 100 + 1 : m, layer.n, layer.k});
    }
  };
  on_layers({2048, 4096, 8192, 16384}, [&](const Size& size) { table.products_of_codes(size); });
  on_layers({8192}, [&](const Size& size) { table.gradients(size); });
  for (const int bits : {1, 2, 3, 4, 8}) {
    on_layers({1, 4, 16, 64, 65, 512, 2048},
              [&](const Size& size) { table.packed_products(size, bits); });
    for (const Size& layer : layers) table.packed_row(layer, bits);
  }
  const std::int64_t vocabulary = small ? 300 : 32768;
  for (const std::int64_t m : {1, 4, 16, 64}) {
    table.weight_only({m, vocabulary, width}, 8, true);
    table.weight_only({m, hidden, width}, 2, false);
  }
  table.rows(small ? 9 : 8192, width);
  table.rows(small ? 9 : 8192, hidden);
}

}  // namespace
}  // namespace quest

int main(int argc, char** argv) {
  try {
    quest::run(argc > 1 && std::strcmp(argv[1], "small") == 0);
  } catch (const quest::Error& error) {
    fmt::print(stderr, "cuda_speed: error: {}\n", error.what());
    return 1;
  }
  return 0;
}
