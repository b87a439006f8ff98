#include "temper/net/s3.h"

#include <algorithm>
#include <cstdlib>
#include <map>

#include "temper/base/files.h"
#include "temper/base/glob.h"
#include "temper/base/log.h"
#include "temper/base/sha256.h"
#include "temper/net/download.h"
#include "temper/net/hub_cache.h"
#include "temper/net/progress.h"
#include "temper/net/s3_answer.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

// A name for what the parts say together.
std::string id_of(std::initializer_list<std::string> parts) {
  Sha256 sum;
  for (const auto& part : parts) {
    sum.add(std::to_string(part.size()) + ":" + part);
  }
  return sum.hex().substr(0, 32);
}

std::string host_of(const std::string& url) {
  const auto origin = origin_of(url);
  return origin.substr(origin.find("://") + 3);
}

} // namespace

struct S3::Place {
  std::string url;
  std::string host;
  std::string path;
};

std::string S3Address::text() const {
  return "s3://" + bucket + (key.empty() ? "" : "/" + key);
}

S3Address parse_s3(const std::string& text) {
  const auto rest = text.substr(std::string_view("s3://").size());
  const auto slash = std::min(rest.find('/'), rest.size());
  S3Address address{rest.substr(0, slash), slash < rest.size() ? rest.substr(slash + 1) : ""};
  address.key.erase(address.key.find_last_not_of('/') + 1);
  const bool is_bucket = address.bucket.size() >= 3 && address.bucket.size() <= 63 &&
                         std::ranges::all_of(address.bucket, [](unsigned char c) {
                           return std::isalnum(c) != 0 || c == '-' || c == '.' || c == '_';
                         });
  if (!is_bucket || (!address.key.empty() && !is_inside(address.key))) {
    throw ConfigError("'" + text +
                      "' is no address in S3: write s3://bucket/key, a folder of keys or a pattern");
  }
  return address;
}

S3::S3(S3Settings settings) : settings_(std::move(settings)) {
}

// A bucket is a part of AWS's host name where its certificate allows; elsewhere it begins the path.
S3::Place S3::place_of(const std::string& key) const {
  const auto& bucket = address_.bucket;
  Place place;
  place.path = "/" + encode_path(key);
  std::string origin = settings_.endpoint;
  if (origin.empty()) {
    const bool in_host = bucket.find('.') == std::string::npos && bucket.find('_') == std::string::npos;
    origin = "https://" + (in_host ? bucket + "." : "") + "s3." + settings_.region + ".amazonaws.com";
    place.path = in_host ? place.path : "/" + bucket + place.path;
  } else {
    const auto path = origin.find('/', origin.find("://") + 3);
    place.path = (path == std::string::npos ? "" : origin.substr(path)) + "/" + bucket + place.path;
    origin = origin.substr(0, path);
  }
  place.host = host_of(origin);
  place.url = origin + place.path;
  return place;
}

std::vector<std::string> S3::sign(const std::string& method, const Place& place,
                                  const std::map<std::string, std::string>& query,
                                  const std::map<std::string, std::string>& headers) const {
  if (settings_.is_anonymous) {
    std::vector<std::string> lines;
    lines.reserve(headers.size());
    for (const auto& [name, value] : headers) {
      lines.push_back(name + ": " + value);
    }
    return lines;
  }
  return sign_request({method, place.host, place.path, query, headers, settings_.region, signing_time()},
                      settings_.credentials);
}

// One question; asked again where the answer says that the bucket is in another region.
HttpResponse S3::ask(HttpClient& client, bool head, const std::string& key,
                     const std::map<std::string, std::string>& query) {
  for (bool again = true;; again = false) {
    const auto place = place_of(key);
    HttpRequest request;
    request.head = head;
    request.leave_host = false; // a signature is for one host
    request.url = place.url + (query.empty() ? "" : "?" + canonical_query(query));
    request.headers = sign(head ? "HEAD" : "GET", place, query);
    auto response = client.send(request);
    auto region = response.header("x-amz-bucket-region");
    if (region.empty() && xml_text(response.body, "Code") == "AuthorizationHeaderMalformed") {
      region = xml_text(response.body, "Region");
    }
    if (!again || response.status / 100 == 2 || region.empty() || region == settings_.region ||
        !is_inside(region)) {
      return response;
    }
    settings_.region = region;
  }
}

std::vector<S3Object> S3::list(HttpClient& client, const std::string& prefix) {
  std::vector<S3Object> objects;
  std::map<std::string, std::string> query = {{"list-type", "2"}, {"encoding-type", "url"}, {"prefix", prefix}};
  while (true) {
    const auto response = ask(client, false, "", query);
    if (response.status != 200) {
      refuse(response);
    }
    auto page = parse_page(response.body, response.url);
    std::ranges::move(page.objects, std::back_inserter(objects));
    if (page.next.empty() || page.next == query["continuation-token"]) {
      return objects;
    }
    query["continuation-token"] = page.next;
  }
}

// The objects that the address may mean. Whoever may read an object but not list its bucket gets that object.
std::vector<S3Object> S3::find(HttpClient& client) {
  const auto& key = address_.key;
  const bool pattern = is_glob(key);
  try {
    auto objects = list(client, pattern ? key.substr(0, key.find_first_of("*?[")) : key);
    std::erase_if(objects,
                  [&](const auto& object) { return object.key.ends_with('/') || !is_inside(object.key); });
    return objects;
  } catch (const S3Denied&) {
    const auto response = pattern || key.empty() ? HttpResponse() : ask(client, true, key, {});
    if (response.status != 200) {
      throw;
    }
    return {
        {key, response.header("etag"), std::strtoll(response.header("content-length").c_str(), nullptr, 10)}};
  }
}

fs::path S3::fetch(const S3Address& address, const S3Choice& choose) {
  address_ = address;
  if (settings_.credentials.empty() && !settings_.is_anonymous) {
    throw IoError(address.text() + ": no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or " +
                  "AWS_PROFILE, or AWS_NO_SIGN_REQUEST=1 for a public bucket");
  }
  HttpClient client(settings_.http);
  try {
    return fetch_now(client, choose);
  } catch (const NetworkError& error) {
    std::error_code ignored;
    if (fs::exists(last_path(), ignored)) {
      if (fs::path known = read_file(last_path()); is_glob(known.string()) || fs::exists(known, ignored)) {
        log::warn(address.text() + ": S3 can't be asked (" + error.what() +
                  "); what was fetched before is used");
        return known;
      }
    }
    throw NetworkError(error.kind(),
                       address.text() + ": fetching it failed (" + error.what() +
                           (error.kind() == NetworkError::Kind::unreachable
                                ? "); check the network, a proxy (https_proxy) and AWS_ENDPOINT_URL"
                                : "); run this again, it goes on where it ended"));
  }
}

fs::path S3::fetch_now(HttpClient& client, const S3Choice& choose) {
  const auto& key = address_.key;
  std::map<std::string, S3Object> objects;
  std::vector<std::string> keys;
  for (auto& object : find(client)) {
    keys.push_back(object.key);
    objects.emplace(object.key, std::move(object));
  }
  const bool below = std::ranges::any_of(keys, [&](const auto& name) {
    return name == key || key.empty() || is_glob(key) || name.starts_with(key + "/");
  });
  if (!below) {
    throw IoError(address_.text() + ": no such object, and no folder of objects");
  }
  const auto chosen = choose(keys);
  const auto parent = fs::path(key).parent_path().string();
  const auto root = is_glob(key) ? glob_root(key) : objects.contains(key) ? parent : key;
  Sha256 listing;
  std::int64_t total = 0;
  std::int64_t here = 0;
  for (const auto& name : chosen) {
    const auto& object = objects.at(name);
    const auto path = object_path(object);
    std::error_code error;
    listing.add(path.string() + "\n" + name + "\n");
    if (!fs::exists(path, error)) {
      total += object.size;
      const auto part = fs::file_size(incomplete_path(path), error);
      here += error ? 0 : std::min<std::int64_t>(static_cast<std::int64_t>(part), object.size);
    }
  }
  const auto snapshot = bucket_folder() / "snapshots" / listing.hex().substr(0, 32);
  DownloadProgress progress(address_.text(), chosen.size(), total, here);
  for (const auto& name : chosen) {
    const auto path = object_path(objects.at(name));
    const auto link = snapshot / (root.empty() ? name : name.substr(root.size() + 1));
    fetch_object(client, objects.at(name), path, [&](std::int64_t bytes) { progress.add(bytes); });
    make_directories(link.parent_path());
    std::error_code error;
    fs::create_symlink(fs::relative(path, link.parent_path()), link, error);
    if (error && !fs::exists(link)) {
      throw IoError("cannot make " + link.string() + ": " + error.message());
    }
  }
  progress.finish();
  auto place = key == root ? snapshot : snapshot / key.substr(root.empty() ? 0 : root.size() + 1);
  make_directories(last_path().parent_path());
  write_file_atomic(last_path(), place.string());
  return place;
}

void S3::fetch_object(HttpClient& client, const S3Object& object, const fs::path& path,
                      const std::function<void(std::int64_t)>& on_bytes) const {
  std::error_code ignored;
  if (fs::exists(path, ignored)) {
    return;
  }
  make_directories(path.parent_path());
  const auto name = S3Address{address_.bucket, object.key}.text();
  const FileLock lock(bucket_folder() / "locks" / path.filename(), name);
  if (fs::exists(path, ignored)) {
    return;
  }
  const auto place = place_of(object.key);
  Download download;
  download.name = name;
  download.url = place.url;
  download.path = path;
  download.size = object.size;
  download.source = "the listing";
  download.cache_variable = "TEMPER_CACHE_DIR";
  download.headers = [&] {
    return sign("GET", place, {},
                object.etag.empty() ? std::map<std::string, std::string>()
                                    : std::map<std::string, std::string>{{"if-match", object.etag}});
  };
  download.refuse = [&](const HttpResponse& response) {
    if (response.status == 412) {
      throw IoError(name + ": the object was replaced while it was fetched; run this again");
    }
    refuse(response);
  };
  download_file(client, download, on_bytes);
}

fs::path S3::bucket_folder() const {
  const auto host = settings_.endpoint.empty() ? "amazonaws.com" : host_of(settings_.endpoint);
  return settings_.cache / host / address_.bucket;
}

fs::path S3::object_path(const S3Object& object) const {
  return bucket_folder() / "objects" / id_of({object.key, object.etag, std::to_string(object.size)});
}

fs::path S3::last_path() const {
  return bucket_folder() / "last" / id_of({address_.key});
}

void S3::refuse(const HttpResponse& response) const {
  const auto host = host_of(response.url);
  const auto code = xml_text(response.body, "Code");
  const auto name = address_.text() + ": ";
  if (code == "NoSuchBucket") {
    throw IoError(name + "there is no bucket '" + address_.bucket + "' at " + host);
  }
  if (code == "NoSuchKey") {
    throw IoError(name + "there is no such object any more; run this again");
  }
  if (code == "InvalidAccessKeyId" || code == "XAdminUserNotFound") { // the second is versitygw's
    throw IoError(name + host + " does not know the access key; check AWS_ACCESS_KEY_ID");
  }
  if (code == "SignatureDoesNotMatch") {
    throw IoError(name + host + " refuses the signature; check AWS_SECRET_ACCESS_KEY");
  }
  if (code == "ExpiredToken" || code == "InvalidToken" || code == "TokenRefreshRequired") {
    throw IoError(name + "the session's token is " + (code == "InvalidToken" ? "not valid" : "expired") +
                  "; get new credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN)");
  }
  if (code == "RequestTimeTooSkewed") {
    throw IoError(name + "this machine's clock differs from " + host + "'s; set it");
  }
  if (response.status == 403) {
    throw S3Denied(name + host + " denies access; the credentials need s3:ListBucket and s3:GetObject there" +
                   (settings_.is_anonymous ? ", and AWS_NO_SIGN_REQUEST sends none" : ""));
  }
  throw IoError(name + host + " answered " + std::to_string(response.status) +
                (code.empty() ? "" : " " + code));
}

} // namespace temper
