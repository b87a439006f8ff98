#include "temper/net/sigv4.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "base/messages.h"

using namespace temper;
using temper::test::contains;

namespace {

// The examples of the S3 API reference, "Signature Calculations for the Authorization Header".
const AwsCredentials kExample{"AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", ""};

SignedRequest example() {
  SignedRequest request;
  request.host = "examplebucket.s3.amazonaws.com";
  request.path = "/";
  request.region = "us-east-1";
  request.time = "20130524T000000Z";
  return request;
}

std::string authorization(const SignedRequest& request, const AwsCredentials& credentials = kExample) {
  return sign_request(request, credentials).back();
}

} // namespace

TEST_CASE("the signatures of AWS's own examples") {
  auto request = example();
  request.path = "/test.txt";
  request.headers["range"] = "bytes=0-9";
  CHECK(authorization(request) ==
        "Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
  request = example();
  request.query = {{"lifecycle", ""}};
  CHECK(contains(authorization(request), "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"));
  request = example();
  request.query = {{"max-keys", "2"}, {"prefix", "J"}};
  CHECK(contains(authorization(request), "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"));
}

TEST_CASE("a session's token is signed and sent") {
  auto credentials = kExample;
  credentials.session_token = "token";
  const auto lines = sign_request(example(), credentials);
  CHECK(contains(lines.back(), "host;x-amz-content-sha256;x-amz-date;x-amz-security-token"));
  CHECK(std::ranges::find(lines, "x-amz-security-token: token") != lines.end());
}

TEST_CASE("queries are encoded and in order") {
  CHECK(canonical_query({{"b", "a/b c"}, {"a+", "~"}, {"a", "ü"}}) == "a=%C3%BC&a%2B=~&b=a%2Fb%20c");
}
