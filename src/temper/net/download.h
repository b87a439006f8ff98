// One file over HTTP to disk: resumed where an earlier attempt or process ended, checked, then renamed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "temper/net/http.h"

namespace temper {

struct Download {
  std::string name; // in messages: "org/name: model.safetensors"
  std::string url;
  std::string token;
  std::filesystem::path path;
  std::int64_t size = -1; // -1: unknown
  std::string sha256;     // empty: only the size is checked

  // For servers other than the hub.
  std::string source = "the hub";                              // announced the size and the sum
  std::string cache_variable = "HF_HUB_CACHE";                 // says where the cache is
  std::function<std::vector<std::string>()> headers = nullptr; // of each request, made for it
  std::function<void(const HttpResponse&)> refuse = nullptr;   // throws what a 4xx answer means
};

// Where the bytes are kept until they are all there and right: `path`.incomplete.
std::filesystem::path incomplete_path(const std::filesystem::path& path);

// Fetches what is missing. `on_bytes` hears of bytes that came, and of bytes lost (negative) if the server
// can't resume. Dropped connections are resumed as long as each brings something, else a few times. Throws
// NetworkError (what came stays and is resumed from); IoError if the disk is full (likewise), if the server
// refuses, or if size or sum are wrong: then the bytes are deleted. The caller holds the file's lock.
void download_file(HttpClient& client, const Download& download,
                   const std::function<void(std::int64_t num_bytes)>& on_bytes);

} // namespace temper
