#include "temper/train/checkpoint.h"

#include "temper/base/error.h"
#include "temper/base/files.h"
#include "train/support.h"

using namespace temper;
using namespace temper::test;

namespace {

// Six steps, and three, a checkpoint, and three more in a new trainer from it: the same to the bit.
void check_exact(const std::function<Setting(std::int64_t steps)>& make) {
  const TempFolder folder;
  Training whole(make(6));
  whole.run();

  Training first(make(3));
  first.run();
  auto& stopped = first.state();
  if (const auto& random = first.trainer().options().loader.mlx_lm_random) {
    stopped.mlx_lm_random = random->to_json();
  }
  save_checkpoint(folder.path() / "0000003", stopped, {{"note", "kept"}});

  auto setting = make(6);
  auto random = setting.trainer.loader.mlx_lm_random;
  Training second(std::move(setting));
  auto state = second.initial_state();
  CHECK(load_checkpoint(folder.path() / "0000003", state).at("note") == "kept");
  if (random) {
    *random = MlxLmRandom::from_json(state.mlx_lm_random);
  }
  second.reset(std::move(state));
  second.run();

  auto losses = first.record().losses();
  const auto rest = second.record().losses();
  losses.insert(losses.end(), rest.begin(), rest.end());
  CHECK(losses == whole.record().losses());
  CHECK(same_bits(second.state().trainable, whole.state().trainable));
  CHECK(same_bits(second.state().optimizer, whole.state().optimizer));
  CHECK(same_bits(second.state().accumulator, whole.state().accumulator));
  CHECK(same_bits(second.state().count, whole.state().count));
  auto found = second.state().host_json();
  auto expected = whole.state().host_json();
  found.erase("mlx_lm_random"); // is set when a checkpoint is saved
  expected.erase("mlx_lm_random");
  CHECK(found == expected);
}

// A checkpoint of a short run, and a fresh state to load it into.
struct Saved {
  TempFolder folder;
  Training training{Setting(2)};
  std::filesystem::path path = folder.path() / "0000002";

  Saved() {
    training.run();
    save_checkpoint(path, training.state(), {{"note", 1}});
  }
  std::string complaint(TrainState state) const {
    const auto message = message_of<CheckpointError>([&] { load_checkpoint(path, state); });
    CHECK(contains(message, path.string()));
    CHECK_FALSE(contains(message, "\n"));
    return message;
  }
  std::string complaint() {
    return complaint(training.initial_state());
  }
  void change(const std::function<void(Json&)>& edit) const {
    auto json = read_json(path / "state.json");
    edit(json);
    write_json(path / "state.json", json);
  }
};

} // namespace

TEST_CASE("rule 7: resume is exact on a CPU: LoRA with dropout, accumulation and a schedule") {
  check_exact([](std::int64_t steps) {
    Setting setting(steps, 4);
    setting.step = step_options("adamw", 0.2F);
    setting.trainer.grad_accumulation_steps = 2;
    setting.trainer.schedule = [](std::int64_t step) { return 1e-2 / (1.0 + static_cast<double>(step)); };
    return setting;
  });
}

TEST_CASE("rule 7: resume is exact: full, unpacked, prefetched, over the end of a pass") {
  check_exact([](std::int64_t steps) {
    Setting setting(steps, 5);
    setting.full = true;
    setting.step = step_options("sgd");
    setting.step.optimizer.config.sgd.momentum = 0.9;
    setting.trainer.loader = loader_options(5, false);
    setting.trainer.loader.prefetch = 3;
    return setting;
  });
}

TEST_CASE("rule 7: resume is exact in fp16, loss scale included") {
  check_exact([](std::int64_t steps) {
    Setting setting(steps);
    setting.model = cast_model(tiny_model(), mx::float16);
    setting.step.scale_loss = true;
    return setting;
  });
}

TEST_CASE("rule 7: resume is exact in the midst of compat mlx-lm's accumulation") {
  check_exact([](std::int64_t steps) {
    Setting setting(steps, 4);
    setting.trainer.compat_mlx_lm = true;
    setting.trainer.grad_accumulation_steps = 2; // step 3 leaves half a sum
    setting.trainer.loader.compat_mlx_lm = true;
    setting.trainer.loader.mlx_lm_random = std::make_shared<MlxLmRandom>(3);
    return setting;
  });
}

TEST_CASE("every part of the state survives") {
  Saved saved;
  auto& state = saved.training.state();
  state.best_loss = 1.25;
  state.best_step = 2;
  state.skipped_in_a_row = 1;
  state.loss_scale = mx::array(8.0F);
  state.good_steps = mx::array(5, mx::int32);
  state.accumulator = Params{{"model.layers.0.mlp.up_proj.lora_a", mx::ones({16, 4})}};
  save_checkpoint(saved.path, state, nullptr);
  auto loaded = saved.training.initial_state();
  load_checkpoint(saved.path, loaded);
  CHECK(loaded.step == 2);
  CHECK(loaded.micro_step == 2);
  CHECK(loaded.supervised_tokens == state.supervised_tokens);
  CHECK(loaded.total_tokens == state.total_tokens);
  CHECK(loaded.seed == 9);
  CHECK(loaded.cursor.batch == 2);
  CHECK(loaded.skipped_in_a_row == 1);
  CHECK(loaded.best_loss == 1.25);
  CHECK(loaded.best_step == 2);
  CHECK(same_bits(loaded.trainable, state.trainable));
  CHECK(same_bits(loaded.optimizer, state.optimizer));
  CHECK(same_bits(loaded.accumulator, state.accumulator));
  CHECK(same_bits(loaded.count, state.count));
  CHECK(same_bits(loaded.loss_scale, state.loss_scale));
  CHECK(same_bits(loaded.good_steps, state.good_steps));
}

TEST_CASE("a best loss that there is not yet stays so") {
  Saved saved;
  auto loaded = saved.training.initial_state();
  loaded.best_loss = 3;
  load_checkpoint(saved.path, loaded);
  CHECK(std::isinf(loaded.best_loss));
  CHECK(loaded.best_step == -1);
}

TEST_CASE("checkpoints are folders of seven digits with a state.json") {
  CHECK(checkpoint_name(100) == "0000100");
  CHECK(checkpoint_name(12345678) == "12345678");
  const TempFolder folder;
  CHECK(list_checkpoints(folder.path() / "none").empty());
  for (const std::string name : {"0000200", "0000100", "best", "0000300"}) {
    std::filesystem::create_directories(folder.path() / name);
    if (name != "0000300") { // killed before it was whole
      write_file_atomic(folder.path() / name / "state.json", "{}");
    }
  }
  const auto found = list_checkpoints(folder.path());
  REQUIRE(found.size() == 2);
  CHECK(found[0].filename() == "0000100");
  CHECK(found[1].filename() == "0000200");
}

TEST_CASE("a checkpoint of other settings is refused, naming what differs") {
  Saved saved;
  auto more = saved.training.initial_state();
  more.trainable.edit().emplace("model.layers.9.lora_a", mx::ones({1}));
  CHECK(contains(saved.complaint(more), "trainable.model.layers.9.lora_a is missing"));

  auto wider = saved.training.initial_state();
  wider.trainable.edit().at("model.layers.0.mlp.up_proj.lora_a") = mx::zeros({16, 8});
  const auto message = saved.complaint(wider);
  CHECK(contains(message, "model.layers.0.mlp.up_proj.lora_a has shape [16, 4], this run needs [16, 8]"));

  auto momentum = saved.training.initial_state();
  momentum.optimizer.edit().emplace("momentum.x", mx::ones({1}));
  CHECK(contains(saved.complaint(momentum), "optimizer.momentum.x is missing"));
}

TEST_CASE("damaged checkpoints are refused in one line") {
  const auto state_file = [](const Saved& saved) { return saved.path / "state.safetensors"; };
  {
    Saved saved;
    std::filesystem::remove(saved.path / "state.json");
    CHECK(contains(saved.complaint(), "not a whole checkpoint"));
  }
  {
    Saved saved;
    std::filesystem::remove(state_file(saved));
    saved.complaint();
    write_file_atomic(state_file(saved), "short");
    saved.complaint();
  }
  Saved saved;
  saved.change([](Json& json) { json["format_version"] = 99; });
  CHECK(contains(saved.complaint(), "format"));
  saved.change([](Json& json) {
    json["format_version"] = 1;
    json["state"].erase("cursor");
  });
  CHECK(contains(saved.complaint(), "damaged"));
  saved.change([](Json& json) { json.erase("state"); });
  saved.complaint();
  saved.change([](Json& json) { json = Json::array(); });
  saved.complaint();
  write_file_atomic(saved.path / "state.json", "{\"format_version\": 1, ");
  saved.complaint();
}
