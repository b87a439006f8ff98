// Whole runs, from a configuration and files to a run folder.
#include "temper/train/run.h"

#include "temper/base/error.h"
#include "temper/io/adapters.h"
#include "temper/train/checkpoint.h"
#include "train/workshop.h"

using namespace temper;
using namespace temper::test;

TEST_CASE("a run leaves its folder: manifest, events, adapters, checkpoints") {
  const Workshop shop;
  auto config = shop.config();
  config.test = true;
  config.generate = {"train 7"};
  config.generate_tokens = 4;
  const auto result = run_training(config);
  CHECK(result.reason == "completed");
  CHECK(result.steps == 6);
  CHECK(result.run_dir == shop.run().string());

  const auto manifest = read_json(shop.run() / "run.json");
  CHECK(manifest.at("config").at("iters") == 6);
  CHECK(manifest.at("dtype") == "float32");
  CHECK(manifest.at("seed") == 3);
  CHECK_FALSE(manifest.at("dataset").at("fingerprint").get<std::string>().empty());
  CHECK(manifest.at("result").at("reason") == "completed");
  CHECK(manifest.at("result").at("test_loss").get<double>() > 0);

  const auto all = events(shop.run());
  CHECK(all.front().at("type") == "run_started");
  CHECK(all.front().at("train_examples") == 20);
  CHECK(all.front().at("iters") == 6);
  CHECK(all.back().at("type") == "finished");
  CHECK(numbers(events(shop.run(), "step"), "step") == std::vector<double>{1, 2, 3, 4, 5, 6});
  const auto evals = events(shop.run(), "eval");
  CHECK(numbers(evals, "step") == std::vector<double>{0, 2, 4, 6, 6});
  CHECK(evals.back().at("split") == "test");
  const auto samples = events(shop.run(), "sample");
  REQUIRE(samples.size() == 1);
  CHECK(samples[0].at("prompt") == "train 7");
  CHECK(samples[0].contains("base"));
  CHECK(samples[0].contains("tuned"));

  const auto spec = tiny_model().spec;
  CHECK(load_adapter(shop.run(), spec).params.size() == 2 * 7 * 2);
  CHECK(load_adapter(shop.run() / "0000003_adapters.safetensors", spec).lora.rank == 2);
  CHECK(load_adapter(shop.run() / "checkpoints" / "best", spec).lora.dropout == doctest::Approx(0.1));
  CHECK(list_checkpoints(shop.run() / "checkpoints").size() == 2);
}

TEST_CASE("rule 7: a run that is interrupted and resumed writes what an uninterrupted one writes") {
  const Workshop shop;
  auto config = shop.config();
  config.grad_accumulation_steps = 2;
  config.lr_schedule.name = "cosine";
  config.warmup_steps = 2;
  config.optimizer = "adamw";
  run_training(config);
  const auto expected = numbers(events(shop.run(), "step"), "loss");
  const auto expected_evals = numbers(events(shop.run(), "eval"), "loss");
  const auto adapters = load_adapter(shop.run(), tiny_model().spec).params;

  config.run_dir = shop.run().string() + "-stopped";
  std::atomic<int> signal{0};
  RunHooks hooks;
  hooks.interrupt = &signal;
  hooks.callbacks = {std::make_shared<Interrupter>(5, signal)};
  const auto stopped = run_training(config, hooks);
  CHECK(stopped.reason == "interrupted");
  CHECK(stopped.steps == 5);

  auto go_on = resumed_config(stopped.run_dir);
  CHECK(go_on.resume == stopped.run_dir);
  CHECK(go_on.iters == 6);
  CHECK(go_on.optimizer == "adamw");
  CHECK(run_training(go_on).reason == "completed");
  CHECK(numbers(events(stopped.run_dir, "step"), "loss") == expected);
  CHECK(numbers(events(stopped.run_dir, "eval"), "loss") == expected_evals);
  CHECK(same_bits(load_adapter(stopped.run_dir, tiny_model().spec).params, adapters));

  // From an earlier checkpoint too: what came after it is written again, not doubled.
  go_on = resumed_config(stopped.run_dir + "/checkpoints/0000003");
  CHECK(go_on.run_dir == stopped.run_dir);
  run_training(go_on);
  CHECK(numbers(events(stopped.run_dir, "step"), "loss") == expected);
  CHECK(numbers(events(stopped.run_dir, "eval"), "loss") == expected_evals);
  CHECK(same_bits(load_adapter(stopped.run_dir, tiny_model().spec).params, adapters));
}

TEST_CASE("a checkpoint goes on with the same data only") {
  const Workshop shop;
  auto config = shop.config();
  config.iters = 3;
  run_training(config);
  std::ofstream(shop.data() / "train.jsonl", std::ios::app)
      << Json{{"prompt", "new"}, {"completion", "row"}} << "\n";
  auto go_on = resumed_config(shop.run().string());
  go_on.iters = 6;
  const auto message = message_of<CheckpointError>([&] { run_training(go_on); });
  CHECK(contains(message, "other data"));
}

TEST_CASE("full fine-tuning leaves a model folder that loads") {
  const Workshop shop;
  auto config = shop.config();
  config.fine_tune_type = "full";
  config.val_batches = 0;
  run_training(config);
  const auto tuned = load_model(shop.run() / "model", "float32");
  const auto base = load_model(shop.model(), "float32");
  CHECK_FALSE(same_bits(tuned.params, base.params));
  CHECK(same_bits(tuned.params, load_adapter(shop.run(), base.spec).params));
  CHECK(fs::exists(shop.run() / "model" / "tokenizer.json"));
  CHECK(events(shop.run(), "eval").empty());
}

TEST_CASE("epochs become steps; adapters of another run may be gone on from") {
  const Workshop shop;
  auto config = shop.config();
  config.epochs = 1.5;
  CHECK(run_training(config).steps == 8); // 5 batches a pass
  config.epochs.reset();
  config.iters = 2;
  config.resume_adapter_file = (shop.run() / "adapters.safetensors").string();
  config.run_dir = shop.run().string() + "-2";
  run_training(config);
  const auto first = events(shop.run(), "eval").back().at("loss").get<double>();
  CHECK(events(config.run_dir, "eval").front().at("loss").get<double>() ==
        doctest::Approx(first).epsilon(1e-5));
}

TEST_CASE("testing without training measures the adapters and writes nothing") {
  const Workshop shop;
  auto config = shop.config();
  config.test = true;
  const auto trained = run_training(config);
  config.train = false;
  config.run_dir.clear();
  config.adapter_path = shop.run().string();
  const auto before = read_file(shop.run() / "events.jsonl");
  const auto tested = run_training(config);
  CHECK(tested.summary.at("test_loss").get<double>() ==
        doctest::Approx(trained.summary.at("test_loss").get<double>()).epsilon(1e-5));
  CHECK(read_file(shop.run() / "events.jsonl") == before);
}

TEST_CASE("a run that is refused leaves nothing behind") {
  const Workshop shop;
  const auto refuse = [&](const std::function<void(RunConfig&)>& spoil) {
    auto config = shop.config();
    spoil(config);
    CHECK_THROWS_AS(run_training(config), Error);
    CHECK_FALSE(fs::exists(shop.run()));
  };
  refuse([](RunConfig& c) { c.model += "-gone"; });
  refuse([](RunConfig& c) { c.data += "-gone"; });
  refuse([](RunConfig& c) { c.lora_parameters.keys = {"self_attn.qkv"}; });
  refuse([](RunConfig& c) { c.num_layers = 9; });
  refuse([](RunConfig& c) { c.optimizer = "adamax"; });
  refuse([](RunConfig& c) { c.resume_adapter_file = "/nonexistent.safetensors"; });
}

TEST_CASE("rule 10: a run whose loss is never finite fails, says so in its folder, and keeps what it had") {
  const Workshop shop;
  class Poison final : public Callback {
    void on_gradients(Trainer& trainer, PackedParams& gradients) override {
      if (trainer.state().step > 3) {
        auto& first = gradients.edit().begin()->second;
        first = first * std::numeric_limits<float>::quiet_NaN();
      }
    }
  };
  auto config = shop.config();
  config.iters = 20;
  RunHooks hooks;
  hooks.callbacks = {std::make_shared<Poison>()};
  CHECK_THROWS_AS(run_training(config, hooks), NonFinite);
  const auto all = events(shop.run());
  CHECK(all.back().at("type") == "failed");
  CHECK(contains(all.back().at("error").get<std::string>(), "lora_a"));
  CHECK(read_json(shop.run() / "run.json").at("result").at("reason") == "failed");
  const auto checkpoints = list_checkpoints(shop.run() / "checkpoints");
  REQUIRE_FALSE(checkpoints.empty());
  for (const auto& [name, array] : load_safetensors(checkpoints.back() / "state.safetensors")) {
    CHECK(mx::all(mx::isfinite(array)).item<bool>());
  }
}

TEST_CASE("only a run folder, or a checkpoint of one, can be resumed") {
  const Workshop shop;
  CHECK(contains(message_of<CheckpointError>([&] { resumed_config(shop.data().string()); }), "no run.json"));
  fs::create_directories(shop.run());
  write_file_atomic(shop.run() / "run.json", "{}");
  CHECK(contains(message_of<CheckpointError>([&] { resumed_config(shop.run().string()); }), "run.json"));
  write_file_atomic(shop.run() / "run.json", "{");
  CHECK_THROWS_AS(resumed_config(shop.run().string()), CheckpointError);
}
