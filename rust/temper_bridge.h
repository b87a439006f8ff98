// The Rust library's C interface: Hugging Face tokenizers, Jinja chat templates (minijinja) and Parquet.
// Conventions: text is UTF-8 with a length, never NUL-terminated. A function that can fail returns 0 on
// success; otherwise it returns 1, sets `*error` (free it with temper_text_free) and leaves its other
// outputs alone. No panic crosses this border. A tokenizer or template may be used from several threads at
// once; only the temper_tokenizer_add_* and set_* functions need it to themselves.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct TemperTokenizer TemperTokenizer;
typedef struct TemperTemplate TemperTemplate;
typedef struct TemperParquet TemperParquet;

// Owned bytes; data may be null when size is 0.
typedef struct TemperText {
  char* data;
  size_t size;
} TemperText;
void temper_text_free(TemperText text);

// ---- tokenizer ----

// An id and the bytes [begin, end) of the text that it stands for.
typedef struct TemperToken {
  uint32_t id;
  uint32_t begin;
  uint32_t end;
} TemperToken;

// Owned tokens.
typedef struct TemperEncoding {
  TemperToken* tokens;
  size_t size;
} TemperEncoding;
void temper_encoding_free(TemperEncoding encoding);

// From the bytes of a tokenizer.json. Truncation and padding that it asks for are switched off.
int temper_tokenizer_from_json(const char* json, size_t size, TemperTokenizer** out, TemperText* error);

// From the bytes of a SentencePiece model (BPE or Unigram). `prefix_space`: 0 never, 1 before the text's
// first piece, 2 before every piece between special tokens (transformers' `legacy`), -1: 1 or 0 as the
// model itself says. The result adds no BOS or EOS until temper_tokenizer_set_bos_eos.
int temper_tokenizer_from_sentencepiece(const char* bytes, size_t size, int prefix_space,
                                        TemperTokenizer** out, TemperText* error);
void temper_tokenizer_free(TemperTokenizer* tokenizer);

// The tokenizer.json that would load as this tokenizer.
int temper_tokenizer_to_json(const TemperTokenizer* tokenizer, TemperText* out, TemperText* error);

// `json`: an array of {content, special, normalized, lstrip, rstrip, single_word}; only content is
// required. Tokens that the vocabulary lacks get the next ids, in order.
int temper_tokenizer_add_tokens(TemperTokenizer* tokenizer, const char* json, size_t size,
                                TemperText* error);
// Replaces the post-processor: `bos` before and `eos` after a text, each left out if its size is 0.
int temper_tokenizer_set_bos_eos(TemperTokenizer* tokenizer, const char* bos, size_t bos_size,
                                 const char* eos, size_t eos_size, TemperText* error);

// Offsets of tokens that the post-processor added are 0, 0. Fails for text of 4 GiB or more.
int temper_tokenizer_encode(const TemperTokenizer* tokenizer, const char* text, size_t size,
                            int add_special_tokens, TemperEncoding* out, TemperText* error);
// Ids that the vocabulary lacks are left out.
int temper_tokenizer_decode(const TemperTokenizer* tokenizer, const uint32_t* ids, size_t size,
                            int skip_special_tokens, TemperText* out, TemperText* error);

// -1 if there is no such token.
int64_t temper_tokenizer_token_to_id(const TemperTokenizer* tokenizer, const char* token, size_t size);
// Fails if there is no such id.
int temper_tokenizer_id_to_token(const TemperTokenizer* tokenizer, uint32_t id, TemperText* out,
                                 TemperText* error);
// 1 if `id` is an added token: 2 if it is also special; 0 otherwise.
int temper_tokenizer_added_kind(const TemperTokenizer* tokenizer, uint32_t id);
// The largest id + 1.
size_t temper_tokenizer_vocab_size(const TemperTokenizer* tokenizer);

// ---- chat template ----

// Templates are compiled and rendered on threads of the library's own, in at most 64 MiB plus 8 times the size of
// what they are given. One that wants more fails with this status then and ever after, and what it held stays.
#define TEMPER_TEMPLATE_TOO_LARGE 2

typedef struct TemperSpan {
  size_t begin;
  size_t end;
} TemperSpan;

// Owned text and the byte ranges of it that {% generation %} blocks wrote.
typedef struct TemperRendering {
  TemperText text;
  TemperSpan* spans;
  size_t num_spans;
} TemperRendering;
void temper_rendering_free(TemperRendering rendering);

// Compiles Jinja source with transformers' settings. An error names the line.
int temper_template_new(const char* source, size_t size, TemperTemplate** out, TemperText* error);
void temper_template_free(TemperTemplate* tmpl);
// 1 if the source has a {% generation %} block.
int temper_template_marks_generation(const TemperTemplate* tmpl);

// `context`: a JSON object of the template's variables. Its key "__now", [year, month, day, hour, minute,
// second, weekday from Sunday = 0, day of the year from 0], is what strftime_now formats.
int temper_template_render(const TemperTemplate* tmpl, const char* context, size_t size,
                           TemperRendering* out, TemperText* error);

// ---- Parquet ----

// Opens the file at `path` (snappy, gzip, zstd or plain) and checks what it says of itself. A reader is for
// one thread at a time.
int temper_parquet_open(const char* path, size_t size, TemperParquet** out, TemperText* error);
void temper_parquet_free(TemperParquet* parquet);
int64_t temper_parquet_num_rows(const TemperParquet* parquet);
// The next rows, up to about 4 MB, as JSON objects that end in a newline each, nulls written out; nothing at
// the end. After an error the reader is good for temper_parquet_free alone.
int temper_parquet_next(TemperParquet* parquet, TemperText* out, TemperText* error);

#ifdef __cplusplus
}
#endif
