// The flags that eval, generate and chat share: which model answers, and how its tokens are chosen.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/args.h"
#include "temper/infer/generate.h"
#include "temper/infer/model_view.h"
#include "temper/text/tokenizer.h"

namespace temper::cli {

struct ModelFlags {
  std::string model;    // a folder, or a name on the hub
  std::string revision; // of the latter
  std::string adapter;
  std::string dtype = "auto";

  void add_to(Args& args);
};

struct ModelName {
  std::string name;     // a folder, or a name on the hub
  std::string revision; // of the latter
};

// The model of the run that made the adapter; empty if its config does not say.
ModelName base_model_of(const std::string& adapter);

struct LoadedModel {
  Model model;
  std::optional<Adapter> adapter;
  std::shared_ptr<const Tokenizer> tokenizer;

  ModelView view() const;
};

// Called before the weights are read, with config.json: what the tokenizer alone can tell need not wait.
using BeforeWeights =
    std::function<void(const Tokenizer& tokenizer, const DecoderSpec& spec, const Json& config)>;

// Readies the device and loads what the flags name; the model that an adapter was trained on, if they name
// none. Throws ConfigError, ModelError, CheckpointError, IoError.
LoadedModel load(const ModelFlags& flags, const BeforeWeights& before_weights = nullptr);

struct SamplingFlags {
  double temperature = 0.0;
  double top_p = 1.0;
  int top_k = 0;
  double min_p = 0.0;
  double repetition_penalty = 0.0;
  int repetition_context = 20;
  std::uint64_t seed = 0;
  int max_tokens = 256;
  std::vector<std::string> stop;
  int prefill_chunk = 512;

  void add_to(Args& args);
  // Ended by interrupt_signal() if it is caught.
  GenerationOptions options() const;
};

// The speeds and the peak memory of an answer, as lines for people and as JSON's keys.
std::string describe_speed(const GenerationResult& result);
Json result_json(const GenerationResult& result);

} // namespace temper::cli
