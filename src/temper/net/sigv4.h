// AWS's signature of a request, version 4.
// Source: "Authenticating Requests (AWS Signature Version 4)" of the S3 API reference.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace temper {

struct AwsCredentials {
  std::string access_key;
  std::string secret_key;
  std::string session_token; // empty: none

  bool empty() const {
    return access_key.empty();
  }
};

struct SignedRequest {
  std::string method = "GET";
  std::string host;                           // with its port, if that is not the scheme's own
  std::string path;                           // percent-encoded, as it is sent
  std::map<std::string, std::string> query;   // not encoded
  std::map<std::string, std::string> headers; // further ones to sign, names in lower case
  std::string region;
  std::string time; // "20130524T000000Z"; UTC
};

// Percent-encodes all but unreserved characters, as queries need it.
std::string encode_component(std::string_view text);

// "a=b&c=d" in the order that signatures want.
std::string canonical_query(const std::map<std::string, std::string>& query);

// The header lines to send with a request that has no body: Authorization, x-amz-date, x-amz-content-sha256,
// x-amz-security-token if there is one, and those of `headers`. Host is left to the client.
std::vector<std::string> sign_request(const SignedRequest& request, const AwsCredentials& credentials);

// Now, in the form of SignedRequest::time.
std::string signing_time();

} // namespace temper
