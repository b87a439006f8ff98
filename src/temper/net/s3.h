// Objects of S3, or of a server that speaks its language, as files in a folder of the cache:
//   HOST/BUCKET/objects/<id>              the bytes; the id stands for key, ETag and size
//   HOST/BUCKET/snapshots/<id>/<name>     links to them, as one listing had them
//   HOST/BUCKET/last/<id>                 the snapshot that an address last stood for
// An object is fetched once for each content that it has had.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "temper/net/s3_settings.h"

namespace temper {

struct S3Address {
  std::string bucket;
  std::string key; // of an object, a folder of them (no slash at its end) or a pattern (base/glob.h)

  std::string text() const;
};

// Throws ConfigError if it is not s3://bucket or s3://bucket/key.
S3Address parse_s3(const std::string& text);

// The server knows who asks and does not allow it.
class S3Denied : public IoError {
 public:
  using IoError::IoError;
};

struct S3Object {
  std::string key;
  std::string etag; // with its quotes
  std::int64_t size = 0;
};

// Which of the keys to fetch.
using S3Choice = std::function<std::vector<std::string>(const std::vector<std::string>& keys)>;

class S3 {
 public:
  explicit S3(S3Settings settings);

  // The file, folder or pattern on this machine that the address stands for, all chosen objects fetched. If the
  // server can't be reached and the address was fetched before, a warning and that. Throws IoError in one line
  // that says what to do: no or refused credentials, no such bucket or object, no network, a full disk, an
  // object that changes while it is fetched. What came so far stays, to be resumed.
  std::filesystem::path fetch(const S3Address& address, const S3Choice& choose);

 private:
  struct Place; // of a request: URL, host and path

  Place place_of(const std::string& key) const;
  std::vector<std::string> sign(const std::string& method, const Place& place,
                                const std::map<std::string, std::string>& query,
                                const std::map<std::string, std::string>& headers = {}) const;
  HttpResponse ask(HttpClient& client, bool head, const std::string& key,
                   const std::map<std::string, std::string>& query);
  std::vector<S3Object> list(HttpClient& client, const std::string& prefix);
  std::vector<S3Object> find(HttpClient& client);
  std::filesystem::path fetch_now(HttpClient& client, const S3Choice& choose);
  void fetch_object(HttpClient& client, const S3Object& object, const std::filesystem::path& path,
                    const std::function<void(std::int64_t)>& on_bytes) const;
  std::filesystem::path bucket_folder() const;
  std::filesystem::path object_path(const S3Object& object) const;
  std::filesystem::path last_path() const;
  [[noreturn]] void refuse(const HttpResponse& response) const;

  S3Settings settings_;
  S3Address address_; // being fetched
};

} // namespace temper
