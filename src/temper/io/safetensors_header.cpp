// The header is read as it is parsed, without a tree: what it claims costs no memory beyond its own bytes.
#include <algorithm>
#include <cstring>
#include <limits>
#include <set>

#include "temper/base/error.h"
#include "temper/base/json.h"
#include "temper/io/safetensors.h"

namespace temper {
namespace {

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000; // the reference implementation's limit
constexpr int kMostAxes = 32;
constexpr int kDeepest = 8; // {"name": {"shape": [1]}} is 3
constexpr std::size_t kLongestName = 200;

// Those that MLX reads.
const std::map<std::string, std::uint64_t> kDtypeBits = {
    {"BOOL", 8}, {"U8", 8},   {"I8", 8},   {"U16", 16}, {"I16", 16}, {"F16", 16}, {"BF16", 16},
    {"U32", 32}, {"I32", 32}, {"F32", 32}, {"U64", 64}, {"I64", 64}, {"C64", 64},
};

// A name as a message shows it: on one line.
std::string shown(std::string name) {
  if (name.size() > kLongestName) {
    name.resize(kLongestName);
  }
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return name;
}

// Fills a header from the parser's events.
class HeaderReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderReader(const std::string& origin, std::uint64_t data_bytes) : origin_(origin), data_bytes_(data_bytes) {
  }

  SafetensorsHeader take() {
    return std::move(header_);
  }

  bool null() override {
    return scalar();
  }
  bool boolean(bool /*value*/) override {
    return scalar();
  }
  bool number_integer(number_integer_t value) override {
    number(value);
    return scalar();
  }
  bool number_unsigned(number_unsigned_t value) override {
    constexpr auto kMost = static_cast<number_unsigned_t>(std::numeric_limits<std::int64_t>::max());
    number(value > kMost ? -1 : static_cast<std::int64_t>(value));
    return scalar();
  }
  bool number_float(number_float_t /*value*/, const string_t& /*text*/) override {
    number(-1);
    return scalar();
  }
  bool string(string_t& value) override {
    if (depth_ == 2 && in_metadata_) {
      header_.metadata[field_] = value;
    } else if (depth_ == 2 && field_ == "dtype") {
      entry_.dtype = value;
    } else if (depth_ == 3) {
      unreadable_ = true; // a word among numbers
    }
    return scalar();
  }
  bool binary(binary_t& /*value*/) override {
    return scalar();
  }

  bool start_object(std::size_t /*size*/) override {
    if (depth_ == 1) {
      begin_entry();
    }
    unreadable_ = unreadable_ || wants_list();
    return enter();
  }
  bool key(string_t& name) override {
    if (depth_ == 1) {
      name_ = name;
      in_metadata_ = name == "__metadata__";
      if (!seen_.insert(name).second) {
        fail("names tensor " + shown(name) + " twice");
      }
    } else if (depth_ == 2) {
      field_ = name;
      if (!in_metadata_ && !fields_.insert(name).second) {
        unreadable_ = true;
      }
    }
    return true;
  }
  bool end_object() override {
    --depth_;
    if (depth_ == 1 && !in_metadata_) {
      end_entry();
    }
    return true;
  }
  bool start_array(std::size_t /*size*/) override {
    if (depth_ == 0) {
      fail("the header is not a JSON object");
    }
    if (depth_ == 1) {
      refuse_entry();
    }
    return enter();
  }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool parse_error(std::size_t /*position*/, const std::string& /*token*/,
                   const nlohmann::detail::exception& /*error*/) override {
    fail("the header is not JSON");
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw ModelError(origin_ + ": " + what +
                     "; the file is damaged or not safetensors: replace it with a whole copy");
  }

 private:
  bool enter() {
    if (++depth_ > kDeepest) {
      fail("the header's JSON is nested too deep");
    }
    return true;
  }

  bool scalar() {
    if (depth_ == 0) {
      fail("the header is not a JSON object");
    }
    if (depth_ == 1 && !in_metadata_) {
      refuse_entry();
    }
    unreadable_ = unreadable_ || wants_list();
    return true;
  }

  // Whether what comes next is the list of numbers of a shape or of offsets.
  bool wants_list() const {
    return depth_ == 2 && !in_metadata_ && (field_ == "shape" || field_ == "data_offsets");
  }

  void number(std::int64_t value) {
    if (depth_ != 3 || in_metadata_) {
      return;
    }
    if (field_ == "shape") {
      entry_.shape.push_back(value);
      unreadable_ = unreadable_ || entry_.shape.size() > kMostAxes;
    } else if (field_ == "data_offsets") {
      unreadable_ = unreadable_ || value < 0 || ++num_offsets_ > 2;
      (num_offsets_ == 1 ? entry_.begin : entry_.end) = static_cast<std::uint64_t>(value);
    }
  }

  void begin_entry() {
    entry_ = {};
    fields_.clear();
    num_offsets_ = 0;
    unreadable_ = false;
  }

  [[noreturn]] void refuse_entry() const {
    fail("tensor " + shown(name_) + " lacks a readable dtype, shape or data_offsets");
  }

  void end_entry() {
    if (unreadable_ || num_offsets_ != 2 || entry_.dtype.empty() || !fields_.contains("shape")) {
      refuse_entry();
    }
    check_entry();
    header_.tensors.emplace(name_, std::move(entry_));
  }

  void check_entry() const {
    const auto bits = kDtypeBits.find(entry_.dtype);
    const auto tensor = "tensor " + shown(name_);
    if (bits == kDtypeBits.end()) {
      throw ModelError(origin_ + ": " + tensor + " has dtype " + shown(entry_.dtype) +
                       ", which is not supported");
    }
    if (entry_.begin > entry_.end || entry_.end > data_bytes_) {
      fail(tensor + " ends at byte " + std::to_string(entry_.end) + " of " + std::to_string(data_bytes_));
    }
    if (count_elements() * (bits->second / 8) != entry_.end - entry_.begin) {
      fail(tensor + " has a shape that does not match its " + std::to_string(entry_.end - entry_.begin) +
           " bytes");
    }
  }

  // Fails on counts that are negative or overflow, each and all together; MLX counts an axis in 32 bits.
  std::uint64_t count_elements() const {
    std::uint64_t elements = 1;
    for (const auto dim : entry_.shape) {
      if (dim < 0 || dim > std::numeric_limits<std::int32_t>::max() ||
          (dim > 0 && elements > (std::uint64_t{1} << 48) / static_cast<std::uint64_t>(dim))) {
        fail("tensor " + shown(name_) + " has an impossible shape");
      }
      elements *= static_cast<std::uint64_t>(dim);
    }
    return elements;
  }

  const std::string& origin_;
  std::uint64_t data_bytes_;
  SafetensorsHeader header_;
  int depth_ = 0;
  std::set<std::string> seen_;
  std::string name_;
  bool in_metadata_ = false;
  TensorInfo entry_;
  std::string field_;
  std::set<std::string> fields_;
  int num_offsets_ = 0;
  bool unreadable_ = false;
};

void check_layout(const HeaderReader& reader, const SafetensorsHeader& header, std::uint64_t data_bytes) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
  ranges.reserve(header.tensors.size());
  for (const auto& [name, info] : header.tensors) {
    ranges.emplace_back(info.begin, info.end);
  }
  std::sort(ranges.begin(), ranges.end());
  std::uint64_t expected = 0;
  for (const auto& [begin, end] : ranges) {
    if (begin != expected) {
      reader.fail("tensors overlap or leave a gap at byte " + std::to_string(begin));
    }
    expected = end;
  }
  if (expected != data_bytes) {
    reader.fail("the tensors take " + std::to_string(expected) + " bytes, the file holds " +
                std::to_string(data_bytes));
  }
}

// What PyTorch writes begins as a zip archive, or older as a pickle.
void refuse_pickle(std::string_view file, const std::string& origin) {
  if (file.starts_with("PK\x03\x04") || file.starts_with("\x80\x02")) {
    throw ModelError(
        origin +
        ": is a zip or pickle as PyTorch saves, not safetensors; save it with safetensors or PEFT anew");
  }
}

} // namespace

SafetensorsHeader parse_safetensors_header(std::string_view file, const std::string& origin) {
  std::uint64_t length = 0;
  const HeaderReader nothing(origin, 0);
  if (file.size() < sizeof length) {
    nothing.fail("only " + std::to_string(file.size()) + " bytes long");
  }
  std::memcpy(&length, file.data(), sizeof length);
  if (length > kMaxHeaderBytes || length > file.size() - sizeof length) {
    refuse_pickle(file, origin);
    nothing.fail("the header claims " + std::to_string(length) + " bytes");
  }
  const std::uint64_t data_bytes = file.size() - sizeof length - length;
  HeaderReader reader(origin, data_bytes);
  nlohmann::json::sax_parse(file.substr(sizeof length, length), &reader);
  auto header = reader.take();
  check_layout(reader, header, data_bytes);
  return header;
}

} // namespace temper
