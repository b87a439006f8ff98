#include "temper/net/curl.h"

#include <string>

#include <dlfcn.h>

#include "temper/base/error.h"

namespace temper {
namespace {

#ifdef __APPLE__
constexpr const char* kLibrary = "libcurl.4.dylib";
#else
constexpr const char* kLibrary = "libcurl.so.4";
#endif

template <class Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  if (function == nullptr) {
    throw IoError(std::string(kLibrary) + " has no " + name + ": install a newer libcurl (7.68 or later)");
  }
}

CurlApi load() {
  void* library = ::dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw IoError(std::string("fetching needs libcurl, which can't be loaded (") + ::dlerror() +
                  "): install it (Debian: apt-get install libcurl4)");
  }
  CurlApi api{};
  find(library, "curl_easy_init", api.easy_init);
  find(library, "curl_easy_cleanup", api.easy_cleanup);
  find(library, "curl_easy_reset", api.easy_reset);
  find(library, "curl_easy_setopt", api.easy_setopt);
  find(library, "curl_easy_perform", api.easy_perform);
  find(library, "curl_easy_getinfo", api.easy_getinfo);
  find(library, "curl_easy_strerror", api.easy_strerror);
  find(library, "curl_slist_append", api.slist_append);
  find(library, "curl_slist_free_all", api.slist_free_all);
  decltype(&::curl_global_init) global_init = nullptr;
  find(library, "curl_global_init", global_init);
  if (global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
    throw IoError("libcurl could not be initialized");
  }
  return api;
}

} // namespace

const CurlApi& curl_api() {
  static const CurlApi kApi = load();
  return kApi;
}

} // namespace temper
