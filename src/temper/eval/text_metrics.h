// How near answers come to their references. Scores are percentages, over the whole corpus.
// Sources: BLEU, Papineni et al. 2002, with mteval-v13a's tokens and exponential smoothing (Chen and Cherry
// 2014, method 3); chrF, Popovic 2015; chrF++, Popovic 2017. Signatures as sacrebleu 2.x writes them:
// BLEU nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp, chrF2 nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace temper {

// Each function throws ConfigError if there are not as many answers as references.

// Share of answers equal to their reference, white space at both ends aside. 0 for an empty corpus.
double exact_match(const std::vector<std::string>& answers, const std::vector<std::string>& references);

double bleu(const std::vector<std::string>& answers, const std::vector<std::string>& references);

// Character n-grams up to 6, recall weighing twice; with `word_order` 2: chrF++.
double chrf(const std::vector<std::string>& answers, const std::vector<std::string>& references,
            int word_order = 0);

// mteval-v13a's tokens. Source: sacrebleu's tokenizer_13a.py and tokenizer_re.py.
std::vector<std::string> tokenize_13a(std::string_view text);

// The metrics by name: exact, bleu, chrf, chrf++.
const std::vector<std::string>& metric_names();
// Throws ConfigError naming the choices.
double compute_metric(const std::string& name, const std::vector<std::string>& answers,
                      const std::vector<std::string>& references);

} // namespace temper
