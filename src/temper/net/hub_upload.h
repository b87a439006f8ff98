// Files to a model's repository on the hub, as one commit.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "temper/base/json.h"
#include "temper/net/hub_cache.h"
#include "temper/net/hub_settings.h"

namespace temper {

struct UploadFile {
  std::string name;           // in the repository
  std::filesystem::path path; // where its bytes are; empty: they are `content`
  std::string content;

  std::int64_t size() const;
};

struct UploadOptions {
  bool is_private = false; // of a repository that is made
  std::string message;     // of the commit
};

struct UploadResult {
  std::string commit;
  std::string url;
  std::int64_t num_sent = 0;  // large files whose bytes went over
  std::int64_t num_there = 0; // large files that the hub had
  std::int64_t bytes_sent = 0;
};

class HubUpload {
 public:
  HubUpload(HubSettings settings, HubRepo repo);

  // Makes the repository, and the branch, if they are not there; sends what the hub has not; commits. Run again
  // after a failure it sends only what is missing. Throws IoError in one line that says what to do: no or a
  // refused token, no right to write there, no network, offline mode.
  UploadResult send(const std::vector<UploadFile>& files, const UploadOptions& options);

 private:
  struct Large; // a file that the hub keeps apart from its repository

  HttpResponse post(const std::string& path, const std::string& body, const std::string& type);
  Json post_json(const std::string& path, const Json& body);
  void make_repo(bool is_private);
  void make_branch();
  std::vector<std::string> upload_modes(const std::vector<UploadFile>& files);
  void send_large(std::vector<Large>& files, UploadResult& result);
  // A part of a file to where the hub said; the address itself is the right to write there.
  HttpResponse put(const UploadFile& file, const std::string& url, std::int64_t offset, std::int64_t size,
                   const std::function<void(std::int64_t)>& on_bytes);
  void send_one(const Large& file, const Json& action, const std::function<void(std::int64_t)>& on_bytes);
  void send_parts(const Large& file, const Json& action, const std::function<void(std::int64_t)>& on_bytes);
  std::string commit(const std::vector<UploadFile>& files, const std::vector<std::string>& modes,
                     const std::vector<Large>& large, const std::string& message);
  [[noreturn]] void refuse(const HttpResponse& response) const;

  HubSettings settings_;
  HubRepo repo_;
  HttpClient client_;
};

} // namespace temper
