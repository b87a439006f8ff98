#include "temper/net/sigv4.h"

#include <ctime>
#include <string_view>

#include "temper/base/sha256.h"
#include "temper/base/text.h"
#include "temper/net/http.h"

namespace temper {
namespace {

constexpr std::size_t kBlock = 64; // of SHA-256

std::string sha256_hex(std::string_view text) {
  return Sha256().add(text).hex();
}

// Source: RFC 2104. 32 bytes.
std::string hmac(std::string key, std::string_view text) {
  if (key.size() > kBlock) {
    key = Sha256().add(key).digest();
  }
  key.resize(kBlock, '\0');
  std::string inner = key;
  std::string outer = key;
  for (std::size_t i = 0; i < kBlock; ++i) {
    inner[i] = static_cast<char>(inner[i] ^ 0x36);
    outer[i] = static_cast<char>(outer[i] ^ 0x5c);
  }
  return Sha256().add(outer).add(Sha256().add(inner).add(text).digest()).digest();
}

} // namespace

std::string encode_component(std::string_view text) {
  std::string result;
  for (const char c : encode_path(text)) {
    result += c == '/' ? std::string("%2F") : std::string(1, c);
  }
  return result;
}

std::string canonical_query(const std::map<std::string, std::string>& query) {
  std::map<std::string, std::string> encoded; // the order is that of the encoded names
  for (const auto& [name, value] : query) {
    encoded[encode_component(name)] = encode_component(value);
  }
  std::string text;
  for (const auto& [name, value] : encoded) {
    text += (text.empty() ? "" : "&") + name + "=" + value;
  }
  return text;
}

std::vector<std::string> sign_request(const SignedRequest& request, const AwsCredentials& credentials) {
  static const std::string no_body = sha256_hex("");
  auto headers = request.headers;
  headers["host"] = request.host;
  headers["x-amz-content-sha256"] = no_body;
  headers["x-amz-date"] = request.time;
  if (!credentials.session_token.empty()) {
    headers["x-amz-security-token"] = credentials.session_token;
  }
  std::string canonical_headers;
  std::string names;
  std::vector<std::string> lines;
  for (const auto& [name, value] : headers) {
    canonical_headers += name + ":" + value + "\n";
    names += (names.empty() ? "" : ";") + name;
    if (name != "host") {
      lines.push_back(name + ": " + value);
    }
  }
  const std::string canonical = request.method + "\n" + request.path + "\n" + canonical_query(request.query) +
                                "\n" + canonical_headers + "\n" + names + "\n" + no_body;
  const auto day = request.time.substr(0, 8);
  const auto scope = day + "/" + request.region + "/s3/aws4_request";
  const auto text = "AWS4-HMAC-SHA256\n" + request.time + "\n" + scope + "\n" + sha256_hex(canonical);
  auto key = hmac("AWS4" + credentials.secret_key, day);
  for (const std::string_view part :
       {std::string_view(request.region), std::string_view("s3"), std::string_view("aws4_request")}) {
    key = hmac(key, part);
  }
  lines.push_back("Authorization: AWS4-HMAC-SHA256 Credential=" + credentials.access_key + "/" + scope +
                  ",SignedHeaders=" + names + ",Signature=" + to_hex(hmac(key, text)));
  return lines;
}

std::string signing_time() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  char text[17];
  std::strftime(text, sizeof text, "%Y%m%dT%H%M%SZ", &utc);
  return text;
}

} // namespace temper
