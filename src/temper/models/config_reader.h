// Reads a Hugging Face config.json: typed, with one clear line for what is missing or wrong, and with a
// record of what was read, so that unknown keys can be named.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "temper/base/json.h"

namespace temper {

class ConfigReader {
 public:
  // `origin` names the file in messages.
  ConfigReader(Json config, std::string origin);

  // What absent keys are taken as from here on. Not for nested objects' keys.
  void set_defaults(const Json& defaults);

  // Whether the key is there, be it null.
  bool contains(const std::string& key) const;

  // Throw ModelError if the key is absent (or null) or of another type.
  int integer(const std::string& key);
  int positive(const std::string& key); // also if it is < 1
  // `fallback` if the key is absent or null; throw ModelError if it is of another type.
  int integer(const std::string& key, int fallback);
  int positive(const std::string& key, int fallback); // also if it is < 1
  float number(const std::string& key, float fallback);
  bool boolean(const std::string& key, bool fallback);
  std::string text(const std::string& key, const std::string& fallback);
  // The object under `key`, or nullptr if absent or null.
  const Json* object(const std::string& key);
  // The list under `key`; empty if absent or null. Throw ModelError if it is something else.
  std::vector<std::string> texts(const std::string& key);
  std::vector<int> integers(const std::string& key);
  std::vector<float> numbers(const std::string& key);

  // Throws ModelError unless the key is absent, null, or equal to one of `allowed`.
  void expect(const std::string& key, const std::vector<Json>& allowed);
  // Marks keys that do not matter.
  void ignore(const std::vector<std::string>& keys);
  // Warns, in one line, of every key that was neither read nor ignored.
  void warn_unknown() const;

  [[noreturn]] void fail(const std::string& what) const; // ModelError "<origin>: <what>"
  const std::string& origin() const {
    return origin_;
  }

 private:
  const Json* find(const std::string& key);

  Json config_;
  std::string origin_;
  std::set<std::string> known_;
};

} // namespace temper
