#!/usr/bin/env python3
"""Writes test/goldens/text/chat.txt: published chat templates and what Jinja makes of them.

Each template is the configuration text that models of the family carry, without the parts for tools. Settings of
the Jinja environment are those of the transformers library. Run it from the root of the repository.

usage: chat-goldens.py [--out DIR]
"""
import argparse
import os

from jinja2.sandbox import ImmutableSandboxedEnvironment

CHATML_LOOP = r"""{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""
ALTERNATE = "Conversation roles must alternate user/assistant/user/assistant/..."
MISTRAL_HEAD = r"""{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
"""
MISTRAL_CHECK = r"""    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("After the optional system message, conversation roles must alternate user/assistant") }}
    {%- endif %}
"""
MISTRAL = MISTRAL_HEAD + r"""{%- for message in loop_messages %}
""" + MISTRAL_CHECK + r"""{%- endfor %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "USER" + system_message + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "USER" + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- ANSWER + eos_token}}
    {%- endif %}
{%- endfor %}
"""
LLAMA31 = r"""{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{#- System message #}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{{- "Cutting Knowledge Date: December 2023\n" }}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
QWEN25 = r"""{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
GEMMA3 = r"""{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
"""
DEFAULT_SYSTEM = r"""{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
SYSTEM<|im_end|>
' }}{% endif %}""" + CHATML_LOOP

TEMPLATES = {
    "chatml": "{% for message in messages %}" + CHATML_LOOP,
    "chatml-bos": "{{ bos_token }}{% for message in messages %}" + CHATML_LOOP,
    "smollm2": DEFAULT_SYSTEM.replace("SYSTEM", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    "qwen2": DEFAULT_SYSTEM.replace("SYSTEM", "You are a helpful assistant."),
    "qwen2.5": QWEN25,
    "llama2": "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = "
              "messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}"
              "{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) "
              "%}{{ raise_exception('" + ALTERNATE + "') }}{% endif %}{% if loop.index0 == 0 and system_message != false "
              r"%}{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}{% else %}"
              "{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + "
              "'[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + "
              "content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "llama3": "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
              r"'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + "
              "'<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
              r"{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
              "{% endif %}",
    "llama3.1": LLAMA31,
    "mistral-v0.2": "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 "
                    "== 0) %}{{ raise_exception('" + ALTERNATE + "') }}{% endif %}{% if message['role'] == 'user' %}"
                    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
                    "{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles "
                    "are supported!') }}{% endif %}{% endfor %}",
    "mistral-v1": MISTRAL_HEAD + r"""
{{- bos_token }}
{%- for message in loop_messages %}
""" + MISTRAL_CHECK + r"""    {%- if message["role"] == "user" %}
        {%- if loop.first and system_message is defined %}
            {{- " [INST] " + system_message + "\n\n" + message["content"] + " [/INST]" }}
        {%- else %}
            {{- " [INST] " + message["content"] + " [/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] + eos_token}}
    {%- endif %}
{%- endfor %}
""",
    "mistral-v3": MISTRAL.replace("USER", "[INST] ").replace("ANSWER", '" " + message["content"]|trim'),
    "mistral-v3-tekken": MISTRAL.replace("USER", "[INST]").replace("ANSWER", 'message["content"]'),
    "zephyr": r"""{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
    "gemma": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
             "{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
             "{{ raise_exception('" + ALTERNATE + "') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role "
             "= 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + "
             "message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}"
             "{{'<start_of_turn>model\n'}}{% endif %}",
    "gemma3": GEMMA3,
    "phi3": r"{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + "
            r"'<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
            r"{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}"
            r"{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}"
            "{% endif %}",
    "phi3-first": "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') %}{{'<|user|>' + '\n' + "
                  "message['content'] + '<|end|>' + '\n' + '<|assistant|>' + '\n'}}{% elif (message['role'] == "
                  "'assistant') %}{{message['content'] + '<|end|>' + '\n'}}{% endif %}{% endfor %}",
    "phi4": "".join("{%% %s (message['role'] == '%s') %%}{{'<|im_start|>%s<|im_sep|>' + message['content'] + "
                    "'<|im_end|>'}}" % (word, role, role)
                    for word, role in (("if", "system"), ("elif", "user"), ("elif", "assistant"))),
}
TEMPLATES["phi4"] = ("{% for message in messages %}" + TEMPLATES["phi4"] + "{% endif %}{% endfor %}{% if "
                     "add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}")

# Relatives that render otherwise: none of them may be recognised.
STRANGERS = [
    TEMPLATES["chatml"].replace("{{'<|im_start|>'", "{% if message.think %}{{'<think>'}}{% endif %}{{'<|im_start|>'"),
    TEMPLATES["qwen2"].replace("a helpful assistant", "a pirate"),
    TEMPLATES["smollm2"].replace("SmolLM", "SmolVLM"),
    TEMPLATES["llama3"].replace("{% endfor %}", "\n{% endfor %}"),
    TEMPLATES["zephyr"].replace("\n{%", "{%"),
    TEMPLATES["mistral-v3"].replace("[INST]", "[USER]"),
    TEMPLATES["mistral-v3-tekken"].replace("{{- message", '{{- " " + message'),
    TEMPLATES["gemma"].replace("'model'", "'bot'"),
    TEMPLATES["phi3"].replace("}}{% endif", "}}\n{% endif"),
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}{% endfor %}",
]

CASES = ["u", "su", "uau", "suau", "ua", "sua", "uauau", "a", "uu", "s", "usu", "sa", "uaa", "uas", "ssu"]
CONTENTS = {
    "s": ["Be brief.", " \n Answer in rhyme. \u3000\n"],
    "u": ["Hello!", "  What is 2+2?\t\n", "\u2003caf\u00e9 \u00a0\x1f ", "", " "],
    "a": ["Hi.", " \n It is <|im_end|> 4. \n", "\u0085 [/INST] yes"],
}


def refuse(message):
    raise ValueError(message)


def conversations():
    """Every order of roles, with contents taken in turn, so that all of them meet all roles."""
    turn = dict.fromkeys(CONTENTS, 0)
    for i, case in enumerate(CASES * 2):
        messages = []
        for letter in case:
            text = CONTENTS[letter][(turn[letter] + i // len(CASES)) % len(CONTENTS[letter])]
            turn[letter] += 1
            messages.append({"role": {"s": "system", "u": "user", "a": "assistant"}[letter], "content": text})
        yield messages, i % 5 != 4


def escaped(text):
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("|", "\\p")


def expected(template, messages, generation):
    """The prompt; None when the template refuses, or loses a message without a word (which precis refuses)."""
    try:
        out = template.render(messages=messages, add_generation_prompt=generation, bos_token="<s>", eos_token="</s>")
    except ValueError:
        return None
    return out if all(m["content"].strip() in out for m in messages) else None


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--out", default="test/goldens/text")
    args = args.parse_args()
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    env.globals["raise_exception"] = refuse
    with open(os.path.join(args.out, "chat.txt"), "w") as f:
        f.write("# made by tools/chat-goldens.py\n")
        for messages, generation in conversations():
            f.write("chat %d%s\n" % (generation, "".join(
                "|%s|%s" % (m["role"], escaped(m["content"])) for m in messages)))
        for name, source in TEMPLATES.items():
            f.write("template %s|%s\n" % (name, escaped(source)))
            template = env.from_string(source)
            for messages, generation in conversations():
                out = expected(template, messages, generation)
                if name.startswith("gemma") and "system" in [m["role"] for m in messages[1:]]:
                    out = None  # in an answer's place it slips through the check for alternation
                if name == "mistral-v0.2" and "system" in [m["role"] for m in messages]:
                    f.write("any\n")  # refused there, but folded into the user's turn by precis
                else:
                    f.write("error\n" if out is None else "= %s\n" % escaped(out))
        for source in STRANGERS:
            f.write("stranger %s\n" % escaped(source))


if __name__ == "__main__":
    main()
