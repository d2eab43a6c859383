// Export: a trained model as a folder for users, in its trained bits or as plain dense weights.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "data/tokenizer.h"
#include "model/model.h"
#include "model/model_file.h"

namespace quest {

/// What goes with the weights: how texts become tokens and, where that is known, how the turns of a
/// conversation are written (`chat_template`, see chat_template.h).
struct ExportTexts {
  const Tokenizer& tokenizer;
  std::optional<std::string> chat_template = {};
};

/// Writes `folder` with the codes that training computes from the model's weights, packed, as
/// docs/format.md describes; matrices that no scheme quantizes get the bits of `bits`. The folder
/// must be absent or empty, and appears as NewFolder says. Throws Error when it cannot be written
/// or a weight is not finite.
void export_packed(const Model& model, const ExportTexts& texts, const StoredBits& bits,
                   const std::filesystem::path& folder);

/// As above, as a plain Hugging Face Llama: BF16 weights, quantized values rotated back into the
/// domain of the input, rotary pairs in the order (i, i + D/2). Quantized inputs are no part of
/// that format: who loads it computes with inputs in full precision.
void export_hugging_face(const Model& model, const ExportTexts& texts,
                         const std::filesystem::path& folder);

}  // namespace quest
