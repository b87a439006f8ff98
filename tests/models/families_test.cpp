// Every family against transformers (tests/golden/make_family_fixtures.py made the fixtures), and what must
// hold for each: nothing unknown in its config, saving and loading, training, packing.
#include "models/families.h"
#include "models/mean_loss.h"

#include <set>

#include "temper/base/error.h"
#include "temper/base/log.h"
#include "temper/models/registry.h"
#include "train/support.h"

using namespace temper;
using namespace temper::test;

namespace {

// Loss, with the gradient of every floating parameter but quantized ones' scales.
std::pair<float, Params> all_gradients(const Model& model, const mx::array& tokens, bool checkpoint) {
  Params trainable;
  for (const auto& [name, array] : model.params) {
    if (mx::issubdtype(array.dtype(), mx::floating) && !name.ends_with(".scales") &&
        !name.ends_with(".biases")) {
      trainable.emplace(name, array);
    }
  }
  std::vector<int> all(trainable.size());
  std::iota(all.begin(), all.end(), 0);
  const auto loss_of = [&](const Arrays& in) {
    const auto own = with_values(trainable, in);
    return mean_loss(model.spec, ParamView(model.params, &own), tokens, checkpoint);
  };
  auto [loss, gradients] = mx::value_and_grad(Function(loss_of), all)(values(trainable));
  mx::eval(gradients);
  return {loss.item<float>(), with_values(trainable, gradients)};
}

// The fixture's checkpoint with zeros for every tensor but `named`, unquantized, as the loader reads it.
Params load_in_place(const std::string& name, const Params& named) {
  Params stored;
  for (const auto& [tensor, array] : load_safetensors(kFamilyFixtures / name / "model.safetensors")) {
    auto shape = array.shape();
    auto plain = tensor;
    if (tensor.ends_with("_scales")) {
      continue;
    }
    if (tensor.ends_with("_blocks")) { // [E, O, I / 32, 16] of what is [E, I, O] otherwise
      plain = tensor.substr(0, tensor.size() - 7);
      shape = {shape[0], shape[2] * 32, shape[1]};
    }
    const auto found = named.find(plain);
    stored.emplace(plain, found == named.end() ? mx::zeros(shape) : found->second);
  }
  const TempFolder folder;
  save_safetensors(folder.path() / "model.safetensors", stored);
  auto config = read_json(kFamilyFixtures / name / "config.json");
  config.erase("quantization_config");
  write_json(folder.path() / "config.json", config);
  return load_model(folder.path(), "float32").params;
}

struct ExpectedGradient {
  mx::array gradient;
  mx::array known; // 1 where the fixture says something, 0 elsewhere (other experts)
};

// The fixture's gradients under our names, brought there by the loader: it does no more than rename, cut,
// stack and, for some norms, add 1.
std::map<std::string, ExpectedGradient> expected_gradients(const std::string& name, const Params& expected) {
  Params gradients;
  Params ones;
  for (const auto& [key, array] : expected) {
    if (key.starts_with("grad.")) {
      const auto tensor = key.substr(5);
      gradients.emplace(tensor, array);
      ones.emplace(tensor, mx::ones_like(array));
    }
  }
  const auto nothing = load_in_place(name, {});
  const auto placed = load_in_place(name, gradients);
  const auto marks = load_in_place(name, ones);
  std::map<std::string, ExpectedGradient> found;
  std::int64_t elements = 0;
  for (const auto& [tensor, base] : nothing) {
    const auto known = marks.at(tensor) - base;
    const auto count = mx::sum(known).item<float>();
    elements += static_cast<std::int64_t>(count);
    if (count > 0) {
      found.emplace(tensor, ExpectedGradient{placed.at(tensor) - base, known});
    }
  }
  REQUIRE(elements == num_elements(gradients));
  return found;
}

// Collects what is logged while it lives.
struct LogLines {
  std::string lines;

  LogLines() {
    log::set_writer([this](std::string_view line) { lines += std::string(line) + "\n"; });
  }
  ~LogLines() {
    log::set_writer(nullptr);
  }
  LogLines(const LogLines&) = delete;
  LogLines& operator=(const LogLines&) = delete;
};

const std::vector<int> kLengths{40, 7, 22, 2, 13, 31, 70};

std::pair<float, Params> lora_gradients(const Model& model, const Params& factors, bool packing,
                                        PackedAttention attention, bool checkpoint,
                                        AttentionKernel kernel = AttentionKernel::automatic) {
  auto options = step_options();
  options.attention_kernel = kernel;
  options.attention = attention;
  options.checkpoint = checkpoint;
  TrainStep step(model, options);
  const auto batch = family_batch(kLengths, packing);
  REQUIRE(batch.packed == packing);
  auto found =
      step.gradients(step.initial_state(factors, 1), batch, 1.0F / static_cast<float>(batch.num_supervised));
  mx::eval(values(found.gradients));
  return {found.loss.item<float>(), found.gradients};
}

} // namespace

TEST_CASE("every family that there is has a fixture") {
  std::set<std::string> tested;
  for (const auto& name : family_names()) {
    tested.insert(load_spec(kFamilyFixtures / name).model_type);
  }
  for (const auto& family : families()) {
    for (const auto& type : family.model_types) {
      CAPTURE(type);
      CHECK((tested.contains(type) || type == "llama" || type == "mistral")); // golden_test.cpp has these two
    }
  }
}

TEST_CASE("logits agree with transformers to 1e-4 in fp32") {
  for (const auto& name : family_names()) {
    CAPTURE(name);
    const auto expected = family_expected(name);
    CHECK(max_difference(logits(family_model(name), expected.at("input_ids")), expected.at("logits")) < 1e-4F);
  }
}

TEST_CASE("longrope's short factors hold within the trained length") {
  for (const auto& name : family_names()) {
    if (std::filesystem::exists(kFamilyFixtures / name / "short.safetensors")) {
      const auto expected = family_expected(name, "short");
      CHECK(max_difference(logits(family_model(name), expected.at("input_ids")), expected.at("logits")) <
            1e-4F);
    }
  }
}

TEST_CASE("loss and one gradient for each kind of tensor agree with torch, checkpointing on and off") {
  for (const auto& name : family_names()) {
    CAPTURE(name);
    const auto model = family_model(name);
    const auto expected = family_expected(name);
    const auto wanted = expected_gradients(name, expected);
    for (const bool checkpoint : {false, true}) {
      CAPTURE(checkpoint);
      const auto [loss, gradients] = all_gradients(model, expected.at("input_ids"), checkpoint);
      auto wanted_loss = expected.at("loss");
      CHECK(loss == doctest::Approx(wanted_loss.item<float>()).epsilon(1e-5));
      for (const auto& [tensor, want] : wanted) {
        CAPTURE(tensor);
        if (!gradients.contains(tensor)) { // a quantized weight has no gradient
          CHECK(model.params.at(tensor).dtype() == mx::uint32);
          continue;
        }
        const auto largest = mx::max(mx::abs(want.gradient)).item<float>();
        CHECK(max_difference(gradients.at(tensor) * want.known, want.gradient) < 1e-4F * largest + 1e-6F);
      }
    }
  }
}

TEST_CASE("configs as the hub has them are read without a warning") {
  LogLines log;
  for (const auto& name : family_names()) {
    CAPTURE(name);
    // With an origin of its own: a warning is given once.
    read_spec(read_json(kFamilyFixtures / name / "config.json"), name + " read for its warnings");
    CHECK(log.lines == "");
    log.lines.clear();
  }
}

TEST_CASE("whatever stands in a config, reading it ends in a spec or a ModelError") {
  const std::vector<Json> strange{0,
                                  -1,
                                  1,
                                  0.5,
                                  true,
                                  "x",
                                  nullptr,
                                  Json::array(),
                                  Json::object(),
                                  Json::array({0}),
                                  Json::array({-1}),
                                  Json::array({"x"})};
  const auto try_each = [&](const Json& config, Json& changed, const Json::json_pointer& place) {
    for (const auto& value : strange) {
      changed = config;
      changed[place] = value;
      try {
        read_spec(changed, "changed");
      } catch (const ModelError& error) {
        CHECK(std::string(error.what()).starts_with("changed"));
      }
    }
  };
  LogLines log;
  for (const auto& name : family_names()) {
    CAPTURE(name);
    const auto config = read_json(kFamilyFixtures / name / "config.json");
    Json changed;
    CAPTURE(changed);
    const auto flat = config.flatten();
    for (const auto& [key, value] : flat.items()) {
      try_each(config, changed, Json::json_pointer(key));
    }
    for (const auto& [key, value] : config.items()) {
      try_each(config, changed, Json::json_pointer("/" + key));
    }
  }
}

TEST_CASE("configs as transformers 5 writes them say the same") {
  LogLines log;
  for (const auto& name : family_names()) {
    CAPTURE(name);
    const TempFolder folder;
    std::filesystem::copy(kFamilyFixtures / name / "model.safetensors", folder.path());
    std::filesystem::copy(kFamilyFixtures / name / "saved_config.json", folder.path() / "config.json");
    const auto tokens = family_expected(name).at("input_ids");
    CHECK(same_bits(logits(load_model(folder.path(), "float32"), tokens), logits(family_model(name), tokens)));
    CHECK(log.lines == "");
    log.lines.clear();
  }
}

TEST_CASE("a saved model loads again and computes the same") {
  for (const auto& name : family_names()) {
    CAPTURE(name);
    const auto model = family_model(name);
    const TempFolder folder;
    save_model(folder.path(), model, model.params);
    const auto again = load_model(folder.path(), "float32");
    CHECK(same_bits(again.params, model.params));
    const auto tokens = family_expected(name).at("input_ids");
    CHECK(same_bits(logits(again, tokens), logits(model, tokens)));
  }
}

TEST_CASE("twenty steps of LoRA lower the loss") {
  const auto batch = family_batch({31, 20, 9}, true);
  for (const auto& name : family_names()) {
    CAPTURE(name);
    const auto model = family_model(name);
    const auto losses = lora_losses(model, batch, 20);
    CHECK(losses.back() < 0.85F * losses.front());
    for (std::size_t i = 5; i < losses.size(); ++i) {
      CHECK(losses[i] < losses[i - 5]);
    }
  }
}

TEST_CASE("rule 9: packed and unpacked, checkpointed and not, losses and gradients are the same") {
  for (const auto& name : family_names()) {
    CAPTURE(name);
    const auto model = family_model(name);
    const auto factors = lora_factors(model);
    const auto expected = lora_gradients(model, factors, false, PackedAttention::dense_mask, false);
    for (const auto attention : attentions()) {
      for (const bool checkpoint : {false, true}) {
        CAPTURE(attention);
        CAPTURE(checkpoint);
        const auto found = lora_gradients(model, factors, true, attention, checkpoint);
        CHECK(found.first == doctest::Approx(expected.first).epsilon(1e-5));
        for (const auto& [tensor, gradient] : expected.second) {
          CAPTURE(tensor);
          CHECK(relative_difference(found.second.at(tensor), gradient) < 2e-4F);
        }
      }
    }
  }
}

TEST_CASE("attention in blocks gives every family the same losses and gradients, packed and not") {
  for (const auto& name : family_names()) {
    CAPTURE(name);
    const auto model = family_model(name);
    const auto factors = lora_factors(model);
    const auto expected = lora_gradients(model, factors, false, PackedAttention::dense_mask, false);
    for (const bool packing : {false, true}) {
      CAPTURE(packing);
      const auto found =
          lora_gradients(model, factors, packing, PackedAttention::dense_mask, false, AttentionKernel::blocked);
      CHECK(found.first == doctest::Approx(expected.first).epsilon(1e-5));
      for (const auto& [tensor, gradient] : expected.second) {
        CAPTURE(tensor);
        CHECK(relative_difference(found.second.at(tensor), gradient) < 2e-4F);
      }
    }
  }
}

TEST_CASE("experts' load balance is counted over real tokens, and only where there are experts") {
  for (const auto& name : family_names()) {
    CAPTURE(name);
    const auto model = family_model(name);
    TrainStep step(model, step_options());
    const auto state = step.initial_state(lora_factors(model), 1);
    const auto balance = [&](bool packing) {
      return step.gradients(state, family_batch({40, 24}, packing), 0.1F).load_balance;
    };
    auto found = balance(false); // 17 of 80 columns are padding
    CHECK(found.has_value() == (model.spec.moe.num_experts > 0));
    if (found) {
      CHECK(found->item<float>() > 0.99F);
      CHECK(found->item<float>() < static_cast<float>(model.spec.moe.num_experts));
      CHECK(balance(true)->item<float>() == doctest::Approx(found->item<float>()).epsilon(1e-4));
    }
  }
}

TEST_CASE("a traced step computes what the plain one does") {
  for (const auto& name : family_names()) {
    CAPTURE(name);
    const auto model = family_model(name);
    const auto factors = lora_factors(model);
    const auto attention = default_packed_attention(model.spec, mx::float32);
    const auto expected = lora_gradients(model, factors, true, attention, true);
    mx::set_compile_mode(mx::CompileMode::no_fuse); // traced, without kernels to build
    const auto found = lora_gradients(model, factors, true, attention, true);
    mx::disable_compile();
    CHECK(found.first == doctest::Approx(expected.first).epsilon(1e-6));
    for (const auto& [tensor, gradient] : expected.second) {
      CAPTURE(tensor);
      CHECK(relative_difference(found.second.at(tensor), gradient) < 1e-5F);
    }
  }
}

TEST_CASE("in bfloat16 tokens' logits stay near") {
  for (const auto& name : family_names()) {
    CAPTURE(name);
    const auto model = load_model(kFamilyFixtures / name, "bfloat16");
    const auto expected = family_expected(name);
    const auto found = logits(model, expected.at("input_ids"));
    CHECK(found.dtype() == mx::bfloat16);
    const auto wanted = expected.at("logits");
    const auto error = mx::sqrt(mx::mean(mx::square(found - wanted), 2)) / mx::std(wanted);
    // Most of them; where a token goes to another expert, it and what follows it are far off.
    const auto sorted = mx::sort(mx::flatten(error));
    const int share = model.spec.moe.num_experts > 0 ? 10 : 2;
    CHECK(mx::take(sorted, static_cast<int>(sorted.size()) / share).item<float>() < 0.05F);
  }
}
