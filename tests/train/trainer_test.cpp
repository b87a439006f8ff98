#include "temper/train/trainer.h"

#include "temper/base/error.h"
#include "train/support.h"

using namespace temper;
using namespace temper::test;

namespace {

// Writes down which of its functions are called, when.
class Diary final : public Callback {
 public:
  Diary(std::string name, std::vector<std::string>& lines) : name_(std::move(name)), lines_(lines) {
  }
  void on_start(Trainer&) override {
    write("start");
  }
  void before_step(Trainer& trainer) override {
    write("before " + std::to_string(trainer.state().step + 1));
  }
  void on_gradients(Trainer& trainer, PackedParams&) override {
    write("gradients " + std::to_string(trainer.state().step));
  }
  void between_steps(Trainer& trainer) override {
    write("between " + std::to_string(trainer.state().step));
  }
  void after_step(Trainer&, const StepResult& result) override {
    write("after " + std::to_string(result.step));
  }
  void on_end(Trainer&) override {
    write("end");
  }

 private:
  void write(const std::string& what) {
    lines_.push_back(name_ + what);
  }
  std::string name_;
  std::vector<std::string>& lines_;
};

// Does something with the gradients of each step.
class Meddler final : public Callback {
 public:
  using Meddle = std::function<void(Trainer&, Params&)>;
  explicit Meddler(Meddle meddle) : meddle_(std::move(meddle)) {
  }
  void on_gradients(Trainer& trainer, PackedParams& gradients) override {
    meddle_(trainer, gradients.edit());
  }

 private:
  Meddle meddle_;
};

constexpr const char* kPoisoned = "model.layers.1.self_attn.k_proj.lora_b";

void poison(Params& gradients) {
  auto& array = gradients.at(kPoisoned);
  array = array * std::numeric_limits<float>::quiet_NaN();
}

void check_close(const Params& found, const Params& expected, float tolerance) {
  for (const auto& [name, array] : expected) {
    CAPTURE(name);
    CHECK(relative_difference(found.at(name), array) < tolerance);
  }
}

} // namespace

TEST_CASE("training lowers the loss, LoRA and full, with every optimizer") {
  for (const bool full : {false, true}) {
    for (const auto& optimizer : optimizer_names()) {
      CAPTURE(full);
      CAPTURE(optimizer);
      Setting setting(30, 8);
      setting.full = full;
      setting.step = step_options(optimizer);
      setting.examples = uneven_examples(8);
      setting.trainer.schedule = [&](std::int64_t) { return optimizer == "sgd" ? 0.5 : 0.02; };
      Training training(std::move(setting));
      const auto losses = training.run().record().losses();
      CHECK(losses.size() == 30);
      CHECK(losses.back() < 0.8 * losses.front());
    }
  }
}

TEST_CASE("rule 1: batch 8x1 == 1x8, accumulated over uneven examples") {
  const auto train = [](int batch_size, int accumulation) {
    Setting setting(4, batch_size);
    setting.step = step_options("sgd"); // Adam would hide a wrong scale
    setting.step.max_grad_norm = 0;
    setting.trainer.loader.shuffle = false;
    setting.trainer.grad_accumulation_steps = accumulation;
    auto training = std::make_unique<Training>(std::move(setting));
    training->run();
    return training;
  };
  const auto whole = train(8, 1);
  for (const auto& [batch_size, accumulation] : {std::pair(1, 8), std::pair(2, 4), std::pair(4, 2)}) {
    CAPTURE(batch_size);
    const auto parts = train(batch_size, accumulation);
    for (std::size_t i = 0; i < 4; ++i) {
      const auto& expected = whole->record().steps[i];
      const auto& found = parts->record().steps[i];
      CHECK(found.num_supervised == expected.num_supervised);
      CHECK(found.num_tokens == expected.num_tokens);
      CHECK(found.loss == doctest::Approx(expected.loss).epsilon(1e-5));
      CHECK(found.grad_norm == doctest::Approx(expected.grad_norm).epsilon(1e-4));
    }
    check_close(parts->state().trainable, whole->state().trainable, 1e-4F);
  }
}

TEST_CASE("rule 9: packed and unpacked losses and gradients agree, step by step") {
  const auto train = [](bool packing, PackedAttention attention) {
    Setting setting(6, 6);
    setting.trainer.loader = loader_options(6, packing);
    setting.step.attention = attention;
    auto training = std::make_unique<Training>(std::move(setting));
    training->run();
    return training;
  };
  const auto padded = train(false, PackedAttention::documents);
  for (const auto attention : attentions()) {
    const auto packed = train(true, attention);
    std::int64_t columns_saved = 0;
    for (std::size_t i = 0; i < 6; ++i) {
      const auto& expected = padded->record().steps[i];
      const auto& found = packed->record().steps[i];
      CHECK(found.num_tokens == expected.num_tokens);
      CHECK(found.num_supervised == expected.num_supervised);
      CHECK(found.loss == doctest::Approx(expected.loss).epsilon(1e-4));
      CHECK(found.grad_norm == doctest::Approx(expected.grad_norm).epsilon(1e-3));
      columns_saved += expected.num_padded_tokens - found.num_padded_tokens;
    }
    CHECK(columns_saved > 0);
    check_close(packed->state().trainable, padded->state().trainable, 0.01F);
  }
}

TEST_CASE("rule 10: a step that is not finite is skipped and reported, and training goes on") {
  Setting setting(5);
  Training training(std::move(setting));
  Params before;
  std::int64_t skipped_step = 3;
  training.trainer().add_callback(std::make_shared<Meddler>([&](Trainer& trainer, Params& gradients) {
    if (trainer.state().step == skipped_step) {
      before = trainer.state().trainable;
      poison(gradients);
    } else if (trainer.state().step == skipped_step + 1) {
      CHECK(same_bits(trainer.state().trainable, before));
    }
  }));
  training.run();
  REQUIRE(training.record().steps.size() == 5);
  for (const auto& step : training.record().steps) {
    CHECK(step.skipped == (step.step == skipped_step));
  }
  CHECK(training.state().step == 5);
  CHECK(training.state().count.item<int>() == 4);
  CHECK(training.state().skipped_in_a_row == 0);
  CHECK_FALSE(same_bits(training.state().trainable, before));
  const auto warnings = training.record().of("warning");
  REQUIRE(warnings.size() == 1);
  const auto message = warnings[0].at("message").get<std::string>();
  CHECK(contains(message, "step 3 skipped"));
  CHECK(contains(message, kPoisoned));
}

TEST_CASE("rule 10: three steps in a row that are not finite stop the run, naming the tensor") {
  Training training{Setting(20)};
  const auto start = training.state().trainable;
  const auto moments = training.state().optimizer;
  training.trainer().add_callback(
      std::make_shared<Meddler>([](Trainer&, Params& gradients) { poison(gradients); }));
  const auto message = message_of<NonFinite>([&] { training.run(); });
  CHECK(contains(message, kPoisoned));
  CHECK(contains(message, "step 3"));
  CHECK_FALSE(contains(message, "\n"));
  CHECK(same_bits(training.state().trainable, start));
  CHECK(same_bits(training.state().optimizer, moments));
  CHECK(training.record().of("warning").size() == 2);
}

TEST_CASE("rule 10: two in a row, then a good one, count anew") {
  Training training{Setting(9)};
  training.trainer().add_callback(std::make_shared<Meddler>([](Trainer& trainer, Params& gradients) {
    if (trainer.state().step % 3 != 0) {
      poison(gradients);
    }
  }));
  training.run();
  CHECK(training.state().count.item<int>() == 3);
}

TEST_CASE("rule 10: weights that are not numbers stop a run even without a callback") {
  Setting setting(20);
  setting.model.params.at("model.layers.0.mlp.up_proj.weight") =
      setting.model.params.at("model.layers.0.mlp.up_proj.weight") * std::numeric_limits<float>::infinity();
  Training training(std::move(setting));
  CHECK_THROWS_AS(training.run(), NonFinite);
}

TEST_CASE("fp16's search for its loss scale is no failure") {
  Setting setting(12);
  setting.model = cast_model(tiny_model(), mx::float16);
  setting.step.scale_loss = true;
  Training training(std::move(setting));
  // Five overflows in a row would end any other run.
  training.trainer().add_callback(std::make_shared<Meddler>([](Trainer& trainer, Params& gradients) {
    if (trainer.state().step <= 5) {
      poison(gradients);
    }
  }));
  training.run();
  CHECK(training.state().loss_scale.item<float>() == 65536.0F / 32);
  CHECK(training.state().count.item<int>() == 7);
  CHECK(training.state().skipped_in_a_row == 0);
  CHECK(training.record().of("warning").empty());
}

TEST_CASE("fp16 at a loss scale of 1 that still overflows does fail") {
  Setting setting(40);
  setting.model = cast_model(tiny_model(), mx::float16);
  setting.step.scale_loss = true;
  Training training(std::move(setting));
  training.trainer().add_callback(
      std::make_shared<Meddler>([](Trainer&, Params& gradients) { poison(gradients); }));
  CHECK_THROWS_AS(training.run(), NonFinite);
  CHECK(training.state().loss_scale.item<float>() == 1.0F);
}

TEST_CASE("callbacks are called in the order they were added, results one step behind") {
  std::vector<std::string> lines;
  Training training{Setting(2)};
  training.trainer().add_callback(std::make_shared<Diary>("a ", lines));
  training.trainer().add_callback(std::make_shared<Diary>("b ", lines));
  training.run();
  CHECK(lines == std::vector<std::string>{
                     "a start",       "b start",       "a before 1",  "b before 1", "a gradients 1",
                     "b gradients 1", "a between 1",   "b between 1", "a before 2", "b before 2",
                     "a gradients 2", "b gradients 2", "a after 1",   "b after 1",  "a between 2",
                     "b between 2",   "a after 2",     "b after 2",   "a end",      "b end",
                 });
}

TEST_CASE("a callback may change gradients") {
  Setting setting(3);
  setting.step = step_options("sgd");
  setting.step.optimizer.config.sgd.weight_decay = 0;
  Training training(std::move(setting));
  const auto start = training.state().trainable;
  training.trainer().add_callback(std::make_shared<Meddler>([](Trainer&, Params& gradients) {
    for (auto& [name, array] : gradients) {
      if (name != kPoisoned) {
        array = mx::zeros_like(array);
      }
    }
  }));
  training.run();
  for (const auto& [name, array] : training.state().trainable) {
    CAPTURE(name);
    CHECK(same_bits(array, start.at(name)) == (name != kPoisoned));
  }
}

TEST_CASE("stop() ends the run after the present step; the first reason stays; on_end is called") {
  std::vector<std::string> lines;
  Training training{Setting(50)};
  training.trainer().add_callback(std::make_shared<Diary>("", lines));
  training.trainer().add_callback(std::make_shared<Meddler>([](Trainer& trainer, Params&) {
    if (trainer.state().step == 3) {
      trainer.stop("enough");
      trainer.stop("too late");
    }
  }));
  training.run();
  CHECK(training.state().step == 3);
  CHECK(training.trainer().stop_reason() == "enough");
  CHECK(training.record().steps.size() == 3);
  CHECK(lines.back() == "end");
}

TEST_CASE("the learning rate follows the schedule by steps done") {
  Setting setting(4);
  setting.trainer.schedule = [](std::int64_t step) { return 0.1 / (1.0 + static_cast<double>(step)); };
  Training training(std::move(setting));
  training.run();
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(training.record().steps[i].learning_rate == doctest::Approx(0.1 / (1.0 + static_cast<double>(i))));
  }
}

TEST_CASE("state counts what was read and trained on") {
  Training training{Setting(5)};
  training.run();
  std::int64_t supervised = 0;
  std::int64_t tokens = 0;
  for (const auto& step : training.record().steps) {
    supervised += step.num_supervised;
    tokens += step.num_tokens;
    CHECK(step.num_padded_tokens >= step.num_tokens - 4); // a row holds one token less than its examples
  }
  CHECK(training.state().supervised_tokens == supervised);
  CHECK(training.state().total_tokens == tokens);
  CHECK(training.state().micro_step == 5);
  CHECK(training.trainer().batches_per_epoch() == 6);
  CHECK(training.trainer().epoch() == doctest::Approx(5.0 / 6.0));
}

TEST_CASE("compat mlx-lm: a step is a micro-batch, updates every few, gradients are means of means") {
  Setting setting(6, 4);
  setting.trainer.compat_mlx_lm = true;
  setting.trainer.grad_accumulation_steps = 3;
  setting.trainer.loader.compat_mlx_lm = true;
  Training training(std::move(setting));
  std::vector<std::int64_t> updates;
  training.trainer().add_callback(
      std::make_shared<Meddler>([&](Trainer& trainer, Params&) { updates.push_back(trainer.state().step); }));
  training.run();
  CHECK(updates == std::vector<std::int64_t>{3, 6});
  CHECK(training.record().steps.size() == 6);
  CHECK(training.state().count.item<int>() == 2);
  CHECK(training.state().accumulator.empty());
}

TEST_CASE("an event is stamped with its time and step and reaches every sink") {
  Recorder second;
  Training training{Setting(1)};
  training.trainer().add_sink(&second);
  training.run();
  training.trainer().emit("note", {{"a", 1}});
  training.trainer().emit("note", {{"a", 2}}, 40);
  REQUIRE(second.of("note").size() == 2);
  CHECK(second.of("note")[0].at("step") == 1);
  CHECK(second.of("note")[1].at("step") == 40);
  CHECK(second.of("note")[0].at("time").get<double>() > 1.6e9);
  CHECK(training.record().of("note") == second.of("note"));
}
