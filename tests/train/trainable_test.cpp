// What each method trains, and that its short cuts (norms without the merged matrix, a head in chunks, rows
// gathered from an embedding) have the values and gradients of the merged weights.
#include "temper/train/trainable.h"

#include <numeric>

#include "models/families.h"
#include "temper/models/adapter_params.h"
#include "train/support.h"

using namespace temper;
using namespace temper::test;

namespace {

RunConfig config_of(const std::string& type, std::vector<std::string> keys = {}) {
  RunConfig config;
  config.fine_tune_type = type;
  config.lora_parameters.rank = 3;
  config.lora_parameters.scale = 2.0;
  config.lora_parameters.keys = std::move(keys);
  config.seed = 4;
  return config;
}

// Away from the start, so that every gradient is alive.
Params moved(const Params& trainable) {
  Params params;
  for (const auto& [name, array] : trainable) {
    params.emplace(name, array * (1.0F + 0.2F * randn(array.shape(), name + " x")) +
                             (name.ends_with(".m") ? 0.0F : 0.1F) * randn(array.shape(), name));
  }
  mx::eval(values(params));
  return params;
}

std::vector<std::string> names_of(const Params& params) {
  std::vector<std::string> names;
  for (const auto& [name, array] : params) {
    names.push_back(name);
  }
  return names;
}

// A layer's weight with its adapter merged in, differentiable in both.
mx::array merged_weight(const MatrixLayer& layer, const LoraConfig& lora, const Params& trained,
                        const mx::array& weight) {
  const auto& a = trained.at(layer.name + ".lora_a");
  const auto& b = trained.at(layer.name + ".lora_b");
  const bool keeps_order = layer.kind == LayerKind::embedding; // [V, R] [R, E]
  auto merged = weight;
  if (layer.kind == LayerKind::experts) {
    merged = weight + lora.of(layer.name).scale * mx::matmul(b, a);
  } else {
    const auto product = mx::matmul(a, b);
    merged = weight + lora.of(layer.name).scale * (keeps_order ? product : mx::transpose(product));
  }
  const auto m = trained.find(layer.name + ".m");
  if (m == trained.end()) {
    return merged;
  }
  return merged * mx::expand_dims(m->second / mx::stop_gradient(row_norms(merged)), 1);
}

struct Variant {
  bool checkpoint = false;
  bool merged = false;
};

// Loss and gradients in the trained parameters, by the adapters or by dense merged weights.
std::pair<float, Params> gradients_of_method(const Model& model, const Method& method, const Params& trained,
                                             const HostBatch& batch, const Variant& variant) {
  auto layout =
      to_arrays(batch, model.spec, 1.0F / static_cast<float>(batch.num_supervised), PackedAttention::documents);
  auto device = as_device_batch(layout, layout.words);
  device.input.checkpoint = variant.checkpoint;
  const auto loss_of = [&](const Arrays& in) {
    auto own = with_values(trained, in);
    if (variant.merged) {
      Params whole;
      for (const auto& [name, array] : own) {
        if (!is_adapter_tensor(name)) {
          whole.emplace(name, array);
        }
      }
      for (const auto& layer : method.layers) {
        const auto name = layer.name + ".weight";
        whole.insert_or_assign(name, merged_weight(layer, method.lora, own, model.params.at(name)));
      }
      own = whole;
    }
    ForwardContext context{ParamView(model.params, &own), method.lora, {}};
    const auto hidden = decoder_hidden(model.spec, context, device.input);
    const auto head = decoder_head(model.spec, context, own.contains(head_weight_name(model.spec)));
    return chunked_cross_entropy(mx::flatten(hidden, 0, 1), head, device.targets, 16);
  };
  std::vector<int> all(trained.size());
  std::iota(all.begin(), all.end(), 0);
  auto [loss, gradients] = mx::value_and_grad(Function(loss_of), all)(values(trained));
  mx::eval(gradients);
  return {loss.item<float>(), with_values(trained, gradients)};
}

void check_close(const std::pair<float, Params>& found, const std::pair<float, Params>& expected) {
  CHECK(found.first == doctest::Approx(expected.first).epsilon(1e-5));
  for (const auto& [name, gradient] : expected.second) {
    CAPTURE(name);
    CHECK(mx::max(mx::abs(gradient)).item<float>() > 0);
    CHECK(relative_difference(found.second.at(name), gradient) < 2e-3F);
  }
}

// A model with every matrix packed, and its twin with the same weights unpacked.
std::pair<Model, Model> packed_twins(int bits) {
  auto packed = tiny_model({{"hidden_size", 64}, {"intermediate_size", 128}, {"num_attention_heads", 4}});
  auto dense = packed;
  for (const auto& layer : matrix_layers(packed.spec)) {
    const auto name = layer.name + ".weight";
    const auto parts = quantize(packed.params.at(name), {"affine", bits, 64}, layer.name);
    dense.params.at(name) = dequantize(parts, mx::float32);
    packed.params.at(name) = parts.weight;
    packed.params.emplace(layer.name + ".scales", parts.scales);
    packed.params.emplace(layer.name + ".biases", *parts.biases);
  }
  mx::eval(values(packed.params));
  mx::eval(values(dense.params));
  return {packed, dense};
}

} // namespace

TEST_CASE("every method has the merged weights' loss and gradients, checkpointed and packed too") {
  const std::vector<std::string> outside{"self_attn.q_proj", "embed_tokens"};
  struct {
    const char* name;
    RunConfig config;
    Json model;
  } cases[] = {
      {"lora", config_of("lora"), Json::object()},
      {"dora", config_of("dora"), {{"attention_bias", true}, {"mlp_bias", true}}},
      {"tied embedding, lora", config_of("lora", outside), Json::object()},
      {"tied embedding, dora", config_of("dora", outside), Json::object()},
      {"embedding and head, lora",
       config_of("lora", {"embed_tokens", "lm_head"}),
       {{"tie_word_embeddings", false}}},
      {"embedding and head, dora",
       config_of("dora", {"embed_tokens", "lm_head"}),
       {{"tie_word_embeddings", false}}},
  };
  for (const auto& [name, config, changes] : cases) {
    CAPTURE(name);
    auto model = tiny_model(changes);
    check_method(config, model.spec, model.config);
    const auto method = make_method(config, model);
    const auto trained = moved(method.trainable);
    const auto examples = uneven_examples(5);
    const auto expected =
        gradients_of_method(model, method, trained, batch_of(examples, false), {.merged = true});
    for (const bool checkpoint : {false, true}) {
      for (const bool packing : {false, true}) {
        check_close(
            gradients_of_method(model, method, trained, batch_of(examples, packing), {checkpoint, false}),
            expected);
      }
    }
  }
}

TEST_CASE("adapters of every family have the merged weights' gradients, embedding and head included") {
  for (const auto& name : family_names()) {
    CAPTURE(name);
    auto model = family_model(name);
    auto config = config_of("lora");
    for (const auto& layer : matrix_layers(model.spec)) {
      if (layer.kind != LayerKind::router) {
        config.lora_parameters.keys.push_back(layer_key(model.spec, layer.name));
      }
    }
    for (const std::string type : {"lora", "dora"}) {
      CAPTURE(type);
      config.fine_tune_type = type;
      if (type == "dora" && model.spec.moe.num_experts > 0) {
        CHECK(contains(message_of<ConfigError>([&] { check_method(config, model.spec, Json::object()); }),
                       "is a stack of experts, which DoRA does not serve"));
        continue;
      }
      check_method(config, model.spec, Json::object());
      const auto method = make_method(config, model);
      CHECK(method.trainable.size() == method.layers.size() * (type == "dora" ? 3 : 2));
      const auto trained = moved(method.trainable);
      const auto batch = family_batch({17, 30, 9}, true);
      const auto found = gradients_of_method(model, method, trained, batch, {.checkpoint = true});
      if (model.packed.empty()) {
        check_close(found, gradients_of_method(model, method, trained, batch, {.merged = true}));
      }
    }
  }
}

TEST_CASE("an adapter changes nothing at its start, DoRA and PiSSA too") {
  for (const std::string type : {"lora", "dora", "pissa"}) {
    CAPTURE(type);
    auto model = tiny_model({{"tie_word_embeddings", false}});
    const mx::array tokens({5, 9, 200, 7, 31, 2}, {1, 6}, mx::int32);
    const auto logits = [&](const Method& method) {
      ForwardContext context{ParamView(model.params, &method.trainable), method.lora, {}};
      return decoder_logits(model.spec, context, decoder_hidden(model.spec, context, {.tokens_BT = tokens}));
    };
    const auto base = logits({});
    auto config = config_of(type == "pissa" ? "lora" : type, {"self_attn.q_proj", "mlp.down_proj", "lm_head"});
    config.lora_parameters.init = type == "pissa" ? "pissa" : "default";
    if (type != "pissa") {
      config.lora_parameters.keys.push_back("embed_tokens");
    }
    const auto method = make_method(config, model);
    split_off_start(model, method.lora, method.start);
    CHECK(relative_difference(logits(method), base) < 1e-5F);
    CHECK((relative_difference(logits({}), base) > 0.1F) == (type == "pissa"));
  }
}

TEST_CASE("full and last-N train their blocks' every weight, whatever the family's names") {
  for (const auto& name : family_names()) {
    CAPTURE(name);
    auto model = family_model(name);
    auto config = config_of("full");
    const auto all = make_method(config, model).trainable;
    CHECK(all.size() == expected_tensors(model.spec).size());
    config.num_layers = 1;
    const auto prefix = block_prefix(model.spec, model.spec.num_layers - 1);
    const auto last = make_method(config, model).trainable;
    CHECK(last.size() == ParamView(model.params).with_prefix(prefix).size());
    for (const auto& [tensor, array] : last) {
      CHECK(tensor.starts_with(prefix));
    }
  }
}

TEST_CASE("norms, biases and whole layers train beside an adapter") {
  auto model = tiny_model({{"attention_bias", true}});
  auto config = config_of("lora", {"self_attn.v_proj"});
  config.num_layers = 1;
  config.train_norms = true;
  CHECK(names_of(make_method(config, model).trainable) ==
        std::vector<std::string>{"model.layers.1.input_layernorm.weight",
                                 "model.layers.1.post_attention_layernorm.weight",
                                 "model.layers.1.self_attn.v_proj.lora_a",
                                 "model.layers.1.self_attn.v_proj.lora_b", "model.norm.weight"});
  config.train_norms = false;
  config.train_biases = true;
  config.trainable_modules = {"embed_tokens"};
  CHECK(names_of(make_method(config, model).trainable) ==
        std::vector<std::string>{"model.embed_tokens.weight", "model.layers.1.self_attn.k_proj.bias",
                                 "model.layers.1.self_attn.o_proj.bias", "model.layers.1.self_attn.q_proj.bias",
                                 "model.layers.1.self_attn.v_proj.bias",
                                 "model.layers.1.self_attn.v_proj.lora_a",
                                 "model.layers.1.self_attn.v_proj.lora_b"});
  // Beside full training of the last blocks, too.
  auto full = config_of("full");
  full.num_layers = 1;
  full.trainable_modules = {"embed_tokens"};
  CHECK(make_method(full, model).trainable.contains("model.embed_tokens.weight"));
}

TEST_CASE("what a model can't be trained by is refused with its name") {
  const auto model = tiny_model();
  const auto refuse = [&](const RunConfig& config) {
    return message_of<ConfigError>([&] { check_method(config, model.spec, model.config); });
  };
  auto config = config_of("lora", {"embed_tokens"});
  config.trainable_modules = {"embed_tokens"};
  CHECK(contains(refuse(config), "trainable_modules: model.embed_tokens is also adapted"));
  config = config_of("lora");
  config.trainable_modules = {"lm_head"}; // tied
  CHECK(contains(refuse(config), "trainable_modules: lm_head matches no layer of this model; choose from "));
  config = config_of("lora", {"embed_tokens"});
  config.lora_parameters.init = "pissa";
  CHECK(contains(refuse(config), "init pissa serves linear layers, and model.embed_tokens is none"));
  config = config_of("lora", {"self_attn.q_proj"});
  config.lora_parameters.layers = Json::array({Json{{"match", "*.v_proj"}, {"rank", 2}}});
  CHECK(contains(refuse(config), "lora_parameters.layers: '*.v_proj' fits no adapted layer"));
  config = config_of("lora");
  config.lora_parameters.rank = 17;
  config.lora_parameters.init = "pissa";
  auto small = tiny_model();
  CHECK(contains(message_of<ConfigError>([&] { make_method(config, small); }), "rank 17 is more than"));
}

TEST_CASE("LoRA+'s ratio is on every B, after the configuration's own groups") {
  auto config = config_of("lora");
  config.lora_parameters.lr_ratio = 16;
  config.parameter_groups = Json{{"match", "*.layers.0.*"}, {"learning_rate_ratio", 0.5}};
  const auto groups = method_groups(config);
  CHECK(group_of(groups, "model.layers.1.mlp.up_proj.lora_b")->learning_rate_ratio == 16);
  CHECK(group_of(groups, "model.layers.1.mlp.up_proj.lora_a") == nullptr);
  CHECK(group_of(groups, "model.layers.0.mlp.up_proj.lora_b")->learning_rate_ratio == 0.5);
}

TEST_CASE("NEFTune's noise is uniform, bounded by a text's own length, and falls in training alone") {
  auto model = tiny_model();
  // No blocks, and a final norm that only divides, by 1e4.
  model.spec.num_layers = 0;
  model.spec.norm_eps = 1e8F;
  model.params.at("model.norm.weight") = mx::full({16}, 1e4F, mx::float32);
  const mx::array tokens = mx::zeros({8, 64}, mx::int32);
  const auto first_half = mx::less(mx::arange(64), mx::array(32));
  const auto lengths = mx::broadcast_to(mx::where(first_half, mx::array(9), mx::array(36)), {8, 64});
  const auto embeddings = [&](float alpha, std::optional<mx::array> key) {
    ForwardContext context{ParamView(model.params), {}, std::move(key)};
    context.neftune_alpha = alpha;
    return decoder_hidden(model.spec, context, {.tokens_BT = tokens, .lengths_BT = lengths});
  };
  const auto plain = embeddings(0, named_key(1, "k"));
  CHECK(same_bits(embeddings(5, std::nullopt), plain));
  CHECK(same_bits(embeddings(5, named_key(1, "k")), embeddings(5, named_key(1, "k"))));
  CHECK_FALSE(same_bits(embeddings(5, named_key(1, "k")), embeddings(5, named_key(2, "k"))));
  const auto noise = mx::split(embeddings(5, named_key(1, "k")) - plain, 2, 1);
  for (const std::size_t half : {std::size_t{0}, std::size_t{1}}) {
    const float bound = 5.0F / std::sqrt((half == 0 ? 9.0F : 36.0F) * 16.0F);
    const auto share = noise[half] / bound;
    CHECK(mx::max(share).item<float>() == doctest::Approx(1.0).epsilon(0.01));
    CHECK(mx::min(share).item<float>() == doctest::Approx(-1.0).epsilon(0.01));
    CHECK(std::abs(mx::mean(share).item<float>()) < 0.05F);
    CHECK(mx::var(share).item<float>() == doctest::Approx(1.0 / 3).epsilon(0.05)); // uniform on +-1
  }
}

TEST_CASE("DoRA over packed weights is DoRA over the same weights unpacked") {
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    CAPTURE(bits);
    auto [packed, dense] = packed_twins(bits);
    const auto config = config_of("dora", {"self_attn.q_proj", "mlp.down_proj", "embed_tokens"});
    const auto over_packed = make_method(config, packed);
    const auto over_dense = make_method(config, dense);
    const auto trained = moved(over_packed.trainable);
    for (const auto& [name, array] : over_packed.trainable) {
      CHECK(relative_difference(array, over_dense.trainable.at(name)) < 1e-6F);
    }
    const auto batch = batch_of(uneven_examples(5), true);
    check_close(gradients_of_method(packed, over_packed, trained, batch, {}),
                gradients_of_method(dense, over_dense, trained, batch, {}));
  }
}

TEST_CASE("a packed layer trained whole is unpacked; PiSSA and full training refuse packed weights") {
  auto [packed, dense] = packed_twins(4);
  auto config = config_of("lora", {"self_attn.q_proj"});
  config.trainable_modules = {"embed_tokens"};
  const auto over_packed = make_method(config, packed);
  const auto over_dense = make_method(config, dense);
  CHECK(same_bits(over_packed.trainable, over_dense.trainable));
  const auto trained = moved(over_packed.trainable);
  const auto batch = batch_of(uneven_examples(5), true);
  check_close(gradients_of_method(packed, over_packed, trained, batch, {}),
              gradients_of_method(dense, over_dense, trained, batch, {}));

  config = config_of("lora", {"self_attn.q_proj"});
  config.lora_parameters.init = "pissa";
  CHECK(contains(message_of<ConfigError>([&] { make_method(config, packed); }),
                 "lora_parameters.init pissa: model.layers.0.self_attn.q_proj is quantized"));
  const Json description{{"quantization", {{"group_size", 64}, {"bits", 4}}}};
  CHECK(contains(message_of<ConfigError>([&] { check_method(config_of("full"), packed.spec, description); }),
                 "fine_tune_type: full needs unquantized weights"));
}
