#include "temper/train/step.h"

#include "train/support.h"

using namespace temper;
using namespace temper::test;

namespace {

// Loss and gradients of one batch, and of one batch a token weighs 1 / its count.
std::pair<float, Params> gradients(const Model& model, const Params& trainable, const HostBatch& batch,
                                   const StepOptions& options, std::uint64_t seed = 1) {
  TrainStep step(model, options);
  const auto state = step.initial_state(trainable, seed);
  auto result = step.gradients(state, batch, 1.0F / static_cast<float>(batch.num_supervised));
  mx::eval(values(result.gradients));
  return {result.loss.item<float>(), result.gradients};
}

void check_same(const Params& found, const Params& expected, float tolerance) {
  for (const auto& [name, gradient] : expected) {
    CAPTURE(name);
    CHECK(relative_difference(found.at(name), gradient) < tolerance);
  }
}

// Each tensor's gradient against the loss's slope along it.
void check_slopes(const Model& model, const Params& trainable, const HostBatch& batch,
                  const StepOptions& options) {
  constexpr float kStep = 5e-3F;
  const auto found = gradients(model, trainable, batch, options).second;
  for (const auto& [name, gradient] : found) {
    CAPTURE(name);
    auto length = mx::sqrt(mx::sum(mx::square(gradient)));
    const auto random = randn(gradient.shape(), name + "'s direction");
    // Half along the gradient, so that the slope is not lost in rounding, half anywhere.
    const auto direction = gradient / length + random / mx::sqrt(mx::sum(mx::square(random)));
    const auto at = [&](float h) {
      auto moved = trainable;
      moved.at(name) = moved.at(name) + mx::array(h) * direction;
      return gradients(model, moved, batch, options).first;
    };
    const float slope = (at(kStep) - at(-kStep)) / (2 * kStep);
    CHECK(slope == doctest::Approx(mx::sum(gradient * direction).item<float>()).epsilon(0.02).scale(0.02));
  }
}

const std::vector<Example> kExamples = uneven_examples(7);

TrainState after_update(TrainStep& step, TrainState state, const Params& gradients, bool* applied = nullptr,
                        double learning_rate = 1e-2) {
  auto outcome = step.update(state, gradients, learning_rate);
  mx::eval(values(state.trainable));
  if (applied != nullptr) {
    *applied = outcome.applied.item<bool>();
  }
  return state;
}

Params constant_gradients(const Params& like, float value) {
  Params made;
  for (const auto& [name, array] : like) {
    made.emplace(name, mx::full(array.shape(), value, mx::float32));
  }
  return made;
}

} // namespace

TEST_CASE("gradients agree with finite differences: LoRA and full, checkpointing on and off, packed and not") {
  const auto model = tiny_model();
  for (const bool full : {false, true}) {
    const auto trainable = full ? masters(model) : lora_factors(model);
    const auto expected = gradients(model, trainable, batch_of(kExamples, false), step_options());
    check_slopes(model, trainable, batch_of(kExamples, false), step_options());
    for (const bool checkpoint : {false, true}) {
      for (const bool packing : {false, true}) {
        for (const auto attention : attentions()) {
          CAPTURE(full);
          CAPTURE(checkpoint);
          CAPTURE(packing);
          auto options = step_options();
          options.checkpoint = checkpoint;
          options.attention = attention;
          const auto found = gradients(model, trainable, batch_of(kExamples, packing), options);
          CHECK(found.first == doctest::Approx(expected.first).epsilon(1e-5));
          check_same(found.second, expected.second, 1e-4F);
        }
      }
    }
  }
}

TEST_CASE("an untied head and biases train too") {
  const auto model = tiny_model({{"tie_word_embeddings", false}, {"attention_bias", true}, {"mlp_bias", true}});
  check_slopes(model, masters(model), batch_of(kExamples, true), step_options());
}

TEST_CASE("only the last blocks' weights, and a frozen head, may train") {
  const auto model = tiny_model();
  Params last;
  for (const auto& [name, array] : masters(model)) {
    if (name.starts_with("model.layers.1.")) {
      last.emplace(name, array);
    }
  }
  const auto all = gradients(model, masters(model), batch_of(kExamples, true), step_options()).second;
  const auto some = gradients(model, last, batch_of(kExamples, true), step_options()).second;
  CHECK(some.size() == last.size());
  for (const auto& [name, gradient] : some) {
    CHECK(relative_difference(gradient, all.at(name)) < 1e-5F);
  }
}

TEST_CASE("rule 1: batch 8x1 == 1x8, by the sum over supervised tokens") {
  const auto model = tiny_model();
  const auto trainable = lora_factors(model);
  const auto examples = uneven_examples(8);
  const auto whole = batch_of(examples, true);
  const auto expected = gradients(model, trainable, whole, step_options());
  TrainStep step(model, step_options());
  const auto state = step.initial_state(trainable, 1);
  auto loss = mx::array(0.0F);
  auto sum = constant_gradients(trainable, 0.0F);
  for (const auto& example : examples) {
    const auto part =
        step.gradients(state, batch_of({example}, true), 1.0F / static_cast<float>(whole.num_supervised));
    loss = loss + part.loss;
    for (auto& [name, array] : sum) {
      array = array + part.gradients.at(name);
    }
  }
  CHECK(loss.item<float>() == doctest::Approx(expected.first).epsilon(1e-5));
  check_same(sum, expected.second, 1e-4F);
}

TEST_CASE("rule 2: targets stop at the last real token") {
  // The same examples beside a much longer one: more padding, the same loss and gradient sums.
  const auto model = tiny_model();
  const auto trainable = lora_factors(model);
  auto longer = kExamples;
  Example silent;
  silent.tokens.assign(60, 7);
  silent.supervised.assign(60, 0);
  longer.push_back(silent);
  const auto narrow = batch_of(kExamples, false);
  const auto wide = batch_of(longer, false);
  REQUIRE(wide.width > narrow.width);
  REQUIRE(wide.num_supervised == narrow.num_supervised);
  const auto expected = gradients(model, trainable, narrow, step_options());
  const auto found = gradients(model, trainable, wide, step_options());
  CHECK(found.first == doctest::Approx(expected.first).epsilon(1e-5));
  check_same(found.second, expected.second, 1e-4F);
}

TEST_CASE("rule 2: an end token with the padding's id is learned") {
  const auto model = tiny_model();
  const Example ends{{5, 6, 7, 0}, {0, 1, 1, 1}};
  const Example open{{5, 6, 7}, {0, 1, 1}};
  const auto with = batch_of({ends, uneven_examples(3)[2]}, false);
  const auto without = batch_of({open, uneven_examples(3)[2]}, false);
  CHECK(with.num_supervised == without.num_supervised + 1);
  TrainStep step(model, step_options());
  const auto state = step.initial_state(lora_factors(model), 1);
  auto longer = step.gradients(state, with, 1.0F).loss;
  auto shorter = step.gradients(state, without, 1.0F).loss;
  // What the end token adds is -log of its probability: more than nothing.
  CHECK(longer.item<float>() > shorter.item<float>() + 0.1F);
}

TEST_CASE("dropout's mask depends on seed and micro-step alone") {
  const auto model = tiny_model();
  const auto batch = batch_of(kExamples, true);
  const auto loss = [&](std::uint64_t seed, std::int64_t micro_step, bool checkpoint) {
    auto options = step_options("adam", 0.4F);
    options.checkpoint = checkpoint;
    TrainStep step(model, options);
    auto state = step.initial_state(lora_factors(model), seed);
    state.micro_step = micro_step;
    auto found = step.gradients(state, batch, 1.0F).loss;
    return found.item<float>();
  };
  CHECK(loss(1, 4, false) == loss(1, 4, false));
  CHECK(loss(1, 4, true) == doctest::Approx(loss(1, 4, false)).epsilon(1e-6));
  CHECK(loss(1, 4, false) != loss(1, 5, false));
  CHECK(loss(1, 4, false) != loss(2, 4, false));
}

TEST_CASE("a loss of one's own is used") {
  auto options = step_options();
  options.loss = [](const mx::array& hidden, const Head& head, const LossTargets& targets) {
    return 3.0F * plain_cross_entropy(hidden, head, targets);
  };
  const auto model = tiny_model();
  const auto batch = batch_of(kExamples, true);
  const auto own = gradients(model, lora_factors(model), batch, options);
  const auto usual = gradients(model, lora_factors(model), batch, step_options());
  CHECK(own.first == doctest::Approx(3 * usual.first).epsilon(1e-5));
  for (const auto& [name, gradient] : usual.second) {
    CHECK(relative_difference(own.second.at(name), 3.0F * gradient) < 1e-4F);
  }
}

TEST_CASE("rule 10: a gradient that is not finite changes nothing, bit for bit") {
  const auto model = tiny_model();
  const auto trainable = lora_factors(model);
  TrainStep step(model, step_options("adamw"));
  bool applied = false;
  // A first step, so that the moments are not zero.
  const auto before =
      after_update(step, step.initial_state(trainable, 1), constant_gradients(trainable, 0.1F), &applied);
  CHECK(applied);
  for (const float poison : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    auto bad = constant_gradients(trainable, 0.1F);
    const auto third = std::next(bad.begin(), 2);
    const auto place = mx::equal(mx::arange(static_cast<int>(third->second.size())), mx::array(1));
    third->second = mx::where(mx::reshape(place, third->second.shape()), mx::array(poison), third->second);
    auto state = before;
    auto outcome = step.update(state, bad, 1e-2);
    CHECK_FALSE(outcome.applied.item<bool>());
    CHECK(same_bits(state.trainable, before.trainable));
    CHECK(same_bits(state.optimizer, before.optimizer));
    CHECK(same_bits(state.count, before.count));
    mx::eval(outcome.finite);
    for (int i = 0; i < outcome.finite.shape(0); ++i) {
      CHECK(outcome.finite.data<bool>()[i] == (i != 2));
    }
  }
}

TEST_CASE("rule 10: a loss that is not finite skips the step even if the gradient is") {
  auto options = step_options();
  options.loss = [](const mx::array& hidden, const Head& head, const LossTargets& targets) {
    const auto infinite = mx::array(std::numeric_limits<float>::infinity());
    return plain_cross_entropy(hidden, head, targets) + mx::stop_gradient(infinite);
  };
  const auto model = tiny_model();
  TrainStep step(model, options);
  auto state = step.initial_state(lora_factors(model), 1);
  const auto found = step.gradients(state, batch_of(kExamples, true), 0.1F);
  auto outcome = step.update(state, found.gradients, 1e-2);
  CHECK_FALSE(outcome.applied.item<bool>());
}

TEST_CASE("clipping bounds the update's gradient; the norm reported is the one before") {
  const auto model = tiny_model();
  const auto trainable = lora_factors(model);
  auto options = step_options("sgd");
  options.optimizer.config.sgd.weight_decay = 0;
  options.max_grad_norm = 0.5;
  TrainStep step(model, options);
  auto state = step.initial_state(trainable, 1);
  auto outcome = step.update(state, constant_gradients(trainable, 0.1F), 1.0);
  const float norm = 0.1F * std::sqrt(static_cast<float>(num_elements(trainable)));
  REQUIRE(norm > 0.5F);
  CHECK(outcome.grad_norm.item<float>() == doctest::Approx(norm).epsilon(1e-4));
  double moved = 0;
  for (const auto& [name, array] : state.trainable) {
    auto part = mx::sum(mx::square(array - trainable.at(name)));
    moved += part.item<float>();
  }
  CHECK(std::sqrt(moved) == doctest::Approx(0.5).epsilon(1e-3));

  options.max_grad_norm = 0;
  TrainStep free(model, options);
  const auto far =
      after_update(free, free.initial_state(trainable, 1), constant_gradients(trainable, 0.1F), nullptr, 1.0);
  const auto& [name, array] = *far.trainable.begin();
  CHECK(max_difference(trainable.at(name) - array, mx::full(array.shape(), 0.1F, mx::float32)) < 1e-6F);
}

TEST_CASE("rule 6: full fine-tuning in bf16 moves the weights as fp32 does") {
  const auto train = [](mx::Dtype dtype) {
    const auto rounded = cast_model(tiny_model(), mx::bfloat16); // both start from the same numbers
    const auto model = cast_model(rounded, dtype);
    TrainStep step(model, step_options());
    auto state = step.initial_state(masters(model), 1);
    const auto start = state.trainable;
    for (int i = 0; i < 10; ++i) {
      const auto batch = batch_of(uneven_examples(7), true);
      const auto found = step.gradients(state, batch, 1.0F / static_cast<float>(batch.num_supervised));
      step.update(state, found.gradients, 1e-5);
      mx::eval(values(state.trainable));
    }
    Params moved;
    for (const auto& [name, array] : state.trainable) {
      CHECK(array.dtype() == mx::float32);
      moved.emplace(name, array - start.at(name));
    }
    return moved;
  };
  const auto half = train(mx::bfloat16);
  const auto single = train(mx::float32);
  for (const auto& [name, change] : single) {
    CAPTURE(name);
    const auto length = [](const mx::array& x) { return mx::sqrt(mx::sum(mx::square(x))); };
    auto cosine = mx::sum(change * half.at(name)) / (length(change) * length(half.at(name)));
    auto ratio = length(half.at(name)) / length(change);
    CHECK(cosine.item<float>() > 0.95F);
    CHECK(ratio.item<float>() == doctest::Approx(1.0).epsilon(0.03));
  }
}

TEST_CASE("fp16 scales its loss: gradients stay, an overflow halves the scale, quiet steps double it") {
  const auto model = cast_model(tiny_model(), mx::float16);
  auto options = step_options();
  options.scale_loss = true;
  TrainStep step(model, options);
  const auto trainable = lora_factors(model);
  auto state = step.initial_state(trainable, 1);
  CHECK(state.loss_scale.item<float>() == 65536.0F);

  // The scale is taken out again: the gradients are fp32's up to fp16's rounding.
  state.loss_scale = mx::array(1024.0F);
  const auto batch = batch_of(kExamples, true);
  const float weight = 1.0F / static_cast<float>(batch.num_supervised);
  auto found = step.gradients(state, batch, weight);
  const auto single = cast_model(model, mx::float32);
  const auto expected = gradients(single, trainable, batch, step_options());
  CHECK(found.loss.item<float>() == doctest::Approx(expected.first).epsilon(0.01));
  for (const auto& [name, gradient] : expected.second) {
    CAPTURE(name);
    CHECK(gradient.dtype() == mx::float32);
    CHECK(relative_difference(found.gradients.at(name), gradient) < 0.05F);
  }

  auto overflow = constant_gradients(trainable, 0.1F);
  overflow.begin()->second = overflow.begin()->second * std::numeric_limits<float>::infinity();
  state.good_steps = mx::array(7, mx::int32);
  auto after = after_update(step, state, overflow);
  CHECK(after.loss_scale.item<float>() == 512.0F);
  CHECK(after.good_steps.item<int>() == 0);
  CHECK(same_bits(after.trainable, trainable));

  state.loss_scale = mx::array(1.0F);
  after = after_update(step, state, overflow);
  CHECK(after.loss_scale.item<float>() == 1.0F);

  state.loss_scale = mx::array(1024.0F);
  state.good_steps = mx::array(1998, mx::int32);
  after = after_update(step, state, constant_gradients(trainable, 0.1F));
  CHECK(after.loss_scale.item<float>() == 1024.0F);
  after = after_update(step, after, constant_gradients(trainable, 0.1F));
  CHECK(after.loss_scale.item<float>() == 2048.0F);
  CHECK(after.good_steps.item<int>() == 0);
}

TEST_CASE("fp16's scale lets gradients through that fp16 itself would lose") {
  // Supervised tokens of a large step weigh so little that their logits' gradients vanish in fp16.
  const auto model = cast_model(tiny_model(), mx::float16);
  const auto batch = batch_of(kExamples, true);
  const auto norm_of = [&](bool scaled) {
    auto options = step_options();
    options.scale_loss = scaled;
    TrainStep step(model, options);
    const auto state = step.initial_state(lora_factors(model), 1);
    auto norm = global_norm(step.gradients(state, batch, 1e-8F).gradients);
    return norm.item<float>();
  };
  CHECK(norm_of(false) == 0.0F);
  CHECK(norm_of(true) > 0.0F);
}
