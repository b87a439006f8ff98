// The program's verbs: `temper train`, `temper eval` ... One file a verb, one line in verbs.cpp's table.
//
// How to write one (src/cli/eval.cpp):
//
//   int run_eval(const Arguments& arguments) {
//     std::string model;
//     Args args("eval", "Loss and perplexity of a model on a data set.",
//               "temper eval --model models/llama --data data/test.jsonl --json");
//     args.add("model", &model, "folder of the model").metavar("DIR").required();
//     if (!args.parse(arguments)) {
//       return 0; // --help was printed
//     }
//     ...
//     if (args.json()) {
//       print_json(result); // the one thing on standard output
//     }
//     return 0;
//   }
//
// Errors: throw one of base/error.h's; main prints its line and exits with its code. Nothing heavy before
// parse(): help must answer at once. Progress and remarks go to standard error (base/log.h, TerminalView).
#pragma once

#include <string>
#include <vector>

namespace temper::cli {

using Arguments = std::vector<std::string>; // what follows the verb

struct Verb {
  const char* name;
  const char* summary; // one line of `temper --help`
  int (*run)(const Arguments& arguments);
};

// In the order that help shows them (verbs.cpp).
const std::vector<Verb>& verbs();

// Runs what the command line asks for and returns the exit code; never throws. Errors are one line on
// standard error. `arguments` excludes the program's name.
int run_program(const Arguments& arguments, const std::vector<Verb>& verbs);

// Runs the verb of `group` ("data check") that `arguments` begin with; without one, or with --help, lists them.
int run_subverb(const std::string& group, const std::string& summary, const Arguments& arguments,
                const std::vector<Verb>& verbs);

} // namespace temper::cli
