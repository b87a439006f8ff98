#include "temper/quant/format.h"

#include <algorithm>

#include "temper/base/error.h"

namespace temper {
namespace {

std::string join(const std::vector<int>& values) {
  std::string text;
  for (const int value : values) {
    text += (text.empty() ? "" : ", ") + std::to_string(value);
  }
  return text;
}

int choose(const QuantMode& mode, const char* what, const std::vector<int>& choices,
           std::optional<int> wanted) {
  if (wanted && std::find(choices.begin(), choices.end(), *wanted) == choices.end()) {
    throw ConfigError("quantization mode " + mode.name + " has no " + what + " " + std::to_string(*wanted) +
                      "; it has " + join(choices));
  }
  return wanted.value_or(choices.front());
}

} // namespace

const std::vector<QuantMode>& quant_modes() {
  static const std::vector<QuantMode> kModes{
      {"affine", {4, 2, 3, 5, 6, 8}, {64, 32, 128}, true},
      {"mxfp4", {4}, {32}},
      {"nvfp4", {4}, {16}},
      {"mxfp8", {8}, {32}},
  };
  return kModes;
}

std::vector<std::string> quant_mode_names() {
  std::vector<std::string> names;
  for (const auto& mode : quant_modes()) {
    names.push_back(mode.name);
  }
  return names;
}

const QuantMode& find_quant_mode(const std::string& name) {
  std::string known;
  for (const auto& mode : quant_modes()) {
    if (mode.name == name) {
      return mode;
    }
    known += (known.empty() ? "" : ", ") + mode.name;
  }
  throw ConfigError("quantization mode " + name + " is not one of " + known);
}

std::string describe(const QuantFormat& format) {
  return format.mode + ", " + std::to_string(format.bits) + " bits in groups of " +
         std::to_string(format.group_size);
}

QuantFormat make_quant_format(const std::string& mode, std::optional<int> bits, std::optional<int> group_size) {
  const auto& found = find_quant_mode(mode);
  return {mode, choose(found, "bits", found.bits, bits),
          choose(found, "group_size", found.group_sizes, group_size)};
}

bool fits(const QuantFormat& format, int in_features) {
  return in_features % format.group_size == 0;
}

void check_fits(const QuantFormat& format, const std::string& layer, int in_features) {
  if (fits(format, in_features)) {
    return;
  }
  std::vector<int> fitting;
  for (const int size : find_quant_mode(format.mode).group_sizes) {
    if (in_features % size == 0) {
      fitting.push_back(size);
    }
  }
  throw ModelError("layer " + layer + ": its rows of " + std::to_string(in_features) +
                   " weights are not whole groups of " + std::to_string(format.group_size) + "; " +
                   (fitting.empty() ? "mode " + format.mode +
                                          " has no group size that fits: leave the layer as it is "
                                          "(--keep " +
                                          layer + ")"
                                    : "group sizes that fit: " + join(fitting)));
}

double bits_per_weight(const QuantFormat& format, int scale_bits) {
  const int extra = find_quant_mode(format.mode).has_biases ? 2 * scale_bits : 8;
  return format.bits + static_cast<double>(extra) / format.group_size;
}

} // namespace temper
