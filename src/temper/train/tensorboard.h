// A run's scalars for TensorBoard, from its events.
// Format: TensorFlow's record files (tensorflow/core/lib/io/record_writer.h) of Event messages
// (tensorboard/compat/proto/event.proto), as far as scalars need them.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "temper/base/event.h"

namespace temper {

// CRC-32C (Castagnoli) of `bytes`. Source: RFC 3720, appendix B.4.
std::uint32_t crc32c(std::string_view bytes);

// Every number of a `step` event becomes train/<key>, loss and perplexity of an `eval` <split>/<key>.
class TensorBoardWriter final : public EventSink {
 public:
  // Files go to `folder`, which the first number creates.
  explicit TensorBoardWriter(std::filesystem::path folder);
  // Throws IoError.
  void on_event(const Event& event) override;

 private:
  struct Close {
    void operator()(std::FILE* file) const {
      std::fclose(file);
    }
  };
  void open(double time);
  void write_record(const std::string& record);

  std::filesystem::path folder_;
  std::filesystem::path file_name_;
  std::unique_ptr<std::FILE, Close> file_;
};

} // namespace temper
