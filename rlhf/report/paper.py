"""The paper's own results, shown beside ours for orientation."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperResult:
    """One bar of fig. 10; shares in [0, 1]."""

    judge: str
    kind: str
    win: float
    tie: float
    lose: float


# Fig. 10: RLHF against SFT, English, 7B models.
FIGURE_10 = (
    PaperResult("people", "helpful", 0.44, 0.26, 0.30),
    PaperResult("GPT-4", "helpful", 0.43, 0.23, 0.34),
    PaperResult("people", "harmless", 0.62, 0.33, 0.05),
    PaperResult("GPT-4", "harmless", 0.34, 0.59, 0.07),
)
