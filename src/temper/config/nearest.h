// The likeliest intended name behind a misspelt one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace temper {

// Insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`.
// Source: optimal string alignment distance (Damerau 1964, Levenshtein 1966).
int edit_distance(std::string_view a, std::string_view b);

// The closest of `names`; empty if none is near enough to be what was meant.
std::string nearest(std::string_view name, const std::vector<std::string>& names);

// "; did you mean 'x'?", or nothing.
std::string did_you_mean(std::string_view name, const std::vector<std::string>& names);

} // namespace temper
