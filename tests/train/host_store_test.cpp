// Recomputed blocks whose inputs wait in host memory: the same bits as where they wait on the device.
#include "temper/nn/host_store.h"

#include "temper/nn/device.h"
#include "temper/nn/graph_memory.h"
#include "train/support.h"
#include "train/workshop.h"

using namespace temper;
using namespace temper::test;

namespace {

// Two runs of a GPU differ in their last bits as they are.
bool is_deterministic() {
  return mx::default_device() == mx::Device::cpu;
}

std::shared_ptr<HostStore> a_store() {
  auto store = HostStore::for_device();
  return store ? store : std::make_shared<HostStore>();
}

// Steps over batches of two sizes, in two parts each.
struct Found {
  std::vector<double> losses;
  std::vector<double> norms;
  Params trainable;
};

Found train(mx::Dtype dtype, bool full, std::shared_ptr<HostStore> store) {
  Setting setting(5, 6);
  setting.model = cast_model(tiny_model(), dtype);
  setting.full = full;
  setting.step.checkpoint = true;
  setting.step.host_store = std::move(store);
  setting.trainer.grad_accumulation_steps = 2;
  setting.trainer.loader.micro_batch_tokens = 64;
  Training training(std::move(setting));
  training.run();
  Found found{training.record().losses(), {}, training.state().trainable};
  for (const auto& step : training.record().steps) {
    found.norms.push_back(step.grad_norm);
  }
  return found;
}

} // namespace

TEST_CASE("what is put comes back bit for bit, and the slot serves again") {
  const auto owner = a_store();
  auto& store = *owner;
  for (const auto dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    for (int round = 0; round < 3; ++round) {
      auto x = mx::astype(randn({3, 5, 16}, "x" + std::to_string(round)), dtype);
      auto back = store.get(1, store.put(1, x), x.shape(), dtype);
      CHECK(mx::array_equal(back, x).item<bool>());
    }
  }
  CHECK(store.num_bytes() == 3 * 5 * 16 * (4 + 2)); // both halves share a slot's memory
  CHECK(!HostStore::takes(mx::zeros({4, 3})));
}

TEST_CASE("a gradient through the store is the gradient") {
  const auto store = a_store();
  const auto f = [](const std::vector<mx::array>& in) {
    return std::vector<mx::array>{mx::tanh(mx::matmul(in[0], in[1])), mx::sum(mx::square(in[0]))};
  };
  const std::vector<mx::array> inputs{randn({6, 16}, "a"), randn({16, 8}, "b")};
  const std::vector<mx::array> cotangents{randn({6, 8}, "c"), mx::array(0.5F)};
  const auto expected = mx::vjp(recomputed(f), inputs, cotangents);
  const auto got = mx::vjp(recomputed_from_host(f, *store, 0), inputs, cotangents);
  REQUIRE(got.first.size() == 2);
  REQUIRE(got.second.size() == 2);
  for (int i = 0; i < 2; ++i) {
    const auto at = static_cast<std::size_t>(i);
    CHECK(mx::array_equal(got.first[at], expected.first[at]).item<bool>());
    CHECK(mx::array_equal(got.second[at], expected.second[at]).item<bool>());
  }
}

TEST_CASE("training with inputs on the host is training with them on the device, bit for bit") {
  for (const auto dtype : {mx::float32, mx::bfloat16}) {
    for (const bool full : {false, true}) {
      CAPTURE(full);
      const auto store = a_store();
      const auto expected = train(dtype, full, nullptr);
      const auto got = train(dtype, full, store);
      if (is_deterministic()) {
        CHECK(got.losses == expected.losses);
        CHECK(got.norms == expected.norms);
        CHECK(same_bits(got.trainable, expected.trainable));
      }
      for (std::size_t i = 0; i < expected.losses.size(); ++i) {
        CHECK(got.losses.at(i) == doctest::Approx(expected.losses[i]).epsilon(1e-2));
      }
      CHECK(store->num_bytes() > 0);
    }
  }
}

TEST_CASE("recomputed blocks' inputs take no memory of the device") {
  const auto model = tiny_model({{"num_hidden_layers", 6}});
  const auto batch = batch_of(uneven_examples(24), true);
  const auto store = a_store();
  const auto peak = [&](bool on_host) {
    auto options = step_options();
    options.checkpoint = true;
    options.host_store = on_host ? store : nullptr;
    TrainStep step(model, options);
    const auto state = step.initial_state(lora_factors(model), 1);
    auto part = step.gradients(state, batch, 1.0F);
    auto outputs = values(part.gradients);
    part.gradients.clear();
    return graph_memory(outputs).peak;
  };
  // All of the six but the one at work.
  const auto input = std::int64_t{batch.rows} * batch.width * model.spec.hidden_size * 4;
  CHECK(peak(false) - peak(true) >= 4 * input);
  CHECK(static_cast<std::int64_t>(store->num_bytes()) == 6 * input);
}

TEST_CASE("checkpoints_on_host is a key like any other, and changes no loss") {
  const Workshop shop;
  auto config = shop.config();
  config.grad_checkpoint = true;
  run_training(config);
  const auto expected = numbers(events(shop.run(), "step"), "loss");
  config.checkpoints_on_host = true;
  config.run_dir = shop.run().string() + "-host";
  run_training(config);
  const auto losses = numbers(events(config.run_dir, "step"), "loss");
  if (is_deterministic()) {
    CHECK(losses == expected);
  }
  CHECK(losses.back() == doctest::Approx(expected.back()).epsilon(1e-2));
}
