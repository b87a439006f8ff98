#include "temper/nn/graph_memory.h"

#include <algorithm>
#include <cstdlib>
#include <stack>
#include <string_view>
#include <unordered_map>
#include <utility>

#include <mlx/primitives.h>

namespace temper {
namespace {

using Id = std::uintptr_t;

std::size_t tape_width() {
  const char* text = std::getenv("MLX_BFS_MAX_WIDTH");
  const long width = text != nullptr ? std::strtol(text, nullptr, 10) : 0;
  return width > 0 ? static_cast<std::size_t>(width) : 20;
}

bool is_pending(const mx::array& array) {
  return array.status() == mx::array::Status::unscheduled && array.has_primitive();
}

// How often each array that `outputs` need is read, siblings together; `outputs` are read once each.
std::unordered_map<Id, int> degrees(const std::vector<mx::array>& outputs) {
  std::unordered_map<Id, int> degree;
  std::stack<std::pair<mx::array, std::size_t>> open;
  const auto visit = [&](const mx::array& in) {
    const bool is_new = !degree.contains(in.id());
    ++degree[in.id()];
    for (const auto& sibling : in.siblings()) {
      ++degree[sibling.id()];
    }
    if (is_new) {
      open.emplace(in, 0);
    }
  };
  for (const auto& output : outputs) {
    visit(output);
    while (!open.empty()) {
      auto& [array, next] = open.top();
      if (!is_pending(array) || next == array.inputs().size()) {
        open.pop();
        continue;
      }
      const auto in = array.inputs()[next++];
      visit(in);
    }
  }
  return degree;
}

// ---- What lives when

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Results that lie in an operand's memory whatever its layout.
bool is_view(std::string_view name) {
  return is_one_of(name, {"Transpose", "Slice", "Split", "ExpandDims", "Squeeze", "Broadcast", "BroadcastAxes",
                          "AsStrided", "StopGradient", "Copy", "View"});
}

// Results that do where the operand lies row after row.
bool is_reshape(std::string_view name) {
  return is_one_of(name, {"Reshape", "Flatten", "Unflatten", "Contiguous"});
}

// Operations that write over an operand of the result's size that nobody reads after them.
bool reuses_operand(std::string_view name) {
  return name.starts_with("Compiled") ||
         is_one_of(name,
                   {"Abs",          "Add",        "AsType",      "Ceil",       "Cos",       "Divide",
                    "Erf",          "Exp",        "Expm1",       "Floor",      "Log",       "Log1p",
                    "Log2",         "LogAddExp",  "Log10",       "Maximum",    "Minimum",   "Multiply",
                    "Negative",     "Power",      "Remainder",   "Round",      "Select",    "Sigmoid",
                    "Sign",         "Sin",        "SliceUpdate", "Softmax",    "Sqrt",      "Rsqrt",
                    "Square",       "Subtract",   "Tanh",        "RMSNorm",    "LayerNorm", "Scatter",
                    "ScatterAxis",  "LogicalAnd", "LogicalOr",   "LogicalNot", "Equal",     "BitwiseBinary",
                    "BitwiseInvert"});
}

class Simulation {
 public:
  Simulation(const std::vector<mx::array>& outputs, const std::vector<mx::array>& released)
      : tape_(evaluation_tape(outputs)) {
    for (const auto& array : tape_) {
      for (const auto& in : array.inputs()) {
        ++readers_[in.id()];
      }
    }
    for (const auto& output : outputs) {
      ++readers_[output.id()]; // who asked for it, to the end
    }
    for (const auto& array : released) {
      if (!is_pending(array)) {
        // Counted in what is in use now; that much less once it is let go.
        hold(array.id(), new_buffer(static_cast<std::int64_t>(array.nbytes())), true);
      }
    }
  }

  GraphMemory run() {
    while (!tape_.empty()) {
      const auto array = tape_.back();
      tape_.pop_back();
      evaluate(array);
    }
    result_.left = live_;
    return result_;
  }

 private:
  struct Buffer {
    std::int64_t bytes = 0;
    int arrays = 0; // that lie in it and are still to be read
  };
  struct Place {
    std::size_t buffer = 0;
    bool in_rows = true; // lies row after row
  };

  std::size_t new_buffer(std::int64_t bytes) {
    buffers_.push_back({bytes, 0});
    return buffers_.size() - 1;
  }

  void hold(Id id, std::size_t buffer, bool in_rows) {
    places_[id] = {buffer, in_rows};
    ++buffers_[buffer].arrays;
  }

  void let_go(Id id) {
    const auto it = places_.find(id);
    if (it == places_.end()) {
      return;
    }
    auto& buffer = buffers_[it->second.buffer];
    if (--buffer.arrays == 0) {
      live_ -= buffer.bytes;
    }
    places_.erase(it);
  }

  // Where the operand's memory serves the result too; none otherwise. Arrays that were in memory before and
  // are not released have no place: they cost nothing and cannot be taken over.
  const Place* view_of(const mx::array& array, std::string_view name, bool& is_free) const {
    is_free = false;
    if (array.inputs().empty() || !(is_view(name) || is_reshape(name))) {
      return nullptr;
    }
    const auto it = places_.find(array.inputs()[0].id());
    if (it == places_.end()) {
      is_free = true;
      return nullptr;
    }
    const bool shares = is_view(name) || it->second.in_rows || array.size() <= 1;
    return shares ? &it->second : nullptr;
  }

  const mx::array* taken_over(const mx::array& array, std::string_view name) const {
    if (!reuses_operand(name)) {
      return nullptr;
    }
    for (const auto& in : array.inputs()) {
      const auto it = places_.find(in.id());
      if (it != places_.end() && in.nbytes() == array.nbytes() && in.itemsize() == array.itemsize() &&
          readers_.at(in.id()) == 1 && buffers_[it->second.buffer].arrays == 1 &&
          buffers_[it->second.buffer].bytes == static_cast<std::int64_t>(array.nbytes())) {
        return &in;
      }
    }
    return nullptr;
  }

  static bool keeps_rows(const mx::array& array, std::string_view name) {
    if (name == "Transpose") {
      return false;
    }
    if (is_one_of(name, {"Slice", "Split", "AsStrided", "Broadcast", "BroadcastAxes"})) {
      // Whole rows of a matrix, or anything of a vector, still lie one after the other.
      const auto& in = array.inputs()[0];
      return name != "AsStrided" && array.ndim() > 0 && in.ndim() == array.ndim() &&
             std::equal(array.shape().begin() + 1, array.shape().end(), in.shape().begin() + 1) &&
             !name.starts_with("Broadcast");
    }
    return true;
  }

  void evaluate(const mx::array& array) {
    const std::string_view name = array.primitive().name();
    const auto outputs = array.outputs();
    std::int64_t allocated = 0;
    // These hand operands on as they are: the first ones, or the last.
    const bool hands_on = is_one_of(name, {"Depends", "CustomTransforms"});
    const auto first = name == "Depends" ? 0 : array.inputs().size() - outputs.size();
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      allocated += place(outputs[i], hands_on ? array.inputs().at(first + i) : array, name, hands_on);
    }
    live_ += allocated;
    result_.peak = std::max(result_.peak, live_);
    result_.largest = std::max(result_.largest, allocated);
    for (const auto& in : array.inputs()) {
      if (--readers_.at(in.id()) == 0) {
        let_go(in.id());
      }
    }
    for (const auto& output : outputs) {
      if (readers_[output.id()] == 0) { // nobody wants it
        let_go(output.id());
      }
    }
  }

  // Gives `output` of the operation of `from` its place; the bytes that were allocated.
  std::int64_t place(const mx::array& output, const mx::array& from, std::string_view name, bool hands_on) {
    if (hands_on) {
      const auto it = places_.find(from.id());
      if (it != places_.end()) {
        const auto place = it->second;
        hold(output.id(), place.buffer, place.in_rows);
      }
      return 0;
    }
    bool is_free = false;
    if (const auto* base = view_of(from, name, is_free); base != nullptr) {
      const auto place = *base;
      hold(output.id(), place.buffer, place.in_rows && keeps_rows(from, name));
      return 0;
    }
    if (is_free) {
      return 0;
    }
    if (const auto* operand = taken_over(from, name); operand != nullptr && from.siblings().empty()) {
      const auto place = places_.at(operand->id());
      hold(output.id(), place.buffer, true);
      return 0;
    }
    const auto bytes = static_cast<std::int64_t>(output.nbytes());
    hold(output.id(), new_buffer(bytes), true);
    return bytes;
  }

  std::deque<mx::array> tape_;
  std::unordered_map<Id, int> readers_;
  std::unordered_map<Id, Place> places_;
  std::vector<Buffer> buffers_;
  std::int64_t live_ = 0;
  GraphMemory result_;
};

} // namespace

std::deque<mx::array> evaluation_tape(const std::vector<mx::array>& outputs) {
  auto degree = degrees(outputs);
  const auto width = tape_width();
  std::deque<mx::array> tape;
  std::stack<std::pair<std::vector<mx::array>, std::size_t>> open; // operands, and the first not yet looked at
  std::size_t at = 0;
  // Operands of one operation, from the `next`-th on; what does not fit the width waits on the stack.
  const auto add = [&](const std::vector<mx::array>& operands, std::size_t next) {
    for (; next < operands.size(); ++next) {
      const auto& in = operands[next];
      if (!is_pending(in)) {
        continue;
      }
      if (tape.size() + 1 - at >= width) {
        open.emplace(operands, next);
        return;
      }
      const auto it = degree.find(in.id());
      if (it == degree.end()) {
        continue;
      }
      --it->second;
      const bool is_last = it->second == 0;
      for (const auto& sibling : in.siblings()) {
        is_last ? static_cast<void>(degree.erase(sibling.id())) : static_cast<void>(--degree[sibling.id()]);
      }
      if (is_last) {
        degree.erase(it);
        tape.push_back(in);
      }
    }
  };
  // MLX's tape begins with an array of its own that reads `outputs`; here it is place 0.
  at = 1;
  add(outputs, 0);
  while (at - 1 < tape.size() || !open.empty()) {
    if (at - 1 < tape.size()) {
      const auto operands = tape[at - 1].inputs();
      ++at;
      add(operands, 0);
    } else {
      auto [operands, next] = std::move(open.top());
      open.pop();
      add(operands, next);
    }
  }
  return tape;
}

GraphMemory graph_memory(const std::vector<mx::array>& outputs, const std::vector<mx::array>& released) {
  return Simulation(outputs, released).run();
}

} // namespace temper
