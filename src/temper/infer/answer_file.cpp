#include "temper/infer/answer_file.h"

#include <cerrno>
#include <cstring>

#include "temper/base/error.h"
#include "temper/base/files.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRun = "run"; // the partial file's first line: {"run": ...}
constexpr const char* kIndex = "index";
constexpr const char* kAnswer = "answer";

// The line's object; an empty one if it holds none.
Json object_of(std::string_view line) {
  auto json = Json::parse(line, nullptr, false);
  return json.is_object() ? json : Json::object();
}

} // namespace

fs::path AnswerFile::partial_path(const fs::path& path) {
  return path.string() + ".partial";
}

AnswerFile::AnswerFile(fs::path path, const std::string& run, std::size_t count, bool resume)
    : path_(std::move(path)), partial_(partial_path(path_)), places_(count) {
  const bool left = fs::exists(partial_);
  if (left && !resume) {
    throw ConfigError(partial_.string() +
                      ": answers of a run that was cut short; --resume goes on with them, or " +
                      "remove the file to begin anew");
  }
  if (left) {
    take_up(run);
    std::error_code ignored;
    fs::resize_file(partial_, end_, ignored); // a kill may have left half a line
  }
  file_.reset(std::fopen(partial_.c_str(), "ab"));
  if (!file_) {
    throw IoError("cannot write " + partial_.string() + ": " + std::strerror(errno));
  }
  if (end_ == 0) {
    append(dump(Json{{kRun, run}}));
  }
}

AnswerFile::~AnswerFile() {
  // A run without an answer leaves nothing behind.
  if (file_ && num_answers_ == 0) {
    file_.reset();
    std::error_code ignored;
    fs::remove(partial_, ignored);
  }
}

void AnswerFile::take_up(const std::string& run) {
  const MappedFile file(partial_);
  const auto text = file.text();
  for (auto stop = text.find('\n'); stop != std::string_view::npos; stop = text.find('\n', end_)) {
    const auto line = object_of(text.substr(end_, stop - end_));
    if (end_ == 0 && (!line.contains(kRun) || line.at(kRun) != run)) {
      throw ConfigError(
          partial_.string() +
          ": answers to other prompts, of another model or with other settings; remove the file to " +
          "begin anew");
    }
    const auto index = line.find(kIndex);
    if (index != line.end() && index->is_number_unsigned() && *index < places_.size() &&
        line.contains(kAnswer)) {
      auto& place = places_[index->get<std::size_t>()];
      num_answers_ += place ? 0 : 1;
      place = Place{end_, stop - end_};
    }
    end_ = stop + 1;
  }
}

void AnswerFile::append(const std::string& line) {
  const auto bytes = line + "\n";
  if (std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size() ||
      std::fflush(file_.get()) != 0) {
    throw IoError("cannot write " + partial_.string() + ": " + std::strerror(errno));
  }
  end_ += bytes.size();
}

void AnswerFile::add(std::size_t index, const Json& answer) {
  const auto line = dump(Json{{kIndex, index}, {kAnswer, answer}});
  const Place place{end_, line.size()};
  append(line);
  num_answers_ += places_.at(index) ? 0 : 1;
  places_[index] = place;
}

void AnswerFile::finish() {
  file_.reset();
  write_file_atomic(path_, [&](const fs::path& temporary) {
    const MappedFile partial(partial_);
    std::unique_ptr<std::FILE, int (*)(std::FILE*)> out(std::fopen(temporary.c_str(), "wb"), &std::fclose);
    bool written = out != nullptr;
    for (const auto& place : places_) {
      if (written && place) {
        const auto line = dump(object_of(partial.text().substr(place->offset, place->size)).at(kAnswer)) + "\n";
        written = std::fwrite(line.data(), 1, line.size(), out.get()) == line.size();
      }
    }
    if (!written || std::fflush(out.get()) != 0) {
      throw IoError("cannot write " + path_.string() + ": " + std::strerror(errno));
    }
  });
  fs::remove(partial_);
}

} // namespace temper
