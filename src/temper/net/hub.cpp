#include "temper/net/hub.h"

#include <algorithm>
#include <cstdlib>
#include <set>
#include <utility>

#include "temper/base/files.h"
#include "temper/base/log.h"
#include "temper/base/text.h"
#include "temper/net/download.h"
#include "temper/net/progress.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

const char* kind_name(const HubRepo& repo) {
  return repo.kind == HubRepo::Kind::dataset ? "data set" : "model";
}

std::string host_of(const std::string& endpoint) {
  return endpoint.substr(endpoint.find("://") + 3);
}

// An ETag header as huggingface_hub names blobs by it: W/"abc" and "abc" are abc. Empty if it can name no file.
std::string etag_of(const HttpResponse& response) {
  auto etag = response.header("x-linked-etag");
  if (etag.empty()) {
    etag = response.header("etag");
  }
  if (etag.starts_with("W/")) {
    etag.erase(0, 2);
  }
  std::erase(etag, '"');
  const bool is_name = std::ranges::all_of(
      etag, [](unsigned char c) { return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.'; });
  return is_name && !etag.starts_with('.') ? etag : std::string();
}

std::int64_t size_of(const HttpResponse& response) {
  auto size = response.header("x-linked-size");
  if (size.empty() && response.status == 200) {
    size = response.header("content-length");
  }
  return whole_number(size).value_or(-1);
}

// Files that LFS keeps are named by their SHA-256, the others by git's own sum.
bool is_sha256(const std::string& etag) {
  return etag.size() == 64 && etag.find_first_not_of("0123456789abcdef") == std::string::npos;
}

std::int64_t size_on_disk(const fs::path& path) {
  std::error_code error;
  const auto size = fs::file_size(path, error);
  return error ? -1 : static_cast<std::int64_t>(size);
}

void check_room(const HubRepo& repo, const fs::path& cache, std::int64_t missing) {
  std::error_code error;
  const auto space = fs::space(cache, error);
  if (!error && missing > 0 && space.available < static_cast<std::uintmax_t>(missing)) {
    throw IoError(repo.id + ": " + format_bytes(missing) + " are missing and " + cache.string() +
                  " has room for " + format_bytes(static_cast<std::int64_t>(space.available)) +
                  "; make room, or set HF_HUB_CACHE to a folder on a larger disk");
  }
}

} // namespace

struct Hub::File {
  std::string name;
  std::string etag;
  std::int64_t size = -1;
  std::string url;

  std::int64_t size_or_zero() const {
    return std::max<std::int64_t>(0, size);
  }
};

Hub::Hub(HubSettings settings) : settings_(std::move(settings)) {
}

fs::path Hub::snapshot(const HubRepo& repo, const FileChoice& choose, const FolderCheck& is_complete) {
  if (settings_.is_offline) {
    if (auto found = cached(repo, is_complete); !found.empty()) {
      return found;
    }
    throw IoError(repo.id + ": not in " + settings_.cache.string() +
                  ", or not all of it, and HF_HUB_OFFLINE is set; " +
                  "unset it and run this once with a network");
  }
  try {
    return fetch(repo, choose);
  } catch (const NetworkError& error) {
    if (auto found = cached(repo, is_complete); !found.empty()) {
      log::warn(repo.id + ": the hub can't be asked (" + error.what() + "); the copy in the cache is used");
      return found;
    }
    throw NetworkError(
        error.kind(), repo.id + ": no such folder here, and fetching it failed (" + error.what() +
                          (error.kind() == NetworkError::Kind::unreachable
                               ? "); check the network, a proxy (https_proxy) and HF_ENDPOINT, or name a folder"
                               : "); run this again, it goes on where it ended"));
  }
}

fs::path Hub::cached(const HubRepo& repo, const FolderCheck& is_complete) const {
  const HubCache cache(settings_.cache, repo);
  const auto commit = cache.commit_of(repo.revision);
  return !commit.empty() && is_complete(cache.snapshot(commit)) ? cache.snapshot(commit) : fs::path();
}

fs::path Hub::fetch(const HubRepo& repo, const FileChoice& choose) {
  HttpClient client(settings_.http);
  const Json description = describe(client, repo);
  const auto commit = description["sha"].get<std::string>();
  std::vector<std::string> names;
  for (const auto& sibling : description["siblings"]) {
    names.push_back(sibling["rfilename"].get<std::string>());
    if (!is_inside(names.back())) {
      throw IoError(repo.id + ": the hub names a file outside the snapshot: " + names.back());
    }
  }
  const HubCache cache(settings_.cache, repo);
  std::vector<File> missing;
  for (const auto& name : choose(names)) {
    std::error_code ignored;
    if (!fs::exists(cache.snapshot(commit) / name, ignored)) {
      missing.push_back(look_up(client, repo, commit, name));
    }
  }
  if (!missing.empty()) {
    fetch_files(client, repo, commit, missing);
  }
  try {
    cache.keep_commit(repo.revision, commit);
  } catch (const IoError& error) {
    if (!missing.empty()) { // a cache that can only be read is fine while nothing is missing
      throw;
    }
  }
  return cache.snapshot(commit);
}

Json Hub::describe(HttpClient& client, const HubRepo& repo) const {
  HttpRequest request;
  // A revision's slashes are part of its name.
  auto revision = encode_path(repo.revision);
  for (auto at = revision.find('/'); at != std::string::npos; at = revision.find('/', at)) {
    revision.replace(at, 1, "%2F");
  }
  request.url = settings_.endpoint + "/api/" + encode_path(repo.api_path()) + "/revision/" + revision;
  request.token = settings_.token;
  const auto response = client.send(request);
  if (response.status != 200) {
    refuse(repo, response);
  }
  Json description = Json::parse(response.body, nullptr, false);
  const bool fits =
      description.is_object() && description.contains("sha") && description["sha"].is_string() &&
      is_commit(description["sha"].get<std::string>()) && description.contains("siblings") &&
      description["siblings"].is_array() &&
      std::ranges::all_of(description["siblings"], [](const Json& sibling) {
        return sibling.is_object() && sibling.contains("rfilename") && sibling["rfilename"].is_string();
      });
  if (!fits) {
    throw IoError(request.url + ": the answer is not the hub's; check HF_ENDPOINT and proxies");
  }
  return description;
}

Hub::File Hub::look_up(HttpClient& client, const HubRepo& repo, const std::string& commit,
                       const std::string& name) const {
  HttpRequest request;
  request.url =
      settings_.endpoint + "/" + encode_path(repo.web_path()) + "/resolve/" + commit + "/" + encode_path(name);
  request.token = settings_.token;
  request.head = true;
  request.leave_host = false; // where the bytes lie; what they are the hub says itself
  const auto response = client.send(request);
  if (response.status / 100 != 2 && response.status / 100 != 3) {
    refuse(repo, response);
  }
  File file{name, etag_of(response), size_of(response), request.url};
  if (file.etag.empty()) {
    throw IoError(request.url + ": the answer has no ETag; check HF_ENDPOINT and proxies");
  }
  return file;
}

void Hub::fetch_files(HttpClient& client, const HubRepo& repo, const std::string& commit,
                      const std::vector<File>& files) const {
  const HubCache cache(settings_.cache, repo);
  make_directories(cache.blob("x").parent_path());
  std::int64_t total = 0;
  std::int64_t here = 0;
  std::set<std::string> seen; // two files may be one blob
  for (const auto& file : files) {
    const auto blob = cache.blob(file.etag);
    std::error_code ignored;
    if (seen.insert(file.etag).second && !fs::exists(blob, ignored)) {
      total += file.size_or_zero();
      here += std::clamp<std::int64_t>(size_on_disk(incomplete_path(blob)), 0, file.size_or_zero());
    }
  }
  check_room(repo, settings_.cache, total - here);
  DownloadProgress progress(repo.id, files.size(), total, here);
  for (const auto& file : files) {
    const auto blob = cache.blob(file.etag);
    const FileLock lock(cache.lock_file(file.etag), repo.id + ": " + file.name);
    std::error_code ignored;
    if (fs::exists(blob, ignored)) { // here before, or fetched by who held the lock
      cache.link(commit, file.name, file.etag);
      continue;
    }
    const Download download{repo.id + ": " + file.name,
                            file.url,
                            settings_.token,
                            blob,
                            file.size,
                            is_sha256(file.etag) ? file.etag : std::string()};
    download_file(client, download, [&](std::int64_t num_bytes) { progress.add(num_bytes); });
    cache.link(commit, file.name, file.etag);
  }
  progress.finish();
}

// The hub answers 401 for what does not exist, too, if it does not know who asks.
void Hub::refuse(const HubRepo& repo, const HttpResponse& response) const {
  const auto code = response.header("x-error-code");
  const auto page = settings_.endpoint + "/" + repo.web_path();
  const std::string token_advice = "set HF_TOKEN to a token from " + settings_.endpoint + "/settings/tokens";
  const bool has_token = !settings_.token.empty();
  if (code == "GatedRepo") {
    throw IoError(repo.id + ": the " + kind_name(repo) + " is gated: accept its terms at " + page +
                  (has_token ? ", with the account that the token belongs to" : ", then " + token_advice));
  }
  if (code == "RevisionNotFound") {
    throw IoError(repo.id + ": has no revision '" + repo.revision + "'; see " + page + "/tree/main");
  }
  if (response.status == 404 || (response.status == 401 && (!has_token || code == "RepoNotFound"))) {
    throw IoError(repo.id + ": neither a folder here nor a public " + kind_name(repo) + " on " +
                  host_of(settings_.endpoint) + "; check the name, or if it is private, " +
                  (has_token ? "whether the token may read it" : token_advice));
  }
  if (response.status == 401) {
    throw IoError(repo.id + ": " + host_of(settings_.endpoint) + " refuses the token; " + token_advice);
  }
  if (response.status == 403) {
    throw IoError(repo.id + ": " + host_of(settings_.endpoint) + " denies access; ask for it at " + page +
                  (has_token ? ", and check that the token may read it" : ", and " + token_advice));
  }
  throw IoError(repo.id + ": " + response.url + " answered " + std::to_string(response.status));
}

} // namespace temper
