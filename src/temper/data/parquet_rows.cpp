#include "temper/data/parquet_rows.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>

#include "temper/base/error.h"
#include "temper/text/bridge.h"

namespace temper {
namespace {

// Columns keep their nulls; every struct of a column has all of its members, most of them null.
void remove_inner_nulls(Json& value) {
  if (value.is_array()) {
    for (auto& item : value) {
      remove_inner_nulls(item);
    }
  } else if (value.is_object()) {
    for (auto member = value.begin(); member != value.end();) {
      if (member->is_null()) {
        member = value.erase(member);
      } else {
        remove_inner_nulls(*member);
        ++member;
      }
    }
  }
}

bridge::ParquetPtr open_parquet(const std::filesystem::path& path) {
  if (!std::ifstream(path, std::ios::binary)) {
    throw IoError("cannot read " + path.string() + ": " + std::strerror(errno));
  }
  const auto name = path.string();
  TemperParquet* opened = nullptr;
  TemperText error{};
  bridge::check<DataError>(temper_parquet_open(name.data(), name.size(), &opened, &error), error, name + ": ");
  return bridge::ParquetPtr(opened);
}

class ParquetSource : public RowSource {
 public:
  explicit ParquetSource(const std::filesystem::path& path) : path_(path), parquet_(open_parquet(path)) {
    if (temper_parquet_num_rows(parquet_.get()) == 0) {
      throw DataError(path.string() + ": the file is empty; it needs at least one row");
    }
  }

  bool next(RawRow& row) override {
    while (at_ >= batch_->size()) {
      if (ended_ || !read_batch()) {
        return false;
      }
    }
    const auto end = batch_->find('\n', at_);
    row = {++row_, std::string_view(*batch_).substr(at_, end - at_), batch_};
    at_ = end + 1;
    return true;
  }

  Json parse(const RawRow& row) const override {
    Json object = parse_row(row.text);
    for (auto& column : object) {
      remove_inner_nulls(column);
    }
    return object;
  }

 private:
  bool read_batch() {
    TemperText lines{};
    TemperText error{};
    const auto place =
        path_.string() + ":" + std::to_string(row_ + 1) + ": the rows from here on can't be read: ";
    bridge::check<DataError>(temper_parquet_next(parquet_.get(), &lines, &error), error, place);
    batch_ = std::make_shared<const std::string>(bridge::take(lines));
    at_ = 0;
    ended_ = batch_->empty();
    return !ended_;
  }

  std::filesystem::path path_;
  bridge::ParquetPtr parquet_;
  std::shared_ptr<const std::string> batch_ = std::make_shared<const std::string>(); // JSON Lines
  std::size_t at_ = 0;
  std::int64_t row_ = 0;
  bool ended_ = false;
};

} // namespace

std::unique_ptr<RowSource> open_parquet_rows(const std::filesystem::path& path) {
  return std::make_unique<ParquetSource>(path);
}

} // namespace temper
