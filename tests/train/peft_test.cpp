// The training methods against PEFT and torch: tests/golden/make_peft_fixtures.py made the fixtures.
#include <filesystem>
#include <regex>

#include "temper/base/files.h"
#include "temper/io/safetensors.h"
#include "temper/models/adapter_params.h"
#include "temper/nn/pissa.h"
#include "temper/train/trainable.h"
#include "train/support.h"

using namespace temper;
using namespace temper::test;

namespace {

const std::filesystem::path kGolden = TEMPER_TEST_DATA;

// Entries of `tensors` under `prefix`, without it.
Params under(const Params& tensors, const std::string& prefix) {
  Params found;
  for (auto it = tensors.lower_bound(prefix); it != tensors.end() && it->first.starts_with(prefix); ++it) {
    found.emplace(it->first.substr(prefix.size()), it->second);
  }
  return found;
}

// One case of the fixtures, with the configuration that asks Temper for the same.
struct Case {
  std::string name;
  Json about;
  Params tensors;
  RunConfig config;
  Model model;

  explicit Case(const std::string& case_name)
      : name(case_name),
        about(read_json(kGolden / "peft" / "cases.json").at(name)),
        tensors(load_safetensors(kGolden / "peft" / (name + ".safetensors"))),
        model(load_model(kGolden / "llama" / about.at("base").get<std::string>(), "float32")) {
    mx::eval(values(tensors));
    const auto start = under(tensors, "start.");
    const auto has = [&](const std::string& end) {
      return std::any_of(start.begin(), start.end(),
                         [&](const auto& entry) { return entry.first.ends_with(end); });
    };
    config.seed = 1;
    config.fine_tune_type = start.empty() ? "full" : has(".m") ? "dora" : "lora";
    config.optimizer = about["optimizer"]["name"];
    config.lora_parameters.lr_ratio = about["lora_plus_ratio"].is_null()
                                          ? std::nullopt
                                          : std::optional(about["lora_plus_ratio"].get<double>());
    if (!start.empty()) {
      read_lora();
    }
  }

  void read_lora() {
    auto& lora = config.lora_parameters;
    lora.rank = about["rank"];
    lora.alpha = about["alpha"].get<double>();
    lora.use_rslora = about["use_rslora"];
    lora.init = about["pissa"].get<bool>() ? "pissa" : "default";
    for (const auto& key : {"rank", "alpha"}) {
      for (const auto& [pattern, value] : about[std::string(key) + "_pattern"].items()) {
        lora.layers.push_back({{"match", "*." + pattern}, {key, value}});
      }
    }
    for (const auto& [tensor, array] : under(tensors, "start.")) {
      const auto layer = tensor.substr(0, tensor.rfind('.'));
      if (is_adapter_tensor(tensor)) {
        const auto key = layer_key(model.spec, layer);
        if (std::find(lora.keys.begin(), lora.keys.end(), key) == lora.keys.end()) {
          lora.keys.push_back(key);
        }
        if (const auto block = block_of(model.spec, layer); block && name == "last_1") {
          config.num_layers = model.spec.num_layers - *block;
        }
      } else if (tensor.ends_with("embed_tokens.weight") || tensor.ends_with("lm_head.weight")) {
        config.trainable_modules.push_back(layer);
      } else {
        config.train_norms = config.train_norms || tensor.ends_with("norm.weight");
        config.train_biases = config.train_biases || tensor.ends_with(".bias");
      }
    }
  }

  StepOptions options(const Method& method) const {
    const auto& said = about["optimizer"];
    OptimizerConfig optimizer;
    if (said["name"] == "adamw") {
      optimizer.adamw.eps = said["eps"];
      optimizer.adamw.weight_decay = said["weight_decay"];
    }
    StepOptions result;
    result.lora = method.lora;
    result.optimizer = make_optimizer(config.optimizer, optimizer, method_groups(config));
    result.max_grad_norm = 0;
    result.attention = PackedAttention::documents;
    return result;
  }

  HostBatch batch() const {
    const auto& ids = tensors.at("input_ids");
    std::vector<Example> examples;
    for (int row = 0; row < ids.shape(0); ++row) {
      Example example;
      for (int t = 0; t < ids.shape(1); ++t) {
        example.tokens.push_back(ids.data<std::int32_t>()[row * ids.shape(1) + t]);
        example.supervised.push_back(t > 0 ? 1 : 0);
      }
      examples.push_back(example);
    }
    return batch_of(examples, false);
  }
};

const std::vector<std::string> kCases = {"lora",     "dora",  "dora_bias",  "rslora",          "lora_plus",
                                         "patterns", "pissa", "embed_head", "modules_to_save", "norms_biases",
                                         "last_1",   "full"};

mx::array logits(const Case& which, const Method& method, const Params& trainable) {
  ForwardContext context{ParamView(which.model.params, &trainable), method.lora, {}};
  return decoder_logits(
      which.model.spec, context,
      decoder_hidden(which.model.spec, context, {.tokens_BT = which.tensors.at("input_ids")}));
}

// PEFT's values for what the run trains, cut as the fixtures cut them.
void check_close(const Params& ours, const Params& theirs, float tolerance) {
  for (const auto& [name, expected] : theirs) {
    CAPTURE(name);
    REQUIRE(ours.contains(name));
    const auto& found = ours.at(name);
    const int count = static_cast<int>(expected.size());
    CHECK(relative_difference(mx::slice(mx::flatten(found), {0}, {count}), mx::flatten(expected)) < tolerance);
  }
}

// Singular vectors come with either sign: A and B of each rank flipped to agree with `like`.
Params aligned(Params params, const Params& like) {
  for (auto& [name, array] : params) {
    const bool is_a = name.ends_with("_a");
    if (!is_a && !name.ends_with("_b")) {
      continue;
    }
    const auto a_name = name.substr(0, name.size() - 1) + "a";
    const auto& a = params.at(a_name);
    const auto sign_R = mx::sign(mx::sum(a * like.at(a_name), 0));
    if (!is_a) {
      array = array * mx::expand_dims(sign_R, 1);
    }
  }
  for (auto& [name, array] : params) {
    if (name.ends_with("_a")) {
      array = array * mx::sign(mx::sum(array * like.at(name), 0));
    }
  }
  return params;
}

// Where PEFT's run starts: its own values for the parameters that Temper's method would train.
Params start_of(const Case& which, const Method& method) {
  auto start = under(which.tensors, "start.");
  if (start.empty()) {
    return method.trainable;
  }
  REQUIRE(start.size() == method.trainable.size());
  for (const auto& [name, array] : method.trainable) {
    CAPTURE(name);
    REQUIRE(start.contains(name));
    CHECK(start.at(name).shape() == array.shape());
  }
  return start;
}

} // namespace

TEST_CASE("every method agrees with PEFT: logits, gradients, five steps") {
  for (const auto& name : kCases) {
    CAPTURE(name);
    Case now(name);
    validate(now.config);
    check_method(now.config, now.model.spec, now.model.config);
    auto method = make_method(now.config, now.model);
    const auto start = start_of(now, method);
    if (!method.start.empty()) {
      method.start = start; // the decomposition has a test of its own
    }
    split_off_start(now.model, method.lora, method.start);
    CHECK(max_difference(logits(now, method, start), now.tensors.at("logits")) < 1e-4F);

    TrainStep step(now.model, now.options(method));
    auto state = step.initial_state(start, 1);
    const auto batch = now.batch();
    const auto& losses = now.tensors.at("losses");
    for (int i = 0; i < losses.shape(0); ++i) {
      CAPTURE(i);
      auto taken = step.gradients(state, batch, 1.0F / static_cast<float>(batch.num_supervised));
      CHECK(std::abs(taken.loss.item<float>() - losses.data<float>()[i]) < 2e-4F);
      if (i == 0) {
        check_close(taken.gradients, under(now.tensors, "grad."), 1e-3F);
      }
      if (i + 1 < losses.shape(0)) {
        step.update(state, taken.gradients, now.about["optimizer"]["lr"].get<double>());
      }
    }
    check_close(state.trainable, under(now.tensors, "end."), 1e-3F);
  }
}

TEST_CASE("PiSSA decomposes as PEFT does, starts as the base model, and is saved as a plain LoRA over it") {
  Case now("pissa");
  const auto original = now.model;
  auto method = make_method(now.config, now.model);
  for (const auto& [layer, product_OI] : under(now.tensors, "product.")) {
    CAPTURE(layer);
    const auto found_IO =
        mx::matmul(method.trainable.at(layer + ".lora_a"), method.trainable.at(layer + ".lora_b"));
    CHECK(relative_difference(mx::transpose(found_IO), product_OI) < 1e-4F);
  }
  const auto peft_start = under(now.tensors, "start.");
  check_close(aligned(method.trainable, peft_start), peft_start, 1e-3F);

  Case plain("pissa");
  const auto base = logits(plain, {}, {});
  split_off_start(now.model, method.lora, method.start);
  CHECK(max_difference(logits(now, method, method.trainable), base) < 1e-4F);

  // After training: PEFT's conversion and ours are the same function of the original weights.
  const auto end = under(now.tensors, "end.");
  const auto saved = portable_params(end, peft_start);
  Method portable{portable_config(method.lora, method.start), {}, {}, {}, {}};
  CHECK(portable.lora.rank == now.about["saved"]["rank"].get<int>());
  CHECK(portable.lora.scale == doctest::Approx(now.about["saved"]["scale"].get<float>()));
  const auto by_saved = logits(plain, portable, saved);
  CHECK(max_difference(by_saved, logits(now, method, end)) < 2e-4F);
  CHECK(max_difference(by_saved, logits(plain, portable, under(now.tensors, "saved."))) < 2e-4F);
}

TEST_CASE("PiSSA by power iterations comes near the exact decomposition") {
  // Singular values that fall, as those of trained weights do.
  const auto u = mx::linalg::qr(randn({40, 24}, "u"), mx::Device::cpu).first;
  const auto v = mx::linalg::qr(randn({24, 24}, "v"), mx::Device::cpu).first;
  const auto s = mx::exp(-0.3F * mx::astype(mx::arange(24), mx::float32));
  for (const bool tall : {true, false}) {
    CAPTURE(tall);
    const auto product = mx::matmul(u * s, mx::transpose(v));
    const auto weight = tall ? product : mx::transpose(product);
    const auto rest = [&](std::optional<int> iterations) {
      const auto pair = pissa_factors(weight, 4, 2.0F, iterations, named_key(3, "w"));
      return mx::sqrt(mx::sum(mx::square(weight - 2.0F * mx::transpose(mx::matmul(pair.a, pair.b)))))
          .item<float>();
    };
    const float exact = rest(std::nullopt);
    const float best = mx::sqrt(mx::sum(mx::square(mx::slice(s, {4}, {24})))).item<float>(); // Eckart-Young
    CHECK(exact == doctest::Approx(best).epsilon(1e-4));
    CHECK(rest(4) < best * 1.001F);
    CHECK(rest(4) == rest(4)); // a random start, yet the same each time
  }
  CHECK(contains(message_of<ConfigError>([] {
                   pissa_factors(mx::ones({8, 3}), 4, 1.0F, {}, named_key(1, "w"));
                 }),
                 "rank 4 is more than a weight of shape [8, 3]"));
}
