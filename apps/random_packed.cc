// Random codes for every matrix of a packed model.
#include "apps/random_packed.h"

#include <fmt/format.h>

#include <cstring>

#include "backend/host_memory.h"
#include "core/rng.h"
#include "quant/packing.h"

namespace quest::app {
namespace {

// Of the weights' initialization: keeps activations finite.
constexpr float kStep = 0.01f;

void fill_floats(Tensor x, float scale, bool random) {
  Rng rng(1, RngPurpose::kTest);
  std::vector<float> values(4093);
  for (float& value : values) value = random ? scale * static_cast<float>(rng.normal()) : scale;
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    const float value = values[static_cast<std::size_t>(i) % values.size()];
    if (x.dtype == DType::kF32) {
      x.as<float>()[i] = value;
    } else {
      x.as<BFloat16>()[i] = to_bfloat16(value);
    }
  }
}

}  // namespace

// By a multiply and a shift: a big model has billions.
void RandomPackedTensors::fill_with_bits(std::vector<std::uint64_t>& words) {
  for (std::uint64_t& word : words) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    word = state_ ^ state_ >> 29;
  }
}

Tensor RandomPackedTensors::add(const std::string& name, const Shape& shape, DType dtype) {
  const auto bytes = static_cast<std::size_t>(shape.numel()) * size_bytes(dtype);
  memory_.emplace_back(bytes / 8 + 1);
  return tensors_[name] = Tensor(memory_.back().data(), shape, dtype);
}

// Returns what was added.
std::vector<Tensor> RandomPackedTensors::add_matrix(const StoredMatrix& stored) {
  const Shape shape{stored.rows, stored.columns};
  if (stored.bits > kMaxBits) {
    const DType dtype = stored.bits == 16 ? DType::kBF16 : DType::kF32;
    const Tensor dense = add(stored.weight_name(), shape, dtype);
    fill_floats(dense, 2 * kStep, true);
    return {dense};
  }
  const std::int64_t row_bytes = packed_row_bytes(stored.columns, stored.bits);
  const Tensor codes(static_cast<std::byte*>(codes_.get()) + code_bytes_, {stored.rows, row_bytes},
                     DType::kU8);
  tensors_[stored.name + ".codes"] = codes;
  code_bytes_ += codes.bytes();
  std::vector<std::uint64_t> bits(codes.bytes() / 8 + 1);
  fill_with_bits(bits);
  std::memcpy(codes.data, bits.data(), codes.bytes());
  const std::int64_t used = stored.columns * stored.bits % 8;
  for (std::int64_t r = 0; used != 0 && r < stored.rows; ++r) {
    codes.row<std::uint8_t>(r)[row_bytes - 1] &= static_cast<std::uint8_t>((1 << used) - 1);
  }
  const Tensor scales = add(stored.name + ".scales", {stored.rows}, DType::kF32);
  fill_floats(scales, kStep, false);
  return {codes, scales};
}

RandomPackedTensors::RandomPackedTensors(const ModelDescription& description) {
  std::vector<StoredMatrix> matrices = stored_matrices(description);
  std::size_t code_bytes = 0;  // of all
  const auto count = [&](const StoredMatrix& stored) {
    if (stored.bits > kMaxBits) return;
    code_bytes += static_cast<std::size_t>(stored.rows) *
                  static_cast<std::size_t>(packed_row_bytes(stored.columns, stored.bits));
  };
  count(stored_embedding(description));
  for (const StoredMatrix& stored : matrices) count(stored);
  codes_ = {allocate_host(code_bytes),
            [code_bytes](void* data) { deallocate_host(data, code_bytes); }};
  const auto norm = [&](const std::string& name) {
    fill_floats(add(name, {description.config.width}, DType::kF32), 1.0f, false);
  };
  for (std::int64_t layer = 0; layer < description.config.layers; ++layer) {
    norm(fmt::format("model.layers.{}.input_layernorm.weight", layer));
    norm(fmt::format("model.layers.{}.post_attention_layernorm.weight", layer));
  }
  norm("model.norm.weight");
  add_matrix(stored_embedding(description));
  for (const StoredMatrix& stored : matrices) {
    for (const Tensor& read : add_matrix(stored)) {
      decode_reads_.emplace_back(static_cast<const std::byte*>(read.data), read.bytes());
    }
  }
}

}  // namespace quest::app
