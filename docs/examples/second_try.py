"""An environment of one's own: who answers wrong is told so, and may look again."""

from mmrl.environments.base import Context, Episode, Reply
from mmrl.environments.opening import opening
from mmrl.media import View


class SecondTry:
    answers_cut = True  # a turn that max_tokens cut off is an answer, too

    def __init__(self, tries: int = 2) -> None:
        self.tries = tries

    def open(self, episode: Episode) -> Context:
        views = [View(i) for i in range(len(episode.sizes))]
        return Context(opening(episode.prompt, len(views)), views)

    def respond(self, episode: Episode) -> Reply | None:
        right = episode.prompt.record["answer"] in episode.said[-1]
        episode.info.update(tries=len(episode.said), right=float(right))
        if right or len(episode.said) >= self.tries:
            return None
        return Reply("That is wrong. Look again.")
