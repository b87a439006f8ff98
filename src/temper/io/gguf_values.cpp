// What the header of a GGUF file answers: types of tensors, and metadata by key.
#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include "temper/base/error.h"
#include "temper/io/gguf.h"

namespace temper {
namespace {

// Source: ggml/src/ggml-common.h (MIT), the sizes of its blocks.
constexpr std::array kTypes = {
    GgufTypeTraits{GgufType::f32, "F32", 1, 4},
    GgufTypeTraits{GgufType::f16, "F16", 1, 2},
    GgufTypeTraits{GgufType::q4_0, "Q4_0", 32, 18},
    GgufTypeTraits{GgufType::q4_1, "Q4_1", 32, 20},
    GgufTypeTraits{GgufType::q5_0, "Q5_0", 32, 22},
    GgufTypeTraits{GgufType::q5_1, "Q5_1", 32, 24},
    GgufTypeTraits{GgufType::q8_0, "Q8_0", 32, 34},
    GgufTypeTraits{GgufType::q8_1, "Q8_1", 32, 36},
    GgufTypeTraits{GgufType::q2_k, "Q2_K", 256, 84},
    GgufTypeTraits{GgufType::q3_k, "Q3_K", 256, 110},
    GgufTypeTraits{GgufType::q4_k, "Q4_K", 256, 144},
    GgufTypeTraits{GgufType::q5_k, "Q5_K", 256, 176},
    GgufTypeTraits{GgufType::q6_k, "Q6_K", 256, 210},
    GgufTypeTraits{GgufType::q8_k, "Q8_K", 256, 292},
    GgufTypeTraits{GgufType::iq2_xxs, "IQ2_XXS", 256, 66},
    GgufTypeTraits{GgufType::iq2_xs, "IQ2_XS", 256, 74},
    GgufTypeTraits{GgufType::iq3_xxs, "IQ3_XXS", 256, 98},
    GgufTypeTraits{GgufType::iq1_s, "IQ1_S", 256, 50},
    GgufTypeTraits{GgufType::iq4_nl, "IQ4_NL", 32, 18},
    GgufTypeTraits{GgufType::iq3_s, "IQ3_S", 256, 110},
    GgufTypeTraits{GgufType::iq2_s, "IQ2_S", 256, 82},
    GgufTypeTraits{GgufType::iq4_xs, "IQ4_XS", 256, 136},
    GgufTypeTraits{GgufType::i8, "I8", 1, 1},
    GgufTypeTraits{GgufType::i16, "I16", 1, 2},
    GgufTypeTraits{GgufType::i32, "I32", 1, 4},
    GgufTypeTraits{GgufType::i64, "I64", 1, 8},
    GgufTypeTraits{GgufType::f64, "F64", 1, 8},
    GgufTypeTraits{GgufType::iq1_m, "IQ1_M", 256, 56},
    GgufTypeTraits{GgufType::bf16, "BF16", 1, 2},
    GgufTypeTraits{GgufType::tq1_0, "TQ1_0", 256, 54},
    GgufTypeTraits{GgufType::tq2_0, "TQ2_0", 256, 66},
    GgufTypeTraits{GgufType::mxfp4, "MXFP4", 32, 17},
    GgufTypeTraits{GgufType::nvfp4, "NVFP4", 64, 36},
    GgufTypeTraits{GgufType::q1_0, "Q1_0", 128, 18},
};

[[noreturn]] void fail(const GgufHeader& header, std::string_view key, const char* wanted) {
  throw ModelError(header.path.string() + ": metadata key " + std::string(key) + " is not " + wanted);
}

// The value as T if it is of a kind that converts without loss of meaning.
template <typename T, typename Value>
std::optional<T> convert(const Value& value) {
  constexpr bool kNumber = std::is_arithmetic_v<Value> && !std::is_same_v<Value, bool>;
  if constexpr (kNumber && std::is_integral_v<T> && std::is_integral_v<Value>) {
    return std::in_range<T>(value) ? std::optional<T>(static_cast<T>(value)) : std::nullopt;
  } else if constexpr (kNumber && std::is_floating_point_v<T>) {
    return static_cast<T>(value);
  } else {
    return std::nullopt;
  }
}

template <typename T>
std::optional<T> scalar_of(const GgufHeader& header, std::string_view key, const char* wanted) {
  const auto* value = header.find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  const auto result = std::visit([](const auto& v) { return convert<T>(v); }, *value);
  if (!result) {
    fail(header, key, wanted);
  }
  return result;
}

template <typename T>
std::optional<std::vector<T>> list_of(const GgufHeader& header, std::string_view key, const char* wanted) {
  const auto* value = header.find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  const auto* array = std::get_if<GgufArray>(value);
  if (array == nullptr) {
    fail(header, key, wanted);
  }
  std::vector<T> result;
  const auto append = [&](const auto& items) {
    if constexpr (!std::is_same_v<std::decay_t<decltype(items)>, std::monostate>) {
      for (const auto& item : items) {
        const auto one = convert<T>(static_cast<typename std::decay_t<decltype(items)>::value_type>(item));
        if (!one) {
          fail(header, key, wanted);
        }
        result.push_back(*one);
      }
    }
  };
  std::visit(append, *array);
  return result;
}

} // namespace

const GgufTypeTraits* find_gguf_type(std::uint32_t id) {
  const auto* found = std::find_if(kTypes.begin(), kTypes.end(), [id](const GgufTypeTraits& traits) {
    return static_cast<std::uint32_t>(traits.type) == id;
  });
  return found == kTypes.end() ? nullptr : found;
}

const GgufTypeTraits& traits_of(GgufType type) {
  const auto* traits = find_gguf_type(static_cast<std::uint32_t>(type));
  if (traits == nullptr) {
    throw ModelError("ggml has no type " + std::to_string(static_cast<std::uint32_t>(type)));
  }
  return *traits;
}

std::int64_t GgufTensor::elements() const {
  std::int64_t count = 1;
  for (const auto dim : dims) {
    count *= dim;
  }
  return count;
}

const GgufValue* GgufHeader::find(std::string_view key) const {
  const auto found =
      std::find_if(metadata.begin(), metadata.end(), [key](const auto& entry) { return entry.first == key; });
  return found == metadata.end() ? nullptr : &found->second;
}

const GgufTensor* GgufHeader::find_tensor(std::string_view name) const {
  const auto found = std::find_if(tensors.begin(), tensors.end(),
                                  [name](const GgufTensor& tensor) { return tensor.name == name; });
  return found == tensors.end() ? nullptr : &*found;
}

std::optional<std::int64_t> GgufHeader::integer(std::string_view key) const {
  return scalar_of<std::int64_t>(*this, key, "an integer");
}

std::optional<double> GgufHeader::number(std::string_view key) const {
  return scalar_of<double>(*this, key, "a number");
}

std::optional<bool> GgufHeader::boolean(std::string_view key) const {
  const auto* value = find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  const auto* flag = std::get_if<bool>(value);
  if (flag == nullptr) {
    fail(*this, key, "a boolean");
  }
  return *flag;
}

const std::string* GgufHeader::text(std::string_view key) const {
  const auto* value = find(key);
  const auto* text = value == nullptr ? nullptr : std::get_if<std::string>(value);
  if (value != nullptr && text == nullptr) {
    fail(*this, key, "a string");
  }
  return text;
}

const std::vector<std::string>* GgufHeader::texts(std::string_view key) const {
  const auto* value = find(key);
  const auto* array = value == nullptr ? nullptr : std::get_if<GgufArray>(value);
  const auto* texts = array == nullptr ? nullptr : std::get_if<std::vector<std::string>>(array);
  if (value != nullptr && texts == nullptr) {
    fail(*this, key, "an array of strings");
  }
  return texts;
}

std::optional<std::vector<std::int64_t>> GgufHeader::integers(std::string_view key) const {
  return list_of<std::int64_t>(*this, key, "an array of integers");
}

std::optional<std::vector<double>> GgufHeader::numbers(std::string_view key) const {
  return list_of<double>(*this, key, "an array of numbers");
}

} // namespace temper
