#include <filesystem>

#include "cli/bench.h"
#include "temper/base/error.h"
#include "temper/models/registry.h"
#include "temper/models/tensors.h"
#include "temper/nn/random.h"

namespace temper::cli {
namespace {

std::filesystem::path shape_file(const std::string& shape) {
  if (std::filesystem::is_regular_file(shape)) {
    return shape;
  }
  auto named = std::filesystem::path("bench/shapes") / (shape + ".json");
  if (!std::filesystem::exists(named)) {
    throw ConfigError("--shape " + shape + ": neither a config.json nor a name in bench/shapes");
  }
  return named;
}

} // namespace

Model random_model(const std::string& shape, const std::string& dtype) {
  Model model;
  const auto file = shape_file(shape);
  model.config = read_json(file);
  model.spec = read_spec(model.config, file.string());
  model.dtype = dtype == "auto" && mx::default_device() == mx::Device::gpu ? mx::bfloat16
                                                                           : resolve_dtype(dtype, model.config);
  for (const auto& [name, dims] : expected_tensors(model.spec)) {
    const auto random = mx::random::normal(dims, mx::float32, 0.0F, 0.02F, named_key(0, name));
    auto array = mx::astype(dims.size() > 1 ? random : mx::ones(dims), model.dtype);
    mx::eval(array);
    model.params.emplace(name, array);
  }
  return model;
}

} // namespace temper::cli
