// The one list of settings: names, help, bounds and the value that each stands for.
#include "apps/settings.h"
#include "model/limits.h"

namespace quest::app {
namespace {

using S = TrainSettings;
using Text = std::string;
using Int = std::int64_t;
constexpr Range kPositive{.low = 0, .low_open = true};
constexpr Range kNotNegative{.low = 0};
constexpr Range kFromOne{.low = 1};
constexpr Range kCount{.low = 1, .high = kMostCount};
constexpr Range kShare{.low = 0, .high = 1};
constexpr Range kBelowOne{.low = 0, .high = 1, .high_open = true};
constexpr Range kBetweenZeroAndOne{.low = 0, .high = 1, .low_open = true, .high_open = true};
constexpr Range kAboveOne{.low = 1, .low_open = true};

// From `low`, which is 0 where that stands for a derived value.
constexpr Range up_to(double low, std::int64_t high) {
  return {.low = low, .high = static_cast<double>(high)};
}

std::vector<Setting> model_settings() {
  return {
      {"model.preset", "--preset", "NAME", true,
       "shape: nano, micro, mini, 30M, 50M, 100M, 200M, 430M or 800M",
       [](S& s) -> Text& { return s.model.preset; }},
      {"model.layers", "--layers", "N", false, "number of blocks",
       [](S& s) -> Int& { return s.model.layers; }, up_to(1, kMostLayers)},
      {"model.width", "--width", "N", false, "width of the residual stream",
       [](S& s) -> Int& { return s.model.width; }, up_to(1, kMostInputs)},
      {"model.heads", "--heads", "N", false, "attention heads",
       [](S& s) -> Int& { return s.model.heads; }, up_to(1, kMostHeads)},
      {"model.kv_heads", "--kv-heads", "N", false, "key and value heads; 0: as many as heads",
       [](S& s) -> Int& { return s.model.kv_heads; }, up_to(0, kMostHeads)},
      {"model.head_dim", "--head-dim", "N", false, "size of a head; 0: width / heads",
       [](S& s) -> Int& { return s.model.head_dim; }, up_to(0, kMostInputs)},
      {"model.hidden", "--hidden", "N", false, "width of the MLP; 0: 8/3 width, rounded up to 256",
       [](S& s) -> Int& { return s.model.hidden; }, up_to(0, kMostInputs)},
      {"model.vocab", "--vocab", "N", false, "vocabulary; 0: what the tokenizer has",
       [](S& s) -> Int& { return s.model.vocab; }, up_to(0, kMostVocab)},
      {"model.tied_head", "--tied-head", "", false, "share the embedding with the head",
       [](S& s) -> bool& { return s.model.tied_head; }},
      {"model.rope_layout",
       "--rope-layout",
       "NAME",
       false,
       "rotary pairs (2i, 2i+1) or halves",
       [](S& s) -> Text& { return s.model.rope_layout; },
       {},
       {"interleaved", "half"}},
      {"model.rope_theta", "--rope-theta", "X", false, "base of the rotary frequencies",
       [](S& s) -> double& { return s.model.rope_theta; }, kAboveOne},
      {"model.norm_eps", "--norm-eps", "X", false, "epsilon of the RMS norms",
       [](S& s) -> double& { return s.model.norm_eps; }, kBetweenZeroAndOne},
  };
}

std::vector<Setting> scheme_and_data_settings() {
  return {
      {"scheme.default", "--scheme", "S", true, "bits: none, w4a4, w2a16, w1a1, w4a4 ste none",
       [](S& s) -> Text& { return s.scheme.base; }},
      {"scheme.layers", "--scheme-layer", "P=S", false,
       "another scheme for the layers that match P; repeat it",
       [](S& s) -> std::vector<Text>& { return s.scheme.layers; }},
      {"data.train", "--data", "GLOB|DIR", true, "text files or token shards to train on",
       [](S& s) -> Text& { return s.data.train; }},
      {"data.valid", "--val-data", "GLOB|DIR", true, "the same, for validation",
       [](S& s) -> Text& { return s.data.valid; }},
      {"data.tokenizer", "--tokenizer", "bytes|FILE", true, "how text becomes tokens",
       [](S& s) -> Text& { return s.data.tokenizer; }},
      {"data.order", "--order", "FILE", false,
       "safetensors file with the windows to read, in order",
       [](S& s) -> Text& { return s.data.order; }},
  };
}

std::vector<Setting> length_settings() {
  return {
      {"train.steps",
       "--steps",
       "N",
       true,
       "length of the run; or use --tokens or --epochs; 0 and none of them: one epoch",
       [](S& s) -> Int& { return s.train.steps; },
       {.low = 0, .high = kMostCount}},
      {"train.tokens",
       "--tokens",
       "N",
       true,
       "length in tokens (3e9 is read as a whole number)",
       [](S& s) -> Int& { return s.train.tokens; },
       {.low = 0, .high = kMostRunTokens}},
      {"train.epochs", "--epochs", "X", false, "length in passes over the data",
       [](S& s) -> double& { return s.train.epochs; }, kNotNegative},
      {"train.batch_size", "--batch-size", "N", true, "windows a micro-batch",
       [](S& s) -> Int& { return s.train.batch_size; }, kCount},
      {"train.grad_accum", "--grad-accum", "N", true, "micro-batches a step",
       [](S& s) -> Int& { return s.train.grad_accum; }, kCount},
      {"train.seq_len", "--seq-len", "N", true, "tokens a window",
       [](S& s) -> Int& { return s.train.seq_len; }, up_to(1, kMostPositions)},
  };
}

std::vector<Setting> optimizer_settings() {
  return {
      {"train.lr", "--lr", "X", true, "peak learning rate",
       [](S& s) -> double& { return s.train.lr; }, kPositive},
      {"train.warmup", "--warmup", "X|N", false, "0.1: a tenth of the run; 200: that many steps",
       [](S& s) -> FractionOrSteps& { return s.train.warmup; }},
      {"train.schedule",
       "--schedule",
       "NAME",
       false,
       "shape of the learning rate",
       [](S& s) -> Text& { return s.train.schedule; },
       {},
       {"cosine", "wsd", "linear", "constant"}},
      {"train.final_lr_fraction", "--final-lr-fraction", "X", false, "last rate / peak rate",
       [](S& s) -> double& { return s.train.final_lr_fraction; }, kShare},
      {"train.weight_decay", "--weight-decay", "X", false, "AdamW decay of quantized matrices",
       [](S& s) -> double& { return s.train.weight_decay; }, kNotNegative},
      {"train.beta1", "--beta1", "X", false, "AdamW, first moment",
       [](S& s) -> double& { return s.train.beta1; }, kBelowOne},
      {"train.beta2", "--beta2", "X", false, "AdamW, second moment",
       [](S& s) -> double& { return s.train.beta2; }, kBelowOne},
      {"train.adam_eps", "--adam-eps", "X", false, "AdamW, epsilon",
       [](S& s) -> double& { return s.train.adam_eps; }, kPositive},
      {"train.grad_clip", "--grad-clip", "X", false, "largest global gradient norm; 0: no clip",
       [](S& s) -> double& { return s.train.grad_clip; }, kNotNegative},
      {"train.optimizer_bits",
       "--optimizer-bits",
       "N",
       false,
       "bits of AdamW's two moments: 32, 16 (bf16) or 8 (with a scale for 256 values)",
       [](S& s) -> Text& { return s.train.optimizer_bits; },
       {},
       {"32", "16", "8"}},
      {"train.recompute",
       "--recompute",
       "NAME",
       false,
       "what backward makes again to save memory: none, inputs of layers (norm), or block",
       [](S& s) -> Text& { return s.train.recompute; },
       {},
       {"none", "norm", "block"}},
      {"train.backward",
       "--backward",
       "NAME",
       false,
       "products of the gradients where those of the layer are of integers: floats, or integers "
       "too",
       [](S& s) -> Text& { return s.train.backward; },
       {},
       {"float", "int8"}},
      {"train.seed", "--seed", "N", true, "seed of the initial weights and of --backward int8",
       [](S& s) -> Int& { return s.train.seed; }, kNotNegative},
      {"train.data_seed", "--data-seed", "N", false, "seed of the order of the data",
       [](S& s) -> Int& { return s.train.data_seed; }, kNotNegative},
      {"train.init", "--init", "PATH", false, "start from these weights (folder or safetensors)",
       [](S& s) -> Text& { return s.train.init; }},
  };
}

std::vector<Setting> event_settings() {
  return {
      {"train.eval_every", "--eval-every", "N", false, "steps between validations; 0: at the end",
       [](S& s) -> Int& { return s.train.eval_every; }, kNotNegative},
      {"train.sample_every", "--sample-every", "N", false, "steps between samples; 0: none",
       [](S& s) -> Int& { return s.train.sample_every; }, kNotNegative},
      {"train.sample_prompt", "--sample-prompt", "TEXT", false, "what the samples continue",
       [](S& s) -> Text& { return s.train.sample_prompt; }},
      {"train.sample_tokens", "--sample-tokens", "N", false, "length of a sample",
       [](S& s) -> Int& { return s.train.sample_tokens; }, kCount},
      {"train.save_every", "--save-every", "N", false, "steps between checkpoints; 0: at the end",
       [](S& s) -> Int& { return s.train.save_every; }, kNotNegative},
      {"train.keep_last", "--keep-last", "N", false, "checkpoints that are kept",
       [](S& s) -> Int& { return s.train.keep_last; }, kFromOne},
      {"train.log_every", "--log-every", "N", false, "steps between lines of the log",
       [](S& s) -> Int& { return s.train.log_every; }, kFromOne},
  };
}

std::vector<Setting> run_settings() {
  return {
      {"run.out", "--out", "DIR", true, "folder of the run: checkpoints, log, config",
       [](S& s) -> Text& { return s.run.out; }},
      {"run.resume", "--resume", "", true, "go on from the newest complete checkpoint in --out",
       [](S& s) -> bool& { return s.run.resume; }},
      {"run.overwrite", "--overwrite", "", true, "replace the run that is in --out",
       [](S& s) -> bool& { return s.run.overwrite; }},
      {"run.threads",
       "--threads",
       "N",
       true,
       "threads; 0: one a core",
       [](S& s) -> Int& { return s.run.threads; },
       {.low = 0, .high = 1024}},
      {"run.device", "--device", "NAME", false,
       "cpu, cuda or cuda:N (not yet run on a GPU: docs/cuda.md), or reference: slow plain loops",
       [](S& s) -> Text& { return s.run.device; }},
      {"run.dtype",
       "--dtype",
       "NAME",
       true,
       "operands of the products that are not quantized",
       [](S& s) -> Text& { return s.run.dtype; },
       {},
       {"f32", "bf16"}},
      {"run.dry_run", "--dry-run", "", true, "print what would be done and what it needs",
       [](S& s) -> bool& { return s.run.dry_run; }},
  };
}

std::vector<Setting> make_list() {
  std::vector<Setting> list;
  for (auto part : {model_settings, scheme_and_data_settings, length_settings, optimizer_settings,
                    event_settings, run_settings}) {
    std::vector<Setting> settings = part();
    list.insert(list.end(), settings.begin(), settings.end());
  }
  return list;
}

}  // namespace

std::span<const Setting> all_settings() {
  static const std::vector<Setting> list = make_list();
  return list;
}

}  // namespace quest::app
