"""What the sections of a recipe are made of: their base class and the types of common fields."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from dsprune.registry import Registry

__all__ = ["Fraction", "Glob", "Named", "Section", "Text"]

Text = Annotated[str, Field(min_length=1)]
"""A text that is not empty."""

Glob = Text
"""A glob pattern over the names of parameters, which must match the complete name."""

Fraction = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1."""


class Section(BaseModel):
    """Base class of all sections: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


@dataclass(frozen=True)
class Named:
    """Annotation of a text field that holds a name of a registry.

    Attributes:
        registry: holds the names, for validation and for the JSON schema.
        late: leave the validation to the user of the name, where listing the names is slow.
    """

    registry: Registry
    late: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        return schema if self.late else core_schema.no_info_after_validator_function(self._check, schema)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.registry)}

    def _check(self, name: str) -> str:
        if name not in self.registry:
            raise ValueError(self.registry.problem(name))
        return name
