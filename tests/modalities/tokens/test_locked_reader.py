"""While threads sample in the background, tokenizers are asked for one thing at a time, by whichever thread."""

from __future__ import annotations

import threading

from mmrl.modalities.load import adapter_class
from mmrl.modalities.tokens.locked import Locked
from mmrl.types import Prompt

BUILD = {"kind": "qwen2", "hidden": 16, "layers": 1, "heads": 2, "kv_heads": 1, "context": 64}


class OneAtATime:
    """A tokenizer that notes who asks while another thread is at work; the first call waits for such a one."""

    def __init__(self, tokenizer):
        self.__dict__.update(tokenizer=tokenizer, lock=threading.Lock(), inside=threading.Event())
        self.__dict__.update(overlapped=threading.Event(), waits=True)

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, *arguments, **named):
        if not self.lock.acquire(blocking=False):
            self.overlapped.set()
            self.lock.acquire()
        try:
            self.inside.set()
            if self.waits:
                self.__dict__["waits"] = False
                self.overlapped.wait(1)  # long enough for the other thread, which the lock keeps out
            return self.tokenizer(*arguments, **named)
        finally:
            self.lock.release()


def test_an_evaluation_and_the_background_take_turns():
    kind = adapter_class("text")
    engine = {"name": "vllm", "options": {"mode": "server", "options": {"url": "http://127.0.0.1:1"}}}
    adapter = kind(kind.Config(path="built", build=BUILD, chat="off", sampling={"max_tokens": 3}, engine=engine))
    apart = adapter.apart()
    watched = OneAtATime(adapter.tokenizer)
    adapter.reader.prompts.tokenizer = watched
    adapter.reader.prompts.turns.tokenizer = watched
    prompts = [Prompt(str(i), f"say {i}") for i in range(3)]
    ids = []

    def background():
        reader = apart._reader
        ids.append([reader.opened(p, reader.context(p)).row.ids.tolist() for p in prompts])

    thread = threading.Thread(target=background)
    thread.start()
    assert watched.inside.wait(30)
    groups = adapter.evaluate(prompts[:2], 1, 0)
    thread.join(60)
    assert not watched.overlapped.is_set() and len(groups) == 2
    assert ids[0] == [adapter.tokenizer(p.text).input_ids for p in prompts]


def test_what_is_locked_is_what_it_stands_for():
    class Part:
        tokenizer = None

        def words(self):
            return self.said

    class Whole:
        def __init__(self):
            self.prompts, self.number = Part(), 3

    whole = Whole()
    locked = Locked(whole)
    locked.prompts.said = "a"
    locked.number = 4
    assert whole.number == locked.number == 4 and locked.prompts.words() == whole.prompts.said == "a"
    assert locked.prompts is locked.prompts
