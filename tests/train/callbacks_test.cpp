#include "temper/train/callbacks.h"

#include <csignal>

#include "temper/io/adapters.h"
#include "temper/train/checkpoint.h"
#include "train/support.h"

using namespace temper;
using namespace temper::test;

namespace {

std::vector<std::int64_t> steps_of(const std::vector<Json>& events) {
  std::vector<std::int64_t> steps;
  for (const auto& event : events) {
    steps.push_back(event.at("step").get<std::int64_t>());
  }
  return steps;
}

using Steps = std::vector<std::int64_t>;

// Validation whose losses are given, one after another.
std::shared_ptr<ValidationCallback> validation(int steps_per_eval, std::vector<double> losses) {
  auto batches = std::make_unique<EvalBatches>(make_token_dataset(uneven_examples(4)), loader_options(2), -1);
  auto next = std::make_shared<std::size_t>(0);
  return std::make_shared<ValidationCallback>(std::move(batches), steps_per_eval,
                                              [next, losses](Trainer&, EvalBatches& fixed) {
                                                CHECK(fixed.size() == 2);
                                                return DatasetLoss{losses.at((*next)++), 100, 2};
                                              });
}

// Counts what callbacks are told of evaluations and checkpoints.
class Witness final : public Callback {
 public:
  std::vector<std::string> lines;
  void before_eval(Trainer&, const std::string& split) override {
    lines.push_back("before eval " + split);
  }
  void after_eval(Trainer& trainer, const EvalResult& result) override {
    lines.push_back("after eval " + std::to_string(trainer.state().step) + (result.best ? " best" : ""));
  }
  void before_checkpoint(Trainer&) override {
    lines.push_back("before checkpoint");
  }
  void after_checkpoint(Trainer&, const std::filesystem::path& path) override {
    lines.push_back("after checkpoint " + path.filename().string());
  }
};

struct Saving {
  TempFolder temp;
  RunFolder folder{temp.path()};

  std::shared_ptr<SavingCallback> callback(int save_every, int keep) {
    SavingOptions options;
    options.save_every = save_every;
    options.keep_checkpoints = keep;
    options.details = {{"note", "kept"}};
    options.save_adapter_config = [](const std::filesystem::path& to) {
      save_adapter_config(to, "lora", -1, {.rank = 4, .scale = 2.0F}, {}, Json::object());
    };
    options.save_adapter = [](const std::filesystem::path& to, const std::string& file,
                              const TrainState& state) { save_adapter_params(to, file, state.trainable); };
    return std::make_shared<SavingCallback>(folder, options);
  }
  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& path : list_checkpoints(folder.checkpoints())) {
      found.push_back(path.filename().string());
    }
    return found;
  }
  bool has(const std::string& file) const {
    return std::filesystem::exists(temp.path() / file);
  }
};

using Names = std::vector<std::string>;

} // namespace

TEST_CASE("reports average over supervised tokens, every few steps and at the end") {
  Training training{Setting(7)};
  training.trainer().add_callback(std::make_shared<ReportCallback>(3));
  training.run();
  const auto reports = training.record().of("step");
  CHECK(steps_of(reports) == Steps{3, 6, 7});
  const auto& steps = training.record().steps;
  double sum = 0;
  double tokens = 0;
  for (std::size_t i = 3; i < 6; ++i) {
    sum += steps[i].loss * static_cast<double>(steps[i].num_supervised);
    tokens += static_cast<double>(steps[i].num_supervised);
  }
  const auto& second = reports[1];
  CHECK(second.at("loss").get<double>() == doctest::Approx(sum / tokens));
  CHECK(second.at("grad_norm").get<double>() == doctest::Approx(steps[5].grad_norm));
  CHECK(second.at("learning_rate").get<double>() == doctest::Approx(1e-2));
  CHECK(second.at("epoch").get<double>() == doctest::Approx(1.0));
  CHECK(reports[2].at("tokens") == training.state().supervised_tokens);
  CHECK(reports[2].at("skipped") == 0);
  for (const char* key : {"tokens_per_second", "padded_tokens_per_second", "iterations_per_second", "memory_gb",
                          "peak_memory_gb", "total_memory_gb"}) {
    CAPTURE(key);
    CHECK(second.at(key).get<double>() > 0);
  }
}

TEST_CASE("a run that is stopped between reports reports its last steps") {
  class Stopper final : public Callback {
    void between_steps(Trainer& trainer) override {
      if (trainer.state().step == 5) {
        trainer.stop("enough");
      }
    }
  };
  Training training{Setting(20)};
  training.trainer().add_callback(std::make_shared<ReportCallback>(4));
  training.trainer().add_callback(std::make_shared<Stopper>());
  training.run();
  CHECK(steps_of(training.record().of("step")) == Steps{4, 5});
}

TEST_CASE("skipped steps are counted and leave the mean alone") {
  class Poison final : public Callback {
    void on_gradients(Trainer& trainer, PackedParams& gradients) override {
      if (trainer.state().step == 2) {
        auto& first = gradients.edit().begin()->second;
        first = first * std::numeric_limits<float>::quiet_NaN();
      }
    }
  };
  Training training{Setting(4)};
  training.trainer().add_callback(std::make_shared<ReportCallback>(2));
  training.trainer().add_callback(std::make_shared<Poison>());
  training.run();
  const auto reports = training.record().of("step");
  CHECK(reports[0].at("loss").get<double>() == doctest::Approx(training.record().steps[0].loss));
  CHECK(reports[0].at("skipped") == 1);
  CHECK(reports[1].at("skipped") == 1);
}

TEST_CASE("validation at the start, every few steps and at the end, keeping the best") {
  Training training{Setting(5)};
  auto witness = std::make_shared<Witness>();
  training.trainer().add_callback(validation(2, {3.0, 2.0, 2.5, 1.0}));
  training.trainer().add_callback(witness);
  training.run();
  const auto evals = training.record().of("eval");
  CHECK(steps_of(evals) == Steps{0, 2, 4, 5});
  CHECK(evals[1].at("split") == "valid");
  CHECK(evals[1].at("loss") == 2.0);
  CHECK(evals[1].at("perplexity").get<double>() == doctest::Approx(std::exp(2.0)));
  CHECK(evals[1].at("tokens") == 100);
  CHECK(witness->lines == Names{"before eval valid", "after eval 0 best", "before eval valid",
                                "after eval 2 best", "before eval valid", "after eval 4", "before eval valid",
                                "after eval 5 best"});
  CHECK(training.state().best_loss == 1.0);
  CHECK(training.state().best_step == 5);
}

TEST_CASE("results of the steps before an evaluation are delivered before it") {
  Training training{Setting(4)};
  auto seen = std::make_shared<std::vector<std::size_t>>();
  class Reader final : public Callback {
   public:
    Reader(const Recorder& record, std::vector<std::size_t>& counts) : record_(record), counts_(counts) {
    }
    void before_eval(Trainer&, const std::string&) override {
      counts_.push_back(record_.steps.size());
    }

   private:
    const Recorder& record_;
    std::vector<std::size_t>& counts_;
  };
  training.trainer().add_callback(std::make_shared<Reader>(training.record(), *seen));
  training.trainer().add_callback(validation(2, {3, 3, 3}));
  training.run();
  CHECK(*seen == std::vector<std::size_t>{0, 2, 4});
}

TEST_CASE("compat mlx-lm validates before the first, every N-th and the last iteration") {
  Setting setting(5);
  setting.trainer.compat_mlx_lm = true;
  setting.trainer.loader.compat_mlx_lm = true;
  Training training(std::move(setting));
  training.trainer().add_callback(validation(2, {1, 2, 3, 4}));
  training.run();
  CHECK(steps_of(training.record().of("eval")) == Steps{0, 1, 3, 4});
}

TEST_CASE("checkpoints and adapters every few steps and at the end, the oldest pruned") {
  Saving saving;
  Training training{Setting(7)};
  auto witness = std::make_shared<Witness>();
  training.trainer().add_callback(saving.callback(2, 2));
  training.trainer().add_callback(witness);
  training.run();
  CHECK(saving.names() == Names{"0000006", "0000007"});
  CHECK(steps_of(training.record().of("checkpoint")) == Steps{2, 4, 6, 7});
  CHECK(saving.has("adapter_config.json"));
  CHECK(saving.has("0000006_adapters.safetensors"));
  CHECK_FALSE(saving.has("0000002_adapters.safetensors"));
  CHECK_FALSE(std::filesystem::exists(saving.folder.checkpoints() / "0000002"));
  const auto adapter = load_adapter(saving.temp.path(), tiny_model().spec);
  CHECK(same_bits(adapter.params, training.state().trainable));
  CHECK(witness->lines.front() == "before checkpoint");
  CHECK(witness->lines.back() == "after checkpoint 0000007");
}

TEST_CASE("keep_checkpoints of 0 keeps them all") {
  Saving saving;
  Training training{Setting(4)};
  training.trainer().add_callback(saving.callback(1, 0));
  training.run();
  CHECK(saving.names().size() == 4);
}

TEST_CASE("a run that goes on from an earlier step replaces what came after it") {
  Saving saving;
  Training training{Setting(6)};
  training.trainer().add_callback(saving.callback(2, 0));
  training.run();
  REQUIRE(saving.names().size() == 3);

  Training again{Setting(3)};
  auto state = again.initial_state();
  load_checkpoint(saving.folder.checkpoints() / "0000002", state);
  again.reset(std::move(state));
  again.trainer().add_callback(saving.callback(100, 3));
  again.run();
  CHECK(saving.names() == Names{"0000002", "0000003"});
}

TEST_CASE("the best adapters are kept apart, and a checkpoint knows the best so far") {
  Saving saving;
  Training training{Setting(6)};
  training.trainer().add_callback(validation(2, {3.0, 1.0, 2.0, 2.0}));
  training.trainer().add_callback(saving.callback(2, 0));
  Params at_two;
  class Keeper final : public Callback {
   public:
    explicit Keeper(Params& kept) : kept_(kept) {
    }
    void after_eval(Trainer& trainer, const EvalResult&) override {
      if (trainer.state().step == 2) {
        kept_ = trainer.state().trainable;
      }
    }

   private:
    Params& kept_;
  };
  training.trainer().add_callback(std::make_shared<Keeper>(at_two));
  training.run();
  const auto best = load_adapter(saving.folder.checkpoints() / "best", tiny_model().spec);
  CHECK(same_bits(best.params, at_two));
  auto state = training.initial_state();
  CHECK(load_checkpoint(saving.folder.checkpoints() / "0000002", state).at("note") == "kept");
  CHECK(state.best_loss == 1.0);
  CHECK(state.best_step == 2);
}

TEST_CASE("an interrupt ends the run after the present step, saved") {
  Saving saving;
  std::atomic<int> signal{0};
  class Interrupter final : public Callback {
   public:
    explicit Interrupter(std::atomic<int>& raised) : raised_(raised) {
    }
    void before_step(Trainer& trainer) override {
      if (trainer.state().step == 2) {
        raised_ = SIGINT;
      }
    }

   private:
    std::atomic<int>& raised_;
  };
  Training training{Setting(100)};
  training.trainer().add_callback(saving.callback(50, 3));
  training.trainer().add_callback(std::make_shared<InterruptCallback>(signal));
  training.trainer().add_callback(std::make_shared<Interrupter>(signal));
  training.run();
  CHECK(training.trainer().stop_reason() == "interrupted");
  CHECK(training.state().step == 3);
  CHECK(saving.names() == Names{"0000003"});
}
