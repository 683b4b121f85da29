"""Chat templates of the structure that the main families have, each with what it writes, worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass

from mmrl.modalities.tokens.tokenizer import PAD, build_tokenizer


@dataclass(frozen=True)
class Family:
    """template; special: its control tokens. eos: the tokenizer's. stops: the generation config's.

    opening: what the template writes of the user's "Hi" up to the answer. end: the token that ends an answer.
    behind: what stands behind that token when the user says "Go on", up to the next answer. closing: what stands before
    `behind` where an answer was cut. target: what SFT teaches of the answer "one".
    refuses: roles or orders that the template does not take.
    """

    template: str
    special: tuple[str, ...]
    eos: str
    stops: tuple[str, ...]
    opening: str
    end: str
    behind: str
    closing: str
    target: str
    bos: str | None = None
    refuses: tuple[str, ...] = ()
    thinks: bool = False

    def tokenizer(self):
        made = build_tokenizer(special=[t for t in self.special if t not in (PAD, "<|im_start|>", "<|im_end|>")])
        made.eos_token, made.bos_token = self.eos, self.bos
        made.chat_template = self.template
        return made


CHATML = """
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

QWEN25 = """
{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou are Qwen.<|im_end|>\\n' }}{% endif %}
{%- if tools %}{{ '<|im_start|>system\\n# Tools\\n' }}{% for t in tools %}{{ t | tojson }}{% endfor
    %}{{ '<|im_end|>\\n' }}{% endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}{{ '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}
{%- else %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}
{%- for call in m.tool_calls or [] %}{{ '<tool_call>\\n' + (call.function | tojson) + '\\n</tool_call>' }}{% endfor %}
{{- '<|im_end|>\\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

# Thoughts of earlier answers are dropped; the last one has empty thoughts where it has none.
QWEN3 = """
{%- set ns = namespace(last=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}
{%- if m.role == 'assistant' %}
{%- set content = m.content.split('</think>')[-1].lstrip('\\n') %}
{%- set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\\n') if '</think>' in m.content else '' %}
{%- if loop.index0 > ns.last %}{{ '<think>\\n' + thought + '\\n</think>\\n\\n' }}{% endif %}{{ content }}
{%- else %}{{ m.content }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif
    %}{% endif %}"""

LLAMA3 = """{{- bos_token }}
{%- for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim +
    '<|eot_id|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

LLAMA2 = """
{%- for m in messages %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) 
    %}{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}
{%- if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + ' ' +
    eos_token }}{% endif %}
{%- endfor %}"""

GEMMA = """{{- bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for m in messages %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) 
    %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}
{%- set role = 'model' if m.role == 'assistant' else m.role %}
{{- '<start_of_turn>' + role + '\\n' + m.content | trim + '<end_of_turn>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

MISTRAL = """{{- bos_token }}
{%- set told = messages[1:] if messages[0].role == 'system' else messages %}
{%- for m in told %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) 
    %}{{ raise_exception('After the optional system message, roles must alternate user/assistant/...') }}{% endif %}
{%- if m.role == 'user' %}{{ '[INST]' }}{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content +
    '\\n\\n' }}{% endif %}{{ m.content + '[/INST]' }}
{%- elif m.role == 'assistant' %}{{ m.content + eos_token }}
{%- else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"""

PHI3 = """
{%- for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""

COHERE = """{{- bos_token }}
{%- for m in messages %}
{%- set role = {'user': '<|USER_TOKEN|>', 'assistant': '<|CHATBOT_TOKEN|>', 'system': '<|SYSTEM_TOKEN|>'}[m.role] %}
{{- '<|START_OF_TURN_TOKEN|>' + role + m.content | trim + '<|END_OF_TURN_TOKEN|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"""

COHERE2 = """{{- bos_token }}
{%- for m in messages %}
{%- if m.role == 'assistant' %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>' + m.content +
    '<|END_RESPONSE|><|END_OF_TURN_TOKEN|>' }}
{%- else %}{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + m.content + '<|END_OF_TURN_TOKEN|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"""

GLM4 = """{{- '[gMASK]<sop>' }}
{%- for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""

HARMONY = """{{- '<|start|>system<|message|>You are ChatGPT.<|end|>' }}
{%- for m in messages %}
{%- if m.role == 'assistant' %}{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + ('<|return|>' if
    loop.last and not add_generation_prompt else '<|end|>') }}
{%- else %}{{ '<|start|>' + ('developer' if m.role == 'system' else m.role) + '<|message|>' + m.content + '<|end|>'
    }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"""

DEEPSEEK = """{{- bos_token }}
{%- for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '<|User|>' + m.content }}
{%- elif m.role == 'assistant' %}{{ '<|Assistant|>' + m.content + '<|end_of_sentence|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|Assistant|>' }}{% endif %}"""

# R1 opens the thoughts itself, and leaves them out of earlier answers.
R1 = DEEPSEEK.replace("+ m.content + '<|end_of", "+ m.content.split('</think>')[-1] + '<|end_of").replace(
    "{{ '<|Assistant|>' }}{% endif %}", "{{ '<|Assistant|><think>\\n' }}{% endif %}"
)

COMMAND = (
    "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
    "<|SYSTEM_TOKEN|>",
)

FAMILIES = {
    "chatml": Family(
        CHATML, (), "<|im_end|>", ("<|im_end|>",),
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>",
        "\n<|im_start|>user\nGo on<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>", "one<|im_end|>",
    ),
    # A base model: neither its tokenizer nor its generation config knows the end that its template writes.
    "chatml of a base model": Family(
        CHATML, (), PAD, (PAD,),
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>",
        "\n<|im_start|>user\nGo on<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>", "one<|im_end|>",
    ),
    "qwen2.5": Family(
        QWEN25, (), "<|im_end|>", ("<|im_end|>", PAD),
        "<|im_start|>system\nYou are Qwen.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>", "\n<|im_start|>user\nGo on<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>", "one<|im_end|>",
    ),
    "qwen3": Family(
        QWEN3, (), "<|im_end|>", ("<|im_end|>", PAD),
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>",
        "\n<|im_start|>user\nGo on<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>", "one<|im_end|>", thinks=True,
    ),
    "llama-3": Family(
        LLAMA3, ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>"),
        "<|eot_id|>", ("<|end_of_text|>", "<|eot_id|>"),
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>",
        "<|start_header_id|>user<|end_header_id|>\n\nGo on<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>", "one<|eot_id|>", bos="<|begin_of_text|>",
    ),
    "llama-2": Family(
        LLAMA2, ("<s>", "</s>"), "</s>", ("</s>",), "<s>[INST] Hi [/INST]", "</s>", "<s>[INST] Go on [/INST]",
        " </s>", "one </s>", bos="<s>", refuses=("system", "alternation"),
    ),
    "gemma": Family(
        GEMMA, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<eos>", ("<eos>", "<end_of_turn>"),
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>",
        "\n<start_of_turn>user\nGo on<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>", "one<end_of_turn>",
        bos="<bos>", refuses=("system", "alternation"),
    ),
    "gemma without a generation config": Family(
        GEMMA, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<eos>", (),
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>",
        "\n<start_of_turn>user\nGo on<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>", "one<end_of_turn>",
        bos="<bos>", refuses=("system", "alternation"),
    ),
    "mistral": Family(
        MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]"), "</s>", ("</s>",), "<s>[INST]Hi[/INST]", "</s>",
        "[INST]Go on[/INST]", "</s>", "one</s>", bos="<s>", refuses=("alternation",),
    ),
    "phi-3": Family(
        PHI3, ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>"), PAD, (PAD, "<|end|>"),
        "<|user|>\nHi<|end|>\n<|assistant|>\n", "<|end|>", "\n<|user|>\nGo on<|end|>\n<|assistant|>\n", "<|end|>",
        "one<|end|>",
    ),
    "cohere": Family(
        COHERE, ("<BOS_TOKEN>", *COMMAND), "<|END_OF_TURN_TOKEN|>", ("<|END_OF_TURN_TOKEN|>",),
        "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>",
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Go on<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        "<|END_OF_TURN_TOKEN|>", "one<|END_OF_TURN_TOKEN|>", bos="<BOS_TOKEN>",
    ),
    "cohere-2": Family(
        COHERE2, ("<BOS_TOKEN>", *COMMAND, "<|START_RESPONSE|>", "<|END_RESPONSE|>"), "<|END_OF_TURN_TOKEN|>",
        ("<|END_OF_TURN_TOKEN|>",),
        "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>",
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Go on<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>", "<|START_RESPONSE|>one<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
        bos="<BOS_TOKEN>",
    ),
    # No token of its own ends a turn: the next role does, and is no second time written by others.
    "glm-4": Family(
        GLM4, ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|system|>", "<|observation|>"), PAD,
        (PAD, "<|user|>", "<|observation|>"), "[gMASK]<sop><|user|>\nHi<|assistant|>\n", "<|user|>",
        "\nGo on<|assistant|>\n", "<|user|>", "one<|user|>",
    ),
    "gpt-oss": Family(
        HARMONY, ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>"), "<|return|>",
        ("<|return|>", PAD, "<|call|>"),
        "<|start|>system<|message|>You are ChatGPT.<|end|><|start|>user<|message|>Hi<|end|><|start|>assistant",
        "<|return|>", "<|start|>user<|message|>Go on<|end|><|start|>assistant", "<|end|>",
        "<|channel|>final<|message|>one<|return|>",
    ),
    "deepseek-v3": Family(
        DEEPSEEK, ("<|begin|>", "<|User|>", "<|Assistant|>", "<|end_of_sentence|>"), "<|end_of_sentence|>",
        ("<|end_of_sentence|>",), "<|begin|><|User|>Hi<|Assistant|>", "<|end_of_sentence|>",
        "<|User|>Go on<|Assistant|>", "<|end_of_sentence|>", "one<|end_of_sentence|>", bos="<|begin|>",
    ),
    "deepseek-r1": Family(
        R1, ("<|begin|>", "<|User|>", "<|Assistant|>", "<|end_of_sentence|>"), "<|end_of_sentence|>",
        ("<|end_of_sentence|>",), "<|begin|><|User|>Hi<|Assistant|><think>\n", "<|end_of_sentence|>",
        "<|User|>Go on<|Assistant|><think>\n", "<|end_of_sentence|>", "one<|end_of_sentence|>", bos="<|begin|>",
    ),
}  # fmt: skip
