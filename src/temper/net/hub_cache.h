// The hub's cache on disk, in the layout that huggingface_hub keeps too:
//   models--ORG--NAME/blobs/<etag>                 the bytes, once
//   models--ORG--NAME/snapshots/<commit>/<file>    a relative link to its blob
//   models--ORG--NAME/refs/<branch or tag>         the commit that it last stood for
//   .locks/models--ORG--NAME/<etag>.lock           held while a blob is written
// A blob that is on its way is blobs/<etag>.incomplete.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace temper {

// A model or data set on the hub.
struct HubRepo {
  enum class Kind { model, dataset };
  Kind kind = Kind::model;
  std::string id;                // "org/name", or the "name" of an old one
  std::string revision = "main"; // branch, tag or commit
  std::string path;              // a file or folder in it; empty: all of it

  // "models/org/name" or "datasets/org/name": where the API has it.
  std::string api_path() const;
  // "org/name" or "datasets/org/name": where its page and its files are.
  std::string web_path() const;
};

// Reads org/name, org/name@revision, hf://org/name, hf://models/org/name, hf://datasets/org/name, each with
// @revision and, after hf://, a path behind it. Empty if `text` has not that form.
// Throws ConfigError for hf:// with something else behind it.
std::optional<HubRepo> parse_hub_name(std::string_view text);

// 40 hexadecimal digits.
bool is_commit(std::string_view text);

// Whether a relative path stays below the folder that it starts from.
bool is_inside(std::string_view path);

class HubCache {
 public:
  HubCache(const std::filesystem::path& root, const HubRepo& repo);

  std::filesystem::path blob(const std::string& etag) const;
  std::filesystem::path snapshot(const std::string& commit) const;
  std::filesystem::path lock_file(const std::string& etag) const;

  // The commit that the revision stood for when last asked; empty if that is not known.
  std::string commit_of(const std::string& revision) const;
  // Throws IoError.
  void keep_commit(const std::string& revision, const std::string& commit) const;
  // Makes snapshots/<commit>/<file> a link to the blob, replacing what is there. Throws IoError.
  void link(const std::string& commit, const std::string& file, const std::string& etag) const;

 private:
  std::filesystem::path root_;
  std::string name_; // models--org--name
};

// An exclusive lock on a file (flock, as huggingface_hub's), waited for; free again with the object or when the
// process dies. On a file system without locks it locks nothing. Throws IoError if the file can't be made.
class FileLock {
 public:
  // `what` is being waited for, in a message to the user.
  FileLock(const std::filesystem::path& path, const std::string& what);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int fd_ = -1;
};

} // namespace temper
