#include "temper/models/config_reader.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "temper/base/error.h"
#include "temper/base/log.h"

namespace temper {

ConfigReader::ConfigReader(Json config, std::string origin)
    : config_(std::move(config)), origin_(std::move(origin)) {
  if (!config_.is_object()) {
    fail("not a JSON object");
  }
}

void ConfigReader::set_defaults(const Json& defaults) {
  for (const auto& [key, value] : defaults.items()) {
    if (find(key) == nullptr) {
      config_[key] = value;
    }
  }
}

bool ConfigReader::contains(const std::string& key) const {
  return config_.contains(key);
}

const Json* ConfigReader::find(const std::string& key) {
  known_.insert(key);
  const auto it = config_.find(key);
  return it == config_.end() || it->is_null() ? nullptr : &*it;
}

int ConfigReader::integer(const std::string& key) {
  const auto* value = find(key);
  if (value == nullptr) {
    fail("the key " + key + " is missing");
  }
  if (!value->is_number_integer() || value->get<double>() > std::numeric_limits<int>::max() ||
      value->get<double>() < std::numeric_limits<int>::min()) {
    fail(key + " must be a whole number, but is " + dump(*value));
  }
  return value->get<int>();
}

int ConfigReader::positive(const std::string& key) {
  const int value = integer(key);
  if (value < 1) {
    fail(key + " must be at least 1, but is " + std::to_string(value));
  }
  return value;
}

int ConfigReader::positive(const std::string& key, int fallback) {
  return find(key) == nullptr ? fallback : positive(key);
}

int ConfigReader::integer(const std::string& key, int fallback) {
  return find(key) == nullptr ? fallback : integer(key);
}

float ConfigReader::number(const std::string& key, float fallback) {
  const auto* value = find(key);
  if (value != nullptr && !value->is_number()) {
    fail(key + " must be a number, but is " + dump(*value));
  }
  return value == nullptr ? fallback : value->get<float>();
}

bool ConfigReader::boolean(const std::string& key, bool fallback) {
  const auto* value = find(key);
  if (value != nullptr && !value->is_boolean()) {
    fail(key + " must be true or false, but is " + dump(*value));
  }
  return value == nullptr ? fallback : value->get<bool>();
}

std::string ConfigReader::text(const std::string& key, const std::string& fallback) {
  const auto* value = find(key);
  if (value != nullptr && !value->is_string()) {
    fail(key + " must be text, but is " + dump(*value));
  }
  return value == nullptr ? fallback : value->get<std::string>();
}

const Json* ConfigReader::object(const std::string& key) {
  const auto* value = find(key);
  if (value != nullptr && !value->is_object()) {
    fail(key + " must be an object, but is " + dump(*value));
  }
  return value;
}

namespace {

template <typename T>
std::vector<T> list_of(const Json* value, const ConfigReader& reader, const std::string& key,
                       bool (Json::*is_element)() const noexcept, const char* what) {
  std::vector<T> list;
  if (value == nullptr) {
    return list;
  }
  if (!value->is_array() || !std::all_of(value->begin(), value->end(),
                                         [&](const Json& element) { return (element.*is_element)(); })) {
    reader.fail(key + " must be a list of " + what + ", but is " + dump(*value));
  }
  for (const auto& element : *value) {
    list.push_back(element.get<T>());
  }
  return list;
}

} // namespace

std::vector<std::string> ConfigReader::texts(const std::string& key) {
  return list_of<std::string>(find(key), *this, key, &Json::is_string, "texts");
}

std::vector<int> ConfigReader::integers(const std::string& key) {
  return list_of<int>(find(key), *this, key, &Json::is_number_integer, "whole numbers");
}

std::vector<float> ConfigReader::numbers(const std::string& key) {
  return list_of<float>(find(key), *this, key, &Json::is_number, "numbers");
}

void ConfigReader::expect(const std::string& key, const std::vector<Json>& allowed) {
  const auto* value = find(key);
  if (value != nullptr && std::find(allowed.begin(), allowed.end(), *value) == allowed.end()) {
    fail(key + ": " + dump(*value) + " is not supported for this family");
  }
}

void ConfigReader::ignore(const std::vector<std::string>& keys) {
  known_.insert(keys.begin(), keys.end());
}

void ConfigReader::warn_unknown() const {
  std::string unknown;
  for (const auto& [key, value] : config_.items()) {
    if (!known_.contains(key)) {
      unknown += (unknown.empty() ? "" : ", ") + key;
    }
  }
  if (!unknown.empty()) {
    log::warn_once(origin_ + ": keys this family does not know and leaves out: " + unknown);
  }
}

void ConfigReader::fail(const std::string& what) const {
  throw ModelError(origin_ + ": " + what);
}

} // namespace temper
