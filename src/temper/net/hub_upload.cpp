#include "temper/net/hub_upload.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <utility>

#include "temper/base/base64.h"
#include "temper/base/files.h"
#include "temper/base/json_text.h"
#include "temper/base/sha256.h"
#include "temper/base/text.h"
#include "temper/net/progress.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kFilesAtOnce = 100; // of a question to the hub
constexpr std::size_t kSampleBytes = 512; // of which the hub tells text from binary
constexpr const char* kJson = "application/json";
constexpr const char* kLfs = "application/vnd.git-lfs+json";

IoError cannot_read(const fs::path& path) {
  return IoError("cannot read " + path.string() + "; if it changed meanwhile, run this again");
}

// `size` bytes of a file or text from `offset` on, each counted as it goes.
BodySource source_of(const UploadFile& file, std::int64_t offset, std::int64_t size,
                     const std::function<void(std::int64_t)>& on_bytes) {
  auto stream = std::make_shared<std::ifstream>();
  if (!file.path.empty()) {
    stream->open(file.path, std::ios::binary);
    stream->seekg(offset);
  }
  auto left = std::make_shared<std::int64_t>(size);
  return [&file, stream, left, offset, size, on_bytes](char* data, std::size_t room) {
    const auto wanted = std::min(room, static_cast<std::size_t>(*left));
    std::size_t count = 0;
    if (file.path.empty()) {
      count = file.content.copy(data, wanted, static_cast<std::size_t>(offset + size - *left));
    } else {
      stream->read(data, static_cast<std::streamsize>(wanted));
      count = static_cast<std::size_t>(stream->gcount());
    }
    if (count < wanted) {
      throw cannot_read(file.path);
    }
    *left -= static_cast<std::int64_t>(count);
    on_bytes(static_cast<std::int64_t>(count));
    return count;
  };
}

// The first `limit` bytes.
std::string read_start(const UploadFile& file, std::size_t limit) {
  std::string bytes = file.content.substr(0, limit);
  if (!file.path.empty()) {
    const auto wanted = std::min(limit, static_cast<std::size_t>(file.size()));
    bytes.resize(wanted);
    std::ifstream stream(file.path, std::ios::binary);
    if (!stream.read(bytes.data(), static_cast<std::streamsize>(wanted))) {
      throw cannot_read(file.path);
    }
  }
  return bytes;
}

std::string sha256_of(const UploadFile& file) {
  Sha256 sum;
  const auto read = source_of(file, 0, file.size(), [](std::int64_t) {});
  std::string buffer(std::size_t{1} << 20, '\0');
  for (auto count = read(buffer.data(), buffer.size()); count > 0; count = read(buffer.data(), buffer.size())) {
    sum.add(std::string_view(buffer).substr(0, count));
  }
  return sum.hex();
}

} // namespace

struct HubUpload::Large {
  const UploadFile* file;
  std::string sum;
};

std::int64_t UploadFile::size() const {
  return static_cast<std::int64_t>(path.empty() ? content.size() : fs::file_size(path));
}

HubUpload::HubUpload(HubSettings settings, HubRepo repo)
    : settings_(std::move(settings)), repo_(std::move(repo)), client_(settings_.http) {
  if (settings_.is_offline) {
    throw IoError(repo_.id + ": HF_HUB_OFFLINE is set; unset it to upload");
  }
  if (settings_.token.empty()) {
    throw IoError(repo_.id + ": uploading needs a token that may write: set HF_TOKEN to one from " +
                  settings_.endpoint + "/settings/tokens");
  }
}

HttpResponse HubUpload::post(const std::string& path, const std::string& body, const std::string& type) {
  HttpRequest request;
  request.url = path.starts_with("http") ? path : settings_.endpoint + path;
  request.token = origin_of(request.url) == origin_of(settings_.endpoint) ? settings_.token : "";
  request.method = "POST";
  request.body = body;
  request.headers = {"Content-Type: " + type, "Accept: " + (type == kLfs ? type : std::string(kJson))};
  return client_.send(request);
}

Json HubUpload::post_json(const std::string& path, const Json& body) {
  const auto response = post(path, dump(body), path.find("/info/lfs/") == std::string::npos ? kJson : kLfs);
  if (response.status / 100 != 2) {
    refuse(response);
  }
  return Json::parse(response.body, nullptr, false);
}

void HubUpload::make_repo(bool is_private) {
  const auto slash = repo_.id.find('/');
  const Json body{{"name", repo_.id.substr(slash + 1)},
                  {"organization", repo_.id.substr(0, slash)},
                  {"type", "model"},
                  {"private", is_private}};
  const auto response = post("/api/repos/create", dump(body), kJson);
  if (response.status / 100 != 2 && response.status != 409) { // 409: it is there
    refuse(response);
  }
}

void HubUpload::make_branch() {
  if (repo_.revision == "main") {
    return;
  }
  const auto response =
      post("/api/" + repo_.api_path() + "/branch/" + encode_path(repo_.revision), "{}", kJson);
  if (response.status / 100 != 2 && response.status != 409) {
    refuse(response);
  }
}

// "lfs", "regular", or "ignored" by the repository's own .gitignore; of each file.
std::vector<std::string> HubUpload::upload_modes(const std::vector<UploadFile>& files) {
  std::map<std::string, std::string> modes;
  for (std::size_t at = 0; at < files.size(); at += kFilesAtOnce) {
    Json asked = Json::array();
    for (std::size_t i = at; i < std::min(files.size(), at + kFilesAtOnce); ++i) {
      asked.push_back({{"path", files[i].name},
                       {"size", files[i].size()},
                       {"sample", encode_base64(read_start(files[i], kSampleBytes))}});
    }
    const auto answer = post_json("/api/" + repo_.api_path() + "/preupload/" + encode_path(repo_.revision),
                                  {{"files", std::move(asked)}});
    for (const auto& file : answer.is_object() ? answer.value("files", Json::array()) : Json::array()) {
      const bool ignored = file.is_object() && file.value("shouldIgnore", Json()) == true;
      modes[text_at(file, "path")] = ignored ? "ignored" : text_at(file, "uploadMode");
    }
  }
  std::vector<std::string> result;
  for (const auto& file : files) {
    auto mode = modes[file.name];
    if (mode != "lfs" && mode != "regular" && mode != "ignored") {
      throw IoError(repo_.id + ": the hub does not say how it wants " + file.name + "; check HF_ENDPOINT");
    }
    result.push_back(file.size() == 0 && mode == "lfs" ? "regular" : mode); // the storage takes no empty files
  }
  return result;
}

void HubUpload::send_large(std::vector<Large>& files, UploadResult& result) {
  std::map<std::string, Json> actions; // by sum: of what the hub has not
  for (std::size_t at = 0; at < files.size(); at += kFilesAtOnce) {
    Json objects = Json::array();
    for (std::size_t i = at; i < std::min(files.size(), at + kFilesAtOnce); ++i) {
      objects.push_back({{"oid", files[i].sum}, {"size", files[i].file->size()}});
    }
    const auto answer = post_json("/" + repo_.web_path() + ".git/info/lfs/objects/batch",
                                  {{"operation", "upload"},
                                   {"transfers", {"basic", "multipart"}},
                                   {"objects", std::move(objects)},
                                   {"ref", {{"name", repo_.revision}}},
                                   {"hash_algo", "sha256"}});
    for (const auto& object : answer.is_object() ? answer.value("objects", Json::array()) : Json::array()) {
      if (object.is_object() && object.contains("error")) {
        throw IoError(repo_.id + ": the hub takes no " + text_at(object, "oid") + ": " +
                      text_at(object["error"], "message"));
      }
      if (object.is_object() && object.contains("actions") && object["actions"].contains("upload")) {
        actions[text_at(object, "oid")] = object["actions"];
      }
    }
  }
  std::int64_t total = 0;
  std::int64_t there = 0;
  for (const auto& file : files) {
    total += file.file->size();
    there += actions.contains(file.sum) ? 0 : file.file->size();
  }
  DownloadProgress progress(repo_.id, files.size(), total, there, DownloadProgress::kSending);
  for (const auto& file : files) {
    const auto action = actions.find(file.sum);
    if (action == actions.end()) {
      ++result.num_there;
      continue;
    }
    send_one(file, action->second, [&](std::int64_t bytes) { progress.add(bytes); });
    ++result.num_sent;
    result.bytes_sent += file.file->size();
    actions.erase(action); // two files of one content go once
  }
  progress.finish();
}

HttpResponse HubUpload::put(const UploadFile& file, const std::string& url, std::int64_t offset,
                            std::int64_t size, const std::function<void(std::int64_t)>& on_bytes) {
  std::int64_t sent = 0;
  HttpRequest request;
  request.url = url;
  request.method = "PUT";
  request.body_size = size;
  request.make_source = [&] {
    on_bytes(-std::exchange(sent, 0)); // an attempt before this one was for nothing
    return source_of(file, offset, size, [&](std::int64_t bytes) {
      sent += bytes;
      on_bytes(bytes);
    });
  };
  return client_.send(request);
}

void HubUpload::send_one(const Large& file, const Json& action,
                         const std::function<void(std::int64_t)>& on_bytes) {
  const auto& upload = action["upload"];
  if (upload.contains("header") && upload["header"].is_object() && upload["header"].contains("chunk_size")) {
    send_parts(file, upload, on_bytes);
  } else {
    const auto response = put(*file.file, text_at(upload, "href"), 0, file.file->size(), on_bytes);
    if (response.status / 100 != 2) {
      throw IoError(file.file->name + ": the storage answered " + std::to_string(response.status) +
                    "; run this again, what is there is not sent again");
    }
  }
  if (action.contains("verify")) {
    post_json(text_at(action["verify"], "href"), {{"oid", file.sum}, {"size", file.file->size()}});
  }
}

void HubUpload::send_parts(const Large& file, const Json& upload,
                           const std::function<void(std::int64_t)>& on_bytes) {
  const Json& header = upload["header"];
  const auto chunk = header["chunk_size"].is_string() ? whole_number(text_at(header, "chunk_size")).value_or(0)
                                                      : header["chunk_size"].get<std::int64_t>();
  std::map<std::int64_t, std::string> urls;
  for (const auto& [key, value] : header.items()) {
    if (const auto number = whole_number(key); number && value.is_string()) {
      urls[*number] = value.get<std::string>();
    }
  }
  const auto size = file.file->size();
  if (chunk <= 0 || static_cast<std::int64_t>(urls.size()) != (size + chunk - 1) / chunk) {
    throw IoError(file.file->name + ": the hub's answer has not as many parts as the file; run this again");
  }
  Json parts = Json::array();
  for (const auto& [number, url] : urls) {
    const auto offset = (number - 1) * chunk;
    const auto response = put(*file.file, url, offset, std::min(chunk, size - offset), on_bytes);
    if (response.status / 100 != 2 || response.header("etag").empty()) {
      throw IoError(file.file->name + ": the storage answered " + std::to_string(response.status) +
                    " to part " + std::to_string(number) + "; run this again");
    }
    parts.push_back({{"partNumber", number}, {"etag", response.header("etag")}});
  }
  const auto response = post(text_at(upload, "href"), dump(Json{{"oid", file.sum}, {"parts", parts}}), kLfs);
  if (response.status / 100 != 2) {
    throw IoError(file.file->name + ": the storage could not join the parts (it answered " +
                  std::to_string(response.status) + "); run this again");
  }
}

std::string HubUpload::commit(const std::vector<UploadFile>& files, const std::vector<std::string>& modes,
                              const std::vector<Large>& large, const std::string& message) {
  std::string lines =
      dump(Json{{"key", "header"}, {"value", {{"summary", message}, {"description", ""}}}}) + "\n";
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (modes[i] == "regular") {
      const auto bytes = read_start(files[i], static_cast<std::size_t>(files[i].size()));
      lines +=
          dump(Json{{"key", "file"},
                    {"value",
                     {{"path", files[i].name}, {"encoding", "base64"}, {"content", encode_base64(bytes)}}}}) +
          "\n";
    }
  }
  for (const auto& file : large) {
    lines += dump(Json{{"key", "lfsFile"},
                       {"value",
                        {{"path", file.file->name},
                         {"algo", "sha256"},
                         {"oid", file.sum},
                         {"size", file.file->size()}}}}) +
             "\n";
  }
  const auto response = post("/api/" + repo_.api_path() + "/commit/" + encode_path(repo_.revision), lines,
                             "application/x-ndjson");
  if (response.status / 100 != 2) {
    refuse(response);
  }
  return text_at(Json::parse(response.body, nullptr, false), "commitOid");
}

UploadResult HubUpload::send(const std::vector<UploadFile>& files, const UploadOptions& options) {
  try {
    make_repo(options.is_private);
    make_branch();
    const auto modes = upload_modes(files);
    std::vector<Large> large;
    for (std::size_t i = 0; i < files.size(); ++i) {
      if (modes[i] == "lfs") {
        large.push_back({&files[i], sha256_of(files[i])});
      }
    }
    UploadResult result;
    send_large(large, result);
    result.commit = commit(files, modes, large, options.message);
    result.url = settings_.endpoint + "/" + repo_.web_path();
    return result;
  } catch (const NetworkError& error) {
    throw NetworkError(error.kind(), repo_.id + ": uploading failed (" + error.what() +
                                         "); run this again, what is there is not sent again");
  }
}

void HubUpload::refuse(const HttpResponse& response) const {
  const auto host = settings_.endpoint.substr(settings_.endpoint.find("://") + 3);
  const auto said = text_at(Json::parse(response.body, nullptr, false), "error");
  const auto reason = said.empty() ? std::string() : " (" + said.substr(0, said.find('\n')) + ")";
  if (response.status == 401) {
    throw IoError(repo_.id + ": " + host + " refuses the token" + reason + "; set HF_TOKEN to one from " +
                  settings_.endpoint + "/settings/tokens that may write");
  }
  if (response.status == 403) {
    throw IoError(repo_.id + ": the token may not write there" + reason +
                  "; check the name's first part and the " + "token's rights at " + settings_.endpoint +
                  "/settings/tokens");
  }
  throw IoError(repo_.id + ": " + origin_of(response.url) + " answered " + std::to_string(response.status) +
                reason);
}

} // namespace temper
