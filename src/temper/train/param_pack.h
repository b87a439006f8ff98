// Many small parameters as few arrays. An adapter has hundreds of factors: an update of each by itself is
// thousands of kernels of a few microseconds, an update of their concatenation a handful.
// Dims: P elements of all parameters of a pack.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
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

  // A pack's array from its parameters, and the inverse: views of it. Lazy.
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

  std::vector<Members> members_;
};

// Parameters by name that may lie in packs' arrays. The views that they are of those are made when somebody
// asks for one: hundreds of operations that a step does without. Reads as Params do.
class PackedParams {
 public:
  PackedParams() = default;
  PackedParams(Params params) : params_(std::move(params)) {
  }

  const Params& all() const;
  operator const Params&() const {
    return all();
  }
  Params::const_iterator begin() const {
    return all().begin();
  }
  Params::const_iterator end() const {
    return all().end();
  }
  const mx::array& at(const std::string& name) const {
    return all().at(name);
  }
  bool contains(const std::string& name) const {
    return all().contains(name);
  }
  std::size_t size() const {
    return all().size();
  }
  bool empty() const {
    return params_.empty() && packs_.empty();
  }

  // To change them one by one, after which no pack's array stands for any.
  Params& edit();
  void clear();

  // All parameters of a pack of `plan`, by `prefix` + name, in `array` of its join().
  void set(const std::shared_ptr<const ParamPack>& plan, std::size_t pack, const mx::array& array,
           const std::string& prefix = "");
  // What was set() of the same plan, else a join(). Lazy.
  mx::array packed(const std::shared_ptr<const ParamPack>& plan, std::size_t pack,
                   const std::string& prefix = "") const;
  // Adds `other`'s of the same names. Lazy.
  void add(const PackedParams& other);
  // All there is to evaluate: packs' arrays, where there are such.
  std::vector<mx::array> arrays() const;

 private:
  struct Packed {
    std::shared_ptr<const ParamPack> plan;
    mx::array array;
  };

  mutable Params params_;
  mutable bool has_views_ = true;                               // of packs_, in params_
  std::map<std::pair<std::string, std::size_t>, Packed> packs_; // by prefix and pack
};

} // namespace temper
