"""Tool calls and reasoning through the openai package, with models that say an exact text (parrot.py)."""
import json

from common import in_venv, main
from parrot import HERMES, LLAMA3, write_parrot
from serving import Served

in_venv()
import openai  # noqa: E402

TOOLS = [{"type": "function", "function": {
    "name": name, "description": "Tells the " + name, "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "array"}}}}}
    for name in ("weather", "time")]

WEATHER = '{"city": "Orl\u00e9ans </tool_call>", "days": [1, {"x": 2}]}'
TIME = '{"zone": "CET"}'
CALLS = ('Let me look.\n<tool_call>\n{"name": "weather", "arguments": ' + WEATHER + '}\n</tool_call>\n'
         '<tool_call>\n{"name": "time", "arguments": ' + TIME + '}\n</tool_call>')
THOUGHT = "Blue, says\nthe <b>book</b>."
QUESTION = [{"role": "user", "content": "What is the weather like?"}]


class Parrot(Served):
    @classmethod
    def write_model(cls, folder):
        write_parrot(folder / "parrot", cls.scripts, cls.template)
        return folder / "parrot"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.client = openai.OpenAI(base_url=cls.server.url + "/v1", api_key="none", max_retries=0, timeout=60)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        super().tearDownClass()

    def chat(self, script="", messages=QUESTION, thinking=False, **options):
        return self.client.chat.completions.create(model="parrot", messages=messages, max_tokens=500, extra_body={
            "chat_template_kwargs": {"script": script, "thinking": thinking}}, **options)

    def streamed(self, **options):
        """(content, reasoning, [[id, name, arguments, pieces]], finish_reason) of a streamed answer."""
        content, reasoning, calls, reason = "", "", [], None
        for chunk in self.chat(stream=True, **options):
            delta = chunk.choices[0].delta
            content += delta.content or ""
            reasoning += getattr(delta, "reasoning_content", None) or ""
            reason = chunk.choices[0].finish_reason or reason
            for call in delta.tool_calls or []:
                if call.index == len(calls):
                    self.assertEqual(call.type, "function")
                    calls.append([call.id, call.function.name, "", 0])
                else:
                    self.assertEqual((call.index, call.id, call.function.name), (len(calls) - 1, None, None))
                calls[-1][2] += call.function.arguments
                calls[-1][3] += 1
        return content, reasoning, calls, reason

    def check_calls(self, answer, expected, content):
        choice = answer.choices[0]
        self.assertEqual(choice.finish_reason, "tool_calls")
        self.assertEqual(choice.message.content, content)
        self.assertEqual([(c.type, c.function.name, c.function.arguments) for c in choice.message.tool_calls],
                         [("function", *c) for c in expected])
        ids = [c.id for c in choice.message.tool_calls]
        self.assertEqual(len(set(ids)), len(ids))
        self.assertTrue(all(ids))

    def rendered(self, **body):
        return self.server.post("/detokenize", tokens=self.server.post("/tokenize", **body)["tokens"])["prompt"]


class Hermes(Parrot):
    template = HERMES
    scripts = {"": "It is sunny, as I said. ", "1": CALLS, "2": "<think>\n" + THOUGHT + "\n</think>\n\nIt is blue.",
               ">": "\nSo it ends.\n</think>\n\nYes indeed!",
               "3": "<think>\nI call it.\n</think>\n\n<tool_call>\n{\"name\": \"go\"}\n</tool_call>",
               "4": "<tool_call>\n{name: weather}\n</tool_call> oh well"}

    def test_whole(self):
        self.check_calls(self.chat("1", tools=TOOLS), [("weather", WEATHER), ("time", TIME)], "Let me look.")

    def test_stream(self):
        content, _, calls, reason = self.streamed(script="1", tools=TOOLS)
        self.assertEqual((content, reason), ("Let me look.", "tool_calls"))
        self.assertEqual([c[1:3] for c in calls], [["weather", WEATHER], ["time", TIME]])
        self.assertEqual(len({c[0] for c in calls}), 2)
        self.assertGreater(calls[0][3], 3)  # the arguments came in pieces

    def test_stream_helper_of_the_client(self):
        options = {"model": "parrot", "messages": QUESTION, "tools": TOOLS, "max_tokens": 500,
                   "extra_body": {"chat_template_kwargs": {"script": "1"}}}
        with self.client.chat.completions.stream(**options) as stream:
            kinds = {event.type for event in stream}
            self.check_calls(stream.get_final_completion(), [("weather", WEATHER), ("time", TIME)], "Let me look.")
        self.assertLessEqual({"chunk", "content.delta", "tool_calls.function.arguments.delta",
                              "tool_calls.function.arguments.done"}, kinds)

    def test_one_call_only(self):
        answer = self.chat("1", tools=TOOLS, parallel_tool_calls=False)
        self.check_calls(answer, [("weather", WEATHER)], "Let me look.")
        calls = self.streamed(script="1", tools=TOOLS, parallel_tool_calls=False)[2]
        self.assertEqual([c[1:3] for c in calls], [["weather", WEATHER]])

    def test_without_tools_the_text_stays(self):
        for options in ({}, {"tools": TOOLS, "tool_choice": "none"}):
            choice = self.chat("1", **options).choices[0]
            self.assertEqual((choice.message.content, choice.finish_reason), (CALLS, "stop"))
            self.assertFalse(choice.message.tool_calls)

    def test_plain_answer_with_tools(self):
        choice = self.chat("", tools=TOOLS).choices[0]
        self.assertEqual((choice.message.content, choice.finish_reason), (self.scripts[""], "stop"))

    def test_malformed_call_is_content(self):
        choice = self.chat("4", tools=TOOLS).choices[0]
        self.assertEqual((choice.message.content, choice.finish_reason), (self.scripts["4"], "stop"))

    def test_prompt(self):
        """Tools, earlier calls (their arguments as an object) and results come through the template."""
        conversation = QUESTION + [
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "rain"}]
        text = self.rendered(messages=conversation, tools=TOOLS)
        self.assertIn(json.dumps(TOOLS[0]), text)
        self.assertIn('<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>', text)
        self.assertIn("<|im_start|>tool\nrain<|im_end|>", text)
        self.assertTrue(text.endswith("<|im_start|>assistant\n"))
        answer = self.chat("", conversation, tools=TOOLS)
        self.assertEqual(answer.choices[0].message.content, self.scripts[""])

    def test_reasoning(self):
        for script, thinking, reasoning, content in (("2", False, THOUGHT, "It is blue."),
                                                     ("", True, "So it ends.", "Yes indeed!")):
            message = self.chat(script, thinking=thinking).choices[0].message
            self.assertEqual((message.reasoning_content, message.content), (reasoning, content))
            self.assertEqual(self.streamed(script=script, thinking=thinking)[:2], (content, reasoning))

    def test_reasoning_is_left_out(self):
        answer = self.client.chat.completions.create(model="parrot", messages=QUESTION, max_tokens=500, extra_body={
            "chat_template_kwargs": {"script": "2"}, "include_reasoning": False})
        self.assertEqual(answer.choices[0].message.content, "It is blue.")
        self.assertFalse(getattr(answer.choices[0].message, "reasoning_content", None))

    def test_reasoning_and_call(self):
        answer = self.chat("3", tools=TOOLS)
        self.check_calls(answer, [("go", "{}")], None)
        self.assertEqual(answer.choices[0].message.reasoning_content, "I call it.")

    def test_continued_message(self):
        """The last message is gone on with, not answered; echo puts it in front."""
        conversation = QUESTION + [{"role": "assistant", "content": "Well,"}]
        more = {"continue_final_message": True, "add_generation_prompt": False}
        self.assertTrue(self.rendered(messages=conversation, **more).endswith("assistant\nWell,"))
        for echo in (False, True):
            answer = self.client.chat.completions.create(model="parrot", messages=conversation, max_tokens=500,
                                                         extra_body={**more, "echo": echo})
            self.assertEqual(answer.choices[0].message.content, "Well," * echo + self.scripts[""])

    def test_cut_off_in_a_call(self):
        answer = self.client.chat.completions.create(model="parrot", messages=QUESTION, tools=TOOLS, max_tokens=40,
                                                     extra_body={"chat_template_kwargs": {"script": "1"}})
        choice = answer.choices[0]
        self.assertEqual(choice.finish_reason, "length")
        call = choice.message.tool_calls[0].function
        self.assertEqual(call.name, "weather")
        self.assertTrue(WEATHER.startswith(call.arguments))


class Llama3(Parrot):
    template = LLAMA3
    one = '{"name": "weather", "parameters": {"city": "Paris"}}'
    scripts = {"": "Sunny, I believe. ", "1": one, "2": one + '; {"name": "time", "parameters": ' + TIME + '}',
               "3": '{"temperature": 20, "name": "none of the tools"}'}

    def test_calls(self):
        city = '{"city": "Paris"}'
        self.check_calls(self.chat("1", tools=TOOLS), [("weather", city)], None)
        self.check_calls(self.chat("2", tools=TOOLS), [("weather", city), ("time", TIME)], None)
        content, _, calls, reason = self.streamed(script="2", tools=TOOLS)
        self.assertEqual((content, reason), ("", "tool_calls"))
        self.assertEqual([c[1:3] for c in calls], [["weather", city], ["time", TIME]])

    def test_no_calls(self):
        for script in ("", "3"):
            choice = self.chat(script, tools=TOOLS).choices[0]
            self.assertEqual((choice.message.content, choice.finish_reason), (self.scripts[script], "stop"))


if __name__ == "__main__":
    main()
