"""Bodies that have everything in them, and what may stand in each of their places."""

import random
from collections.abc import Iterator
from typing import Any

from backtalk.domain.compaction import Compaction, pack

DEEP: Any = "x"
for _ in range(40):
    DEEP = [DEEP]
NASTY: list[Any] = [None, True, -1, 2**63, 1e308, "", "a\x00b", "\ud800", "\u202e😀", "x" * 3000, [], [None], {}, {"type": 5}, DEEP]  # fmt: skip
FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
FORMAT = {"name": "x", "strict": True, "schema": {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"]}}  # fmt: skip


def bodies(ids: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Bodies that are right, by path."""
    items = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "t"}, {"type": "input_image", "image_url": "data:image/png;base64,AA=="}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "t", "annotations": [{"type": "file_citation", "file_id": "f", "index": 0}]}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "t"}]},
        {"type": "file_search_call", "queries": ["q"], "results": [{"file_id": "f", "filename": "n", "text": "t", "score": 0.5, "attributes": {}}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "t"}], "content": [{"type": "reasoning_text", "text": "t"}]},
        {"type": "mcp_call", "name": "n", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "d", "output": [{"type": "input_image", "image_url": "https://a.example/x.png"}]},
        {"type": "web_search_call", "action": {"type": "search", "query": "q", "sources": []}, "results": [{"url": "u"}]},
        {"type": "computer_call_output", "call_id": "e", "output": {"type": "computer_screenshot", "image_url": "data:image/png;base64,AA=="}},
        {"type": "code_interpreter_call", "code": "1", "outputs": [{"type": "logs", "logs": "1"}]},
        {"role": "user", "content": [{"type": "input_file", "file_id": ids["file_id"]}, {"type": "input_file", "filename": "a.txt", "file_data": "aGk="}]},
    ]  # fmt: skip
    short = {"type": "compaction", "encrypted_content": pack(Compaction("s", items[:1], users=True))}
    where = {
        "type": "and",
        "filters": [{"type": "eq", "key": "a", "value": 1}, {"type": "in", "key": "b", "value": ["x", 2]}],
    }
    search = {"type": "file_search", "vector_store_ids": [ids["store_id"]], "max_num_results": 3, "filters": where, "ranking_options": {"score_threshold": 0.1}}  # fmt: skip
    static = {"type": "static", "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 100}}
    return {
        "/v1/responses": {
            "model": "scripted", "input": [short, *items], "instructions": "i", "include": ["file_search_call.results"],
            "context_management": [{"type": "compaction", "compact_threshold": 100_000}],
            "tools": [{"type": "function", **FUNCTION}, search, {"type": "custom", "name": "g", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}}], "metadata": {"a": "b"},
            "tool_choice": {"type": "function", "name": "f"}, "text": {"format": {"type": "json_schema", **FORMAT}},
            "reasoning": {"effort": "low", "summary": "auto"}, "stream_options": {}, "stream": True,
        },
        "/v1/responses/compact": {"model": "scripted", "input": items, "instructions": "i"},
        "/v1/responses/input_tokens": {"input": items, "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}, "tools": [{"type": "function", **FUNCTION}]},
        "/v1/chat/completions": {
            "model": "scripted", "store": True, "metadata": {"a": "b"}, "stop": ["x"], "seed": 1,
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "t"}, {"type": "image_url", "image_url": {"url": "https://a.example/x.png", "detail": "low"}}, {"type": "file", "file": {"file_id": ids["file_id"]}}]},
                {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "t"}]},
                {"role": "user", "content": "x"},
            ],
            "tools": [{"type": "function", "function": FUNCTION}, {"type": "custom", "custom": {"name": "g", "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "x"}}}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "response_format": {"type": "json_schema", "json_schema": FORMAT}, "n": 2, "logprobs": True, "top_logprobs": 1,
        },
        "/v1/completions": {"prompt": ["a", "b"], "n": 2, "stop": ["x"], "logprobs": 1, "echo": True, "max_tokens": 5},
        "/v1/messages": {
            "model": "scripted", "max_tokens": 50, "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": "t"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
                    {"type": "document", "title": "d", "source": {"type": "content", "content": [{"type": "text", "text": "t"}]}},
                    {"type": "document", "source": {"type": "base64", "media_type": "text/plain", "data": "aGk="}},
                    {"type": "search_result", "source": "s", "title": "t", "content": [{"type": "text", "text": "t"}]},
                ]},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "t", "signature": "s"},
                    {"type": "redacted_thinking", "data": "d"},
                    {"type": "tool_use", "id": "c", "name": "f", "input": {"a": "b"}},
                ]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "is_error": True, "content": [{"type": "text", "text": "t"}]}]},
            ],
            "tools": [{"name": "f", "description": "d", "input_schema": FUNCTION["parameters"]}, {"type": "bash_20250124", "name": "bash"}],
            "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
            "thinking": {"type": "enabled", "budget_tokens": 1024}, "metadata": {"user_id": "u"}, "stop_sequences": ["x"],
            "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": FORMAT["schema"]}},
        },
        "/v1/conversations": {"items": items, "metadata": {"a": "b"}, "title": "t"},
        "/v1/vector_stores": {"name": "n", "metadata": {"a": "b"}, "expires_after": {"anchor": "last_active_at", "days": 1}, "chunking_strategy": static},
        f"/v1/vector_stores/{ids['store_id']}/search": {"query": ["q", "r"], "max_num_results": 3, "filters": where, "ranking_options": {"ranker": "auto", "score_threshold": 0.1, "hybrid_search": {"embedding_weight": 1, "text_weight": 1}}},
        f"/v1/vector_stores/{ids['store_id']}/files": {"file_id": ids["file_id"], "attributes": {"a": 1, "b": "x"}, "chunking_strategy": static},
        f"/v1/vector_stores/{ids['store_id']}/file_batches": {"files": [{"file_id": ids["file_id"], "attributes": {"a": 1}}]},
        f"/v1/vector_stores/{ids['store_id']}/files/{ids['file_id']}": {"attributes": {"a": 1, "b": "x"}},
        "/v1/embeddings": {"model": "backtalk/static", "input": ["a", "b"], "dimensions": 8, "encoding_format": "base64"},
        "/v1/rerank": {"model": "backtalk/static", "query": "q", "documents": ["a", {"text": "b"}], "top_n": 1, "return_documents": True},
    }  # fmt: skip


def changed(value: Any, chance: random.Random) -> Iterator[Any]:
    """The value with each of its places in turn replaced by something nasty."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        for other in (chance.choice(NASTY), *changed(child, chance)):
            copy = value.copy()
            copy[key] = other
            yield copy
