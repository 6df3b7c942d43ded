"""From text to `Options` and back: `key=value` arguments, the YAML file, and the errors a person can act on.

The grammar is Lightly's (Hydra's in the simple part that its docs use): dotted keys, the last one wins,
`[a,b]` for lists, inline YAML for nested values.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from lightly_pipeline.worker.errors import OptionError
from lightly_pipeline.worker.options import INCIDENTAL, OWN, UNSUPPORTED, Options

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OptionInfo:
    """One option for people: what `--help` and the documentation show."""

    key: str
    type: str
    default: str
    meaning: str
    own: bool
    remedy: str | None


def parse_arguments(arguments: Sequence[str]) -> Options:
    """Options from `key=value` arguments and the YAML file that `config=` names; OptionError otherwise."""
    given: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        key = key.lstrip("+").strip()
        if not equals or not key:
            raise OptionError(f"{argument!r} is not an option: options are written key=value, see --help.")
        _put(given, key, value)
    return make_options(given)


def make_options(given: Mapping[str, Any] | Options) -> Options:
    """Options from nested values, as YAML or Python gives them, dotted keys too. OptionError otherwise.

    Those in the file that `config` names come below the given ones; what is returned names it no more.
    """
    if isinstance(given, Options):
        if not given.config:
            return given
        given = given.model_dump(exclude_unset=True)
    nested: dict[str, Any] = {}
    for key, value in given.items():
        _put(nested, str(key), value)
    if file := nested.pop("config", None):
        nested = _merged(_read_yaml(Path(str(file))), nested)
    _refuse_unknown(nested, Options, "")
    try:
        options = Options.model_validate(_parsed(nested, Options))
    except ValidationError as error:
        raise OptionError(_sentence(error)) from None
    _refuse_unsupported(options)
    return options


def to_arguments(options: Options) -> list[str]:
    """The `key=value` arguments that differ from the defaults; `parse_arguments` undoes it."""
    import yaml

    arguments = []
    default = dict(_leaves(Options()))
    for key, value in _leaves(options):
        if value == default.get(key):
            continue
        if isinstance(value, SecretStr):
            text = value.get_secret_value()
        elif isinstance(value, BaseModel):
            text = yaml.safe_dump(
                value.model_dump(mode="json", exclude_none=True), default_flow_style=True, width=10**6
            )
        elif isinstance(value, tuple | list):
            text = "[" + ",".join(str(item) for item in value) + "]"
        else:
            text = str(value)
        arguments.append(f"{key}={text.strip()}")
    return arguments


def result_options(options: Options) -> dict[str, Any]:
    """The options that can change the result, flat and ready for JSON: what makes two runs the same run."""
    kept = {}
    incidental = {info for info, field in _fields(Options, "") if _extra(field).get(INCIDENTAL)}
    for key, value in _leaves(options):
        if key in incidental:
            continue
        kept[key] = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        if isinstance(value, tuple):
            kept[key] = list(value)
    return kept


def require_text(what: str, value: str) -> None:
    """OptionError for text that came from bytes which are no UTF-8: no list and no manifest could hold it."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise OptionError(f"{what} is {value!r}, which is not UTF-8: give another name.") from None


def require_place(what: str, value: str) -> None:
    """OptionError for text that is no folder and no S3 address: an empty one would mean the current folder."""
    require_text(what, value)
    if not value.strip():
        raise OptionError(f"{what} is empty: give a folder or an s3:// prefix (was a shell variable not set?).")
    if not Path(value).is_absolute():
        try:
            os.getcwd()
        except FileNotFoundError:
            raise OptionError(f"{what} is {value}, in a folder that was removed: go to one that exists.") from None


def describe_options() -> Iterator[OptionInfo]:
    """All options in the order of the model."""
    for key, field in _fields(Options, ""):
        unsupported = _extra(field).get(UNSUPPORTED)
        default = field.get_default(call_default_factory=True)
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        yield OptionInfo(
            key=key,
            type=_type_name(field.annotation),
            default="''" if default == "" else str(default),
            meaning=field.description or "",
            own=bool(_extra(field).get(OWN)),
            remedy=unsupported["remedy"] if unsupported else None,
        )


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a nested value; what is already there is kept where both are groups."""
    *groups, leaf = dotted.split(".")
    for depth, group in enumerate(groups):
        below = tree.setdefault(group, {})
        if not isinstance(below, dict):
            raise OptionError(f"Option {'.'.join(groups[: depth + 1])!r} is given a value and, in {dotted!r}, parts.")
        tree = below
    if isinstance(value, Mapping):
        branch = tree.setdefault(leaf, {})
        if not isinstance(branch, dict):
            tree[leaf] = branch = {}
        for key, item in value.items():
            _put(branch, str(key), item)
    else:
        tree[leaf] = value


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        both = isinstance(under, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(under, value) if both and under is not None else value
    return merged


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"config={path} cannot be read ({error.strerror}): give an existing YAML file.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"config={path} is not YAML: {' '.join(str(error).split())}.") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise OptionError(f"config={path} holds a {type(content).__name__}, not options: write `key: value` lines.")
    nested: dict[str, Any] = {}
    for key, value in content.items():
        _put(nested, str(key), value)
    if nested.get("config"):
        raise OptionError(f"config={path} names another file, config={nested['config']}: write its options into one.")
    return nested


def _refuse_unknown(given: Mapping[str, Any], model: type[BaseModel], prefix: str) -> None:
    for key, value in given.items():
        field = model.model_fields.get(key)
        if field is None:
            raise OptionError(_does_not_exist(prefix + key))
        group = _group(field)
        if group is not None:
            if not isinstance(value, Mapping):
                raise OptionError(
                    f"Option {prefix + key!r} is a group: give one of its options, like "
                    f"{prefix + key}.{next(iter(group.model_fields))}=…"
                )
            _refuse_unknown(value, group, f"{prefix}{key}.")


def _does_not_exist(key: str) -> str:
    """Lightly's own words, with the nearest name; a bare `n_samples` is the last part of a dotted one."""
    import difflib

    known = [name for name, _ in _fields(Options, "")]
    by_last_part = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    spelled = {name: name for name in known} | {name.rpartition(".")[2]: name for name in reversed(known)}
    close = difflib.get_close_matches(key, spelled, n=1, cutoff=0.5)
    close = close or difflib.get_close_matches(key.rpartition(".")[2], spelled, n=1, cutoff=0.5)
    nearest = by_last_part or [spelled[name] for name in close]
    hint = f"Did you mean '{nearest[0]}'?" if nearest else "See --help for all options."
    return f"Option '{key}' does not exist! {hint}"


def _parsed(given: Mapping[str, Any], model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Text of nested and list options as YAML; text of the others stays text for pydantic to read."""
    values: dict[str, Any] = {}
    for key, value in given.items():
        if isinstance(value, PurePath):
            value = str(value)
        if isinstance(value, str):
            require_text(f"Option '{prefix}{key}'", value)
        field = model.model_fields[key]
        group = _group(field)
        if group is not None:
            values[key] = _parsed(value, group, f"{prefix}{key}.")
        elif isinstance(value, str) and key in ("selection_config", "enable_upload_for_tasks", "lightly"):
            values[key] = _from_yaml(key, value)
        elif isinstance(value, Mapping) and key == "selection_config":
            values[key] = {
                name: _from_yaml(f"{key}.{name}", part) if isinstance(part, str) else part
                for name, part in value.items()
            }
        elif value is None and field.annotation is str:
            values[key] = ""
        elif isinstance(value, int | float) and not isinstance(value, bool) and field.annotation is str:
            values[key] = str(value)
        else:
            values[key] = value.strip() if isinstance(value, str) else value
    return values


def _from_yaml(key: str, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise OptionError(f"Option '{key}' is not YAML: {' '.join(str(error).split())}.") from None


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if not (isinstance(part, str) and "[" in part))
    # Unions add the name of the member that was tried: not part of the option's name.
    known = [name for name, _ in _fields(Options, "")]
    option = next((name for name in known if key == name or key.startswith(name + ".")), key)
    reason = str(first["msg"]).removeprefix("Value error, ").rstrip(".")
    if first["type"] == "extra_forbidden":
        reason = "there is no such key, or this worker does not support it"
    if not option:
        return f"{reason}."
    got = "" if isinstance(first["input"], BaseModel | dict) or option == "token" else f"={str(first['input'])[:200]}"
    where = f"{option}{got}" if key == option else f"{option} (at {key}{got})"
    # "Input should be …" follows a colon; METADATA stays what it is.
    return f"Option {where}: {reason[:1].lower() if reason[1:2].islower() else reason[:1]}{reason[1:]}."


def _refuse_unsupported(options: Options) -> None:
    default = dict(_leaves(Options()))
    fields = dict(_fields(Options, ""))
    for key, value in _leaves(options):
        unsupported = _extra(fields[key]).get(UNSUPPORTED)
        if unsupported is None or value == default[key]:
            continue
        if not unsupported["harmless"]:
            raise OptionError(f"Option '{key}' is not supported by the open worker: {unsupported['remedy']}.")
        log.warning("Option '%s' is accepted and ignored: %s.", key, unsupported["remedy"])


def _fields(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    """All options below a group, by dotted key."""
    for name, field in model.model_fields.items():
        group = _group(field)
        if group is not None:
            yield from _fields(group, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def _leaves(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if _group(field) is not None:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _group(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a group of options; an optional nested value (selection_config) is one option."""
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _extra(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def _type_name(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return "|".join(str(choice) for choice in get_args(annotation))
    if origin in (Union, UnionType):
        return " or ".join(_type_name(part) for part in get_args(annotation) if part is not type(None))
    if origin is tuple:
        return "[height,width]"
    if annotation is SecretStr:
        return "str"
    if annotation is not None and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    return str(getattr(annotation, "__name__", origin or annotation))
