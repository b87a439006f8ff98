#include "temper/infer/prompt_cache.h"

#include <map>

#include "temper/base/error.h"
#include "temper/base/json.h"
#include "temper/io/safetensors.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFormat = "temper-prompt-cache";
constexpr const char* kVersion = "1";

std::string layer_name(int layer) {
  return "layers." + std::to_string(layer) + ".";
}

std::string value_of(const std::map<std::string, std::string>& metadata, const std::string& key) {
  const auto found = metadata.find(key);
  return found != metadata.end() ? found->second : std::string();
}

void check_origin(const fs::path& path, const std::map<std::string, std::string>& metadata,
                  const CacheOrigin& origin) {
  const auto fail = [&](const std::string& what) {
    throw ModelError(path.string() + ": " + what + "; remove it, or name another file");
  };
  if (value_of(metadata, "format") != kFormat) {
    throw ModelError(path.string() + ": not a prompt cache of temper; name another file");
  }
  if (value_of(metadata, "version") != kVersion) {
    fail("a prompt cache of version " + value_of(metadata, "version") + ", which this program does not know");
  }
  if (value_of(metadata, "model") != origin.model) {
    fail("the prompt cache of another model");
  }
  if (value_of(metadata, "adapter") != origin.adapter) {
    fail(origin.adapter.empty() ? "a prompt cache made with an adapter"
                                : "a prompt cache made without this adapter");
  }
  if (value_of(metadata, "dtype") != origin.dtype) {
    fail("a prompt cache made in " + value_of(metadata, "dtype") + ", where the model now computes in " +
         origin.dtype);
  }
}

const mx::array& tensor(const fs::path& path, const Params& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) {
    throw ModelError(path.string() + ": tensor " + name + " is missing; remove the file, it is damaged");
  }
  return found->second;
}

KvCache::LayerContent read_layer(const fs::path& path, const Params& tensors, const DecoderSpec& spec,
                                 int layer, int columns) {
  const auto name = layer_name(layer);
  KvCache::LayerContent content;
  for (int slot = 0; tensors.contains(name + "state." + std::to_string(slot)); ++slot) {
    content.state.push_back(tensors.at(name + "state." + std::to_string(slot)));
  }
  const auto& own = spec.layers.at(static_cast<std::size_t>(layer));
  if (own.mixer != Mixer::attention) {
    return content;
  }
  const auto& keys = tensor(path, tensors, name + "keys");
  const auto& values = tensor(path, tensors, name + "values");
  const int first = keys.ndim() == 4 ? columns - keys.shape(2) : -1;
  const int oldest = oldest_seen(own.window, columns);
  if (first < 0 || first > oldest || keys.shape(0) != 1 || keys.shape(1) != spec.num_kv_heads ||
      keys.shape(3) != spec.head_dim || values.shape() != keys.shape()) {
    throw ModelError(path.string() + ": " + name + "keys has shape " + shape_text(keys.shape()) +
                     ", which does not fit the model and " + std::to_string(columns) +
                     " tokens; remove the file, it is damaged");
  }
  content.keys = StoredKeys{keys, values, first};
  return content;
}

} // namespace

void save_prompt_cache(const fs::path& path, const CacheOrigin& origin, const PromptCache& prompt,
                       const DecoderSpec& spec) {
  Params tensors;
  const auto count = static_cast<int>(prompt.tokens.size());
  tensors.emplace("tokens", mx::array(prompt.tokens.data(), {count}, mx::int32));
  for (int layer = 0; layer < spec.num_layers; ++layer) {
    const auto content = prompt.cache.content(layer);
    const auto name = layer_name(layer);
    if (content.keys) {
      tensors.emplace(name + "keys", content.keys->keys);
      tensors.emplace(name + "values", content.keys->values);
    }
    for (std::size_t slot = 0; slot < content.state.size(); ++slot) {
      tensors.emplace(name + "state." + std::to_string(slot), content.state[slot]);
    }
  }
  save_safetensors(path, tensors,
                   {{"format", kFormat},
                    {"version", kVersion},
                    {"model", origin.model},
                    {"adapter", origin.adapter},
                    {"dtype", origin.dtype}});
}

PromptCache load_prompt_cache(const fs::path& path, const CacheOrigin& origin, const DecoderSpec& spec) {
  check_origin(path, read_safetensors_header(path).metadata, origin);
  auto tensors = load_safetensors(path);
  auto tokens = tensor(path, tensors, "tokens");
  mx::eval(values(tensors));
  if (tokens.dtype() != mx::int32 || tokens.ndim() != 1 || tokens.size() == 0) {
    throw ModelError(path.string() + ": its tokens are not a list; remove the file, it is damaged");
  }
  PromptCache prompt{{tokens.data<std::int32_t>(), tokens.data<std::int32_t>() + tokens.size()}, KvCache(spec)};
  const auto columns = static_cast<int>(tokens.size());
  std::vector<KvCache::LayerContent> layers;
  layers.reserve(static_cast<std::size_t>(spec.num_layers));
  for (int layer = 0; layer < spec.num_layers; ++layer) {
    layers.push_back(read_layer(path, tensors, spec, layer, columns));
  }
  prompt.cache.restore(layers, columns);
  return prompt;
}

} // namespace temper
