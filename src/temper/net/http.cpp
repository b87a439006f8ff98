#include "temper/net/http.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <random>
#include <thread>

#include "temper/base/text.h"
#include "temper/base/version.h"
#include "temper/net/curl.h"

namespace temper {
namespace {

constexpr int kMaxRedirects = 10;
constexpr std::size_t kMaxBody = std::size_t{256} << 20; // of what is kept in memory
constexpr double kLongestWait = 120;

// A bundled libcurl may look for certificates where another distribution keeps them.
std::string certificates() {
  for (const char* variable : {"CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"}) {
    if (const char* path = std::getenv(variable); path != nullptr && *path != '\0') {
      return path;
    }
  }
  for (const char* path : {"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt",
                           "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"}) {
    std::error_code ignored;
    if (std::filesystem::exists(path, ignored)) {
      return path;
    }
  }
  return {};
}

NetworkError::Kind kind_of(CURLcode code) {
  switch (code) {
    case CURLE_PARTIAL_FILE:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
    case CURLE_OPERATION_TIMEDOUT:
      return NetworkError::Kind::dropped;
    default:
      return NetworkError::Kind::unreachable;
  }
}

bool is_redirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

// Seconds; 0 if there is none, or if it is a date.
double retry_after(const HttpResponse& response) {
  return std::max(0.0, std::strtod(response.header("retry-after").c_str(), nullptr));
}

} // namespace

struct HttpClient::Transfer {
  HttpResponse response;
  const BodySink* sink = nullptr;
  std::exception_ptr thrown;
  curl_slist* headers = nullptr;
  const HttpRequest* request = nullptr; // of a body
  BodySource source;
  std::string_view body_left; // where there is no source
  char reason[CURL_ERROR_SIZE] = "";

  ~Transfer() {
    curl_api().slist_free_all(headers);
  }

  void add_header(const std::string& line) {
    headers = curl_api().slist_append(headers, line.c_str());
  }

  static std::size_t on_header(char* data, std::size_t size, std::size_t count, void* self) {
    auto& response = static_cast<Transfer*>(self)->response;
    const std::string_view line(data, size * count);
    if (line.starts_with("HTTP/")) { // a new answer, after "100 Continue" or a proxy's own
      response.headers.clear();
      const auto space = line.find(' ');
      const auto status = space == std::string_view::npos ? line.substr(0, 0) : line.substr(space + 1, 3);
      response.status = static_cast<int>(whole_number(status).value_or(0));
    } else if (const auto colon = line.find(':'); colon != std::string_view::npos) {
      response.headers[lower(trim_ascii(line.substr(0, colon)))] = trim_ascii(line.substr(colon + 1));
    }
    return line.size();
  }

  // To the start of the body.
  void rewind() {
    source = request->make_source ? request->make_source() : BodySource();
    body_left = request->body;
  }

  // libcurl starts over by itself where a connection that it had kept turns out to be closed.
  static int on_seek(void* self, curl_off_t offset, int origin) {
    auto& transfer = *static_cast<Transfer*>(self);
    if (offset != 0 || origin != SEEK_SET) {
      return CURL_SEEKFUNC_CANTSEEK;
    }
    try {
      transfer.rewind();
      return CURL_SEEKFUNC_OK;
    } catch (...) {
      transfer.thrown = std::current_exception();
      return CURL_SEEKFUNC_FAIL;
    }
  }

  static std::size_t on_read(char* data, std::size_t size, std::size_t count, void* self) {
    auto& transfer = *static_cast<Transfer*>(self);
    try {
      if (transfer.source) {
        return transfer.source(data, size * count);
      }
      const auto taken = transfer.body_left.copy(data, size * count);
      transfer.body_left.remove_prefix(taken);
      return taken;
    } catch (...) {
      transfer.thrown = std::current_exception();
      return CURL_READFUNC_ABORT;
    }
  }

  // An exception must not pass through libcurl's C code: it waits in `thrown`.
  static std::size_t on_body(char* data, std::size_t size, std::size_t count, void* self) {
    auto& transfer = *static_cast<Transfer*>(self);
    const std::string_view piece(data, size * count);
    try {
      if (transfer.sink != nullptr && *transfer.sink && transfer.response.status / 100 == 2) {
        (*transfer.sink)(transfer.response, piece);
      } else if (transfer.response.body.size() + piece.size() > kMaxBody) {
        throw IoError(transfer.response.url + ": the answer is too long");
      } else {
        transfer.response.body += piece;
      }
      return piece.size();
    } catch (...) {
      transfer.thrown = std::current_exception();
      return 0;
    }
  }
};

std::string HttpResponse::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? std::string() : found->second;
}

bool Backoff::wait(double at_least_s) {
  ++num_failed_;
  if (num_failed_ >= options_.max_attempts || at_least_s > kLongestWait) {
    return false;
  }
  static thread_local std::minstd_rand random{std::random_device{}()};
  const double base = options_.first_delay_s * std::exp2(num_failed_ - 1);
  const double jitter = std::uniform_real_distribution<double>(0.75, 1.25)(random);
  std::this_thread::sleep_for(std::chrono::duration<double>(std::max(base * jitter, at_least_s)));
  return true;
}

HttpClient::HttpClient(const HttpOptions& options) : options_(options), handle_(curl_api().easy_init()) {
  if (handle_ == nullptr) {
    throw IoError("libcurl could not be initialized");
  }
}

HttpClient::~HttpClient() {
  curl_api().easy_cleanup(handle_);
}

void HttpClient::prepare(const HttpRequest& request, Transfer& transfer) {
  const auto& curl = curl_api();
  curl.easy_reset(handle_); // the connections stay
  const auto set = [&](CURLoption option, auto value) { curl.easy_setopt(handle_, option, value); };
  set(CURLOPT_URL, request.url.c_str());
  set(CURLOPT_USERAGENT, ("temper/" + std::string(version())).c_str());
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_PATH_AS_IS, 1L);     // what is signed is what is sent
  set(CURLOPT_FOLLOWLOCATION, 0L); // send() follows: it knows where a token may go
  set(CURLOPT_NOBODY, request.head ? 1L : 0L);
  set(CURLOPT_CONNECTTIMEOUT, static_cast<long>(options_.connect_timeout_s));
  set(CURLOPT_LOW_SPEED_LIMIT, 1L);
  set(CURLOPT_LOW_SPEED_TIME, static_cast<long>(options_.stall_timeout_s));
  set(CURLOPT_BUFFERSIZE, 512L * 1024);
  set(CURLOPT_ERRORBUFFER, transfer.reason);
  set(CURLOPT_HEADERFUNCTION, &Transfer::on_header);
  set(CURLOPT_HEADERDATA, static_cast<void*>(&transfer));
  set(CURLOPT_WRITEFUNCTION, &Transfer::on_body);
  set(CURLOPT_WRITEDATA, static_cast<void*>(&transfer));
  if (const auto path = certificates(); !path.empty()) {
    set(CURLOPT_CAINFO, path.c_str());
  }
  if (!request.token.empty()) {
    transfer.add_header("Authorization: Bearer " + request.token);
  }
  if (request.offset > 0) {
    transfer.add_header("Range: bytes=" + std::to_string(request.offset) + "-");
  }
  for (const auto& line : request.headers) {
    transfer.add_header(line);
  }
  if (!request.method.empty()) {
    prepare_body(request, transfer);
  }
  set(CURLOPT_HTTPHEADER, transfer.headers);
}

void HttpClient::prepare_body(const HttpRequest& request, Transfer& transfer) {
  const auto set = [&](CURLoption option, auto value) { curl_api().easy_setopt(handle_, option, value); };
  transfer.request = &request;
  transfer.rewind();
  const auto size = request.make_source ? request.body_size : static_cast<std::int64_t>(request.body.size());
  if (request.method == "PUT") {
    set(CURLOPT_UPLOAD, 1L);
    set(CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(size));
  } else {
    set(CURLOPT_POST, 1L);
    set(CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(size));
  }
  set(CURLOPT_CUSTOMREQUEST, request.method.c_str());
  set(CURLOPT_READFUNCTION, &Transfer::on_read);
  set(CURLOPT_READDATA, static_cast<void*>(&transfer));
  set(CURLOPT_SEEKFUNCTION, &Transfer::on_seek);
  set(CURLOPT_SEEKDATA, static_cast<void*>(&transfer));
  transfer.add_header("Expect:"); // no server here answers "100 Continue" worth waiting for
}

// One request, one answer.
void HttpClient::hop(const HttpRequest& request, Transfer& transfer) {
  const auto origin = origin_of(request.url);
  if (!origin.starts_with("http://") && !origin.starts_with("https://")) {
    throw IoError(request.url + ": not an http or https address");
  }
  prepare(request, transfer);
  transfer.response.url = request.url;
  const auto code = curl_api().easy_perform(handle_);
  if (transfer.thrown) {
    std::rethrow_exception(transfer.thrown);
  }
  if (code != CURLE_OK) {
    throw NetworkError(kind_of(code), origin + ": " +
                                          (transfer.reason[0] != '\0' ? std::string(transfer.reason)
                                                                      : curl_api().easy_strerror(code)));
  }
}

HttpResponse HttpClient::try_once(const HttpRequest& given, const BodySink& sink) {
  HttpRequest request = given;
  for (int redirects = 0;; ++redirects) {
    Transfer transfer;
    transfer.sink = &sink;
    hop(request, transfer);
    char* next = nullptr;
    curl_api().easy_getinfo(handle_, CURLINFO_REDIRECT_URL, &next);
    if (!is_redirect(transfer.response.status) || next == nullptr) {
      return std::move(transfer.response);
    }
    const std::string target = next;
    const bool leaves = origin_of(target) != origin_of(request.url);
    if (leaves && !request.leave_host) {
      return std::move(transfer.response);
    }
    if (redirects == kMaxRedirects) {
      throw IoError(given.url + ": redirected more than ten times");
    }
    if (request.url.starts_with("https:") && !target.starts_with("https:")) {
      throw IoError(given.url + ": redirected to an address without encryption (" + origin_of(target) + ")");
    }
    if (leaves) {
      request.token.clear();
      request.headers.clear();
    }
    request.url = target;
  }
}

HttpResponse HttpClient::send(const HttpRequest& request) {
  Backoff backoff(options_);
  while (true) {
    double at_least = 0;
    try {
      auto response = try_once(request);
      if (!is_busy_status(response.status)) {
        return response;
      }
      at_least = retry_after(response);
      if (!backoff.wait(at_least)) {
        throw NetworkError(NetworkError::Kind::busy,
                           origin_of(request.url) + ": answered " + std::to_string(response.status) +
                               (response.status == 429 ? " (too many requests)" : " (its own fault)"));
      }
    } catch (const NetworkError& error) {
      if (error.kind() != NetworkError::Kind::dropped || !backoff.wait()) {
        throw;
      }
    }
  }
}

bool is_busy_status(int status) {
  return status == 429 || status / 100 == 5;
}

std::string origin_of(const std::string& url) {
  const auto scheme = url.find("://");
  const auto start = scheme == std::string::npos ? 0 : scheme + 3;
  auto authority = url.substr(start, url.find_first_of("/?#", start) - start);
  if (const auto at = authority.rfind('@'); at != std::string::npos) {
    authority.erase(0, at + 1);
  }
  return lower(url.substr(0, start) + authority);
}

std::string encode_path(std::string_view path) {
  std::string result;
  for (const char c : path) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) != 0 || std::string_view("-._~/").find(c) != std::string_view::npos) {
      result += c;
    } else {
      char digits[4];
      std::snprintf(digits, sizeof digits, "%%%02X", byte);
      result += digits;
    }
  }
  return result;
}

} // namespace temper
