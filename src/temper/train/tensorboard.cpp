#include "temper/train/tensorboard.h"

#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include <unistd.h>

#include "temper/base/error.h"
#include "temper/base/files.h"

namespace temper {
namespace {

// Protocol buffers' wire format: a field is its number and type, then its value.
enum WireType : std::uint64_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void put_varint(std::string& out, std::uint64_t value) {
  for (; value >= 128; value >>= 7) {
    out.push_back(static_cast<char>(value | 128));
  }
  out.push_back(static_cast<char>(value));
}

void put_key(std::string& out, std::uint64_t field, WireType type) {
  put_varint(out, field << 3 | type);
}

template <typename Unsigned>
void put_little_endian(std::string& out, Unsigned value) {
  for (std::size_t i = 0; i < sizeof value; ++i) {
    out.push_back(static_cast<char>(value >> (8 * i)));
  }
}

void put_bytes(std::string& out, std::uint64_t field, std::string_view bytes) {
  put_key(out, field, kBytes);
  put_varint(out, bytes.size());
  out.append(bytes);
}

// Event: wall_time = 1, step = 2, file_version = 3 or summary = 5.
std::string event_message(double time, std::int64_t step, std::uint64_t field, std::string_view content) {
  std::string out;
  put_key(out, 1, kFixed64);
  put_little_endian(out, std::bit_cast<std::uint64_t>(time));
  put_key(out, 2, kVarint);
  put_varint(out, static_cast<std::uint64_t>(step));
  put_bytes(out, field, content);
  return out;
}

// Summary: repeated value = 1, of which tag = 1, simple_value = 2.
void put_scalar(std::string& summary, const std::string& tag, double number) {
  std::string value;
  put_bytes(value, 1, tag);
  put_key(value, 2, kFixed32);
  put_little_endian(value, std::bit_cast<std::uint32_t>(static_cast<float>(number)));
  put_bytes(summary, 1, value);
}

std::uint32_t masked_crc(std::string_view bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xa282ead8U;
}

std::string summary_of(const Event& event) {
  const bool is_step = event.type == "step";
  const auto prefix = is_step ? std::string("train/") : event.data.value("split", "") + "/";
  std::string summary;
  for (const auto& [key, value] : event.data.items()) {
    if (value.is_number() && (is_step || key == "loss" || key == "perplexity")) {
      put_scalar(summary, prefix + key, value.get<double>());
    }
  }
  return summary;
}

} // namespace

std::uint32_t crc32c(std::string_view bytes) {
  static const auto table = [] {
    std::array<std::uint32_t, 256> entries{};
    for (std::uint32_t i = 0; i < entries.size(); ++i) {
      std::uint32_t rest = i;
      for (int bit = 0; bit < 8; ++bit) {
        rest = (rest >> 1) ^ ((rest & 1) != 0 ? 0x82f63b78U : 0U);
      }
      entries[i] = rest;
    }
    return entries;
  }();
  std::uint32_t crc = ~0U;
  for (const char byte : bytes) {
    crc = table[(crc ^ static_cast<unsigned char>(byte)) & 0xff] ^ (crc >> 8);
  }
  return ~crc;
}

TensorBoardWriter::TensorBoardWriter(std::filesystem::path folder) : folder_(std::move(folder)) {
}

void TensorBoardWriter::on_event(const Event& event) {
  if (event.type != "step" && event.type != "eval") {
    return;
  }
  if (!file_) {
    open(event.time);
  }
  write_record(event_message(event.time, event.step, 5, summary_of(event)));
}

// TensorBoard reads all files of a folder, in the order of the seconds in their names: a continued run adds
// one.
void TensorBoardWriter::open(double time) {
  make_directories(folder_);
  file_name_ = folder_ / ("events.out.tfevents." + std::to_string(static_cast<std::int64_t>(time)) +
                          ".temper." + std::to_string(::getpid()));
  file_.reset(std::fopen(file_name_.c_str(), "abe"));
  write_record(event_message(time, 0, 3, "brain.Event:2"));
}

void TensorBoardWriter::write_record(const std::string& record) {
  std::string bytes;
  put_little_endian(bytes, std::uint64_t{record.size()});
  put_little_endian(bytes, masked_crc(bytes));
  bytes += record;
  put_little_endian(bytes, masked_crc(record));
  if (!file_ || std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size() ||
      std::fflush(file_.get()) != 0) {
    throw IoError("cannot write " + file_name_.string() + ": " + std::strerror(errno));
  }
}

} // namespace temper
