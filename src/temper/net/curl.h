// libcurl, loaded when first needed: a machine that fetches nothing need not have it, and no verb waits for
// its thirty libraries (docs/decisions/0011).
#pragma once

#include <curl/curl.h>

namespace temper {

struct CurlApi {
  decltype(&::curl_easy_init) easy_init;
  decltype(&::curl_easy_cleanup) easy_cleanup;
  decltype(&::curl_easy_reset) easy_reset;
  decltype(&::curl_easy_setopt) easy_setopt;
  decltype(&::curl_easy_perform) easy_perform;
  decltype(&::curl_easy_getinfo) easy_getinfo;
  decltype(&::curl_easy_strerror) easy_strerror;
  decltype(&::curl_slist_append) slist_append;
  decltype(&::curl_slist_free_all) slist_free_all;
};

// Thread-safe. Throws IoError, saying what to install, if the system has no libcurl.
const CurlApi& curl_api();

} // namespace temper
