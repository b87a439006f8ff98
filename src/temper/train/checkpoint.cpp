#include "temper/train/checkpoint.h"

#include <algorithm>
#include <cctype>
#include <cstdio>

#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/io/safetensors.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

constexpr int kFormatVersion = 1;

void add(Params& all, const std::string& prefix, const Params& part) {
  for (const auto& [name, array] : part) {
    all.emplace(prefix + name, array);
  }
}

Params gather(const TrainState& state) {
  Params all;
  add(all, "trainable.", state.trainable);
  add(all, "optimizer.", state.optimizer);
  add(all, "accumulator.", state.accumulator);
  add(all, "start.", state.start);
  all.emplace("count", state.count);
  all.emplace("loss_scale", state.loss_scale);
  all.emplace("good_steps", state.good_steps);
  return all;
}

const mx::array& require(const fs::path& file, const Params& all, const std::string& name,
                         const mx::array& like) {
  const auto it = all.find(name);
  if (it == all.end()) {
    throw CheckpointError(file.string() + ": " + name +
                          " is missing; the checkpoint belongs to a run with other settings");
  }
  if (it->second.shape() != like.shape()) {
    throw CheckpointError(file.string() + ": " + name + " has shape " + shape_text(it->second.shape()) +
                          ", this run needs " + shape_text(like.shape()));
  }
  return it->second;
}

void restore(const fs::path& file, const Params& all, const std::string& prefix, Params& part) {
  for (auto& [name, array] : part) {
    array = require(file, all, prefix + name, array);
  }
}

} // namespace

std::string checkpoint_name(std::int64_t step) {
  char name[32];
  std::snprintf(name, sizeof name, "%07lld", static_cast<long long>(step));
  return name;
}

std::vector<fs::path> list_checkpoints(const fs::path& folder) {
  std::vector<fs::path> found;
  if (!fs::is_directory(folder)) {
    return found;
  }
  for (const auto& entry : fs::directory_iterator(folder)) {
    const auto name = entry.path().filename().string();
    const bool numbered =
        std::all_of(name.begin(), name.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
    if (numbered && fs::exists(entry.path() / "state.json")) {
      found.push_back(entry.path());
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

void save_checkpoint(const fs::path& folder, const TrainState& state, const Json& details) {
  make_directories(folder);
  save_safetensors(folder / "state.safetensors", gather(state), {{"format", "temper"}});
  write_json(folder / "state.json",
             {{"format_version", kFormatVersion}, {"state", state.host_json()}, {"details", details}});
}

Json load_checkpoint(const fs::path& folder, TrainState& state) {
  const auto manifest = folder / "state.json";
  if (!fs::exists(manifest)) {
    throw CheckpointError(folder.string() + ": no state.json; this is not a whole checkpoint");
  }
  Json json;
  Params all;
  const auto file = folder / "state.safetensors";
  try {
    json = read_json(manifest);
    all = load_safetensors(file);
  } catch (const Error& error) {
    throw CheckpointError(std::string(error.what()));
  }
  if (!json.is_object() || json.value("format_version", Json()) != kFormatVersion || !json.contains("state")) {
    throw CheckpointError(manifest.string() + ": not a checkpoint of format " + std::to_string(kFormatVersion));
  }
  restore(file, all, "trainable.", state.trainable.edit());
  restore(file, all, "optimizer.", state.optimizer.edit());
  restore(file, all, "start.", state.start);
  state.accumulator.clear();
  for (const auto& [name, array] : state.trainable) {
    if (const auto it = all.find("accumulator." + name); it != all.end()) {
      state.accumulator.edit().emplace(name, it->second);
    }
  }
  state.count = require(file, all, "count", state.count);
  state.loss_scale = require(file, all, "loss_scale", state.loss_scale);
  state.good_steps = require(file, all, "good_steps", state.good_steps);
  mx::eval(values(gather(state)));
  try {
    state.restore_host(json["state"]);
  } catch (const CheckpointError& error) {
    throw CheckpointError(manifest.string() + ": " + error.what());
  }
  return json.value("details", Json::object());
}

} // namespace temper
