// Packed models: which tensors there are, their checks, and the model over them.
#include "model/packed_model.h"

#include <cassert>
#include <cmath>
#include <cstring>
#include <set>
#include <span>
#include <vector>

#include "core/error.h"
#include "quant/packing.h"

namespace quest {
namespace {

std::string without_weight(const std::string& tensor_name) {
  return tensor_name.substr(0, tensor_name.size() - std::strlen(".weight"));
}

LinearScheme scheme_of_head(const ModelDescription& description) {
  return description.scheme.for_layer("head", LinearScheme());
}

// The head reads the embedding's tensors.
bool shares_embedding(const ModelDescription& description) {
  return description.config.tied_head && !scheme_of_head(description).quantized() &&
         description.packed->embedding == description.packed->head;
}

StoredMatrix stored(const LinearPart& part, std::int64_t columns, LinearScheme scheme,
                    int unquantized_bits) {
  if (!scheme.weight.quantized() && unquantized_bits <= kMaxBits) {
    scheme.weight = {.bits = unquantized_bits};
  }
  const bool codes = scheme.weight.quantized();
  return {without_weight(part.tensor_name),
          scheme,
          codes ? scheme.weight.bits : unquantized_bits,
          part.rows,
          columns,
          codes && scheme.transform == Transform::kHadamard ? hadamard_block(columns) : 1};
}

// Takes tensors out of a file: checks them, and lays what has to be derived into an arena, which
// may be a measuring one. Of a device with its own memory the arena holds all of them.
class Reader {
 public:
  Reader(const PackedTensors& file, Backend& backend, Arena& arena)
      : file_(file), backend_(backend), arena_(arena) {}

  PackedPart matrix(const StoredMatrix& matrix) { return matrices({&matrix, 1}).front(); }

  /// Those of one linear layer. Their steps and sums lie beside each other, as their codes do in
  /// files of `quest export`, so that the layer can take them for one matrix.
  std::vector<PackedPart> matrices(std::span<const StoredMatrix> stored) {
    std::int64_t rows = 0;
    for (const StoredMatrix& matrix : stored) rows += matrix.bits > kMaxBits ? 0 : matrix.rows;
    const Tensor steps = arena_.take({rows}, DType::kF32);
    const Tensor sums = arena_.take({rows}, DType::kI32);
    std::vector<PackedPart> parts;
    std::int64_t begin = 0;
    for (const StoredMatrix& matrix : stored) {
      const std::int64_t end = matrix.bits > kMaxBits ? begin : begin + matrix.rows;
      parts.push_back(part(matrix, slice(steps, begin, end), slice(sums, begin, end)));
      begin = end;
    }
    return parts;
  }

  /// A small f32 tensor, copied.
  Tensor copied(const std::string& name, const Shape& shape, bool positive) {
    const Tensor copy = arena_.take(shape, DType::kF32);
    copy_to(copy, name, positive);
    return copy;
  }

  /// Dense weights of a product in `compute`. Those of f32 are rounded beside inputs of bf16, once
  /// and for any number of rows, as in training.
  Tensor rounded(const Tensor& dense, DType compute) {
    if (dense.dtype != DType::kF32 || compute != DType::kBF16) return dense;
    const Tensor copy = arena_.take(dense.shape, compute);
    if (!arena_.measuring()) backend_.cast(copy, dense);
    return copy;
  }

  /// Throws Error when the file has tensors that were not asked for.
  void refuse_others() const {
    for (const auto& [name, tensor] : file_.tensors) {
      if (used_.count(name) != 0) continue;
      fail("{}: tensor '{}' is no part of the model that config.json describes", file_.where, name);
    }
  }

 private:
  // Of a measuring arena's tensors there is only the shape.
  Tensor slice(Tensor all, std::int64_t begin, std::int64_t end) const {
    return arena_.measuring() ? Tensor(nullptr, {end - begin}, all.dtype)
                              : all.rows_slice(begin, end);
  }

  PackedPart part(const StoredMatrix& matrix, Tensor steps, Tensor code_sums) {
    PackedPart part{matrix.scheme, {}, {}, matrix.block};
    if (matrix.bits > kMaxBits) {
      const Tensor dense =
          tensor(matrix.weight_name(), matrix.bits == 16 ? DType::kBF16 : DType::kF32,
                 {matrix.rows, matrix.columns});
      check_aligned(dense, matrix.weight_name());
      part.dense = on_device(dense);
      return part;
    }
    const std::int64_t row_bytes = packed_row_bytes(matrix.columns, matrix.bits);
    const Tensor codes = tensor(matrix.name + ".codes", DType::kU8, {matrix.rows, row_bytes});
    part.rows.codes = on_device(codes);
    part.rows.bits = matrix.bits;
    part.rows.columns = matrix.columns;
    part.rows.steps = steps;
    part.rows.code_sums = code_sums;
    copy_to(steps, matrix.name + ".scales", /*positive=*/true);
    if (!arena_.measuring()) sum_codes(part.rows, codes, matrix.name);
    return part;
  }

  void copy_to(Tensor copy, const std::string& name, bool positive) {
    const Tensor found = tensor(name, DType::kF32, copy.shape);
    if (arena_.measuring()) return;
    std::vector<float> values(static_cast<std::size_t>(found.numel()));
    std::memcpy(values.data(), found.data, found.bytes());  // which may lie at an odd address
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (std::isfinite(values[i]) && (!positive || values[i] > 0.0f)) continue;
      fail("{}: element {} of '{}' is {}, but must be a finite{} number", file_.where, i, name,
           values[i], positive ? ", positive" : "");
    }
    backend_.copy(copy, view_of(values.data(), copy.shape));
  }

  Tensor tensor(const std::string& name, DType dtype, const Shape& shape) {
    const auto found = file_.tensors.find(name);
    if (found == file_.tensors.end()) fail("{} has no tensor '{}'", file_.where, name);
    used_.insert(name);
    if (found->second.dtype == dtype && found->second.shape == shape) return found->second;
    fail("{}: tensor '{}' is {} {}, but config.json asks for {} {}", file_.where, name,
         quest::name(found->second.dtype), found->second.shape.to_string(), quest::name(dtype),
         shape.to_string());
  }

  // A tensor of the file where kernels read it: in its place, or copied.
  Tensor on_device(const Tensor& tensor) {
    if (backend_.place() == Place::kHost) return tensor;
    const Tensor copy = arena_.take(tensor.shape, tensor.dtype);
    if (!arena_.measuring()) backend_.copy(copy, tensor);
    return copy;
  }

  void check_aligned(const Tensor& tensor, const std::string& name) const {
    if (reinterpret_cast<std::uintptr_t>(tensor.data) % size_bytes(tensor.dtype) == 0) return;
    fail(
        "{}: tensor '{}' does not start at a multiple of its elements' size; write the tensors of "
        "wider types first",
        file_.where, name);
  }

  void sum_codes(const PackedRows& rows, const Tensor& codes, const std::string& name) const {
    std::vector<std::int32_t> sums(static_cast<std::size_t>(codes.rows()));
    for (std::int64_t r = 0; r < codes.rows(); ++r) {
      const std::uint8_t* const row = codes.row<std::uint8_t>(r);
      if (!packed_tail_is_zero(row, rows.columns, rows.bits)) {
        fail("{}: row {} of '{}.codes' has bits set after its last code", file_.where, r, name);
      }
      sums[static_cast<std::size_t>(r)] = packed_code_sum(row, rows.columns, rows.bits);
    }
    backend_.copy(rows.code_sums, view_of(sums.data(), rows.code_sums.shape));
  }

  const PackedTensors& file_;
  Backend& backend_;
  Arena& arena_;
  std::set<std::string> used_;
};

// Tells each linear layer which one follows it.
void link(LlamaParts<PackedLinear>& parts) {
  PackedLinear* last = nullptr;
  const auto follow = [&](PackedLinear& linear) {
    if (last != nullptr) last->is_followed_by(linear);
    last = &linear;
  };
  for (Block<PackedLinear>& block : parts.blocks) {
    for (PackedLinear* linear : {&block.qkv, &block.out, &block.gate_up, &block.down}) {
      follow(*linear);
    }
  }
  follow(parts.head);
}

LlamaParts<PackedLinear> read_parts(const ModelDescription& description, const PackedTensors& file,
                                    DType compute, Backend& backend, Arena& arena) {
  const ModelConfig& c = description.config;
  Reader reader(file, backend, arena);
  const PackedPart table = reader.matrix(stored_embedding(description));
  const std::vector<StoredMatrix> matrices = stored_matrices(description);
  auto next = matrices.begin();
  const auto linear = [&](const LinearLayout& layout) {
    const std::span<const StoredMatrix> stored(next, layout.parts.size());
    next += static_cast<std::ptrdiff_t>(stored.size());
    return PackedLinear(reader.matrices(stored), layout.columns, compute);
  };
  const auto norm = [&](const std::string& name) {
    return reader.copied(name + ".weight", {c.width}, /*positive=*/false);
  };
  std::vector<Block<PackedLinear>> blocks;
  for (std::int64_t layer = 0; layer < c.layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    const Tensor attn_norm = norm(prefix + "input_layernorm");
    PackedLinear qkv = linear(qkv_layout(c, layer));
    PackedLinear out = linear(out_layout(c, layer));
    const Tensor mlp_norm = norm(prefix + "post_attention_layernorm");
    PackedLinear gate_up = linear(gate_up_layout(c, layer));
    PackedLinear down = linear(down_layout(c, layer));
    blocks.push_back({attn_norm,
                      {},
                      std::move(qkv),
                      std::move(out),
                      mlp_norm,
                      {},
                      std::move(gate_up),
                      std::move(down)});
  }
  const Tensor final_norm = norm("model.norm");
  PackedPart head = shares_embedding(description)
                        ? PackedPart{next->scheme, table.rows, table.dense, table.block}
                        : reader.matrix(*next);
  if (!head.rows.codes) head.dense = reader.rounded(head.dense, compute);
  head.rows.approximate = !scheme_of_head(description).weight.quantized();
  reader.refuse_others();
  LlamaParts<PackedLinear> parts{{table.dense, table.rows, table.block},
                                 std::move(blocks),
                                 final_norm,
                                 PackedLinear({head}, c.width, compute)};
  link(parts);
  return parts;
}

}  // namespace

StoredMatrix stored_embedding(const ModelDescription& description) {
  const ModelConfig& c = description.config;
  return stored({"embedding", "model.embed_tokens.weight", c.vocab}, c.width, LinearScheme(),
                description.packed->embedding);
}

std::vector<StoredMatrix> stored_matrices(const ModelDescription& description) {
  const ModelConfig& c = description.config;
  std::vector<StoredMatrix> matrices;
  for (std::int64_t layer = 0; layer < c.layers; ++layer) {
    for (const auto layout_of : {qkv_layout, out_layout, gate_up_layout, down_layout}) {
      const LinearLayout layout = layout_of(c, layer);
      for (const LinearPart& part : layout.parts) {
        matrices.push_back(stored(part, layout.columns, description.scheme.for_layer(part.name),
                                  kUnquantizedBits));
      }
    }
  }
  LinearPart head = head_layout(c).parts[0];
  if (shares_embedding(description)) head.tensor_name = "model.embed_tokens.weight";
  matrices.push_back(stored(head, c.width, scheme_of_head(description), description.packed->head));
  return matrices;
}

PackedModel::PackedModel(Backend& backend, const ModelDescription& description,
                         const PackedTensors& file, DType compute)
    : LlamaModel(backend) {
  assert(description.packed);
  const auto build = [&](Arena& arena) {
    return std::make_unique<Llama<PackedLinear>>(
        description.config, description.scheme, compute,
        read_parts(description, file, compute, backend, arena), arena);
  };
  Arena measuring;
  build(measuring);
  memory_ = Arena(backend, measuring.used_bytes());
  llama_ = build(memory_);
}

}  // namespace quest
