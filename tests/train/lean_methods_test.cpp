// The lean path (tests/train/lean_step_test.cpp) for every family and method: its gradients beside the plain
// twin's, and how much less it holds.
#include <algorithm>

#include "models/families.h"
#include "temper/io/pack_model.h"
#include "temper/models/quant_plan.h"
#include "temper/nn/graph_memory.h"
#include "temper/nn/host_op.h"
#include "temper/train/step.h"
#include "train/support.h"

using namespace temper;
using namespace temper::test;

namespace {

struct Way {
  std::string name;
  float dropout = 0.0F;
  bool dora = false;
  bool adapts = true;
  // Trained whole: tensors of the block from which on all do, and whose names hold one of these ("": all).
  std::vector<std::string> whole{};
  int first_block = 0;

  LoraConfig lora() const {
    return {.rank = 4, .scale = 2.0F, .dropout = dropout, .dora = dora};
  }
};

const std::vector<Way>& ways() {
  static const std::vector<Way> kWays{
      {"lora"},
      {"lora, dropout", 0.3F},
      {"dora, dropout", 0.3F, true},
      {"full", 0.0F, false, false, {""}},
      {"full, last block", 0.0F, false, false, {""}, 1},
      {"lora, norms and biases", 0.0F, false, true, {"norm", "bias"}},
  };
  return kWays;
}

// Adds to `model` what the way's forward pass wants beside the parameters.
Params trainable_of(const Way& way, Model& model) {
  Params params;
  if (way.adapts) {
    auto layers = adaptable_layers(model.spec, -1, {});
    std::erase_if(layers, [&](const auto& layer) { return way.dora && layer.num_experts > 0; });
    const auto norms = way.dora ? weight_norms(model.params, layers) : Params{};
    params = init_adapter(way.lora(), layers, 1, norms);
    for (auto& [name, array] : params) {
      array = array + 0.1F * randn(array.shape(), name);
    }
    model.params.insert(norms.begin(), norms.end());
  }
  for (const auto& [name, array] : model.params) {
    const auto block = block_of(model.spec, name).value_or(0);
    const bool is_named = std::any_of(way.whole.begin(), way.whole.end(),
                                      [&](const auto& part) { return name.find(part) != std::string::npos; });
    if (is_named && block >= way.first_block && mx::issubdtype(array.dtype(), mx::floating) &&
        !name.ends_with(".scales") && !name.ends_with(".biases") && !name.ends_with(".weight_norm")) {
      params.emplace(name, mx::astype(array, mx::float32));
    }
  }
  mx::eval(values(params));
  return params;
}

LossAndGradients step_graph(const Model& model, const Way& way, const Params& trainable, const HostBatch& batch,
                            bool plain, bool checkpoint = false) {
  auto options = step_options();
  options.lora = way.lora();
  options.plain = plain;
  options.checkpoint = checkpoint;
  TrainStep step(model, options);
  return step.gradients(step.initial_state(trainable, 1), batch,
                        1.0F / static_cast<float>(batch.num_supervised));
}

void check_way(const Way& way, Model model, bool packing, bool checkpoint) {
  const auto trainable = trainable_of(way, model);
  const auto batch = family_batch({40, 7, 22, 2, 13, 31, 70}, packing);
  const auto plain = step_graph(model, way, trainable, batch, true);
  const auto lean = step_graph(model, way, trainable, batch, false, checkpoint);
  for (const auto* found : {&plain, &lean}) {
    auto all = values(found->gradients);
    all.push_back(found->loss);
    mx::eval(all);
  }
  CHECK(lean.loss.item<float>() == doctest::Approx(plain.loss.item<float>()).epsilon(1e-5));
  REQUIRE(lean.gradients.size() == trainable.size());
  for (const auto& [name, gradient] : plain.gradients) {
    CAPTURE(name);
    CHECK(relative_difference(lean.gradients.at(name), gradient) < 1e-4F);
  }
}

struct PlainOps {
  PlainOps() {
    set_host_kernels(false);
  }
  ~PlainOps() {
    set_host_kernels(true);
  }
};

} // namespace

TEST_CASE("lean gradients are their plain twins', for every family and method") {
  for (const auto& family : family_names()) {
    CAPTURE(family);
    const auto model = family_model(family);
    for (const auto& way : ways()) {
      CAPTURE(way.name);
      check_way(way, model, true, false);
    }
  }
}

TEST_CASE("lean gradients in recomputed blocks, of unpacked rows, without host kernels") {
  for (const std::string family : {"llama", "lfm2_bias", "qwen3_5_moe_text", "gpt_oss"}) {
    CAPTURE(family);
    const auto model = family == "llama" ? tiny_model() : family_model(family);
    for (const auto& way : ways()) {
      CAPTURE(way.name);
      check_way(way, model, false, true);
      const PlainOps plain_ops;
      check_way(way, model, false, false);
    }
  }
}

namespace {

// Sizes at which what blocks keep outweighs the rest of a step.
Model sized_model(const Json& changes) {
  Json config{{"hidden_size", 64},    {"num_hidden_layers", 8},   {"intermediate_size", 192},
              {"head_dim", 16},       {"num_attention_heads", 4}, {"num_key_value_heads", 2},
              {"rope_theta", 10000.0}};
  config.update(changes);
  return tiny_model(config);
}

// Blocks of every kind, as changes of the configuration: the last is experts'.
const std::vector<Json>& kinds() {
  static const Json kExperts{{"model_type", "qwen3_moe"}, {"num_experts", 8},
                             {"num_experts_per_tok", 4},  {"moe_intermediate_size", 48},
                             {"norm_topk_prob", true},    {"decoder_sparse_step", 1}};
  static const Json kConv{{"model_type", "lfm2"}, {"block_ff_dim", 192},   {"block_auto_adjust_ff_dim", false},
                          {"conv_L_cache", 3},    {"full_attn_idxs", {3}}, {"norm_eps", 1e-5}};
  static const Json kDelta{{"model_type", "qwen3_5_text"}, {"full_attention_interval", 4},
                           {"linear_conv_kernel_dim", 4},  {"linear_key_head_dim", 16},
                           {"linear_value_head_dim", 16},  {"linear_num_key_heads", 4},
                           {"linear_num_value_heads", 4}};
  static const std::vector<Json> kKinds{Json::object(), kConv, kDelta, kExperts};
  return kKinds;
}

// Packed in 8 bits a weight.
Model packed_model() {
  auto model = sized_model({{"num_hidden_layers", 2}});
  pack_model(model, plan_quantization(model.spec, {make_quant_format("affine", 8), "", {}}));
  return model;
}

// What the graph of a step's gradients takes; nothing is evaluated.
double peak_of(const Way& way, const Model& model, const Params& trainable, const HostBatch& batch,
               bool plain) {
  const auto found = step_graph(model, way, trainable, batch, plain);
  auto outputs = values(found.gradients);
  outputs.push_back(found.loss);
  return static_cast<double>(graph_memory(outputs).peak);
}

} // namespace

TEST_CASE("lean gradients over a packed base") {
  for (const auto& way : ways()) {
    if (way.adapts) {
      CAPTURE(way.name);
      check_way(way, packed_model(), true, false);
    }
  }
}

// Against fp32 both are off by bf16's rounding, which is noise of one size.
TEST_CASE("lean gradients in bf16 are as near to fp32's as their plain twins', by every method") {
  const auto distance = [](const mx::array& a, const mx::array& b) {
    return mx::sqrt(mx::sum(mx::square(a - b)) / mx::sum(mx::square(b))).item<float>();
  };
  const auto batch = family_batch({40, 7, 22, 31}, true);
  for (std::size_t kind = 0; kind + 1 < kinds().size(); ++kind) { // rounding changes experts' routes
    auto changes = kinds()[kind];
    changes["num_hidden_layers"] = 4;
    auto model = sized_model(changes);
    for (auto& [name, array] : model.params) {
      array = array.ndim() > 1 ? 0.2F * array : array; // a model that rounding does not upset
    }
    for (const auto& way : ways()) {
      CAPTURE(kind);
      CAPTURE(way.name);
      auto half = cast_model(model, mx::bfloat16);
      const auto trainable = trainable_of(way, half);
      const auto whole = cast_model(half, mx::float32);
      const auto exact = step_graph(whole, way, trainable, batch, true);
      const auto plain = step_graph(half, way, trainable, batch, true);
      const auto lean = step_graph(half, way, trainable, batch, false);
      for (const auto& [name, gradient] : exact.gradients) {
        CAPTURE(name);
        const auto least = distance(plain.gradients.at(name), gradient);
        CHECK(distance(lean.gradients.at(name), gradient) < 1.5F * least + 0.01F);
      }
    }
  }
}

// Counted, without attention's share being large: rows are 16 tokens wide.
TEST_CASE("lean blocks of every kind hold less than two thirds of what their plain twins do, by every method") {
  std::vector<Example> examples(96);
  for (auto& example : examples) {
    example = {family_tokens(17, 1), std::vector<std::uint8_t>(17, 1)};
  }
  LoaderOptions loader;
  loader.batch_size = static_cast<int>(examples.size());
  loader.max_seq_length = 17;
  loader.packing = false;
  loader.width_multiple = 16;
  loader.prefetch = 0;
  const auto batch = BatchLoader(make_token_dataset(examples), loader).next();
  const PlainOps as_on_other_devices;
  for (const auto& changes : kinds()) {
    CAPTURE(changes.dump());
    auto model = sized_model(changes);
    for (const auto& way : ways()) {
      CAPTURE(way.name);
      const auto trainable = trainable_of(way, model);
      const auto plain = peak_of(way, model, trainable, batch, true);
      const auto lean = peak_of(way, model, trainable, batch, false);
      CHECK(lean < 0.65 * plain);
    }
  }
}
