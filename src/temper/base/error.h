// Errors that reach a user. Each says what happened, where, and what to do about it, in one line.
// The category decides the process's exit code (docs/formats/exit-codes.md).
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace temper {

enum class ExitCode : int {
  ok = 0,
  internal = 1,
  config = 2,
  data = 3,
  model = 4,
  io = 5,
  checkpoint = 6,
  out_of_memory = 7,
  non_finite = 8,
  interrupted = 130,
  terminated = 143,
};

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& what) : std::runtime_error(what), code_(code) {
  }
  ExitCode code() const noexcept {
    return code_;
  }

 private:
  ExitCode code_;
};

// One class a category, so that callers can catch what they can act on.
template <ExitCode kCode>
class ErrorOf : public Error {
 public:
  explicit ErrorOf(const std::string& what) : Error(kCode, what) {
  }
};

using ConfigError = ErrorOf<ExitCode::config>;         // a bad key, value, flag or combination
using DataError = ErrorOf<ExitCode::data>;             // a bad row or data set; names file:line
using ModelError = ErrorOf<ExitCode::model>;           // config.json, weights or tokenizer don't fit
using IoError = ErrorOf<ExitCode::io>;                 // reading or writing failed; names the path
using CheckpointError = ErrorOf<ExitCode::checkpoint>; // a saved run can't be continued
using OutOfMemory = ErrorOf<ExitCode::out_of_memory>;
using NonFinite = ErrorOf<ExitCode::non_finite>; // loss or gradient stayed NaN or infinite

} // namespace temper
