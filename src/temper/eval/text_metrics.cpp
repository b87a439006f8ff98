#include "temper/eval/text_metrics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <unordered_map>

#include "temper/base/error.h"
#include "temper/eval/unicode.h"

namespace temper {
namespace {

using Counts = std::unordered_map<std::string, std::int64_t>;

void check_sizes(const std::vector<std::string>& answers, const std::vector<std::string>& references) {
  if (answers.size() != references.size()) {
    throw ConfigError("metrics: " + std::to_string(answers.size()) + " answers but " +
                      std::to_string(references.size()) + " references; each answer needs one");
  }
}

// Runs of `order` items, joined by a byte that no text holds between words.
template <class Items>
Counts count_ngrams(const Items& items, std::size_t order) {
  Counts counts;
  for (std::size_t i = 0; i + order <= items.size(); ++i) {
    std::string key;
    for (std::size_t k = i; k < i + order; ++k) {
      key.append(items[k]).push_back('\0');
    }
    ++counts[key];
  }
  return counts;
}

std::int64_t total(const Counts& counts) {
  std::int64_t sum = 0;
  for (const auto& [ngram, count] : counts) {
    sum += count;
  }
  return sum;
}

std::int64_t matches(const Counts& answer, const Counts& reference) {
  std::int64_t sum = 0;
  for (const auto& [ngram, count] : answer) {
    const auto it = reference.find(ngram);
    sum += it == reference.end() ? 0 : std::min(count, it->second);
  }
  return sum;
}

// ---- mteval-v13a ----

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

bool is_dot_or_comma(char c) {
  return c == '.' || c == ',';
}

// ASCII punctuation and space, except ' , - . and the digits and letters.
bool stands_alone(char c) {
  return (c >= '{' && c <= '~') || (c >= '[' && c <= '`') || (c >= ' ' && c <= '&') || (c >= '(' && c <= '+') ||
         (c >= ':' && c <= '@') || c == '/';
}

std::string isolate_punctuation(const std::string& text) {
  std::string out;
  for (const char c : text) {
    stands_alone(c) ? out.append({' ', c, ' '}) : out.append(1, c);
  }
  return out;
}

// Each pair of neighbours (a, b) that `matches_pair` accepts is replaced by `rewrite`, left to right, pairs
// not overlapping: what re.sub does.
template <class Matches, class Rewrite>
std::string replace_pairs(const std::string& text, Matches matches_pair, Rewrite rewrite) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (i + 1 < text.size() && matches_pair(text[i], text[i + 1])) {
      out += rewrite(text[i], text[i + 1]);
      ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}

// ---- BLEU ----

constexpr std::size_t kBleuOrder = 4;

struct BleuStatistics {
  std::array<std::int64_t, kBleuOrder> correct{};
  std::array<std::int64_t, kBleuOrder> totals{};
  std::int64_t answer_length = 0;
  std::int64_t reference_length = 0;
};

void add_segment(BleuStatistics& s, const std::string& answer, const std::string& reference) {
  const auto answer_tokens = tokenize_13a(trim_end(answer));
  const auto reference_tokens = tokenize_13a(trim_end(reference));
  s.answer_length += static_cast<std::int64_t>(answer_tokens.size());
  s.reference_length += static_cast<std::int64_t>(reference_tokens.size());
  for (std::size_t order = 1; order <= kBleuOrder; ++order) {
    const auto counts = count_ngrams(answer_tokens, order);
    s.correct[order - 1] += matches(counts, count_ngrams(reference_tokens, order));
    s.totals[order - 1] += total(counts);
  }
}

double bleu_score(const BleuStatistics& s) {
  if (std::all_of(s.correct.begin(), s.correct.end(), [](auto n) { return n == 0; })) {
    return 0;
  }
  double log_sum = 0;
  double smoothing = 1;
  for (std::size_t i = 0; i < kBleuOrder; ++i) {
    if (s.totals[i] == 0) {
      return 0; // no answer is long enough for this order
    }
    auto correct = static_cast<double>(s.correct[i]);
    if (s.correct[i] == 0) {
      smoothing *= 2;
      correct = 1 / smoothing;
    }
    log_sum += std::log(100 * correct / static_cast<double>(s.totals[i]));
  }
  const double ratio = static_cast<double>(s.reference_length) / static_cast<double>(s.answer_length);
  return std::exp(std::min(0.0, 1 - ratio)) * std::exp(log_sum / kBleuOrder);
}

// ---- chrF ----

constexpr std::size_t kCharOrder = 6;
constexpr double kBetaSquared = 4; // beta 2: recall weighs twice

struct OrderStatistics {
  std::int64_t answer = 0;
  std::int64_t reference = 0;
  std::int64_t match = 0;
};

void add_counts(OrderStatistics& s, const Counts& answer, const Counts& reference) {
  s.answer += reference.empty() ? 0 : total(answer); // no hits to miss where the reference has no n-gram
  s.reference += total(reference);
  s.match += matches(answer, reference);
}

std::vector<std::string_view> characters(std::string_view text) {
  auto points = code_points(text);
  std::erase_if(points, is_space);
  return points;
}

bool is_punctuation(std::string_view point) {
  const char c = point[0];
  return point.size() == 1 && c > ' ' && c < '\x7F' && !is_digit(c) && !(c >= 'A' && c <= 'Z') &&
         !(c >= 'a' && c <= 'z');
}

// Words, with one punctuation mark split off: the last if there is one at the end, else the first.
std::vector<std::string_view> chrf_words(std::string_view text) {
  std::vector<std::string_view> words;
  for (const auto word : split_words(text)) {
    const auto points = code_points(word);
    if (points.size() > 1 && is_punctuation(points.back())) {
      words.insert(words.end(), {word.substr(0, word.size() - 1), points.back()});
    } else if (points.size() > 1 && is_punctuation(points.front())) {
      words.insert(words.end(), {points.front(), word.substr(1)});
    } else {
      words.push_back(word);
    }
  }
  return words;
}

double chrf_score(const std::vector<OrderStatistics>& statistics) {
  double precision = 0;
  double recall = 0;
  int orders = 0;
  for (const auto& s : statistics) {
    if (s.answer > 0 && s.reference > 0) {
      precision += static_cast<double>(s.match) / static_cast<double>(s.answer);
      recall += static_cast<double>(s.match) / static_cast<double>(s.reference);
      ++orders;
    }
  }
  if (orders == 0 || precision + recall == 0) {
    return 0;
  }
  precision /= orders;
  recall /= orders;
  return 100 * (1 + kBetaSquared) * precision * recall / (kBetaSquared * precision + recall);
}

} // namespace

std::vector<std::string> tokenize_13a(std::string_view text) {
  std::string line(text);
  replace_all(line, "<skipped>", "");
  replace_all(line, "-\n", "");
  replace_all(line, "\n", " ");
  replace_all(line, "&quot;", "\"");
  replace_all(line, "&amp;", "&");
  replace_all(line, "&lt;", "<");
  replace_all(line, "&gt;", ">");
  line = isolate_punctuation(" " + line + " ");
  line = replace_pairs(
      line, [](char a, char b) { return !is_digit(a) && is_dot_or_comma(b); },
      [](char a, char b) {
        return std::string{a, ' ', b, ' '};
      });
  line = replace_pairs(
      line, [](char a, char b) { return is_dot_or_comma(a) && !is_digit(b); },
      [](char a, char b) {
        return std::string{' ', a, ' ', b};
      });
  line = replace_pairs(
      line, [](char a, char b) { return is_digit(a) && b == '-'; },
      [](char a, char b) {
        return std::string{a, ' ', b, ' '};
      });
  std::vector<std::string> tokens;
  for (const auto word : split_words(line)) {
    tokens.emplace_back(word);
  }
  return tokens;
}

double exact_match(const std::vector<std::string>& answers, const std::vector<std::string>& references) {
  check_sizes(answers, references);
  std::size_t equal = 0;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    equal += trim(answers[i]) == trim(references[i]) ? 1 : 0;
  }
  return answers.empty() ? 0 : 100 * static_cast<double>(equal) / static_cast<double>(answers.size());
}

double bleu(const std::vector<std::string>& answers, const std::vector<std::string>& references) {
  check_sizes(answers, references);
  BleuStatistics statistics;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    add_segment(statistics, answers[i], references[i]);
  }
  return bleu_score(statistics);
}

double chrf(const std::vector<std::string>& answers, const std::vector<std::string>& references,
            int word_order) {
  check_sizes(answers, references);
  const auto words = static_cast<std::size_t>(std::max(0, word_order));
  std::vector<OrderStatistics> statistics(kCharOrder + words);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    for (std::size_t order = 1; order <= kCharOrder; ++order) {
      add_counts(statistics[order - 1], count_ngrams(characters(answers[i]), order),
                 count_ngrams(characters(references[i]), order));
    }
    for (std::size_t order = 1; order <= words; ++order) {
      add_counts(statistics[kCharOrder + order - 1], count_ngrams(chrf_words(answers[i]), order),
                 count_ngrams(chrf_words(references[i]), order));
    }
  }
  return chrf_score(statistics);
}

const std::vector<std::string>& metric_names() {
  static const std::vector<std::string> kNames{"exact", "bleu", "chrf", "chrf++"};
  return kNames;
}

double compute_metric(const std::string& name, const std::vector<std::string>& answers,
                      const std::vector<std::string>& references) {
  if (name == "exact") {
    return exact_match(answers, references);
  }
  if (name == "bleu") {
    return bleu(answers, references);
  }
  if (name == "chrf") {
    return chrf(answers, references);
  }
  if (name == "chrf++") {
    return chrf(answers, references, 2);
  }
  throw ConfigError("metrics: " + name + " is unknown; choose from exact, bleu, chrf, chrf++");
}

} // namespace temper
