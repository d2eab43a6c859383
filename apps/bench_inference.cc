// Random packed models and their times.
#include "apps/bench_inference.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "core/rng.h"
#include "infer/session.h"
#include "quant/packing.h"

namespace quest::app {
namespace {

// Of the weights' initialization: keeps activations finite.
constexpr float kStep = 0.01f;

double product_seconds(const TimingBackend& backend) {
  return backend.times().seconds[static_cast<std::size_t>(Work::kForwardProduct)];
}

// Random bits by a multiply and a shift: a big model has billions.
void fill_with_bits(std::vector<std::uint64_t>& words) {
  std::uint64_t state = 0x9e3779b97f4a7c15u;
  for (std::uint64_t& word : words) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    word = state ^ state >> 29;
  }
}

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

Tensor RandomPackedTensors::add(const std::string& name, const Shape& shape, DType dtype) {
  const auto bytes = static_cast<std::size_t>(shape.numel()) * size_bytes(dtype);
  memory_.emplace_back(bytes / 8 + 1);
  return tensors_[name] = Tensor(memory_.back().data(), shape, dtype);
}

RandomPackedTensors::RandomPackedTensors(const ModelDescription& description) {
  const auto norm = [&](const std::string& name) {
    fill_floats(add(name, {description.config.width}, DType::kF32), 1.0f, false);
  };
  for (std::int64_t layer = 0; layer < description.config.layers; ++layer) {
    norm(fmt::format("model.layers.{}.input_layernorm.weight", layer));
    norm(fmt::format("model.layers.{}.post_attention_layernorm.weight", layer));
  }
  norm("model.norm.weight");
  const auto matrix = [&](const StoredMatrix& stored) {
    const Shape shape{stored.rows, stored.columns};
    if (stored.bits > kMaxBits) {
      const DType dtype = stored.bits == 16 ? DType::kBF16 : DType::kF32;
      const Tensor dense = add(stored.weight_name(), shape, dtype);
      fill_floats(dense, 2 * kStep, true);
      return static_cast<double>(dense.bytes());
    }
    const std::int64_t row_bytes = packed_row_bytes(stored.columns, stored.bits);
    const Tensor codes = add(stored.name + ".codes", {stored.rows, row_bytes}, DType::kU8);
    fill_with_bits(memory_.back());
    const std::int64_t used = stored.columns * stored.bits % 8;
    for (std::int64_t r = 0; used != 0 && r < stored.rows; ++r) {
      codes.row<std::uint8_t>(r)[row_bytes - 1] &= static_cast<std::uint8_t>((1 << used) - 1);
    }
    fill_floats(add(stored.name + ".scales", {stored.rows}, DType::kF32), kStep, false);
    return static_cast<double>(codes.bytes());
  };
  matrix(stored_embedding(description));
  for (const StoredMatrix& stored : stored_matrices(description)) decode_bytes_ += matrix(stored);
}

InferenceTimes time_inference(TimingBackend& backend, const PackedModel& model,
                              std::int64_t prefill_tokens, std::int64_t decode_tokens,
                              std::int64_t repetitions) {
  using Clock = std::chrono::steady_clock;
  const auto seconds_since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  Rng rng(2, RngPurpose::kTest);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(prefill_tokens));
  for (std::int32_t& token : tokens) {
    token = static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(model.config().vocab)));
  }
  Session session(model, {.chunk = prefill_tokens});
  InferenceTimes times;
  for (std::int64_t repetition = 0; repetition <= repetitions; ++repetition) {
    session.truncate(0);
    backend.reset_times();
    Clock::time_point start = Clock::now();
    session.prefill(tokens);
    const double prefill = seconds_since(start);
    const double prefill_product = product_seconds(backend);

    session.truncate(0);
    session.decode(tokens[0]);
    session.truncate(0);
    backend.reset_times();
    start = Clock::now();
    for (std::int64_t i = 0; i < decode_tokens; ++i) {
      session.decode(tokens[static_cast<std::size_t>(i % prefill_tokens)]);
    }
    const double decode = seconds_since(start);
    if (repetition == 0) continue;  // a warm-up
    times.prefill.push_back(prefill);
    times.decode.push_back(decode);
    times.prefill_product.push_back(prefill_product);
    times.decode_product.push_back(product_seconds(backend));
  }
  return times;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 != 0 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

}  // namespace quest::app
