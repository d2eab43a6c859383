// Known answers: quantization, integer products, two training steps and a packed model.
#include "apps/selftest_checks.h"

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/backends.h"
#include "apps/selftest_packed.h"
#include "backend/arena.h"
#include "backend/cpu/isa.h"
#include "core/error.h"
#include "core/file.h"
#include "core/rng.h"
#include "train/trainer.h"

namespace quest::app {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kThreads = 2;
constexpr std::size_t kArenaBytes = std::size_t{4} << 20;

// --- Inputs that are the same to the last bit everywhere: integers, scaled by a power of two ---

/// Sums of uniform integers, about normal with standard deviation 1.2.
void fill_rows(Tensor x, std::uint32_t stream) {
  Rng rng(20250205, RngPurpose::kTest, stream);
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    std::int64_t sum = 0;
    for (int draw = 0; draw < 4; ++draw) sum += static_cast<std::int64_t>(rng.below(1 << 16));
    x.as<float>()[i] = static_cast<float>(sum - (1 << 17)) / 32768.0f;
  }
}

/// Memory of the host for what is drawn and compared there.
class HostArena {
 public:
  explicit HostArena(Backend& device) : device_(device), on_device_(device, kArenaBytes) {}

  Arena& host() { return on_host_; }
  /// The same elements in the device's memory, and back.
  Tensor to_device(Tensor host) {
    const Tensor copy = on_device_.take(host.shape, host.dtype);
    device_.copy(copy, host);
    return copy;
  }
  QuantizedRows to_device(const QuantizedRows& rows) {
    return {to_device(rows.codes), to_device(rows.steps), to_device(rows.code_sums),
            rows.mask ? to_device(rows.mask) : Tensor(), rows.bits};
  }
  void to_host(Tensor host, Tensor device) { device_.copy(host, device); }

 private:
  std::unique_ptr<Backend> host_backend_ = make_reference_backend();
  Backend& device_;
  Arena on_host_{*host_backend_, kArenaBytes};
  Arena on_device_;
};

QuantizedRows take_quantized(Arena& arena, std::int64_t rows, std::int64_t columns, bool mask) {
  QuantizedRows q;
  q.codes = arena.take({rows, columns}, DType::kI8);
  q.steps = arena.take({rows}, DType::kF32);
  q.code_sums = arena.take({rows}, DType::kI32);
  if (mask) q.mask = arena.take({rows, (columns + 7) / 8}, DType::kU8);
  return q;
}

/// Random codes of 8 bits with steps of 2, so that a product is the integer itself.
QuantizedRows random_codes(Arena& arena, std::int64_t rows, std::int64_t columns,
                           std::uint32_t stream) {
  const QuantizedRows q = take_quantized(arena, rows, columns, false);
  Rng rng(20250205, RngPurpose::kTest, stream);
  for (std::int64_t r = 0; r < rows; ++r) {
    std::int32_t sum = 0;
    for (std::int64_t k = 0; k < columns; ++k) {
      const auto code = static_cast<std::int32_t>(rng.below(256)) - 128;
      q.codes.row<std::int8_t>(r)[k] = static_cast<std::int8_t>(code);
      sum += code;
    }
    q.code_sums.as<std::int32_t>()[r] = sum;
    q.steps.as<float>()[r] = 2.0f;
  }
  return q;
}

// --- Checks ---

CheckResult compare_text(std::string check, const std::string& found, const std::string& known) {
  if (found == known) return {std::move(check), true, found};
  return {std::move(check), false, fmt::format("{}, must be {}", found, known)};
}

/// Codes and masks are integers and bits: one wrong one changes the checksum.
CheckResult check_quantizer(Backend& backend) {
  constexpr std::int64_t kRows = 4;
  constexpr std::int64_t kColumns = 384;
  Checksum checksum;
  for (int bits = 1; bits <= 8; ++bits) {
    HostArena memory(backend);
    const Tensor x = memory.host().take({kRows, kColumns}, DType::kF32);
    fill_rows(x, static_cast<std::uint32_t>(bits));
    const QuantizedRows q = take_quantized(memory.host(), kRows, kColumns, true);
    const QuantizedRows made = memory.to_device(q);
    const LinearScheme scheme = LinearScheme::parse(fmt::format("w{0}a{0}", bits));
    backend.quantize_rows(made, memory.to_device(x),
                          RowQuantizer::make(scheme.weight, scheme.transform, kColumns));
    memory.to_host(q.codes, made.codes);
    memory.to_host(q.mask, made.mask);
    memory.to_host(q.code_sums, made.code_sums);
    checksum.update(q.codes.data, q.codes.bytes());
    checksum.update(q.mask.data, q.mask.bytes());
    checksum.update(q.code_sums.data, q.code_sums.bytes());
  }
  return compare_text("codes and masks of 1 to 8 bits", checksum.hex(), "23b0bc27dd2b76ea");
}

/// Few rows and many rows take different ways through the kernels. Sums stay below 2^24, so f32
/// holds them exactly.
CheckResult check_integer_product(Backend& backend) {
  constexpr std::int64_t kColumns = 250;
  constexpr std::int64_t kOutputs = 43;
  Checksum checksum;
  for (const std::int64_t rows : {3, 70}) {
    HostArena memory(backend);
    const QuantizedRows x = random_codes(memory.host(), rows, kColumns, 100);
    const QuantizedRows w = random_codes(memory.host(), kOutputs, kColumns, 101);
    const Tensor y = memory.host().take({rows, kOutputs}, DType::kF32);
    const Tensor made = memory.to_device(y);
    backend.quantized_matmul(made, memory.to_device(x), memory.to_device(w), Write::kSet);
    memory.to_host(y, made);
    for (std::int64_t i = 0; i < y.numel(); ++i) {
      const auto sum = static_cast<std::int32_t>(y.as<float>()[i]);
      checksum.update(&sum, sizeof sum);
    }
  }
  return compare_text("integer product", checksum.hex(), "e4a3e0c0918fef7f");
}

TrainerConfig tiny_config(const char* scheme, DType compute) {
  TrainerConfig config;
  config.model.layers = 2;
  config.model.width = 64;
  config.model.heads = config.model.kv_heads = 2;
  config.model.head_dim = 32;
  config.model.hidden = 128;
  config.model.vocab = 64;
  config.model.max_positions = config.seq_len = 16;
  config.scheme = Scheme(LinearScheme::parse(scheme));
  config.compute = compute;
  config.batch_size = 3;
  config.schedule = {ScheduleKind::kConstant, 3e-3, 1.0, 0, 3};
  return config;
}

/// The loss after two training steps, which every kernel of training has a part in.
double tiny_loss(Backend& backend, const TrainerConfig& config) {
  Trainer trainer(backend, config, [&](std::int64_t step, std::int64_t, Batch& batch) {
    // Tokens that follow a rule, so that the loss falls at once.
    batch.rows = config.batch_size;
    batch.seq_len = config.seq_len;
    batch.input_tokens.clear();
    batch.target_tokens.clear();
    for (std::int64_t i = 0; i < batch.rows * batch.seq_len; ++i) {
      const auto token = static_cast<std::int32_t>((step + 5 * i) % 16);
      batch.input_tokens.push_back(token);
      batch.target_tokens.push_back((token + 5) % 16);
    }
  });
  trainer.step();
  trainer.step();
  return trainer.step().loss;
}

/// A training run with its loss, as the reference backend computes it, and how far others may be
/// off. In f32 without quantization only the order of sums differs: a few units in the last place
/// of the loss. A quantized value at the border of two cells may take either code, and one other
/// code was seen to move this loss by 4e-4; bf16 operands differ by up to 2^-8 of their value.
struct KnownLoss {
  const char* scheme;
  DType compute;
  double loss;
  double tolerance;
};

constexpr KnownLoss kKnownLosses[] = {
    {"none", DType::kF32, 3.2907658, 1e-5},
    {"w4a4", DType::kF32, 3.3118135, 2e-3},
    {"w1a1", DType::kF32, 3.5048781, 2e-3},
    {"w4a4", DType::kBF16, 3.2948495, 1e-2},
};

CheckResult check_training(Backend& backend, const KnownLoss& known) {
  const double loss = tiny_loss(backend, tiny_config(known.scheme, known.compute));
  const double error = std::abs(loss - known.loss);
  return {fmt::format("two training steps, {} {}", known.scheme,
                      known.compute == DType::kF32 ? "f32" : "bf16"),
          error <= known.tolerance,
          fmt::format("loss {:.7f}, off by {:.1e}, allowed {:.0e}", loss, error, known.tolerance)};
}

void add_result(std::vector<CheckResult>& results, const std::string& name,
                const std::function<CheckResult()>& check) {
  try {
    results.push_back(check());
  } catch (const std::exception& error) {
    results.push_back({name, false, error.what()});
  }
}

// --- A process for each backend ---

std::unique_ptr<Backend> make_named_backend(const std::string& name) {
  if (!name.starts_with("cpu ")) return make_backend(name, kThreads);
  ::setenv("QUEST_ISA", name.substr(name.find(' ') + 1).c_str(), 1);
  return make_cpu_backend(kThreads);
}

/// What the child process writes to the pipe.
std::string checks_as_json(const std::string& name) {
  Json list = Json::array();
  try {
    const std::unique_ptr<Backend> backend = make_named_backend(name);
    for (const CheckResult& result : run_checks(*backend)) {
      list.push_back({result.check, result.passed, result.detail});
    }
  } catch (const std::exception& error) {
    list.push_back({"start", false, error.what()});
  }
  return list.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string read_to_end(int descriptor) {
  std::string text;
  std::array<char, 4096> buffer;
  for (ssize_t got = 0; (got = ::read(descriptor, buffer.data(), buffer.size())) != 0;) {
    if (got > 0) text.append(buffer.data(), static_cast<std::size_t>(got));
    if (got < 0 && errno != EINTR) break;
  }
  return text;
}

[[noreturn]] void write_and_exit(int descriptor, const std::string& text) {
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t wrote = ::write(descriptor, text.data() + done, text.size() - done);
    if (wrote <= 0) ::_exit(1);
    done += static_cast<std::size_t>(wrote);
  }
  ::_exit(0);
}

}  // namespace

std::vector<CheckResult> run_checks(Backend& backend) {
  std::vector<CheckResult> results;
  add_result(results, "codes and masks", [&] { return check_quantizer(backend); });
  add_result(results, "integer product", [&] { return check_integer_product(backend); });
  for (const KnownLoss& known : kKnownLosses) {
    add_result(results, fmt::format("two training steps, {}", known.scheme),
               [&] { return check_training(backend, known); });
  }
  add_result(results, "logits of a packed model", [&] { return check_packed_model(backend); });
  return results;
}

std::vector<CheckResult> run_checks_apart(const std::string& backend) {
  int ends[2];
  if (::pipe(ends) != 0) fail("cannot open a pipe: {}", std::strerror(errno));
  const pid_t child = ::fork();
  if (child < 0) fail("cannot start a process: {}", std::strerror(errno));
  if (child == 0) {
    ::close(ends[0]);
    write_and_exit(ends[1], checks_as_json(backend));
  }
  ::close(ends[1]);
  const std::string text = read_to_end(ends[0]);
  ::close(ends[0]);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFSIGNALED(status)) {
    return {{"runs to its end", false, fmt::format("died of: {}", strsignal(WTERMSIG(status)))}};
  }
  const Json list = Json::parse(text, nullptr, false);
  if (!list.is_array()) return {{"runs to its end", false, "it gave no results"}};
  std::vector<CheckResult> results;
  for (const Json& item : list) {
    results.push_back(
        {item[0].get<std::string>(), item[1].get<bool>(), item[2].get<std::string>()});
  }
  return results;
}

std::vector<std::string> backends_here() {
  std::vector<std::string> names{"reference"};
  for (const Isa isa : available_isas()) names.push_back(fmt::format("cpu {}", isa_name(isa)));
  return names;
}

}  // namespace quest::app
