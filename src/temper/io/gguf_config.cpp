#include "temper/io/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>

#include "temper/base/error.h"
#include "temper/io/gguf_tensors.h"
#include "temper/nn/rope.h"

namespace temper {
namespace {

// The metadata of one architecture.
class Settings {
 public:
  explicit Settings(const GgufHeader& header) : header_(header) {
    const auto* arch = header.text("general.architecture");
    if (arch == nullptr) {
      fail("general.architecture is missing: it is no model");
    }
    arch_ = *arch;
  }

  const std::string& arch() const {
    return arch_;
  }
  const GgufHeader& header() const {
    return header_;
  }
  std::string key(const std::string& name) const {
    return arch_ + "." + name;
  }

  std::int64_t integer(const std::string& name) const {
    const auto value = header_.integer(key(name));
    if (!value) {
      fail("metadata key " + key(name) + " is missing");
    }
    return *value;
  }
  std::int64_t integer(const std::string& name, std::int64_t fallback) const {
    return header_.integer(key(name)).value_or(fallback);
  }
  double number(const std::string& name, double fallback) const {
    return header_.number(key(name)).value_or(fallback);
  }
  bool has(const std::string& name) const {
    return header_.find(key(name)) != nullptr;
  }
  bool is_list(const std::string& name) const {
    const auto* value = header_.find(key(name));
    return value != nullptr && std::holds_alternative<GgufArray>(*value);
  }
  std::vector<std::int64_t> list(const std::string& name) const {
    return header_.integers(key(name)).value_or(std::vector<std::int64_t>());
  }
  // One number for all layers, or one for each; those of 0 are layers without.
  std::int64_t same_for_all(const std::string& name, std::int64_t fallback) const {
    if (!is_list(name)) {
      return integer(name, fallback);
    }
    std::int64_t found = 0;
    for (const auto value : list(name)) {
      if (value != 0 && found != 0 && value != found) {
        fail("metadata key " + key(name) + " differs between layers, which no family here has");
      }
      found = value != 0 ? value : found;
    }
    return found;
  }
  // A list of booleans, or of integers for them; empty: there is none.
  std::vector<bool> flags(const std::string& name) const {
    const auto* value = header_.find(key(name));
    const auto* array = value == nullptr ? nullptr : std::get_if<GgufArray>(value);
    if (array == nullptr) {
      return {};
    }
    if (const auto* found = std::get_if<std::vector<bool>>(array)) {
      return *found;
    }
    const auto numbers = list(name);
    return {numbers.begin(), numbers.end()};
  }
  // Of each layer whether it slides, if the file says so.
  std::vector<bool> sliding(std::int64_t num_layers) const {
    auto result = flags("attention.sliding_window_pattern");
    if (!has("attention.sliding_window_pattern")) {
      return result;
    }
    if (!is_list("attention.sliding_window_pattern")) {
      const auto period = integer("attention.sliding_window_pattern");
      for (std::int64_t i = 0; period > 0 && i < num_layers; ++i) {
        result.push_back((i + 1) % period != 0);
      }
    }
    if (static_cast<std::int64_t>(result.size()) != num_layers) {
      fail("metadata key " + key("attention.sliding_window_pattern") + " does not fit the layers");
    }
    return result;
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw ModelError(header_.path.string() + ": " + what);
  }

 private:
  const GgufHeader& header_;
  std::string arch_;
};

std::vector<float> floats(const Settings& settings, const char* tensor) {
  auto params = load_gguf_tensors(settings.header(), {tensor});
  auto array = mx::contiguous(mx::astype(params.at(tensor), mx::float32));
  mx::eval(array);
  return {array.data<float>(), array.data<float>() + array.size()};
}

// Llama 3's scaling is a tensor of factors in the file. Of the four numbers behind it three can be known; the
// fourth is taken as 1, as the models have it. False if no such numbers give these factors.
bool fit_llama3(const RopeSpec& plain, const std::vector<float>& factors, Json& scaling) {
  auto rope = plain;
  rope.type = RopeType::llama3;
  rope.factor = *std::max_element(factors.begin(), factors.end());
  const auto frequencies = rope_frequencies(plain, 0);
  const auto fits = [&] {
    const auto stretched = rope_frequencies(rope, 0);
    for (std::size_t k = 0; k < factors.size(); ++k) {
      if (!(std::abs(frequencies[k] / stretched[k] / factors[k] - 1.0F) < 1e-4F)) {
        return false;
      }
    }
    return true;
  };
  for (const int original : {8192, plain.max_positions}) {
    rope.original_max_positions = original;
    if (rope.factor > 1.0F && fits()) {
      scaling = {{"rope_type", "llama3"},
                 {"factor", rope.factor},
                 {"low_freq_factor", rope.low_freq_factor},
                 {"high_freq_factor", rope.high_freq_factor},
                 {"original_max_position_embeddings", original}};
      return true;
    }
  }
  return false;
}

void set_rope_factors(const Settings& settings, const RopeSpec& plain, Json& config) {
  const auto& header = settings.header();
  Json& scaling = config["rope_scaling"];
  std::vector<float> factors;
  std::vector<float> long_factors;
  if (header.find_tensor("rope_freqs.weight") != nullptr) {
    factors = long_factors = floats(settings, "rope_freqs.weight");
    if (factors.size() == static_cast<std::size_t>(plain.dims / 2) && fit_llama3(plain, factors, scaling)) {
      return;
    }
  } else if (header.find_tensor("rope_factors_long.weight") != nullptr &&
             header.find_tensor("rope_factors_short.weight") != nullptr) {
    factors = floats(settings, "rope_factors_short.weight");
    long_factors = floats(settings, "rope_factors_long.weight");
  } else {
    return;
  }
  scaling = {{"rope_type", "longrope"},
             {"short_factor", factors},
             {"long_factor", long_factors},
             {"original_max_position_embeddings",
              settings.integer("rope.scaling.original_context_length", plain.max_positions)},
             {"attention_factor", settings.number("rope.scaling.attn_factor", 1.0)}};
}

void set_rope(const Settings& settings, int head_dim, Json& config) {
  RopeSpec plain;
  plain.dims = static_cast<int>(settings.integer("rope.dimension_count", head_dim));
  plain.base = static_cast<float>(settings.number("rope.freq_base", 10000.0));
  plain.max_positions = static_cast<int>(settings.integer("context_length"));
  if (plain.dims < 2 || plain.dims > head_dim || plain.dims % 2 != 0) {
    settings.fail(fmt::format("metadata key {} is {}, heads have {} features",
                              settings.key("rope.dimension_count"), plain.dims, head_dim));
  }
  config["rope_theta"] = plain.base;
  if (plain.dims != head_dim) {
    config["partial_rotary_factor"] = static_cast<double>(plain.dims) / head_dim;
  }
  const auto* type = settings.header().text(settings.key("rope.scaling.type"));
  const double factor = settings.number("rope.scaling.factor", 1.0);
  if (type != nullptr && *type == "linear" && factor != 1.0) {
    config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", factor}};
  } else if (type != nullptr && *type == "yarn") {
    const double usual = factor <= 1.0 ? 1.0 : 0.1 * std::log(factor) + 1.0;
    config["rope_scaling"] = {{"rope_type", "yarn"},
                              {"factor", factor},
                              {"original_max_position_embeddings",
                               settings.integer("rope.scaling.original_context_length", plain.max_positions)},
                              {"beta_fast", settings.number("rope.scaling.yarn_beta_fast", 32.0)},
                              {"beta_slow", settings.number("rope.scaling.yarn_beta_slow", 1.0)},
                              {"attention_factor", usual * settings.number("rope.scaling.attn_factor", 1.0)},
                              {"truncate", settings.arch() != "gpt-oss"}};
  } else if (type != nullptr && *type != "none" && *type != "longrope" && *type != "linear") {
    settings.fail("rope of type " + *type + " is not supported");
  }
  set_rope_factors(settings, plain, config);
}

// Tensors of the first block tell what the metadata does not.
bool has_tensor(const Settings& settings, const char* name) {
  return settings.header().find_tensor(name) != nullptr;
}

void set_windows(const Settings& settings, Json& config) {
  const auto window = settings.integer("attention.sliding_window", 0);
  if (window <= 0) {
    return;
  }
  config["sliding_window"] = window;
  const auto sliding = settings.sliding(config.at("num_hidden_layers").get<std::int64_t>());
  for (const bool slides : sliding) {
    config["layer_types"].push_back(slides ? "sliding_attention" : "full_attention");
  }
}

void set_llama(const Settings& settings, Json& config) {
  const bool experts = settings.integer("expert_count", 0) > 0;
  config["model_type"] = experts ? "mixtral" : config.contains("sliding_window") ? "mistral" : "llama";
  if (experts) {
    config["num_local_experts"] = settings.integer("expert_count");
    config["num_experts_per_tok"] = settings.integer("expert_used_count");
  }
}

void set_qwen(const Settings& settings, Json& config) {
  config["model_type"] = settings.arch() == "qwen3moe" ? "qwen3_moe" : settings.arch();
  // A window without its layers is what the model was made for and does not use.
  config["use_sliding_window"] = config.contains("layer_types");
  if (settings.arch() == "qwen3moe") {
    config["num_experts"] = settings.integer("expert_count");
    config["num_experts_per_tok"] = settings.integer("expert_used_count");
    config["moe_intermediate_size"] = settings.integer("expert_feed_forward_length");
    config["norm_topk_prob"] = true;
  }
}

void set_qwen35(const Settings& settings, Json& config) {
  const bool experts = settings.arch() == "qwen35moe";
  config["model_type"] = experts ? "qwen3_5_moe_text" : "qwen3_5_text";
  const auto key_dim = settings.integer("ssm.state_size");
  config["linear_conv_kernel_dim"] = settings.integer("ssm.conv_kernel");
  config["linear_num_key_heads"] = settings.integer("ssm.group_count");
  config["linear_num_value_heads"] = settings.integer("ssm.time_step_rank");
  config["linear_key_head_dim"] = config["linear_value_head_dim"] = key_dim;
  const auto recurrent = settings.flags("attention.recurrent_layers");
  const auto interval = settings.integer("full_attention_interval", 4);
  const auto layers = config.at("num_hidden_layers").get<std::int64_t>();
  if (interval < 1 || (!recurrent.empty() && std::ssize(recurrent) < layers)) {
    settings.fail("metadata keys " + settings.key("full_attention_interval") + " and " +
                  settings.key("attention.recurrent_layers") + " do not fit the layers");
  }
  for (std::int64_t i = 0; i < layers; ++i) {
    const bool linear = recurrent.empty() ? (i + 1) % interval != 0 : recurrent[static_cast<std::size_t>(i)];
    config["layer_types"].push_back(linear ? "linear_attention" : "full_attention");
  }
  if (experts) {
    config["num_experts"] = settings.integer("expert_count");
    config["num_experts_per_tok"] = settings.integer("expert_used_count");
    config["moe_intermediate_size"] = settings.integer("expert_feed_forward_length");
    config["shared_expert_intermediate_size"] = settings.integer("expert_shared_feed_forward_length", 0);
  }
}

// llama.cpp's own scale of the scores, for 27 billion parameters by the layers and not the heads.
void set_gemma(const Settings& settings, Json& config) {
  const bool second = settings.arch() == "gemma2";
  const auto layers = config.at("num_hidden_layers").get<std::int64_t>();
  const bool large = layers == (second ? 46 : 62);
  config["model_type"] = second ? "gemma2" : "gemma3_text";
  config["query_pre_attn_scalar"] = large ? config.at("hidden_size").get<std::int64_t>() /
                                                config.at("num_attention_heads").get<std::int64_t>()
                                          : config.at("head_dim").get<std::int64_t>();
  config["hidden_activation"] = "gelu_pytorch_tanh";
  config["attn_logit_softcapping"] = nullptr;
  config["final_logit_softcapping"] = nullptr;
  for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"}) {
    const double usual = !second ? 0.0 : key[0] == 'a' ? 50.0 : 30.0;
    if (const double cap = settings.number(key, usual); cap > 0.0) {
      config[key] = cap;
    }
  }
  if (!second) {
    config["rope_local_base_freq"] = settings.number("rope.freq_base_swa", 10000.0);
  }
}

void set_granite(const Settings& settings, Json& config) {
  config["model_type"] = "granite";
  config["embedding_multiplier"] = settings.number("embedding_scale", 1.0);
  config["residual_multiplier"] = settings.number("residual_scale", 1.0);
  config["logits_scaling"] = settings.number("logit_scale", 1.0);
  const double scale = settings.number("attention.scale", 0.0);
  config["attention_multiplier"] = scale > 0.0 ? scale : 1.0 / std::sqrt(config.at("head_dim").get<double>());
}

void set_lfm2(const Settings& settings, Json& config) {
  config["model_type"] = "lfm2";
  config["norm_eps"] = config.at("rms_norm_eps");
  config["block_auto_adjust_ff_dim"] = false;
  config["conv_L_cache"] = settings.integer("shortconv.l_cache");
  if (!settings.is_list("attention.head_count_kv")) {
    settings.fail("metadata key lfm2.attention.head_count_kv is not a list of every layer's");
  }
  for (const auto heads : settings.list("attention.head_count_kv")) {
    config["layer_types"].push_back(heads == 0 ? "conv" : "full_attention");
  }
}

void set_gpt_oss(const Settings& settings, Json& config) {
  config["model_type"] = "gpt_oss";
  config["num_local_experts"] = settings.integer("expert_count");
  config["num_experts_per_tok"] = settings.integer("expert_used_count");
  config["intermediate_size"] = settings.integer("expert_feed_forward_length");
}

template <const char* kType>
void set_plain(const Settings&, Json& config) {
  config["model_type"] = kType;
}
constexpr char kPhi3[] = "phi3";
constexpr char kOlmo2[] = "olmo2";

void set_smollm3(const Settings&, Json& config) {
  config["model_type"] = "smollm3";
  config["use_sliding_window"] = config.contains("sliding_window");
}

using SetFamily = void (*)(const Settings&, Json&);
const std::map<std::string, SetFamily>& families_by_arch() {
  static const std::map<std::string, SetFamily> kAll{
      {"llama", set_llama},         {"qwen2", set_qwen},       {"qwen3", set_qwen},
      {"qwen35", set_qwen35},       {"qwen35moe", set_qwen35}, {"qwen3moe", set_qwen},
      {"gemma2", set_gemma},        {"gemma3", set_gemma},     {"phi3", set_plain<kPhi3>},
      {"olmo2", set_plain<kOlmo2>}, {"smollm3", set_smollm3},  {"granite", set_granite},
      {"lfm2", set_lfm2},           {"gpt-oss", set_gpt_oss}};
  return kAll;
}

const char* stored_dtype_of(const GgufHeader& header, bool gemma) {
  std::map<GgufType, std::int64_t> elements;
  for (const auto& tensor : header.tensors) {
    if (tensor.dims.size() > 1) {
      elements[tensor.type] += tensor.elements();
    }
  }
  const auto most = std::max_element(elements.begin(), elements.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most == elements.end() || most->first == GgufType::f32) {
    return "float32";
  }
  return most->first == GgufType::bf16 || (gemma && most->first != GgufType::f16) ? "bfloat16" : "float16";
}

Json common_config(const Settings& settings) {
  const auto& header = settings.header();
  const auto* embedding = header.find_tensor("token_embd.weight");
  if (embedding == nullptr || embedding->dims.size() != 2) {
    settings.fail("tensor token_embd.weight is missing");
  }
  const auto heads = settings.same_for_all("attention.head_count", 0);
  const auto hidden = settings.integer("embedding_length");
  // Those that predict one token more are left out.
  const auto blocks = settings.integer("block_count") - settings.integer("nextn_predict_layers", 0);
  if (heads <= 0) {
    settings.fail("metadata key " + settings.key("attention.head_count") + " is missing");
  }
  // Before anything is made for each of them.
  if (blocks < 1 || blocks > static_cast<std::int64_t>(header.tensors.size())) {
    settings.fail("metadata key " + settings.key("block_count") + " is " + std::to_string(blocks) +
                  ", more blocks than the file has tensors");
  }
  Json config{{"hidden_size", hidden},
              {"num_hidden_layers", blocks},
              {"intermediate_size", settings.same_for_all("feed_forward_length", 0)},
              {"num_attention_heads", heads},
              {"num_key_value_heads", settings.same_for_all("attention.head_count_kv", heads)},
              {"head_dim", settings.integer("attention.key_length", hidden / heads)},
              {"rms_norm_eps", settings.number("attention.layer_norm_rms_epsilon", 1e-5)},
              {"vocab_size", embedding->dims.back()},
              {"max_position_embeddings", settings.integer("context_length")},
              {"tie_word_embeddings", header.find_tensor("output.weight") == nullptr}};
  if (settings.integer("attention.value_length", config["head_dim"].get<std::int64_t>()) !=
      config["head_dim"]) {
    settings.fail("keys and values have heads of different sizes, which no family here has");
  }
  return config;
}

} // namespace

Json gguf_config(const GgufHeader& header) {
  const Settings settings(header);
  const auto& known = families_by_arch();
  const auto family = known.find(settings.arch());
  if (family == known.end()) {
    std::string names;
    for (const auto& [name, ignored] : known) {
      names += (names.empty() ? "" : ", ") + name;
    }
    settings.fail("models of architecture " + settings.arch() + " are not supported; supported are " + names);
  }
  auto config = common_config(settings);
  if (has_tensor(settings, "blk.0.attn_output.bias")) {
    config["attention_bias"] = true;
  }
  if (has_tensor(settings, "blk.0.ffn_up.bias")) {
    config["mlp_bias"] = true;
  }
  set_windows(settings, config);
  set_rope(settings, config["head_dim"].get<int>(), config);
  family->second(settings, config);
  config["torch_dtype"] = stored_dtype_of(header, settings.arch().starts_with("gemma"));
  return config;
}

} // namespace temper
