#include "temper/nn/graph_profile.h"

#include <utility>

#include <mlx/fast_primitives.h>
#include <mlx/primitives.h>

#include "temper/base/clock.h"
#include "temper/nn/graph_memory.h"

namespace temper {
namespace {

std::string described(const std::vector<mx::array>& arrays) {
  std::string text;
  for (const auto& array : arrays) {
    text += (text.empty() ? "" : ", ") + dtype_name(array.dtype()) + shape_text(array.shape());
  }
  return text;
}

std::string name_of(const mx::array& array) {
  const auto& primitive = array.primitive();
  if (primitive.name() == std::string("CustomKernel")) {
    // By the name that it has: MLX does not export the type that a dynamic cast would ask for.
    return std::get<0>(static_cast<const mx::fast::CustomKernel&>(primitive).state());
  }
  return primitive.name();
}

} // namespace

std::vector<ProfiledOperation> profile_graph(const std::vector<mx::array>& outputs, double origin_s) {
  std::vector<ProfiledOperation> found;
  mx::synchronize();
  auto tape = evaluation_tape(outputs);
  found.reserve(tape.size());
  const Stopwatch watch;
  while (!tape.empty()) {
    auto array = std::move(tape.back());
    tape.pop_back(); // so that an operand that dies here may be written over, as it would be
    ProfiledOperation operation;
    operation.name = name_of(array);
    operation.inputs = described(array.inputs());
    operation.outputs = described(array.outputs());
    const auto before = static_cast<std::int64_t>(mx::get_active_memory());
    operation.start_s = watch.seconds();
    mx::eval(array);
    mx::synchronize();
    operation.seconds = watch.seconds() - operation.start_s;
    operation.start_s += origin_s;
    operation.active_bytes = static_cast<std::int64_t>(mx::get_active_memory());
    operation.allocated_bytes = operation.active_bytes - before;
    found.push_back(std::move(operation));
  }
  return found;
}

} // namespace temper
