#include "temper/train/tensorboard.h"

#include <doctest/doctest.h>

#include <cstring>

#include "temper/base/files.h"

using namespace temper;
namespace fs = std::filesystem;

TEST_CASE("crc32c gives RFC 3720's values") {
  CHECK(crc32c("123456789") == 0xe3069283U);
  CHECK(crc32c(std::string(32, '\0')) == 0x8a9136aaU);
  CHECK(crc32c("") == 0U);
}

TEST_CASE("numbers of steps and evaluations become framed scalar records") {
  const auto folder = fs::temp_directory_path() / "temper_tensorboard_test";
  fs::remove_all(folder);
  {
    TensorBoardWriter sink(folder);
    sink.on_event({"run_started", 10.0, 0, {{"iters", 5}}}); // no file for this
    CHECK_FALSE(fs::exists(folder));
    sink.on_event({"step", 11.0, 3, {{"loss", 1.5}, {"note", "text"}}});
    sink.on_event({"eval", 12.0, 300, {{"split", "valid"}, {"loss", 2.0}}});
  }
  REQUIRE(fs::exists(folder));
  const auto bytes = read_file(fs::directory_iterator(folder)->path());
  std::vector<std::string> records;
  for (std::size_t at = 0; at < bytes.size();) {
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data() + at, 8);
    std::uint32_t crc = 0;
    std::memcpy(&crc, bytes.data() + at + 8, 4);
    const auto raw = crc32c(bytes.substr(at, 8));
    CHECK(crc == (raw >> 15 | raw << 17) + 0xa282ead8U);
    records.push_back(bytes.substr(at + 12, length));
    at += 12 + length + 4;
  }
  REQUIRE(records.size() == 3);
  CHECK(records[0].find("brain.Event:2") != std::string::npos);
  CHECK(records[1].find("train/loss") != std::string::npos);
  CHECK(records[1].find("note") == std::string::npos);
  CHECK(records[2].find("valid/loss") != std::string::npos);
  float value = 0;
  std::memcpy(&value, records[2].data() + records[2].size() - 4, 4);
  CHECK(value == 2.0F);
  fs::remove_all(folder);
}
