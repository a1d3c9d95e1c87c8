"""What we claim of the wire, each with an id. A test names the ids that it proves: `@pytest.mark.wire("R1", …)`.

`test_requirements.py` sees to it that every id is proved by some test, and that every test here names one.
"""

REQUIREMENTS = {
    # errors
    "E1": "Errors carry all four keys of OpenAI's envelope, and the code is a word",
    "E2": "A mistake in a body is a 400 with its exact parameter, never a 422",
    "E3": "An unknown model is a 404 model_not_found with param model",
    "E4": "An unknown URL is a 404 unknown_url; a wrong method a 405",
    "E5": "Malformed JSON, a missing content type and lone surrogates are 400s",
    "E6": "Every answer carries x-request-id",
    "E7": "Unknown fields, headers and query parameters are ignored",
    "E8": "A body over the limit is a 413",
    # responses as a WebSocket
    "W1": "Frames of the WebSocket are the stream's events, one JSON object each; no [DONE]; numbers begin anew",
    "W2": "Without stream_id turns wait for one another; with it lanes run side by side, and every event echoes it",
    "W3": "A store: false response can be gone on from on its own connection only, and a failed turn evicts it",
    "W4": "An error is a frame with status and error, and the connection stays open",
    "W5": "generate: false says nothing, and its id can be gone on from; steering is refused with its own event",
    "W6": "Host, Origin and key are checked before the handshake; frames, idle time and life have limits",
    # responses
    "R1": "A JSON response has every key that Open Responses requires, and validates strictly against the SDK's type",
    "R2": "Input is a string, or items: easy messages, messages with parts, output items sent back with or without ids",
    "R3": "previous_response_id carries input, output, calls and outputs on; instructions and tools do not carry over",
    "R4": "An unknown previous_response_id is a 400 previous_response_not_found",
    "R5": "store: false is not found afterwards, and still streams with ids",
    "R6": "A conversation gives its items and gets input and output after completion",
    "R7": "conversation with previous_response_id, background with store: false, stream_options without stream: 400",
    "R8": "A function's output without its call is a 400",
    "R9": "tool_choice none, auto, required and a named function are obeyed; parallel_tool_calls: false gives one call",
    "R10": "max_output_tokens ends the response as incomplete, its last item too",
    "R11": "text.format json_schema gives text that parses and fits the schema",
    "R12": "input_items lists the input, newest first by default, with cursors",
    "R13": "A deleted response is gone: 404 for it and for what continues it",
    "R24": "input_tokens counts a body's prompt, with what comes before it, and stores nothing",
    "R14": "Item references point at stored items",
    "R15": "file_search shows its item, searches, and cites files by file_citation annotations",
    "R16": "Search results are sent only when include asks for them",
    "R17": "A background response answers at once, can be polled to its end, and cancelled; cancelling twice is the same",
    "R18": "The context receipt tells what went into the prompt",
    "R19": "Metadata is echoed, and bounded: 16 pairs, keys of 64, values of 512 characters",
    # streams
    "S1": "Every event validates against the SDK's union; numbers start at 0 and have no gap",
    "S2": "The SDK's accumulator follows the stream and ends with what GET answers",
    "S3": "Headers and frames of an event stream: type, no cache, one frame = event and data, [DONE] last",
    "S4": "starting_after resumes at every index, byte for byte, live and finished",
    "S5": "A response is readable before response.completed leaves",
    "S6": "A model that fails midway ends the stream with response.failed; what it said is kept",
    "S7": "A model that fails before its first token fails a JSON request with a status",
    "S8": "A client that leaves a foreground stream stops the run: status incomplete, what was said is kept",
    "S9": "Function calls stream their arguments; the call is complete at the end",
    # chat completions
    "C1": "A completion validates strictly against the SDK's type",
    "C2": "Chunks: role first, one id, finish_reason last, a usage chunk when asked for, [DONE]",
    "C3": "Tool calls stream with index, id and name once; their results go back as tool messages",
    "C4": "Errors name the message that is wrong",
    "C5": "response_format json_schema, stop and max_tokens are obeyed",
    # conversations
    "V1": "Conversations are made, read, changed and deleted",
    "V2": "Items are listed with cursors both ways; SDK iteration ends",
    "V3": "An item is read and deleted; deleting answers the conversation",
    # models and embeddings
    "M1": "Models are listed and retrieved; ids may hold slashes",
    "M2": "Embeddings come as floats and as base64, equal to each other; dimensions are cut and normalised",
    # files and vector stores
    "F1": "Files are uploaded, listed, read back byte for byte, and deleted",
    "F2": "A vector store is filled by files and batches, counts them, and is searched with filters",
    "F3": "A deleted file is found no more",
    # keys
    "K1": "With a key, a request without one or with a wrong one is a 401",
    "K2": "A foreign id answers exactly as one that never was, for every resource and verb",
}
