// Where the hub is, who asks, and where its files are kept: the environment variables of huggingface_hub, so
// that both find the same.
#pragma once

#include <filesystem>
#include <string>

#include "temper/net/http.h"

namespace temper {

struct HubSettings {
  std::string endpoint = "https://huggingface.co"; // HF_ENDPOINT; no slash at its end
  std::string token;           // HF_TOKEN, or the file that `hf auth login` writes; empty: none
  std::filesystem::path cache; // HF_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub or ~/.cache/...
  bool is_offline = false;     // HF_HUB_OFFLINE: no request is made
  HttpOptions http;            // HF_HUB_DOWNLOAD_TIMEOUT: seconds without a byte
};

// Throws ConfigError if a variable can't be used, naming it.
HubSettings hub_settings_from_environment();

} // namespace temper
