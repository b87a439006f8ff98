// An adapter merged into its base model, saved as a folder, and measured as it was written: whether the fused
// model still says what base and adapter say (DESIGN.md, rule 8).
// Dims: T sampled tokens, V vocab_size.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace temper {

// How the weights' tensors are named and laid out: the hub's way loads in transformers and mlx-lm, mlx-lm's own
// in mlx-lm alone.
enum class FolderLayout { hub, mlx };

struct FuseOptions {
  std::filesystem::path model;
  std::filesystem::path adapter;
  std::filesystem::path out;               // must not exist, or be an empty folder
  std::string dtype = "auto";              // of the weights written; auto: as the base stores each
  std::string compute_dtype = "auto";      // of the comparison; as load_model() takes it
  bool quantize_again = false;             // pack what the base had packed, as it had it; layout mlx
  FolderLayout layout = FolderLayout::hub; // of unpacked weights
  std::vector<std::string> texts{};        // to compare on; none: sample_texts()
  bool force = false;                      // write a fuse that lost the adapter too
  std::function<bool()> cancelled{};       // asked between stages and tensors; true ends with FuseCancelled
};

struct FuseCancelled {};

// |logits - other logits| over [T, V].
struct LogitDifference {
  double largest = 0;
  double mean = 0;
};

struct FuseReport {
  int merged_layers = 0;    // with factors
  int replaced_tensors = 0; // trained whole
  std::string dtype;        // of the weights written, as config.json says
  bool quantized = false;
  int sample_tokens = 0;
  LogitDifference adapter; // base and base + adapter: what the adapter does
  LogitDifference fused;   // base + adapter and the fused model as written: what fusing did to it
  // 1 - |fused - tuned| / |tuned - base|, Euclidean norms over all logits: 1, all of the adapter's effect is
  // there; 0, the base is as near to base + adapter as the fused model is. None: the adapter has no effect.
  std::optional<double> survival;

  bool good() const;
};

// The share of the effect that has to survive.
constexpr double kLeastSurvival = 0.5;

// A few sentences in several languages, and code.
const std::vector<std::string>& sample_texts();

// At most this many tokens are compared, all texts taken together.
constexpr int kMostSampleTokens = 256;

// Evaluating. Writes beside `out` and renames once all is well; nothing is left if it throws. Warns of an
// adapter without effect, and of a forced fuse. Throws ConfigError if `out` is taken or there is nothing to
// quantize again, ModelError if the fused model lost the adapter (unless forced) or the adapter is another
// model's, CheckpointError, IoError.
FuseReport fuse_model(const FuseOptions& options);

} // namespace temper
