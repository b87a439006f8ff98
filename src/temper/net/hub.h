// A model or data set of the hub as a folder on disk: fetched into the cache that the Python tools share
// (hub_cache.h), or found there.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "temper/base/json.h"
#include "temper/net/hub_cache.h"
#include "temper/net/hub_settings.h"

namespace temper {

// What to take of a repository: chooses among the names of its files. Returns what to fetch; throws ModelError
// or DataError if what is needed is not among them.
using FileChoice = std::function<std::vector<std::string>(const std::vector<std::string>& names)>;

// Whether a snapshot's folder holds what is needed, for when the hub can't be asked.
using FolderCheck = std::function<bool(const std::filesystem::path& snapshot)>;

class Hub {
 public:
  explicit Hub(HubSettings settings);

  // The snapshot's folder, with all the chosen files. One request if they are here already; offline none. If
  // the hub can't be reached and the cache has a complete snapshot, a warning and that. Throws IoError in one
  // line that says what to do: no such name or revision, no or a refused token, terms not accepted, no network,
  // a full disk, a wrong checksum. What came so far stays, to be resumed.
  std::filesystem::path snapshot(const HubRepo& repo, const FileChoice& choose, const FolderCheck& is_complete);

 private:
  struct File;

  std::filesystem::path fetch(const HubRepo& repo, const FileChoice& choose);
  Json describe(HttpClient& client, const HubRepo& repo) const;
  File look_up(HttpClient& client, const HubRepo& repo, const std::string& commit,
               const std::string& name) const;
  void fetch_files(HttpClient& client, const HubRepo& repo, const std::string& commit,
                   const std::vector<File>& files) const;
  std::filesystem::path cached(const HubRepo& repo, const FolderCheck& is_complete) const;
  [[noreturn]] void refuse(const HubRepo& repo, const HttpResponse& response) const;

  HubSettings settings_;
};

} // namespace temper
