"""The picture of the chain in the README, drawn from the table of stages: .github/img/flow.svg."""

from html import escape

from rlhf.stages import STAGES

WIDTH, HEIGHT = 1060, 646
BOX_WIDTH, BOX_HEIGHT = 118, 62

# where each stage's box stands: its left upper corner
PLACES = {
    "fetch": (36, 170),
    "prepare": (178, 170),
    "sft": (320, 170),
    "reward": (462, 170),
    "ppo": (604, 170),
    "evaluate": (762, 170),
    "report": (904, 170),
    "gold": (462, 268),
    "dpo": (462, 366),
    "process": (462, 464),
}

# what a stage does, in a few words
WORDS = {
    "fetch": ("base model", "and raw data"),
    "prepare": ("clean, split,", "tokenise"),
    "sft": ("fine-tune on", "dialogues"),
    "reward": ("learn what", "people prefer"),
    "ppo": ("PPO-max, or", "another method"),
    "gold": ("a second judge,", "other pairs"),
    "dpo": ("straight from", "pairs, if wanted"),
    "process": ("judge steps,", "if wanted"),
    "evaluate": ("judges compare", "the models"),
    "report": ("one page", "for all of it"),
}

# from a stage to one that reads what it wrote, and the path that is read
ARROWS = (
    ("fetch", "prepare", "data/raw"),
    ("prepare", "sft", "data/prepared/sft.parquet"),
    ("sft", "reward", "models/sft"),
    ("sft", "ppo", "models/sft"),
    ("reward", "ppo", "models/reward"),
    ("prepare", "gold", "data/prepared/preferences.parquet"),
    ("sft", "dpo", "models/sft"),
    ("dpo", "ppo", "rlhf/.code/algorithms/rto/dpo.json"),
    ("sft", "process", "models/sft"),
    ("process", "ppo", "rlhf/.code/algorithms/process/process.json"),
    ("ppo", "evaluate", "models/policy"),
    ("gold", "evaluate", "models/gold"),
    ("evaluate", "report", "data/evaluation"),
)

LABELS = {
    ("sft", "ppo"): "the policy starts as SFT",
    ("prepare", "gold"): "preference pairs",
    ("gold", "evaluate"): "the headline judge",
    ("dpo", "ppo"): "rto, dpo",
    ("process", "ppo"): "process",
}

# who owns what: the band's place (x, y, width, height), colour, name and words
BANDS = (
    (10, 14, 1040, 536, "#eaf2fb", "#2b6cb0", "DVC", "what is stale, and which bytes belong to which commit"),
    (22, 56, 1016, 482, "#fdf3e3", "#b7791f", "Prefect", "runs each stage as a flow, by hand, on a schedule, on a worker"),
    (10, 588, 1040, 44, "#e9f7ee", "#2f855a", "MLflow", "a run for each stage: settings, curves, samples, models, lineage"),
)  # fmt: skip


def flow_svg() -> str:
    """The whole picture as SVG text."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="Helvetica, Arial, sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#4a5568"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *(_band(*band) for band in BANDS),
        *(_arrow(start, end) for start, end, _ in ARROWS),
        *(_box(name) for name in STAGES),
        *(_record(x) for x in (130, 530, 930)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _band(
    x: int, y: int, width: int, height: int, fill: str, ink: str, name: str, words: str
) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="12" fill="{fill}" '
        f'stroke="{ink}"/>\n'
        f'<text x="{x + 16}" y="{y + 27}" font-size="17" fill="{ink}">'
        f'<tspan font-weight="bold">{name}</tspan> {escape(words)}</text>'
    )


def _box(name: str) -> str:
    x, y = PLACES[name]
    middle = x + BOX_WIDTH // 2
    first, second = WORDS[name]
    return (
        f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8" fill="#ffffff" '
        'stroke="#4a5568"/>\n'
        f'<text x="{middle}" y="{y + 20}" font-size="15" font-weight="bold" text-anchor="middle" '
        f'fill="#1a202c">{name}</text>\n'
        f'<text x="{middle}" y="{y + 37}" font-size="12" text-anchor="middle" fill="#4a5568">'
        f'{first}<tspan x="{middle}" dy="15">{second}</tspan></text>'
    )


def _arrow(start: str, end: str) -> str:
    """Straight between neighbours, bent where it passes over or under others."""
    (x0, y0), (x1, y1) = PLACES[start], PLACES[end]
    if start == "sft" and end == "ppo":
        # over the reward model
        x0, x1, top = x0 + BOX_WIDTH // 2, x1 + BOX_WIDTH // 2, y0 - 34
        path, label = f"M{x0},{y0} V{top} H{x1} V{y1}", (x0 + (x1 - x0) // 2, top - 8)
    elif end == "gold":
        # under SFT
        x0, level = x0 + BOX_WIDTH // 2, y1 + BOX_HEIGHT // 2
        path, label = f"M{x0},{y0 + BOX_HEIGHT} V{level} H{x1}", ((x0 + x1) // 2, level - 8)
    elif end in ("dpo", "process"):
        # under SFT, past the gold model
        x0, level = x0 + BOX_WIDTH // 2, y1 + BOX_HEIGHT // 2
        path, label = f"M{x0},{y0 + BOX_HEIGHT} V{level} H{x1}", None
    elif start in ("dpo", "process"):
        # side by side
        place = BOX_WIDTH // 2 if start == "dpo" else BOX_WIDTH * 3 // 4
        x0, level, x1 = x0 + BOX_WIDTH, y0 + BOX_HEIGHT // 2, x1 + place
        path = f"M{x0},{level} H{x1} V{y1 + BOX_HEIGHT}"
        label = ((x0 + x1) // 2, level - 8)
    elif start == "gold":
        x0, level, x1 = x0 + BOX_WIDTH, y0 + BOX_HEIGHT // 2, x1 + BOX_WIDTH // 2
        path = f"M{x0},{level} H{x1} V{y1 + BOX_HEIGHT}"
        label = ((x0 + x1) // 2, level - 8)
    else:
        level = y0 + BOX_HEIGHT // 2
        path, label = f"M{x0 + BOX_WIDTH},{level} H{x1}", None
    line = (
        f'<path d="{path}" fill="none" stroke="#4a5568" stroke-width="1.5" marker-end="url(#tip)"/>'
    )
    if label is None:
        return line
    x, y = label
    words = LABELS[start, end]
    text = (
        f'<text x="{x}" y="{y}" font-size="12" text-anchor="middle" fill="#4a5568">{words}</text>'
    )
    return f"{line}\n{text}"


def _record(x: int) -> str:
    """From the flows down to MLflow."""
    return (
        f'<path d="M{x},538 V588" stroke="#2f855a" stroke-width="1.5" stroke-dasharray="4 4" '
        'marker-end="url(#tip)"/>'
    )
