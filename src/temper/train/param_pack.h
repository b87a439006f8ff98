// Many small parameters as few arrays. An adapter has hundreds of factors: an update of each by itself is
// thousands of kernels of a few microseconds, an update of their concatenation a handful.
// Dims: P elements of all parameters of a pack.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "temper/nn/params.h"

namespace temper {

// Arrays that stand for parameters: one, or several laid end to end.
class ParamPack {
 public:
  // Parameters of at most kLargestPacked elements whose `kind` is the same share an array, [1, P] if all are
  // matrices; an empty kind, or more elements, keeps one by itself.
  ParamPack(const Params& params, const std::function<std::string(const std::string&, const mx::array&)>& kind);

  static constexpr std::size_t kLargestPacked = std::size_t{1} << 20;

  // A pack's array from those of `params` named `prefix` + a parameter's name. Lazy; nothing is copied where
  // they are the views that unpack() last made of one.
  mx::array pack(std::size_t pack, const Params& params, const std::string& prefix = "") const;

  // The inverse: views of `array`, put into `params` by `prefix` + name.
  void unpack(std::size_t pack, const mx::array& array, Params& params, const std::string& prefix = "");

  // Without the memory of pack() and unpack(): for traces.
  mx::array join(std::size_t pack, const std::vector<mx::array>& parts) const;
  std::vector<mx::array> split(std::size_t pack, const mx::array& array) const;

  std::size_t size() const {
    return members_.size();
  }
  // A pack's parameters, in name order; the first stands for it.
  const std::vector<std::string>& names(std::size_t pack) const {
    return members_[pack].names;
  }

  // For flags of the packs' elements, bool [number of parameters], in name order over all packs: which
  // parameters have all of theirs set. Lazy.
  mx::array all_set(const std::vector<mx::array>& flags) const;

 private:
  struct Members {
    std::vector<std::string> names;
    std::vector<mx::Shape> shapes;
    bool matrices = true;
    bool packed = false;
  };
  struct Unpacked {
    mx::array array;
    std::vector<mx::array> views;
  };

  std::vector<Members> members_;
  std::map<std::string, Unpacked> last_; // by prefix and first name
};

} // namespace temper
