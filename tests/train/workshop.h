// What the tests of whole runs share: a workshop with a model, data and a place for runs, and readers of what a
// run leaves.
#pragma once

#include <atomic>
#include <fstream>
#include <sstream>

#include "data/tiny_model.h"
#include "io/tiny_model.h"
#include "temper/base/log.h"
#include "temper/train/run.h"
#include "temper/train/trainer.h"

namespace temper::test {

namespace fs = std::filesystem;

// A model folder with a byte tokenizer, a data folder, and a place for runs.
class Workshop {
 public:
  // `changes` are keys of the model's config.json.
  explicit Workshop(const Json& changes = Json::object()) {
    log::set_level(log::Level::error);
    write_model(model(), tiny_model(changes));
    write_json(model() / "tokenizer.json", tiny_tokenizer_json());
    write_json(model() / "tokenizer_config.json",
               {{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"chat_template", kTinyTemplate}});
    write_rows("train", 20);
    write_rows("valid", 6);
    write_rows("test", 6);
  }

  fs::path model() const {
    return make(folder_.path() / "model");
  }
  fs::path data() const {
    return make(folder_.path() / "data");
  }
  fs::path run() const {
    return folder_.path() / "run";
  }
  RunConfig config() const {
    RunConfig config;
    config.model = model().string();
    config.data = data().string();
    config.run_dir = run().string();
    config.cache_dir = (folder_.path() / "cache").string();
    config.iters = 6;
    config.batch_size = 4;
    config.learning_rate = 1e-2;
    config.max_seq_length = 64;
    config.lora_parameters.rank = 2;
    config.lora_parameters.dropout = 0.1;
    config.steps_per_report = 1;
    config.steps_per_eval = 2;
    config.save_every = 3;
    config.seed = 3;
    return config;
  }

 private:
  static fs::path make(const fs::path& path) {
    fs::create_directories(path);
    return path;
  }
  void write_rows(const std::string& split, int count) const {
    std::ofstream file(data() / (split + ".jsonl"));
    for (int i = 0; i < count; ++i) {
      const std::string number = std::to_string(i * 7 % 23);
      file << Json{{"prompt", split + " " + number},
                   {"completion", std::string(static_cast<std::size_t>(i % 9 + 1), 'a') + number}}
           << "\n";
    }
  }

  TempFolder folder_;
};

inline std::vector<Json> events(const fs::path& run, const std::string& type = "") {
  std::vector<Json> found;
  std::istringstream text(read_file(run / "events.jsonl"));
  for (std::string line; std::getline(text, line);) {
    auto json = Json::parse(line);
    if (type.empty() || json.at("type") == type) {
      found.push_back(std::move(json));
    }
  }
  return found;
}

inline std::vector<double> numbers(const std::vector<Json>& found, const char* key) {
  std::vector<double> values;
  for (const auto& event : found) {
    values.push_back(event.at(key).get<double>());
  }
  return values;
}

// Raises a signal once a step is taken.
class Interrupter final : public Callback {
 public:
  Interrupter(std::int64_t step, std::atomic<int>& raised) : step_(step), raised_(raised) {
  }
  void before_step(Trainer& trainer) override {
    if (trainer.state().step + 1 == step_) {
      raised_ = 2;
    }
  }

 private:
  std::int64_t step_;
  std::atomic<int>& raised_;
};

} // namespace temper::test
