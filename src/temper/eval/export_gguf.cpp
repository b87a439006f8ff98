#include "temper/eval/export_gguf.h"

#include <algorithm>

#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/base/text.h"
#include "temper/eval/gguf_tensors.h"
#include "temper/eval/modelfile.h"
#include "temper/text/tokenizer.h"
#include "temper/text/vocabulary.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

void check_options(const GgufExportOptions& options) {
  if (options.adapter_only && options.adapter.empty()) {
    throw ConfigError("--adapter-only: name the adapter with --adapter");
  }
  if (options.adapter_only && options.modelfile) {
    throw ConfigError("--modelfile is for a whole model: leave out --adapter-only");
  }
  const auto& recipe = find_gguf_recipe(options.type);
  if (options.adapter_only && traits_of(recipe.base).block_values > 1) {
    throw ConfigError("--adapter-only: an adapter is written as f32, f16 or bf16, not " + options.type);
  }
  if (fs::is_directory(options.out)) {
    throw ConfigError(options.out.string() + " is a folder: name a file, as " +
                      (options.out / "model.gguf").string());
  }
  for (const auto& file : {options.out, options.modelfile ? modelfile_path(options.out) : fs::path()}) {
    if (!file.empty() && fs::exists(file) && !options.force) {
      throw ConfigError(file.string() + " is there already: name another file, or write over it with --force");
    }
  }
}

void add_ids(const Vocabulary& vocabulary, GgufMetadata& metadata) {
  const std::pair<const char*, const std::optional<std::int32_t>*> ids[] = {
      {"bos", &vocabulary.bos}, {"eos", &vocabulary.eos},     {"eot", &vocabulary.eot},
      {"eom", &vocabulary.eom}, {"unknown", &vocabulary.unk}, {"padding", &vocabulary.pad}};
  for (const auto& [name, id] : ids) {
    if (*id) {
      metadata.emplace_back("tokenizer.ggml." + std::string(name) + "_token_id",
                            static_cast<std::uint32_t>(**id));
    }
  }
  metadata.emplace_back("tokenizer.ggml.add_bos_token", vocabulary.add_bos);
  metadata.emplace_back("tokenizer.ggml.add_eos_token", vocabulary.add_eos);
}

void add_templates(const Vocabulary& vocabulary, GgufMetadata& metadata) {
  std::vector<std::string> others;
  for (const auto& [name, source] : vocabulary.templates) {
    if (name == "default") {
      metadata.emplace_back("tokenizer.chat_template", source);
    } else {
      metadata.emplace_back("tokenizer.chat_template." + name, source);
      others.push_back(name);
    }
  }
  if (!others.empty()) {
    metadata.emplace_back("tokenizer.chat_templates", GgufArray(others));
  }
}

void add_vocabulary(const Vocabulary& vocabulary, GgufMetadata& metadata) {
  metadata.emplace_back("tokenizer.ggml.model", vocabulary.model);
  metadata.emplace_back("tokenizer.ggml.pre", vocabulary.pre);
  metadata.emplace_back("tokenizer.ggml.tokens", GgufArray(vocabulary.tokens));
  std::vector<std::int32_t> types;
  types.reserve(vocabulary.types.size());
  for (const auto type : vocabulary.types) {
    types.push_back(static_cast<std::int32_t>(type));
  }
  metadata.emplace_back("tokenizer.ggml.token_type", GgufArray(types));
  if (vocabulary.model == "gpt2") {
    metadata.emplace_back("tokenizer.ggml.merges", GgufArray(vocabulary.merges));
  } else {
    metadata.emplace_back("tokenizer.ggml.scores", GgufArray(vocabulary.scores));
  }
  add_ids(vocabulary, metadata);
  if (vocabulary.add_space_prefix) {
    metadata.emplace_back("tokenizer.ggml.add_space_prefix", *vocabulary.add_space_prefix);
  }
  if (vocabulary.remove_extra_whitespaces) {
    metadata.emplace_back("tokenizer.ggml.remove_extra_whitespaces", *vocabulary.remove_extra_whitespaces);
  }
  if (!vocabulary.charsmap.empty()) {
    metadata.emplace_back("tokenizer.ggml.precompiled_charsmap", GgufArray(vocabulary.charsmap));
  }
  add_templates(vocabulary, metadata);
  metadata.emplace_back("tokenizer.huggingface.json", vocabulary.tokenizer_json);
}

// llama.cpp lets spaces after special tokens vanish in models that are called Phi-3, which then must have some
// tokens: the name says no more and no less than the tokenizer does.
std::string general_name(std::string name, const Vocabulary& vocabulary) {
  const auto has = [&](const char* token) {
    return std::find(vocabulary.tokens.begin(), vocabulary.tokens.end(), token) != vocabulary.tokens.end();
  };
  const bool strips =
      vocabulary.strips_after_specials && has("</s>") && has("<unk>") && has("<s>") && has("<|endoftext|>");
  for (const std::string called : {"phi-3", "phi3"}) {
    const auto at = lower(name).find(called);
    if (at != std::string::npos) {
      return strips ? name : name.replace(at, called.size(), "phi 3");
    }
  }
  return strips ? name + " (Phi-3)" : name;
}

GgufMetadata general_metadata(const GgufExportOptions& options, const GgufArch& arch, const char* type,
                              const std::string& name) {
  const auto& recipe = find_gguf_recipe(options.type);
  GgufMetadata metadata;
  metadata.emplace_back("general.architecture", std::string(arch.name));
  metadata.emplace_back("general.type", std::string(type));
  metadata.emplace_back("general.name", name);
  metadata.emplace_back("general.file_type", recipe.file_type);
  metadata.emplace_back("general.quantization_version", std::uint32_t{2});
  return metadata;
}

// Every piece with the type that the recipe gives it.
std::vector<GgufOutput> typed(const GgufExportOptions& options, const DecoderSpec& spec,
                              std::vector<GgufPiece> pieces, GgufExportReport& report) {
  std::vector<std::string> names;
  std::vector<std::vector<std::int64_t>> dims;
  for (const auto& piece : pieces) {
    names.push_back(piece.name);
    dims.push_back(ggml_dims(piece.array));
  }
  const auto choices = options.adapter_only
                           ? std::vector<GgufTypeChoice>(names.size(), {find_gguf_recipe(options.type).base})
                           : choose_types(find_gguf_recipe(options.type), spec, names, dims);
  std::vector<GgufOutput> outputs;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    ++report.types[traits_of(choices[i].type).name];
    if (choices[i].fell_back) {
      report.fell_back.push_back(names[i]);
    }
    outputs.push_back(gguf_output(std::move(pieces[i]), choices[i].type, options.progress));
  }
  report.tensors = static_cast<int>(outputs.size());
  return outputs;
}

GgufExportReport export_adapter(const GgufExportOptions& options) {
  const auto spec = load_spec(options.model);
  const auto& arch = find_gguf_arch(spec, options.model.string());
  GgufExportReport report;
  report.arch = arch.name;
  auto [pieces, alpha] =
      adapter_pieces(spec, arch, load_adapter(options.adapter, spec), options.adapter.string());
  auto metadata = general_metadata(options, arch, "adapter", options.name);
  metadata.emplace_back("adapter.type", std::string("lora"));
  metadata.emplace_back("adapter.lora.alpha", alpha);
  write_gguf(options.out, metadata, typed(options, spec, std::move(pieces), report));
  return report;
}

GgufExportReport export_model(const GgufExportOptions& options) {
  const auto origin = options.model.string();
  auto base = open_model(options.model);
  const auto spec = base.spec;
  const auto& arch = find_gguf_arch(spec, origin);
  const auto tokenizer = Tokenizer::load(options.model);
  const auto vocabulary = read_vocabulary(*tokenizer, spec.vocab_size, options.pre, origin);
  std::optional<Adapter> adapter;
  if (!options.adapter.empty()) {
    adapter = load_adapter(options.adapter, spec);
  }
  GgufExportReport report;
  report.arch = arch.name;
  report.notes = gguf_notes(spec, arch);
  report.notes.insert(report.notes.end(), vocabulary.notes.begin(), vocabulary.notes.end());
  auto metadata = general_metadata(options, arch, "model", general_name(options.name, vocabulary));
  for (auto& entry : gguf_hparams(spec, arch)) {
    metadata.push_back(std::move(entry));
  }
  add_vocabulary(vocabulary, metadata);
  const auto modelfile =
      options.modelfile ? make_modelfile(*tokenizer, options.out.filename().string(), report.notes) : "";
  auto pieces = model_pieces(base, arch, adapter ? &*adapter : nullptr);
  write_gguf(options.out, metadata, typed(options, spec, std::move(pieces), report));
  if (options.modelfile) {
    report.modelfile = modelfile_path(options.out);
    write_file_atomic(report.modelfile, modelfile);
  }
  return report;
}

} // namespace

GgufExportReport export_gguf(const GgufExportOptions& options) {
  check_options(options);
  auto report = options.adapter_only ? export_adapter(options) : export_model(options);
  report.bytes = fs::file_size(options.out);
  return report;
}

} // namespace temper
