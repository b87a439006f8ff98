// temper chat: a conversation in the terminal, or with whatever writes lines to standard input.
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <optional>

#include <unistd.h>

#include "cli/args.h"
#include "cli/model_flags.h"
#include "cli/verbs.h"
#include "temper/base/error.h"
#include "temper/base/log.h"
#include "temper/infer/prompt.h"

namespace temper::cli {
namespace {

constexpr const char* kCommands =
    "/reset forgets the conversation, /system TEXT changes the system message and forgets,\n"
    "/quit or Ctrl-D ends, Ctrl-C stops an answer";

std::atomic<bool> interrupted{false};

extern "C" void stop_answer(int) {
  interrupted = true;
}

// Ctrl-C ends an answer, never the program, and wakes a read of the next line.
void catch_ctrl_c() {
  struct sigaction action {};
  action.sa_handler = stop_answer;
  sigemptyset(&action.sa_mask);
  action.sa_flags = 0;
  ::sigaction(SIGINT, &action, nullptr);
}

// The next line without its end; nullopt when there are no more. Ctrl-C gives an empty line.
std::optional<std::string> read_line() {
  std::string line;
  for (;;) {
    errno = 0;
    const int c = std::fgetc(stdin);
    if (c == '\n') {
      return line;
    }
    if (c != EOF) {
      line.push_back(static_cast<char>(c));
    } else if (errno == EINTR) {
      std::clearerr(stdin);
      if (interrupted.exchange(false)) {
        std::fputs("\n", stderr);
        return std::string();
      }
    } else {
      return line.empty() ? std::nullopt : std::optional(line);
    }
  }
}

class Chat {
 public:
  Chat(const LoadedModel& loaded, GenerationOptions options, std::string system, std::FILE* output)
      : loaded_(loaded),
        generator_(loaded.view(), loaded.tokenizer),
        options_(std::move(options)),
        system_(std::move(system)),
        output_(output) {
    options_.cancelled = [] { return interrupted.load(); };
    forget();
  }

  // Answers one line or obeys it; false: the conversation is over.
  bool take(const std::string& line) {
    if (line.empty()) {
      return true;
    }
    if (line == "/quit" || line == "/exit") {
      return false;
    }
    if (line == "/reset") {
      forget();
    } else if (line == "/system" || line.starts_with("/system ")) {
      system_ = line.size() > 8 ? line.substr(8) : std::string();
      forget();
    } else if (line.starts_with('/')) {
      log::info(kCommands);
    } else {
      answer(line);
    }
    return true;
  }

  const Json& turns() const {
    return turns_;
  }

 private:
  void forget() {
    messages_ = Json::array();
    if (!system_.empty()) {
      messages_.push_back({{"role", "system"}, {"content", system_}});
    }
  }

  void answer(const std::string& text) {
    messages_.push_back({{"role", "user"}, {"content", text}});
    GenerationResult result;
    try {
      const auto prompt = encode_messages(*loaded_.tokenizer, messages_);
      interrupted = false;
      result = generator_.generate(prompt, options_, [this](std::string_view part) {
        std::fwrite(part.data(), 1, part.size(), output_);
        std::fflush(output_);
        return true;
      });
    } catch (const DataError& error) {
      // The template refuses this message; the conversation before it still stands.
      messages_.erase(messages_.size() - 1);
      log::error(error.what());
      return;
    }
    interrupted = false;
    std::fputs("\n", output_);
    std::fflush(output_);
    messages_.push_back({{"role", "assistant"}, {"content", result.text}});
    auto turn = result_json(result);
    turn["prompt"] = text;
    turn["reused_tokens"] = result.reused_tokens;
    turns_.push_back(std::move(turn));
    log::debug(describe_speed(result));
  }

  const LoadedModel& loaded_;
  Generator generator_;
  GenerationOptions options_;
  std::string system_;
  std::FILE* output_;
  Json messages_;
  Json turns_ = Json::array();
};

} // namespace

int run_chat(const Arguments& arguments) {
  ModelFlags model;
  SamplingFlags sampling;
  std::string system;
  bool verbose = false;
  Args args("chat", std::string("A conversation with a model.\n") + kCommands + ".",
            "temper chat --model models/Llama-3.2-1B-Instruct --system \"Answer in Hawaiian.\"");
  model.add_to(args);
  args.group("Conversation");
  args.add("system", &system, "the system message").alias("system_prompt").metavar("TEXT");
  args.add("verbose", &verbose, "print the speed of each answer");
  sampling.add_to(args);
  if (!args.parse(arguments)) {
    return 0;
  }
  const auto options = sampling.options();
  validate(options);
  const auto loaded = load(model);
  if (loaded.tokenizer->chat_template() == nullptr) {
    throw ModelError(loaded.model.path.string() +
                     ": the model has no chat template, so it can't chat; use `temper generate --raw`");
  }
  if (verbose) {
    log::set_level(log::Level::debug);
  }
  catch_ctrl_c();
  const bool interactive = ::isatty(STDIN_FILENO) == 1;
  if (interactive) {
    log::info(kCommands);
  }
  Chat chat(loaded, options, system, args.json() ? stderr : stdout);
  for (;;) {
    if (interactive) {
      std::fputs("> ", stderr);
    }
    const auto line = read_line();
    if (!line || !chat.take(*line)) {
      break;
    }
  }
  if (args.json()) {
    print_json({{"turns", chat.turns()}});
  }
  return 0;
}

} // namespace temper::cli
