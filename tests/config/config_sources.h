// A configuration from each of its sources, and what is said when it is refused.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <unistd.h>

#include "base/messages.h"
#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/config/run_config.h"
#include "temper/config/run_config_fields.h"

namespace temper::test {

// A YAML file that lives as long as the test.
class ConfigFile {
 public:
  explicit ConfigFile(const std::string& yaml)
      : path_(std::filesystem::temp_directory_path() /
              ("temper-config-" + std::to_string(::getpid()) + "-" + std::to_string(count_++) + ".yaml")) {
    write_file_atomic(path_, yaml);
  }
  ~ConfigFile() {
    std::filesystem::remove(path_);
  }
  std::string path() const {
    return path_.string();
  }

 private:
  static inline int count_ = 0;
  std::filesystem::path path_;
};

class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    ::setenv(name, value, 1);
  }
  ~Variable() {
    ::unsetenv(name_);
  }

 private:
  const char* name_;
};

inline RunConfig load(const std::string& yaml, std::vector<std::string> flags = {}) {
  const ConfigFile file(yaml);
  return load_run_config({file.path(), std::move(flags), true});
}

inline RunConfig load_flags(std::vector<std::string> flags) {
  return load_run_config({"", std::move(flags), true});
}

inline std::string yaml_error(const std::string& yaml) {
  const ConfigFile file(yaml);
  std::string what = message_of<ConfigError>([&] { load_run_config({file.path(), {}, false}); });
  for (std::size_t at; (at = what.find(file.path())) != std::string::npos;) {
    what.replace(at, file.path().size(), "run.yaml");
  }
  return what;
}

inline std::string flag_error(std::vector<std::string> flags) {
  return message_of<ConfigError>([&] { load_run_config({"", flags, false}); });
}

inline Json value_of(RunConfig config, const std::string& key) {
  const FieldList list = run_config_fields(config);
  return list.find(key)->value();
}

} // namespace temper::test
