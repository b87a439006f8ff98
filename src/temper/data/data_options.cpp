#include "temper/data/data_options.h"

#include <cstdlib>

namespace temper {

std::filesystem::path resolve_cache_dir(const RunConfig& config) {
  if (!config.cache_dir.empty()) {
    return config.cache_dir;
  }
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache != '\0') {
    return std::filesystem::path(cache) / "temper";
  }
  if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0') {
    return std::filesystem::path(home) / ".cache" / "temper";
  }
  return {};
}

DataOptions data_options(const RunConfig& config) {
  row_format_from(config.data_format); // refuses an unknown name before any file is opened
  const bool mlx_lm = config.compat == "mlx-lm";
  DataOptions options;
  options.format.data_format = config.data_format;
  options.format.prompt_feature = config.prompt_feature;
  options.format.completion_feature = config.completion_feature;
  options.format.text_feature = config.text_feature;
  options.format.chat_feature = config.chat_feature;
  options.format.prompt_template = config.prompt_template;
  options.format.completion_template = config.completion_template;
  options.format.system_prompt = config.system_prompt;
  options.format.compat_mlx_lm = mlx_lm;
  options.encode.max_seq_length = config.max_seq_length;
  options.encode.mask_prompt = config.mask_prompt;
  options.encode.last_turn_only = config.supervise == "last-turn";
  options.encode.compat_mlx_lm = mlx_lm;
  options.skip_bad_rows = config.on_bad_row == "skip";
  options.max_bad_rows = config.max_bad_rows;
  options.cache_dir = resolve_cache_dir(config);
  return options;
}

} // namespace temper
