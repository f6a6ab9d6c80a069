"""Made-up files of auto-MBW-rt, for tests: numbers that every block has to itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optimizer.blocks import BlockWeights

SHARED = Path(__file__).parents[4] / "../shared/data"
HISTORIES = SHARED / "autombw/histories"

# Spelt out here, not taken from optimizer.blocks: this is what the files are held against.
INS = [f"IN{i:02d}" for i in range(12)]
OUTS = [f"OUT{i:02d}" for i in range(12)]
NAT = [*INS, "M00", "OUT", *OUTS, "TIME_EMBED"]
RECIPE = [*INS, "M00", *OUTS, "OUT", "TIME_EMBED"]
RUNTIME = [*INS, "M00", *OUTS, "TIME_EMBED", "OUT"]


def weights_of(shift: int = 0) -> BlockWeights:
    """Another number for each block; 27 is prime to 7, so all differ."""
    return {block: ((7 * place + shift) % 27) / 27 for place, block in enumerate(NAT)}


def history_text(rows: Sequence[tuple[BlockWeights, float]]) -> str:
    """A history as auto-MBW-rt leaves it on Windows, with a doubled carriage return."""
    header = ",".join([*map(str, range(27)), "score", "eval_times", "iter_times"])
    lines = [
        ",".join([*(str(weights[block]) for block in NAT), str(score), "50.5", "51.25"])
        for weights, score in rows
    ]
    return "".join(f"{line}\r\r\n" for line in [header, *lines])


def recipe_text(
    weights: BlockWeights,
    *,
    order: Sequence[str] = RECIPE,
    log: BlockWeights | None = None,
    score: float = 0.5625,
    head: str = "modelA=E:\\webui\\one.safetensors\nmodelB=/srv/models/two.safetensors\nmodelO=three\n",
) -> str:
    """A recipe.txt, with a log after it where `log` is given."""
    text = f"{head}position_id_fix=Keep Original\noutput_mode=Max Precision\n"
    text += ",".join(str(weights[block]) for block in order) + "\n\n"
    if log is None:
        return text
    numbered = "".join(f"      '{place}'{' ' * (place < 10)} : {log[b]}  \n" for place, b in enumerate(NAT))
    return (
        f"{text}[0] hyper_score (Bayesian Optimization):  40%| | 2/5 [46:44<68:57, best_iter=0, \n\n"
        f"Results: 'hyper_score'  \n   Best score: {score}  \n   Best parameter set:\n{numbered}"
        "   Best iteration: 0  \n \n   Random seed: 1201246259  \n \n"
        "   Evaluation time   : 50.5 sec    [99.97 %]\n   Optimization time : 0.75 sec    [0.03 %]\n"
        "   Iteration time    : 51.25 sec    [673.15 sec/iter]\n \n"
        "2023-11-08 00:40:53,644 - AutoMBWrt - INFO - merge completed.\n"
    )


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path
