"""Chat templates in the manner of well-known families, and chats to render with them."""

ALPHA = {"role": "user", "content": "What is 2 + 2?"}
BETA = {"role": "assistant", "content": "It is 4."}
GAMMA = {"role": "user", "content": " And in Hawaiian? \n"}
DELTA = {"role": "assistant", "content": "\nʻEhā. 😀 "}
SYSTEM = {"role": "system", "content": "Be brief."}

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather <now> & here",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "abcdef123", "type": "function", "function": {"name": "weather", "arguments": {"city": "Hilo", "n": 1.5}}}
    ],
}
RESULT = {"role": "tool", "tool_call_id": "abcdef123", "content": "rain"}
THOUGHTS = {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\nIt is 4."}
REASONED = {"role": "assistant", "reasoning_content": "In Hawaiian: ʻehā.", "content": "ʻEhā."}

CHATS = {
    "one": {"messages": [ALPHA, BETA]},
    "prompt": {"messages": [ALPHA], "add_generation_prompt": True},
    "two": {"messages": [ALPHA, BETA, GAMMA, DELTA]},
    "system": {"messages": [SYSTEM, ALPHA, BETA, GAMMA, DELTA]},
    "system_prompt": {"messages": [SYSTEM, ALPHA, BETA, GAMMA], "add_generation_prompt": True},
    "tools": {
        "messages": [ALPHA, CALL, RESULT, {"role": "assistant", "content": "It rains."}, GAMMA, DELTA],
        "tools": TOOLS,
    },
    "thinking": {"messages": [ALPHA, THOUGHTS, GAMMA, REASONED]},
    "not_thinking": {"messages": [ALPHA, BETA, GAMMA, DELTA], "variables": {"enable_thinking": False}},
    "not_thinking_prompt": {
        "messages": [ALPHA],
        "add_generation_prompt": True,
        "variables": {"enable_thinking": False},
    },
    "parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "What is 2 + 2?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "It is "}, {"type": "text", "text": "4."}]},
        ]
    },
}

CHATML = """\
{%- for message in messages %}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

GENERATION = """\
{%- for message in messages %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}{{ (message.content or 'call ' + message.tool_calls[0].function.name) + '<|eot_id|>' }}{% endgeneration %}
{%- else %}
{{- message.content + '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
GENERATION = GENERATION.replace("{%- generation %}", "{% generation %}")

LLAMA2 = """\
{%- if messages[0].role == 'system' %}
  {%- set lead = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' %}
  {%- set turns = messages[1:] %}
{%- else %}
  {%- set lead = '' %}
  {%- set turns = messages %}
{%- endif %}
{%- for turn in turns %}
  {%- if (turn.role == 'user') != (loop.index0 % 2 == 0) %}
    {{- raise_exception('roles must alternate user/assistant') }}
  {%- endif %}
  {%- if turn.role == 'user' %}
    {{- bos_token + '[INST] ' + (lead if loop.first else '') + turn.content.strip() + ' [/INST]' }}
  {%- else %}
    {{- ' ' + turn.content.strip() + ' ' + eos_token }}
  {%- endif %}
{%- endfor %}"""

LLAMA3 = """\
{{- bos_token }}
{%- if tools %}
  {{- '<|start_header_id|>system<|end_header_id|>\\n\\nTools:\\n' }}
  {%- for tool in tools %}{{ tool | tojson(indent=4) }}{{ '\\n\\n' }}{% endfor %}
  {{- '<|eot_id|>' }}
{%- endif %}
{%- for message in messages %}
  {%- if message.role == 'tool' %}
    {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + (message.content | tojson) + '<|eot_id|>' }}
  {%- elif message.tool_calls is defined %}
    {%- if not message.tool_calls | length == 1 %}{{ raise_exception('one tool call at a time') }}{% endif %}
    {%- set call = message.tool_calls[0].function %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
    {{- call.arguments | tojson }}
    {{- '}<|eot_id|>' }}
  {%- else %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

GEMMA = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
  {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
  {{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

# A final EOS unless a prompt is asked for: a turn in the middle is not what it was when it came last.
PHI3 = """\
{%- for message in messages %}
{{- '<|' + message.role + '|>\\n' + message.content + '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""

# System prompt and tools stand in the last question.
MISTRAL = """\
{%- set ns = namespace(system='', last=0) %}
{%- for message in messages %}
  {%- if message.role == 'system' %}{% set ns.system = message.content + '\\n\\n' %}{% endif %}
  {%- if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in messages %}
  {%- if message.role == 'system' %}{% continue %}{% endif %}
  {%- if message.role == 'user' %}
    {%- if tools and loop.index0 == ns.last %}
      {{- '[AVAILABLE_TOOLS] ' }}{{ tools | tojson }}{{ '[/AVAILABLE_TOOLS]' }}
    {%- endif %}
    {{- '[INST] ' + (ns.system if loop.index0 == ns.last else '') + message.content + '[/INST]' }}
  {%- elif message.tool_calls is defined and message.tool_calls is not none %}
    {{- '[TOOL_CALLS] [' }}
    {%- for call in message.tool_calls %}
      {{- '{"name": "' ~ call.function.name ~ '", "arguments": ' ~ call.function.arguments | tojson }}
      {{- ', "id": "' + call.id + '"}' + (']' if loop.last else ', ') }}
    {%- endfor %}
    {{- eos_token }}
  {%- elif message.role == 'assistant' %}
    {{- ' ' + message.content | trim + eos_token }}
  {%- elif message.role == 'tool' %}
    {{- '[TOOL_RESULTS] {"content": ' ~ message.content | string ~ ', "call_id": "' ~ message.tool_call_id ~ '"}' }}
    {{- '[/TOOL_RESULTS]' }}
  {%- endif %}
{%- endfor %}"""

# Thoughts stay in the turns after the last question only.
QWEN3 = """\
{%- if tools %}
  {{- '<|im_start|>system\\n# Tools\\n' }}
  {%- for tool in tools %}{{ '\\n' ~ tool | tojson }}{% endfor %}
  {{- '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=messages | length - 1) %}
{%- for message in messages[::-1] %}
  {%- set index = messages | length - 1 - loop.index0 %}
  {%- if message.role == 'user' and not ns.found %}
    {%- set ns.found = true %}
    {%- set ns.last = index %}
  {%- endif %}
{%- endfor %}
{%- for message in messages %}
  {%- set content = message.content if message.content is string else '' %}
  {%- if message.role == 'assistant' %}
    {%- set thoughts = '' %}
    {%- if message.reasoning_content is string %}
      {%- set thoughts = message.reasoning_content %}
    {%- elif '</think>' in content %}
      {%- set thoughts = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
      {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if loop.index0 > ns.last and (loop.last or thoughts) %}
      {{- '<think>\\n' + thoughts.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
    {%- else %}
      {{- content }}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}
      {{- '\\n' if (loop.first and content) or not loop.first else '' }}
      {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
      {{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}
      {{- '}\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
  {%- elif message.role == 'tool' %}
    {{- '<|im_start|>user\\n<tool_response>\\n' + content + '\\n</tool_response><|im_end|>\\n' }}
  {%- else %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<|im_start|>assistant\\n' }}
  {%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""

# A default system prompt.
SMOLLM = """\
{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|im_start|>system\\nYou are a helpful assistant<|im_end|>\\n' }}{% endif %}\
{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

# The prompt opens the thoughts; earlier ones are dropped.
REASONER = """\
{{- bos_token }}
{%- for message in messages %}
  {%- if message.role == 'assistant' %}
    {{- '<|Assistant|>' + message.content.split('</think>')[-1].lstrip() + eos_token }}
  {%- else %}
    {{- '<|User|>' + message.content | trim }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|Assistant|><think>\\n' }}{% endif %}"""

VICUNA = """\
{%- for message in messages %}
{%- if message.role == 'user' %}{{ 'USER: ' + message.content | trim + ' ' }}
{%- elif message.role == 'assistant' %}{{ 'ASSISTANT: ' + message.content | trim + eos_token }}
{%- else %}{{ message.content + ' ' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""

# Nothing but line breaks closes a turn.
ALPACA = """\
{%- for message in messages %}
{{- ('### Instruction:' if message.role == 'user' else '### Response:') + '\\n' + message.content | trim + '\\n\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"""

# Each message closes the one before it.
JOINED = """\
{%- for message in messages %}
{{- '' if loop.first else '<|eot|>' }}{{ '<|' + message.role + '|>' + message.content | trim }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|eot|><|assistant|>' }}{% endif %}"""

PARTS = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string %}{{ message.content }}
{%- else %}{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}{% endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

PLAIN = ["one", "prompt", "two"]
WITH_SYSTEM = PLAIN + ["system", "system_prompt"]
TAGS = {"bos_token": "<s>", "eos_token": "</s>"}
HEADERS = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}

TEMPLATES = {
    "chatml": {"source": CHATML, "specials": {}, "chats": WITH_SYSTEM},
    "generation": {"source": GENERATION, "specials": HEADERS, "chats": ["one", "two", "system", "tools"]},
    "llama2": {"source": LLAMA2, "specials": TAGS, "chats": WITH_SYSTEM},
    "llama3": {"source": LLAMA3, "specials": HEADERS, "chats": WITH_SYSTEM + ["tools"]},
    "gemma": {"source": GEMMA, "specials": {"bos_token": "<bos>"}, "chats": PLAIN},
    "phi3": {"source": PHI3, "specials": {"eos_token": "<|endoftext|>"}, "chats": WITH_SYSTEM},
    "mistral": {"source": MISTRAL, "specials": TAGS, "chats": WITH_SYSTEM + ["tools"]},
    "qwen3": {
        "source": QWEN3,
        "specials": {"eos_token": "<|im_end|>"},
        "chats": WITH_SYSTEM + ["tools", "thinking", "not_thinking", "not_thinking_prompt"],
    },
    "smollm": {"source": SMOLLM, "specials": {}, "chats": WITH_SYSTEM},
    "reasoner": {"source": REASONER, "specials": TAGS, "chats": PLAIN + ["thinking"]},
    "vicuna": {"source": VICUNA, "specials": TAGS, "chats": WITH_SYSTEM},
    "alpaca": {"source": ALPACA, "specials": {}, "chats": PLAIN},
    "joined": {"source": JOINED, "specials": {}, "chats": PLAIN},
    "parts": {"source": PARTS, "specials": {}, "chats": PLAIN + ["parts"]},
}

VALUES = {
    "d": {"b": [1, 2.0, True, None], "a": "é\"<&>'\n", "e": {}, "f": []},
    "s": "  Hello, World  ",
    "n": None,
    "x": 1e-7,
    "big": 12345678901234567890,
    "items": ["a", "b", "c"],
}

# Where Jinja in Python and elsewhere often differ.
EXPRESSIONS = [
    "{{ d | tojson }}",
    "{{ d | tojson(indent=2) }}",
    "{{ d | tojson(ensure_ascii=True, sort_keys=True) }}",
    "{{ d | tojson(separators=(',', ':')) }}",
    "{{ x | tojson }} {{ big | tojson }} {{ 1e22 | tojson }} {{ 0.1 | tojson }} {{ 100.0 | tojson }}",
    "{{ n }} {{ true }} {{ false }} {{ 1.0 }} {{ undefined_name }}|",
    "{{ d }}",
    "{{ items }} {{ (1, 'x') }}",
    "{{ n is iterable }} {{ items is iterable }} {{ s is iterable }} {{ d is mapping }} {{ n is none }}",
    "{{ s is string }} {{ items is sequence }} {{ n is defined }} {{ zz is defined }} {{ d is string }}",
    "{{ s.strip() }}|{{ s.lstrip() }}|{{ s.upper() }}|{{ s.strip().split(', ') }}|{{ s.startswith('  H') }}",
    "{{ s | trim | length }} {{ s[2:7] }} {{ items[-1] }} {{ items[::-1] | join('-') }}",
    "{{ 'a' ~ 1 ~ none ~ true }} {{ 'x' * 3 }} {{ 7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 3 }}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for i in items %}{% if i == 'b' %}{% break %}{% endif %}{{ loop.index }}{{ i }}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for i in items %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "{% macro m(a, b='z') %}[{{ a }}{{ b }}]{% endmacro %}{{ m('q') }}{{ m('q', b='w') }}",
    "{{ items | map('upper') | list }} {{ [3, 1, 2] | sort }} {{ items | first }} {{ items | last }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "{{ messages[0]['content'] if messages else 'none' }} {{ d.get('a', 'no') == d['a'] }} {{ d.get('q', 'no') }}",
    "{{ d.keys() | list }} {{ 'b' in d }} {{ 'Hello' in s }} {{ s.find('World') }} {{ s.replace('l', 'L') }}",
    "{{ zz | default('dflt') }} {{ n or 'other' }} {{ items | reject('equalto', 'a') | list }}",
    "{% filter upper %}abc{% endfilter %} {{ 'abc' | capitalize }} {{ 'a b' | title }} {{ '%s-%d' | format('a', 3) }}",
    "  {% if true %}\n  indented\n  {% endif %}\nafter\n",
    "{#- comment -#}\n  {{- ' x ' -}}  \n y",
    "{% set t %}captured {{ items[0] }}{% endset %}{{ t }}!",
    "{{ range(3) | list }} {{ items | length > 2 and not n }} {{ 'é' | length }} {{ 'a\\tb' }}",
    "{{ '<b>' }} {{ '<b>' | safe }} {{ d.a }}",
    "{{ [1, 2] + [3] }} {{ {'a': 1, 'b': 'c'} }} {{ dict(a=1) }}",
    "{% if items | length is odd %}odd{% endif %} {{ 3 is divisibleby(3) }} {{ 'x' is in(['x']) }}",
]
