// Where S3 is, who asks, and where its objects are kept: the variables and files of AWS's own tools.
#pragma once

#include <filesystem>
#include <string>

#include "temper/net/http.h"
#include "temper/net/sigv4.h"

namespace temper {

struct S3Settings {
  AwsCredentials credentials;  // AWS_ACCESS_KEY_ID ..., else the profile's; empty: none are known
  bool is_anonymous = false;   // AWS_NO_SIGN_REQUEST: public buckets
  std::string region;          // AWS_REGION, AWS_DEFAULT_REGION, the profile's, else us-east-1
  std::string endpoint;        // AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, the profile's; empty: AWS itself
  std::filesystem::path cache; // s3 in TEMPER_CACHE_DIR, XDG_CACHE_HOME/temper or ~/.cache/temper
  HttpOptions http;
};

// Throws ConfigError if a variable can't be used, naming it; IoError if a file of AWS's can't be read.
S3Settings s3_settings_from_environment();

} // namespace temper
