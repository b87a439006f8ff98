#include "cli/upload_files.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include <fmt/format.h>

#include "temper/base/error.h"
#include "temper/base/glob.h"
#include "temper/base/json.h"
#include "temper/base/json_text.h"
#include "temper/base/version.h"

namespace temper::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::array kWeights = {"*.safetensors", "*.gguf"};
constexpr std::array kOthers = {"config.json",
                                "generation_config.json",
                                "adapter_config.json",
                                "*.safetensors.index.json",
                                "tokenizer.json",
                                "tokenizer_config.json",
                                "special_tokens_map.json",
                                "added_tokens.json",
                                "vocab.json",
                                "merges.txt",
                                "vocab.txt",
                                "tokenizer.model",
                                "spiece.model",
                                "sentencepiece.bpe.model",
                                "*.tiktoken",
                                "*.jinja",
                                "chat_template.json",
                                "processor_config.json",
                                "preprocessor_config.json",
                                "Modelfile",
                                "README.md",
                                "LICENSE*",
                                "NOTICE*"};

template <class Patterns>
bool fits(const Patterns& patterns, const std::string& name) {
  return std::ranges::any_of(patterns, [&](const char* pattern) { return glob_match(pattern, name); });
}

// 0000100_adapters.safetensors: a checkpoint's.
bool is_checkpoint(const std::string& name) {
  return glob_match("[0-9]*_adapters.safetensors", name);
}

std::optional<Json> json_at(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored) ? std::optional(read_json(path)) : std::nullopt;
}

// The manifest of the run that the folder belongs to: its own, or of a run that it lies in (model/,
// checkpoints/best/).
std::optional<Json> run_of(const fs::path& folder) {
  auto at = fs::absolute(folder).lexically_normal();
  for (int depth = 0; depth < 3; ++depth, at = at.parent_path()) {
    if (auto run = json_at(at / "run.json"); run && run->is_object()) {
      return run;
    }
  }
  return std::nullopt;
}

// The base's name on the hub; empty if it is a folder of this machine, whose name is nobody's business.
std::string base_of(const fs::path& folder, const Json& config) {
  auto name = text_at(config, "model");
  if (const auto adapter = json_at(folder / "adapter_config.json"); name.empty() && adapter) {
    name = text_at(*adapter, "model");
    name = !name.empty() ? name : text_at(*adapter, "base_model_name_or_path");
  }
  name = name.starts_with("hf://") ? name.substr(5) : name;
  std::error_code ignored;
  const auto repo =
      name.find('/') == std::string::npos || fs::exists(name, ignored) ? std::nullopt : parse_hub_name(name);
  return repo ? repo->id : "";
}

std::string figure_row(const std::string& label, const Json& object, const char* key) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  if (found == object.end() || found->is_null() || found->is_structured()) {
    return "";
  }
  const auto shown = found->is_number_float() ? fmt::format("{:.6g}", found->get<double>())
                     : found->is_string()     ? found->get<std::string>()
                                              : dump(*found);
  return fmt::format("| {} | {} |\n", label, shown);
}

std::string figures_of(const Json& run) {
  const Json config = run.value("config", Json::object());
  const Json result = run.value("result", Json::object());
  std::string rows = figure_row("method", config, "fine_tune_type");
  if (text_at(config, "fine_tune_type") != "full") {
    rows += figure_row("rank", config.value("lora_parameters", Json::object()), "rank");
  }
  for (const char* key : {"iters", "batch_size", "learning_rate", "optimizer", "max_seq_length", "seed"}) {
    rows += figure_row(key, config, key);
  }
  const Json dataset = run.value("dataset", Json::object());
  const Json splits = dataset.is_object() ? dataset.value("splits", Json::array()) : Json::array();
  for (const auto& split : splits.is_array() ? splits : Json::array()) {
    rows += figure_row(text_at(split, "split") + " examples", split, "examples");
  }
  for (const auto& [key, label] : {std::pair{"best_val_loss", "best validation loss"},
                                   {"test_loss", "test loss"},
                                   {"test_perplexity", "test perplexity"}}) {
    rows += figure_row(label, result, key);
  }
  return rows.empty() ? "" : "\n| | |\n|---|---|\n" + rows;
}

std::string make_page(const fs::path& folder, const std::string& repo) {
  const auto run = run_of(folder);
  const Json config = run ? run->value("config", Json::object()) : Json::object();
  const auto base = base_of(folder, config);
  std::error_code ignored;
  const bool is_adapter = fs::exists(folder / "adapter_config.json", ignored);
  std::string page = "---\n" + (base.empty() ? "" : "base_model: " + base + "\n") +
                     "license: unknown\ntags:\n" + "- temper\n" + (is_adapter ? "- lora\n" : "") + "---\n\n# " +
                     repo + "\n\n";
  page += base.empty() ? "Fine-tuned" : fmt::format("Fine-tuned from [{0}](https://huggingface.co/{0})", base);
  page += fmt::format(" with Temper {}.\n", run ? text_at(*run, "temper_version") : version());
  return page + (run ? figures_of(*run) : "");
}

std::vector<UploadFile> files_of(const fs::path& folder) {
  std::vector<UploadFile> files;
  bool has_weights = false;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const auto name = entry.path().filename().string();
    const bool is_weights = fits(kWeights, name) && !is_checkpoint(name);
    if (entry.is_regular_file() && (is_weights || fits(kOthers, name))) {
      has_weights = has_weights || is_weights;
      files.push_back({name, entry.path(), ""});
    }
  }
  if (!has_weights) {
    throw ModelError(folder.string() + ": nothing to upload: no .safetensors or .gguf file is there");
  }
  std::ranges::sort(files, {}, &UploadFile::name);
  return files;
}

} // namespace

std::vector<UploadFile> choose_upload(const fs::path& path, const std::string& repo) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) {
    throw ConfigError(path.string() + ": no such file or folder");
  }
  if (!fs::is_directory(path)) {
    if (!fits(kWeights, path.filename().string())) {
      throw ModelError(path.string() + ": nothing to upload: neither a .safetensors nor a .gguf file");
    }
    const auto page = make_page(path.parent_path(), repo);
    return {{path.filename().string(), path, ""}, {"README.md", {}, page}};
  }
  const bool is_full_run = fs::exists(path / "run.json", ignored) && fs::is_directory(path / "model", ignored);
  const fs::path folder = is_full_run ? path / "model" : path;
  auto files = files_of(folder);
  if (std::ranges::find(files, "README.md", &UploadFile::name) == files.end()) {
    files.push_back({"README.md", {}, make_page(folder, repo)});
  }
  return files;
}

} // namespace temper::cli
