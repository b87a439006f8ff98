#include "temper/data/split_report.h"

#include <algorithm>
#include <bit>
#include <utility>

#include <fmt/format.h>

#include "temper/base/error.h"

namespace temper {
namespace {

Json list_json(const RowList& list) {
  Json first = Json::array();
  for (const auto& problem : list.first) {
    Json json{{"line", problem.line}, {"what", problem.what}};
    if (!problem.file.empty()) {
      json["file"] = problem.file;
    }
    first.push_back(std::move(json));
  }
  return {{"count", list.count}, {"first", std::move(first)}};
}

RowList list_from(const Json& json) {
  RowList list;
  list.count = json.at("count").get<std::int64_t>();
  for (const auto& problem : json.at("first")) {
    list.first.push_back({problem.at("line").get<std::int64_t>(), problem.at("what").get<std::string>(),
                          problem.value("file", std::string())});
  }
  return list;
}

// "train.jsonl:7, :12, :30 ..."
std::string places(const std::string& path, const RowList& list) {
  std::string text;
  std::string named;
  for (const auto& problem : list.first) {
    const auto& file = problem.file.empty() ? path : problem.file;
    text += (text.empty() ? "" : ", ") + (file == named ? "" : file) + ":" + std::to_string(problem.line);
    named = file;
  }
  return text + (list.count > static_cast<std::int64_t>(list.first.size()) ? " ..." : "");
}

} // namespace

void RowList::add(std::int64_t line, std::string what) {
  ++count;
  if (first.size() < kKept) {
    first.push_back({line, std::move(what)});
  }
}

void RowList::append(const RowList& other, const std::string& file) {
  count += other.count;
  for (const auto& problem : other.first) {
    if (first.size() < kKept) {
      first.push_back({problem.line, problem.what, file});
    }
  }
}

std::string with_commas(std::int64_t value) {
  std::string digits = std::to_string(value < 0 ? -value : value);
  for (auto at = static_cast<std::ptrdiff_t>(digits.size()) - 3; at > 0; at -= 3) {
    digits.insert(static_cast<std::size_t>(at), ",");
  }
  return value < 0 ? "-" + digits : digits;
}

void SplitReport::add_length(std::int64_t num_tokens) {
  longest = std::max(longest, num_tokens);
  const auto below = static_cast<std::uint64_t>(std::max<std::int64_t>(num_tokens, 1) - 1);
  const auto bin = static_cast<std::size_t>(std::bit_width(below));
  if (bin >= lengths.size()) {
    lengths.resize(bin + 1, 0);
  }
  ++lengths[bin];
}

Json SplitReport::to_json() const {
  return {{"split", split},
          {"path", path},
          {"format", format},
          {"format_detected", format_detected},
          {"rows", rows},
          {"examples", examples},
          {"tokens", tokens},
          {"supervised_tokens", supervised},
          {"longest", longest},
          {"lengths", lengths},
          {"max_token_id", max_token_id},
          {"never_stops", never_stops},
          {"bad", list_json(bad)},
          {"truncated", list_json(truncated)},
          {"dropped", list_json(dropped)},
          {"unsupervised", list_json(unsupervised)},
          {"from_cache", from_cache},
          {"seconds", seconds}};
}

SplitReport SplitReport::from_json(const Json& json) {
  try {
    SplitReport report;
    json.at("split").get_to(report.split);
    json.at("path").get_to(report.path);
    json.at("format").get_to(report.format);
    json.at("format_detected").get_to(report.format_detected);
    json.at("rows").get_to(report.rows);
    json.at("examples").get_to(report.examples);
    json.at("tokens").get_to(report.tokens);
    json.at("supervised_tokens").get_to(report.supervised);
    json.at("longest").get_to(report.longest);
    json.at("lengths").get_to(report.lengths);
    json.at("max_token_id").get_to(report.max_token_id);
    json.at("never_stops").get_to(report.never_stops);
    report.bad = list_from(json.at("bad"));
    report.truncated = list_from(json.at("truncated"));
    report.dropped = list_from(json.at("dropped"));
    report.unsupervised = list_from(json.at("unsupervised"));
    return report;
  } catch (const Json::exception& error) {
    throw DataError(std::string("a data report is damaged: ") + error.what());
  }
}

SplitReport join_reports(std::vector<SplitReport> reports, const std::string& path) {
  if (reports.size() == 1) {
    return std::move(reports.front());
  }
  SplitReport all;
  all.split = reports.front().split;
  all.path = path;
  all.format = reports.front().format;
  all.format_detected = reports.front().format_detected;
  all.from_cache = true;
  for (const auto& report : reports) {
    all.format = report.format == all.format ? all.format : "several formats";
    all.rows += report.rows;
    all.examples += report.examples;
    all.tokens += report.tokens;
    all.supervised += report.supervised;
    all.longest = std::max(all.longest, report.longest);
    all.max_token_id = std::max(all.max_token_id, report.max_token_id);
    all.never_stops += report.never_stops;
    all.seconds += report.seconds;
    all.from_cache = all.from_cache && report.from_cache;
    all.lengths.resize(std::max(all.lengths.size(), report.lengths.size()), 0);
    for (std::size_t bin = 0; bin < report.lengths.size(); ++bin) {
      all.lengths[bin] += report.lengths[bin];
    }
    all.bad.append(report.bad, report.path);
    all.truncated.append(report.truncated, report.path);
    all.dropped.append(report.dropped, report.path);
    all.unsupervised.append(report.unsupervised, report.path);
  }
  return all;
}

std::string SplitReport::summary() const {
  const double share = tokens > 0 ? 100.0 * static_cast<double>(supervised) / static_cast<double>(tokens) : 0;
  return fmt::format("{}: {} ({}{}), {} examples, {} tokens, {:.0f}% supervised{}", split, path, format,
                     format_detected ? ", detected" : "", with_commas(examples), with_commas(tokens), share,
                     from_cache ? "; from the token cache" : fmt::format("; tokenized in {:.1f} s", seconds));
}

std::vector<std::string> SplitReport::warnings() const {
  std::vector<std::string> lines;
  const auto add = [&](const RowList& list, const char* what) {
    if (list.count > 0) {
      lines.push_back(fmt::format("{} of {} rows {} ({})", with_commas(list.count), with_commas(rows), what,
                                  places(path, list)));
    }
  };
  add(bad, "are malformed and left out");
  add(dropped, "are left out: max_seq_length would cut off all that is to be learned");
  add(unsupervised, "are left out: nothing in them is to be learned, e.g. no assistant message");
  add(truncated, "are longer than max_seq_length and were cut");
  if (never_stops > 0 && never_stops == examples) {
    lines.push_back(split +
                    ": no example teaches a stop token, so the model will not learn to end its answers; "
                    "check the chat template's end of turn and the tokenizer's eos_token");
  }
  return lines;
}

} // namespace temper
