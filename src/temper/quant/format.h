// How a matrix is packed into few bits, and the modes there are.
// Sources: MLX's documentation of mlx.core.quantize (affine); the OCP Microscaling Formats (MX) specification
// 1.0, 2023 (mxfp4, mxfp8); NVIDIA's description of NVFP4.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace temper {

// A row is cut into groups of `group_size` weights, which share a scale (and, in mode affine, a bias).
struct QuantFormat {
  std::string mode = "affine";
  int bits = 4;
  int group_size = 64;

  bool operator==(const QuantFormat&) const = default;
};

// "affine, 4 bits in groups of 64".
std::string describe(const QuantFormat& format);

// One of MLX's modes.
struct QuantMode {
  std::string name;
  std::vector<int> bits;        // those it has, the usual one first
  std::vector<int> group_sizes; // likewise
  bool has_biases = false;      // weight = scale q + bias, in the weights' dtype; else the scales are uint8
};

// All modes, in the order that help shows them.
const std::vector<QuantMode>& quant_modes();

std::vector<std::string> quant_mode_names();

// Throws ConfigError naming the modes there are.
const QuantMode& find_quant_mode(const std::string& name);

// `mode` with its usual bits and group size for those not given. Throws ConfigError, with the choices, if the
// mode has no such bits or group size.
QuantFormat make_quant_format(const std::string& mode, std::optional<int> bits = std::nullopt,
                              std::optional<int> group_size = std::nullopt);

// Whether rows of `in_features` weights are whole groups.
bool fits(const QuantFormat& format, int in_features);

// Throws ModelError naming `layer`, with the group sizes that would do, unless it fits.
void check_fits(const QuantFormat& format, const std::string& layer, int in_features);

// Bits a weight, the scales (and biases, of `scale_bits` each in mode affine) included.
double bits_per_weight(const QuantFormat& format, int scale_bits = 16);

} // namespace temper
