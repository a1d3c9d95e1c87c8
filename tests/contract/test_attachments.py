"""Images and files as parts of the input."""

import base64
from pathlib import Path
from typing import Any

import pytest
from talk import talking
from wire import Wire

from backtalk.testing import ScriptedModel

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PIXEL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
NOTE = b"# Leave\n\nEvery employee has 28 days of paid leave."


class Reader(ScriptedModel):
    """One that takes no files."""

    files = False


def user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "input_text", "text": "Look"}, *parts]}]


def parts_of(model: ScriptedModel) -> list[dict[str, Any]]:
    return next(item for item in reversed(model.prompts[-1].items) if item.get("role") == "user")["content"][1:]


@pytest.mark.wire("R21")
def test_an_image_goes_to_the_model_by_url_and_by_id(tmp_path: Path) -> None:
    model = ScriptedModel()
    with talking(tmp_path, model) as talk:
        file = talk.sdk.files.create(file=("pixel.png", PNG), purpose="vision")
        images = [
            {"type": "input_image", "image_url": PIXEL},
            {"type": "input_image", "file_id": file.id, "detail": "low"},
        ]
        answer = talk.post(input=user(*images)).json()
        assert "You sent 2 images." in answer["output"][0]["content"][0]["text"]
        assert [part["image_url"] for part in parts_of(model)] == [PIXEL, PIXEL]
        assert [part["detail"] for part in parts_of(model)] == ["auto", "low"]
        # what is told of the input has the image's bytes only for who asks
        plain = talk.http.get(f"/responses/{answer['id']}/input_items").json()["data"][0]
        assert [part.get("image_url") for part in plain["content"][1:]] == [None, None]
        asked = talk.http.get(
            f"/responses/{answer['id']}/input_items", params={"include": "message.input_image.image_url"}
        ).json()["data"][0]
        assert asked["content"][1]["image_url"] == PIXEL
        assert asked["content"][2]["file_id"] == file.id


@pytest.mark.wire("R21")
def test_a_file_goes_to_the_model_whole_or_as_its_text(tmp_path: Path) -> None:
    data = "data:text/markdown;base64," + base64.b64encode(NOTE).decode()
    model, reader = ScriptedModel(), Reader(id="reader")
    with talking(tmp_path, model, reader) as talk:
        file = talk.sdk.files.create(file=("leave.md", NOTE), purpose="user_data")
        files = [
            {"type": "input_file", "file_id": file.id},
            {"type": "input_file", "filename": "b.md", "file_data": data},
        ]
        answer = talk.post(input=user(*files)).json()
        assert "You sent the file leave.md." in answer["output"][0]["content"][0]["text"]
        assert [part["filename"] for part in parts_of(model)] == ["leave.md", "b.md"]
        assert all(part["file_data"] == data for part in parts_of(model))
        talk.post(model="reader", input=user(*files))
        for part, name in zip(parts_of(reader), ("leave.md", "b.md"), strict=True):
            assert part["type"] == "input_text"
            assert name in part["text"]
            assert "28 days of paid leave" in part["text"]
        # a file that goes away later fails no talk that it was part of
        talk.sdk.files.delete(file.id)
        more = talk.post(model="reader", previous_response_id=answer["id"], input="And?")
        assert more.status_code == 200
        old = next(item for item in reader.prompts[-1].items if item.get("role") == "user")
        assert "no longer available" in old["content"][1]["text"]


@pytest.mark.wire("R21", "E2")
@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"type": "input_file", "file_id": "file-none"}, "file_id"),
        ({"type": "input_image", "file_id": "file-none"}, "file_id"),
        ({"type": "input_file", "file_url": "https://example.com/a.pdf"}, "file_url"),
        ({"type": "input_file", "filename": "a.txt"}, "file_data"),
        ({"type": "input_file", "filename": "a.txt", "file_data": "not base64!"}, "file_data"),
        ({"type": "input_image"}, "image_url"),
        ({"type": "input_image", "image_url": "file:///etc/passwd"}, "image_url"),
        ({"type": "input_image", "image_url": "data:text/html;base64,AAAA"}, "image_url"),
    ],
)
def test_a_part_that_cannot_be_had_is_named(wire: Wire, part: dict[str, Any], field: str) -> None:
    reply = wire.http.post("/responses", json={"input": user(part)})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == f"input[0].content[1].{field}"


@pytest.mark.wire("R21")
def test_a_file_that_is_no_image_or_cannot_be_read_is_named(tmp_path: Path) -> None:
    with talking(tmp_path, Reader()) as talk:
        note = talk.sdk.files.create(file=("leave.md", NOTE), purpose="user_data")
        blob = talk.sdk.files.create(file=("a.bin", b"\x00\x01\x02\xff" * 50), purpose="user_data")
        for part in ({"type": "input_image", "file_id": note.id}, {"type": "input_file", "file_id": blob.id}):
            reply = talk.post(input=user(part))
            assert (reply.status_code, reply.json()["error"]["param"]) == (400, "input[0].content[1].file_id")


@pytest.mark.wire("R21")
def test_images_in_the_output_of_a_function_reach_the_model(tmp_path: Path) -> None:
    model = ScriptedModel()
    call = {"type": "function_call", "call_id": "call_1", "name": "shot", "arguments": "{}"}
    output = {
        "type": "function_call_output",
        "call_id": "call_1",
        "output": [{"type": "input_image", "image_url": PIXEL}],
    }
    with talking(tmp_path, model) as talk:
        assert talk.post(input=[*user(), call, output]).status_code == 200
    assert model.prompts[0].items[-1]["output"][0]["image_url"] == PIXEL


def png(number: int, size: int) -> bytes:
    """What passes for an image of so many bytes, no two the same."""
    return PNG + number.to_bytes(4, "big") + bytes(size - len(PNG) - 4)


@pytest.mark.wire("R21")
def test_a_file_of_five_megabytes_is_taken(tmp_path: Path) -> None:
    model = ScriptedModel()
    data = "data:application/pdf;base64," + base64.b64encode(b"%PDF-1.7\n" + bytes(5 * 2**20)).decode()
    with talking(tmp_path, model) as talk:
        reply = talk.post(input=user({"type": "input_file", "filename": "a.pdf", "file_data": data}), store=False)
        assert reply.status_code == 200, reply.text
    assert parts_of(model)[0]["file_data"] == data


@pytest.mark.wire("R21", "E2")
def test_an_image_that_is_named_often_is_loaded_once_and_all_together_have_a_limit(tmp_path: Path) -> None:
    model = ScriptedModel()
    with talking(tmp_path, model) as talk:

        def image(number: int) -> dict[str, Any]:
            file = talk.sdk.files.create(file=(f"{number}.png", png(number, 2 * 2**20)), purpose="vision")
            return {"type": "input_image", "file_id": file.id}

        images = [image(0)] * 40
        assert talk.post(input=user(*images)).status_code == 200
        urls = [part["image_url"] for part in parts_of(model)]
        assert len(urls) == 40 and all(url is urls[0] for url in urls)
        many = [image(number) for number in range(26)]
        assert talk.post(input=user(*many[:25])).status_code == 200
        reply = talk.post(input=user(*many))
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "input[0].content[26].file_id")
        assert "52,428,800" in reply.json()["error"]["message"]


@pytest.mark.wire("R21")
def test_two_files_of_the_same_bytes_keep_their_names(tmp_path: Path) -> None:
    model = ScriptedModel()
    data = base64.b64encode(NOTE).decode()
    with talking(tmp_path, model) as talk:
        talk.post(input=user(*({"type": "input_file", "filename": f"{n}.md", "file_data": data} for n in "ab")))
    assert [part["filename"] for part in parts_of(model)] == ["a.md", "b.md"]
