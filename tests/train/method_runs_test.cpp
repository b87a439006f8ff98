// Whole runs by each method: resumed exactly, and what they leave loads and computes what the run did.
#include "temper/base/error.h"
#include "temper/eval/perplexity.h"
#include "temper/io/adapters.h"
#include "train/workshop.h"

using namespace temper;
using namespace temper::test;

namespace {

struct MethodRun {
  std::string name;
  std::function<void(RunConfig&)> ask;
};

const std::vector<MethodRun>& method_runs() {
  static const std::vector<MethodRun> kRuns{
      {"dora",
       [](RunConfig& c) {
         c.fine_tune_type = "dora";
         c.lora_parameters.keys = {"self_attn.q_proj", "mlp.down_proj", "embed_tokens", "lm_head"};
       }},
      {"embedding, head and noise",
       [](RunConfig& c) {
         c.lora_parameters.keys = {"self_attn.v_proj", "embed_tokens", "lm_head"};
         c.neftune_alpha = 5;
         c.grad_checkpoint = true;
       }},
      {"pissa",
       [](RunConfig& c) {
         c.lora_parameters.init = "pissa";
         c.lora_parameters.keys = {"self_attn.q_proj", "mlp.down_proj", "lm_head"};
         c.lora_parameters.layers = Json{{"match", "*.q_proj"}, {"rank", 3}, {"scale", 0.5}};
       }},
      {"pissa by iterations", [](RunConfig& c) { c.lora_parameters.init = "pissa_niter_2"; }},
      {"norms, biases, layers",
       [](RunConfig& c) {
         c.train_norms = true;
         c.train_biases = true;
         c.trainable_modules = {"embed_tokens", "lm_head"};
         c.lora_parameters.use_rslora = true;
         c.lora_parameters.alpha = 6;
         c.lora_parameters.lr_ratio = 4;
       }},
  };
  return kRuns;
}

RunConfig config_of(const Workshop& shop, const MethodRun& method) {
  auto config = shop.config();
  config.grad_accumulation_steps = 2;
  config.learning_rate = 3e-3;
  config.optimizer = "adamw";
  method.ask(config);
  return config;
}

const Json kUntied{{"tie_word_embeddings", false}, {"attention_bias", true}};

} // namespace

TEST_CASE(
    "rule 7: every method's run that is interrupted and resumed writes what an uninterrupted one writes") {
  for (const auto& method : method_runs()) {
    CAPTURE(method.name);
    const Workshop shop(kUntied);
    auto config = config_of(shop, method);
    run_training(config);
    const auto expected = numbers(events(shop.run(), "step"), "loss");
    const auto adapters = load_safetensors(shop.run() / "adapters.safetensors");

    config.run_dir = shop.run().string() + "-stopped";
    std::atomic<int> signal{0};
    RunHooks hooks;
    hooks.interrupt = &signal;
    hooks.callbacks = {std::make_shared<Interrupter>(4, signal)};
    CHECK(run_training(config, hooks).reason == "interrupted");
    run_training(resumed_config(config.run_dir));
    CHECK(numbers(events(config.run_dir, "step"), "loss") == expected);
    CHECK(same_bits(load_safetensors(fs::path(config.run_dir) / "adapters.safetensors"), adapters));
  }
}

TEST_CASE("every method's saved adapter over the original model has the run's last validation loss") {
  for (const auto& method : method_runs()) {
    CAPTURE(method.name);
    const Workshop shop(kUntied);
    const auto config = config_of(shop, method);
    run_training(config);
    const auto evals = events(shop.run(), "eval");
    CHECK(evals.back().at("loss").get<double>() < evals.front().at("loss").get<double>());

    auto test = config;
    test.train = false;
    test.test = true;
    fs::copy_file(shop.data() / "valid.jsonl", shop.data() / "test.jsonl",
                  fs::copy_options::overwrite_existing);
    test.adapter_path = shop.run().string();
    const auto again = run_training(test).summary.at("test_loss").get<double>();
    CHECK(again == doctest::Approx(evals.back().at("loss").get<double>()).epsilon(1e-4));
  }
}

TEST_CASE("an adapter with ranks and weights of its own by layer is gone on from as it was") {
  const Workshop shop;
  auto config = shop.config();
  config.lora_parameters.layers = Json::array({Json{{"match", "*.q_proj"}, {"rank", 3}, {"scale", 5.0}},
                                               Json{{"match", "*.down_proj"}, {"scale", 2.0}}});
  run_training(config);
  const auto last = events(shop.run(), "eval").back().at("loss").get<double>();
  config.resume_adapter_file = (shop.run() / "adapters.safetensors").string();
  config.run_dir = shop.run().string() + "-2";
  run_training(config);
  CHECK(events(config.run_dir, "eval").front().at("loss").get<double>() == doctest::Approx(last).epsilon(1e-5));
}

TEST_CASE("a PiSSA run answers prompts beside the original model, not beside what it left of it") {
  const Workshop shop(kUntied);
  auto config = shop.config();
  config.generate = {"train 7"};
  config.generate_tokens = 6;
  run_training(config);
  const auto base = events(shop.run(), "sample").front().at("base");
  config.lora_parameters.init = "pissa";
  config.run_dir = shop.run().string() + "-pissa";
  run_training(config);
  CHECK(events(config.run_dir, "sample").front().at("base") == base);
}

TEST_CASE("every method's traced step computes what the plain one does") {
  for (const auto& method : method_runs()) {
    CAPTURE(method.name);
    const Workshop shop(kUntied);
    auto config = config_of(shop, method);
    run_training(config);
    const auto expected = numbers(events(shop.run(), "step"), "loss");
    config.run_dir = shop.run().string() + "-traced";
    mx::set_compile_mode(mx::CompileMode::no_fuse); // traced, without kernels to build
    run_training(config);
    mx::disable_compile();
    const auto found = numbers(events(config.run_dir, "step"), "loss");
    REQUIRE(found.size() == expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      CHECK(found[i] == doctest::Approx(expected[i]).epsilon(1e-5));
    }
  }
}

TEST_CASE("in bfloat16 DoRA and PiSSA start as the model is, and learn") {
  const auto evals_of = [](const std::function<void(RunConfig&)>& ask) {
    const Workshop shop(kUntied);
    auto config = shop.config();
    config.dtype = "bfloat16";
    config.lora_parameters.keys = {"self_attn.q_proj", "mlp.down_proj", "lm_head"};
    ask(config);
    run_training(config);
    return numbers(events(shop.run(), "eval"), "loss");
  };
  const auto base = evals_of([](RunConfig&) {}).front();
  const auto dora = evals_of([](RunConfig& config) { config.fine_tune_type = "dora"; });
  const auto pissa = evals_of([](RunConfig& config) { config.lora_parameters.init = "pissa"; });
  CHECK(dora.front() == doctest::Approx(base).epsilon(1e-3));
  CHECK(pissa.front() == doctest::Approx(base).epsilon(1e-2)); // the remainder is rounded to bfloat16
  CHECK(dora.back() < dora.front());
  CHECK(pissa.back() < pissa.front());
}
