// A run's folder: run.json, events.jsonl, adapters, checkpoints. Made at the first write, so that a run that
// validation refuses leaves nothing behind. Layout: docs/formats/run-folder.md.
#pragma once

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include "temper/base/event.h"

namespace temper {

class RunFolder final : public EventSink {
 public:
  explicit RunFolder(std::filesystem::path path);

  // Creates the folder; throws IoError if it can't be written to, naming it.
  void create();
  // Removes the temporary files that a killed run left in the folder.
  void remove_leftovers();
  // Takes back what create() made if nothing else was written since.
  void discard_if_empty() noexcept;
  // Drops the lines of events.jsonl after optimizer step `step`: those a resumed run writes again.
  void rewind_events(std::int64_t step);

  // One line of events.jsonl, complete and handed to the system at once. Throws IoError.
  void on_event(const Event& event) override;

  const std::filesystem::path& path() const {
    return path_;
  }
  std::filesystem::path checkpoints() const {
    return path_ / "checkpoints";
  }

 private:
  struct Close {
    void operator()(std::FILE* file) const {
      std::fclose(file);
    }
  };
  std::filesystem::path path_;
  std::filesystem::path created_; // the first folder of path_ that create() made
  std::unique_ptr<std::FILE, Close> events_;
};

} // namespace temper
