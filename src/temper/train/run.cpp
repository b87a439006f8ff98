#include "temper/train/run.h"
#include "temper/infer/find_model.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <filesystem>

#include "temper/base/clock.h"
#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/base/log.h"
#include "temper/base/version.h"
#include "temper/data/prepared_data.h"
#include "temper/infer/generate.h"
#include "temper/infer/prompt.h"
#include "temper/io/adapters.h"
#include "temper/models/adapter_params.h"
#include "temper/nn/device.h"
#include "temper/train/callbacks.h"
#include "temper/train/checkpoint.h"
#include "temper/train/memory_plan.h"
#include "temper/train/run_options.h"
#include "temper/train/tensorboard.h"
#include "temper/train/trainable.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

// What a run is made of, in the order that it comes to be known.
struct Run {
  RunConfig config;
  Model model;
  std::shared_ptr<const Tokenizer> tokenizer;
  PreparedData data;
  Method method;
};

bool is_full(const RunConfig& config) {
  return config.fine_tune_type == "full";
}

// runs/<model>-<date>-<time>, or the folder that the user named.
fs::path run_path(const RunConfig& config) {
  if (!config.run_dir.empty()) {
    return config.run_dir;
  }
  if (!config.adapter_path.empty()) {
    return config.adapter_path;
  }
  char stamp[32];
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  ::localtime_r(&now, &local);
  std::strftime(stamp, sizeof stamp, "%Y%m%d-%H%M%S", &local);
  auto name = fs::path(config.model).lexically_normal();
  return fs::path("runs") /
         ((name.has_filename() ? name : name.parent_path()).filename().string() + "-" + stamp);
}

// A fresh run among another's checkpoints would prune and resume the wrong ones.
void refuse_used_folder(const RunConfig& config) {
  if (config.train && config.resume.empty() && !list_checkpoints(run_path(config) / "checkpoints").empty()) {
    const auto path = run_path(config).string();
    throw ConfigError(path + ": holds another run's checkpoints; go on with it (--resume " + path +
                      "), name another --run-dir, or delete it");
  }
}

// Everything that can be refused without the weights is refused before they are read.
Run prepare(const RunConfig& config) {
  Run run;
  run.config = config;
  validate(config);
  check_complete(config);
  refuse_used_folder(config);
  Json description;
  const auto described = find_model(config.model, config.revision, ModelFiles::description);
  const auto spec = load_spec(described, &description);
  check_method(config, spec, description);
  run.tokenizer = Tokenizer::load(described);
  run.data = prepare_data(config, run.tokenizer, spec.vocab_size);
  run.model = load_model(find_model(config.model, config.revision), config.dtype);
  if (config.train || !config.resume_adapter_file.empty()) {
    run.method = make_method(config, run.model);
  }
  if (!config.resume_adapter_file.empty()) {
    auto& trainable = run.method.trainable;
    trainable = load_adapter_start(config.resume_adapter_file, spec, trainable, run.method.lora);
  }
  return run;
}

DatasetLoss evaluate_split(const Run& run, const Params& trainable, EvalBatches& batches) {
  const auto weights = forward_params(trainable, run.model.dtype);
  return evaluate_loss(ModelView(run.model.spec, run.model.params, weights, run.method.lora), batches);
}

std::int64_t size_of(const std::shared_ptr<const TokenDataset>& data) {
  return data ? static_cast<std::int64_t>(data->size()) : 0;
}

// Continues `state` from config.resume: a checkpoint, or a run folder's newest one.
void restore(const Run& run, TrainState& state) {
  fs::path path = run.config.resume;
  if (!fs::exists(path / "state.json")) {
    const auto found = list_checkpoints(path / "checkpoints");
    if (found.empty()) {
      throw CheckpointError(path.string() + ": holds no whole checkpoint to resume from");
    }
    path = found.back();
  }
  const auto details = load_checkpoint(path, state);
  if (details.value("dataset_fingerprint", "") != run.data.fingerprint) {
    throw CheckpointError(path.string() + ": was trained on other data than " + run.config.data +
                          " holds now; a resumed run needs the same rows, tokenizer and formatting");
  }
  log::info("Resuming from " + path.string() + " at step " + std::to_string(state.step));
}

// ---- After training

// Throws DataError if the data has no test split.
Json test_split(const Run& run, const Params& trainable, const LoaderOptions& loader,
                const std::function<void(std::string, Json)>& emit) {
  if (!run.data.test) {
    throw DataError(run.config.data + ": --test needs a test file, and there is none");
  }
  EvalBatches batches(run.data.test, loader, run.config.test_batches);
  const Stopwatch watch;
  batches.draw();
  const auto measured = evaluate_split(run, trainable, batches);
  emit("eval", {{"split", "test"},
                {"loss", measured.loss},
                {"perplexity", measured.perplexity()},
                {"tokens", measured.tokens},
                {"seconds", watch.seconds()},
                {"best", false}});
  return {{"test_loss", measured.loss}, {"test_perplexity", measured.perplexity()}};
}

// The base model's answer beside the fine-tuned one's.
void answer_prompts(const Run& run, const Params& trainable, Trainer& trainer) {
  GenerationOptions options;
  options.max_tokens = run.config.generate_tokens;
  const auto& base_adapter = trainer.state().start; // PiSSA's base is whole with it alone
  for (const auto& prompt : run.config.generate) {
    PromptOptions prompting;
    prompting.system = run.config.system_prompt;
    const auto tokens = encode_prompt(*run.tokenizer, prompt, prompting);
    const auto answer = [&](const Params& weights) {
      Generator generator(ModelView(run.model.spec, run.model.params, weights, run.method.lora), run.tokenizer);
      return generator.generate(tokens, options).text;
    };
    const auto base = answer(base_adapter);
    trainer.emit("sample", {{"prompt", prompt}, {"base", base}, {"tuned", answer(trainable)}});
  }
}

// Full fine-tuning leaves a model folder that loads anywhere.
void save_full_model(const Run& run, const Params& trainable, const fs::path& folder) {
  Params params = run.model.params;
  for (const auto& [name, array] : trainable) {
    params.insert_or_assign(name, array);
  }
  save_model(folder / "model", run.model, params, stored_dtype(run.model.config));
}

// ---- The run

class RunInProgress {
 public:
  RunInProgress(Run run, const RunHooks& hooks)
      : run_(std::move(run)),
        hooks_(hooks),
        folder_(run_path(run_.config)),
        step_(run_.model, step_options(run_.config, run_.method.lora, run_.model.dtype)) {
  }

  RunResult execute() {
    auto state = step_.initial_state(std::move(run_.method.trainable), run_.config.seed);
    state.start = run_.method.start;
    auto options = trainer_options(run_.config, run_.data.train);
    if (!run_.config.resume.empty()) {
      restore(run_, state);
      if (options.loader.mlx_lm_random && !state.mlx_lm_random.is_null()) {
        *options.loader.mlx_lm_random = MlxLmRandom::from_json(state.mlx_lm_random);
      }
    }
    split_off_start(run_.model, run_.method.lora, state.start);
    plan(state, options);
    Trainer trainer(step_, std::move(state), run_.data.train, std::move(options));
    // From here on the run exists: what fails now is recorded in its folder.
    folder_.create();
    try {
      folder_.remove_leftovers();
      folder_.rewind_events(run_.config.resume.empty() ? -1 : trainer.state().step);
      start(trainer);
      trainer.run();
      return finish(trainer);
    } catch (const std::exception& error) {
      record_failure(trainer, error.what());
      folder_.discard_if_empty();
      throw;
    }
  }

 private:
  // Fits the step in memory_limit, or in what the device has.
  void plan(const TrainState& state, TrainerOptions& options) {
    mx::eval(values(state.trainable));
    mx::eval(values(state.optimizer));
    const auto step = step_options(run_.config, run_.method.lora, run_.model.dtype);
    if (run_.config.checkpoints_on_host && !step.host_store) {
      log::info("checkpoints_on_host: this device's memory is the host's, so nothing is moved");
    }
    plan_ = plan_for_limit(
        {run_.model, step, state, *run_.data.train, options.loader, options.grad_accumulation_steps},
        run_.config.memory_limit);
    if (plan_) {
      step_.recompute(plan_->checkpoint);
      options.loader.micro_batch_tokens = plan_->micro_batch_tokens;
      options.memory_ceiling = plan_->ceiling();
      log::info(plan_->sentence());
    }
  }

  void start(Trainer& trainer) {
    trainer.add_sink(&folder_);
    if (run_.config.report_to == "tensorboard") {
      tensorboard_ = std::make_unique<TensorBoardWriter>(folder_.path() / "tensorboard");
      trainer.add_sink(tensorboard_.get());
    }
    for (auto* sink : hooks_.sinks) {
      trainer.add_sink(sink);
    }
    add_callbacks(trainer);
    manifest_ = {{"temper_version", version()},    {"mlx_version", mx::version()},
                 {"device", device_name()},        {"dtype", dtype_name(run_.model.dtype)},
                 {"seed", run_.config.seed},       {"started", wall_time()},
                 {"dataset", run_.data.to_json()}, {"config", to_json(run_.config)}};
    write_manifest();
    trainer.emit("run_started", {{"config", to_json(run_.config)},
                                 {"model", run_.config.model},
                                 {"trainable_parameters", num_elements(trainer.state().trainable)},
                                 {"total_parameters", num_parameters(run_.model.spec)},
                                 {"train_examples", size_of(run_.data.train)},
                                 {"valid_examples", size_of(run_.data.valid)},
                                 {"test_examples", size_of(run_.data.test)},
                                 {"iters", trainer.options().total_steps},
                                 {"batches_per_epoch", trainer.batches_per_epoch()},
                                 {"run_dir", folder_.path().string()},
                                 {"memory_plan", plan_ ? plan_->to_json() : Json(nullptr)},
                                 {"device", device_name()},
                                 {"dtype", dtype_name(run_.model.dtype)}});
  }

  void add_callbacks(Trainer& trainer) {
    const auto& config = run_.config;
    trainer.add_callback(std::make_shared<ReportCallback>(config.steps_per_report));
    if (run_.data.valid && config.val_batches != 0) {
      auto batches =
          std::make_unique<EvalBatches>(run_.data.valid, trainer.options().loader, config.val_batches);
      trainer.add_callback(std::make_shared<ValidationCallback>(
          std::move(batches), config.steps_per_eval, [this](Trainer& now, EvalBatches& fixed) {
            return evaluate_split(run_, now.state().trainable, fixed);
          }));
    }
    SavingOptions saving;
    saving.save_every = config.save_every;
    saving.keep_checkpoints = config.keep_checkpoints;
    saving.details = {{"config", to_json(config)}, {"dataset_fingerprint", run_.data.fingerprint}};
    saving.save_adapter_config = [this](const fs::path& folder) {
      save_adapter_config(folder, run_.config.fine_tune_type, run_.config.num_layers,
                          portable_config(run_.method.lora, run_.method.start), run_.method.keys,
                          to_json(run_.config));
    };
    saving.save_adapter = [this](const fs::path& folder, const std::string& file, const TrainState& state) {
      save_adapter_params(folder, file, portable_params(state.trainable, state.start), run_.method.lora);
    };
    trainer.add_callback(std::make_shared<SavingCallback>(folder_, std::move(saving)));
    if (hooks_.interrupt != nullptr) {
      trainer.add_callback(std::make_shared<InterruptCallback>(*hooks_.interrupt));
    }
    for (const auto& callback : hooks_.callbacks) {
      trainer.add_callback(callback);
    }
  }

  RunResult finish(Trainer& trainer) {
    const auto& state = trainer.state();
    const bool completed = trainer.stop_reason().empty();
    Json summary{{"reason", completed ? "completed" : trainer.stop_reason()},
                 {"seconds", watch_.seconds()},
                 {"best_val_loss", std::isfinite(state.best_loss) ? Json(state.best_loss) : Json(nullptr)},
                 {"adapter_path", folder_.path().string()}};
    if (is_full(run_.config)) {
      save_full_model(run_, state.trainable, folder_.path());
    }
    if (completed) {
      if (run_.config.test) {
        summary.update(
            test_split(run_, state.trainable, trainer.options().loader,
                       [&](std::string type, Json data) { trainer.emit(std::move(type), std::move(data)); }));
      }
      answer_prompts(run_, state.trainable, trainer);
    }
    manifest_["result"] = summary;
    write_manifest();
    trainer.emit("finished", summary);
    return {summary["reason"], folder_.path().string(), state.step, summary};
  }

  void record_failure(Trainer& trainer, const std::string& what) noexcept {
    try {
      trainer.emit("failed", {{"error", what}});
      manifest_["result"] = {{"reason", "failed"}, {"error", what}};
      write_manifest();
    } catch (const std::exception&) {
      // The failure may be that nothing can be written; the caller reports `what` either way.
    }
  }

  void write_manifest() {
    write_json(folder_.path() / "run.json", manifest_);
  }

  Run run_;
  const RunHooks& hooks_;
  RunFolder folder_;
  std::unique_ptr<TensorBoardWriter> tensorboard_; // with report_to
  TrainStep step_;
  std::optional<MemoryPlan> plan_;
  Stopwatch watch_;
  Json manifest_;
};

// `train: false, test: true`: the test split's loss with the adapters of adapter_path, if it names any. Writes
// nothing.
RunResult test_only(const RunConfig& config, const RunHooks& hooks) {
  Run run = prepare(config);
  if (!config.adapter_path.empty()) {
    auto adapter = load_adapter(config.adapter_path, run.model.spec);
    make_ready(adapter, run.model);
    run.method.lora = adapter.lora;
    run.method.trainable = std::move(adapter.params);
  }
  const auto emit = [&](const std::string& type, const Json& data) {
    for (auto* sink : hooks.sinks) {
      sink->on_event({type, wall_time(), 0, data});
    }
  };
  Json summary{{"reason", "completed"}};
  summary.update(test_split(run, run.method.trainable, loader_options(config), emit));
  emit("finished", summary);
  return {"completed", "", 0, summary};
}

} // namespace

RunResult run_training(const RunConfig& config, const RunHooks& hooks) {
  prepare_training_device(config.clear_cache_threshold);
  if (!config.train) {
    return test_only(config, hooks);
  }
  return RunInProgress(prepare(config), hooks).execute();
}

RunConfig resumed_config(const std::string& path) {
  const fs::path given = path;
  const bool is_checkpoint = fs::exists(given / "state.json");
  const auto folder =
      is_checkpoint ? fs::absolute(given).lexically_normal().parent_path().parent_path() : given;
  const auto manifest = folder / "run.json";
  if (!fs::exists(manifest)) {
    throw CheckpointError(given.string() + ": neither a run folder nor one of its checkpoints (no run.json)");
  }
  RunConfig config;
  try {
    const auto json = read_json(manifest);
    if (!json.is_object() || !json.contains("config")) {
      throw CheckpointError(manifest.string() + ": holds no configuration to go on with");
    }
    config = run_config_from_json(json["config"]);
    validate(config);
  } catch (const ConfigError& error) {
    const std::string what = error.what();
    const auto place = manifest.string();
    throw CheckpointError(what.starts_with(place) ? what : place + ": " + what);
  }
  config.run_dir = folder.string();
  config.resume = path;
  return config;
}

} // namespace temper
