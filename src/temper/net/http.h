// A small HTTP client over libcurl: certificates are verified, proxies come from the environment
// (https_proxy, no_proxy ...), connections are kept for the next request.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "temper/base/error.h"

namespace temper {

// No answer, or one that only time can better; its text says which host and why.
class NetworkError : public IoError {
 public:
  enum class Kind {
    unreachable, // no such host, nobody listens, no certificate that is trusted
    dropped,     // the connection broke or stalled
    busy,        // 429 or 5xx, after retries
  };
  NetworkError(Kind kind, const std::string& what) : IoError(what), kind_(kind) {
  }
  Kind kind() const noexcept {
    return kind_;
  }

 private:
  Kind kind_;
};

// The next bytes of a body, up to `size` of them into `data`; their number, 0 at the end.
using BodySource = std::function<std::size_t(char* data, std::size_t size)>;

struct HttpRequest {
  std::string url;         // http or https
  std::string token;       // bearer token, sent to the scheme, host and port of `url` alone; empty: none
  bool head = false;       // HEAD instead of GET
  std::int64_t offset = 0; // GET asks for the bytes from here on
  bool leave_host = true;  // false: a redirect to another host is itself the answer
  std::vector<std::string> headers; // further ones, "Name: value"; not sent to another host

  std::string method;         // POST or PUT, with a body; empty: GET or HEAD
  std::string body;           // in memory
  std::int64_t body_size = 0; // or from `make_source`, which is asked anew for each attempt and redirect
  std::function<BodySource()> make_source;
};

struct HttpResponse {
  int status = 0;
  std::map<std::string, std::string> headers; // of the last answer, names in lower case
  std::string body;                           // unless a sink took it
  std::string url;                            // after redirects

  // Empty if it was not sent.
  std::string header(const std::string& name) const;
};

// Takes the body of a 2xx answer; the pieces' `response` has status and headers but no body.
using BodySink = std::function<void(const HttpResponse& response, std::string_view piece)>;

struct HttpOptions {
  int connect_timeout_s = 10;
  int stall_timeout_s = 30; // without a byte
  int max_attempts = 5;
  double first_delay_s = 0.5; // doubles with each attempt
};

// Waits between attempts: exponential, with a random part so that many clients don't return at once.
class Backoff {
 public:
  explicit Backoff(const HttpOptions& options) : options_(options) {
  }
  // Sleeps, at least `at_least_s`; false, at once, if all attempts are spent or that is over two minutes.
  bool wait(double at_least_s = 0);
  void reset() {
    num_failed_ = 0;
  }

 private:
  HttpOptions options_;
  int num_failed_ = 0;
};

// Not for two threads at once.
class HttpClient {
 public:
  // Throws IoError if there is no libcurl.
  explicit HttpClient(const HttpOptions& options = {});
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // Follows redirects (ten, never from https to http), retries 429, 5xx and dropped connections (a 429's
  // Retry-After is waited for). Any other status is returned. Throws NetworkError, IoError.
  HttpResponse send(const HttpRequest& request);

  // One attempt, without retries. The body of a 2xx answer goes to `sink` if there is one; what `sink` throws
  // comes through. Throws NetworkError; 429 and 5xx are returned.
  HttpResponse try_once(const HttpRequest& request, const BodySink& sink = nullptr);

  const HttpOptions& options() const {
    return options_;
  }

 private:
  struct Transfer;
  void prepare(const HttpRequest& request, Transfer& transfer);
  void prepare_body(const HttpRequest& request, Transfer& transfer);
  void hop(const HttpRequest& request, Transfer& transfer);

  HttpOptions options_;
  void* handle_; // libcurl's
};

// Whether waiting may help: 429 and 5xx.
bool is_busy_status(int status);

// "scheme://host:port" of a URL, in lower case, the port as written; what a token may be sent to.
std::string origin_of(const std::string& url);

// Percent-encodes all but unreserved characters and '/'.
std::string encode_path(std::string_view path);

} // namespace temper
