// PEFT's adapter_config.json, read as PEFT 0.21 reads it: which modules a LoRA is on, and its rank and scale
// there. Format: docs/formats/adapters.md; source: PEFT's LoraConfig and its matching of module names
// (tuners_utils, get_pattern_key).
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <regex>
#include <string>
#include <utility>
#include <vector>

#include "temper/base/json.h"
#include "temper/nn/lora.h"

namespace temper {

// Regular expressions for modules' names, each compiled once: there are as many names to ask for as layers.
class NamePatterns {
 public:
  // `origin` is what errors name.
  explicit NamePatterns(std::string origin) : origin_(std::move(origin)) {
  }
  // Throw CheckpointError if `pattern` is none.
  const std::regex& of(const std::string& pattern);
  bool match(const std::string& pattern, const std::string& name); // the whole of it
  const std::string& origin() const {
    return origin_;
  }

 private:
  std::string origin_;
  std::map<std::string, std::regex> compiled_;
};

// For one thread at a time.
class PeftConfig {
 public:
  // Whether `config` is PEFT's.
  static bool describes(const Json& config);

  // Throws CheckpointError, with `origin`, naming a key that is missing or of another kind, and one that asks
  // for what Temper does not compute; warns by name of keys that it does not know.
  PeftConfig(Json config, std::string origin);

  // Modules are called as on the hub: "model.layers.0.self_attn.q_proj". Throw CheckpointError for a pattern
  // that is no regular expression.
  bool adapts(const std::string& module) const;
  bool saves(const std::string& module) const;
  LayerRank of(const std::string& module) const;

  // Rank, scale, dropout and DoRA without patterns.
  const LoraConfig& lora() const {
    return lora_;
  }
  // Whether what is on a tied embedding is on the head as well.
  bool ties() const {
    return ties_;
  }

 private:
  bool in_layers(const std::string& module) const;
  float scale(double alpha, int rank) const;

  Json config_;
  std::string origin_;
  mutable NamePatterns patterns_;
  LoraConfig lora_;
  double alpha_ = 0;
  bool rslora_ = false;
  bool ties_ = false;
};

// What a PEFT folder says of the base model it was trained on: "base_model_name_or_path", or an empty text.
std::string peft_base_model(const Json& config);

} // namespace temper
