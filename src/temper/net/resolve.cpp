#include "temper/net/resolve.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <tuple>
#include <vector>

#include <fmt/format.h>

#include "temper/base/error.h"
#include "temper/base/glob.h"
#include "temper/net/hub.h"
#include "temper/net/hub_gguf.h"
#include "temper/net/s3.h"

namespace temper {
namespace {

namespace fs = std::filesystem;
using Names = std::vector<std::string>;

bool has_extension(const std::string& name, const std::set<std::string>& extensions) {
  return extensions.contains(fs::path(name).extension().string());
}

bool is_weights(const std::string& name) {
  return name.starts_with("model") && name.ends_with(".safetensors") && name.find('/') == std::string::npos;
}

// The top folder's configuration, tokenizer and templates; no other framework's weights, no original/.
bool is_description(const std::string& name) {
  static const std::set<std::string> kNames = {
      "tokenizer.model", "spiece.model", "merges.txt", "vocab.txt", "sentencepiece.bpe.model", "LICENSE"};
  const bool is_template = name.ends_with(".jinja") && (name.find('/') == std::string::npos ||
                                                        name.starts_with("additional_chat_templates/"));
  return is_template || (name.find('/') == std::string::npos &&
                         (kNames.contains(name) || has_extension(name, {".json", ".tiktoken"})));
}

Names choose_model(const HubRepo& repo, const Names& names, ModelFiles files) {
  Names chosen;
  const bool has_weights = std::ranges::any_of(names, is_weights);
  if (std::ranges::find(names, "config.json") == names.end()) {
    throw ModelError(repo.id + ": the repository has no config.json: not a model in Hugging Face's format");
  }
  if (files == ModelFiles::all && !has_weights) {
    throw ModelError(repo.id +
                     ": the repository has no model*.safetensors; convert its weights to safetensors first");
  }
  // The description first: a model that can't be used should fail before its weights come.
  std::ranges::copy_if(names, std::back_inserter(chosen), is_description);
  if (files == ModelFiles::all) {
    std::ranges::copy_if(names, std::back_inserter(chosen), is_weights);
  }
  return chosen;
}

bool is_complete_model(const fs::path& folder, ModelFiles files) {
  std::error_code ignored;
  if (!fs::exists(folder / "config.json", ignored)) {
    return false;
  }
  if (files == ModelFiles::description) {
    return true;
  }
  if (const auto index = folder / "model.safetensors.index.json"; fs::exists(index, ignored)) {
    const Json json = read_json(index);
    return json.contains("weight_map") && std::ranges::all_of(json["weight_map"], [&](const Json& file) {
             return file.is_string() && fs::exists(folder / file.get<std::string>(), ignored);
           });
  }
  return std::ranges::any_of(fs::directory_iterator(folder), [](const fs::directory_entry& entry) {
    return is_weights(entry.path().filename().string()) && entry.exists();
  });
}

// GGUF files of a snapshot, relative to it.
Names local_ggufs(const fs::path& folder) {
  Names names;
  std::error_code error;
  for (const auto& entry : fs::recursive_directory_iterator(folder, error)) {
    if (entry.is_regular_file(error)) {
      names.push_back(entry.path().lexically_relative(folder).string());
    }
  }
  return find_gguf(names, "");
}

// A repository with safetensors is taken for those unless a GGUF file is asked for. `wanted`:
// split_gguf_name()'s.
fs::path fetch_model(const HubRepo& repo, const std::string& wanted, ModelFiles files) {
  const auto is_folder = [&](const fs::path& folder) {
    return wanted.empty() && is_complete_model(folder, files);
  };
  std::string gguf;
  auto folder = Hub(hub_settings_from_environment())
                    .snapshot(
                        repo,
                        [&](const Names& names) {
                          const bool has_weights = std::ranges::any_of(names, is_weights);
                          if (wanted.empty() && (has_weights || find_gguf(names, "").empty())) {
                            return choose_model(repo, names, files);
                          }
                          gguf = choose_gguf(names, wanted, repo.id);
                          return Names{gguf};
                        },
                        [&](const fs::path& snapshot) {
                          return is_folder(snapshot) || !find_gguf(local_ggufs(snapshot), wanted).empty();
                        });
  if (gguf.empty() && is_folder(folder)) {
    return folder;
  }
  return folder / (gguf.empty() ? choose_gguf(local_ggufs(folder), wanted, repo.id) : gguf);
}

bool is_data(const std::string& name) {
  static const std::set<std::string> kAbout = {"dataset_infos.json", "dataset_info.json", "requirements.txt",
                                               "LICENSE.txt"};
  return has_extension(name, {".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".parquet"}) &&
         !kAbout.contains(fs::path(name).filename().string());
}

bool is_below(const std::string& name, const std::string& path) {
  return path.empty() || name == path || name.starts_with(path + "/") ||
         (is_glob(path) && glob_match(path, name));
}

Names choose_data(const std::string& what, const std::string& path, const Names& names) {
  Names chosen;
  std::ranges::copy_if(names, std::back_inserter(chosen),
                       [&](const auto& name) { return is_below(name, path) && is_data(name); });
  if (chosen.empty()) {
    throw DataError(what + (path.empty() ? "" : "/" + path) +
                    ": there is no .jsonl, .json, .csv, .tsv, .txt or .parquet file");
  }
  if (is_glob(path) || std::ranges::find(chosen, path) != chosen.end()) {
    return chosen;
  }
  // Of a repository with data at its top, or in data/, the rest is not looked at: it need not come.
  for (const std::string& place : {path, path.empty() ? "data" : path + "/data"}) {
    const auto begin = place.empty() ? 0 : place.size() + 1;
    Names direct;
    std::ranges::copy_if(chosen, std::back_inserter(direct), [&](const auto& name) {
      return is_below(name, place) && name.find('/', begin) == std::string::npos;
    });
    if (!direct.empty()) {
      return direct;
    }
  }
  std::set<std::string> folders;
  for (const auto& name : chosen) {
    folders.insert(fs::path(name).parent_path().lexically_relative(path.empty() ? "." : path).string());
  }
  if (folders.size() > 1) {
    throw DataError(fmt::format("{}{}: its data are in several folders, name one: {}", what,
                                path.empty() ? "" : "/" + path, fmt::join(folders, ", ")));
  }
  return chosen;
}

// Data files below `folder`, links followed.
std::vector<fs::path> data_files(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code error;
  for (const auto& entry : fs::recursive_directory_iterator(folder, error)) {
    if (is_data(entry.path().filename().string()) && entry.is_regular_file(error)) {
      found.push_back(entry.path());
    }
  }
  return found;
}

// A repository keeps its splits at its top or in data/; one that has a single file needs no names.
fs::path place_of_data(const fs::path& start) {
  if (!fs::is_directory(start)) { // one file, or a pattern
    return start;
  }
  const auto files = data_files(start);
  if (files.size() == 1) {
    return files.front();
  }
  const bool has_top =
      std::ranges::any_of(files, [&](const fs::path& file) { return file.parent_path() == start; });
  return !has_top && fs::is_directory(start / "data") ? start / "data" : start;
}

// One answer a process for each thing asked.
template <class Fetch>
fs::path once(const std::tuple<std::string, std::string, int>& key, const Fetch& fetch) {
  static std::mutex mutex;
  static std::map<std::tuple<std::string, std::string, int>, fs::path> known;
  const std::lock_guard lock(mutex);
  const auto found = known.find(key);
  return found != known.end() ? found->second : known[key] = fetch();
}

} // namespace

fs::path resolve_model(const std::string& name, const std::string& revision, ModelFiles files) {
  std::error_code ignored;
  if (fs::exists(name, ignored)) {
    if (!revision.empty()) {
      throw ConfigError("revision " + revision + ": " + name +
                        " is a folder here; only a hub's model has revisions");
    }
    return name;
  }
  auto [plain, wanted] = split_gguf_name(name);
  auto repo = parse_hub_name(plain);
  if (!repo) {
    return name;
  }
  if (repo->kind == HubRepo::Kind::dataset) {
    throw ConfigError(name + " is a data set; --model takes a model");
  }
  if (!repo->path.empty()) {
    throw ConfigError(name + ": a model is a whole repository, hf://org/name, or a GGUF file of one, " +
                      "hf://org/name:FILE.gguf");
  }
  if (!revision.empty()) {
    repo->revision = revision;
  }
  return once({"model " + repo->id + ":" + wanted, repo->revision, static_cast<int>(files)},
              [&] { return fetch_model(*repo, wanted, files); });
}

fs::path resolve_data(const fs::path& path) {
  if (path.string().starts_with("s3://")) {
    const auto address = parse_s3(path.string());
    return place_of_data(once({"s3 " + address.text(), "", 0}, [&] {
      return S3(s3_settings_from_environment()).fetch(address, [&](const Names& keys) {
        return choose_data("s3://" + address.bucket, address.key, keys);
      });
    }));
  }
  if (!path.string().starts_with("hf://")) {
    return path;
  }
  const auto repo = parse_hub_name(path.string());
  if (repo->kind != HubRepo::Kind::dataset) {
    throw ConfigError(path.string() + " is a model; a data set is hf://datasets/org/name");
  }
  const auto snapshot = once({"data " + repo->id + "/" + repo->path, repo->revision, 0}, [&] {
    return Hub(hub_settings_from_environment())
        .snapshot(
            *repo, [&](const Names& names) { return choose_data(repo->id, repo->path, names); },
            [&](const fs::path& folder) {
              return is_glob(repo->path) ? !glob_files((folder / repo->path).string()).empty()
                                         : !data_files(folder / repo->path).empty();
            });
  });
  return place_of_data(snapshot / repo->path);
}

} // namespace temper
