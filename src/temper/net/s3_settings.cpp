#include "temper/net/s3_settings.h"

#include <algorithm>
#include <cstdlib>
#include <initializer_list>
#include <map>
#include <sstream>

#include "temper/base/files.h"
#include "temper/base/text.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

// The first of them that is set.
std::string variable(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (const char* value = std::getenv(name); value != nullptr && *value != '\0') {
      return value;
    }
  }
  return {};
}

// The keys of one [section] of an INI file; nothing if there is no file.
std::map<std::string, std::string> read_section(const fs::path& path, const std::string& section) {
  std::map<std::string, std::string> keys;
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) {
    return keys;
  }
  std::istringstream lines(read_file(path));
  bool is_inside = false;
  for (std::string line; std::getline(lines, line);) {
    line = std::string(trim_ascii(line));
    if (line.starts_with('[')) {
      is_inside = trim_ascii(line.substr(1, line.find(']') - 1)) == section;
    } else if (const auto equals = line.find('='); is_inside && equals != std::string::npos && line[0] != '#') {
      keys[std::string(trim_ascii(line.substr(0, equals)))] =
          trim_ascii(std::string_view(line).substr(equals + 1));
    }
  }
  return keys;
}

fs::path aws_file(const char* variable_name, const char* name) {
  const auto given = variable({variable_name});
  return given.empty() ? fs::path(variable({"HOME"})) / ".aws" / name : fs::path(given);
}

fs::path cache_folder() {
  if (const auto given = variable({"TEMPER_CACHE_DIR"}); !given.empty()) {
    return fs::absolute(given);
  }
  if (const auto xdg = variable({"XDG_CACHE_HOME"}); !xdg.empty()) {
    return fs::path(xdg) / "temper";
  }
  const auto home = variable({"HOME"});
  if (home.empty()) {
    throw ConfigError("no folder for what comes from S3: set TEMPER_CACHE_DIR (HOME is not set either)");
  }
  return fs::path(home) / ".cache" / "temper";
}

void check_header_value(const std::string& what, const std::string& value) {
  if (std::ranges::any_of(value, [](unsigned char c) { return c <= ' ' || c >= 0x7f; })) {
    throw ConfigError(what + " has spaces, line breaks or odd characters in it");
  }
}

} // namespace

S3Settings s3_settings_from_environment() {
  S3Settings settings;
  auto profile = variable({"AWS_PROFILE", "AWS_DEFAULT_PROFILE"});
  profile = profile.empty() ? "default" : profile;
  auto keys = read_section(aws_file("AWS_CONFIG_FILE", "config"),
                           profile == "default" ? profile : "profile " + profile);
  for (const auto& [key, value] :
       read_section(aws_file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), profile)) {
    keys[key] = value;
  }
  settings.credentials = {variable({"AWS_ACCESS_KEY_ID"}), variable({"AWS_SECRET_ACCESS_KEY"}),
                          variable({"AWS_SESSION_TOKEN"})};
  if (settings.credentials.access_key.empty()) {
    settings.credentials = {keys["aws_access_key_id"], keys["aws_secret_access_key"],
                            keys["aws_session_token"]};
  }
  check_header_value("AWS_ACCESS_KEY_ID", settings.credentials.access_key);
  check_header_value("AWS_SESSION_TOKEN", settings.credentials.session_token);
  if (!settings.credentials.empty() && settings.credentials.secret_key.empty()) {
    throw ConfigError("AWS_ACCESS_KEY_ID is set but AWS_SECRET_ACCESS_KEY is not");
  }
  const auto anonymous = variable({"AWS_NO_SIGN_REQUEST"});
  settings.is_anonymous = anonymous == "1" || anonymous == "true" || anonymous == "YES" || anonymous == "yes";
  settings.region = variable({"AWS_REGION", "AWS_DEFAULT_REGION"});
  settings.region = !settings.region.empty() ? settings.region : keys["region"];
  settings.region = !settings.region.empty() ? settings.region : "us-east-1";
  check_header_value("AWS_REGION", settings.region);
  settings.endpoint = variable({"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"});
  settings.endpoint = !settings.endpoint.empty() ? settings.endpoint : keys["endpoint_url"];
  settings.endpoint.erase(settings.endpoint.find_last_not_of('/') + 1);
  if (!settings.endpoint.empty() && !settings.endpoint.starts_with("http://") &&
      !settings.endpoint.starts_with("https://")) {
    throw ConfigError("AWS_ENDPOINT_URL '" + settings.endpoint +
                      "' is not an address: it begins with https:// (or http://)");
  }
  settings.cache = cache_folder() / "s3";
  return settings;
}

} // namespace temper
