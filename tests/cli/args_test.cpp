#include "cli/args.h"

#include <doctest/doctest.h>

#include <functional>

#include "temper/base/error.h"

using namespace temper;
using namespace temper::cli;

namespace {

struct Options {
  std::string model;
  std::vector<std::string> paths;
  int max_tokens = 100;
  double temperature = 0.7;
  bool stream = true;
  std::optional<int> top_k;
};

void fill(Args& args, Options& options) {
  args.add("model", &options.model, "folder of the model").metavar("DIR").letter('m').required();
  args.add("paths", &options.paths, "files to read").metavar("FILE").positional();
  args.add("max_tokens", &options.max_tokens, "most tokens").at_least(1);
  args.add("temperature", &options.temperature, "how freely tokens are drawn").at_least(0);
  args.add("stream", &options.stream, "print as it comes");
  args.add("top_k", &options.top_k, "draw from the likeliest K").at_least(1);
}

std::string error_of(const std::vector<std::string>& arguments) {
  Options options;
  Args args("generate", "Text from a model.", "temper generate -m models/llama");
  fill(args, options);
  try {
    args.parse(arguments);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

} // namespace

TEST_CASE("flags fill their targets, the rest keeps its default") {
  Options options;
  Args args("generate", "Text from a model.", "temper generate -m models/llama");
  fill(args, options);
  CHECK(
      args.parse({"-m", "dir", "--max-tokens=5", "--top_k", "40", "--no-stream", "a.txt", "--json", "b.txt"}));
  CHECK(options.model == "dir");
  CHECK(options.max_tokens == 5);
  CHECK(options.top_k == 40);
  CHECK_FALSE(options.stream);
  CHECK(options.temperature == 0.7);
  CHECK(options.paths == std::vector<std::string>{"a.txt", "b.txt"});
  CHECK(args.json());
  CHECK(args.given("max_tokens"));
  CHECK_FALSE(args.given("temperature"));
}

TEST_CASE("what follows -- is never a flag") {
  Options options;
  Args args("generate", "", "");
  fill(args, options);
  CHECK(args.parse({"-m", "dir", "--", "--model", "-x"}));
  CHECK(options.paths == std::vector<std::string>{"--model", "-x"});
}

TEST_CASE("bad flags are one clear line") {
  CHECK(error_of({}) == "--model is missing: folder of the model; see `temper generate --help`");
  CHECK(error_of({"--modle", "x"}) == "unknown flag --modle; did you mean --model?");
  CHECK(error_of({"-m", "x", "--max-tokens", "0"}) == "--max-tokens must be at least 1, got 0");
  CHECK(error_of({"-m", "x", "--max-tokens"}) == "--max-tokens needs a value");
  CHECK(error_of({"-m", "x", "-z"}) == "unknown flag -z; see `temper generate --help`");
}

TEST_CASE("help shows usage, every flag with its default, and the example") {
  Options options;
  Args args("generate", "Text from a model.", "temper generate -m models/llama");
  fill(args, options);
  const std::string help = args.help();
  CHECK(help.find("usage: temper generate [flags] [FILE...]") != std::string::npos);
  CHECK(help.find("-m, --model DIR") != std::string::npos);
  CHECK(help.find("(required)") != std::string::npos);
  CHECK(help.find("--max-tokens N") != std::string::npos);
  CHECK(help.find("(default: 100)") != std::string::npos);
  CHECK(help.find("--stream, --no-stream") != std::string::npos);
  CHECK(help.find("Example:\n  temper generate -m models/llama\n") != std::string::npos);
}

TEST_CASE("a flag can be taken out before the rest is parsed") {
  std::vector<std::string> arguments = {"--iters", "5", "--print_config", "--seed", "1"};
  CHECK(take_flag(arguments, "--print-config"));
  CHECK(arguments == std::vector<std::string>{"--iters", "5", "--seed", "1"});
  CHECK_FALSE(take_flag(arguments, "--print-config"));
}
