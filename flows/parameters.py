"""The types of the flows' parameters: what Prefect's form offers, and refuses what is none of it."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rlhf.settings import preset_names
from rlhf.settings.variants import VARIANTS
from rlhf.stages import STAGES
from rlhf.studies.figures import STUDIES

# the tables are open: their names are known when they are read, not to a checker of types
if TYPE_CHECKING:
    StageName = str
    PresetName = str
    VariantName = str
    FigureName = str
else:
    StageName = Literal[tuple(STAGES)]
    PresetName = Literal[tuple(preset_names())]
    VariantName = Literal[tuple(VARIANTS)]
    FigureName = Literal[tuple(STUDIES)]

Retries = Annotated[int, Field(ge=0, le=20)]
Seconds = Annotated[int, Field(ge=0)]
Seeds = Annotated[int, Field(ge=1)]
FirstSeed = Annotated[int, Field(ge=0)]
