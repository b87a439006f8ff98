#include "temper/data/data_parts.h"

#include <algorithm>
#include <cmath>
#include <regex>

#include "temper/base/error.h"
#include "temper/data/find_splits.h"
#include "temper/net/hub_cache.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

std::string text_of(const Json& set, const char* key, const std::string& fallback) {
  const auto found = set.find(key);
  if (found == set.end() || found->is_null()) {
    return fallback;
  }
  if (!found->is_string()) {
    throw ConfigError(std::string("hf_dataset: ") + key + " must be a string");
  }
  return found->get<std::string>();
}

// A folder or file here, else a name on the hub; `config: {name: X}` is a folder of that name in it.
std::string place_of(const Json& set) {
  const auto path = text_of(set, "path", "");
  std::error_code ignored;
  const bool is_here = !path.empty() && fs::exists(path, ignored);
  const bool is_address = path.starts_with("hf://") || path.starts_with("s3://");
  if (path.empty()) {
    throw ConfigError("hf_dataset: give a name on the hub, or an object (or list of objects) with its path");
  }
  if (!is_here && !is_address && !parse_hub_name(path)) {
    throw ConfigError("hf_dataset: '" + path + "' is neither a folder or file here nor a name on the hub");
  }
  std::string place = is_here || is_address ? path : "hf://datasets/" + path;
  const auto config = set.find("config");
  if (config != set.end() && config->is_object()) {
    const auto revision = text_of(*config, "revision", "");
    const auto folder = text_of(*config, "data_dir", text_of(*config, "name", ""));
    place += (revision.empty() ? "" : "@" + revision) + (folder.empty() ? "" : "/" + folder);
  }
  return place;
}

DataOptions options_of(const Json& set, const RunConfig& config) {
  auto options = data_options(config);
  auto& format = options.format;
  format.prompt_feature = text_of(set, "prompt_feature", format.prompt_feature);
  format.completion_feature = text_of(set, "completion_feature", format.completion_feature);
  format.text_feature = text_of(set, "text_feature", format.text_feature);
  format.chat_feature = text_of(set, "chat_feature", format.chat_feature);
  return options;
}

std::vector<SplitPart> find_parts(const std::string& place, const std::string& text) {
  std::vector<SplitPart> parts;
  for (const auto& [name, range] : parse_split(text)) {
    auto files = find_split(place, name);
    if (files.empty()) {
      throw DataError(place + ": there is no split '" + name + "' (hf_dataset asks for " + text + ")");
    }
    parts.push_back({std::move(files), range});
  }
  return parts;
}

DataPart part_of_data(const RunConfig& config, const std::string& data) {
  const auto files = find_splits(data);
  DataPart part;
  part.options = data_options(config);
  const auto add = [](std::vector<SplitPart>& to, const std::vector<fs::path>& from) {
    if (!from.empty()) {
      to.push_back({from, {}});
    }
  };
  add(part.train, files.train);
  add(part.valid, files.valid);
  add(part.test, files.test);
  return part;
}

DataPart part_of_set(const RunConfig& config, const Json& set) {
  if (!set.is_object()) {
    throw ConfigError("hf_dataset: " + dump(set) + " is no object with a path");
  }
  const auto place = place_of(set);
  DataPart part;
  part.options = options_of(set, config);
  if (config.train) {
    part.train = find_parts(place, text_of(set, "train_split", "train[:80%]"));
    part.valid = find_parts(place, text_of(set, "valid_split", "train[-10%:]"));
  }
  if (config.test) {
    part.test = find_parts(place, text_of(set, "test_split", "test"));
  }
  return part;
}

RowRange::Bound bound_of(const std::string& text) {
  return text.empty() ? RowRange::Bound{} : RowRange::Bound{std::stod(text), text.back() == '%', false};
}

} // namespace

std::pair<std::size_t, std::size_t> RowRange::of(std::size_t size) const {
  const auto rows = static_cast<double>(size);
  const auto place = [&](const Bound& bound, double open) {
    if (bound.open) {
      return open;
    }
    const double at = bound.percent ? std::nearbyint(bound.value * rows / 100) : bound.value;
    return std::clamp(at < 0 ? rows + at : at, 0.0, rows);
  };
  const auto begin = static_cast<std::size_t>(place(from, 0));
  return {begin, std::max(begin, static_cast<std::size_t>(place(to, rows)))};
}

std::vector<std::pair<std::string, RowRange>> parse_split(const std::string& text) {
  static const std::regex form(
      R"( *([A-Za-z0-9_.-]+)(?:\[ *(-?[0-9]{1,12}%?)? *: *(-?[0-9]{1,12}%?)? *\])? *)");
  std::vector<std::pair<std::string, RowRange>> parts;
  for (std::size_t at = 0; at <= text.size();) {
    const auto end = std::min(text.find('+', at), text.size());
    const auto part = text.substr(at, end - at);
    std::smatch match;
    if (!std::regex_match(part, match, form)) {
      throw ConfigError("hf_dataset: '" + text + "' is no split; write train, train[:80%] or test[100:200]");
    }
    parts.push_back({match[1], {bound_of(match[2]), bound_of(match[3])}});
    at = end + 1;
  }
  return parts;
}

std::vector<DataPart> data_parts(const RunConfig& config) {
  data_options(config); // what it refuses is refused before any file is looked for
  const Json& set = config.hf_dataset;
  if (set.is_null()) {
    return {part_of_data(config, config.data)};
  }
  std::vector<DataPart> parts;
  if (!set.is_array()) {
    parts.push_back(part_of_set(config, set));
  }
  for (std::size_t i = 0; set.is_array() && i < set.size(); ++i) {
    parts.push_back(part_of_set(config, set[i]));
  }
  if (parts.empty()) {
    throw ConfigError("hf_dataset: the list is empty");
  }
  return parts;
}

} // namespace temper
