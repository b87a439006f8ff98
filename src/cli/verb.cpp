#include "cli/verb.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <new>

#include <fmt/format.h>

#include "temper/base/error.h"
#include "temper/base/log.h"
#include "temper/base/parallel.h"
#include "temper/base/version.h"
#include "temper/config/nearest.h"

namespace temper::cli {
namespace {

constexpr const char* kOutOfMemoryAdvice = "; try a smaller batch_size or max_seq_length, or --grad-checkpoint";

int fail(ExitCode code, const std::string& message) {
  log::error(message);
  return static_cast<int>(code);
}

std::string overview(const std::vector<Verb>& verbs) {
  std::string text = "Temper fine-tunes language models.\n\nusage: temper VERB [flags]\n\nVerbs:\n";
  for (const Verb& verb : verbs) {
    text += fmt::format("  {:10}{}\n", verb.name, verb.summary);
  }
  text +=
      "\n`temper VERB --help` shows a verb's flags, their defaults and an example.\n"
      "`temper --version` prints the version.\n\n"
      "Example:\n  temper train --model models/llama --data data/ --iters 500 --test\n";
  return text;
}

const Verb& find_verb(const std::string& name, const std::vector<Verb>& verbs) {
  std::vector<std::string> names;
  for (const Verb& verb : verbs) {
    if (name == verb.name) {
      return verb;
    }
    names.emplace_back(verb.name);
  }
  const std::string meant = did_you_mean(name, names);
  throw ConfigError("unknown verb '" + name + "'" + (meant.empty() ? "; see `temper --help`" : meant));
}

int dispatch(Arguments arguments, const std::vector<Verb>& verbs) {
  if (arguments.empty()) {
    std::fputs(overview(verbs).c_str(), stderr);
    return static_cast<int>(ExitCode::config);
  }
  const std::string first = arguments.front();
  arguments.erase(arguments.begin());
  if (first == "--version" || first == "-V" || first == "version") {
    fmt::print("temper {}\n", version());
    return 0;
  }
  const bool asks_help = first == "--help" || first == "-h" || first == "help";
  if (asks_help && arguments.empty()) {
    std::fputs(overview(verbs).c_str(), stdout);
    return 0;
  }
  if (asks_help) {
    arguments.push_back("--help");
    const Verb& verb = find_verb(arguments.front(), verbs);
    arguments.erase(arguments.begin());
    return verb.run(arguments);
  }
  num_threads(); // refuses a wrong one before anything runs, on this thread
  return find_verb(first, verbs).run(arguments);
}

// MLX reports a full device as a std::runtime_error in its own words.
bool is_out_of_memory(const char* what) {
  for (const char* words : {"out of memory", "Unable to allocate", "Attempting to allocate", "Out of memory",
                            "OutOfMemory", "malloc]", "malloc_or_wait"}) {
    if (std::strstr(what, words) != nullptr) {
      return true;
    }
  }
  return false;
}

// cuDNN, which MLX's fused attention uses, refuses sizes in its own words, over several lines: rows of 128,000
// tokens with 32 heads of 128, for one.
bool is_refused_by_cudnn(const char* what) {
  return std::strstr(what, "CUDNN_STATUS") != nullptr;
}

// A result that did not reach its file (a full disk) is a failure, whatever the verb thought of it.
int flush_output(int code) {
  errno = 0;
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    const std::string reason = errno != 0 ? std::strerror(errno) : "write failed";
    return code != 0 ? code : fail(ExitCode::io, "cannot write to standard output: " + reason);
  }
  return code;
}

} // namespace

int run_subverb(const std::string& group, const std::string& summary, const Arguments& arguments,
                const std::vector<Verb>& verbs) {
  const bool asks_help = !arguments.empty() && (arguments[0] == "--help" || arguments[0] == "-h");
  if (arguments.empty() || asks_help) {
    std::string text = fmt::format("usage: temper {} VERB [flags]\n\n{}\n\n", group, summary);
    for (const Verb& verb : verbs) {
      text += fmt::format("  {:10}{}\n", verb.name, verb.summary);
    }
    text += fmt::format("\nExample:\n  temper {} {} --help\n", group, verbs.front().name);
    std::fputs(text.c_str(), asks_help ? stdout : stderr);
    return asks_help ? 0 : static_cast<int>(ExitCode::config);
  }
  const Verb& verb = find_verb(arguments[0], verbs);
  return verb.run(Arguments(arguments.begin() + 1, arguments.end()));
}

int run_program(const Arguments& arguments, const std::vector<Verb>& verbs) {
  try {
    return flush_output(dispatch(arguments, verbs));
  } catch (const Error& error) {
    return fail(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return fail(ExitCode::out_of_memory, std::string("out of memory") + kOutOfMemoryAdvice);
  } catch (const std::filesystem::filesystem_error& error) {
    return fail(ExitCode::io, error.what());
  } catch (const std::exception& error) {
    if (is_out_of_memory(error.what())) {
      return fail(ExitCode::out_of_memory, std::string(error.what()) + kOutOfMemoryAdvice);
    }
    if (is_refused_by_cudnn(error.what())) {
      const std::string said = error.what();
      return fail(ExitCode::model, "cuDNN cannot compute attention of this size (" +
                                       said.substr(0, said.find('\n')) +
                                       "); try a smaller max_seq_length, or --attention blocked");
    }
    return fail(ExitCode::internal,
                std::string("internal: ") + error.what() + "; this is a fault of Temper's, please report it");
  }
}

} // namespace temper::cli
