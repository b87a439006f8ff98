#include "temper/net/hub_settings.h"

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "temper/base/files.h"
#include "temper/base/text.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : value;
}

// The first of them that is set.
std::string variable(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (auto value = variable(name); !value.empty()) {
      return value;
    }
  }
  return {};
}

bool is_true(std::string value) {
  std::ranges::transform(value, value.begin(),
                         [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return value == "1" || value == "ON" || value == "YES" || value == "TRUE";
}

fs::path expand(const std::string& path) {
  return path == "~" || path.starts_with("~/") ? fs::path(variable("HOME") + path.substr(1)) : fs::path(path);
}

fs::path home() {
  if (const auto given = variable("HF_HOME"); !given.empty()) {
    return expand(given);
  }
  if (const auto xdg = variable("XDG_CACHE_HOME"); !xdg.empty()) {
    return expand(xdg) / "huggingface";
  }
  if (variable("HOME").empty()) {
    throw ConfigError("no folder for the hub's cache: set HF_HOME (HOME is not set either)");
  }
  return expand("~/.cache/huggingface");
}

std::string read_token() {
  auto token = variable({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"});
  std::string origin = "HF_TOKEN";
  if (token.empty() && !is_true(variable("HF_HUB_DISABLE_IMPLICIT_TOKEN"))) {
    const auto given = variable("HF_TOKEN_PATH");
    const auto file = given.empty() ? home() / "token" : expand(given);
    std::error_code ignored;
    if (fs::is_regular_file(file, ignored)) {
      token = read_file(file);
      origin = file.string();
    }
  }
  const auto first = token.find_first_not_of(" \t\r\n");
  token = first == std::string::npos ? "" : token.substr(first, token.find_last_not_of(" \t\r\n") - first + 1);
  if (std::ranges::any_of(token, [](unsigned char c) { return c <= ' ' || c >= 0x7f; })) {
    throw ConfigError(origin + ": the token has spaces, line breaks or odd characters in it");
  }
  return token;
}

} // namespace

HubSettings hub_settings_from_environment() {
  HubSettings settings;
  if (auto endpoint = variable("HF_ENDPOINT"); !endpoint.empty()) {
    endpoint.erase(endpoint.find_last_not_of('/') + 1);
    if (!endpoint.starts_with("http://") && !endpoint.starts_with("https://")) {
      throw ConfigError("HF_ENDPOINT '" + endpoint +
                        "' is not an address: it begins with https:// (or http://)");
    }
    settings.endpoint = endpoint;
  }
  settings.token = read_token();
  const auto cache = variable({"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"});
  settings.cache = fs::absolute(cache.empty() ? home() / "hub" : expand(cache));
  settings.is_offline = is_true(variable({"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}));
  if (const auto timeout = variable("HF_HUB_DOWNLOAD_TIMEOUT"); !timeout.empty()) {
    const auto seconds = whole_number(timeout).value_or(0);
    if (seconds < 1) {
      throw ConfigError("HF_HUB_DOWNLOAD_TIMEOUT '" + timeout + "' is not a number of seconds above 0");
    }
    settings.http.stall_timeout_s =
        static_cast<int>(std::min<std::int64_t>(seconds, std::numeric_limits<int>::max()));
  }
  return settings;
}

} // namespace temper
