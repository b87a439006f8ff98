#include "temper/text/tokenizer_files.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <system_error>

#include "temper/base/error.h"
#include "temper/base/files.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

// Raise this when text is tokenized or rendered differently from before: token caches depend on it.
constexpr std::string_view kTextVersion = "1";

constexpr std::array kSpecialNames = {"bos_token", "eos_token", "unk_token", "sep_token",
                                      "pad_token", "cls_token", "mask_token"};

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

std::string read(const fs::path& path) {
  try {
    return read_file(path);
  } catch (const Error& error) {
    throw ModelError(error.what());
  }
}

// An absent file is an empty object.
Json read_object(const fs::path& path) {
  if (!is_file(path)) {
    return Json::object();
  }
  try {
    Json json = parse_json(read(path), path.string());
    if (json.is_object()) {
      return json;
    }
  } catch (const ConfigError& error) {
    throw ModelError(error.what());
  }
  throw ModelError(path.string() + ": must be a JSON object");
}

// A token is written as its text, or as an object with its content.
std::optional<std::string> token_text(const Json& token) {
  if (token.is_string()) {
    return token.get<std::string>();
  }
  if (token.is_object() && token.contains("content") && token["content"].is_string()) {
    return token["content"].get<std::string>();
  }
  return std::nullopt;
}

void merge_specials(const Json& source, Json& specials) {
  for (const char* name : kSpecialNames) {
    const auto found = source.find(name);
    if (found != source.end() && !specials.contains(name)) {
      if (auto text = token_text(*found)) {
        specials[name] = *std::move(text);
      }
    }
  }
  const auto more = source.find("additional_special_tokens");
  if (more != source.end() && more->is_array() && !specials.contains("additional_special_tokens")) {
    Json list = Json::array();
    for (const Json& token : *more) {
      if (auto text = token_text(token)) {
        list.push_back(*std::move(text));
      }
    }
    specials["additional_special_tokens"] = std::move(list);
  }
}

Json added_tokens(const Json& config) {
  const auto decoder = config.find("added_tokens_decoder");
  std::map<std::int64_t, Json> by_id;
  if (decoder != config.end() && decoder->is_object()) {
    for (const auto& [id, token] : decoder->items()) {
      if (token_text(token) && !id.empty() && id.find_first_not_of("0123456789") == std::string::npos &&
          id.size() < 10) {
        Json entry = token.is_object() ? token : Json{{"content", token}};
        entry["id"] = std::stoll(id);
        by_id[std::stoll(id)] = std::move(entry);
      }
    }
  }
  Json out = Json::array();
  for (auto& [id, token] : by_id) {
    out.push_back(std::move(token));
  }
  return out;
}

// tokenizer_config.json has one template, or a list of named ones.
void read_config_templates(const Json& config, std::map<std::string, std::string>& templates) {
  const auto source = config.find("chat_template");
  if (source == config.end()) {
    return;
  }
  if (source->is_string()) {
    templates["default"] = source->get<std::string>();
  } else if (source->is_array()) {
    for (const Json& entry : *source) {
      if (entry.is_object() && entry.contains("name") && entry["name"].is_string() &&
          entry.contains("template") && entry["template"].is_string()) {
        templates[entry["name"].get<std::string>()] = entry["template"].get<std::string>();
      }
    }
  } else if (source->is_object()) {
    for (const auto& [name, text] : source->items()) {
      if (text.is_string()) {
        templates[name] = text.get<std::string>();
      }
    }
  }
}

// Files of their own win over tokenizer_config.json.
std::map<std::string, std::string> read_templates(const fs::path& dir, const Json& config) {
  std::map<std::string, std::string> templates;
  read_config_templates(config, templates);
  read_config_templates(read_object(dir / "chat_template.json"), templates);
  if (is_file(dir / "chat_template.jinja")) {
    templates["default"] = read(dir / "chat_template.jinja");
  }
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(dir / "additional_chat_templates", ignored)) {
    if (entry.path().extension() == ".jinja") {
      templates[entry.path().stem().string()] = read(entry.path());
    }
  }
  return templates;
}

std::optional<bool> flag(const Json& config, const char* name) {
  const auto found = config.find(name);
  return found != config.end() && found->is_boolean() ? std::optional(found->get<bool>()) : std::nullopt;
}

// `name` is an id or a list of ids.
std::vector<std::int32_t> read_ids(const Json& config, const char* name) {
  std::vector<std::int32_t> ids;
  const auto add = [&](const Json& id) {
    if (id.is_number_integer() && id.get<std::int64_t>() >= 0 && id.get<std::int64_t>() <= INT32_MAX) {
      ids.push_back(id.get<std::int32_t>());
    }
  };
  if (const auto found = config.find(name); found != config.end()) {
    if (found->is_array()) {
      std::for_each(found->begin(), found->end(), add);
    } else {
      add(*found);
    }
  }
  return ids;
}

void find_model(const fs::path& dir, TokenizerFiles& files) {
  for (const char* name : {"tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"}) {
    if (is_file(dir / name)) {
      files.model = dir / name;
      files.is_sentencepiece = files.model.extension() == ".model";
      files.model_bytes = read(files.model);
      return;
    }
  }
  std::error_code ignored;
  if (!fs::is_directory(dir, ignored)) {
    throw ModelError(dir.string() + ": no such model folder");
  }
  const bool slow = is_file(dir / "vocab.json") || is_file(dir / "vocab.txt");
  throw ModelError(dir.string() + ": no tokenizer.json or tokenizer.model; " +
                   (slow ? "it holds an older tokenizer: save it as tokenizer.json with transformers' "
                           "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
                         : "copy the tokenizer's files from the model that the weights come from"));
}

std::string fingerprint(const TokenizerFiles& files, const Json& tokenizer_config) {
  Fingerprint print;
  const auto add = [&](std::string_view part) { print.add(std::to_string(part.size())).add(":").add(part); };
  add(kTextVersion);
  add(files.model_bytes);
  add(dump(tokenizer_config));
  add(dump(files.specials));
  for (const auto& [name, source] : files.templates) {
    add(name);
    add(source);
  }
  return print.hex();
}

} // namespace

TokenizerFiles read_tokenizer_files(const fs::path& model_dir) {
  TokenizerFiles files;
  find_model(model_dir, files);
  const Json config = read_object(model_dir / "tokenizer_config.json");
  merge_specials(config, files.specials);
  merge_specials(read_object(model_dir / "special_tokens_map.json"), files.specials);
  files.added_tokens = added_tokens(config);
  files.templates = read_templates(model_dir, config);
  files.add_bos_token = flag(config, "add_bos_token");
  files.add_eos_token = flag(config, "add_eos_token");
  files.add_prefix_space = flag(config, "add_prefix_space");
  files.legacy = flag(config, "legacy").value_or(false);

  const Json generation = read_object(model_dir / "generation_config.json");
  const Json model_config = read_object(model_dir / "config.json");
  const auto ids = [&](const char* name) {
    auto found = read_ids(generation, name);
    return found.empty() ? read_ids(model_config, name) : found;
  };
  files.bos_ids = ids("bos_token_id");
  files.eos_ids = ids("eos_token_id");
  files.pad_ids = ids("pad_token_id");
  files.fingerprint = fingerprint(files, config);
  return files;
}

} // namespace temper
